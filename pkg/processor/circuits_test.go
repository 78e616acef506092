package processor_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/simapi"
	"imagetasks/internal/simproxy"
	"imagetasks/pkg/imageapi"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// fakeAPI is a client whose requests and checks fail as the test says. It counts its paid requests.
type fakeAPI struct {
	picture []byte
	took    time.Duration // of a request

	mu       sync.Mutex
	fails    func(imageapi.Request) error // of a request
	checks   error                        // of a check
	requests []string                     // prompts
	at       []time.Time                  // when
}

func newFakeAPI() *fakeAPI { return &fakeAPI{picture: simapi.Draw("x"), took: 5 * time.Millisecond} }

// set makes requests and checks fail from now on.
func (a *fakeAPI) set(fails func(imageapi.Request) error, checks error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.fails, a.checks = fails, checks
}

func (a *fakeAPI) Generate(ctx context.Context, r imageapi.Request, w io.Writer) (imageapi.Result, error) {
	if r.BeforeSend != nil {
		if _, err := r.BeforeSend(ctx); err != nil {
			return imageapi.Result{}, err
		}
	}
	a.mu.Lock()
	a.requests, a.at = append(a.requests, r.Prompt), append(a.at, time.Now())
	fails := a.fails
	a.mu.Unlock()
	select {
	case <-ctx.Done():
		return imageapi.Result{}, &task.Error{Code: task.CodeShutdown, Disposition: task.Release, Unknown: true}
	case <-time.After(a.took):
	}
	if fails != nil {
		if err := fails(r); err != nil {
			return imageapi.Result{}, err
		}
	}
	_, err := w.Write(a.picture)
	return imageapi.Result{}, err
}

func (a *fakeAPI) Check(context.Context, string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.checks
}

func (a *fakeAPI) Download(_ context.Context, _ string, _ int, w io.Writer) error {
	_, err := w.Write(a.picture)
	return err
}

func (a *fakeAPI) Endpoint() string                         { return "http://api.example/v1" }
func (a *fakeAPI) SizeNote(string, imageapi.Options) string { return "" }

func (a *fakeAPI) paid() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.requests)
}

func always(err error) func(imageapi.Request) error {
	return func(imageapi.Request) error { return err }
}

// Failures as the tables of imageapi have them.
var (
	webPage = &task.Error{Code: task.CodeWebPage, Disposition: task.Release, Scope: task.ScopeEndpoint, Unknown: true, Message: "a web page"}
	seen    = &task.Error{Code: task.CodeWebPage, Disposition: task.Release, Scope: task.ScopeEndpoint, Message: "a web page"}
	broke   = &task.Error{Code: task.CodeNetwork, Disposition: task.Release, Scope: task.ScopeEndpoint, Unknown: true, Message: "the connection broke"}
	failing = &task.Error{Code: task.CodeServer, Disposition: task.Retry, Scope: task.ScopeEndpoint, Message: "the API failed (500)"}
	noModel = &task.Error{Code: task.CodeModelRefused, Disposition: task.Pause, Scope: task.ScopeModel, Message: "no access to the model"}
)

func (f *fixture) enqueueFor(model string, n int) []string {
	f.t.Helper()
	var ids []string
	options := json.RawMessage(`{}`)
	if model != "" {
		options = json.RawMessage(fmt.Sprintf(`{"model": %q}`, model))
	}
	for i := range n {
		made, err := f.Enqueue(f.t.Context(), store.EnqueueRequest{UserID: f.user, Prompt: fmt.Sprintf("%s %d", model, i), Options: options, Cost: 1})
		require.NoError(f.t, err)
		ids = append(ids, made.TaskIDs...)
	}
	return ids
}

// testOutage is one in which all requests fail.
type testOutage struct {
	fails, check error
	scale        int // of the waits
	lasts        time.Duration
	tasks        int
	concurrency  int // 0: the default, 3
}

// during runs a processor through an outage, with three tasks in flight, and returns how many paid requests were made meanwhile.
func (o testOutage) during(t *testing.T) (f *fixture, paid int) {
	f = newFixture(t)
	api := newFakeAPI()
	api.set(always(o.fails), o.check)
	_, err := f.Enqueue(t.Context(), store.EnqueueRequest{UserID: f.user, Prompt: "x", Cost: 1, Count: o.tasks})
	require.NoError(t, err)
	f.run(f.config(func(c *processor.Config) {
		c.ScaleCircuits(o.scale)
		c.DefaultModel, c.Concurrency = "m", o.concurrency
	}), api)
	time.Sleep(o.lasts) // the outage
	paid = api.paid()
	api.set(nil, nil)
	return f, paid
}

// A web page with status 200 for a minute under 100 tasks: no task fails, all complete afterwards, and few requests are sent meanwhile.
func TestOutage_WebPageForAMinute(t *testing.T) {
	for name, check := range map[string]error{"the check sees it": seen, "the check says nothing": nil, "the endpoint can't be checked": task.ErrUncheckable} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, paid := testOutage{fails: webPage, check: check, scale: 20, lasts: 3 * time.Second, tasks: 100}.during(t)
			assert.LessOrEqual(t, paid, 10)
			f.exec(`update imagetasks.tasks set run_after = now() where status = 'pending'`) // sooner than the backoff
			f.seen(processor.EventCompleted, 100)
			assert.Zero(t, f.count(processor.EventFailed))
			f.requireAudit()
		})
	}
}

// A processor for many tasks at a time that meets an outage at its start, or after it had nothing to do, risks no more requests than one for a few.
func TestOutage_ManyAtATime(t *testing.T) {
	t.Parallel()
	f, paid := testOutage{fails: webPage, check: seen, scale: 20, lasts: 2 * time.Second, tasks: 100, concurrency: 50}.during(t)
	assert.LessOrEqual(t, paid, 5)
	f.exec(`update imagetasks.tasks set run_after = now() where status = 'pending'`)
	f.seen(processor.EventCompleted, 100)
	assert.Zero(t, f.count(processor.EventFailed))

	// One that works is used by all of them at once.
	works := newFixture(t)
	release := make(chan struct{})
	api := newFakeAPI()
	api.set(func(imageapi.Request) error { <-release; return nil }, nil)
	_, err := works.Enqueue(t.Context(), store.EnqueueRequest{UserID: works.user, Prompt: "x", Cost: 1, Count: 50})
	require.NoError(t, err)
	works.run(works.config(func(c *processor.Config) { c.Concurrency = 50 }), api)
	require.Eventually(t, func() bool { return api.paid() == 50 }, 30*time.Second, 5*time.Millisecond)
	close(release)
	works.seen(processor.EventCompleted, 50)
}

// An hour's outage, with three tasks in flight at its beginning, makes at most 15 paid requests.
func TestOutage_AnHour(t *testing.T) {
	const scale = 200
	for name, o := range map[string]testOutage{
		"a page that the check sees":         {fails: webPage, check: seen},
		"a page that the check does not see": {fails: webPage},
		"a page, and no check is possible":   {fails: webPage, check: task.ErrUncheckable},
		"connections break, and checks work": {fails: broke},
		"no connection": {fails: &task.Error{Code: task.CodeProxyRefused, Disposition: task.Pause, Scope: task.ScopeProxy, NotSent: true},
			check: &task.Error{Code: task.CodeProxyRefused, Disposition: task.Pause, Scope: task.ScopeProxy, NotSent: true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o.scale, o.lasts, o.tasks = scale, time.Hour/scale, 50
			f, paid := o.during(t)
			assert.LessOrEqual(t, paid, 15, "%s", f.log)
			assert.Zero(t, f.count(processor.EventFailed), "another task is tried each time")
			f.requireAudit()
		})
	}
}

// Several failures of the API in a row that it answers use few attempts; the rest waits, and goes on when it works.
func TestOutage_ServerErrors(t *testing.T) {
	uncheckable := *failing
	uncheckable.Err = task.ErrUncheckable
	for name, check := range map[string]error{"the check says nothing": nil, "the check fails as well": &uncheckable} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, paid := testOutage{fails: failing, check: check, scale: 20, lasts: 3 * time.Second, tasks: 50}.during(t)
			assert.LessOrEqual(t, paid, 12)
			var attempts int
			require.NoError(t, f.raw.QueryRow(`select sum(attempt_count) from imagetasks.tasks`).Scan(&attempts))
			assert.LessOrEqual(t, attempts, 6)
			f.exec(`update imagetasks.tasks set run_after = now() where status = 'pending'`)
			f.seen(processor.EventCompleted, 50)
			assert.Zero(t, f.count(processor.EventFailed))
		})
	}
}

// An API that fails three of ten requests keeps its speed.
func TestOutage_FlakyAPI(t *testing.T) {
	took := func(rate int64) time.Duration {
		f := newFixture(t)
		api := newFakeAPI()
		api.took = 50 * time.Millisecond
		var n atomic.Int64
		api.set(func(imageapi.Request) error {
			if n.Add(1)*7919%10 < rate {
				return failing
			}
			return nil
		}, nil)
		_, err := f.Enqueue(t.Context(), store.EnqueueRequest{UserID: f.user, Prompt: "x", Cost: 1, Count: 200})
		require.NoError(t, err)
		began := time.Now()
		f.run(f.config(func(c *processor.Config) { c.Concurrency = 8; c.ScaleCircuits(1) }), api)
		require.Eventually(t, func() bool { return f.count(processor.EventCompleted) >= 120 }, time.Minute, time.Millisecond)
		return time.Since(began)
	}
	alone, flaky := took(0), took(3)
	assert.Less(t, flaky, 3*alone)
}

// A model that is refused stops its own tasks only: they wait without using an attempt, and the others finish as fast as alone.
func TestModel_RefusedStopsOnlyItself(t *testing.T) {
	t.Parallel()
	began := map[bool]time.Duration{}
	for _, mixed := range []bool{false, true} {
		f := newFixture(t)
		api := newFakeAPI()
		api.took = 100 * time.Millisecond
		api.set(func(r imageapi.Request) error {
			if r.Model == "" {
				return noModel
			}
			return nil
		}, nil)
		var waiting []string
		if mixed {
			waiting = f.enqueueFor("", 6)
		}
		good := f.enqueueFor("good", 12)
		start := time.Now()
		p := f.processor(f.config(func(c *processor.Config) { c.DefaultModel = "bad"; c.ScaleCircuits(1) }), api)
		f.start(p)
		f.seen(processor.EventCompleted, 12)
		began[mixed] = time.Since(start)
		for _, id := range good {
			assert.Equal(t, task.Completed, f.row(id).State)
		}
		for _, id := range waiting {
			r := f.row(id)
			assert.Equal(t, task.Pending, r.State)
			assert.Zero(t, r.Attempts)
		}
		if mixed {
			circuits := p.Status().Circuits
			require.Len(t, circuits, 3)
			assert.Equal(t, processor.CircuitClosed, circuits[0].State, "the endpoint works")
			assert.Equal(t, "bad", circuits[2].Name)
			assert.Equal(t, processor.CircuitOpen, circuits[2].State)
			assert.Zero(t, p.Status().APIUnreachableSince)
			assert.LessOrEqual(t, api.paid(), 12+3, "requests of the refused model: those that were in flight at first")
		}
		f.requireAudit()
	}
	assert.Less(t, began[true], began[false]+time.Second)
}

// A refused model that works again is found out: by a check that saw the refusal, or by trials of its tasks.
func TestModel_WorksAgain(t *testing.T) {
	for name, check := range map[string]error{"the check sees it": noModel, "the check says nothing": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			api := newFakeAPI()
			api.set(always(noModel), check)
			f.enqueueFor("bad", 6)
			f.run(f.config(func(c *processor.Config) { c.DefaultModel = "bad" }), api)
			f.seen(processor.EventCircuitOpened, 1)
			require.Eventually(t, func() bool { return f.count(processor.EventClaimed) == f.count(processor.EventReleased) }, time.Minute, time.Millisecond)
			api.set(nil, nil)
			f.seen(processor.EventCompleted, 6)
			assert.Zero(t, f.count(processor.EventFailed))
			f.requireAudit()
		})
	}
}

// A refused model that is not the default and never worked fails and refunds at once; one that worked, also in another process, waits.
func TestModel_NeverWorked(t *testing.T) {
	f := newFixture(t)
	api := newFakeAPI()
	f.enqueueFor("worked", 1)
	stop := f.run(f.config(func(c *processor.Config) { c.DefaultModel = "m" }), api)
	f.seen(processor.EventCompleted, 1)
	stop()
	models, err := f.WorkedModels(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []store.Model{{Endpoint: api.Endpoint(), Name: "worked"}}, models)

	api.set(always(noModel), nil)
	wrong, worked := f.enqueueFor("wrong", 3), f.enqueueFor("worked", 3)
	f.run(f.config(func(c *processor.Config) { c.DefaultModel = "m" }), api)
	f.seen(processor.EventFailed, 3)
	f.seen(processor.EventCircuitOpened, 1)
	for _, id := range wrong {
		r := f.row(id)
		assert.Equal(t, task.CodeModelRefused, r.ErrorCode)
		assert.EqualValues(t, 1, r.Refunded)
		assert.Zero(t, r.Attempts)
	}
	for _, id := range worked {
		assert.NotEqual(t, task.Failed, f.row(id).State)
	}
	f.requireAudit()
}

// A run that ends by itself does not wait for a model that is refused.
func TestModel_RunOnceEnds(t *testing.T) {
	f := newFixture(t)
	api := newFakeAPI()
	api.set(func(r imageapi.Request) error {
		if r.Model == "bad" {
			return noModel
		}
		return nil
	}, nil)
	f.enqueueFor("bad", 5)
	good := f.enqueueFor("good", 5)
	err := f.once(f.config(func(c *processor.Config) { c.DefaultModel = "bad"; c.ScaleCircuits(1) }), api)
	require.ErrorIs(t, err, processor.ErrAPIUnavailable)
	var cause *task.Error
	require.ErrorAs(t, err, &cause)
	assert.Equal(t, task.CodeModelRefused, cause.Code)
	for _, id := range good {
		assert.Equal(t, task.Completed, f.row(id).State)
	}
}

// While pictures can't be stored no paid request is made, and what waits goes on soon after.
func TestPictureStore_Circuit(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	api := newFakeAPI()
	full := &task.Error{Code: task.CodePictureStore, Disposition: task.Pause, Scope: task.ScopeAll, NotSent: true, Message: "no space left"}
	api.set(nil, nil)
	var stored atomic.Pointer[task.Error]
	stored.Store(full)
	client := generatorOf(api, func(context.Context, imageapi.Request) error {
		if e := stored.Load(); e != nil {
			return e
		}
		return nil
	})
	_, err := f.Enqueue(t.Context(), store.EnqueueRequest{UserID: f.user, Prompt: "x", Cost: 1, Count: 20})
	require.NoError(t, err)
	conf := f.config(func(c *processor.Config) {
		c.ScaleCircuits(1)
		c.CheckStore = func(context.Context) error {
			if e := stored.Load(); e != nil {
				return e
			}
			return nil
		}
	})
	p := f.processor(conf, client)
	f.start(p)
	f.seen(processor.EventCircuitOpened, 1)
	require.Eventually(t, func() bool { return p.Status().InFlight == 0 }, time.Minute, time.Millisecond)
	claimed := f.count(processor.EventClaimed)
	s := p.Status()
	assert.False(t, s.PicturesFailingSince.IsZero())
	assert.Equal(t, "no space left", s.PicturesError)
	assert.Zero(t, s.APIUnreachableSince, "the API has nothing to do with it")
	f.seen(processor.EventLeasesRenewed, f.count(processor.EventLeasesRenewed)+3)
	assert.Equal(t, claimed, f.count(processor.EventClaimed), "nothing is claimed")
	assert.Zero(t, api.paid())
	stored.Store(nil)
	began := time.Now()
	f.seen(processor.EventCompleted, 1)
	assert.Less(t, time.Since(began), 10*time.Second)
	f.seen(processor.EventCompleted, 20)
}

// A key that may not list models, and a proxy that is restarted under 50 tasks: work goes on within 5 s of its return.
func TestProxyRestart_WorkGoesOn(t *testing.T) {
	t.Parallel()
	for name, down := range map[string]time.Duration{"at once": 0, "after a while": 2 * time.Second} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.api.RefuseList(simapi.Failure("no access"))
			_, err := f.Enqueue(t.Context(), store.EnqueueRequest{UserID: f.user, Prompt: "x", Cost: 1, Count: 50})
			require.NoError(t, err)
			release := f.api.BlockResponses()
			f.run(f.config(func(c *processor.Config) { c.ScaleCircuits(1) }), f.client())
			require.Eventually(t, func() bool { return f.api.Busy() == 3 }, time.Minute, time.Millisecond)
			release()
			f.seen(processor.EventCompleted, 5)
			release = f.api.BlockResponses()
			require.Eventually(t, func() bool { return f.api.Busy() == 3 }, time.Minute, time.Millisecond)
			require.NoError(t, f.proxy.Close())
			release()
			time.Sleep(down) // the proxy is down
			calls, done := len(f.api.Calls()), f.count(processor.EventCompleted)
			f.startProxy()
			returned := time.Now()
			f.seen(processor.EventCompleted, done+1)
			assert.Less(t, time.Since(returned), 5*time.Second)
			assert.Greater(t, len(f.api.Calls()), calls)
			f.seen(processor.EventCompleted, 50)
			assert.Less(t, time.Since(returned), 20*time.Second)
			assert.Zero(t, f.count(processor.EventFailed))
			f.requireAudit()
		})
	}
}

// A proxy that is restarted again and again makes no task be requested more often than RETRY_UNKNOWN allows.
func TestProxyRestart_TenTimes(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	api := f.api
	_, err := f.Enqueue(t.Context(), store.EnqueueRequest{UserID: f.user, Prompt: "x", Cost: 1, Count: 20})
	require.NoError(t, err)
	f.run(f.config(func(c *processor.Config) { c.ScaleCircuits(200) }), f.client())
	for range 10 {
		release := api.BlockResponses()
		calls := len(api.Calls())
		require.Eventually(t, func() bool {
			return len(api.Calls()) > calls || f.count(processor.EventCompleted)+f.count(processor.EventFailed) == 20
		},
			time.Minute, time.Millisecond)
		f.proxy.Restart()
		release()
	}
	require.Eventually(t, func() bool {
		f.exec(`update imagetasks.tasks set run_after = now() where status = 'pending' and run_after < now() + interval '4 seconds'`) // sooner than the backoff
		return f.count(processor.EventCompleted)+f.count(processor.EventFailed) == 20
	}, time.Minute, 50*time.Millisecond)
	var tooMany, otherwise int
	require.NoError(t, f.raw.QueryRow(`select count(*) filter (where requests_sent > 2 or attempt_count > 0),
		count(*) filter (where status <> 'completed' and error_code <> 'outcome_unknown') from imagetasks.tasks`).Scan(&tooMany, &otherwise))
	assert.Zero(t, tooMany)
	assert.Zero(t, otherwise)
	f.requireAudit()
}

// Neither of two proxies is ejected for a model that is refused.
func TestModel_RefusedEjectsNoProxy(t *testing.T) {
	f := newFixture(t)
	second, err := simproxy.Start(simproxy.Config{})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, second.Close()) })
	f.api.RefuseModel("bad", simapi.Failure("not verified"))
	f.enqueueFor("bad", 6)
	f.enqueueFor("m", 12)
	client := f.client(second.URL())
	p := f.processor(f.config(func(c *processor.Config) { c.DefaultModel = "bad" }), client)
	f.start(p)
	f.seen(processor.EventCompleted, 12)
	for _, c := range f.api.Calls() {
		assert.True(t, f.proxy.Carried(c.Remote), "the first proxy serves on")
	}
	names := []string{}
	for _, c := range p.Status().Circuits {
		if c.State != processor.CircuitClosed {
			names = append(names, c.Scope+" "+c.Name)
		}
	}
	assert.Equal(t, []string{"model bad"}, slices.Compact(names))
}

// What is paid for is fetched while the endpoint is out of order, which that does not end.
func TestPending_FetchedWhileTheEndpointIsOpen(t *testing.T) {
	f := newFixture(t)
	api := newFakeAPI()
	refusedKey := &task.Error{Code: task.CodeUnauthorized, Disposition: task.Pause, Scope: task.ScopeEndpoint, Message: "key"}
	api.set(always(refusedKey), refusedKey)
	ids := f.enqueue("paid for")
	claimed, err := f.Claim(t.Context(), store.ClaimRequest{Worker: "earlier", Limit: 1, Lease: time.Minute, MaxAttempts: 3})
	require.NoError(t, err)
	require.NoError(t, f.SavePending(t.Context(), claimed[0].Lease(), task.PendingResult{Ref: "https://pictures.example/a.png"}))
	_, err = f.Release(t.Context(), store.ReleaseRequest{Lease: claimed[0].Lease(), Wait: time.Hour, Cause: &task.Error{Code: task.CodeDownload}})
	require.NoError(t, err)
	f.enqueue("a", "b", "c")
	p := f.processor(f.config(), api)
	f.start(p)
	f.circuitOpened()
	paid := api.paid()
	f.exec(`update imagetasks.tasks set run_after = now() where task_id = $1`, ids[0])
	f.seen(processor.EventCompleted, 1)
	assert.Equal(t, task.Completed, f.row(ids[0]).State)
	assert.Equal(t, paid, api.paid())
	assert.Equal(t, processor.CircuitOpen, p.Status().Circuits[0].State)
	f.requireAudit()
}

// Answers without a picture may have been billed: their tasks fail, and after some in a row the rest waits.
func TestOutage_AnswersWithoutAPicture(t *testing.T) {
	t.Parallel()
	nothing := &task.Error{Code: task.CodeBadAnswer, Disposition: task.Fail, Scope: task.ScopeEndpoint, Message: "no picture"}
	f, paid := testOutage{fails: nothing, scale: 20, lasts: 3 * time.Second, tasks: 30}.during(t)
	assert.LessOrEqual(t, paid, 10)
	f.exec(`update imagetasks.tasks set run_after = now() where status = 'pending'`)
	require.Eventually(t, func() bool { return f.count(processor.EventCompleted)+f.count(processor.EventFailed) == 30 }, time.Minute, 10*time.Millisecond)
	assert.LessOrEqual(t, f.count(processor.EventFailed), 10)
	f.requireAudit()
}
