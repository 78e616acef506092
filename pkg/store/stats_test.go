package store_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

func TestQueueStats_AndCountByState(t *testing.T) {
	b := fresh(t)
	ids := b.enqueue(b.user(6), 6, 1)
	held := b.claim(3)
	_, err := b.Complete(b.ctx, store.Completion{Lease: held[0].Lease()})
	require.NoError(t, err)
	b.cancel(ids[5])
	b.exec(`update imagetasks.tasks set run_after = now() - interval '1 minute' where task_id = $1`, ids[4])
	b.exec(`update imagetasks.tasks set run_after = now() + interval '1 minute', waits_for = 'time' where task_id = $1`, ids[3])
	b.exec(`update imagetasks.tasks set processing_started_at = now() - interval '1 hour' where task_id = $1`, held[1].ID)

	states, err := b.CountByState(b.ctx)
	require.NoError(t, err)
	assert.Equal(t, map[task.State]int{task.Pending: 2, task.Processing: 2, task.Completed: 1, task.Cancelled: 1, task.Failed: 0}, states)
	q, err := b.QueueStats(b.ctx, 20*time.Minute)
	require.NoError(t, err)
	assert.Equal(t, 2, q.Pending)
	assert.Equal(t, 1, q.Due)
	assert.Equal(t, 2, q.Processing)
	assert.Equal(t, 1, q.Stuck)
	assert.GreaterOrEqual(t, q.OldestDue, time.Minute)
	some, err := b.HasPending(b.ctx)
	require.NoError(t, err)
	assert.True(t, some)
}

// Tasks of a model that is out of order don't count, unless their picture only has to be fetched.
func TestHasPendingFor(t *testing.T) {
	b := fresh(t)
	user := b.user(2)
	for _, options := range []string{`{"model": "bad"}`, `{}`} {
		_, err := b.Enqueue(b.ctx, store.EnqueueRequest{UserID: user, Prompt: "x", Cost: 1, Options: json.RawMessage(options)})
		require.NoError(t, err)
	}
	besides := func(models ...string) bool {
		t.Helper()
		some, err := b.HasPendingFor(b.ctx, []store.ClaimEndpoint{{Name: "e", Skip: models}})
		require.NoError(t, err)
		return some
	}
	assert.True(t, besides("bad"))
	assert.True(t, besides(""))
	assert.False(t, besides("bad", ""))
	claimed, err := b.Claim(b.ctx, store.ClaimRequest{Worker: "w", Limit: 1, Lease: time.Minute, MaxAttempts: 3, OnlyModels: []string{"bad"}})
	require.NoError(t, err)
	require.Len(t, claimed, 1)
	require.NoError(t, b.SavePending(b.ctx, claimed[0].Lease(), task.PendingResult{Ref: "https://pictures.example/a.png"}))
	_, err = b.Release(b.ctx, store.ReleaseRequest{Lease: claimed[0].Lease(), Wait: time.Hour, Cause: &task.Error{Code: task.CodeDownload}})
	require.NoError(t, err)
	assert.True(t, besides("bad", ""))
}

func TestClosedWithin_AndRefundsToday(t *testing.T) {
	b := fresh(t)
	recent, err := b.ClosedWithin(b.ctx, time.Hour)
	require.NoError(t, err)
	assert.Empty(t, recent)
	b.enqueue(b.user(22), 22, 1)
	tasks := b.claim(22)
	for i, done := range tasks[:20] {
		_, err := b.Complete(b.ctx, store.Completion{Lease: done.Lease()})
		require.NoError(t, err)
		b.exec(`update imagetasks.tasks set processing_started_at = completed_at - $2 * interval '1 second' where task_id = $1`, done.ID, i+1)
	}
	b.cancel(tasks[20].ID)
	b.cancel(tasks[21].ID)
	b.exec(`update imagetasks.tasks set completed_at = now() - interval '2 hours' where task_id = $1`, tasks[21].ID)
	recent, err = b.ClosedWithin(b.ctx, time.Hour)
	require.NoError(t, err)
	assert.Equal(t, store.ClosedStats{Count: 20, Median: 10500 * time.Millisecond, P95: 19050 * time.Millisecond}, recent[task.Completed])
	assert.Equal(t, 1, recent[task.Cancelled].Count, "not the one closed earlier")

	count, credits, err := b.RefundsToday(b.ctx)
	require.NoError(t, err)
	assert.Equal(t, 2, count)
	assert.EqualValues(t, 2, credits)
	b.exec(`alter table imagetasks.ledger disable trigger user; update imagetasks.ledger set created_at = now() - interval '2 days' where task_id = '` + tasks[20].ID + `'`)
	count, _, err = b.RefundsToday(b.ctx)
	require.NoError(t, err)
	assert.Equal(t, 1, count)
}
