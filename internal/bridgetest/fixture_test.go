package bridgetest

import (
	"context"
	"database/sql"
	"fmt"
	"hash/fnv"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/appshapes"
	"imagetasks/internal/pgtest"
	"imagetasks/internal/postgres"
	"imagetasks/pkg/bridgesync"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

var server *pgtest.Server

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m, &server, nil)) }

// installation is an application and a queue of ours in one database. The queue's role owns the application's tables, as Supabase's postgres does, and is
// no superuser.
type installation struct {
	*store.Store
	t     testing.TB
	shape appshapes.Shape
	url   string // of the superuser
	raw   *sql.DB
	app   *appshapes.Session // for what the test itself does or sees
	stuck time.Duration      // after which tasks are swept
}

// install creates an application with rows.
func install(t testing.TB, shape appshapes.Shape, rows appshapes.Rows) *installation {
	t.Helper()
	return installAt(t, shape, rows, server.Empty(t))
}

func installAt(t testing.TB, shape appshapes.Shape, rows appshapes.Rows, url string) *installation {
	t.Helper()
	i := &installation{t: t, shape: shape, url: url, stuck: stuckAfter}
	require.NoError(t, shape.Install(t.Context(), url))
	require.NoError(t, shape.Seed(t.Context(), url, rows))
	var err error
	i.Store, err = store.Open(store.Config{URL: appshapes.URL(url, appshapes.Owner), MaxConns: 16})
	require.NoError(t, err)
	i.raw, err = sql.Open("postgres", url)
	require.NoError(t, err)
	i.app = i.session()
	t.Cleanup(func() {
		assert.NoError(t, i.raw.Close())
		assert.NoError(t, i.Store.Close())
	})
	return i
}

// session returns a connection of the application.
func (i *installation) session() *appshapes.Session {
	i.t.Helper()
	db, err := sql.Open("postgres", appshapes.URL(i.url, appshapes.Writer))
	require.NoError(i.t, err)
	a, err := i.shape.NewSession(i.t.Context(), db, nil)
	require.NoError(i.t, err)
	i.t.Cleanup(func() {
		assert.NoError(i.t, a.Close())
		assert.NoError(i.t, db.Close())
	})
	return a
}

// adopt migrates and applies the shape's description.
func (i *installation) adopt() {
	i.t.Helper()
	_, err := i.Migrate(i.t.Context(), store.Roles{})
	require.NoError(i.t, err)
	_, err = i.Adopt(i.t.Context(), i.shape.Description, func(store.Step) {})
	require.NoError(i.t, err)
}

// dump returns the application's schema as pg_dump writes it.
func (i *installation) dump() string {
	i.t.Helper()
	program, err := exec.LookPath("pg_dump")
	if err != nil {
		programs, err := postgres.Find()
		require.NoError(i.t, err)
		program = filepath.Join(programs, "pg_dump")
	}
	out, err := exec.CommandContext(i.t.Context(), program, "--schema-only", "--exclude-schema=imagetasks", i.url).Output()
	require.NoError(i.t, err)
	var lines []string
	for line := range strings.Lines(string(out)) {
		// They have a random text in newer versions.
		if !strings.HasPrefix(line, `\restrict`) && !strings.HasPrefix(line, `\unrestrict`) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

// view returns all that the application's users 1 to n see: tasks by key, their users, pictures of the gallery and balances by user.
type view struct {
	tasks    map[string]appshapes.Seen
	users    map[string]string
	gallery  map[string][]string
	balances map[string]int64
}

func (i *installation) view(users int) view {
	i.t.Helper()
	v := view{map[string]appshapes.Seen{}, map[string]string{}, map[string][]string{}, map[string]int64{}}
	for n := 1; n <= users; n++ {
		user := i.shape.User(n)
		tasks, gallery, balance, err := i.app.View(i.t.Context(), user)
		require.NoError(i.t, err)
		for _, seen := range tasks {
			v.tasks[seen.Key], v.users[seen.Key] = seen, user
		}
		v.gallery[user], v.balances[user] = gallery, balance
	}
	return v
}

// texts returns a query's rows of two columns.
func (i *installation) texts(query string, args ...any) map[string]string {
	i.t.Helper()
	rows, err := i.raw.QueryContext(i.t.Context(), query, args...)
	require.NoError(i.t, err)
	defer rows.Close()
	out := map[string]string{}
	for rows.Next() {
		var key, value string
		require.NoError(i.t, rows.Scan(&key, &value))
		out[key] = value
	}
	require.NoError(i.t, rows.Err())
	return out
}

func (i *installation) number(query string, args ...any) (n int64) {
	i.t.Helper()
	require.NoError(i.t, i.raw.QueryRowContext(i.t.Context(), query, args...).Scan(&n))
	return n
}

func (i *installation) exec(statement string, args ...any) {
	i.t.Helper()
	_, err := i.raw.ExecContext(i.t.Context(), statement, args...)
	require.NoError(i.t, err)
}

// plan is a Worker that requests nothing: what becomes of a task follows from its id.
type plan struct {
	wait time.Duration
	fail func(taskID string) bool // optional
	hang func(taskID string) bool // for as long as it may; optional
	// began is called when the work on a task begins; optional.
	began func(taskID string)
}

// share returns a number below 10 that follows from a task's id.
func share(taskID string) uint32 {
	sum := fnv.New32a()
	sum.Write([]byte(taskID))
	return sum.Sum32() % 10
}

// failsSome fails about a fifth of the tasks.
func failsSome(taskID string) bool { return share(taskID) < 2 }

func picture(taskID string, run int) string {
	return fmt.Sprintf("https://pictures.example.com/new/%s-%d.png", strings.ReplaceAll(taskID, " ", ""), run)
}

// Work implements processor.Worker.
func (p plan) Work(ctx context.Context, t task.Task, c processor.Call) (processor.Result, error) {
	if _, err := c.BeforeRequest(ctx); err != nil {
		return processor.Result{}, err
	}
	if p.began != nil {
		p.began(t.ID)
	}
	c.Progress(10, "waiting for the API")
	if p.hang != nil && p.hang(t.ID) {
		<-ctx.Done()
		return processor.Result{}, ctx.Err()
	}
	select {
	case <-ctx.Done():
		return processor.Result{}, ctx.Err()
	case <-time.After(p.wait):
	}
	if p.fail != nil && p.fail(t.ID) {
		return processor.Result{}, &task.Error{Code: task.CodeModeration, Disposition: task.Fail, Message: "the API refuses the prompt"}
	}
	return processor.Result{URL: picture(t.ID, t.Run), RequestID: "req_1"}, nil
}

// work runs a processor, the bridge and a sweeper until stop is called, which waits for them.
func (i *installation) work(worker processor.Worker, change ...func(*processor.Config)) (stop func()) {
	i.t.Helper()
	ctx, cancel := context.WithCancel(i.t.Context())
	conf := processor.Config{Worker: "w", Concurrency: 20, PollInterval: 20 * time.Millisecond, Lease: 10 * time.Second}
	for _, c := range change {
		c(&conf)
	}
	w := &watched{Worker: worker, inFlight: map[string]store.BridgeProgress{}}
	p := processor.New(conf, i.Store, w)
	bridge, err := bridgesync.New(bridgesync.Config{Store: i.Store, Progress: w.progress, LookInterval: 100 * time.Millisecond, Interval: 50 * time.Millisecond,
		ProgressInterval: 100 * time.Millisecond})
	require.NoError(i.t, err)
	var running sync.WaitGroup
	running.Go(func() { assert.NoError(i.t, p.Run(ctx)) })
	running.Go(func() { bridge.Run(ctx) })
	running.Go(func() { i.sweep(ctx) })
	stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	i.t.Cleanup(stop)
	return stop
}

// watched is a Worker whose tasks in flight are known.
type watched struct {
	processor.Worker
	mu       sync.Mutex
	inFlight map[string]store.BridgeProgress
}

// Work implements processor.Worker.
func (w *watched) Work(ctx context.Context, t task.Task, c processor.Call) (processor.Result, error) {
	w.mu.Lock()
	w.inFlight[t.ID] = store.BridgeProgress{TaskID: t.ID, Epoch: t.Epoch, Percent: 10, Stage: "waiting for the API"}
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.inFlight, t.ID)
	}()
	return w.Worker.Work(ctx, t, c)
}

func (w *watched) progress() []store.BridgeProgress {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Collect(maps.Values(w.inFlight))
}

// stuckAfter is the usual time, also of rows that the application had begun.
const stuckAfter = 5 * time.Second

func (i *installation) sweep(ctx context.Context) {
	for wait(ctx, 200*time.Millisecond) {
		if _, err := i.Sweep(ctx, store.Sweep{OlderThan: i.stuck, Limit: 100}); err != nil && ctx.Err() == nil {
			assert.NoError(i.t, err)
		}
	}
}

func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// drained waits until both sides agree that nothing is left to do.
func (i *installation) drained(atMost time.Duration) {
	i.t.Helper()
	var last string
	ok := assert.Eventually(i.t, func() bool {
		state, err := i.Bridge(i.t.Context())
		if err != nil {
			last = err.Error()
			return false
		}
		live := i.number(`select count(*) from imagetasks.tasks where status in ('pending', 'processing')`)
		last = fmt.Sprintf("%d tasks, bridge %+v", live, state)
		return live == 0 && state.Inbox == 0 && state.Owed == 0 && state.Failures == 0
	}, atMost, 50*time.Millisecond)
	if !ok {
		problems, err := i.BridgeProblems(i.t.Context(), 10)
		require.FailNow(i.t, "something is left", "%s; problems: %+v %v", last, problems, err)
	}
}
