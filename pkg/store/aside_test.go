package store_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// refuse makes the database refuse each update of these tasks, as a trigger of the application would.
func (b *testStore) refuse(ids ...string) {
	b.tb.Helper()
	b.exec(`create table if not exists refused (task_id text primary key);
		create or replace function refuse_row() returns trigger language plpgsql as $$ begin
			if exists (select from public.refused r where r.task_id = old.task_id) then raise exception 'refused'; end if; return new;
		end $$`)
	b.exec(`drop trigger if exists refuse_row on imagetasks.tasks`)
	b.exec(`create trigger refuse_row before update on imagetasks.tasks for each row execute function refuse_row()`)
	for _, id := range ids {
		b.exec(`insert into refused values ($1)`, id)
	}
}

func TestClaim_SetsBadRowAside(t *testing.T) {
	b := fresh(t)
	ids := b.enqueue(b.user(5), 5, 1)
	b.refuse(ids[1])
	claimed := b.claim(5)
	require.Len(t, claimed, 4, "the others are claimed by the same call")
	aside, err := b.TasksAside(b.ctx, 10)
	require.NoError(t, err)
	require.Len(t, aside, 1)
	assert.Equal(t, ids[1], aside[0].TaskID)
	assert.Equal(t, "claim", aside[0].Operation)
	assert.Contains(t, aside[0].Reason, "P0001")
	details, err := b.TaskDetails(b.ctx, ids[1])
	require.NoError(t, err)
	assert.Equal(t, "claim: "+aside[0].Reason, details.SetAside)
	assert.Empty(t, b.claim(5))
	_, found, err := b.NextDue(b.ctx, true)
	require.NoError(t, err)
	assert.True(t, found, "leases are held")
	for _, c := range claimed {
		requireHeld(t)(b.Complete(b.ctx, store.Completion{Lease: c.Lease()}))
	}
	_, found, err = b.NextDue(b.ctx, true)
	require.NoError(t, err)
	assert.False(t, found, "a task that is set aside costs no idle work")
	pending, err := b.HasPending(b.ctx)
	require.NoError(t, err)
	assert.False(t, pending)

	b.exec(`delete from refused`)
	b.exec(`update imagetasks.set_aside set tried_at = now() - interval '2 hours'`)
	require.Len(t, b.claim(5), 1, "it is tried again after an hour")
	b.requireAudit()
}

// What fails for every task is no fault of the tasks.
func TestClaim_CommonFaultSetsNothingAside(t *testing.T) {
	b := fresh(t)
	ids := b.enqueue(b.user(30), 30, 1)
	b.refuse(ids...)
	_, err := b.Claim(b.ctx, store.ClaimRequest{Worker: "w", Limit: 3, Lease: time.Minute, MaxAttempts: 3})
	require.ErrorContains(t, err, "refused")
	aside, err := b.TasksAside(b.ctx, 10)
	require.NoError(t, err)
	assert.Empty(t, aside)
}

// As many bad rows as a claim takes, or a sweep finds, and all of them first, don't stop what comes after.
func TestClaim_BadRowsFillTheLimit(t *testing.T) {
	b := fresh(t)
	user := b.user(10)
	bad := b.enqueue(user, 3, 1)
	good := b.enqueue(user, 5, 1)
	b.refuse(bad...)
	request := store.ClaimRequest{Worker: "w", Limit: 2, Lease: time.Minute, MaxAttempts: 3}
	claimed, err := b.Claim(b.ctx, request)
	require.NoError(t, err)
	assert.Len(t, claimed, 2)
	aside, err := b.TasksAside(b.ctx, 10)
	require.NoError(t, err)
	assert.Len(t, aside, 3)
	for range 2 {
		more, err := b.Claim(b.ctx, request)
		require.NoError(t, err)
		claimed = append(claimed, more...)
	}
	assert.Len(t, claimed, len(good))

	// A sweep that finds nothing but bad rows sets them aside.
	b.exec(`alter table imagetasks.tasks disable trigger refuse_row;
		update imagetasks.tasks set processing_started_at = now() - interval '1 hour' where status = 'processing';
		alter table imagetasks.tasks enable trigger refuse_row`)
	b.refuse(good...)
	_, err = b.Sweep(b.ctx, store.Sweep{OlderThan: time.Minute, Limit: 10})
	require.NoError(t, err)
	aside, err = b.TasksAside(b.ctx, 10)
	require.NoError(t, err)
	assert.Len(t, aside, 8)
}

// A row that can't be closed does not keep the others from being closed and refunded, by any kind of sweep.
func TestClose_SetsBadRowAside(t *testing.T) {
	for name, c := range map[string]struct {
		prepare string
		call    func(b *testStore) ([]task.Refund, error)
	}{
		"sweep": {`update imagetasks.tasks set processing_started_at = now() - interval '1 hour', lease_expires_at = now() - interval '1 second'`, func(b *testStore) ([]task.Refund, error) {
			return b.Sweep(b.ctx, store.Sweep{OlderThan: time.Minute, Limit: 10})
		}},
		"requeue": {`update imagetasks.tasks set processing_started_at = now() - interval '1 hour', lease_expires_at = now() - interval '1 second'`, func(b *testStore) ([]task.Refund, error) {
			return b.Sweep(b.ctx, store.Sweep{OlderThan: time.Minute, Limit: 10, Requeue: true})
		}},
		"abandoned": {`update imagetasks.tasks set lost_claims = 5, lease_expires_at = now() - interval '1 hour'`, func(b *testStore) ([]task.Refund, error) {
			return b.FailAbandoned(b.ctx, 5, 0, 10, uuid.Nil)
		}},
		"overdue": {`update imagetasks.tasks set status = 'pending', lease_expires_at = null, run_after = now() - interval '1 hour'`, func(b *testStore) ([]task.Refund, error) {
			return b.FailOverdue(b.ctx, time.Minute, 10, uuid.Nil)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			b := fresh(t)
			user, rich := b.user(4), b.user(1)
			b.enqueue(user, 4, 1)
			overflow := b.enqueue(rich, 1, 1)[0]
			require.Len(t, b.claim(5), 5)
			b.exec(c.prepare)
			bad := b.row(overflow).ID
			b.refuse(bad)
			closed, err := c.call(b)
			require.NoError(t, err)
			assert.Len(t, closed, 4)
			aside, err := b.TasksAside(b.ctx, 10)
			require.NoError(t, err)
			require.Len(t, aside, 1)
			assert.Equal(t, bad, aside[0].TaskID)
			again, err := c.call(b)
			require.NoError(t, err)
			assert.Empty(t, again)

			failed, err := b.FailSetAside(b.ctx, 0, 10, uuid.Nil)
			require.NoError(t, err)
			assert.Empty(t, failed, "it can't be closed yet")
			b.exec(`delete from refused`)
			b.expireLeases()
			failed, err = b.FailSetAside(b.ctx, 0, 10, uuid.Nil)
			require.NoError(t, err)
			require.Len(t, failed, 1)
			assert.Equal(t, 1, b.balance(rich))
			assert.Equal(t, task.CodeBadRow, b.row(bad).ErrorCode)
			pruned, err := b.Prune(b.ctx, store.PruneConfig{RedriveWindow: time.Hour, Batch: 10})
			require.NoError(t, err)
			assert.Equal(t, 1, pruned.SetAside)
			b.requireAudit()
		})
	}
}

// A balance to which no refund can be added keeps only its own user's tasks from being closed.
func TestSweep_BalanceAtItsBound(t *testing.T) {
	b := fresh(t)
	rich, other := b.user(1), b.user(3)
	b.enqueue(rich, 1, 1)
	b.enqueue(other, 3, 1)
	require.Len(t, b.claim(4), 4)
	b.exec(`update imagetasks.credits set credits = 1000000000000000000 where user_id = $1`, rich)
	b.exec(`update imagetasks.tasks set processing_started_at = now() - interval '1 hour'`)
	swept, err := b.Sweep(b.ctx, store.Sweep{OlderThan: time.Minute, Limit: 10})
	require.NoError(t, err)
	assert.Len(t, swept, 3)
	assert.Equal(t, 3, b.balance(other))
}

func TestRenewLeases_BadRow(t *testing.T) {
	b := fresh(t)
	b.enqueue(b.user(3), 3, 1)
	claimed := b.claim(3)
	b.refuse(claimed[0].ID)
	var renewals []store.LeaseRenewal
	for _, c := range claimed {
		renewals = append(renewals, store.LeaseRenewal{Lease: c.Lease()})
	}
	held, _, err := b.RenewLeases(b.ctx, time.Hour, renewals)
	require.NoError(t, err)
	assert.Len(t, held, 3, "a lease that can't be renewed is not known to be lost")
	assert.Equal(t, 2, b.number(`select count(*) from imagetasks.tasks where lease_expires_at > now() + interval '30 minutes'`))
}
