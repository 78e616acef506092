package pgfault_test

import (
	"context"
	"database/sql"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/lib/pq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/pgfault"
	"imagetasks/internal/pgtest"
)

var server *pgtest.Server

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m, &server, nil)) }

// fixture is a database behind a proxy, one connection through it and one beside it.
type fixture struct {
	*pgfault.Proxy
	t      *testing.T
	url    string // through the proxy
	direct *sql.DB
	conn   *sql.Conn
}

func newFixture(t *testing.T, options string) *fixture {
	t.Helper()
	direct := server.Empty(t)
	p, through, err := pgfault.StartFor(direct)
	require.NoError(t, err)
	t.Cleanup(func() { _ = p.Close() }) // a second time is harmless
	f := &fixture{Proxy: p, t: t, url: through + options, direct: openDB(t, direct)}
	_, err = f.direct.ExecContext(t.Context(), "create table t (n int)")
	require.NoError(t, err)
	f.conn, err = openDB(t, f.url).Conn(t.Context())
	require.NoError(t, err)
	require.NoError(t, f.conn.PingContext(t.Context()))
	return f
}

func openDB(t *testing.T, url string) *sql.DB {
	t.Helper()
	db, err := sql.Open("postgres", url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func (f *fixture) rows() (n int) {
	f.t.Helper()
	require.NoError(f.t, f.direct.QueryRowContext(f.t.Context(), "select count(*) from t").Scan(&n))
	return n
}

func (f *fixture) insert(ctx context.Context) error {
	_, err := f.conn.ExecContext(ctx, "insert into t values ($1)", 1)
	return err
}

// With binary_parameters lib/pq sends a statement at once, and without it the statement is prepared first.
var protocols = map[string]string{"one Sync": "&binary_parameters=yes", "prepared first": "&binary_parameters=no"}

func TestFault_Statement(t *testing.T) {
	for protocol, options := range protocols {
		for fault, executed := range map[pgfault.Fault]int{pgfault.LostFIN: 1, pgfault.LostRST: 1, pgfault.Fatal: 1, pgfault.Cut: 0} {
			t.Run(protocol+"/"+string(fault), func(t *testing.T) {
				f := newFixture(t, options)
				injection := f.Add(pgfault.Rule{Fault: fault, Contains: "insert into t", Skip: 1, Times: 1})
				require.NoError(t, f.insert(t.Context()), "skipped")
				assert.Error(t, f.insert(t.Context()))
				assert.Equal(t, 1+executed, f.rows())
				assert.Equal(t, 1, injection.Hits())
				assert.Equal(t, map[pgfault.Fault]int{fault: 1}, f.Counts().Faults)
				assert.NoError(t, openDB(t, f.url).PingContext(t.Context()), "other connections work")
			})
		}
	}
}

// What the client's own connection meets, without a driver between.
func TestFault_Connection(t *testing.T) {
	for fault, want := range map[pgfault.Fault]error{pgfault.LostFIN: io.EOF, pgfault.LostRST: syscall.ECONNRESET, pgfault.LostSilence: os.ErrDeadlineExceeded,
		pgfault.Cut: io.EOF} {
		t.Run(string(fault), func(t *testing.T) {
			f := newFixture(t, "")
			f.Add(pgfault.Rule{Fault: fault, Contains: "select 42"})
			c := &recordingConn{}
			connector, err := pq.NewConnector(f.url)
			require.NoError(t, err)
			connector.Dialer(c)
			db := sql.OpenDB(connector)
			defer db.Close()
			ctx := t.Context()
			require.NoError(t, db.PingContext(ctx))
			if fault == pgfault.LostSilence {
				require.NoError(t, c.SetDeadline(time.Now().Add(300*time.Millisecond)))
			}
			conn, err := db.Conn(ctx)
			require.NoError(t, err)
			_, err = conn.ExecContext(ctx, "select 42")
			require.Error(t, err)
			assert.ErrorIs(t, c.err, want)
			_ = conn.Close()
		})
	}
}

// recordingConn dials, is the connection, and keeps its error.
type recordingConn struct {
	net.Conn
	err error
}

func (c *recordingConn) Dial(network, address string) (_ net.Conn, err error) {
	c.Conn, err = net.Dial(network, address)
	return c, err
}

func (c *recordingConn) DialTimeout(network, address string, _ time.Duration) (net.Conn, error) {
	return c.Dial(network, address)
}

func (c *recordingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil && c.err == nil {
		c.err = err
	}
	return n, err
}

func TestFault_Error(t *testing.T) {
	for protocol, options := range protocols {
		t.Run(protocol, func(t *testing.T) {
			f := newFixture(t, options)
			f.Add(pgfault.Rule{Fault: pgfault.Error, SQLState: "55P03", Match: func(sql string) bool { return sql == "insert into t values ($1)" }, Times: 2})
			ctx := t.Context()
			var pqErr *pq.Error
			require.ErrorAs(t, f.insert(ctx), &pqErr)
			assert.EqualValues(t, "55P03", pqErr.Code)
			assert.Zero(t, f.rows())

			// In a transaction the rest fails as with a real error.
			tx, err := f.conn.BeginTx(ctx, nil)
			require.NoError(t, err)
			_, err = tx.ExecContext(ctx, "insert into t values (2)")
			require.NoError(t, err)
			_, err = tx.ExecContext(ctx, "insert into t values ($1)", 1)
			require.ErrorAs(t, err, &pqErr)
			assert.EqualValues(t, "55P03", pqErr.Code)
			_, err = tx.ExecContext(ctx, "select 1")
			require.ErrorAs(t, err, &pqErr)
			assert.EqualValues(t, "25P02", pqErr.Code)
			require.NoError(t, tx.Rollback())
			assert.Zero(t, f.rows())

			require.NoError(t, f.insert(ctx), "the connection goes on")
			assert.Equal(t, 1, f.rows())
		})
	}
}

func TestInjection_Ends(t *testing.T) {
	f := newFixture(t, "")
	f.Add(pgfault.Rule{Fault: pgfault.Error, Contains: "insert into t", For: time.Nanosecond})
	time.Sleep(time.Millisecond)
	require.NoError(t, f.insert(t.Context()), "its time is over")
	injection := f.Add(pgfault.Rule{Fault: pgfault.Error, Contains: "insert into t"})
	for range 3 {
		require.Error(t, f.insert(t.Context()))
	}
	assert.Equal(t, 3, injection.Hits())
	injection.Remove()
	injection.Remove()
	require.NoError(t, f.insert(t.Context()))
}

// A named statement that was prepared before is known by its text.
func TestFault_PreparedStatement(t *testing.T) {
	f := newFixture(t, "")
	st, err := f.conn.PrepareContext(t.Context(), "insert into t values ($1 + 1)")
	require.NoError(t, err)
	f.Add(pgfault.Rule{Fault: pgfault.Cut, Contains: "$1 + 1"})
	_, err = st.ExecContext(t.Context(), 1)
	require.Error(t, err)
	assert.Zero(t, f.rows())
}

func TestSilence_AllConnections(t *testing.T) {
	f := newFixture(t, "")
	f.Silence(true)
	ended := make(chan error, 2)
	go func() { ended <- f.insert(context.WithoutCancel(t.Context())) }()
	go func() {
		ended <- openDB(t, f.url+"&connect_timeout=60").PingContext(context.WithoutCancel(t.Context()))
	}()
	select {
	case err := <-ended:
		t.Fatalf("something was passed on: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	assert.Zero(t, f.rows())
	f.Silence(false)
	assert.NoError(t, <-ended)
	assert.NoError(t, <-ended)
	assert.Equal(t, 1, f.rows())
}

func TestSilence_NewConnections(t *testing.T) {
	f := newFixture(t, "")
	f.SilenceNew(true)
	require.NoError(t, f.insert(t.Context()), "others go on")
	c, err := net.Dial("tcp", f.Addr())
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.SetDeadline(time.Now().Add(200*time.Millisecond)))
	_, err = c.Write([]byte{0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f})
	require.NoError(t, err)
	_, err = c.Read(make([]byte, 1))
	assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
	f.SilenceNew(false)
	assert.NoError(t, openDB(t, f.url).PingContext(t.Context()))
}

func TestProxy_PassesCancelRequests(t *testing.T) {
	f := newFixture(t, "")
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := f.conn.ExecContext(ctx, "select pg_sleep(60)")
	var pqErr *pq.Error
	require.ErrorAs(t, err, &pqErr)
	assert.EqualValues(t, "57014", pqErr.Code)
}

func TestClose_EndsWhatHangs(t *testing.T) {
	f := newFixture(t, "")
	f.Add(pgfault.Rule{Fault: pgfault.LostSilence, Contains: "insert into t"})
	ended := make(chan error, 1)
	go func() { ended <- f.insert(context.WithoutCancel(t.Context())) }()
	require.Eventually(t, func() bool { return f.Counts().Faults[pgfault.LostSilence] == 1 }, time.Minute, time.Millisecond)
	f.Silence(true)
	require.NoError(t, f.Close())
	assert.Error(t, <-ended)
	assert.True(t, errors.Is(f.Close(), net.ErrClosed))
}
