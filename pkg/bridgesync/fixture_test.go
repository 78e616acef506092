package bridgesync_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	_ "github.com/lib/pq"
	"github.com/sirupsen/logrus"
	"github.com/sirupsen/logrus/hooks/test"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/pgtest"
	"imagetasks/pkg/bridgesync"
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

// application reads the small application with a bridge.
func application(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../store/testdata/bridge.sql")
	require.NoError(t, err)
	return string(text)
}

// fixture is a database with the small application, and a user of it.
type fixture struct {
	t     *testing.T
	db    *sql.DB
	store *store.Store
	logs  *test.Hook
	log   *logrus.Logger

	events chan bridgesync.Event
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := newEmptyFixture(t, server.Database(t))
	f.exec(application(t))
	f.exec(`insert into public.wallets values ('ann', 10)`)
	return f
}

func newEmptyFixture(t *testing.T, url string) *fixture {
	t.Helper()
	f := &fixture{t: t, events: make(chan bridgesync.Event, 10_000)}
	f.log, f.logs = test.NewNullLogger()
	f.log.SetLevel(logrus.DebugLevel)
	var err error
	f.db, err = sql.Open("postgres", url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = f.db.Close() }) // the server may have been halted meanwhile
	f.store, err = store.Open(store.Config{URL: url, MaxConns: 16})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, f.store.Close()) })
	return f
}

func (f *fixture) exec(query string, args ...any) {
	f.t.Helper()
	_, err := f.db.Exec(query, args...)
	require.NoError(f.t, err)
}

func (f *fixture) number(query string, args ...any) int {
	f.t.Helper()
	var n int
	require.NoError(f.t, f.db.QueryRow(query, args...).Scan(&n))
	return n
}

func (f *fixture) text(query string, args ...any) string {
	f.t.Helper()
	var s string
	require.NoError(f.t, f.db.QueryRow(query, args...).Scan(&s))
	return s
}

// start runs a service until stop is called, which is also done at the end of the test.
func (f *fixture) start(change func(*bridgesync.Config)) (s *bridgesync.Service, stop func()) {
	f.t.Helper()
	conf := bridgesync.Config{Store: f.store, Log: f.log, Observe: func(e bridgesync.Event) { f.events <- e }}
	if change != nil {
		change(&conf)
	}
	s, err := bridgesync.New(conf)
	require.NoError(f.t, err)
	ctx, cancel := context.WithCancel(f.t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.Run(ctx)
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		<-ended
	})
	f.t.Cleanup(stop)
	return s, stop
}

// await waits for a step.
func (f *fixture) await(what string, matches func(bridgesync.Event) bool) bridgesync.Event {
	f.t.Helper()
	timeout := time.After(30 * time.Second)
	for {
		select {
		case e := <-f.events:
			if matches(e) {
				return e
			}
		case <-timeout:
			require.Fail(f.t, "no such step", what)
		}
	}
}

func (f *fixture) awaitTask(kind bridgesync.EventKind, id string) {
	f.t.Helper()
	f.await(string(kind)+" "+id, func(e bridgesync.Event) bool { return e.Kind == kind && e.Task == id })
}

func (f *fixture) awaitTaken(n int) {
	f.t.Helper()
	f.await("tasks were taken over", func(e bridgesync.Event) bool { n -= e.Sync.Taken; return n <= 0 })
}

func (f *fixture) awaitApplied(n int) {
	f.t.Helper()
	f.await("ends were written", func(e bridgesync.Event) bool {
		if e.Kind == bridgesync.EventApplied {
			n--
		}
		return n <= 0
	})
}

// insert inserts rows of the application and returns their ids.
func (f *fixture) insert(prefix string, n int) []string {
	f.t.Helper()
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprintf("%s%04d", prefix, i)
		f.exec(`insert into public.jobs (id, owner, prompt) values ($1, 'ann', 'a lantern')`, ids[i])
	}
	return ids
}

// claim claims up to n tasks.
func (f *fixture) claim(n int) []task.Task {
	f.t.Helper()
	tasks, err := f.store.Claim(f.t.Context(), store.ClaimRequest{Worker: "w", Limit: n, Lease: time.Minute, MaxAttempts: 3, MaxLostClaims: 5, CallID: uuid.New()})
	require.NoError(f.t, err)
	return tasks
}

func (f *fixture) complete(tasks ...task.Task) {
	f.t.Helper()
	for _, t := range tasks {
		accepted, err := f.store.Complete(f.t.Context(), store.Completion{Lease: t.Lease(), ImageURL: "https://pictures.example/" + t.ID + ".png"})
		require.NoError(f.t, err)
		require.Len(f.t, accepted, 1)
	}
}

func (f *fixture) fail(t task.Task) {
	f.t.Helper()
	_, err := f.store.Fail(f.t.Context(), t.Lease(), &task.Error{Code: task.CodeModeration, Disposition: task.Fail, Message: "refused"}, true)
	require.NoError(f.t, err)
}

// lines counts the lines of the log that contain a text.
func (f *fixture) lines(message string) int {
	n := 0
	for _, e := range f.logs.AllEntries() {
		if e.Message == message {
			n++
		}
	}
	return n
}
