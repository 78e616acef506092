package dashboard_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	_ "github.com/lib/pq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/pgtest"
	"imagetasks/pkg/dashboard"
	"imagetasks/pkg/finding"
	"imagetasks/pkg/health"
	"imagetasks/pkg/overview"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

var server *pgtest.Server

func TestMain(m *testing.M) {
	os.Exit(pgtest.Main(m, &server, func(ctx context.Context, url string) error {
		s, err := store.Open(store.Config{URL: url})
		if err != nil {
			return err
		}
		_, err = s.Migrate(ctx, store.Roles{})
		return errors.Join(err, s.Close())
	}))
}

const hungAfter = time.Minute

// fixture is a database with a reader of it.
type fixture struct {
	t     *testing.T
	db    *sql.DB
	store *watchedStore
	*dashboard.Reader
}

// watchedStore counts what is read, and can fail.
type watchedStore struct {
	*store.Store
	reads atomic.Int64
	down  atomic.Bool
}

func (s *watchedStore) ClosedFigures(ctx context.Context, window time.Duration, last int) (store.ClosedFigures, error) {
	if window == 24*time.Hour {
		s.reads.Add(1)
	}
	if s.down.Load() {
		return store.ClosedFigures{}, errors.New("password=secret: connection refused")
	}
	return s.Store.ClosedFigures(ctx, window, last)
}

func newFixture(t *testing.T, change func(*dashboard.Config)) *fixture {
	t.Helper()
	url := server.Database(t)
	f := &fixture{t: t}
	var err error
	f.db, err = sql.Open("postgres", url)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, f.db.Close()) })
	st, err := store.Open(store.Config{URL: url, MaxConns: 16})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, st.Close()) })
	f.store = &watchedStore{Store: st}
	conf := dashboard.Config{Store: f.store, Version: "1.2.3", Host: "here", ServedBy: dashboard.TaskProcessor, StuckAfter: 20 * time.Minute, HungAfter: hungAfter,
		Processors:  dashboard.Own("here", hungAfter, ownReport),
		Checks:      func() []health.Check { return []health.Check{{Name: "database", OK: true}} },
		CommandLine: func(c finding.Command) string { return strings.Join(append([]string{c.Program}, c.Args...), " ") },
		Redact:      func(s string) string { return strings.ReplaceAll(s, "secret", "***") }}
	if change != nil {
		change(&conf)
	}
	f.Reader = dashboard.New(conf)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { f.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	return f
}

func ownReport() overview.ProcessorReport {
	return overview.ProcessorReport{Status: processor.Status{Worker: "here:1:own", PID: os.Getpid(), StartedAt: time.Unix(1000, 0), Concurrency: 10, InFlight: 4,
		Counts:    processor.Counts{processor.EventCompleted: 7, processor.EventFailed: 2},
		Endpoints: []processor.EndpointStatus{{Name: "openai", InFlight: 4, Rate: 60}},
		Circuits:  []processor.Circuit{{Scope: processor.CircuitEndpoint, Name: "openai", State: processor.CircuitClosed}, {Scope: processor.CircuitPictureStore, State: processor.CircuitClosed}}}}
}

func (f *fixture) exec(statement string, args ...any) {
	f.t.Helper()
	_, err := f.db.ExecContext(f.t.Context(), statement, args...)
	require.NoError(f.t, err)
}

func (f *fixture) number(statement string, args ...any) int {
	f.t.Helper()
	var n int
	require.NoError(f.t, f.db.QueryRowContext(f.t.Context(), statement, args...).Scan(&n))
	return n
}

func (f *fixture) text(statement string, args ...any) string {
	f.t.Helper()
	var s string
	require.NoError(f.t, f.db.QueryRowContext(f.t.Context(), statement, args...).Scan(&s))
	return s
}

// until waits for a document with a property.
func (f *fixture) until(what string, has func(dashboard.Document) bool) dashboard.Document {
	f.t.Helper()
	var d dashboard.Document
	require.Eventually(f.t, func() bool {
		s := f.Snapshot(f.t.Context())
		if s == nil {
			return false
		}
		d = s.Document
		return has(d)
	}, 30*time.Second, 50*time.Millisecond, what)
	return d
}

// work leaves tasks in every state, paid for and refunded, some of them hours and days old.
func (f *fixture) work() {
	f.t.Helper()
	ctx, st := f.t.Context(), f.store.Store
	random := rand.New(rand.NewPCG(3, 3))
	for _, user := range []string{"ann", "bob"} {
		_, err := st.GrantCredits(ctx, user, 10_000, "test", user)
		require.NoError(f.t, err)
		_, err = st.Enqueue(ctx, store.EnqueueRequest{UserID: user, Prompt: "a cat", Cost: 5, Count: 150, Options: []byte(`{"model": "m"}`)})
		require.NoError(f.t, err)
	}
	_, err := st.Enqueue(ctx, store.EnqueueRequest{UserID: "ann", Prompt: "later", Cost: 1, Count: 7, RunAt: time.Now().Add(time.Hour)})
	require.NoError(f.t, err)
	claimed, err := st.Claim(ctx, store.ClaimRequest{Worker: "w", Limit: 220, Lease: time.Hour, MaxAttempts: 3})
	require.NoError(f.t, err)
	require.Len(f.t, claimed, 220)
	codes := []task.Code{task.CodeModeration, task.CodeModeration, task.CodeModeration, task.CodeServer, task.CodeInternal, "strange_code"}
	for i, c := range claimed[:200] {
		switch {
		case i%10 == 9:
			code := codes[random.IntN(len(codes))]
			_, err = st.Fail(ctx, c.Lease(), &task.Error{Code: code, Message: fmt.Sprintf("failed for %s", code)}, true)
		case i%10 == 8:
			_, err = st.Cancel(ctx, c.ID, "")
		default:
			_, _, err = st.BeginRequest(ctx, c.Lease(), uuid.New(), "openai", 0)
			require.NoError(f.t, err)
			_, err = st.Complete(ctx, store.Completion{Lease: c.Lease(), ImageURL: "p/" + c.ID + ".png", Endpoint: "openai",
				Usage: task.Usage{Endpoint: "openai", Model: "m", Took: time.Second, Cost: 40_000, Currency: []string{"USD", "CNY"}[i%2]}})
		}
		require.NoError(f.t, err)
	}
	f.exec(`update imagetasks.tasks set processing_started_at = now() - interval '1 hour' where task_id = $1`, claimed[219].ID) // stuck
	f.exec(`update imagetasks.tasks set run_after = now() - interval '90 seconds' where status = 'pending' and run_after < now()`)
	f.exec(`update imagetasks.tasks set completed_at = completed_at - n * interval '7 minutes', created_at = created_at - n * interval '8 minutes',
			processing_started_at = processing_started_at - n * interval '7 minutes' - interval '30 seconds'
		from (select task_id as id, row_number() over (order by task_id) - 1 as n from imagetasks.tasks where completed_at is not null) x where task_id = id`)
	f.exec(`update imagetasks.results r set at = t.completed_at from imagetasks.tasks t where t.task_id = r.task_id`)
	f.exec(`update imagetasks.tasks set completed_at = completed_at - interval '3 days', processing_started_at = processing_started_at - interval '3 days'
		where completed_at is not null and hashtext(task_id) % 4 = 0`)
	f.exec(`update imagetasks.results set at = at - mod(hashtext(task_id)::bigint + 2147483648, 300) * interval '1 hour'`)
	f.exec(`begin; set local session_replication_role = replica;
		update imagetasks.ledger set created_at = created_at - mod(id * 7919, 300) * interval '1 hour'; commit`)
}
