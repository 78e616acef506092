package store_test

import (
	"slices"
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

func TestComplete_FinalAndRepeatable(t *testing.T) {
	b := fresh(t)
	held := b.claimOne(1)
	done := store.Completion{Lease: held.Lease(), ImageURL: "pic.png", RequestID: "req_1"}
	for range 2 {
		accepted, err := b.Complete(b.ctx, done)
		require.NoError(t, err)
		assert.Equal(t, []task.Lease{held.Lease()}, accepted)
	}
	r := b.row(held.ID)
	assert.Equal(t, task.Completed, r.State)
	assert.Equal(t, "pic.png", r.ImageURL)
	assert.Equal(t, "req_1", r.RequestID)
	assert.Equal(t, 100, r.Progress)
	assert.Zero(t, r.Refunded)
	late, err := b.Cancel(b.ctx, held.ID, "")
	require.NoError(t, err)
	assert.Equal(t, store.Cancelled{TaskID: held.ID, State: task.Completed}, late)
	_, err = b.Cancel(b.ctx, "no such task", "")
	assert.ErrorIs(t, err, task.ErrNotFound)
	b.requireAudit()
}

// A task is stuck by the start of its processing; rows of other writers, by their last update. Pending tasks are never
// stuck.
func TestSweep_OnlyStuckTasks(t *testing.T) {
	b := fresh(t)
	user := b.user(10)
	ids := b.enqueue(user, 6, 1)
	for i, set := range []string{
		`status='processing', processing_started_at = now() - interval '21 minutes'`,
		`status='processing', processing_started_at = now() - interval '19 minutes', created_at = now() - interval '3 days', updated_at = now() - interval '3 days'`,
		`status='processing', processing_started_at = null, updated_at = now() - interval '21 minutes'`,
		`status='processing', processing_started_at = null, updated_at = now() - interval '19 minutes', created_at = now() - interval '3 days'`,
		`status='pending', created_at = now() - interval '3 days', updated_at = now() - interval '3 days'`,
		`status='completed', processing_started_at = now() - interval '3 days'`,
	} {
		b.exec(`update imagetasks.tasks set `+set+` where task_id = $1`, ids[i])
	}
	would, err := b.Stuck(b.ctx, store.Sweep{OlderThan: 20 * time.Minute, Limit: 10})
	require.NoError(t, err)
	swept, err := b.Sweep(b.ctx, store.Sweep{OlderThan: 20 * time.Minute, Limit: 10})
	require.NoError(t, err)
	require.Len(t, swept, 2)
	require.Len(t, would, 2)
	for i, r := range swept {
		assert.Contains(t, []string{ids[0], ids[2]}, r.TaskID)
		assert.EqualValues(t, 1, r.Credits)
		assert.NotNil(t, r.Balance)
		assert.Greater(t, r.Age, 20*time.Minute)
		assert.EqualValues(t, 1, would[i].Credits)
		assert.Equal(t, task.Failed, b.row(r.TaskID).State)
		assert.Equal(t, task.CodeStuck, b.row(r.TaskID).ErrorCode)
		assert.EqualValues(t, 1, b.row(r.TaskID).Refunded)
	}
	assert.Equal(t, 6, b.balance(user))
	swept, err = b.Sweep(b.ctx, store.Sweep{OlderThan: 20 * time.Minute, Limit: 10})
	require.NoError(t, err)
	assert.Empty(t, swept)
	b.requireAudit()
}

func TestSweep_RequeueInvalidatesLeaseWithoutRefund(t *testing.T) {
	b := fresh(t)
	user := b.user(2)
	b.enqueue(user, 2, 1)
	late := b.claim(2)
	b.exec(`update imagetasks.tasks set processing_started_at = now() - interval '30 minutes'`)
	other := b.user(1)
	filtered := store.Sweep{OlderThan: 20 * time.Minute, Limit: 10, Requeue: true, UserID: other}
	none, err := b.Sweep(b.ctx, filtered)
	require.NoError(t, err)
	assert.Empty(t, none, "the other user has no stuck task")
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
	assert.Zero(t, row.Attempts, "the attempt is not used")
	assert.Equal(t, task.Processing, b.row(late[1].ID).State, "only the named task")

	again := b.claim(1)
	require.Len(t, again, 1)
	held, err := b.Complete(b.ctx, store.Completion{Lease: late[0].Lease(), ImageURL: "late.png"})
	require.NoError(t, err)
	assert.Empty(t, held)
	assert.Greater(t, again[0].Epoch, late[0].Epoch)
	// A process that claims a task again holds two leases on it, of which one is valid.
	held, _, err = b.RenewLeases(b.ctx, time.Minute, []store.LeaseRenewal{{Lease: late[0].Lease()}, {Lease: again[0].Lease()}})
	require.NoError(t, err)
	assert.Equal(t, []task.Lease{again[0].Lease()}, held)
	held, err = b.Complete(b.ctx, store.Completion{Lease: late[0].Lease(), ImageURL: "late.png"},
		store.Completion{Lease: again[0].Lease(), ImageURL: "new.png"})
	require.NoError(t, err)
	assert.Equal(t, []task.Lease{again[0].Lease()}, held)
	b.requireAudit()
}

func TestFailOverdue_OnlyOverdueTasks(t *testing.T) {
	b := fresh(t)
	u := b.user(10)
	ids := b.enqueue(u, 5, 2)
	claimed := b.claim(1)
	require.Len(t, claimed, 1)
	waiting := slices.DeleteFunc(ids, func(id string) bool { return id == claimed[0].ID })
	b.exec(`update imagetasks.tasks set run_after = now() - interval '61 minutes' where task_id = any ($1)`, pq.Array(waiting[:2]))
	b.exec(`update imagetasks.tasks set run_after = now() - interval '61 minutes' where task_id = $1`, claimed[0].ID)
	b.exec(`update imagetasks.tasks set created_at = now() - interval '1 day', run_after = now() - interval '59 minutes' where task_id = $1`, waiting[2])
	n, err := b.CountOverdue(b.ctx, time.Hour)
	require.NoError(t, err)
	assert.Equal(t, 2, n)
	expired, err := b.FailOverdue(b.ctx, time.Hour, 10, uuid.Nil)
	require.NoError(t, err)
	require.Len(t, expired, 2)
	for _, r := range expired {
		assert.Contains(t, waiting[:2], r.TaskID)
		assert.EqualValues(t, 2, r.Credits)
		assert.GreaterOrEqual(t, r.Age, 61*time.Minute)
		assert.Equal(t, task.CodePendingTimeout, b.row(r.TaskID).ErrorCode)
	}
	again, err := b.FailOverdue(b.ctx, time.Hour, 10, uuid.Nil)
	require.NoError(t, err)
	assert.Empty(t, again)
	assert.Equal(t, 4, b.balance(u))
	b.requireAudit()
}

// A task that is claimed and failed as overdue at the same time is either started or refunded, never both.
func TestFailOverdue_ConcurrentClaimsNeverOverlap(t *testing.T) {
	b := fresh(t)
	u := b.user(300)
	b.enqueue(u, 300, 1)
	b.exec(`update imagetasks.tasks set run_after = now() - interval '2 hours'`)
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[string]int{}
	refunded := 0
	for range 2 {
		wg.Go(func() {
			for {
				claimed, err := b.Claim(b.ctx, store.ClaimRequest{Worker: "w", Limit: 5, Lease: time.Minute, MaxAttempts: 3, Expired: 1000, Alone: true})
				if !assert.NoError(t, err) || len(claimed) == 0 {
					return
				}
				mu.Lock()
				for _, c := range claimed {
					seen[c.ID]++
				}
				mu.Unlock()
			}
		})
		wg.Go(func() {
			for {
				expired, err := b.FailOverdue(b.ctx, time.Hour, 5, uuid.Nil)
				if !assert.NoError(t, err) || len(expired) == 0 {
					return
				}
				mu.Lock()
				for _, r := range expired {
					seen[r.TaskID]++
					refunded += int(r.Credits)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	assert.Len(t, seen, 300)
	for id, n := range seen {
		assert.Equal(t, 1, n, id)
	}
	assert.Equal(t, refunded, b.balance(u))
	b.requireAudit()
}

func TestCancel_RefundsWhatTheLedgerCharged(t *testing.T) {
	b := fresh(t)
	t.Run("never charged", func(t *testing.T) {
		user := uuid.NewString()
		b.exec(`insert into imagetasks.tasks (task_id, user_id, prompt, credits_deducted) values ('free', $1, 'x', 0)`, user)
		r, err := b.Cancel(b.ctx, "free", "")
		require.NoError(t, err)
		assert.Zero(t, r.Refunded)
		assert.Zero(t, b.number(`select count(*) from imagetasks.credits where user_id = $1`, user))
	})
	t.Run("already refunded by the application", func(t *testing.T) {
		user := b.user(5)
		id := b.enqueue(user, 1, 5)[0]
		b.exec(`update imagetasks.credits set credits = credits + 5 where user_id = $1`, user)
		b.exec(`insert into imagetasks.ledger (user_id, task_id, run, kind, amount, balance_after) values ($1, $2, 1, 'refund', 5, 5)`, user, id)
		b.exec(`update imagetasks.tasks set credits_refunded = 5 where task_id = $1`, id)
		b.cancel(id)
		assert.Equal(t, 5, b.balance(user))
	})
	t.Run("the user's row is missing", func(t *testing.T) {
		user := b.user(5)
		id := b.enqueue(user, 1, 5)[0]
		b.exec(`delete from imagetasks.credits where user_id = $1`, user)
		r, err := b.Cancel(b.ctx, id, "")
		require.NoError(t, err)
		assert.EqualValues(t, 5, r.Refunded)
		assert.Equal(t, 5, b.balance(user))
	})
	b.requireAudit()
}

func TestSweep_ManyRefundsOfOneUserAddUp(t *testing.T) {
	b := fresh(t)
	one, two := b.user(10), b.user(10)
	b.enqueue(one, 3, 2)
	b.enqueue(two, 2, 3)
	require.Len(t, b.claim(10), 5)
	b.exec(`update imagetasks.tasks set processing_started_at = now() - interval '1 hour'`)
	swept, err := b.Sweep(b.ctx, store.Sweep{OlderThan: 20 * time.Minute, Limit: 100})
	require.NoError(t, err)
	assert.Len(t, swept, 5)
	assert.Equal(t, 10, b.balance(one))
	assert.Equal(t, 10, b.balance(two))
	b.requireAudit()
}

// Fail, Cancel, Sweep and FailAbandoned on the same tasks at the same time refund each task exactly once.
func TestClose_ConcurrentClosesRefundOnce(t *testing.T) {
	b := fresh(t)
	users := []string{b.user(50), b.user(50), b.user(50)}
	for _, u := range users {
		b.enqueue(u, 50, 1)
	}
	tasks := b.claim(150)
	require.Len(t, tasks, 150)
	b.exec(`update imagetasks.tasks set processing_started_at = now() - interval '1 hour',
	            lease_expires_at = now() - interval '1 hour', lost_claims = 3`)
	var wg sync.WaitGroup
	var mu sync.Mutex
	closed := map[string]int{}
	count := func(refunds ...task.Refund) {
		mu.Lock()
		defer mu.Unlock()
		for _, r := range refunds {
			closed[r.TaskID]++
		}
	}
	// Cancel and Fail report the same to each caller: a task counts once, however many callers there were.
	cancelled := func(id string) {
		mu.Lock()
		defer mu.Unlock()
		closed[id] = 1
	}
	for range 3 {
		wg.Go(func() {
			for _, tk := range tasks {
				if _, err := b.Fail(b.ctx, tk.Lease(), errServer, true); err == nil {
					cancelled(tk.ID)
				} else {
					assert.ErrorIs(t, err, task.ErrLeaseLost)
				}
			}
		})
		wg.Go(func() {
			for i := range tasks {
				before := b.number(`select count(*) from imagetasks.tasks where task_id = $1 and status = 'processing'`, tasks[len(tasks)-1-i].ID)
				c, err := b.Cancel(b.ctx, tasks[len(tasks)-1-i].ID, "")
				if assert.NoError(t, err) && c.State == task.Cancelled && before == 1 {
					cancelled(c.TaskID)
				}
			}
		})
		wg.Go(func() {
			for {
				swept, err := b.Sweep(b.ctx, store.Sweep{OlderThan: 20 * time.Minute, Limit: 7})
				if !assert.NoError(t, err) || len(swept) == 0 {
					return
				}
				count(swept...)
			}
		})
		wg.Go(func() {
			for {
				reaped, err := b.FailAbandoned(b.ctx, 3, 0, 7, uuid.Nil)
				if !assert.NoError(t, err) || len(reaped) == 0 {
					return
				}
				count(reaped...)
			}
		})
	}
	wg.Wait()
	assert.Len(t, closed, 150)
	for id, times := range closed {
		assert.Equal(t, 1, times, id)
	}
	for _, u := range users {
		assert.Equal(t, 50, b.balance(u))
	}
	b.requireAudit()
}

// A sweep, a batch of refunds or a requeue that is repeated because its answer was lost returns the first result, whether anything is left
// to do or not.
func TestClose_RepeatedCallReturnsFirstResult(t *testing.T) {
	for name, call := range map[string]func(b *testStore, limit int, id uuid.UUID) ([]task.Refund, error){
		"sweep": func(b *testStore, limit int, id uuid.UUID) ([]task.Refund, error) {
			return b.Sweep(b.ctx, store.Sweep{OlderThan: time.Minute, Limit: limit, CallID: id})
		},
		"requeue": func(b *testStore, limit int, id uuid.UUID) ([]task.Refund, error) {
			return b.Sweep(b.ctx, store.Sweep{OlderThan: time.Minute, Limit: limit, CallID: id, Requeue: true})
		},
		"abandoned": func(b *testStore, limit int, id uuid.UUID) ([]task.Refund, error) {
			return b.FailAbandoned(b.ctx, 0, 0, limit, id)
		},
	} {
		for _, limit := range []int{2, 5} {
			b := fresh(t)
			b.enqueue(b.user(10), 5, 2)
			require.Len(t, b.claim(5), 5)
			b.exec(`update imagetasks.tasks set processing_started_at = now() - interval '1 hour', lease_expires_at = now() - interval '1 hour'`)
			id := uuid.New()
			first, err := call(b, limit, id)
			require.NoError(t, err)
			require.Len(t, first, limit, name)
			for range 2 {
				again, err := call(b, limit, id)
				require.NoError(t, err)
				assert.ElementsMatch(t, first, again, "%s, limit %d", name, limit)
			}
			assert.Equal(t, 5-limit, b.number(`select count(*) from imagetasks.tasks where status = 'processing'`))
			b.requireAudit()
		}
	}
}

// The outcome of a claim that a sweep ended is told by the row, and is kept when the task is redriven. The end of the next run writes its event, although the
// first one was closed while none was wanted.
func TestSweep_OutcomeAndEventsOverRuns(t *testing.T) {
	b := fresh(t)
	id := b.enqueue(b.user(3), 1, 1)[0]
	sweep := func() {
		t.Helper()
		require.Len(t, b.claim(1), 1)
		b.exec(`update imagetasks.tasks set processing_started_at = now() - interval '1 hour' where status = 'processing'`)
		swept, err := b.Sweep(b.ctx, store.Sweep{OlderThan: 20 * time.Minute, Limit: 10})
		require.NoError(t, err)
		require.Len(t, swept, 1)
	}
	outcomes := func() []store.Outcome {
		t.Helper()
		details, err := b.TaskDetails(b.ctx, id)
		require.NoError(t, err)
		return details.Outcomes
	}
	sweep()
	first := outcomes()
	require.Len(t, first, 1)
	assert.Equal(t, []any{"failed", 1, string(task.CodeStuck), "processing for longer than 20m0s"},
		[]any{first[0].Outcome, first[0].Run, first[0].Code, first[0].Message})
	assert.InDelta(t, 3600, first[0].Seconds, 60)
	_, err := b.Redrive(b.ctx, id, 1)
	require.NoError(t, err)
	assert.Equal(t, first, outcomes())
	require.NoError(t, b.SetCompletionEvents(b.ctx, store.ReceiverWebhook))
	sweep()
	second := outcomes()
	require.Len(t, second, 2)
	assert.Equal(t, first[0], second[0])
	assert.Equal(t, 2, second[1].Run)
	assert.Equal(t, map[string]string{id: "task.failed"}, eventTypes(b.claimAll()))
	b.requireAudit()
}
