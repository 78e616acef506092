package store_test

import (
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

func TestClaim_InTurnWithNewEpoch(t *testing.T) {
	b := fresh(t)
	user := b.user(10)
	ids := b.enqueue(user, 4, 1)
	b.exec(`update imagetasks.tasks set slot = 0 where task_id = $1`, ids[2])
	b.exec(`update imagetasks.tasks set run_after = now() + interval '1 hour', waits_for = 'time' where task_id = $1`, ids[0])

	first := b.claim(1)
	require.Len(t, first, 1)
	assert.Equal(t, ids[2], first[0].ID)
	assert.Equal(t, user, first[0].UserID)
	assert.Equal(t, "a cat", first[0].Prompt)
	assert.Equal(t, 1, first[0].Attempt)
	assert.Equal(t, 3, first[0].MaxAttempts)
	assert.EqualValues(t, 1, first[0].Epoch)
	assert.Zero(t, first[0].Inputs)
	assert.Equal(t, 1, first[0].Run)
	assert.JSONEq(t, `{}`, string(first[0].Options))

	assert.Len(t, b.claim(10), 2, "the task that is due later is not claimed")
	assert.Empty(t, b.claim(10))
	wait, some, err := b.NextDue(b.ctx, true)
	require.NoError(t, err)
	assert.True(t, some)
	assert.Positive(t, wait)
}

// A claim that ended without a recorded outcome uses no attempt. After two in a row the task is claimed by a processor that works on nothing else,
// and after the last one only to look for what is paid for already.
func TestClaim_LostClaims(t *testing.T) {
	b := fresh(t)
	lost := b.claimOne(1)
	b.enqueue(b.user(1), 1, 1)
	claim := func(alone bool) []task.Task {
		t.Helper()
		b.expireLeases()
		tasks, err := b.Claim(b.ctx, store.ClaimRequest{Worker: "w", Limit: 10, Lease: time.Minute, MaxAttempts: 3, MaxLostClaims: 3, Expired: 1000, Alone: alone})
		require.NoError(t, err)
		return tasks
	}
	tasks := claim(true)
	require.Len(t, tasks, 2, "one lost claim may be chance")
	assert.Equal(t, lost.ID, tasks[0].ID, "expired leases come first")
	assert.Equal(t, 1, tasks[0].Attempt)
	assert.Equal(t, 1, tasks[0].LostClaims)
	assert.Greater(t, tasks[0].Epoch, lost.Epoch)
	require.NoError(t, b.Retry(b.ctx, tasks[1].Lease(), 0, errServer))
	for _, want := range []int{2, 3} {
		suspect, err := b.HasSuspect(b.ctx, 3)
		require.NoError(t, err)
		assert.False(t, suspect, "its lease has not expired")
		other := claim(false)
		for _, o := range other {
			assert.NotEqual(t, lost.ID, o.ID, "something else is in flight")
			requireHeld(t)(b.Release(b.ctx, store.ReleaseRequest{Lease: o.Lease()}))
		}
		suspect, err = b.HasSuspect(b.ctx, 3)
		require.NoError(t, err)
		assert.True(t, suspect)
		tasks = claim(true)
		require.Len(t, tasks, 1, "nothing else with it")
		assert.Equal(t, lost.ID, tasks[0].ID)
		assert.Equal(t, want, tasks[0].LostClaims)
		assert.True(t, store.Suspect(tasks[0]))
	}
	b.expireLeases()
	suspect, err := b.HasSuspect(b.ctx, 3)
	require.NoError(t, err)
	assert.False(t, suspect)
	for _, other := range claim(true) {
		assert.NotEqual(t, lost.ID, other.ID)
	}
	closed, err := b.FailAbandoned(b.ctx, 3, 0, 10, uuid.Nil)
	require.NoError(t, err)
	require.Len(t, closed, 1)
	assert.Equal(t, lost.ID, closed[0].TaskID)
	assert.EqualValues(t, 1, closed[0].Credits)
	assert.Equal(t, task.CodeWorkerLost, b.row(lost.ID).ErrorCode)
	assert.Zero(t, b.row(lost.ID).Attempts)
	b.requireAudit()
}

// The lost claims count in a row: one with a recorded outcome starts the count again.
func TestClaim_LostClaimsInARow(t *testing.T) {
	b := fresh(t)
	b.claimOne(1)
	b.expireLeases()
	tasks := b.claim(1)
	require.Len(t, tasks, 1)
	require.Equal(t, 1, tasks[0].LostClaims)
	requireHeld(t)(b.Release(b.ctx, store.ReleaseRequest{Lease: tasks[0].Lease()}))
	tasks = b.claim(1)
	require.Len(t, tasks, 1)
	assert.Zero(t, tasks[0].LostClaims)
	requireHeld(t)(b.Release(b.ctx, store.ReleaseRequest{Lease: tasks[0].Lease(), Lost: true}))
	tasks = b.claim(1)
	require.Len(t, tasks, 1)
	assert.Equal(t, 1, tasks[0].LostClaims, "the worker panicked")
}

// After a start of the server the owners of expired leases have time to come back.
func TestClaim_WaitsAfterStartOfServer(t *testing.T) {
	b := fresh(t)
	held := b.claimOne(1)
	b.exec(`update imagetasks.tasks set lost_claims = 7, processing_started_at = now() - interval '1 hour'`)
	b.expireLeases()
	const longer = 24 * time.Hour // than the server runs
	for _, r := range []store.ClaimRequest{{Expired: 1000, AfterStart: longer}, {}} {
		r.Worker, r.Limit, r.Lease = "w", 10, time.Minute
		tasks, err := b.Claim(b.ctx, r)
		require.NoError(t, err)
		assert.Empty(t, tasks)
	}
	closed, err := b.FailAbandoned(b.ctx, 3, longer, 10, uuid.Nil)
	require.NoError(t, err)
	assert.Empty(t, closed)
	for _, requeue := range []bool{false, true} {
		closed, err = b.Sweep(b.ctx, store.Sweep{OlderThan: time.Minute, Limit: 10, AfterStart: longer, Requeue: requeue})
		require.NoError(t, err)
		assert.Empty(t, closed)
	}
	requireHeld(t)(b.Complete(b.ctx, store.Completion{Lease: held.Lease(), ImageURL: "x"}))
	b.requireAudit()
}

func TestClaim_MaxAttemptsOfTaskTakesPrecedence(t *testing.T) {
	b := fresh(t)
	_, err := b.Enqueue(b.ctx, store.EnqueueRequest{UserID: b.user(1), Prompt: "x", Cost: 1, Options: json.RawMessage(`{"max_attempts": 1}`)})
	require.NoError(t, err)
	claimed := b.claim(1)
	require.Len(t, claimed, 1)
	assert.True(t, claimed[0].LastAttempt())
}

func TestClaim_ConcurrentClaimsNeverOverlap(t *testing.T) {
	b := fresh(t)
	b.enqueue(b.user(500), 500, 1)
	var wg sync.WaitGroup
	var mu sync.Mutex
	taken := map[string]int{}
	for w := range 4 {
		wg.Go(func() {
			for {
				tasks, err := b.Claim(b.ctx, store.ClaimRequest{Worker: fmt.Sprint(w), Limit: 7, Lease: time.Minute, MaxAttempts: 3, Expired: 1000, Alone: true})
				if !assert.NoError(t, err) || len(tasks) == 0 {
					return
				}
				mu.Lock()
				for _, tk := range tasks {
					taken[tk.ID]++
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	assert.Len(t, taken, 500)
	for id, n := range taken {
		assert.Equal(t, 1, n, id)
	}
}

// Every call under a lease is rejected, and changes nothing, once the task was claimed again or closed, or if the lease
// was never held.
func TestTransitions_LostLeaseIsRejected(t *testing.T) {
	calls := map[string]func(b *testStore, l task.Lease) error{
		"complete": func(b *testStore, l task.Lease) error {
			held, err := b.Complete(b.ctx, store.Completion{Lease: l, ImageURL: "late.png"})
			return leaseLost(held, err)
		},
		"renew": func(b *testStore, l task.Lease) error {
			held, _, err := b.RenewLeases(b.ctx, time.Hour, []store.LeaseRenewal{{Lease: l, Progress: 50, Stage: "late"}})
			return leaseLost(held, err)
		},
		"release": func(b *testStore, l task.Lease) error {
			held, err := b.Release(b.ctx, store.ReleaseRequest{Lease: l})
			return leaseLost(held, err)
		},
		"retry": func(b *testStore, l task.Lease) error { return b.Retry(b.ctx, l, 0, errServer) },
		"fail": func(b *testStore, l task.Lease) error {
			_, err := b.Fail(b.ctx, l, errServer, true)
			return err
		},
		"inputs": func(b *testStore, l task.Lease) error {
			_, err := b.Inputs(b.ctx, l)
			return err
		},
	}
	losses := map[string]func(b *testStore, held task.Task){
		"claimed again": func(b *testStore, held task.Task) { b.expireLeases(); require.Len(b.tb, b.claim(1), 1) },
		"released": func(b *testStore, held task.Task) {
			requireHeld(b.tb)(b.Release(b.ctx, store.ReleaseRequest{Lease: held.Lease()}))
		},
		"retried":   func(b *testStore, held task.Task) { require.NoError(b.tb, b.Retry(b.ctx, held.Lease(), 0, errServer)) },
		"cancelled": func(b *testStore, held task.Task) { b.cancel(held.ID) },
		"failed": func(b *testStore, held task.Task) {
			noErr[task.Refund](b.tb)(b.Fail(b.ctx, held.Lease(), errServer, true))
		},
		"swept": func(b *testStore, held task.Task) {
			b.exec(`update imagetasks.tasks set processing_started_at = now() - interval '21 minutes'`)
			swept, err := b.Sweep(b.ctx, store.Sweep{OlderThan: 20 * time.Minute, Limit: 10})
			require.NoError(b.tb, err)
			require.Len(b.tb, swept, 1)
		},
		"never held": func(b *testStore, held task.Task) {
			b.exec(`update imagetasks.tasks set lease_epoch = lease_epoch + 7`)
		},
	}
	// The same call again is a repeat after a lost answer; a picture of a task that nobody has claimed since completes it.
	repeats := map[string]bool{"released/release": true, "retried/retry": true, "failed/fail": true,
		"released/complete": true, "retried/complete": true}
	b := fresh(t)
	for loss, lose := range losses {
		for name, call := range calls {
			t.Run(loss+"/"+name, func(t *testing.T) {
				b := &testStore{Store: b.Store, tb: t, ctx: t.Context(), raw: b.raw}
				if repeats[loss+"/"+name] {
					return
				}
				held := b.claimOne(2)
				b.exec(`insert into imagetasks.inputs (task_id, position, content) values ($1, 1, 'x')`, held.ID)
				lose(b, held)
				before := b.row(held.ID)
				assert.ErrorIs(t, call(b, held.Lease()), task.ErrLeaseLost)
				assert.Equal(t, before, b.row(held.ID))
				b.requireAudit()
				// Keep the task out of the next subtest.
				if s := b.row(held.ID).State; s == task.Pending || s == task.Processing {
					b.cancel(held.ID)
				}
			})
		}
	}
}

func leaseLost(held []task.Lease, err error) error {
	if err == nil && len(held) == 0 {
		return task.ErrLeaseLost
	}
	return err
}

func TestRenewLeases_ReturnsLeasesStillHeld(t *testing.T) {
	b := fresh(t)
	b.enqueue(b.user(5), 5, 1)
	tasks := b.claim(5)
	require.Len(t, tasks, 5)
	b.expireLeases()
	b.cancel(tasks[3].ID)
	var beats []store.LeaseRenewal
	for i, tk := range tasks {
		beats = append(beats, store.LeaseRenewal{Lease: tk.Lease(), Progress: 10 * i, Stage: "generating"})
	}
	held, _, err := b.RenewLeases(b.ctx, time.Hour, beats)
	require.NoError(t, err)
	assert.Len(t, held, 4)
	assert.NotContains(t, held, tasks[3].Lease())
	assert.Empty(t, b.claim(5), "the leases are valid again")
	assert.Equal(t, 20, b.row(tasks[2].ID).Progress)
	assert.Equal(t, "generating", b.row(tasks[2].ID).Stage)
}

// Statements that lock many rows must not deadlock.
func TestRenewLeases_NoDeadlockWithComplete(t *testing.T) {
	b := fresh(t)
	b.enqueue(b.user(60), 60, 1)
	tasks := b.claim(60)
	var up, down []store.LeaseRenewal
	for i := range tasks {
		up = append(up, store.LeaseRenewal{Lease: tasks[i].Lease()})
		down = append(down, store.LeaseRenewal{Lease: tasks[len(tasks)-1-i].Lease()})
	}
	var wg sync.WaitGroup
	for _, beats := range [][]store.LeaseRenewal{up, down, up, down} {
		wg.Go(func() {
			for range 50 {
				_, _, err := b.RenewLeases(b.ctx, time.Minute, beats)
				assert.NoError(t, err)
			}
		})
	}
	wg.Go(func() {
		for i := len(tasks) - 1; i >= 0; i -= 3 {
			_, err := b.Complete(b.ctx, store.Completion{Lease: tasks[i].Lease()}, store.Completion{Lease: tasks[i-2].Lease()}, store.Completion{Lease: tasks[i-1].Lease()})
			assert.NoError(t, err)
		}
	})
	wg.Wait()
	assert.Equal(t, 60, b.number("select count(*) from imagetasks.tasks where status = 'completed'"))
}

func TestRetry_UsesAttemptAndReleaseDoesNot(t *testing.T) {
	b := fresh(t)
	held := b.claimOne(1)
	require.NoError(t, b.Retry(b.ctx, held.Lease(), time.Hour, errServer))
	r := b.row(held.ID)
	assert.Equal(t, task.Pending, r.State)
	assert.Equal(t, 1, r.Attempts)
	assert.Equal(t, task.CodeServer, r.ErrorCode)
	assert.Empty(t, b.claim(1), "it is not due")

	b.exec(`update imagetasks.tasks set run_after = now()`)
	again := b.claim(1)
	require.Len(t, again, 1)
	requireHeld(t)(b.Release(b.ctx, store.ReleaseRequest{Lease: again[0].Lease(), Cause: &task.Error{Code: task.CodeShutdown, Message: "stopped"}}))
	r = b.row(held.ID)
	assert.Equal(t, task.Pending, r.State)
	assert.Equal(t, 1, r.Attempts)
	assert.Equal(t, task.CodeShutdown, r.ErrorCode)
	assert.Len(t, b.claim(1), 1)
}

func TestInputs_PicturesAndMask(t *testing.T) {
	b := fresh(t)
	given := []task.Input{{Content: []byte("one")}, {URL: "https://example.com/two.png?sig=1"}, {Content: []byte("mask"), Mask: true}}
	_, err := b.Enqueue(b.ctx, store.EnqueueRequest{UserID: b.user(1), Cost: 1, Inputs: given})
	require.NoError(t, err)
	held := b.claim(1)[0]
	assert.Equal(t, 3, held.Inputs)
	inputs, err := b.Inputs(b.ctx, held.Lease())
	require.NoError(t, err)
	require.Len(t, inputs, 3)
	for i := range given {
		assert.Equal(t, given[i].URL, inputs[i].URL)
		assert.Equal(t, string(given[i].Content), string(inputs[i].Content))
		assert.Equal(t, given[i].Mask, inputs[i].Mask)
	}
	requireHeld(t)(b.Complete(b.ctx, store.Completion{Lease: held.Lease()}))
	assert.Zero(t, b.number(`select count(*) from imagetasks.inputs`))
}

// A claim that is repeated because its answer was lost returns the same leases, as far as they still hold, also while the first
// call is still running.
func TestClaim_RepeatedCallReturnsSameLeases(t *testing.T) {
	b := fresh(t)
	b.enqueue(b.user(40), 40, 1)
	request := store.ClaimRequest{Worker: "w", Limit: 10, Lease: time.Minute, MaxAttempts: 3, CallID: uuid.New()}
	var wg sync.WaitGroup
	results := make([][]task.Task, 4)
	for i := range results {
		wg.Go(func() {
			var err error
			results[i], err = b.Claim(b.ctx, request)
			assert.NoError(t, err)
		})
	}
	wg.Wait()
	for _, r := range results {
		assert.ElementsMatch(t, results[0], r)
		assert.Len(t, r, 10)
	}
	assert.Equal(t, 10, b.number(`select count(*) from imagetasks.tasks where status = 'processing'`))

	requireHeld(t)(b.Complete(b.ctx, store.Completion{Lease: results[0][0].Lease()}))
	again, err := b.Claim(b.ctx, request)
	require.NoError(t, err)
	assert.Len(t, again, 9)
}

func TestClaim_Paused(t *testing.T) {
	b := fresh(t)
	b.enqueue(b.user(1), 1, 1)
	c, err := b.Pause(b.ctx, "operator", "maintenance")
	require.NoError(t, err)
	assert.True(t, c.Paused())
	again, err := b.Pause(b.ctx, "somebody else", "")
	require.NoError(t, err)
	assert.Equal(t, c, again, "a pause that is in force stays as it is")
	assert.Empty(t, b.claim(1))
	_, due, err := b.NextDue(b.ctx, true)
	require.NoError(t, err)
	assert.False(t, due)
	require.NoError(t, b.Resume(b.ctx))
	assert.Len(t, b.claim(1), 1)
}

// A claim says how long a task had been due, and what its run was charged.
func TestClaim_WaitAndCharge(t *testing.T) {
	b := fresh(t)
	ids := b.enqueue(b.user(10), 2, 4)
	b.exec(`update imagetasks.tasks set created_at = now() - interval '10 minutes', run_after = now() - interval '90 seconds' where task_id = $1`, ids[0])
	claimed := b.claim(2)
	require.Len(t, claimed, 2)
	assert.InDelta(t, 90, claimed[0].Waited.Seconds(), 10)
	assert.InDelta(t, 5, claimed[1].Waited.Seconds(), 5, "just enqueued")
	assert.EqualValues(t, 4, claimed[0].Charged)
}
