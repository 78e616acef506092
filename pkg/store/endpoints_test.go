package store_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// enqueueModels enqueues a task for each model.
func (b *testStore) enqueueModels(user string, models ...string) (ids []string) {
	b.tb.Helper()
	for _, m := range models {
		options := `{}`
		if m != "" {
			options = fmt.Sprintf(`{"model": %q}`, m)
		}
		got, err := b.Enqueue(b.ctx, store.EnqueueRequest{UserID: user, Prompt: "x", Cost: 1, Options: json.RawMessage(options)})
		require.NoError(b.tb, err)
		ids = append(ids, got.TaskIDs...)
	}
	return ids
}

func (b *testStore) claimFor(limit int, endpoints ...store.ClaimEndpoint) []task.Task {
	b.tb.Helper()
	tasks, err := b.Claim(b.ctx, store.ClaimRequest{Worker: "w", Limit: limit, Lease: time.Minute, MaxAttempts: 3, Endpoints: endpoints})
	require.NoError(b.tb, err)
	return tasks
}

// chosen returns the endpoint of each task.
func chosen(tasks []task.Task) (names []string) {
	for _, t := range tasks {
		names = append(names, t.Endpoint)
	}
	return names
}

func upTo(n int) *int { return &n }

func TestClaim_ChoosesEndpoint(t *testing.T) {
	first, second := store.ClaimEndpoint{Name: "first", Preference: 1}, store.ClaimEndpoint{Name: "second", Preference: 2}
	with := func(e store.ClaimEndpoint, change func(*store.ClaimEndpoint)) store.ClaimEndpoint {
		change(&e)
		return e
	}
	models := func(names ...string) func(*store.ClaimEndpoint) {
		return func(e *store.ClaimEndpoint) { e.Models = names }
	}
	most := func(n int) func(*store.ClaimEndpoint) { return func(e *store.ClaimEndpoint) { e.Max = upTo(n) } }
	skip := func(names ...string) func(*store.ClaimEndpoint) {
		return func(e *store.ClaimEndpoint) { e.Skip = names }
	}
	concurrent := func(n int) func(*store.ClaimEndpoint) { return func(e *store.ClaimEndpoint) { e.Concurrent = n } }
	for name, c := range map[string]struct {
		tasks     []string
		endpoints []store.ClaimEndpoint
		want      []string
	}{
		"one":                            {[]string{"a", ""}, []store.ClaimEndpoint{first}, []string{"first", "first"}},
		"the preferred":                  {[]string{"a", "b"}, []store.ClaimEndpoint{first, second}, []string{"first", "first"}},
		"the order is the preference's":  {[]string{"a"}, []store.ClaimEndpoint{second, first}, []string{"first"}},
		"what is full makes others used": {[]string{"a", "a", "a"}, []store.ClaimEndpoint{with(first, most(1)), second}, []string{"first", "second", "second"}},
		"concurrency":                    {[]string{"a", "a", "a"}, []store.ClaimEndpoint{with(first, concurrent(2)), second}, []string{"first", "first", "second"}},
		"all full":                       {[]string{"a", "a", "a"}, []store.ClaimEndpoint{with(first, most(1)), with(second, most(1))}, []string{"first", "second"}},
		"only the second has the model":  {[]string{"a", "b"}, []store.ClaimEndpoint{with(first, models("a")), second}, []string{"first", "second"}},
		"a model that is out of order":   {[]string{"a", "b"}, []store.ClaimEndpoint{with(first, skip("a")), second}, []string{"second", "first"}},
		"out of order, nowhere else":     {[]string{"a", "b"}, []store.ClaimEndpoint{with(first, skip("a")), with(second, models("b"))}, []string{"first"}},
		"a model that waits is passed by": {[]string{"a", "a", "b"}, []store.ClaimEndpoint{with(with(first, models("a")), most(0)), with(second, models("b"))},
			[]string{"second"}},
		"a model that nobody has":       {[]string{"c", "b"}, []store.ClaimEndpoint{with(first, models("a")), with(second, models("b"))}, []string{"", "second"}},
		"what is closed has its models": {[]string{"a"}, []store.ClaimEndpoint{with(with(first, models("a")), most(0)), with(second, models("b"))}, nil},
		"none is free":                  {[]string{"a"}, []store.ClaimEndpoint{with(first, most(0)), with(second, most(0))}, nil},
		"names with quotes":             {[]string{`a"'`}, []store.ClaimEndpoint{with(first, models(`a"'`)), second}, []string{"first"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := fresh(t)
			b.enqueueModels(b.user(10), c.tasks...)
			got := b.claimFor(10, c.endpoints...)
			assert.Equal(t, c.want, chosen(got))
			for i, g := range got {
				assert.Equal(t, c.want[i], b.text(`select coalesce(endpoint, '') from imagetasks.tasks where task_id = $1`, g.ID))
			}
			// What was not claimed is claimed when everything works, in the order of its turn.
			rest := b.claimFor(10, store.ClaimEndpoint{Name: "all"})
			assert.Len(t, rest, len(c.tasks)-len(got))
			b.requireAudit()
		})
	}
}

func TestClaim_SharesByWeight(t *testing.T) {
	b := fresh(t)
	b.enqueueModels(b.user(200), slices.Repeat([]string{"m"}, 200)...)
	n := map[string]int{}
	for _, name := range chosen(b.claimFor(200, store.ClaimEndpoint{Name: "a", Preference: 1, Weight: 3}, store.ClaimEndpoint{Name: "b", Preference: 1},
		store.ClaimEndpoint{Name: "later", Preference: 2})) {
		n[name]++
	}
	assert.InDelta(t, 150, n["a"], 30)
	assert.InDelta(t, 50, n["b"], 30)
	assert.Zero(t, n["later"])
}

// A request that may have been received is repeated at its endpoint only.
func TestClaim_UnknownOutcomeStaysAtItsEndpoint(t *testing.T) {
	b := fresh(t)
	user := b.user(10)
	a, other := store.ClaimEndpoint{Name: "a", Address: "https://a.example/v1", Preference: 1}, store.ClaimEndpoint{Name: "b", Preference: 2}
	b.enqueueModels(user, "m", "m")
	tasks := b.claimFor(2, a, other)
	for i, sentTo := range []string{"a", "https://a.example/v1"} {
		_, _, err := b.BeginRequest(b.ctx, tasks[i].Lease(), uuid.New(), sentTo, 0)
		require.NoError(t, err)
		_, err = b.Release(b.ctx, store.ReleaseRequest{Lease: tasks[i].Lease(), Cause: &task.Error{Code: task.CodeCutOff, Unknown: true}})
		require.NoError(t, err)
	}
	closed := a
	closed.Max = upTo(0)
	assert.Empty(t, b.claimFor(2, closed, other), "they wait for it")
	again := b.claimFor(2, a, other)
	assert.Equal(t, []string{"a", "a"}, chosen(again))

	// The answer of the repeat is lost, too: the processor ends.
	_, _, err := b.BeginRequest(b.ctx, again[0].Lease(), uuid.New(), "a", 0)
	require.NoError(t, err)
	b.exec(`update imagetasks.tasks set lease_expires_at = now() - interval '1 second'`)
	expired := func(endpoints ...store.ClaimEndpoint) []task.Task {
		tasks, err := b.Claim(b.ctx, store.ClaimRequest{Worker: "w", Limit: 10, Expired: 10, Lease: time.Minute, MaxAttempts: 3, MaxLostClaims: 5, Alone: true,
			Endpoints: endpoints})
		require.NoError(t, err)
		return tasks
	}
	assert.Empty(t, expired(closed, other))
	// It is not configured any more: the tasks are claimed to fail.
	gone := expired(other)
	assert.Equal(t, []string{"", ""}, chosen(gone))
	for _, g := range gone {
		assert.Positive(t, g.UnknownOutcomes)
		assert.Contains(t, []string{"a", "https://a.example/v1"}, g.SentTo)
	}
	b.requireAudit()
}

// What only has to be fetched needs no permit, and has no endpoint.
func TestClaim_FetchNeedsNoPermit(t *testing.T) {
	b := fresh(t)
	b.enqueueModels(b.user(2), "m", "m")
	limited := store.ClaimEndpoint{Name: "e", Concurrent: 1}
	held := b.claimFor(2, limited)
	require.Len(t, held, 1)
	usage := task.Usage{Endpoint: "e", Model: "there", Took: 2 * time.Second, Counts: json.RawMessage(`{"total_tokens": 7}`), Cost: 40_000, Currency: "USD"}
	require.NoError(t, b.SavePending(b.ctx, held[0].Lease(), task.PendingResult{Ref: "https://pictures.example/1.png", Endpoint: "e", Usage: usage}))
	_, err := b.Release(b.ctx, store.ReleaseRequest{Lease: held[0].Lease(), Cause: &task.Error{Code: task.CodeDownload}})
	require.NoError(t, err)
	both := b.claimFor(2, limited)
	require.Len(t, both, 2)
	slices.SortFunc(both, func(a, b task.Task) int { return len(a.Endpoint) - len(b.Endpoint) })
	assert.Equal(t, []string{"", "e"}, chosen(both))
	require.NotNil(t, both[0].Pending)
	assert.Equal(t, usage, both[0].Pending.Usage)
	// The cost is known from the moment on in which the API has answered.
	assert.Equal(t, "paid e there 2000 40000 USD", b.text(`select concat_ws(' ', outcome, endpoint, model, took_ms, cost, currency) from imagetasks.results`))
	_, err = b.Complete(b.ctx, store.Completion{Lease: both[0].Lease(), ImageURL: "p", Usage: usage})
	require.NoError(t, err)
	assert.Equal(t, "completed e there 2000 40000 USD 7",
		b.text(`select concat_ws(' ', outcome, endpoint, model, took_ms, cost, currency, usage ->> 'total_tokens') from imagetasks.results`))
}

// Many processors together never have more live leases at an endpoint than its concurrency, and those of a processor that ended count until they
// expire.
func TestClaim_ConcurrencyHoldsOverProcessors(t *testing.T) {
	b := fresh(t)
	b.enqueueModels(b.user(60), slices.Repeat([]string{"m"}, 60)...)
	limited := store.ClaimEndpoint{Name: "e", Concurrent: 5}
	var running sync.WaitGroup
	var mu sync.Mutex
	done := 0
	for range 4 {
		running.Go(func() {
			for {
				tasks, err := b.Claim(b.ctx, store.ClaimRequest{Worker: "w", Limit: 1 + rand.IntN(4), Lease: time.Minute, MaxAttempts: 3, Endpoints: []store.ClaimEndpoint{limited}})
				if !assert.NoError(t, err) {
					return
				}
				assert.LessOrEqual(t, b.number(`select count(*) from imagetasks.tasks where status = 'processing'`), 5)
				for _, c := range tasks {
					_, err := b.Complete(b.ctx, store.Completion{Lease: c.Lease(), ImageURL: "p"})
					assert.NoError(t, err)
				}
				mu.Lock()
				done += len(tasks)
				all := done == 60
				mu.Unlock()
				if all {
					return
				}
				if len(tasks) == 0 && b.number(`select count(*) from imagetasks.tasks where status = 'pending'`) == 0 {
					return
				}
			}
		})
	}
	running.Wait()
	assert.Equal(t, 60, done)
	b.enqueueModels(b.user(6), slices.Repeat([]string{"m"}, 6)...)
	require.Len(t, b.claimFor(10, limited), 5)
	require.Empty(t, b.claimFor(10, limited))
	b.exec(`update imagetasks.tasks set lease_expires_at = now() - interval '1 second' where status = 'processing'`)
	assert.Len(t, b.claimFor(10, limited), 1)
}

// Any second holds at most the rate of a second (here of 600 a minute), and the rate is used up, although two take permits at random moments and some requests
// leave late.
func TestClaim_RateHoldsOverProcessors(t *testing.T) {
	b := fresh(t)
	const rate = 600 // one each 0.105 s
	limited := store.ClaimEndpoint{Name: "e", Rate: rate}
	b.enqueueModels(b.user(100), slices.Repeat([]string{"m"}, 100)...)
	var mu sync.Mutex
	var sent []time.Time
	began := time.Now()
	var running sync.WaitGroup
	for worker := range 2 {
		running.Go(func() {
			for time.Since(began) < 6*time.Second {
				for _, c := range b.claimFor(10, limited) {
					if worker == 0 && rand.IntN(4) == 0 {
						time.Sleep(1500 * time.Millisecond) // its inputs take longer than a permit holds
					}
					call := uuid.New()
					for {
						_, wait, err := b.BeginRequest(b.ctx, c.Lease(), call, "e", rate)
						if !assert.NoError(t, err) {
							return
						}
						if wait == 0 {
							break
						}
						time.Sleep(wait)
					}
					mu.Lock()
					sent = append(sent, time.Now())
					mu.Unlock()
				}
				wait, err := b.PermitWait(b.ctx, []string{"e"})
				assert.NoError(t, err)
				time.Sleep(wait)
			}
		})
	}
	running.Wait()
	slices.SortFunc(sent, time.Time.Compare)
	took := sent[len(sent)-1].Sub(began)
	allowed := 0.95*rate/60*took.Seconds() + 1 + 0.95*rate/60*2.2 // what a second has left over may be taken up, and a request leaves a second late
	assert.LessOrEqual(t, float64(len(sent)), allowed)
	assert.Greater(t, len(sent), 20)
	// A permit that was waited for is not taken twice.
	assert.Equal(t, len(sent), b.number(`select sum(requests_sent) from imagetasks.tasks`))
}

// A rate that is raised holds at once.
func TestClaim_RateIsRaised(t *testing.T) {
	b := fresh(t)
	b.enqueueModels(b.user(4), "m", "m", "m", "m")
	require.Len(t, b.claimFor(4, store.ClaimEndpoint{Name: "e", Rate: 1}), 1)
	require.Empty(t, b.claimFor(4, store.ClaimEndpoint{Name: "e", Rate: 1}))
	wait, err := b.PermitWait(b.ctx, []string{"e"})
	require.NoError(t, err)
	assert.Greater(t, wait, 50*time.Second)
	require.Eventually(t, func() bool { return len(b.claimFor(1, store.ClaimEndpoint{Name: "e", Rate: 6000})) == 1 }, 20*time.Second, 10*time.Millisecond)
}
