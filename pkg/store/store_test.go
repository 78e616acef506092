package store_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/lib/pq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/pgtest"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

var server *pgtest.Server

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m, &server, migrate)) }

func migrate(ctx context.Context, url string) error {
	s, err := store.Open(store.Config{URL: url})
	if err != nil {
		return err
	}
	defer s.Close()
	_, err = s.Migrate(ctx)
	return err
}

// bench is a store on a database of its own, and a second way in for what applications do.
type bench struct {
	*store.Store
	tb  testing.TB
	ctx context.Context
	url string
	raw *sql.DB
}

func open(tb testing.TB, url string) *bench {
	tb.Helper()
	s, err := store.Open(store.Config{URL: url, ApplicationName: "test", MaxConns: 16})
	require.NoError(tb, err)
	raw, err := sql.Open("postgres", url)
	require.NoError(tb, err)
	tb.Cleanup(func() { assert.NoError(tb, s.Close()); assert.NoError(tb, raw.Close()) })
	return &bench{Store: s, tb: tb, ctx: tb.Context(), url: url, raw: raw}
}

func fresh(tb testing.TB) *bench { tb.Helper(); return open(tb, server.Database(tb)) }

func (b *bench) exec(statement string, args ...any) {
	b.tb.Helper()
	_, err := b.raw.ExecContext(b.ctx, statement, args...)
	require.NoError(b.tb, err)
}

func (b *bench) number(statement string, args ...any) int {
	b.tb.Helper()
	var n int
	require.NoError(b.tb, b.raw.QueryRowContext(b.ctx, statement, args...).Scan(&n))
	return n
}

func (b *bench) user(credits int) string {
	b.tb.Helper()
	id := uuid.NewString()
	if credits > 0 {
		balance, err := b.GrantCredits(b.ctx, id, credits, "test")
		require.NoError(b.tb, err)
		require.Equal(b.tb, credits, balance)
	}
	return id
}

func (b *bench) enqueue(user string, count, cost int) []string {
	b.tb.Helper()
	ids, err := b.Enqueue(b.ctx, store.NewTask{UserID: user, Prompt: "a cat", Cost: cost, Count: count})
	require.NoError(b.tb, err)
	require.Len(b.tb, ids, count)
	return ids
}

func (b *bench) claim(limit int) []task.Task {
	b.tb.Helper()
	tasks, err := b.Claim(b.ctx, store.ClaimRequest{Worker: "w", Limit: limit, Lease: time.Minute, MaxAttempts: 3})
	require.NoError(b.tb, err)
	return tasks
}

// claimOne enqueues a task of that cost for a new user, and claims it.
func (b *bench) claimOne(cost int) task.Task {
	b.tb.Helper()
	b.enqueue(b.user(cost), 1, cost)
	tasks := b.claim(1)
	require.Len(b.tb, tasks, 1)
	return tasks[0]
}

func (b *bench) row(id string) store.TaskRow {
	b.tb.Helper()
	r, err := b.Task(b.ctx, id)
	require.NoError(b.tb, err)
	return r
}

func (b *bench) balance(user string) int {
	b.tb.Helper()
	n, err := b.Balance(b.ctx, user)
	require.NoError(b.tb, err)
	return n
}

// expire makes the leases of all tasks in hand run out.
func (b *bench) expire() {
	b.tb.Helper()
	b.exec(`update image_tasks set lease_expires_at = now() - interval '1 second' where status = 'processing'`)
}

func (b *bench) requireAudit() {
	b.tb.Helper()
	rules, err := b.Audit(b.ctx)
	require.NoError(b.tb, err)
	require.Len(b.tb, rules, 7)
	for _, r := range rules {
		require.Empty(b.tb, r.Violations, r.Name)
	}
	require.Zero(b.tb, store.CountViolations(rules))
}

var boom = &task.Error{Code: task.CodeServer, Message: "500", Disposition: task.Retry}

func TestEnqueueChargesAndWritesTheLedger(t *testing.T) {
	b := fresh(t)
	user := b.user(10)
	ids := b.enqueue(user, 3, 2)
	assert.Equal(t, 4, b.balance(user))
	for _, id := range ids {
		r := b.row(id)
		assert.Equal(t, task.Pending, r.State)
		assert.Equal(t, 2, r.Deducted)
	}
	moves, err := b.Ledger(b.ctx, user, 10)
	require.NoError(t, err)
	require.Len(t, moves, 4)
	assert.Equal(t, "charge", moves[0].Kind)
	assert.Equal(t, -2, moves[0].Amount)
	assert.Equal(t, 4, moves[0].BalanceAfter)
	assert.Equal(t, ids[2], moves[0].TaskID)
	assert.Equal(t, "grant", moves[3].Kind)
	b.requireAudit()
}

func TestEnqueueBeyondTheBalanceChangesNothing(t *testing.T) {
	b := fresh(t)
	user := b.user(5)
	for _, n := range []store.NewTask{
		{UserID: user, Prompt: "x", Cost: 2, Count: 3},
		{UserID: user, Prompt: "x", Cost: 6},
		{UserID: user, Prompt: "x", Cost: 1 << 30, Count: 1 << 10},
		{UserID: uuid.NewString(), Prompt: "x", Cost: 1},
	} {
		_, err := b.Enqueue(b.ctx, n)
		assert.ErrorIs(t, err, task.ErrInsufficientCredits)
	}
	for _, n := range []store.NewTask{
		{UserID: user, Prompt: "x"},
		{UserID: user, Prompt: "x", Cost: -1},
		{UserID: user, Cost: 1},
		{UserID: "nobody", Prompt: "x", Cost: 1},
		{UserID: user, Prompt: "a\x00b", Cost: 1},
	} {
		_, err := b.Enqueue(b.ctx, n)
		assert.Error(t, err)
	}
	assert.Equal(t, 5, b.balance(user))
	assert.Zero(t, b.number("select count(*) from image_tasks"))
	assert.Equal(t, 1, b.number("select count(*) from credit_ledger"))
}

func TestConcurrentEnqueuesNeverOverdraw(t *testing.T) {
	b := fresh(t)
	user := b.user(25)
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			for range 5 {
				_, err := b.Enqueue(b.ctx, store.NewTask{UserID: user, Prompt: "x", Cost: 1})
				if err != nil {
					assert.ErrorIs(t, err, task.ErrInsufficientCredits)
				}
			}
		})
	}
	wg.Wait()
	assert.Zero(t, b.balance(user))
	assert.Equal(t, 25, b.number("select count(*) from image_tasks"))
	b.requireAudit()
}

func TestGrantRefusesNothingAndLess(t *testing.T) {
	b := fresh(t)
	for _, n := range []int{0, -5} {
		_, err := b.GrantCredits(b.ctx, uuid.NewString(), n, "")
		assert.Error(t, err)
	}
	_, err := b.GrantCredits(b.ctx, "not-a-uuid", 5, "")
	assert.Error(t, err)
	_, err = b.Balance(b.ctx, uuid.NewString())
	assert.ErrorIs(t, err, task.ErrNotFound)
	assert.Zero(t, b.number("select count(*) from user_credits"))
}

func TestClaimTakesTheOldestDueAndRaisesTheEpoch(t *testing.T) {
	b := fresh(t)
	user := b.user(10)
	ids := b.enqueue(user, 4, 1)
	b.exec(`update image_tasks set run_after = now() - interval '1 hour' where task_id = $1`, ids[2])
	b.exec(`update image_tasks set run_after = now() + interval '1 hour' where task_id = $1`, ids[0])

	first := b.claim(1)
	require.Len(t, first, 1)
	assert.Equal(t, ids[2], first[0].ID)
	assert.Equal(t, user, first[0].UserID)
	assert.Equal(t, "a cat", first[0].Prompt)
	assert.Equal(t, 1, first[0].Attempt)
	assert.Equal(t, 3, first[0].MaxAttempts)
	assert.EqualValues(t, 1, first[0].Epoch)
	assert.False(t, first[0].HasInput)

	assert.Len(t, b.claim(10), 2, "the one that waits stays")
	assert.Empty(t, b.claim(10))
	wait, some, err := b.NextDue(b.ctx)
	require.NoError(t, err)
	assert.True(t, some)
	assert.Positive(t, wait)
}

func TestTasksOfASilentWorkerComeFirstWhileAttemptsRemain(t *testing.T) {
	b := fresh(t)
	lost := b.claimOne(1)
	b.enqueue(b.user(1), 1, 1)
	b.expire()

	again := b.claim(1)
	require.Len(t, again, 1)
	assert.Equal(t, lost.ID, again[0].ID)
	assert.Equal(t, 2, again[0].Attempt)
	assert.Greater(t, again[0].Epoch, lost.Epoch)

	b.expire()
	require.Len(t, b.claim(2), 2)
	b.expire()
	third := b.row(lost.ID)
	require.Equal(t, 3, third.Attempts)
	for _, other := range b.claim(5) {
		assert.NotEqual(t, lost.ID, other.ID, "no attempts remain")
	}
	reaped, err := b.FailAbandoned(b.ctx, 3, 10)
	require.NoError(t, err)
	require.Len(t, reaped, 1)
	assert.Equal(t, lost.ID, reaped[0].TaskID)
	assert.Equal(t, 1, reaped[0].Credits)
	assert.Equal(t, task.CodeLeaseExpired, b.row(lost.ID).ErrorCode)
	b.requireAudit()
}

func TestATasksOwnMaxAttemptsWins(t *testing.T) {
	b := fresh(t)
	_, err := b.Enqueue(b.ctx, store.NewTask{UserID: b.user(1), Prompt: "x", Cost: 1, MaxAttempts: 1})
	require.NoError(t, err)
	claimed := b.claim(1)
	require.Len(t, claimed, 1)
	assert.True(t, claimed[0].LastAttempt())
	b.expire()
	assert.Empty(t, b.claim(1))
	reaped, err := b.FailAbandoned(b.ctx, 3, 10)
	require.NoError(t, err)
	assert.Len(t, reaped, 1)
}

// Every word of a worker is refused once its lease was taken over, its task was closed, or it never
// held it; and the refused word changes nothing.
func TestEveryTransitionIsFenced(t *testing.T) {
	words := map[string]func(b *bench, l task.Lease) error{
		"complete": func(b *bench, l task.Lease) error {
			held, err := b.Complete(b.ctx, store.Completion{Lease: l, ImageURL: "late.png"})
			return refused(held, err)
		},
		"heartbeat": func(b *bench, l task.Lease) error {
			held, err := b.RenewLeases(b.ctx, time.Hour, []store.LeaseRenewal{{Lease: l, Progress: 50, Stage: "late"}})
			return refused(held, err)
		},
		"release": func(b *bench, l task.Lease) error {
			held, err := b.Release(b.ctx, store.ReleaseRequest{Lease: l})
			return refused(held, err)
		},
		"retry": func(b *bench, l task.Lease) error { return b.Retry(b.ctx, l, 0, boom) },
		"fail": func(b *bench, l task.Lease) error {
			_, err := b.Fail(b.ctx, l, boom)
			return err
		},
		"input": func(b *bench, l task.Lease) error {
			_, err := b.Input(b.ctx, l, 100)
			return err
		},
	}
	losses := map[string]func(b *bench, held task.Task){
		"taken over": func(b *bench, held task.Task) { b.expire(); require.Len(b.tb, b.claim(1), 1) },
		"released": func(b *bench, held task.Task) {
			mustHold(b.tb)(b.Release(b.ctx, store.ReleaseRequest{Lease: held.Lease()}))
		},
		"retried":   func(b *bench, held task.Task) { require.NoError(b.tb, b.Retry(b.ctx, held.Lease(), 0, boom)) },
		"cancelled": func(b *bench, held task.Task) { noErr(b.tb)(b.Cancel(b.ctx, held.ID, "by the user")) },
		"failed":    func(b *bench, held task.Task) { noErr(b.tb)(b.Fail(b.ctx, held.Lease(), boom)) },
		"swept": func(b *bench, held task.Task) {
			b.exec(`update image_tasks set processing_started_at = now() - interval '21 minutes'`)
			swept, err := b.Sweep(b.ctx, store.Sweep{OlderThan: 20 * time.Minute, Limit: 10})
			require.NoError(b.tb, err)
			require.Len(b.tb, swept, 1)
		},
		"never held": func(b *bench, held task.Task) {
			b.exec(`update image_tasks set lease_epoch = lease_epoch + 7`)
		},
	}
	b := fresh(t)
	for loss, lose := range losses {
		for word, say := range words {
			t.Run(loss+"/"+word, func(t *testing.T) {
				b := &bench{Store: b.Store, tb: t, ctx: t.Context(), raw: b.raw}
				held := b.claimOne(2)
				b.exec(`update image_tasks set image_base64 = 'eA==' where task_id = $1`, held.ID)
				lose(b, held)
				before := b.row(held.ID)
				assert.ErrorIs(t, say(b, held.Lease()), task.ErrLeaseLost)
				assert.Equal(t, before, b.row(held.ID))
				b.requireAudit()
				// Out of the way of the next.
				if s := b.row(held.ID).State; s == task.Pending || s == task.Processing {
					noErr(t)(b.Cancel(b.ctx, held.ID, "end of test"))
				}
			})
		}
	}
}

func refused(held []task.Lease, err error) error {
	if err == nil && len(held) == 0 {
		return task.ErrLeaseLost
	}
	return err
}

func mustHold(tb testing.TB) func([]task.Lease, error) {
	return func(held []task.Lease, err error) {
		tb.Helper()
		require.NoError(tb, err)
		require.NotEmpty(tb, held)
	}
}

func noErr(tb testing.TB) func(task.Refund, error) {
	return func(_ task.Refund, err error) { tb.Helper(); require.NoError(tb, err) }
}

func TestCompleteIsFinalAndSafeToRepeat(t *testing.T) {
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
	_, err := b.Cancel(b.ctx, held.ID, "too late")
	assert.ErrorIs(t, err, task.ErrFinished)
	_, err = b.Cancel(b.ctx, "no such task", "")
	assert.ErrorIs(t, err, task.ErrNotFound)
	b.requireAudit()
}

func TestOneHeartbeatRenewsAllAndTellsWhichAreLost(t *testing.T) {
	b := fresh(t)
	b.enqueue(b.user(5), 5, 1)
	tasks := b.claim(5)
	require.Len(t, tasks, 5)
	b.expire()
	noErr(t)(b.Cancel(b.ctx, tasks[3].ID, "x"))
	var beats []store.LeaseRenewal
	for i, tk := range tasks {
		beats = append(beats, store.LeaseRenewal{Lease: tk.Lease(), Progress: 10 * i, Stage: "painting"})
	}
	held, err := b.RenewLeases(b.ctx, time.Hour, beats)
	require.NoError(t, err)
	assert.Len(t, held, 4)
	assert.NotContains(t, held, tasks[3].Lease())
	assert.Empty(t, b.claim(5), "the leases are good again")
	assert.Equal(t, 20, b.row(tasks[2].ID).Progress)
	assert.Equal(t, "painting", b.row(tasks[2].ID).Stage)
}

func TestRetryUsesTheAttemptAndReleaseDoesNot(t *testing.T) {
	b := fresh(t)
	held := b.claimOne(1)
	require.NoError(t, b.Retry(b.ctx, held.Lease(), time.Hour, boom))
	r := b.row(held.ID)
	assert.Equal(t, task.Pending, r.State)
	assert.Equal(t, 1, r.Attempts)
	assert.Equal(t, task.CodeServer, r.ErrorCode)
	assert.Empty(t, b.claim(1), "it waits")

	b.exec(`update image_tasks set run_after = now()`)
	again := b.claim(1)
	require.Len(t, again, 1)
	mustHold(t)(b.Release(b.ctx, store.ReleaseRequest{Lease: again[0].Lease(), Cause: &task.Error{Code: task.CodeShutdown, Message: "stopped"}}))
	r = b.row(held.ID)
	assert.Equal(t, task.Pending, r.State)
	assert.Equal(t, 1, r.Attempts)
	assert.Equal(t, task.CodeShutdown, r.ErrorCode)
	assert.Len(t, b.claim(1), 1)
}

func TestInputPictureIsHandedOutWithinItsBound(t *testing.T) {
	b := fresh(t)
	_, err := b.Enqueue(b.ctx, store.NewTask{UserID: b.user(1), Prompt: "x", Cost: 1, Input: "aGVsbG8="})
	require.NoError(t, err)
	held := b.claim(1)[0]
	assert.True(t, held.HasInput)
	text, err := b.Input(b.ctx, held.Lease(), 8)
	require.NoError(t, err)
	assert.Equal(t, "aGVsbG8=", text)
	_, err = b.Input(b.ctx, held.Lease(), 7)
	require.Error(t, err)
	assert.Equal(t, task.Fail, task.AsError(err).Disposition)
}

// Rules 5 of the states: stuck is measured from the start of processing, and for rows of other
// writers from their last change; a task that only waited long is not stuck.
func TestSweepTakesWhatIsStuckAndOnlyThat(t *testing.T) {
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
		b.exec(`update image_tasks set `+set+` where task_id = $1`, ids[i])
	}
	would, err := b.Stuck(b.ctx, store.Sweep{OlderThan: 20 * time.Minute, Limit: 10})
	require.NoError(t, err)
	swept, err := b.Sweep(b.ctx, store.Sweep{OlderThan: 20 * time.Minute, Limit: 10})
	require.NoError(t, err)
	require.Len(t, swept, 2)
	require.Len(t, would, 2)
	for i, r := range swept {
		assert.Contains(t, []string{ids[0], ids[2]}, r.TaskID)
		assert.Equal(t, 1, r.Credits)
		assert.NotNil(t, r.Balance)
		assert.Greater(t, r.Age, 20*time.Minute)
		assert.Equal(t, 1, would[i].Credits)
		assert.Equal(t, task.Failed, b.row(r.TaskID).State)
		assert.Equal(t, task.CodeStuck, b.row(r.TaskID).ErrorCode)
		assert.Equal(t, 1, b.row(r.TaskID).Refunded)
	}
	assert.Equal(t, 6, b.balance(user))
	swept, err = b.Sweep(b.ctx, store.Sweep{OlderThan: 20 * time.Minute, Limit: 10})
	require.NoError(t, err)
	assert.Empty(t, swept)
	b.requireAudit()
}

func TestExpireTakesWhatWaitedForTooLongAndOnlyThat(t *testing.T) {
	b := fresh(t)
	u := b.user(10)
	ids := b.enqueue(u, 5, 2)
	claimed := b.claim(1)
	require.Len(t, claimed, 1)
	waiting := slices.DeleteFunc(ids, func(id string) bool { return id == claimed[0].ID })
	b.exec(`update image_tasks set run_after = now() - interval '61 minutes' where task_id = any ($1)`, pq.Array(waiting[:2]))
	b.exec(`update image_tasks set run_after = now() - interval '61 minutes' where task_id = $1`, claimed[0].ID)
	b.exec(`update image_tasks set created_at = now() - interval '1 day', run_after = now() - interval '59 minutes' where task_id = $1`, waiting[2])
	n, err := b.CountOverdue(b.ctx, time.Hour)
	require.NoError(t, err)
	assert.Equal(t, 2, n)
	expired, err := b.FailOverdue(b.ctx, time.Hour, 10)
	require.NoError(t, err)
	require.Len(t, expired, 2)
	for _, r := range expired {
		assert.Contains(t, waiting[:2], r.TaskID)
		assert.Equal(t, 2, r.Credits)
		assert.GreaterOrEqual(t, r.Age, 61*time.Minute)
		assert.Equal(t, task.CodePendingTimeout, b.row(r.TaskID).ErrorCode)
	}
	again, err := b.FailOverdue(b.ctx, time.Hour, 10)
	require.NoError(t, err)
	assert.Empty(t, again)
	assert.Equal(t, 4, b.balance(u))
	b.requireAudit()
}

// A task that a worker claims while another program finds that it waited for too long is either begun or refunded.
func TestATaskIsClaimedOrExpiredAndNotBoth(t *testing.T) {
	b := fresh(t)
	u := b.user(300)
	b.enqueue(u, 300, 1)
	b.exec(`update image_tasks set run_after = now() - interval '2 hours'`)
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[string]int{}
	refunded := 0
	for range 2 {
		wg.Go(func() {
			for {
				claimed, err := b.Claim(b.ctx, store.ClaimRequest{Worker: "w", Limit: 5, Lease: time.Minute, MaxAttempts: 3})
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
				expired, err := b.FailOverdue(b.ctx, time.Hour, 5)
				if !assert.NoError(t, err) || len(expired) == 0 {
					return
				}
				mu.Lock()
				for _, r := range expired {
					seen[r.TaskID]++
					refunded += r.Credits
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

func TestARefundFollowsTheLedgerAndNotTheTask(t *testing.T) {
	b := fresh(t)
	t.Run("never charged", func(t *testing.T) {
		user := uuid.NewString()
		b.exec(`insert into image_tasks (task_id, user_id, prompt, credits_deducted) values ('free', $1, 'x', 0)`, user)
		r, err := b.Cancel(b.ctx, "free", "")
		require.NoError(t, err)
		assert.Zero(t, r.Credits)
		assert.Nil(t, r.Balance)
		_, err = b.Balance(b.ctx, user)
		assert.ErrorIs(t, err, task.ErrNotFound)
	})
	t.Run("refunded by hand already", func(t *testing.T) {
		user := b.user(5)
		id := b.enqueue(user, 1, 5)[0]
		b.exec(`update user_credits set credits = credits + 5 where user_id = $1`, user)
		b.exec(`insert into credit_ledger (user_id, task_id, kind, amount, balance_after) values ($1, $2, 'refund', 5, 5)`, user, id)
		b.exec(`update image_tasks set credits_refunded = 5 where task_id = $1`, id)
		r, err := b.Cancel(b.ctx, id, "")
		require.NoError(t, err)
		assert.Zero(t, r.Credits)
		assert.Equal(t, 5, b.balance(user))
	})
	t.Run("the user's row is gone", func(t *testing.T) {
		user := b.user(5)
		id := b.enqueue(user, 1, 5)[0]
		b.exec(`delete from user_credits where user_id = $1`, user)
		r, err := b.Cancel(b.ctx, id, "")
		require.NoError(t, err)
		assert.Equal(t, 5, r.Credits)
		assert.Equal(t, 5, b.balance(user))
	})
	b.requireAudit()
}

func TestManyRefundsOfOneUserInOneStatementAddUp(t *testing.T) {
	b := fresh(t)
	one, two := b.user(10), b.user(10)
	b.enqueue(one, 3, 2)
	b.enqueue(two, 2, 3)
	require.Len(t, b.claim(10), 5)
	b.exec(`update image_tasks set processing_started_at = now() - interval '1 hour'`)
	swept, err := b.Sweep(b.ctx, store.Sweep{OlderThan: 20 * time.Minute, Limit: 100})
	require.NoError(t, err)
	assert.Len(t, swept, 5)
	assert.Equal(t, 10, b.balance(one))
	assert.Equal(t, 10, b.balance(two))
	b.requireAudit()
}

// The old scripts lost credits when two repairs met, and gave twice when one ran again.
func TestWhoeverClosesATaskItIsRefundedOnce(t *testing.T) {
	b := fresh(t)
	users := []string{b.user(50), b.user(50), b.user(50)}
	for _, u := range users {
		b.enqueue(u, 50, 1)
	}
	tasks := b.claim(150)
	require.Len(t, tasks, 150)
	b.exec(`update image_tasks set processing_started_at = now() - interval '1 hour',
	            lease_expires_at = now() - interval '1 hour', attempt_count = 3`)
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
	for range 3 {
		wg.Go(func() {
			for _, tk := range tasks {
				if r, err := b.Fail(b.ctx, tk.Lease(), boom); err == nil {
					count(r)
				} else {
					assert.ErrorIs(t, err, task.ErrLeaseLost)
				}
			}
		})
		wg.Go(func() {
			for i := range tasks {
				if r, err := b.Cancel(b.ctx, tasks[len(tasks)-1-i].ID, ""); err == nil {
					count(r)
				} else {
					assert.ErrorIs(t, err, task.ErrFinished)
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
				reaped, err := b.FailAbandoned(b.ctx, 3, 7)
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

// Statements that lock many rows in one go must not wait for each other in a circle.
func TestHeartbeatsAndBatchesInAnyOrderDontDeadlock(t *testing.T) {
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
				_, err := b.RenewLeases(b.ctx, time.Minute, beats)
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
	assert.Equal(t, 60, b.number("select count(*) from image_tasks where status = 'completed'"))
}

func TestFourClaimersShareAQueueAndNoTaskIsTakenTwice(t *testing.T) {
	b := fresh(t)
	b.enqueue(b.user(500), 500, 1)
	var wg sync.WaitGroup
	var mu sync.Mutex
	taken := map[string]int{}
	for w := range 4 {
		wg.Go(func() {
			for {
				tasks, err := b.Claim(b.ctx, store.ClaimRequest{Worker: fmt.Sprint(w), Limit: 7, Lease: time.Minute, MaxAttempts: 3})
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

func TestStatesAndQueue(t *testing.T) {
	b := fresh(t)
	ids := b.enqueue(b.user(6), 6, 1)
	held := b.claim(3)
	_, err := b.Complete(b.ctx, store.Completion{Lease: held[0].Lease()})
	require.NoError(t, err)
	noErr(t)(b.Cancel(b.ctx, ids[5], ""))
	b.exec(`update image_tasks set run_after = now() - interval '1 minute' where task_id = $1`, ids[4])
	b.exec(`update image_tasks set run_after = now() + interval '1 minute' where task_id = $1`, ids[3])
	b.exec(`update image_tasks set processing_started_at = now() - interval '1 hour' where task_id = $1`, held[1].ID)

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

func TestListenWakesWhenTasksArriveOrComeBack(t *testing.T) {
	b := fresh(t)
	user := b.user(5)
	ctx, cancel := context.WithCancel(b.ctx)
	woken := make(chan struct{}, 100)
	var wg sync.WaitGroup
	wg.Go(func() { b.Listen(ctx, func() { woken <- struct{}{} }) })
	<-woken // subscribed

	b.enqueue(user, 3, 1)
	<-woken
	held := b.claim(1)
	mustHold(t)(b.Release(b.ctx, store.ReleaseRequest{Lease: held[0].Lease(), Wait: time.Hour}))
	held = b.claim(1)
	mustHold(t)(b.Release(b.ctx, store.ReleaseRequest{Lease: held[0].Lease()}))
	<-woken
	b.exec(`insert into image_tasks (task_id, user_id, prompt, status) values ('done', $1, 'x', 'completed')`, user)
	b.exec(`select pg_notify('imagetasks', '')`)
	<-woken
	cancel()
	wg.Wait()
	assert.Empty(t, woken, "nothing but what is due now wakes")
}
