package store_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/lib/pq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// pause pauses an endpoint or a model.
func (b *testStore) pause(scope store.Scope, name string) {
	b.tb.Helper()
	_, err := b.PauseScope(b.ctx, store.By("operator"), scope, name, "a reason")
	require.NoError(b.tb, err)
}

func (b *testStore) resume(scope store.Scope, name string) bool {
	b.tb.Helper()
	ended, err := b.ResumeScope(b.ctx, store.By("operator"), scope, name)
	require.NoError(b.tb, err)
	return ended
}

func models(tasks []task.Task) (names []string) {
	for _, t := range tasks {
		names = append(names, t.Model)
	}
	return names
}

func TestPauseScope_StaysUntilResumed(t *testing.T) {
	t.Parallel()
	b := fresh(t)
	first, err := b.PauseScope(b.ctx, store.By("first"), store.ScopeModel, "m", "too slow")
	require.NoError(t, err)
	require.Len(t, first.Scopes, 1)
	assert.False(t, first.Paused(), "the queue is not")
	again, err := b.PauseScope(b.ctx, store.By("second"), store.ScopeModel, "m", "other reason")
	require.NoError(t, err)
	assert.Equal(t, first.Scopes, again.Scopes, "a pause that is in force stays as it is")
	b.pause(store.ScopeEndpoint, "m")
	_, err = b.Pause(b.ctx, "third", "maintenance")
	require.NoError(t, err)
	all, err := b.Pauses(b.ctx)
	require.NoError(t, err)
	require.Len(t, all, 3)
	assert.Equal(t, []store.Scope{store.ScopeQueue, store.ScopeModel, store.ScopeEndpoint}, []store.Scope{all[0].Scope, all[1].Scope, all[2].Scope})
	assert.Equal(t, store.Pause{Scope: store.ScopeModel, Name: "m", Since: all[1].Since, By: "first", Reason: "too slow"}, all[1])
	assert.WithinDuration(t, time.Now(), all[1].Since, time.Minute)

	assert.True(t, b.resume(store.ScopeModel, "m"), "exactly that one")
	assert.False(t, b.resume(store.ScopeModel, "m"))
	assert.False(t, b.resume(store.ScopeModel, "unknown"))
	all, err = b.Pauses(b.ctx)
	require.NoError(t, err)
	assert.Len(t, all, 2)
	require.NoError(t, b.Resume(b.ctx))
	all, err = b.Pauses(b.ctx)
	require.NoError(t, err)
	require.Len(t, all, 1)
	assert.Equal(t, store.ScopeEndpoint, all[0].Scope)
	assert.True(t, b.resume("", ""), "all that are left")
	assert.Empty(t, b.text(`select coalesce(string_agg(p::text, ' '), '') from imagetasks.control, jsonb_array_elements(pauses) p`))
}

// A paused model holds back its tasks and those without a model where it is the default; what is paid for is fetched, and everything else goes on.
func TestClaim_PausedModel(t *testing.T) {
	t.Parallel()
	b := fresh(t)
	user := b.user(100)
	e := store.ClaimEndpoint{Name: "e", Default: "m"}
	paid := b.enqueueModels(user, "m")
	held := b.claimFor(1, e)
	require.Equal(t, []string{"m"}, models(held))
	require.NoError(t, b.SavePending(b.ctx, held[0].Lease(), task.PendingResult{Ref: "https://pictures.example/a.png"}))
	b.enqueueModels(user, "m", "", "n", "m", "n")
	b.pause(store.ScopeModel, "m")
	_, err := b.Release(b.ctx, store.ReleaseRequest{Lease: held[0].Lease()})
	require.NoError(t, err)

	claimed := b.claimFor(10, e)
	require.Len(t, claimed, 3)
	assert.Equal(t, []string{"m", "n", "n"}, models(claimed))
	assert.Equal(t, paid[0], claimed[0].ID)
	assert.NotNil(t, claimed[0].Pending)
	assert.Empty(t, b.claimFor(10, e))
	found, err := b.HasPendingFor(b.ctx, []store.ClaimEndpoint{e})
	require.NoError(t, err)
	assert.False(t, found, "those that are left are paused")
	due, found, err := b.NextDue(b.ctx, true)
	require.NoError(t, err)
	assert.True(t, !found || due >= time.Second, "a processor does not look again at once: %s", due)

	b.resume(store.ScopeModel, "m")
	assert.Equal(t, []string{"m", "", "m"}, models(b.claimFor(10, e)), "in turn")
	b.requireAudit()
}

// The tasks of a paused endpoint go to another one that has their model, and wait where there is none.
func TestClaim_PausedEndpoint(t *testing.T) {
	t.Parallel()
	b := fresh(t)
	user := b.user(100)
	first, second := store.ClaimEndpoint{Name: "first", Preference: 1}, store.ClaimEndpoint{Name: "second", Preference: 2, Models: []string{"shared"}}
	b.enqueueModels(user, "shared", "own", "shared", "shared")
	unknown := b.claimFor(1, first, second)
	require.Equal(t, []string{"first"}, chosen(unknown))
	_, _, err := b.BeginRequest(b.ctx, unknown[0].Lease(), uuid.New(), "first", 0)
	require.NoError(t, err)
	require.NoError(t, b.release(unknown[0].Lease(), &task.Error{Code: task.CodeTimeout, Unknown: true}))
	b.pause(store.ScopeEndpoint, "first")

	assert.Equal(t, []string{"second", "second"}, chosen(b.claimFor(10, first, second)), "not the one whose request may still be worked at the first")
	assert.Empty(t, b.claimFor(10, first, second))
	found, err := b.HasPendingFor(b.ctx, []store.ClaimEndpoint{first, second})
	require.NoError(t, err)
	assert.False(t, found)
	b.pause(store.ScopeEndpoint, "second")
	b.enqueueModels(user, "shared")
	assert.Empty(t, b.claimFor(10, first, second), "every endpoint is paused")
	b.resume(store.ScopeEndpoint, "first")
	assert.Equal(t, []string{"first", "first", "first"}, chosen(b.claimFor(10, first, second)))
	b.requireAudit()
}

// A claim that has begun takes nothing that was enqueued after a pause.
func TestClaim_PauseHoldsForRunningClaims(t *testing.T) {
	t.Parallel()
	b := fresh(t)
	user := b.user(1000)
	ctx, stop := context.WithCancel(b.ctx)
	var claiming sync.WaitGroup
	var mu sync.Mutex
	claimed := map[string]bool{}
	for range 3 {
		claiming.Go(func() {
			for ctx.Err() == nil {
				tasks, err := b.Claim(b.ctx, store.ClaimRequest{Worker: "w", Limit: 5, Lease: time.Hour, MaxAttempts: 3, Endpoints: []store.ClaimEndpoint{{Name: "e"}}})
				assert.NoError(t, err)
				mu.Lock()
				for _, t := range tasks {
					claimed[t.ID] = true
				}
				mu.Unlock()
			}
		})
	}
	var after []string
	for round := range 40 {
		scope, name := store.ScopeModel, "m"
		if round%2 == 1 {
			scope, name = store.ScopeEndpoint, "e"
		}
		before := b.enqueueModels(user, "m")
		require.Eventually(t, func() bool { mu.Lock(); defer mu.Unlock(); return claimed[before[0]] }, 10*time.Second, time.Millisecond)
		b.pause(scope, name)
		ids := b.enqueueModels(user, "m")
		after = append(after, ids...)
		b.exec(`update imagetasks.tasks set status = 'cancelled', completed_at = now(), credits_refunded = 0, credits_cost = 0, credits_deducted = 0, waits_for = null
			where task_id = $1 and status = 'pending'`, ids[0])
		b.resume(scope, name)
	}
	stop()
	claiming.Wait()
	for _, id := range after {
		assert.False(t, claimed[id], "claimed though it was enqueued after the pause")
	}
}

// A long queue of a paused model costs the other claims nothing once it is out of the way, and moving it there is bounded, too.
func TestClaim_LongQueueOfPausedModel(t *testing.T) {
	t.Parallel()
	many := 25_000
	if long() {
		many = 100_000
	}
	b := fresh(t)
	b.queue("paused", many, 0)
	b.queue("other", 2000, 2*many)
	b.exec(`vacuum analyze imagetasks.tasks`)
	b.pause(store.ScopeModel, "paused")
	explain := func() (string, int) {
		plan := b.explainWith("explain (analyze, buffers) ", b.Statement("claim"), uuid.NewString(), "w", 10, 60000, 3, 5, 10, 0, true, nil, pq.Array([]string{}), nil, false,
			`[{"name": "e", "preference": 1, "default": "d"}]`, true)
		return plan, pagesOf(plan)
	}
	took := []time.Duration{}
	claimed := 0
	for range 20 {
		began := time.Now()
		claimed += len(b.claimFor(10, store.ClaimEndpoint{Name: "e", Default: "d"}))
		took = append(took, time.Since(began))
	}
	assert.Equal(t, 200, claimed, "each claim gets what it asks for")
	assert.Less(t, slices.Max(took), 10*time.Second)
	_, _ = explain() // the first call of a session reads catalogs
	plan, pages := explain()
	assert.LessOrEqual(t, pages, 4000, "%s", plan)
	t.Logf("the longest of 20 claims took %s, the last %s, and reads %d pages", slices.Max(took), took[len(took)-1], pages)
}

// What an operator does is in the log in the same transaction, with who did it; what the application does is not.
func TestOperations(t *testing.T) {
	t.Parallel()
	b := fresh(t)
	user := b.user(100)
	ids := b.enqueue(user, 3, 5)
	_, err := b.Cancel(b.ctx, ids[0], user)
	require.NoError(t, err)
	_, err = b.GrantCredits(b.ctx, user, 5, "order", "key-1")
	require.NoError(t, err)
	entries, err := b.Operations(b.ctx, 10)
	require.NoError(t, err)
	assert.Empty(t, entries)

	ann := func() store.Operation { return store.By("ann") }
	op := ann()
	for range 2 {
		_, err = b.CancelBy(b.ctx, op, ids[1], "")
		require.NoError(t, err)
	}
	failed := b.claimOne(5)
	_, err = b.Fail(b.ctx, failed.Lease(), errServer, true)
	require.NoError(t, err)
	_, err = b.RedriveBy(b.ctx, ann(), failed.ID, 1)
	require.NoError(t, err)
	_, err = b.RedriveBy(b.ctx, ann(), ids[1], 1)
	require.ErrorIs(t, err, task.ErrWrongState)
	_, err = b.GrantCreditsBy(b.ctx, ann(), user, 7, strings.Repeat("long ", 100), "key-2")
	require.NoError(t, err)
	_, err = b.PauseBy(b.ctx, ann(), "maintenance")
	require.NoError(t, err)
	require.NoError(t, b.ResumeBy(b.ctx, ann()))
	b.pause(store.ScopeEndpoint, "e")
	b.resume(store.ScopeEndpoint, "e")
	b.resume(store.ScopeEndpoint, "e")
	require.NoError(t, b.NoteOperation(b.ctx, ann(), store.OperationEntry{What: "fix-stuck", Detail: "older than 20m0s", Result: "begun"}))

	entries, err = b.Operations(b.ctx, 100)
	require.NoError(t, err)
	var got []string
	for _, e := range slices.Backward(entries) {
		assert.WithinDuration(t, time.Now(), e.At, time.Minute)
		got = append(got, strings.Join([]string{e.Who, e.What, e.Subject, e.Result}, "|"))
	}
	assert.Equal(t, []string{
		"ann|cancel|" + ids[1] + "|cancelled", "ann|redrive|" + failed.ID + "|run 2", "ann|grant|" + user + "|balance " + b.text(`select credits::text from imagetasks.credits where user_id = $1`, user),
		"ann|pause||paused", "ann|resume||resumed", "operator|pause endpoint|e|paused", "operator|resume endpoint|e|resumed",
		"operator|resume endpoint|e|was not paused", "ann|fix-stuck||begun"}, got)
	for _, change := range []string{`update imagetasks.operations set who = 'x'`, `delete from imagetasks.operations`, `truncate imagetasks.operations`} {
		_, err := b.raw.ExecContext(b.ctx, change)
		assert.ErrorContains(t, err, "append-only", change)
	}
	b.requireAudit()
}
