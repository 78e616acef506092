package store_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

const pictureURL = "https://pictures.example/a.png?signature=1"

// claimWhere claims as a processor that works on other tasks, too.
func (b *testStore) claimWhere(r store.ClaimRequest) []task.Task {
	b.tb.Helper()
	r.Worker, r.Lease, r.MaxAttempts, r.Expired = "w", time.Minute, 3, 1000
	tasks, err := b.Claim(b.ctx, r)
	require.NoError(b.tb, err)
	return tasks
}

// enqueueModel enqueues tasks for a model, each of a user of its own.
func (b *testStore) enqueueModel(model string, count int) (ids []string) {
	b.tb.Helper()
	options := []byte(fmt.Sprintf(`{"model": %q}`, model))
	if model == "" {
		options = nil
	}
	for range count {
		done, err := b.Enqueue(b.ctx, store.EnqueueRequest{UserID: uuid.NewString(), Prompt: "a cat", Options: options})
		require.NoError(b.tb, err)
		ids = append(ids, done.TaskIDs...)
	}
	return ids
}

func taskIDsOf(tasks []task.Task) []string {
	ids := []string{}
	for _, t := range tasks {
		ids = append(ids, t.ID)
	}
	return ids
}

func TestSavePending_KeptUntilClosed(t *testing.T) {
	b := fresh(t)
	held := b.claimOne(2)
	assert.Nil(t, held.Pending)
	_, _, err := b.BeginRequest(b.ctx, held.Lease(), uuid.New(), "https://api.example/v1", 0)
	require.NoError(t, err)
	saved := task.PendingResult{Ref: pictureURL, RequestID: "r-1", Endpoint: "https://api.example/v1"}
	require.NoError(t, b.SavePending(b.ctx, held.Lease(), saved))
	assert.ErrorIs(t, b.SavePending(b.ctx, task.Lease{TaskID: held.ID, Epoch: held.Epoch - 1}, saved), task.ErrLeaseLost)
	details, err := b.TaskDetails(b.ctx, held.ID)
	require.NoError(t, err)
	assert.WithinDuration(t, time.Now(), details.PendingSince, time.Minute)

	// The processor ends: the request was answered, so its outcome is known.
	b.expireLeases()
	again := b.claim(1)[0]
	require.NotNil(t, again.Pending)
	assert.Equal(t, saved.Ref, again.Pending.Ref)
	assert.Equal(t, "r-1", again.Pending.RequestID)
	assert.Equal(t, saved.Endpoint, again.Pending.Endpoint)
	assert.Zero(t, again.Pending.Gone)
	assert.Equal(t, 0, again.UnknownOutcomes)
	assert.Equal(t, 1, again.RequestsSent)

	b.exec(`update imagetasks.pending_results set saved_at = now() - interval '5 minutes'`)
	requireHeld(t)(b.Release(b.ctx, store.ReleaseRequest{Lease: again.Lease(), Cause: &task.Error{Code: task.CodeDownload, Gone: true}}))
	row := b.row(held.ID)
	assert.Equal(t, "fetching the picture", row.Stage)
	assert.Zero(t, row.Attempts)
	b.exec(`update imagetasks.pending_results set gone_since = now() - interval '2 minutes'`)
	// Another try to save it does not begin its time anew.
	third := b.claim(1)[0]
	require.NoError(t, b.SavePending(b.ctx, third.Lease(), saved))
	requireHeld(t)(b.Release(b.ctx, store.ReleaseRequest{Lease: third.Lease(), Cause: &task.Error{Code: task.CodeDownload, Gone: true}}))
	fourth := b.claim(1)[0]
	assert.Equal(t, 2, fourth.Pending.Gone)
	assert.InDelta(t, 5*time.Minute, fourth.Pending.Age, float64(time.Minute))
	assert.InDelta(t, 2*time.Minute, fourth.Pending.GoneFor, float64(time.Minute))
	// One that fails otherwise does not count.
	requireHeld(t)(b.Release(b.ctx, store.ReleaseRequest{Lease: fourth.Lease(), Cause: &task.Error{Code: task.CodeDownload}}))
	fifth := b.claim(1)[0]
	assert.Equal(t, 2, fifth.Pending.Gone)

	_, err = b.Fail(b.ctx, fifth.Lease(), &task.Error{Code: task.CodePictureLost, Paid: true}, false)
	require.NoError(t, err)
	pruned, err := b.Prune(b.ctx, store.PruneConfig{RedriveWindow: time.Hour, Batch: 10})
	require.NoError(t, err)
	assert.Equal(t, 1, pruned.Pending)
	assert.Zero(t, b.number(`select count(*) from imagetasks.pending_results`))
	b.requireAudit()
}

func TestQueueStats_PicturesNotFetched(t *testing.T) {
	b := fresh(t)
	b.enqueue(b.user(0), 2, 0)
	claims := b.claim(2)
	for _, held := range claims {
		require.NoError(t, b.SavePending(b.ctx, held.Lease(), task.PendingResult{Ref: pictureURL}))
		requireHeld(t)(b.Release(b.ctx, store.ReleaseRequest{Lease: held.Lease(), Cause: &task.Error{Code: task.CodeDownload, Message: "its host responded 404"}}))
	}
	stats := func() store.QueueStats {
		q, err := b.QueueStats(b.ctx, time.Hour)
		require.NoError(t, err)
		return q
	}
	assert.Zero(t, stats().Unfetched, "made less than a minute ago")

	b.exec(`update imagetasks.pending_results set saved_at = now() - interval '5 minutes'`)
	b.exec(`update imagetasks.pending_results set saved_at = now() - interval '3 minutes' where task_id = '` + claims[0].ID + `'`)
	q := stats()
	assert.Equal(t, 2, q.Unfetched)
	assert.InDelta(t, 5*time.Minute, q.UnfetchedFor, float64(time.Minute))
	assert.Contains(t, q.UnfetchedReason, "its host responded 404")
	assert.Equal(t, task.CodeDownload, q.UnfetchedCode)

	// That of a closed task counts no more, and that of an earlier run is none.
	again := b.claim(2)
	_, err := b.Fail(b.ctx, again[0].Lease(), &task.Error{Code: task.CodePictureLost, Paid: true}, false)
	require.NoError(t, err)
	assert.Equal(t, 1, stats().Unfetched)
	_, err = b.Redrive(b.ctx, again[0].ID, 1)
	require.NoError(t, err)
	assert.Equal(t, 1, stats().Unfetched)
}

// The result of a run is none of the next run.
func TestSavePending_BelongsToRun(t *testing.T) {
	b := fresh(t)
	held := b.claimOne(0)
	require.NoError(t, b.SavePending(b.ctx, held.Lease(), task.PendingResult{Ref: pictureURL}))
	_, err := b.Fail(b.ctx, held.Lease(), &task.Error{Code: task.CodePictureLost, Paid: true}, false)
	require.NoError(t, err)
	_, err = b.Redrive(b.ctx, held.ID, 1)
	require.NoError(t, err)
	again := b.claim(1)[0]
	assert.Equal(t, 2, again.Run)
	assert.Nil(t, again.Pending)
	assert.Empty(t, b.claimWhere(store.ClaimRequest{Limit: 10, PendingOnly: true}))
	b.exec(`update imagetasks.pending_results set gone = 3, gone_since = now(), saved_at = now() - interval '1 hour'`)
	require.NoError(t, b.SavePending(b.ctx, again.Lease(), task.PendingResult{Ref: pictureURL + "2"}))
	b.expireLeases()
	third := b.claim(1)[0]
	assert.Equal(t, pictureURL+"2", third.Pending.Ref)
	assert.Zero(t, third.Pending.Gone)
	assert.Less(t, third.Pending.Age, time.Minute)
}

// A user's request for deletion deletes it, too.
func TestSavePending_Forgotten(t *testing.T) {
	b := fresh(t)
	held := b.claimOne(1)
	require.NoError(t, b.SavePending(b.ctx, held.Lease(), task.PendingResult{Ref: pictureURL}))
	_, _, err := b.DeleteUserContent(b.ctx, held.UserID)
	require.NoError(t, err)
	assert.Zero(t, b.number(`select count(*) from imagetasks.pending_results`))
}

func TestSavePending_RefusesBadRefs(t *testing.T) {
	b := fresh(t)
	held := b.claimOne(0)
	for _, ref := range []string{"", strings.Repeat("x", 16385)} {
		assert.Error(t, b.SavePending(b.ctx, held.Lease(), task.PendingResult{Ref: ref}))
	}
	assert.Zero(t, b.number(`select count(*) from imagetasks.pending_results`))
}

// While the API is out of order, tasks whose picture is made already are claimed, and no others.
func TestClaim_PendingOnly(t *testing.T) {
	b := fresh(t)
	b.enqueue(b.user(0), 5, 0)
	made := b.claim(2)
	for _, m := range made {
		require.NoError(t, b.SavePending(b.ctx, m.Lease(), task.PendingResult{Ref: pictureURL}))
	}
	requireHeld(t)(b.Release(b.ctx, store.ReleaseRequest{Lease: made[0].Lease()}))
	b.claim(1) // another one, whose lease expires without a result
	b.expireLeases()
	got := b.claimWhere(store.ClaimRequest{Limit: 10, PendingOnly: true})
	assert.ElementsMatch(t, taskIDsOf(made), taskIDsOf(got))
	assert.Empty(t, b.claimWhere(store.ClaimRequest{Limit: 10, PendingOnly: true}))
	assert.Len(t, b.claimWhere(store.ClaimRequest{Limit: 10}), 3)
}

// Tasks of a model that is out of order do not delay others, and keep their turns.
func TestClaim_SkipModels(t *testing.T) {
	b := fresh(t)
	bad := b.enqueueModel("bad", 6)
	unnamed := b.enqueueModel("", 2)
	good := b.enqueueModel("good", 12)
	skip := store.ClaimRequest{Limit: 5, SkipModels: []string{"bad", ""}}
	assert.Equal(t, good[:5], taskIDsOf(b.claimWhere(skip)))
	assert.Equal(t, 8, b.number(`select count(*) from imagetasks.tasks where waits_for = 'model'`))
	stats, err := b.QueueStats(b.ctx, time.Hour)
	require.NoError(t, err)
	assert.Equal(t, 8, stats.OutOfOrder)
	assert.Equal(t, 15, stats.Due)
	assert.Equal(t, good[5:10], taskIDsOf(b.claimWhere(skip)))

	// One task of the model is tried.
	tried := b.claimWhere(store.ClaimRequest{Limit: 1, OnlyModels: []string{"bad"}})
	assert.Equal(t, bad[:1], taskIDsOf(tried))
	requireHeld(t)(b.Release(b.ctx, store.ReleaseRequest{Lease: tried[0].Lease(), Wait: time.Hour}))
	assert.Equal(t, bad[1:2], taskIDsOf(b.claimWhere(store.ClaimRequest{Limit: 1, OnlyModels: []string{"bad"}})), "another one")
	pending, err := b.HasPending(b.ctx)
	require.NoError(t, err)
	assert.True(t, pending)
	assert.Equal(t, good[10:], taskIDsOf(b.claimWhere(skip)))
	_, due, err := b.NextDue(b.ctx, true)
	require.NoError(t, err)
	assert.True(t, due, "the task that was tried, in an hour")

	// It works again: everything is claimed, in its turn.
	assert.Equal(t, append(bad[2:6:6], unnamed[0]), taskIDsOf(b.claimWhere(store.ClaimRequest{Limit: 5})))
	assert.Equal(t, unnamed[1:], taskIDsOf(b.claimWhere(store.ClaimRequest{Limit: 5})))
	assert.Zero(t, b.number(`select count(*) from imagetasks.tasks where waits_for = 'model'`))
}

// A task whose picture is made already needs no model.
func TestClaim_SkipModelsNotPending(t *testing.T) {
	b := fresh(t)
	ids := b.enqueueModel("bad", 2)
	made := b.claim(1)[0]
	require.NoError(t, b.SavePending(b.ctx, made.Lease(), task.PendingResult{Ref: pictureURL}))
	requireHeld(t)(b.Release(b.ctx, store.ReleaseRequest{Lease: made.Lease()}))
	assert.Equal(t, ids[:1], taskIDsOf(b.claimWhere(store.ClaimRequest{Limit: 2, SkipModels: []string{"bad"}})))
}

// Another processor that can use the model takes its tasks.
func TestClaim_SkipModelsOfOneProcessor(t *testing.T) {
	b := fresh(t)
	ids := b.enqueueModel("m", 10)
	for range 5 {
		assert.Empty(t, b.claimWhere(store.ClaimRequest{Limit: 4, SkipModels: []string{"m"}}))
	}
	assert.Equal(t, ids[:4], taskIDsOf(b.claimWhere(store.ClaimRequest{Limit: 4})))
	assert.Empty(t, b.claimWhere(store.ClaimRequest{Limit: 4, SkipModels: []string{"m"}}))
	assert.Equal(t, ids[4:8], taskIDsOf(b.claimWhere(store.ClaimRequest{Limit: 4})))
}

// USER_CONCURRENCY stays exact, and a user's tasks of other models start.
func TestClaim_SkipModelsWithUserConcurrency(t *testing.T) {
	b := fresh(t)
	require.NoError(t, b.SetLimits(b.ctx, 2, 0))
	user := b.user(0)
	var ids []string
	for _, model := range []string{"bad", "bad", "bad", "bad", "bad", "good", "good", "good"} {
		done, err := b.Enqueue(b.ctx, store.EnqueueRequest{UserID: user, Prompt: "x", Options: []byte(fmt.Sprintf(`{"model": %q}`, model))})
		require.NoError(t, err)
		ids = append(ids, done.TaskIDs...)
	}
	got := b.claimWhere(store.ClaimRequest{Limit: 5, SkipModels: []string{"bad"}})
	assert.Equal(t, ids[5:7], taskIDsOf(got))
	active := func() int {
		return b.number(`select count(*) from imagetasks.tasks where status = 'processing' or status = 'pending' and waits_for is null`)
	}
	assert.Equal(t, 2, active())
	assert.Empty(t, b.claimWhere(store.ClaimRequest{Limit: 5}), "two are in progress")
	assert.LessOrEqual(t, active(), 2)
	_, err := b.Complete(b.ctx, store.Completion{Lease: got[0].Lease()}, store.Completion{Lease: got[1].Lease()})
	require.NoError(t, err)
	require.NoError(t, b.Admit(b.ctx, user))
	assert.Len(t, b.claimWhere(store.ClaimRequest{Limit: 5}), 2)
	assert.LessOrEqual(t, active(), 2)
}

// Many tasks of a model that is out of order cost each claim little once they wait outside of its index.
func TestClaim_SkipModelsManyTasks(t *testing.T) {
	b := fresh(t)
	b.exec(`insert into imagetasks.tasks (task_id, user_id, prompt, model, waits_for, slot, backlog, run_after)
		select 'bad-' || lpad(i::text, 6, '0'), 'u' || i, 'x', 'bad', null, i, 0, now() - interval '1 hour' from generate_series(1, 30000) i`)
	b.exec(`insert into imagetasks.tasks (task_id, user_id, prompt, model, waits_for, slot, backlog, run_after)
		select 'good-' || i, 'u' || i, 'x', 'good', null, 100000 + i, 0, now() from generate_series(1, 5) i`)
	skip := store.ClaimRequest{Limit: 1, SkipModels: []string{"bad"}}
	var got []task.Task
	for range 3 { // 20,000 at once
		if got = b.claimWhere(skip); len(got) > 0 {
			break
		}
	}
	require.Equal(t, []string{"good-1"}, taskIDsOf(got))
	b.exec(`vacuum analyze imagetasks.tasks`)
	began := time.Now()
	for i := range 4 {
		require.Equal(t, []string{fmt.Sprintf("good-%d", i+2)}, taskIDsOf(b.claimWhere(skip)))
	}
	assert.Less(t, time.Since(began), 2*time.Second)
	assert.Equal(t, []string{"bad-000001"}, taskIDsOf(b.claimWhere(store.ClaimRequest{Limit: 1})), "it keeps its turn")
}

// A repeat of a claim returns the pending result as the first call did.
func TestClaim_RepeatReturnsPending(t *testing.T) {
	b := fresh(t)
	held := b.claimOne(0)
	require.NoError(t, b.SavePending(b.ctx, held.Lease(), task.PendingResult{Ref: pictureURL, RequestID: "r"}))
	requireHeld(t)(b.Release(b.ctx, store.ReleaseRequest{Lease: held.Lease()}))
	r := store.ClaimRequest{Limit: 1, CallID: uuid.New()}
	first, second := b.claimWhere(r), b.claimWhere(r)
	require.Len(t, second, 1)
	first[0].Pending.Age, second[0].Pending.Age = 0, 0
	assert.Equal(t, first, second)
	assert.Equal(t, "r", second[0].Pending.RequestID)
}

func TestWorkedModels_Recorded(t *testing.T) {
	b := fresh(t)
	models, err := b.WorkedModels(b.ctx)
	require.NoError(t, err)
	assert.Empty(t, models)
	for _, name := range []string{"a", "b", "a"} {
		require.NoError(t, b.RecordModel(b.ctx, store.Model{Endpoint: "https://api.example/v1", Name: name}))
	}
	models, err = b.WorkedModels(b.ctx)
	require.NoError(t, err)
	assert.Equal(t, []store.Model{{Endpoint: "https://api.example/v1", Name: "a"}, {Endpoint: "https://api.example/v1", Name: "b"}}, models)
}

// Users choose names of models, and a relay may take any.
func TestWorkedModels_Bounded(t *testing.T) {
	b := fresh(t)
	b.exec(`insert into imagetasks.models (endpoint, model) select 'e', 'm' || i from generate_series(1, 10000) i`)
	require.NoError(t, b.RecordModel(b.ctx, store.Model{Endpoint: "e", Name: "one more"}))
	assert.Equal(t, 10000, b.number(`select count(*) from imagetasks.models`))
}

func TestComplete_KeepsNote(t *testing.T) {
	b := fresh(t)
	held := b.claimOne(0)
	requireHeld(t)(b.Complete(b.ctx, store.Completion{Lease: held.Lease(), ImageURL: "a.png", Note: "aspect_ratio 16:9: 1536x1024 was used"}))
	details, err := b.TaskDetails(b.ctx, held.ID)
	require.NoError(t, err)
	require.Len(t, details.Outcomes, 1)
	assert.Equal(t, "aspect_ratio 16:9: 1536x1024 was used", details.Outcomes[0].Note)
}

func TestEnqueue_ChecksAspectRatio(t *testing.T) {
	b := fresh(t)
	enqueue := func(ratio string) error {
		var id string
		return b.raw.QueryRowContext(b.ctx, `select task_id from imagetasks.enqueue('u', 'x', jsonb_build_object('aspect_ratio', $1::text), 0)`, ratio).Scan(&id)
	}
	for _, ratio := range []string{"16:9", " 16 : 9 ", "16：9", "16x9", "16X9", "16×9", "16/9", "16*9", "1.91:1", "1536x1024", "Landscape", "auto", "SQUARE", "portrait", "", "99999:1", "0.5:1"} {
		assert.NoError(t, enqueue(ratio), "%q", ratio)
	}
	for _, ratio := range []string{"wide", "16", "16:", ":9", "16:9:1", "0:1", "1:0", "0.0:1", "-16:9", "1e3:1", "100000:1", "16;9", "16 9", "16:9\x01", "1.12345:1", "NaN:1"} {
		assert.ErrorContains(t, enqueue(ratio), "option aspect_ratio must be", "%q", ratio)
	}
}
