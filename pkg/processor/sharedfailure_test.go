package processor_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/simproxy"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// A proxy that is restarted breaks all requests through it, and works again before the API is checked. One task tries it then, and the others
// follow. No task fails, not even with a single attempt.
func TestSharedFailure_ProxyRestart(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	_, err := f.Enqueue(t.Context(), store.EnqueueRequest{UserID: f.user, Prompt: "x", Cost: 1, Count: 60, Options: json.RawMessage(`{"max_attempts": 1}`)})
	require.NoError(t, err)
	client := f.client()
	release := f.api.BlockResponses()
	f.run(f.config(func(c *processor.Config) { c.Concurrency = 20 }), client)
	require.Eventually(t, func() bool { return f.api.Busy() == 20 }, time.Minute, time.Millisecond)
	f.proxy.Restart() // without a moment in which a check could be refused
	f.seen(processor.EventReleased, 20)
	f.seen(processor.EventCircuitOpened, 1)
	require.Eventually(t, func() bool { return f.api.Busy() == 1 }, time.Minute, time.Millisecond)
	release()
	f.seen(processor.EventCompleted, 60)
	assert.Zero(t, f.count(processor.EventFailed))
	assert.Zero(t, f.count(processor.EventRetried))
	assert.Len(t, f.api.Calls(), 80)
	var unexpected int
	require.NoError(t, f.raw.QueryRow(`select count(*) from imagetasks.tasks where status <> 'completed' or attempt_count <> 0`).Scan(&unexpected))
	assert.Zero(t, unexpected)
	f.requireAudit()
}

// With a second proxy claiming goes on as soon as one task has shown that it works.
func TestSharedFailure_OneOfTwoProxiesDown(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	second, err := simproxy.Start(simproxy.Config{})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, second.Close()) })
	_, err = f.Enqueue(t.Context(), store.EnqueueRequest{UserID: f.user, Prompt: "x", Cost: 1, Count: 60, Options: json.RawMessage(`{"max_attempts": 1}`)})
	require.NoError(t, err)
	release := f.api.BlockResponses()
	f.run(f.config(func(c *processor.Config) { c.Concurrency = 20 }), f.client(second.URL()))
	require.Eventually(t, func() bool { return f.api.Busy() == 20 }, time.Minute, time.Millisecond)
	require.NoError(t, f.proxy.Close())
	f.seen(processor.EventReleased, 20)
	release()
	f.seen(processor.EventCompleted, 60)
	assert.Zero(t, f.count(processor.EventFailed))
	assert.Equal(t, 1, f.count(processor.EventCircuitOpened))
	calls := map[bool]int{}
	for _, c := range f.api.Calls() {
		calls[second.Carried(c.Remote)]++
	}
	assert.Equal(t, map[bool]int{false: 20, true: 60}, calls)
	f.requireAudit()
}

// A proxy that cuts off every long request looks the same as one that was restarted. Each request may be billed, so that the
// number of repeats is bounded.
func TestSharedFailure_EveryRequestCutOff(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ids := f.enqueue("[break] a", "[break] b", "[break] c")
	f.run(f.config(), f.client())
	f.seen(processor.EventReleased, 3)
	f.exec(`update imagetasks.tasks set run_after = now()`) // sooner than the backoff
	f.seen(processor.EventFailed, 3)
	assert.Len(t, f.api.Calls(), 3*2)
	keys := map[string]int{}
	for _, c := range f.api.Calls() {
		keys[c.IdempotencyKey]++
	}
	assert.Len(t, keys, 3, "a repeat has the key of the first request")
	for _, id := range ids {
		r := f.row(id)
		assert.Equal(t, task.CodeOutcomeUnknown, r.ErrorCode)
		assert.Zero(t, r.Attempts)
		assert.Equal(t, 2, r.RequestsSent)
		assert.EqualValues(t, 1, r.Refunded)
	}
	f.requireAudit()
}
