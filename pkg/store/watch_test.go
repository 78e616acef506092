package store_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

func TestARequeuedTaskIsLostToItsLateWorkerAndNotRefunded(t *testing.T) {
	b := fresh(t)
	user := b.user(2)
	b.enqueue(user, 2, 1)
	late := b.claim(2)
	b.exec(`update image_tasks set processing_started_at = now() - interval '30 minutes'`)
	other := b.user(1)
	filtered := store.Sweep{OlderThan: 20 * time.Minute, Limit: 10, Requeue: true, UserID: other}
	none, err := b.Sweep(b.ctx, filtered)
	require.NoError(t, err)
	assert.Empty(t, none, "the other user has nothing stuck")
	requeue := store.Sweep{OlderThan: 20 * time.Minute, Limit: 10, Requeue: true, Tasks: []string{late[0].ID}}
	n, err := b.CountStuck(b.ctx, requeue)
	require.NoError(t, err)
	assert.Equal(t, 1, n)
	done, err := b.Sweep(b.ctx, requeue)
	require.NoError(t, err)
	require.Len(t, done, 1)
	assert.Zero(t, done[0].Credits)
	row := b.row(late[0].ID)
	assert.Equal(t, task.Pending, row.State)
	assert.Zero(t, row.Attempts, "the attempt counts as unused")
	assert.Equal(t, task.Processing, b.row(late[1].ID).State, "only what was named")

	held, err := b.Complete(b.ctx, store.Completion{Lease: late[0].Lease(), ImageURL: "late.png"})
	require.NoError(t, err)
	assert.Empty(t, held)
	again := b.claim(1)
	require.Len(t, again, 1)
	assert.Greater(t, again[0].Epoch, late[0].Epoch)
	// A process that took its own task over has both leases in hand, and one is good.
	held, err = b.RenewLeases(b.ctx, time.Minute, []store.LeaseRenewal{{Lease: late[0].Lease()}, {Lease: again[0].Lease()}})
	require.NoError(t, err)
	assert.Equal(t, []task.Lease{again[0].Lease()}, held)
	held, err = b.Complete(b.ctx, store.Completion{Lease: late[0].Lease(), ImageURL: "late.png"},
		store.Completion{Lease: again[0].Lease(), ImageURL: "new.png"})
	require.NoError(t, err)
	assert.Equal(t, []task.Lease{again[0].Lease()}, held)
	b.requireAudit()
}

func TestWhatProcessorsSayOfThemselves(t *testing.T) {
	b := fresh(t)
	one := store.Processor{Worker: "h:1:a", Host: "h", PID: 1, Version: "1", Report: []byte(`{"in_flight": 2}`)}
	require.NoError(t, b.RecordHeartbeat(b.ctx, one))
	started := func() time.Time {
		known, err := b.Processors(b.ctx)
		require.NoError(t, err)
		require.Len(t, known, 1)
		assert.JSONEq(t, string(one.Report), string(known[0].Report))
		assert.Less(t, known[0].SilentFor, time.Hour)
		return known[0].StartedAt
	}
	since := started()
	one.Report = []byte(`{"in_flight": 0}`)
	require.NoError(t, b.RecordHeartbeat(b.ctx, one))
	assert.Equal(t, since, started(), "a sign of life is no new start")

	require.NoError(t, b.RecordHeartbeat(b.ctx, store.Processor{Worker: "h:2:b", Host: "h", PID: 2}))
	b.exec(`update imagetasks_processors set beat_at = now() - interval '25 hours' where worker = 'h:2:b'`)
	started() // it is old news
	require.NoError(t, b.Prune(b.ctx))
	assert.Equal(t, 1, b.number(`select count(*) from imagetasks_processors`))
	require.NoError(t, b.Deregister(b.ctx, "h:1:a"))
	require.NoError(t, b.Deregister(b.ctx, "h:1:a"))
	assert.Equal(t, 0, b.number(`select count(*) from imagetasks_processors`))
}

func TestWhatWasClosedOfLate(t *testing.T) {
	b := fresh(t)
	recent, err := b.ClosedWithin(b.ctx, time.Hour)
	require.NoError(t, err)
	assert.Empty(t, recent)
	b.enqueue(b.user(22), 22, 1)
	tasks := b.claim(22)
	for i, done := range tasks[:20] {
		_, err := b.Complete(b.ctx, store.Completion{Lease: done.Lease()})
		require.NoError(t, err)
		b.exec(`update image_tasks set processing_started_at = completed_at - $2 * interval '1 second' where task_id = $1`, done.ID, i+1)
	}
	noErr(t)(b.Cancel(b.ctx, tasks[20].ID, ""))
	noErr(t)(b.Cancel(b.ctx, tasks[21].ID, ""))
	b.exec(`update image_tasks set completed_at = now() - interval '2 hours' where task_id = $1`, tasks[21].ID)
	recent, err = b.ClosedWithin(b.ctx, time.Hour)
	require.NoError(t, err)
	assert.Equal(t, store.ClosedStats{Count: 20, Median: 10500 * time.Millisecond, P95: 19050 * time.Millisecond}, recent[task.Completed])
	assert.Equal(t, 1, recent[task.Cancelled].Count, "not what is older")

	count, credits, err := b.RefundsToday(b.ctx)
	require.NoError(t, err)
	assert.Equal(t, 2, count)
	assert.Equal(t, 2, credits)
	b.exec(`alter table credit_ledger disable trigger user; update credit_ledger set created_at = now() - interval '2 days' where task_id = '` + tasks[20].ID + `'`)
	count, _, err = b.RefundsToday(b.ctx)
	require.NoError(t, err)
	assert.Equal(t, 1, count)
}
