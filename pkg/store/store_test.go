package store_test

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/pgtest"
	"imagetasks/internal/postgres"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

var server *pgtest.Server

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m, &server, migrate)) }

func migrate(ctx context.Context, url string) error {
	s, err := store.Open(store.Config{URL: url})
	if err != nil {
		return err
	}
	defer s.Close()
	_, err = s.Migrate(ctx, store.Roles{})
	return err
}

// testStore is a Store on its own database. raw is a second connection, for what applications do with the tables.
type testStore struct {
	*store.Store
	tb  testing.TB
	ctx context.Context
	url string
	raw *sql.DB
}

func open(tb testing.TB, url string) *testStore {
	tb.Helper()
	s, err := store.Open(store.Config{URL: url, ApplicationName: "test", MaxConns: 16})
	require.NoError(tb, err)
	raw, err := sql.Open("postgres", url)
	require.NoError(tb, err)
	tb.Cleanup(func() { assert.NoError(tb, s.Close()); assert.NoError(tb, raw.Close()) })
	return &testStore{Store: s, tb: tb, ctx: tb.Context(), url: url, raw: raw}
}

func fresh(tb testing.TB) *testStore { tb.Helper(); return open(tb, server.Database(tb)) }

func (b *testStore) exec(statement string, args ...any) {
	b.tb.Helper()
	_, err := b.raw.ExecContext(b.ctx, statement, args...)
	require.NoError(b.tb, err)
}

func (b *testStore) number(statement string, args ...any) int {
	b.tb.Helper()
	var n int
	require.NoError(b.tb, b.raw.QueryRowContext(b.ctx, statement, args...).Scan(&n))
	return n
}

func (b *testStore) user(credits int) string {
	b.tb.Helper()
	id := uuid.NewString()
	if credits > 0 {
		balance, err := b.GrantCredits(b.ctx, id, int64(credits), "test", uuid.NewString())
		require.NoError(b.tb, err)
		require.EqualValues(b.tb, credits, balance)
	}
	return id
}

func (b *testStore) enqueue(user string, count, cost int) []string {
	b.tb.Helper()
	done, err := b.Enqueue(b.ctx, store.EnqueueRequest{UserID: user, Prompt: "a cat", Cost: int64(cost), Count: count})
	require.NoError(b.tb, err)
	require.Len(b.tb, done.TaskIDs, count)
	return done.TaskIDs
}

func (b *testStore) claim(limit int) []task.Task {
	b.tb.Helper()
	tasks, err := b.Claim(b.ctx, store.ClaimRequest{Worker: "w", Limit: limit, Lease: time.Minute, MaxAttempts: 3, Expired: 1000, Alone: true})
	require.NoError(b.tb, err)
	return tasks
}

// claimOne enqueues a task of that cost for a new user, and claims it.
func (b *testStore) claimOne(cost int) task.Task {
	b.tb.Helper()
	b.enqueue(b.user(cost), 1, cost)
	tasks := b.claim(1)
	require.Len(b.tb, tasks, 1)
	return tasks[0]
}

func (b *testStore) row(id string) store.TaskRow {
	b.tb.Helper()
	r, err := b.Task(b.ctx, id)
	require.NoError(b.tb, err)
	return r
}

func (b *testStore) balance(user string) int {
	b.tb.Helper()
	n, err := b.Balance(b.ctx, user)
	require.NoError(b.tb, err)
	return int(n)
}

// expireLeases makes the leases of all processing tasks expire.
func (b *testStore) expireLeases() {
	b.tb.Helper()
	b.exec(`update imagetasks.tasks set lease_expires_at = now() - interval '1 second' where status = 'processing'`)
}

func (b *testStore) requireAudit() {
	b.tb.Helper()
	rules, err := b.Audit(b.ctx)
	require.NoError(b.tb, err)
	require.Len(b.tb, rules, 8)
	for _, r := range rules {
		require.Empty(b.tb, r.Violations, r.Code)
	}
	require.Zero(b.tb, store.CountViolations(rules))
}

func requireHeld(tb testing.TB) func([]task.Lease, error) {
	return func(held []task.Lease, err error) {
		tb.Helper()
		require.NoError(tb, err)
		require.NotEmpty(tb, held)
	}
}

func noErr[T any](tb testing.TB) func(T, error) {
	return func(_ T, err error) { tb.Helper(); require.NoError(tb, err) }
}

// cancel cancels a task that is not closed.
func (b *testStore) cancel(id string) store.Cancelled {
	b.tb.Helper()
	c, err := b.Cancel(b.ctx, id, "")
	require.NoError(b.tb, err)
	require.Equal(b.tb, task.Cancelled, c.State)
	return c
}

var errServer = &task.Error{Code: task.CodeServer, Message: "500", Disposition: task.Retry}

func TestOpen_InvalidURLIsNotQuoted(t *testing.T) {
	for _, url := range []string{
		"", "   ", "mysql://u:hunter2@h/d", "postgres://u:hunter2@h:port/d", "postgres://u:hunt%er2@h/d",
		"host=x password=hunter2 port=many", "postgres://u:hunter2@h/d?sslmode=whatever",
	} {
		_, err := store.Open(store.Config{URL: url})
		if assert.Error(t, err, url) {
			assert.NotContains(t, err.Error(), "hunter2")
		}
	}
}

// Two installations in one database work side by side, one with a name that needs quotes.
func TestOpen_TwoSchemasInOneDatabase(t *testing.T) {
	b := fresh(t)
	other, err := store.Open(store.Config{URL: b.url, Schema: `My "images"`})
	require.NoError(t, err)
	defer other.Close()
	_, err = other.Migrate(b.ctx, store.Roles{})
	require.NoError(t, err)
	require.NoError(t, other.CheckAccess(b.ctx))
	user := b.user(3)
	first := b.enqueue(user, 1, 1)[0]

	_, err = other.GrantCredits(b.ctx, user, 2, "", "k")
	require.NoError(t, err)
	second, err := other.Enqueue(b.ctx, store.EnqueueRequest{UserID: user, Prompt: "x", Cost: 2})
	require.NoError(t, err)
	claimed, err := other.Claim(b.ctx, store.ClaimRequest{Worker: "w", Limit: 10, Lease: time.Minute, MaxAttempts: 3, Expired: 1000, Alone: true})
	require.NoError(t, err)
	require.Len(t, claimed, 1)
	assert.Equal(t, second.TaskIDs[0], claimed[0].ID)
	_, err = other.Cancel(b.ctx, first, "")
	assert.ErrorIs(t, err, task.ErrNotFound)
	_, err = other.Cancel(b.ctx, second.TaskIDs[0], "")
	require.NoError(t, err)
	assert.Equal(t, 2, b.number(`select credits from "My ""images""".credits`))
	assert.Equal(t, 2, b.balance(user))
	rules, err := other.Audit(b.ctx)
	require.NoError(t, err)
	assert.Zero(t, store.CountViolations(rules))
	b.requireAudit()
	assert.Zero(t, b.number(`select count(*) from pg_class where relnamespace = 'public'::regnamespace`), "nothing is created in public")
}

func TestOpen_InvalidSchema(t *testing.T) {
	for _, schema := range []string{"public", "pg_temp", "information_schema", "a\nb", strings.Repeat("x", 60)} {
		_, err := store.Open(store.Config{URL: "postgres://h/d", Schema: schema})
		_, ok := errors.AsType[*store.SchemaNameError](err)
		assert.True(t, ok, "%q: %v", schema, err)
	}
}

func TestIsUnavailable_ServerRestart(t *testing.T) {
	ctx := t.Context()
	cluster, err := postgres.Start(ctx, postgres.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { assert.NoError(t, cluster.Stop()) }()
	require.NoError(t, migrate(ctx, cluster.URL("postgres")))
	s, err := store.Open(store.Config{URL: cluster.URL("postgres")})
	require.NoError(t, err)
	defer s.Close()

	woken := make(chan struct{}, 100)
	listening, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { s.Listen(listening, func() { woken <- struct{}{} }, nil) })
	defer wg.Wait()
	defer stop()
	<-woken

	require.NoError(t, s.Ping(ctx))
	require.NoError(t, cluster.Halt())
	for range 3 { // broken pooled connections first, then refused new ones
		err := s.Ping(ctx)
		require.Error(t, err)
		assert.True(t, store.IsUnavailable(err), "%v", err)
	}
	require.NoError(t, cluster.Launch(ctx))
	require.Eventually(t, func() bool { return s.Ping(ctx) == nil }, time.Minute, 10*time.Millisecond)
	<-woken // the listener reconnected, and wakes because it may have missed notifications

	_, err = s.Fail(ctx, task.Lease{TaskID: "none"}, errServer, true)
	assert.False(t, store.IsUnavailable(err))
	assert.False(t, store.IsUnavailable(nil))
	assert.False(t, store.IsUnavailable(errors.New("something else")))
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	assert.False(t, store.IsUnavailable(s.Ping(cancelled)))
}

func TestStore_BehindTransactionPooler(t *testing.T) {
	b := open(t, server.Pooled(t))
	done, err := b.Migrate(b.ctx, store.Roles{})
	require.NoError(t, err)
	assert.Empty(t, done.Migrations)
	users := []string{b.user(20), b.user(20)}
	var wg sync.WaitGroup
	for _, u := range users {
		wg.Go(func() { b.enqueue(u, 20, 1) })
	}
	wg.Wait()
	for range 8 {
		wg.Go(func() {
			for range 5 {
				tasks := b.claim(1)
				if len(tasks) == 0 {
					return
				}
				_, _, err := b.RenewLeases(b.ctx, time.Minute, []store.LeaseRenewal{{Lease: tasks[0].Lease()}})
				assert.NoError(t, err)
				_, err = b.Fail(b.ctx, tasks[0].Lease(), errServer, true)
				assert.NoError(t, err)
			}
		})
	}
	wg.Wait()
	assert.Equal(t, 20, b.balance(users[0]))
	assert.Equal(t, 20, b.balance(users[1]))

	// Listen gets no notifications through the pooler, and neither fails nor blocks.
	ctx, cancel := context.WithCancel(b.ctx)
	wg.Go(func() { b.Listen(ctx, cancel, nil) })
	wg.Wait()
	b.requireAudit()
}
