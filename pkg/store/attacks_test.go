package store_test

import (
	"context"
	"database/sql"
	"fmt"
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

// soon bounds a call that must not wait for a transaction that somebody else leaves open.
const soon = 10 * time.Second

// openTransaction runs a statement in a transaction that stays open until the test ends.
func (b *testStore) openTransaction(statement string, args ...any) *sql.Tx {
	b.tb.Helper()
	tx, err := b.raw.Begin()
	require.NoError(b.tb, err)
	b.tb.Cleanup(func() { _ = tx.Rollback() })
	_, err = tx.Exec(statement, args...)
	require.NoError(b.tb, err)
	return tx
}

// A row that an application's transaction has locked must not keep the leases of other tasks from being renewed: they would be claimed
// again and paid twice.
func TestRenewLeases_LockedRow(t *testing.T) {
	b := fresh(t)
	b.enqueue(b.user(3), 3, 1)
	tasks := b.claim(3)
	tx := b.openTransaction(`select * from imagetasks.cancel($1)`, tasks[1].ID)
	ctx, cancel := context.WithTimeout(b.ctx, soon)
	defer cancel()
	b.exec(`update imagetasks.tasks set lease_expires_at = now() + interval '1 second' where task_id <> $1`, tasks[1].ID)
	var renewals []store.LeaseRenewal
	for _, tk := range tasks {
		renewals = append(renewals, store.LeaseRenewal{Lease: tk.Lease()})
	}
	held, locked, err := b.RenewLeases(ctx, time.Hour, renewals)
	require.NoError(t, err)
	assert.Len(t, held, 3, "a locked row is not a lost lease")
	assert.Equal(t, 1, locked)
	assert.Equal(t, 2, b.number(`select count(*) from imagetasks.tasks where lease_expires_at > now() + interval '30 minutes' and task_id <> $1`, tasks[1].ID))
	require.NoError(t, tx.Commit())
	held, locked, err = b.RenewLeases(ctx, time.Hour, renewals)
	require.NoError(t, err)
	assert.Len(t, held, 2)
	assert.Zero(t, locked)
}

// One user's open transaction must not stop claims, sweeps and admissions of the others.
func TestOneUsersTransaction_StopsNobodyElse(t *testing.T) {
	b := fresh(t)
	err := b.SetLimits(b.ctx, 1, 0)
	require.NoError(t, err)
	slow, other := b.user(10), b.user(10)
	b.enqueue(slow, 2, 1)
	b.enqueue(other, 2, 1)
	require.Len(t, b.claim(10), 2)
	b.exec(`update imagetasks.tasks set processing_started_at = now() - interval '1 hour', lease_expires_at = now() - interval '1 second',
		lost_claims = 3 where status = 'processing'`)
	b.exec(`insert into imagetasks.tasks (task_id, user_id, prompt) values ('due', $1, 'x')`, slow)
	b.openTransaction(`select * from imagetasks.enqueue($1, 'x')`, slow)
	ctx, cancel := context.WithTimeout(b.ctx, soon)
	defer cancel()

	closed, err := b.FailAbandoned(ctx, 3, 0, 100, uuid.Nil)
	require.NoError(t, err)
	require.Len(t, closed, 1)
	assert.Equal(t, other, closed[0].UserID)
	swept, err := b.Sweep(ctx, store.Sweep{OlderThan: time.Minute, Limit: 100})
	require.NoError(t, err)
	assert.Empty(t, swept, "the slow user's task waits for the next sweep")
	require.NoError(t, b.AdmitAll(ctx))
	tasks, err := b.Claim(ctx, store.ClaimRequest{Worker: "w", Limit: 10, Lease: time.Minute, MaxAttempts: 3, MaxLostClaims: 3, Expired: 1000, Alone: true})
	require.NoError(t, err)
	require.Len(t, tasks, 1)
	assert.Equal(t, other, tasks[0].UserID)
	began := time.Now()
	err = b.Admit(ctx, slow)
	require.NoError(t, err)
	assert.Less(t, time.Since(began), 5*time.Second)
}

// The functions have the rights of their owner, so nobody else may put functions into the schema.
func TestMigrate_SchemaOfSomebodyElse(t *testing.T) {
	b := open(t, server.Empty(t))
	b.role("mallory")
	b.exec(`grant create on database ` + b.name()[1:] + ` to mallory`)
	mallory := b.rawAs("mallory")
	_, err := mallory.Exec(`create schema imagetasks; grant all on schema imagetasks to public`)
	require.NoError(t, err)
	b.role("owner")
	_, err = b.as("owner").Migrate(b.ctx, store.Roles{})
	require.ErrorContains(t, err, "belongs to the role mallory")
	b.exec(`alter schema imagetasks owner to owner; grant create on schema imagetasks to mallory`)
	done, err := b.as("owner").Migrate(b.ctx, store.Roles{})
	require.NoError(t, err)
	assert.Contains(t, done.Revoked, "mallory")
	_, err = mallory.Exec(`create function imagetasks.virtual_time(priority smallint) returns bigint language sql as 'select 1::bigint'`)
	assert.ErrorContains(t, err, "permission denied")
	b.exec(`grant create on schema imagetasks to mallory`)
	_, err = b.as("owner").Migrate(b.ctx, store.Roles{})
	require.NoError(t, err)
	_, err = mallory.Exec(`create function imagetasks.virtual_time(priority smallint) returns bigint language sql as 'select 1::bigint'`)
	assert.ErrorContains(t, err, "permission denied", "each migrate revokes it again")
}

// Held tasks of many users are admitted in bounded transactions, also after USER_CONCURRENCY was switched off.
func TestAdmitAll_ManyUsers(t *testing.T) {
	b := fresh(t)
	err := b.SetLimits(b.ctx, 1, 0)
	require.NoError(t, err)
	const users = 15_000
	b.exec(`insert into imagetasks.tasks (task_id, user_id, prompt, waits_for, slot, backlog)
		select 't' || i, 'u' || i % $1, 'x', 'user', i, 1 from generate_series(1, 2 * $1) i`, users)
	b.exec(`insert into imagetasks.tasks (task_id, user_id, prompt, waits_for, slot, backlog)
		select 'one-' || i, 'u1', 'x', 'user', i, 1 from generate_series(1, 3000) i`)
	b.exec(`analyze imagetasks.tasks`)
	require.NoError(t, b.AdmitAll(b.ctx))
	assert.Equal(t, users, b.number(`select count(*) from imagetasks.tasks where waits_for is null`))
	err = b.SetLimits(b.ctx, 0, 0)
	require.NoError(t, err)
	require.NoError(t, b.AdmitAll(b.ctx))
	assert.Zero(t, b.number(`select count(*) from imagetasks.tasks where waits_for is not null`))
}

// Rows at the bounds of their columns, or with odd content, stop nothing else.
func TestOddRows_StopNothingElse(t *testing.T) {
	b := fresh(t)
	user := b.user(20)
	for i, set := range []string{
		`lease_epoch = 1000000000000000`, `attempt_count = 1000000, max_attempts = 1`, `slot = 1000000000000000`, `slot = null, backlog = null`,
		`attempts = '[1, "x", null]'`, `options = '{"quality": 7}'`, `waits_for = null, run_after = now() + interval '1 day'`,
	} {
		id := b.enqueue(user, 1, 1)[0]
		b.exec(`update imagetasks.tasks set `+set+` where task_id = $1`, id)
		_, err := b.TaskDetails(b.ctx, id)
		require.NoError(t, err, i)
	}
	require.Len(t, b.claim(100), 6)
	good := b.enqueue(user, 1, 1)[0]
	done, err := b.Enqueue(b.ctx, store.EnqueueRequest{UserID: user, Prompt: "x", Cost: 1, RunAt: time.Now().Add(time.Hour)})
	require.NoError(t, err)
	b.exec(`update imagetasks.tasks set run_after = now() where task_id = $1`, done.TaskIDs[0])
	claimed := b.claim(100)
	require.Len(t, claimed, 2)
	assert.ElementsMatch(t, []string{good, done.TaskIDs[0]}, []string{claimed[0].ID, claimed[1].ID})
	for _, statement := range []string{
		`insert into imagetasks.processors (worker, host, pid, version, report) values ('w', 'h', 1, 'v', '[1]')`,
		`insert into imagetasks.processors (worker, host, pid, version, started_at) values ('w', 'h', 1, 'v', '-infinity')`,
		`insert into imagetasks.processors (worker, host, pid, version, task_seconds) values ('w', 'h', 1, 'v', 'NaN')`,
	} {
		_, err := b.raw.Exec(statement)
		assert.Error(t, err, statement)
	}
	_, _, err = b.DeleteUserContent(b.ctx, user)
	require.NoError(t, err)
	b.requireAudit()
}

func TestNextDue_FarAwayTimes(t *testing.T) {
	b := fresh(t)
	b.exec(`insert into imagetasks.tasks (task_id, user_id, prompt, run_after) values ('far', 'u', 'x', '9999-01-01')`)
	b.exec(`insert into imagetasks.tasks (task_id, user_id, prompt, status, lease_expires_at) values ('closed', 'u', 'x', 'failed', now() - interval '1 day')`)
	held := fresh(t)
	held.exec(`insert into imagetasks.tasks (task_id, user_id, prompt, waits_for) values ('held', 'u', 'x', 'user')`)
	_, found, err := held.NextDue(b.ctx, true)
	require.NoError(t, err)
	assert.False(t, found, "a task that waits for its user has no time")
	wait, found, err := b.NextDue(b.ctx, true)
	require.NoError(t, err)
	assert.True(t, found)
	assert.Equal(t, 24*time.Hour, wait)
	_, err = b.Enqueue(b.ctx, store.EnqueueRequest{UserID: "u", Prompt: "x", RunAt: time.Now().AddDate(11, 0, 0)})
	assert.ErrorIs(t, err, task.ErrInvalid)
}

// A task whose input pictures are gone fails and is refunded; a redrive that read the task before they were deleted fails.
func TestInputs_Deleted(t *testing.T) {
	b := fresh(t)
	user := b.user(5)
	enqueue := func() string {
		t.Helper()
		done, err := b.Enqueue(b.ctx, store.EnqueueRequest{UserID: user, Prompt: "x", Cost: 1, Inputs: []task.Input{{Content: []byte("x")}}})
		require.NoError(t, err)
		return done.TaskIDs[0]
	}
	enqueue()
	b.exec(`delete from imagetasks.inputs`)
	held := b.claim(1)[0]
	_, err := b.Inputs(b.ctx, held.Lease())
	assert.Equal(t, task.CodeInputUnavailable, task.AsError(err).Code)
	assert.Equal(t, task.Fail, task.AsError(err).Disposition)

	id := enqueue()
	second := b.claim(1)[0]
	_, err = b.Fail(b.ctx, second.Lease(), errServer, true)
	require.NoError(t, err)
	tx, err := b.raw.BeginTx(b.ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead})
	require.NoError(t, err)
	defer tx.Rollback()
	_, err = tx.Exec(`select imagetasks.balance($1)`, user)
	require.NoError(t, err)
	b.exec(`update imagetasks.tasks set completed_at = now() - interval '2 hours' where task_id = $1`, id)
	_, err = b.Prune(b.ctx, store.PruneConfig{RedriveWindow: time.Hour, Batch: 10})
	require.NoError(t, err)
	_, err = tx.Exec(`select * from imagetasks.redrive($1, 1)`, id)
	assert.Equal(t, "40001", string(pq.As(err).Code))
	_, err = b.Redrive(b.ctx, id, 1)
	assert.ErrorIs(t, err, task.ErrWrongState)
}

// Two transactions that use each other's keys wait in the same order.
func TestKeys_NoDeadlock(t *testing.T) {
	b := fresh(t)
	user := b.user(100)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 10 {
				tx, err := b.raw.BeginTx(b.ctx, nil)
				if !assert.NoError(t, err) {
					return
				}
				for _, key := range []string{fmt.Sprint("a", i), fmt.Sprint("b", i)} {
					_, err := tx.Exec(`select * from imagetasks.enqueue($1, 'x', idempotency_key => $2)`, user, key)
					assert.NoError(t, err)
				}
				assert.NoError(t, tx.Commit())
			}
		})
		wg.Go(func() {
			for i := range 10 {
				_, err := b.Enqueue(b.ctx, store.EnqueueRequest{UserID: user, Prompt: "x", Cost: 1, Key: fmt.Sprint("c", i)})
				assert.NoError(t, err)
				_, err = b.raw.Exec(`select * from imagetasks.enqueue($1, 'x', idempotency_key => $2)`, user, fmt.Sprint("b", i))
				assert.NoError(t, err)
			}
		})
	}
	wg.Wait()
	assert.Equal(t, 70, b.balance(user))
	b.requireAudit()
}

// A limit holds for enqueues that were in progress when it was set.
func TestSetLimits_WaitsForEnqueuesInProgress(t *testing.T) {
	b := fresh(t)
	user := b.user(10)
	tx := b.openTransaction(`select * from imagetasks.enqueue_many($1, '[{"prompt": "x"}, {"prompt": "x"}, {"prompt": "x"}]')`, user)
	err := b.SetLimits(b.ctx, 1, 0)
	assert.Error(t, err, "it does not wait for ever")
	time.AfterFunc(200*time.Millisecond, func() { assert.NoError(t, tx.Commit()) })
	err = b.SetLimits(b.ctx, 1, 0)
	require.NoError(t, err)
	assert.Len(t, b.claim(10), 1)
}

func TestRepairs_ConcurrentAndRepeated(t *testing.T) {
	b := fresh(t)
	user := b.user(100)
	b.enqueue(user, 50, 2)
	b.exec(`update imagetasks.tasks set status = 'failed', completed_at = now()`)
	var wg sync.WaitGroup
	var mu sync.Mutex
	paid := 0
	for range 4 {
		wg.Go(func() {
			for {
				refunds, err := b.RepairRefunds(b.ctx, 10, uuid.Nil)
				if !assert.NoError(t, err) || len(refunds) == 0 {
					return
				}
				mu.Lock()
				paid += len(refunds)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	assert.Equal(t, 50, paid)
	assert.Equal(t, 100, b.balance(user))
	b.requireAudit()
	b.exec(`insert into imagetasks.tasks (task_id, user_id, prompt, status, credits_cost, credits_deducted) values ('uncharged', $1, 'x', 'failed', 1, 1)`, user)
	for range 2 {
		_, balance, err := b.Resolve(b.ctx, "uncharged", 1, "paid by card")
		require.NoError(t, err, "a repeat returns the first result")
		assert.EqualValues(t, 101, balance)
	}
	_, _, err := b.Resolve(b.ctx, "uncharged", 2, "paid by card")
	assert.ErrorIs(t, err, task.ErrWrongState)
}

// A user with more stuck tasks than a batch has, whose row is locked, does not keep the tasks of others from being closed.
func TestSweep_ManyTasksOfLockedUser(t *testing.T) {
	b := fresh(t)
	slow, other := b.user(60), b.user(2)
	b.enqueue(slow, 60, 1)
	b.enqueue(other, 2, 1)
	require.Len(t, b.claim(100), 62)
	b.exec(`update imagetasks.tasks set processing_started_at = now() - case user_id when $1 then interval '2 hours' else interval '1 hour' end,
		lease_expires_at = now() - interval '1 hour', lost_claims = 3`, slow)
	tx := b.openTransaction(`select * from imagetasks.enqueue($1, 'x', cost => 0)`, slow)
	ctx, cancel := context.WithTimeout(b.ctx, soon)
	defer cancel()
	call := uuid.New()
	for range 2 {
		swept, err := b.Sweep(ctx, store.Sweep{OlderThan: time.Minute, Limit: 10, CallID: call})
		require.NoError(t, err)
		require.Len(t, swept, 2, "the second call is a repeat")
		assert.Equal(t, other, swept[0].UserID)
	}
	closed, err := b.FailAbandoned(ctx, 3, 0, 10, uuid.Nil)
	require.NoError(t, err)
	assert.Empty(t, closed)
	require.NoError(t, tx.Rollback())
	closed, err = b.FailAbandoned(ctx, 3, 0, 100, uuid.Nil)
	require.NoError(t, err)
	assert.Len(t, closed, 60)
	assert.Equal(t, 60, b.balance(slow))
	b.requireAudit()
}

// A limit that is set while tasks are promoted, enqueued, released and claimed holds at once for everything that is not processing.
func TestSetLimits_WhileTheQueueWorks(t *testing.T) {
	b := fresh(t)
	users := []string{b.user(10_000), b.user(10_000)}
	stop := make(chan struct{})
	var workers sync.WaitGroup
	for i := range 6 {
		workers.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				user := users[(n+i)%2]
				request := store.EnqueueRequest{UserID: user, Prompt: "x", Cost: 1}
				if n%2 == 0 {
					request.RunAt = time.Now().Add(time.Millisecond)
				}
				_, err := b.Enqueue(b.ctx, request)
				assert.NoError(t, err)
				tasks, err := b.Claim(b.ctx, store.ClaimRequest{Worker: "w", Limit: 3, Lease: time.Minute, MaxAttempts: 100})
				assert.NoError(t, err)
				for j, tk := range tasks {
					if j%2 == 0 {
						_, err = b.Release(b.ctx, store.ReleaseRequest{Lease: tk.Lease()})
					} else {
						_, err = b.Complete(b.ctx, store.Completion{Lease: tk.Lease()})
					}
					assert.NoError(t, err)
					err = b.Admit(b.ctx, tk.UserID)
					assert.NoError(t, err)
				}
			}
		})
	}
	for range 15 {
		for _, limit := range []int{1, 0} {
			require.Eventually(t, func() bool {
				err := b.SetLimits(b.ctx, limit, 0)
				if err != nil {
					assert.True(t, store.IsLockTimeout(err), "%v", err)
				}
				return err == nil
			}, time.Minute, time.Millisecond)
			if limit == 0 {
				continue
			}
			for range 5 {
				assert.Zero(t, b.number(`select count(*) from (
					select count(*) filter (where status = 'pending') as ready, count(*) as active from imagetasks.tasks
					where status = 'processing' or (status = 'pending' and waits_for is null) group by user_id) users
					where ready > 0 and active > 1`), "a task may start beyond the limit")
			}
		}
	}
	close(stop)
	workers.Wait()
	b.requireAudit()
}

// A task that is released after the limit became lower is admitted again, and does not start beyond it.
func TestRelease_AfterLimitBecameLower(t *testing.T) {
	b := fresh(t)
	err := b.SetLimits(b.ctx, 3, 0)
	require.NoError(t, err)
	user := b.user(3)
	b.enqueue(user, 3, 1)
	tasks := b.claim(3)
	require.Len(t, tasks, 3)
	err = b.SetLimits(b.ctx, 2, 0)
	require.NoError(t, err)
	requireHeld(t)(b.Release(b.ctx, store.ReleaseRequest{Lease: tasks[0].Lease()}))
	require.NoError(t, b.Admit(b.ctx, user))
	assert.Empty(t, b.claim(1), "two are processing")
	requireHeld(t)(b.Complete(b.ctx, store.Completion{Lease: tasks[1].Lease()}))
	require.NoError(t, b.Admit(b.ctx, user))
	assert.Len(t, b.claim(1), 1)
}

// database/sql repeats a statement whose answer was lost: Enqueue has a key of its own.
func TestEnqueue_AlwaysHasKey(t *testing.T) {
	b := fresh(t)
	b.enqueue(b.user(1), 1, 1)
	assert.Equal(t, 1, b.number(`select count(*) from imagetasks.keys where function = 'enqueue_many'`))
}
