package processor_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/pgtest"
	"imagetasks/internal/postgres"
	"imagetasks/internal/simapi"
	"imagetasks/internal/simproxy"
	"imagetasks/pkg/health"
	"imagetasks/pkg/imageapi"
	"imagetasks/pkg/picture"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/proxy"
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
	_, err = s.Migrate(ctx)
	return err
}

const key = "test-key-0123456789"

// bench is a database, an API behind a proxy, and what the processors made of them.
type bench struct {
	*store.Store
	t        *testing.T
	raw      *sql.DB
	api      *simapi.Server
	proxy    *simproxy.Proxy
	pictures *picture.Store
	user     string
	log      *syncBuffer

	mu     sync.Mutex
	cond   *sync.Cond
	events map[processor.EventKind]int
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func newBench(t *testing.T) *bench { t.Helper(); return benchOn(t, server.Database(t)) }

func benchOn(t *testing.T, url string) *bench {
	t.Helper()
	b := &bench{t: t, events: map[processor.EventKind]int{}, log: &syncBuffer{}}
	b.cond = sync.NewCond(&b.mu)
	var err error
	b.Store, err = store.Open(store.Config{URL: url, MaxConns: 16})
	require.NoError(t, err)
	b.raw, err = sql.Open("postgres", url)
	require.NoError(t, err)
	b.api, err = simapi.Start(simapi.Config{Key: key})
	require.NoError(t, err)
	b.proxy, err = simproxy.Start(simproxy.Config{User: "u", Password: "hunter2hunter2"})
	require.NoError(t, err)
	b.pictures, err = picture.Open(t.TempDir(), "", 1<<20)
	require.NoError(t, err)
	b.user = uuid.NewString()
	_, err = b.GrantCredits(t.Context(), b.user, 10000, "test")
	require.NoError(t, err)
	t.Cleanup(func() {
		assert.NoError(t, b.proxy.Close())
		assert.NoError(t, b.api.Close())
		assert.NoError(t, b.raw.Close())
		assert.NoError(t, b.Store.Close())
		for _, secret := range []string{"hunter2hunter2", key} {
			assert.NotContains(t, b.log.String(), secret)
		}
	})
	return b
}

func (b *bench) maker(more ...string) processor.Generator {
	b.t.Helper()
	tr, err := proxy.New(proxy.Config{Env: proxy.Env{OpenAI: append([]string{b.proxy.URL()}, more...)}})
	require.NoError(b.t, err)
	b.t.Cleanup(tr.CloseIdleConnections)
	c, err := imageapi.New(imageapi.Config{BaseURL: b.api.URL(), Key: key, Model: "m", Transport: tr, MaxBytes: 1 << 20})
	require.NoError(b.t, err)
	return c
}

func (b *bench) config(change ...func(*processor.Config)) processor.Config {
	log := logrus.New()
	log.SetOutput(b.log)
	log.SetLevel(logrus.DebugLevel)
	conf := processor.Config{Worker: "w", PollInterval: 20 * time.Millisecond, Lease: 3 * time.Second, Log: log,
		Observe: func(e processor.Event) {
			b.mu.Lock()
			b.events[e.Kind]++
			b.mu.Unlock()
			b.cond.Broadcast()
		}}
	for _, c := range change {
		c(&conf)
	}
	return conf
}

// seen waits until that has happened n times.
func (b *bench) seen(kind processor.EventKind, n int) {
	b.t.Helper()
	stop := time.AfterFunc(time.Minute, func() { b.cond.Broadcast() })
	defer stop.Stop()
	deadline := time.Now().Add(time.Minute)
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.events[kind] < n {
		if time.Now().After(deadline) {
			b.t.Fatalf("waiting for %d times %q, seen: %v\n%s", n, kind, b.events, b.log)
		}
		b.cond.Wait()
	}
}

func (b *bench) count(kind processor.EventKind) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.events[kind]
}

// shut waits until the way to the API is known to be shut, by a task or by a health check, and nothing is in hand.
func (b *bench) shut() {
	b.t.Helper()
	b.seen(processor.EventCircuitOpened, 1)
	require.Eventually(b.t, func() bool { return b.count(processor.EventClaimed) == b.count(processor.EventReleased) }, time.Minute, time.Millisecond)
}

// run starts a processor; what it returns stops it and waits.
func (b *bench) run(conf processor.Config, maker processor.Generator) (stop func()) {
	b.t.Helper()
	p := processor.New(conf, b.Store, maker, b.pictures)
	ctx, cancel := context.WithCancel(b.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		assert.NoError(b.t, p.Run(ctx))
	}()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	b.t.Cleanup(stop)
	return stop
}

func (b *bench) once(conf processor.Config, maker processor.Generator) error {
	return processor.New(conf, b.Store, maker, b.pictures).RunOnce(b.t.Context())
}

func (b *bench) enqueue(prompts ...string) []string {
	b.t.Helper()
	var ids []string
	for _, prompt := range prompts {
		made, err := b.Enqueue(b.t.Context(), store.EnqueueRequest{UserID: b.user, Prompt: prompt, Cost: 1})
		require.NoError(b.t, err)
		ids = append(ids, made...)
	}
	return ids
}

func (b *bench) row(id string) store.TaskRow {
	b.t.Helper()
	r, err := b.Task(b.t.Context(), id)
	require.NoError(b.t, err)
	return r
}

func (b *bench) exec(statement string, args ...any) {
	b.t.Helper()
	_, err := b.raw.ExecContext(b.t.Context(), statement, args...)
	require.NoError(b.t, err)
}

func (b *bench) files() []string {
	b.t.Helper()
	entries, err := os.ReadDir(b.pictures.Dir())
	require.NoError(b.t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func (b *bench) requireAudit() {
	b.t.Helper()
	rules, err := b.Audit(b.t.Context())
	require.NoError(b.t, err)
	for _, r := range rules {
		require.Empty(b.t, r.Violations, r.Code)
	}
}

// generatorFunc makes pictures without an API.
type generatorFunc func(ctx context.Context, r imageapi.Request, w io.Writer) error

func (f generatorFunc) Generate(ctx context.Context, r imageapi.Request, w io.Writer) (imageapi.Result, error) {
	return imageapi.Result{}, f(ctx, r, w)
}

func (f generatorFunc) Probe(context.Context) error { return nil }

// The main job, as the README promises it.
func TestPicturesAreMadeAndFailuresRefunded(t *testing.T) {
	b := newBench(t)
	var prompts []string
	for i := range 10 {
		prompts = append(prompts, fmt.Sprintf("picture %d", i))
	}
	ids := b.enqueue(append(prompts, "[moderation] x", "[500 once] x", "[429 once] x", "[html] x", "[text] x")...)
	require.NoError(t, b.once(b.config(), b.maker()))

	states, err := b.CountByState(t.Context())
	require.NoError(t, err)
	assert.Equal(t, map[task.State]int{task.Completed: 12, task.Failed: 3, task.Pending: 0, task.Processing: 0, task.Cancelled: 0}, states)
	balance, err := b.Balance(t.Context(), b.user)
	require.NoError(t, err)
	assert.Equal(t, 10000-12, balance)
	assert.Len(t, b.files(), 12)
	for _, call := range b.api.Calls() {
		assert.True(t, b.proxy.Carried(call.Remote))
	}
	for i, id := range ids[:10] {
		r := b.row(id)
		kept, err := os.ReadFile(b.pictures.Dir() + "/" + r.ImageURL)
		require.NoError(t, err)
		assert.Equal(t, simapi.Draw(prompts[i]), kept)
		assert.Equal(t, 1, r.Attempts)
		assert.NotEmpty(t, r.RequestID)
	}
	for i, want := range []struct {
		state    task.State
		code     task.Code
		attempts int
	}{
		{task.Failed, task.CodeModeration, 1}, {task.Completed, "", 2}, {task.Completed, "", 1},
		{task.Failed, task.CodeWebPage, 1}, {task.Failed, task.CodeNotAPicture, 1},
	} {
		r := b.row(ids[10+i])
		assert.Equal(t, want.state, r.State, "%+v", r)
		assert.Equal(t, want.code, r.ErrorCode, "%+v", r)
		assert.Equal(t, want.attempts, r.Attempts, "%+v", r)
	}
	b.requireAudit()
}

func TestNotifyWakesItLongBeforeThePoll(t *testing.T) {
	b := newBench(t)
	b.run(b.config(func(c *processor.Config) { c.PollInterval = time.Hour }), b.maker())
	b.enqueue("one")
	b.seen(processor.EventCompleted, 1)
	b.enqueue("two", "three")
	b.seen(processor.EventCompleted, 3)
}

func TestPollingDoesWithoutNotify(t *testing.T) {
	b := benchOn(t, server.Pooled(t))
	b.run(b.config(), b.maker())
	b.enqueue("one", "two", "three")
	b.seen(processor.EventCompleted, 3)
	b.requireAudit()
}

func TestNoMoreTasksAreInHandThanAllowed(t *testing.T) {
	b := newBench(t)
	release := b.api.Hold()
	b.run(b.config(func(c *processor.Config) { c.Concurrency = 4 }), b.maker())
	var prompts []string
	for i := range 12 {
		prompts = append(prompts, fmt.Sprint("p", i))
	}
	b.enqueue(prompts...)
	b.seen(processor.EventClaimed, 4)
	require.Eventually(t, func() bool { return b.api.Busiest() == 4 }, time.Minute, time.Millisecond)
	b.seen(processor.EventLeasesRenewed, 2)
	assert.Equal(t, 4, b.count(processor.EventClaimed))
	release()
	b.seen(processor.EventCompleted, 12)
	assert.Equal(t, 4, b.api.Busiest())
}

func TestFourProcessorsWorkEachOf2000TasksOnce(t *testing.T) {
	b := newBench(t)
	_, err := b.Enqueue(t.Context(), store.EnqueueRequest{UserID: b.user, Prompt: "x", Cost: 1, Count: 2000})
	require.NoError(t, err)
	content := simapi.Draw("x")
	maker := generatorFunc(func(_ context.Context, _ imageapi.Request, w io.Writer) error {
		_, err := w.Write(content)
		return err
	})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			assert.NoError(t, b.once(b.config(func(c *processor.Config) {
				c.Concurrency, c.Log, c.Lease = 8, nil, time.Minute
			}), maker))
		})
	}
	wg.Wait()
	assert.Equal(t, 2000, b.count(processor.EventClaimed))
	assert.Equal(t, 2000, b.count(processor.EventCompleted))
	var odd int
	require.NoError(t, b.raw.QueryRow(`select count(*) from image_tasks
		where status <> 'completed' or attempt_count <> 1 or lease_epoch <> 1`).Scan(&odd))
	assert.Zero(t, odd)
	assert.Len(t, b.files(), 2000)
	b.requireAudit()
}

func TestAStopFinishesWhatTheGraceAllows(t *testing.T) {
	b := newBench(t)
	release := b.api.Hold()
	stop := b.run(b.config(), b.maker())
	ids := b.enqueue("a", "b", "c", "d", "e")
	b.seen(processor.EventClaimed, 3)
	stopped := make(chan struct{})
	go func() { defer close(stopped); stop() }()
	require.Eventually(t, func() bool { return strings.Contains(b.log.String(), "stopping: no new tasks") }, time.Minute, time.Millisecond)
	release()
	<-stopped
	assert.Equal(t, 3, b.count(processor.EventCompleted))
	assert.Equal(t, 3, b.count(processor.EventClaimed), "nothing new was begun")
	for _, id := range ids[3:] {
		assert.Zero(t, b.row(id).Attempts)
	}
	b.requireAudit()
}

func TestAStopHandsTheRestBackWithNoAttemptUsed(t *testing.T) {
	b := newBench(t)
	release := b.api.Hold()
	defer release()
	stop := b.run(b.config(func(c *processor.Config) { c.ShutdownGrace = time.Millisecond }), b.maker())
	ids := b.enqueue("a", "b", "c", "d", "e")
	b.seen(processor.EventClaimed, 3)
	stop()
	for _, id := range ids {
		r := b.row(id)
		assert.Equal(t, task.Pending, r.State)
		assert.Zero(t, r.Attempts)
		assert.Zero(t, r.Refunded)
	}
	assert.Empty(t, b.files(), "no draft is left")
	b.requireAudit()
}

func TestAHurriedStopDoesNotWaitForTheGrace(t *testing.T) {
	b := newBench(t)
	defer b.api.Hold()()
	p := processor.New(b.config(func(c *processor.Config) { c.ShutdownGrace = time.Hour }), b.Store, b.maker(), b.pictures)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); assert.NoError(t, p.Run(ctx)) }()
	id := b.enqueue("a")[0]
	b.seen(processor.EventClaimed, 1)
	cancel()
	p.StopNow()
	p.StopNow()
	<-done
	assert.Equal(t, task.Pending, b.row(id).State)
}

// A worker that was silent for too long finds its task taken over: its completion is refused and its
// picture is gone; the other's stays.
func TestALateWorkersPictureIsDiscarded(t *testing.T) {
	b := newBench(t)
	proceed := make(chan struct{})
	var calls sync.Map
	maker := generatorFunc(func(_ context.Context, _ imageapi.Request, w io.Writer) error {
		if _, second := calls.LoadOrStore("first", true); !second {
			<-proceed // deaf to being told, as a stopped process is
		}
		_, err := w.Write(simapi.Draw("x"))
		return err
	})
	// A lease of an hour: this worker says nothing in the meantime, and has no hand free to take the task over itself.
	b.run(b.config(func(c *processor.Config) { c.Lease, c.Concurrency = time.Hour, 1 }), maker)
	letGo := sync.OnceFunc(func() { close(proceed) })
	t.Cleanup(letGo)
	id := b.enqueue("x")[0]
	b.seen(processor.EventClaimed, 1)
	b.exec(`update image_tasks set lease_expires_at = now() - interval '1 second'`)
	other := newBenchBeside(b)
	require.NoError(t, processor.New(other.config(func(c *processor.Config) { c.Worker = "other" }), b.Store, maker, b.pictures).
		RunOnce(stopWhenCompleted(other)))
	before := b.row(id)
	require.Equal(t, task.Completed, before.State)
	letGo()
	b.seen(processor.EventLeaseLost, 1)
	assert.Equal(t, before, b.row(id))
	assert.Equal(t, []string{before.ImageURL}, b.files())
	b.requireAudit()
}

// newBenchBeside shares everything but the events.
func newBenchBeside(b *bench) *bench {
	other := &bench{Store: b.Store, t: b.t, raw: b.raw, log: b.log, pictures: b.pictures, events: map[processor.EventKind]int{}}
	other.cond = sync.NewCond(&other.mu)
	return other
}

// stopWhenCompleted returns a context that ends once a task was completed.
func stopWhenCompleted(b *bench) context.Context {
	ctx, cancel := context.WithCancel(b.t.Context())
	go func() { defer cancel(); b.seen(processor.EventCompleted, 1) }()
	return ctx
}

func TestACancelledTaskIsLetGoAtTheNextHeartbeat(t *testing.T) {
	b := newBench(t)
	id := b.enqueue("[hang]")[0]
	b.run(b.config(func(c *processor.Config) { c.Lease = 300 * time.Millisecond }), b.maker())
	b.seen(processor.EventClaimed, 1)
	_, err := b.Cancel(t.Context(), id, "the user asked")
	require.NoError(t, err)
	b.seen(processor.EventLeaseLost, 1)
	assert.Equal(t, task.Cancelled, b.row(id).State)
	assert.Empty(t, b.files())
	b.requireAudit()
}

func TestALongTaskKeepsItsLease(t *testing.T) {
	b := newBench(t)
	release := b.api.Hold()
	id := b.enqueue("slow")[0]
	b.run(b.config(func(c *processor.Config) { c.Lease = time.Second }), b.maker())
	b.run(b.config(func(c *processor.Config) { c.Lease = time.Second }), b.maker())
	b.seen(processor.EventLeasesRenewed, 20) // both beat; three beats and a bit are a lease
	assert.Equal(t, "asking the API", b.row(id).Stage)
	release()
	b.seen(processor.EventCompleted, 1)
	assert.EqualValues(t, 1, b.row(id).Epoch)
}

func TestTheGateShutsForCausesThatHoldForAll(t *testing.T) {
	refusal := func(r simapi.Refusal) func(b *bench) func() {
		return func(b *bench) func() {
			b.api.Refuse(&r)
			return func() { b.api.Refuse(nil) }
		}
	}
	for name, shut := range map[string]func(b *bench) (open func()){
		"key refused":                   refusal(simapi.Refusal{Status: 401, Code: "invalid_api_key"}),
		"no quota":                      refusal(simapi.Refusal{Status: 429, Code: "insufficient_quota"}),
		"the wrong country":             refusal(simapi.Refusal{Status: 403, Code: "unsupported_country_region_territory"}),
		"the whole API fails":           refusal(simapi.Refusal{Status: 503}),
		"a web page, whatever is asked": refusal(simapi.Refusal{Status: 200, WebPage: true}),
		"proxy down": func(b *bench) func() {
			require.NoError(b.t, b.proxy.Close())
			return func() {
				again, err := simproxy.StartAt(simproxy.Config{User: "u", Password: "hunter2hunter2"}, b.proxy.Addr())
				require.NoError(b.t, err)
				b.proxy = again
			}
		},
		"proxy refuses": func(b *bench) func() {
			b.proxy.SetMode(simproxy.Refuse)
			return func() { b.proxy.SetMode(simproxy.Serve) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			maker := b.maker()
			open := shut(b)
			ids := b.enqueue("a", "b", "c", "d", "e", "f")
			b.run(b.config(func(c *processor.Config) { c.Concurrency, c.PendingTimeout = 2, time.Hour }), maker)
			b.shut()
			assert.LessOrEqual(t, b.count(processor.EventClaimed), 2)
			open()
			b.seen(processor.EventCompleted, 6)
			assert.Equal(t, 1, b.count(processor.EventCircuitOpened))
			assert.Equal(t, 1, strings.Count(b.log.String(), "the way to the API is shut"), "it is told once")
			for _, id := range ids {
				assert.Equal(t, 1, b.row(id).Attempts)
			}
			assert.Zero(t, b.count(processor.EventFailed))
			b.requireAudit()
		})
	}
}

// PENDING_TIMEOUT goes on while the way is shut.
func TestTasksThatWaitForTooLongFail(t *testing.T) {
	b := newBench(t)
	b.api.Refuse(&simapi.Refusal{Status: 401})
	ids := b.enqueue("a", "b", "c", "d")
	b.exec(`update image_tasks set run_after = now() - interval '2 hours' where task_id <> $1`, ids[3])
	b.exec(`update image_tasks set run_after = now() - interval '3 hours', error_message = 'the proxy was down' where task_id = $1`, ids[2])
	maker := b.maker()
	b.run(b.config(func(c *processor.Config) { c.PendingTimeout, c.Concurrency = time.Hour, 1 }), maker)
	b.seen(processor.EventOverdue, 3)
	b.shut()
	for _, id := range ids[:3] {
		r := b.row(id)
		assert.Equal(t, task.Failed, r.State)
		assert.Equal(t, task.CodePendingTimeout, r.ErrorCode)
		assert.Equal(t, 1, r.Refunded)
	}
	assert.Equal(t, "not started within 1h0m0s (PENDING_TIMEOUT); the proxy was down", b.row(ids[2]).Error)
	require.Eventually(t, func() bool { // whoever has it in hand puts it back first
		b.exec(`update image_tasks set run_after = now() - interval '2 hours' where task_id = $1 and status = 'pending'`, ids[3])
		return b.count(processor.EventOverdue) == 4
	}, time.Minute, 10*time.Millisecond)
	assert.Equal(t, task.Failed, b.row(ids[3]).State)
	b.requireAudit()
}

// A proxy that is restarted breaks what goes through it, and is back before anybody looks. It costs no task, not even
// one that has a single attempt.
func TestAProxyRestartedUnderLoadCostsNoTask(t *testing.T) {
	b := newBench(t)
	_, err := b.Enqueue(t.Context(), store.EnqueueRequest{UserID: b.user, Prompt: "x", Cost: 1, Count: 60, MaxAttempts: 1})
	require.NoError(t, err)
	maker := b.maker()
	release := b.api.Hold()
	b.run(b.config(func(c *processor.Config) { c.Concurrency = 20 }), maker)
	for restart := range 2 {
		require.Eventually(t, func() bool { return b.api.Busy() == 20 }, time.Minute, time.Millisecond)
		require.NoError(t, b.proxy.Close())
		again, err := simproxy.StartAt(simproxy.Config{User: "u", Password: "hunter2hunter2"}, b.proxy.Addr())
		require.NoError(t, err)
		b.proxy = again
		b.seen(processor.EventReleased, 20*(restart+1))
	}
	release()
	b.seen(processor.EventCompleted, 60)
	assert.Zero(t, b.count(processor.EventFailed))
	assert.Zero(t, b.count(processor.EventRetried))
	var odd int
	require.NoError(t, b.raw.QueryRow(`select count(*) from image_tasks where status <> 'completed' or attempt_count <> 1`).Scan(&odd))
	assert.Zero(t, odd)
	b.requireAudit()
}

// A stop that falls into the wait for others uses no attempt up either.
func TestAStopWhileABreakIsLookedIntoUsesNoAttempt(t *testing.T) {
	b := newBench(t)
	broke := make(chan struct{})
	maker := generatorFunc(func(ctx context.Context, r imageapi.Request, _ io.Writer) error {
		if r.Prompt == "breaks" {
			close(broke)
			return &task.Error{Code: task.CodeNetwork, Disposition: task.Retry, Message: "broken"}
		}
		<-ctx.Done()
		return &task.Error{Code: task.CodeShutdown, Disposition: task.Release, Message: "the attempt was broken off"}
	})
	ids := b.enqueue("holds", "holds", "breaks")
	stop := b.run(b.config(func(c *processor.Config) { c.ShutdownGrace = time.Millisecond }), maker)
	<-broke
	b.seen(processor.EventClaimed, 3)
	stop()
	for _, id := range ids {
		assert.Equal(t, task.Pending, b.row(id).State)
		assert.Zero(t, b.row(id).Attempts)
	}
	b.requireAudit()
}

// Where there is another proxy nobody even has to stop.
func TestAProxyOfSeveralThatDiesUnderLoadCostsNoTask(t *testing.T) {
	b := newBench(t)
	second, err := simproxy.Start(simproxy.Config{})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, second.Close()) })
	_, err = b.Enqueue(t.Context(), store.EnqueueRequest{UserID: b.user, Prompt: "x", Cost: 1, Count: 60, MaxAttempts: 1})
	require.NoError(t, err)
	release := b.api.Hold()
	b.run(b.config(func(c *processor.Config) { c.Concurrency = 20 }), b.maker(second.URL()))
	require.Eventually(t, func() bool { return b.api.Busy() == 20 }, time.Minute, time.Millisecond)
	require.NoError(t, b.proxy.Close())
	b.seen(processor.EventReleased, 20)
	release()
	b.seen(processor.EventCompleted, 60)
	assert.Zero(t, b.count(processor.EventFailed))
	assert.Zero(t, b.count(processor.EventCircuitOpened))
	calls := map[bool]int{}
	for _, c := range b.api.Calls() {
		calls[second.Carried(c.Remote)]++
	}
	assert.Equal(t, map[bool]int{false: 20, true: 60}, calls)
	b.requireAudit()
}

// A proxy that cuts every long request off looks like one that was restarted. What is asked again and again may be paid
// for each time, so that this ends.
func TestAWayThatBreaksEveryRequestUsesAttemptsUpInTheEnd(t *testing.T) {
	b := newBench(t)
	ids := b.enqueue("[break] a", "[break] b", "[break] c")
	b.run(b.config(), b.maker())
	b.seen(processor.EventReleased, 3)
	for n := range 2 {
		b.seen(processor.EventRetried, 3*(n+1))
		b.exec(`update image_tasks set run_after = now()`) // sooner than the backoff
	}
	b.seen(processor.EventFailed, 3)
	assert.LessOrEqual(t, len(b.api.Calls()), 3*(3+3))
	for _, id := range ids {
		assert.Equal(t, task.CodeNetwork, b.row(id).ErrorCode)
	}
	b.requireAudit()
}

func TestNoMorePicturesAreAskedForThanTheRateAllows(t *testing.T) {
	b := newBench(t)
	b.enqueue("a", "b", "c", "d", "e", "f")
	stop := b.run(b.config(func(c *processor.Config) { c.RateLimit, c.Concurrency, c.Lease = 1, 5, 300*time.Millisecond }), b.maker())
	b.seen(processor.EventCompleted, 1)
	b.seen(processor.EventLeasesRenewed, b.count(processor.EventLeasesRenewed)+10)
	assert.Equal(t, 1, b.count(processor.EventClaimed), "the next comes in a minute")
	stop()
	b.run(b.config(func(c *processor.Config) { c.RateLimit, c.Concurrency = 60_000, 5 }), b.maker())
	b.seen(processor.EventCompleted, 6)
}

// What one worker is told of the API's limit holds for all of them.
func TestARateLimitHoldsForAllWorkers(t *testing.T) {
	b := newBench(t)
	b.api.Refuse(&simapi.Refusal{Status: 429, Code: "rate_limit_exceeded", RetryAfter: "3600"})
	ids := b.enqueue("a", "b", "c", "d", "e", "f", "g", "h")
	maker := b.maker()
	conf := b.config(func(c *processor.Config) {
		c.Concurrency, c.Lease, c.APIRateLimits = 2, 300*time.Millisecond, maker.(*imageapi.Client).RateLimits
	})
	p := processor.New(conf, b.Store, maker, b.pictures)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); assert.NoError(t, p.Run(ctx)) }()
	b.seen(processor.EventReleased, 1)
	b.seen(processor.EventLeasesRenewed, b.count(processor.EventLeasesRenewed)+10)
	assert.LessOrEqual(t, b.count(processor.EventClaimed), 2, "only what was under way already")
	s := p.Status()
	assert.True(t, s.RateLimited.After(time.Now()))
	assert.Equal(t, "0", s.APIRateLimits.Headers["remaining-requests"])
	assert.Equal(t, "limit-requests 60, remaining-requests 0, reset-requests 3600", s.APIRateLimits.String())
	cancel()
	<-done
	for _, id := range ids {
		assert.Equal(t, task.Pending, b.row(id).State)
		assert.Zero(t, b.row(id).Attempts)
	}
	b.requireAudit()
}

func TestOnceEndsWhenTheWayIsShut(t *testing.T) {
	b := newBench(t)
	b.api.Refuse(&simapi.Refusal{Status: 401})
	ids := b.enqueue("a", "b", "c", "d")
	err := b.once(b.config(), b.maker())
	assert.ErrorIs(t, err, processor.ErrAPIUnavailable)
	var cause *task.Error
	require.ErrorAs(t, err, &cause)
	assert.Equal(t, task.CodeUnauthorized, cause.Code)
	for _, id := range ids {
		assert.Equal(t, task.Pending, b.row(id).State)
		assert.Zero(t, b.row(id).Attempts)
	}
}

func TestAttemptsRunOutAndTheCreditComesBack(t *testing.T) {
	b := newBench(t)
	id := b.enqueue("[500] x")[0]
	b.run(b.config(), b.maker())
	for n := range 2 {
		b.seen(processor.EventRetried, n+1)
		b.exec(`update image_tasks set run_after = now()`) // sooner than the backoff
	}
	b.seen(processor.EventFailed, 1)
	r := b.row(id)
	assert.Equal(t, 3, r.Attempts)
	assert.Equal(t, 1, r.Refunded)
	assert.Equal(t, task.CodeServer, r.ErrorCode)
	assert.Len(t, b.api.Calls(), 3, "only the queue retries")
	b.requireAudit()
}

func TestAnAttemptHasADeadline(t *testing.T) {
	b := newBench(t)
	id := b.enqueue("[hang once] x")[0]
	b.run(b.config(func(c *processor.Config) { c.TaskTimeout = 2 * time.Second }), b.maker())
	b.seen(processor.EventRetried, 1)
	assert.Equal(t, task.CodeTimeout, b.row(id).ErrorCode)
	b.exec(`update image_tasks set run_after = now()`)
	b.seen(processor.EventCompleted, 1)
}

func TestTasksOfADeadWorkerAreTakenUpOrClosed(t *testing.T) {
	b := newBench(t)
	ids := b.enqueue("a", "b")
	claimed, err := b.Claim(t.Context(), store.ClaimRequest{Worker: "dead", Limit: 2, Lease: time.Millisecond, MaxAttempts: 3})
	require.NoError(t, err)
	require.Len(t, claimed, 2)
	b.exec(`update image_tasks set attempt_count = 3 where task_id = $1`, ids[1])
	b.run(b.config(func(c *processor.Config) { c.Lease = time.Second }), b.maker())
	b.seen(processor.EventCompleted, 1)
	b.seen(processor.EventAbandoned, 1)
	assert.Equal(t, task.Completed, b.row(ids[0]).State)
	assert.Equal(t, task.Failed, b.row(ids[1]).State)
	b.requireAudit()
}

func TestAnInputPictureIsSentAlong(t *testing.T) {
	b := newBench(t)
	_, err := b.Enqueue(t.Context(), store.EnqueueRequest{UserID: b.user, Prompt: "hat", Cost: 1, Input: "bm8gcGljdHVyZQ=="})
	require.NoError(t, err)
	_, err = b.Enqueue(t.Context(), store.EnqueueRequest{UserID: b.user, Prompt: "hat", Cost: 1,
		Input: "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="})
	require.NoError(t, err)
	require.NoError(t, b.once(b.config(), b.maker()))
	assert.Equal(t, 1, b.count(processor.EventCompleted))
	assert.Equal(t, 1, b.count(processor.EventFailed))
	require.Len(t, b.api.Calls(), 1)
	assert.NotEmpty(t, b.api.Calls()[0].Input)
	b.requireAudit()
}

// A foreign text in an error must not keep the database from taking the last word.
func TestAFailureInStrangeLettersIsStillStored(t *testing.T) {
	b := newBench(t)
	id := b.enqueue("x")[0]
	require.NoError(t, b.once(b.config(), generatorFunc(func(context.Context, imageapi.Request, io.Writer) error {
		return &task.Error{Code: task.CodeBadAnswer, Message: "a\x00b\xff" + strings.Repeat("ü", 5000)}
	})))
	r := b.row(id)
	assert.Equal(t, task.Failed, r.State)
	assert.True(t, strings.HasPrefix(r.Error, "a?b?üü"))
	assert.Less(t, len(r.Error), 2100)
}

func TestADatabaseThatGoesAwayIsWaitedFor(t *testing.T) {
	cluster, err := postgres.Start(t.Context(), postgres.Config{})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, cluster.Stop()) })
	require.NoError(t, migrate(t.Context(), cluster.URL("postgres")))
	b := benchOn(t, cluster.URL("postgres"))
	release := b.api.Hold()
	ids := b.enqueue("a", "b", "c", "d", "e", "f", "g")
	b.run(b.config(func(c *processor.Config) { c.Lease = time.Minute }), b.maker())
	b.seen(processor.EventClaimed, 3)

	require.NoError(t, cluster.Halt()) // a crash, with pictures under way
	release()
	b.seen(processor.EventDatabaseLost, 1)
	require.Eventually(t, func() bool { return len(b.files()) == 3 }, time.Minute, time.Millisecond, "the pictures wait")
	require.NoError(t, cluster.Launch(t.Context()))
	b.seen(processor.EventCompleted, 7)
	assert.Equal(t, 1, strings.Count(b.log.String(), "the database is away"), "it is told once:\n%s", b.log)
	for _, id := range ids {
		assert.Equal(t, 1, b.row(id).Attempts, "no attempt was lost")
	}
	b.requireAudit()
}

func TestStatusTellsHowItStands(t *testing.T) {
	b := newBench(t)
	p := processor.New(b.config(), b.Store, b.maker(), b.pictures)
	b.enqueue("a", "[moderation]")
	b.api.Refuse(&simapi.Refusal{Status: 403})
	assert.ErrorIs(t, p.RunOnce(t.Context()), processor.ErrAPIUnavailable)
	s := p.Status()
	assert.Equal(t, task.CodeForbidden, s.APIErrorCode)
	assert.False(t, s.APIUnreachableSince.IsZero())
	assert.Positive(t, s.Counts[processor.EventReleased])
	assert.Zero(t, s.InFlight)
	assert.False(t, errors.Is(nil, processor.ErrAPIUnavailable))
}

// An idle processor looks after the database and the API by itself, tells the database that it lives, and takes its
// leave at the end.
func TestSignsOfLifeAndHealthChecks(t *testing.T) {
	b := newBench(t)
	p := processor.New(b.config(func(c *processor.Config) {
		c.Worker, c.Host, c.PID, c.Version = "host:7:x", "host", 7, "1.2.3"
		c.HeartbeatInterval, c.CheckInterval, c.ProbeInterval = 20*time.Millisecond, 20*time.Millisecond, time.Nanosecond
	}), b.Store, b.maker(), b.pictures)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); assert.NoError(t, p.Run(ctx)) }()
	b.seen(processor.EventHealthChecked, 30)
	b.seen(processor.EventHeartbeat, 3)
	s := p.Status()
	assert.Len(t, s.Checks, health.Kept)
	for _, c := range s.Checks {
		assert.True(t, c.OK, "%+v", c)
	}
	assert.False(t, s.LastHeartbeat.IsZero())
	known, err := b.Processors(t.Context())
	require.NoError(t, err)
	require.Len(t, known, 1)
	assert.Equal(t, "host:7:x", known[0].Worker)
	assert.Equal(t, "1.2.3", known[0].Version)
	assert.Contains(t, string(known[0].Report), `"health_checks"`)

	// The proxy goes: it is found out with no task lost to it.
	require.NoError(t, b.proxy.Close())
	b.seen(processor.EventCircuitOpened, 1)
	require.Eventually(t, func() bool {
		last := p.Status().Checks
		return !last[0].OK && last[0].Name == "api" && last[0].Action != ""
	}, time.Minute, time.Millisecond)
	cancel()
	<-done
	known, err = b.Processors(t.Context())
	require.NoError(t, err)
	assert.Empty(t, known)
}

// A loop that hangs gives no sign of life, so that others can tell.
func TestAHangingLoopIsSilent(t *testing.T) {
	b := newBench(t)
	release := make(chan struct{})
	stuck := hangingQueue{Store: b.Store, hangs: make(chan struct{}), release: release}
	conf := b.config(func(c *processor.Config) {
		c.HeartbeatInterval, c.PollInterval, c.StallTimeout = 5*time.Millisecond, 5*time.Millisecond, 10*time.Millisecond
	})
	p := processor.New(conf, stuck, b.maker(), b.pictures)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); assert.NoError(t, p.Run(ctx)) }()
	<-stuck.hangs
	require.Eventually(t, func() bool { return strings.Contains(b.log.String(), "the loop hangs") }, time.Minute, time.Millisecond)
	cancel()
	close(release)
	<-done
}

// hangingQueue is a store whose claim hangs, deaf to its context.
type hangingQueue struct {
	*store.Store
	hangs   chan struct{}
	release chan struct{}
}

func (q hangingQueue) Claim(context.Context, store.ClaimRequest) ([]task.Task, error) {
	select {
	case q.hangs <- struct{}{}:
	case <-q.release:
	}
	<-q.release
	return nil, nil
}
