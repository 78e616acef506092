package store_test

import (
	"context"
	"database/sql"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/pgfault"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// queryRowFunc is the method of a pool, a connection or a transaction.
type queryRowFunc func(ctx context.Context, text string, args ...any) *sql.Row

// backend returns the server's process of a session.
func backend(t *testing.T, query queryRowFunc) (pid int) {
	t.Helper()
	require.NoError(t, query(t.Context(), "select pg_backend_pid()").Scan(&pid))
	return pid
}

// stopBackend makes the server's process of a session silent until the test ends.
func stopBackend(t *testing.T, query queryRowFunc) {
	t.Helper()
	pid := backend(t, query)
	require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
	t.Cleanup(func() { assert.NoError(t, syscall.Kill(pid, syscall.SIGCONT)) })
}

// silentLimit is the limit of a call that is not answered, and silentMost how long it may take on a busy machine.
const silentLimit, silentMost = 300 * time.Millisecond, 10 * time.Second

// checkSilence runs a call of each kind against a server that has fallen silent.
func checkSilence(t *testing.T, url string) {
	type session struct {
		conn *sql.Conn
		tx   *sql.Tx
	}
	for name, call := range map[string]func(ctx context.Context, s session) error{
		"query": func(ctx context.Context, s session) error {
			rows, err := s.conn.QueryContext(ctx, "select $1::int", 1)
			if err == nil {
				err = errors.Join(rows.Err(), rows.Close())
			}
			return err
		},
		"query without arguments": func(ctx context.Context, s session) error {
			return s.conn.QueryRowContext(ctx, "select 1").Scan(new(int))
		},
		"exec": func(ctx context.Context, s session) error {
			_, err := s.conn.ExecContext(ctx, "select $1::int", 1)
			return err
		},
		"ping": func(ctx context.Context, s session) error { return s.conn.PingContext(ctx) },
		"prepare": func(ctx context.Context, s session) error {
			_, err := s.conn.PrepareContext(ctx, "select 1")
			return err
		},
		"begin": func(ctx context.Context, s session) error { _, err := s.conn.BeginTx(ctx, nil); return err },
		"query in a transaction": func(ctx context.Context, s session) error {
			return s.tx.QueryRowContext(ctx, "select 1").Scan(new(int))
		},
		"commit":   func(_ context.Context, s session) error { return s.tx.Commit() },
		"rollback": func(_ context.Context, s session) error { return s.tx.Rollback() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// Where the context has no deadline, the Store's limit counts.
			s, err := store.Open(store.Config{URL: url, MaxConns: 1, StatementTimeout: silentLimit})
			require.NoError(t, err)
			defer s.Close()
			conn, err := s.DB().Conn(t.Context())
			require.NoError(t, err)
			defer conn.Close()
			open := session{conn: conn}
			if name == "query in a transaction" || name == "commit" || name == "rollback" {
				open.tx, err = conn.BeginTx(t.Context(), nil)
				require.NoError(t, err)
				stopBackend(t, open.tx.QueryRowContext)
			} else {
				stopBackend(t, conn.QueryRowContext)
			}
			began := time.Now()
			err = call(context.WithoutCancel(t.Context()), open)
			assert.Less(t, time.Since(began), silentMost)
			lost, ok := errors.AsType[*store.LostAnswerError](err)
			require.True(t, ok, "%T: %v", err, err)
			assert.Equal(t, silentLimit, lost.Silence)
			assert.ErrorContains(t, err, "the database did not respond for 300ms")
			assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
			assert.True(t, store.IsUnavailable(err))

			// The connection is not used again: the only one of the pool is a new one.
			if open.tx != nil {
				_ = open.tx.Rollback()
			}
			_ = conn.Close()
			assert.NoError(t, s.Ping(t.Context()))
		})
	}
}

func TestConn_Silence(t *testing.T) {
	checkSilence(t, server.Database(t))
}

// A context that is cancelled ends a call of a silent server, too.
func TestConn_SilenceAndCancel(t *testing.T) {
	b := fresh(t)
	conn, err := b.DB().Conn(t.Context())
	require.NoError(t, err)
	defer conn.Close()
	stopBackend(t, conn.QueryRowContext)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	began := time.Now()
	_, err = conn.ExecContext(ctx, "select 1")
	assert.ErrorIs(t, err, context.Canceled)
	assert.Less(t, time.Since(began), silentMost)
}

// A statement that takes too long is cancelled, and the error tells that it had no effect.
func TestConn_SlowStatement(t *testing.T) {
	b := fresh(t)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := b.DB().ExecContext(ctx, "select pg_sleep(60)")
	require.Error(t, err)
	assert.Regexp(t, `^the statement was cancelled after \d+ms: `, err.Error())
	assert.True(t, store.IsTransient(err))
	assert.False(t, store.IsUnavailable(err))
}

// throughProxy is a Store behind a proxy, on a database of its own.
func throughProxy(t *testing.T, conf store.Config) (*testStore, *store.Store, *pgfault.Proxy) {
	t.Helper()
	b := fresh(t)
	proxy, url, err := pgfault.StartFor(b.url)
	require.NoError(t, err)
	conf.URL = url
	s, err := store.Open(conf)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, s.Close()); assert.NoError(t, proxy.Close()) })
	return b, s, proxy
}

func TestRepeat_GivesUp(t *testing.T) {
	b, s, proxy := throughProxy(t, store.Config{})
	s.RepeatSoon()
	injection := proxy.Add(pgfault.Rule{Fault: pgfault.LostFIN, Contains: "grant_credits"})
	_, err := s.GrantCredits(t.Context(), "user", 10, "test", "k")
	_, ok := errors.AsType[*store.LostAnswerError](err)
	require.True(t, ok, "%T: %v", err, err)
	assert.EqualError(t, err, "grant credits: the database's answer was lost: the server closed the connection; whether it took effect is unknown")
	assert.Equal(t, 4, injection.Hits())
	assert.Equal(t, 10, b.balance("user"))
	injection.Remove()
	balance, err := s.GrantCredits(t.Context(), "user", 10, "test", "k")
	require.NoError(t, err)
	assert.EqualValues(t, 10, balance)

	proxy.Add(pgfault.Rule{Fault: pgfault.Fatal, Contains: "balance"})
	_, err = s.Balance(t.Context(), "user")
	assert.EqualError(t, err, "balance: the database's answer was lost: the server ended the connection: "+
		"terminating connection due to administrator command (57P01)")
}

// Once an answer was lost, an error of the repeat does not tell that the statement had no effect.
func TestRepeat_OutcomeStaysUnknown(t *testing.T) {
	for _, then := range []pgfault.Rule{{Fault: pgfault.Error, SQLState: "55P03"}, {Fault: pgfault.Error, SQLState: "42501"}, {Fault: pgfault.Cut}} {
		t.Run(string(then.Fault)+" "+then.SQLState, func(t *testing.T) {
			b, s, proxy := throughProxy(t, store.Config{})
			s.RepeatSoon()
			proxy.Add(pgfault.Rule{Fault: pgfault.LostFIN, Contains: "grant_credits", Times: 1})
			then.Contains = "grant_credits"
			injection := proxy.Add(then)
			_, err := s.GrantCredits(t.Context(), "user", 10, "test", "k")
			_, ok := errors.AsType[*store.LostAnswerError](err)
			assert.True(t, ok, "%T: %v", err, err)
			assert.ErrorContains(t, err, "whether it took effect is unknown")
			assert.True(t, store.IsUnavailable(err))
			assert.Equal(t, 3, injection.Hits())
			assert.Equal(t, 10, b.balance("user"))
		})
	}
	t.Run("unreachable", func(t *testing.T) {
		_, s, proxy := throughProxy(t, store.Config{})
		s.RepeatSoon()
		require.NoError(t, s.Ping(t.Context()))
		proxy.Add(pgfault.Rule{Fault: pgfault.LostFIN, Contains: "grant_credits", Times: 1})
		proxy.SilenceNew(true)
		ctx, cancel := context.WithTimeout(t.Context(), silentLimit)
		defer cancel()
		_, err := s.GrantCredits(ctx, "user", 10, "test", "k")
		assert.ErrorContains(t, err, "whether it took effect is unknown")
	})
}

// The end of the context ends the repeats.
func TestRepeat_WithinContext(t *testing.T) {
	_, s, proxy := throughProxy(t, store.Config{})
	injection := proxy.Add(pgfault.Rule{Fault: pgfault.LostFIN, Contains: "grant_credits"})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := s.GrantCredits(ctx, "user", 10, "test", "k")
	_, ok := errors.AsType[*store.LostAnswerError](err)
	assert.True(t, ok, "%T: %v", err, err)
	assert.LessOrEqual(t, injection.Hits(), 2)
}

func TestTx_LostAnswers(t *testing.T) {
	b, s, proxy := throughProxy(t, store.Config{})
	begin := proxy.Add(pgfault.Rule{Fault: pgfault.LostFIN, Contains: "BEGIN", Times: 1})
	tx, err := s.DB().BeginTx(t.Context(), nil)
	require.NoError(t, err, "a transaction that was begun on a broken connection is begun on another")
	assert.Equal(t, 1, begin.Hits())
	_, err = tx.ExecContext(t.Context(), "select imagetasks.grant_credits('user', 10, 'test', 'k')")
	require.NoError(t, err)
	proxy.Add(pgfault.Rule{Fault: pgfault.LostRST, Contains: "COMMIT", Times: 1})
	err = tx.Commit()
	_, ok := errors.AsType[*store.LostAnswerError](err)
	assert.True(t, ok, "%T: %v", err, err)
	assert.Equal(t, 10, b.balance("user"))
}

func TestMigrate_LostCommit(t *testing.T) {
	direct := server.Empty(t)
	proxy, url, err := pgfault.StartFor(direct)
	require.NoError(t, err)
	defer proxy.Close()
	s, err := store.Open(store.Config{URL: url})
	require.NoError(t, err)
	defer s.Close()
	proxy.Add(pgfault.Rule{Fault: pgfault.LostFIN, Contains: "COMMIT", Times: 1})
	_, err = s.Migrate(t.Context(), store.Roles{})
	assert.ErrorContains(t, err, "whether it took effect is unknown; run it again")
	_, err = s.Migrate(t.Context(), store.Roles{})
	require.NoError(t, err)
	assert.NoError(t, s.CheckAccess(t.Context()))
}

// Statements that hang, and calls that wait for a connection, do not delay heartbeats and renewals of leases.
func TestHeartbeats_HaveConnectionsOfTheirOwn(t *testing.T) {
	b, s, proxy := throughProxy(t, store.Config{MaxConns: 1})
	b.enqueue(b.user(5), 1, 1)
	lease := b.claim(1)[0].Lease()
	injection := proxy.Add(pgfault.Rule{Fault: pgfault.LostSilence, Contains: "balance"})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 2 { // one hangs, and one waits for its connection
		wg.Go(func() { _, err := s.Balance(ctx, "user"); assert.Error(t, err) })
	}
	require.Eventually(t, func() bool { return injection.Hits() == 1 }, time.Minute, time.Millisecond)
	bounded, stop := context.WithTimeout(t.Context(), silentMost)
	defer stop()
	held, _, err := s.RenewLeases(bounded, time.Minute, []store.LeaseRenewal{{Lease: lease}})
	require.NoError(t, err)
	assert.Equal(t, []task.Lease{lease}, held)
	require.NoError(t, s.RecordHeartbeat(bounded, store.Processor{Worker: "w"}))
	require.NoError(t, s.Deregister(bounded, "w"))
	cancel()
	wg.Wait()

	// Abort ends both kinds.
	proxy.Silence(true)
	ended := make(chan error, 2)
	go func() { ended <- s.RecordHeartbeat(context.WithoutCancel(t.Context()), store.Processor{Worker: "w"}) }()
	go func() { ended <- s.Ping(context.WithoutCancel(t.Context())) }()
	time.Sleep(50 * time.Millisecond)
	s.Abort()
	assert.Error(t, <-ended)
	assert.Error(t, <-ended)
	proxy.Silence(false)
}

// After a connection was silent, the next call takes a new one, and not an idle one that the network may have dropped, too.
func TestConn_NewAfterSilence(t *testing.T) {
	_, s, proxy := throughProxy(t, store.Config{})
	var all []*sql.Conn
	var pids []int
	for range 3 {
		c, err := s.DB().Conn(t.Context())
		require.NoError(t, err)
		pids = append(pids, backend(t, c.QueryRowContext))
		all = append(all, c)
	}
	for _, c := range all {
		require.NoError(t, c.Close())
	}
	require.Contains(t, pids, backend(t, s.DB().QueryRowContext))
	proxy.Add(pgfault.Rule{Fault: pgfault.LostSilence, Contains: "balance", Times: 1})
	ctx, cancel := context.WithTimeout(t.Context(), silentLimit)
	defer cancel()
	_, err := s.Balance(ctx, "user")
	require.Error(t, err)
	assert.NotContains(t, pids, backend(t, s.DB().QueryRowContext))
}

// After the server ended all sessions, no call fails, and none is of unknown outcome.
func TestConn_ServerEndedSessions(t *testing.T) {
	b, s, _ := throughProxy(t, store.Config{MaxConns: 8})
	var all []*sql.Conn
	for range 8 {
		c, err := s.DB().Conn(t.Context())
		require.NoError(t, err)
		all = append(all, c)
	}
	for _, c := range all {
		require.NoError(t, c.Close())
	}
	b.exec(`select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()`)
	require.Eventually(t, func() bool {
		return b.number(`select count(*) from pg_stat_activity where datname = current_database()`) == 1
	}, time.Minute, time.Millisecond)
	for range 8 {
		tx, err := s.DB().BeginTx(t.Context(), nil)
		require.NoError(t, err)
		_, err = tx.ExecContext(t.Context(), "select 1")
		require.NoError(t, err)
		defer tx.Rollback() //nolint:errcheck // the end of the test
	}
}

func TestListen_LostIsCalledOnce(t *testing.T) {
	b, s, proxy := throughProxy(t, store.Config{})
	var lost atomic.Int64
	woken := make(chan struct{}, 100)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	proxy.Add(pgfault.Rule{Fault: pgfault.Fatal, Contains: "listen ", Times: 2})
	wg.Go(func() {
		s.Listen(ctx, func() { woken <- struct{}{} }, func(err error) { assert.Error(t, err); lost.Add(1) })
	})
	<-woken
	assert.EqualValues(t, 1, lost.Load(), "it failed twice")
	b.exec(`select pg_terminate_backend(pid) from pg_stat_activity where query like 'listen %'`)
	<-woken
	assert.EqualValues(t, 2, lost.Load())
}

// A connection that hangs while it is made ends with its context.
func TestConnect_Hangs(t *testing.T) {
	_, s, proxy := throughProxy(t, store.Config{})
	proxy.SilenceNew(true)
	ctx, cancel := context.WithTimeout(t.Context(), silentLimit)
	defer cancel()
	began := time.Now()
	err := s.Ping(ctx)
	assert.True(t, store.IsUnavailable(err), "%v", err)
	assert.Less(t, time.Since(began), silentMost)
	proxy.SilenceNew(false)
	assert.NoError(t, s.Ping(t.Context()))
}

func TestErrors_Classes(t *testing.T) {
	for code, want := range map[string]string{
		"08006": "unavailable", "57P01": "unavailable", "57P02": "unavailable", "57P03": "unavailable", "57P05": "unavailable", "53300": "unavailable",
		"40001": "transient", "40P01": "transient", "55P03": "transient", "53100": "transient", "53200": "transient", "57014": "transient",
		"25006": "transient", "XX000": "transient", "58030": "transient",
		"28P01": "", "28000": "", "42501": "", "42P01": "", "0A000": "", "23505": "", "3D000": "", "XX001": "",
	} {
		err := error(&pq.Error{Code: pqerror.Code(code)})
		assert.Equal(t, want == "unavailable", store.IsUnavailable(err), code)
		assert.Equal(t, want == "transient", store.IsTransient(err), code)
	}
	lost := &store.LostAnswerError{Err: &net.OpError{Err: syscall.ECONNRESET}}
	assert.True(t, store.IsUnavailable(lost))
	assert.False(t, store.IsTransient(lost))
	assert.True(t, store.IsUnavailable(context.DeadlineExceeded))
	assert.False(t, store.IsUnavailable(context.Canceled))
}

// A primary that became a standby is not used any more, although its connections live.
func TestConn_ReadOnlyServer(t *testing.T) {
	b := fresh(t)
	s, err := store.Open(store.Config{URL: b.url, MaxConns: 1})
	require.NoError(t, err)
	defer s.Close()
	before := backend(t, s.DB().QueryRowContext)
	_, err = s.DB().ExecContext(t.Context(), "set default_transaction_read_only = on")
	require.NoError(t, err)
	_, err = s.GrantCredits(t.Context(), "user", 10, "test", uuid.NewString())
	assert.True(t, store.IsTransient(err), "%v", err)
	_, err = s.GrantCredits(t.Context(), "user", 10, "test", uuid.NewString())
	require.NoError(t, err)
	assert.NotEqual(t, before, backend(t, s.DB().QueryRowContext))
}
