package processor_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/simapi"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// PENDING_TIMEOUT holds while claiming is paused, too.
func TestSweep_OverdueTasks(t *testing.T) {
	f := newFixture(t)
	f.api.Refuse(&simapi.Refusal{Status: 401})
	ids := f.enqueue("a", "b", "c", "d")
	f.exec(`update imagetasks.tasks set run_after = now() - interval '2 hours' where task_id <> $1`, ids[3])
	f.exec(`update imagetasks.tasks set run_after = now() - interval '3 hours', error_message = 'the proxy was down' where task_id = $1`, ids[2])
	client := f.client()
	f.run(f.config(func(c *processor.Config) { c.PendingTimeout, c.Concurrency = time.Hour, 1 }), client)
	f.seen(processor.EventOverdue, 3)
	f.circuitOpened()
	for _, id := range ids[:3] {
		r := f.row(id)
		assert.Equal(t, task.Failed, r.State)
		assert.Equal(t, task.CodePendingTimeout, r.ErrorCode)
		assert.EqualValues(t, 1, r.Refunded)
	}
	assert.Equal(t, "not started within 1h0m0s (PENDING_TIMEOUT); the proxy was down", f.row(ids[2]).Error)
	require.Eventually(t, func() bool { // a processor that has claimed it releases it first
		f.exec(`update imagetasks.tasks set run_after = now() - interval '2 hours' where task_id = $1 and status = 'pending'`, ids[3])
		return f.count(processor.EventOverdue) == 4
	}, time.Minute, 10*time.Millisecond)
	assert.Equal(t, task.Failed, f.row(ids[3]).State)
	f.requireAudit()
}

func TestSweep_AbandonedTasks(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ids := f.enqueue("a", "b")
	claimed, err := f.Claim(t.Context(), store.ClaimRequest{Worker: "killed", Limit: 2, Lease: time.Millisecond, MaxAttempts: 3})
	require.NoError(t, err)
	require.Len(t, claimed, 2)
	f.exec(`update imagetasks.tasks set lost_claims = 5 where task_id = $1`, ids[1])
	f.run(f.config(func(c *processor.Config) { c.Lease = time.Second }), f.client())
	f.seen(processor.EventCompleted, 1)
	f.seen(processor.EventAbandoned, 1)
	assert.Equal(t, task.Completed, f.row(ids[0]).State)
	assert.Equal(t, task.Failed, f.row(ids[1]).State)
	f.requireAudit()
}
