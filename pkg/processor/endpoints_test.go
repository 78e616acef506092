package processor_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/simapi"
	"imagetasks/pkg/health"
	"imagetasks/pkg/imageapi"
	"imagetasks/pkg/imageworker"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// simulated is an endpoint with a simulated API of its own.
type simulated struct {
	processor.Endpoint
	api    *simapi.Server
	client *imageapi.Client
}

// endpoints returns endpoints with these names, in the order of preference.
func (f *fixture) endpoints(names ...string) (all []*simulated) {
	f.t.Helper()
	for i, name := range names {
		api, err := simapi.Start(simapi.Config{Key: key})
		require.NoError(f.t, err)
		f.t.Cleanup(func() { assert.NoError(f.t, api.Close()) })
		client := f.clientOf(api)
		all = append(all, &simulated{api: api, client: client,
			Endpoint: processor.Endpoint{Name: name, Address: client.Endpoint(), Preference: i + 1, Check: client.Check}})
	}
	return all
}

// processorFor returns a processor that makes pictures at these endpoints, for a price of 0.04 USD each.
func (f *fixture) processorFor(conf processor.Config, endpoints ...*simulated) *processor.Processor {
	conf.Endpoints = nil
	for _, e := range endpoints {
		conf.Endpoints = append(conf.Endpoints, e.Endpoint)
	}
	named := func(name string) (imageworker.Endpoint, bool) {
		i := max(0, slices.IndexFunc(endpoints, func(e *simulated) bool { return e.Name == name }))
		return imageworker.Endpoint{Generator: endpoints[i].client, Name: endpoints[i].Name,
			ModelThere: func(model string) string { return endpoints[i].Name + "/" + model },
			Cost:       func(string, imageapi.Options) (int64, string) { return 40_000, "USD" }}, true
	}
	return processor.New(conf, f.Store, imageworker.New(named, f.pictures, f.logger))
}

func (f *fixture) enqueueModel(model string, n int) {
	f.t.Helper()
	for range n {
		_, err := f.Enqueue(f.t.Context(), store.EnqueueRequest{UserID: f.user, Prompt: "x", Cost: 1, Options: json.RawMessage(fmt.Sprintf(`{"model": %q}`, model))})
		require.NoError(f.t, err)
	}
}

func (f *fixture) number(query string, args ...any) (n int) {
	f.t.Helper()
	require.NoError(f.t, f.raw.QueryRowContext(f.t.Context(), query, args...).Scan(&n))
	return n
}

// Work moves within one request when the first endpoint is out of quota, and comes back when that is topped up.
func TestEndpoints_OutOfQuota(t *testing.T) {
	f := newFixture(t)
	e := f.endpoints("first", "second")
	refusal := simapi.Failure("user quota")
	e[0].api.Refuse(refusal)
	f.enqueue("a", "b", "c", "d", "e", "f")
	conf := f.config(func(c *processor.Config) { c.DefaultModel, c.Concurrency = "m", 1 })
	f.start(f.processorFor(conf, e...))
	f.seen(processor.EventCompleted, 6)
	assert.Zero(t, e[0].api.Paid())
	assert.Equal(t, 6, e[1].api.Paid())
	refused := len(e[0].api.Calls())
	assert.LessOrEqual(t, refused, 3, "one request, and a trial now and then while the six were made")
	assert.Equal(t, 6, f.number(`select count(*) from imagetasks.tasks where status = 'completed' and endpoint = 'second' and attempt_count = 0`))
	assert.LessOrEqual(t, f.number(`select count(*) from imagetasks.tasks where requests_sent > 1`), 2, "the task of a request moved")

	e[0].api.Refuse(nil)
	require.Eventually(t, func() bool {
		f.enqueue("later")
		time.Sleep(50 * time.Millisecond)
		return e[0].api.Paid() >= 3
	}, time.Minute, 10*time.Millisecond, "it is topped up: %s", f.log)
	f.requireAudit()
	assert.Contains(t, f.log.String(), "claiming for this endpoint is paused")
	assert.NotContains(t, f.log.String(), "claiming is paused")
	// Each picture has its cost, and the names are those of the endpoint that made it.
	require.Eventually(t, func() bool { return f.number(`select count(*) from imagetasks.tasks where status <> 'completed'`) == 0 }, time.Minute, 10*time.Millisecond)
	assert.Equal(t, f.number(`select count(*) from imagetasks.tasks`),
		f.number(`select count(*) from imagetasks.results where outcome = 'completed' and cost = 40000 and currency = 'USD' and model = endpoint || '/' and took_ms >= 0`))
	for _, c := range e[1].api.Calls() {
		assert.Equal(t, "second/", c.Model)
	}
}

// The health checks of several endpoints say which one fails, and that only its own claiming is paused. They leave the database's among the last.
func TestEndpoints_HealthChecks(t *testing.T) {
	f := newFixture(t)
	names := []string{"first", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k"}
	e := f.endpoints(names...)
	e[0].api.SetKey("another")
	p := f.processorFor(f.config(func(c *processor.Config) { c.CheckInterval, c.ProbeInterval = 20*time.Millisecond, time.Nanosecond }), e...)
	f.start(p)
	require.Eventually(t, func() bool {
		checks := p.Status().Checks
		return len(checks) == len(names)+1 &&
			slices.ContainsFunc(checks, func(c health.Check) bool { return c.Name == "database" && c.OK }) &&
			slices.ContainsFunc(checks, func(c health.Check) bool {
				return c.Name == "api first" && !c.OK && c.Action == "claiming for this endpoint is paused"
			})
	}, time.Minute, 5*time.Millisecond)
}

// Many tasks in flight at the endpoint that runs out of quota move, too.
func TestEndpoints_OutOfQuotaWithManyInFlight(t *testing.T) {
	f := newFixture(t)
	e := f.endpoints("first", "second")
	e[0].api.Refuse(simapi.Failure("token quota"))
	f.enqueue(slices.Repeat([]string{"x"}, 40)...)
	f.start(f.processorFor(f.config(func(c *processor.Config) { c.Concurrency = 10 }), e...))
	f.seen(processor.EventCompleted, 40)
	assert.Equal(t, 40, e[1].api.Paid())
	assert.Zero(t, f.number(`select count(*) from imagetasks.tasks where attempt_count > 0 or credits_refunded > 0`))
	f.requireAudit()
}

// A model that only the second has goes there at once, also while the tasks of the first wait for it; one that none has fails.
func TestEndpoints_Models(t *testing.T) {
	f := newFixture(t)
	e := f.endpoints("first", "second")
	e[0].Models, e[1].Models = []string{"a"}, []string{"a", "b"}
	e[0].Concurrency = 1
	release := e[0].api.BlockResponses()
	f.enqueueModel("a", 1)
	f.start(f.processorFor(f.config(func(c *processor.Config) { c.Concurrency = 4 }), e...))
	require.Eventually(t, func() bool { return e[0].api.Busy() == 1 }, time.Minute, time.Millisecond)
	f.enqueueModel("b", 3)
	f.enqueueModel("none", 1)
	f.seen(processor.EventCompleted, 3)
	f.seen(processor.EventFailed, 1)
	release()
	f.seen(processor.EventCompleted, 4)
	assert.Equal(t, 3, e[1].api.Paid())
	assert.Equal(t, 1, f.number(`select count(*) from imagetasks.tasks where status = 'failed' and error_code = 'api_model_refused' and credits_refunded = 1
		and error_message = 'no endpoint has the model "none"'`))
	f.requireAudit()
}

// A model that the first refuses is made by the second, and the other models stay with the first.
func TestEndpoints_ModelRefusedByOne(t *testing.T) {
	f := newFixture(t)
	e := f.endpoints("first", "second")
	e[0].api.RefuseModel("first/a", simapi.Failure("no channel zh"))
	// It has worked there before; a model that never did fails.
	require.NoError(t, f.RecordModel(t.Context(), store.Model{Endpoint: e[0].Address, Name: "a"}))
	f.enqueueModel("a", 4)
	f.enqueueModel("b", 4)
	p := f.processorFor(f.config(), e...)
	f.start(p)
	f.seen(processor.EventCompleted, 8)
	assert.Equal(t, 4, f.number(`select count(*) from imagetasks.tasks where endpoint = 'second' and model = 'a'`))
	assert.Equal(t, 4, f.number(`select count(*) from imagetasks.tasks where endpoint = 'first' and model = 'b'`))
	assert.Condition(t, func() bool {
		return slices.ContainsFunc(p.Status().Circuits, func(c processor.Circuit) bool {
			return c.Scope == processor.CircuitModel && c.Endpoint == "first" && c.Name == "a"
		})
	})
	f.requireAudit()
}

// A request that may have been received is repeated at its own endpoint only, with the same key, also when that is out of order for some time.
func TestEndpoints_UnknownOutcomeIsNotRepeatedElsewhere(t *testing.T) {
	f := newFixture(t)
	e := f.endpoints("first", "second")
	e[0].api.SetBehaviour("cut")
	f.enqueue("a")
	conf := f.config(func(c *processor.Config) { c.Concurrency = 1 })
	stop := f.start(f.processorFor(conf, e...))
	f.seen(processor.EventOutcomeUnknown, 1)
	e[0].api.SetBehaviour("")
	f.seen(processor.EventCompleted, 1)
	stop()
	calls := e[0].api.Calls()
	require.Len(t, calls, 2)
	assert.Equal(t, calls[0].IdempotencyKey, calls[1].IdempotencyKey)
	assert.Empty(t, e[1].api.Calls())

	// The same, and the endpoint is removed from the settings: the task fails and is refunded.
	e[0].api.SetBehaviour("cut")
	f.enqueue("b")
	stop = f.start(f.processorFor(conf, e...))
	f.seen(processor.EventOutcomeUnknown, 2)
	stop()
	f.start(f.processorFor(conf, e[1]))
	f.seen(processor.EventFailed, 1)
	assert.Empty(t, e[1].api.Calls())
	assert.Equal(t, 1, f.number(`select count(*) from imagetasks.tasks where error_code = $1 and credits_refunded = 1`, string(task.CodeOutcomeUnknown)))
	f.requireAudit()
}

// A run with once ends when what is left waits for an endpoint that is out of order, although another one has the model: the outcome of a request is
// unknown, and it is not repeated elsewhere.
func TestEndpoints_OnceWithUnknownOutcomeElsewhere(t *testing.T) {
	f := newFixture(t)
	e := f.endpoints("first", "second")
	e[0].Models = []string{"a"}
	e[0].api.SetBehaviour("cut")
	f.enqueueModel("a", 1)
	conf := f.config(func(c *processor.Config) { c.Concurrency = 1 })
	stop := f.start(f.processorFor(conf, e...))
	f.seen(processor.EventOutcomeUnknown, 1)
	stop()
	e[0].api.SetBehaviour("")
	e[0].api.Refuse(simapi.Failure("user quota"))
	f.enqueueModel("b", 1)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	err := f.processorFor(conf, e...).RunOnce(ctx)
	require.NoError(t, ctx.Err(), "it ends: %s", f.log)
	require.ErrorIs(t, err, processor.ErrAPIUnavailable)
	assert.Equal(t, 1, e[1].api.Paid())
	assert.Equal(t, 1, f.number(`select count(*) from imagetasks.tasks where status = 'pending' and unknown_outcomes = 1 and model = 'a'`))
	f.requireAudit()
}

// The stage of a task reaches its row while it is worked, long before its lease is renewed.
func TestProgress_ReachesTheRow(t *testing.T) {
	f := newFixture(t)
	release := f.api.BlockResponses()
	defer release()
	f.enqueue("a")
	f.start(f.processor(f.config(func(c *processor.Config) { c.Lease = time.Hour }), f.client()))
	require.Eventually(t, func() bool {
		return f.number(`select count(*) from imagetasks.tasks where current_stage = 'waiting for the API' and progress_percentage = 10`) == 1
	}, 20*time.Second, 10*time.Millisecond)
}
