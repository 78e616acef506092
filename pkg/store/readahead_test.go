package store_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/store"
)

// passQuestions are those of the tests here.
var passQuestions = store.PassQuestions{Sweep: store.Sweep{OlderThan: 20 * time.Minute}, PendingTimeout: time.Hour, UnsettledWindow: time.Hour, Limit: 100,
	Prune: store.PruneConfig{RedriveWindow: time.Hour, Batch: 10}}

// readAhead returns a Store that has the answers for a pass.
func (b *testStore) readAhead() *store.Store {
	b.tb.Helper()
	s, err := store.Open(store.Config{URL: b.url, ConnectAhead: true})
	require.NoError(b.tb, err)
	answers, err := s.ReadAhead(b.ctx, passQuestions)
	require.NoError(b.tb, err)
	b.tb.Cleanup(func() { assert.NoError(b.tb, answers.Close()); assert.NoError(b.tb, s.Close()) })
	return answers
}

// A Store that has read ahead answers every question of a pass, with the values that the database had, and sends nothing: all tables are locked.
func TestReadAhead_AnswersAPass(t *testing.T) {
	b := fresh(t)
	b.enqueue(b.user(5), 5, 1)
	held := b.claim(3)
	b.exec(`update imagetasks.tasks set processing_started_at = now() - interval '1 hour' where task_id = $1`, held[0].ID)
	b.exec(`insert into imagetasks.set_aside (task_id, operation, reason, since) values ($1, 'claim', 'a bad row', '2026-01-02 03:04:05Z')`, held[1].ID)
	b.exec(`update imagetasks.tasks set status = 'failed', completed_at = now(), credits_deducted = 2 where task_id = $1`, held[2].ID)
	b.exec(`update imagetasks.tasks set run_after = now() - interval '2 hours' where status = 'pending'`)
	require.NoError(t, b.RecordHeartbeat(b.ctx, store.Processor{Worker: "w", Host: "h", PID: 7, Report: []byte(`{"pid": 7}`)}))
	_, err := b.Pause(b.ctx, "operator", "a test")
	require.NoError(t, err)
	answers := b.readAhead()

	tx, err := b.raw.Begin()
	require.NoError(t, err)
	_, err = tx.Exec(`do $$ declare t regclass; begin
		for t in select oid from pg_class where relnamespace = 'imagetasks'::regnamespace and relkind = 'r' loop
			execute 'lock table ' || t || ' in access exclusive mode';
		end loop; end $$`)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(b.ctx, 4*time.Second)
	defer cancel()
	require.NoError(t, answers.CheckAccess(ctx))
	stuck, err := answers.CountStuck(ctx, passQuestions.Sweep)
	require.NoError(t, err)
	assert.Equal(t, 1, stuck)
	overdue, err := answers.CountOverdue(ctx, time.Hour)
	require.NoError(t, err)
	assert.Equal(t, 2, overdue)
	aside, err := answers.TasksAside(ctx, 100)
	require.NoError(t, err)
	require.Len(t, aside, 1)
	aside[0].Since = aside[0].Since.UTC()
	assert.Equal(t, store.AsideTask{TaskID: held[1].ID, Operation: "claim", Reason: "a bad row", Since: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}, aside[0])
	for range 2 { // answers can be used again
		queue, err := answers.QueueStats(ctx, 20*time.Minute)
		require.NoError(t, err)
		assert.InDelta(t, 2*time.Hour, queue.OldestDue, float64(time.Minute))
		queue.OldestDue = 0
		assert.Equal(t, store.QueueStats{Pending: 2, Due: 2, Processing: 2, Stuck: 1}, queue)
	}
	unsettled, err := answers.Unsettled(ctx, time.Hour, 100)
	require.NoError(t, err)
	assert.Equal(t, store.Unsettled{OwedRefunds: []string{held[2].ID}}, unsettled)
	control, err := answers.Control(ctx)
	require.NoError(t, err)
	assert.Equal(t, "operator", control.PausedBy)
	assert.False(t, control.Copied)
	assert.WithinDuration(t, time.Now(), control.PausedAt, time.Minute)
	bridge, err := answers.Bridge(ctx)
	require.NoError(t, err)
	assert.Equal(t, store.BridgeState{}, bridge, "there is none")
	processors, err := answers.Processors(ctx)
	require.NoError(t, err)
	require.Len(t, processors, 1)
	assert.Equal(t, "h", processors[0].Host)
	assert.JSONEq(t, `{"pid": 7}`, string(processors[0].Report))
	events, err := answers.EventCounts(ctx)
	require.NoError(t, err)
	assert.Equal(t, store.EventCounts{}, events)
	pruned, err := answers.Prune(ctx, passQuestions.Prune)
	require.NoError(t, err)
	assert.Equal(t, store.Pruned{}, pruned)
	require.NoError(t, tx.Rollback())

	// Whatever else is sent may change something: from then on the database is asked.
	b.exec(`update imagetasks.tasks set processing_started_at = now() where task_id = $1`, held[0].ID)
	stuck, err = answers.CountStuck(b.ctx, passQuestions.Sweep)
	require.NoError(t, err)
	assert.Equal(t, 1, stuck, "read ahead")
	require.NoError(t, answers.Resume(b.ctx))
	stuck, err = answers.CountStuck(b.ctx, passQuestions.Sweep)
	require.NoError(t, err)
	assert.Zero(t, stuck)
	control, err = answers.Control(b.ctx)
	require.NoError(t, err)
	assert.True(t, control.PausedAt.IsZero())
}

// A question with other arguments is another question.
func TestReadAhead_OtherArguments(t *testing.T) {
	b := fresh(t)
	answers := b.readAhead()
	b.enqueue(b.user(1), 1, 1)
	queue, err := answers.QueueStats(b.ctx, 20*time.Minute)
	require.NoError(t, err)
	assert.Zero(t, queue.Pending)
	queue, err = answers.QueueStats(b.ctx, 10*time.Minute)
	require.NoError(t, err)
	assert.Equal(t, 1, queue.Pending)
}

// Where one of the questions can't be answered, none is: they are asked one by one, and those that can be are.
func TestReadAhead_OneFails(t *testing.T) {
	b := fresh(t)
	b.enqueue(b.user(1), 1, 1)
	b.exec(`alter table imagetasks.events rename to elsewhere`)
	s, err := store.Open(store.Config{URL: b.url, ConnectAhead: true})
	require.NoError(t, err)
	defer func() { assert.NoError(t, s.Close()) }()
	_, err = s.ReadAhead(b.ctx, passQuestions)
	require.ErrorContains(t, err, "events")
	require.ErrorIs(t, s.CheckAccess(b.ctx), store.ErrSchema)
	queue, err := s.QueueStats(b.ctx, time.Minute)
	require.NoError(t, err)
	assert.Equal(t, 1, queue.Pending)
}
