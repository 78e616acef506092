package store_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/store"
)

// A row that can't be promoted, once its time has come, keeps no other task from being claimed.
func TestClaim_SetsBadRowOfALaterTimeAside(t *testing.T) {
	b := fresh(t)
	ids := b.enqueue(b.user(5), 5, 1)
	b.exec(`update imagetasks.tasks set waits_for = 'time', run_after = now() - interval '1 second' where task_id = any (array[$1, $2])`, ids[0], ids[1])
	b.refuse(ids[0])
	assert.Len(t, b.claim(5), 4)
	aside, err := b.TasksAside(b.ctx, 10)
	require.NoError(t, err)
	require.Len(t, aside, 1)
	assert.Equal(t, ids[0], aside[0].TaskID)
	assert.Empty(t, b.claim(5))
	next, found, err := b.NextDue(b.ctx, true)
	require.NoError(t, err)
	if found {
		assert.Positive(t, next, "what is set aside costs no idle work")
	}
	b.requireAudit()
}

// Where a claim is made task by task, because one of them makes it fail, a suspect task is still claimed alone.
func TestClaim_SuspectIsAloneBesideBadRow(t *testing.T) {
	b := fresh(t)
	ids := b.enqueue(b.user(4), 4, 1)
	require.Len(t, b.claim(4), 4)
	b.exec(`update imagetasks.tasks set lease_expires_at = now() - interval '1 hour', lost_claims = 0`)
	// Those that may be claimed with others expired first.
	b.exec(`update imagetasks.tasks set lease_expires_at = now() - interval '1 minute', lost_claims = 1 where task_id = any (array[$1, $2])`, ids[0], ids[1])
	b.exec(`update imagetasks.tasks set lease_expires_at = now() - interval '2 minutes' where task_id = $1`, ids[1])
	b.refuse(ids[1])
	claimed := b.claim(4)
	require.NotEmpty(t, claimed)
	for _, c := range claimed {
		if store.Suspect(c) {
			assert.Len(t, claimed, 1, "a suspect task is claimed with nothing else")
		}
	}
}

// Where a claim is made task by task, it takes no more tasks whose lease expired than it may.
func TestClaim_ExpiredLimitBesideBadRow(t *testing.T) {
	b := fresh(t)
	ids := b.enqueue(b.user(6), 6, 1)
	require.Len(t, b.claim(6), 6)
	b.expireLeases()
	b.exec(`update imagetasks.tasks set lease_expires_at = now() - interval '1 hour' where task_id = $1`, ids[0])
	b.refuse(ids[0])
	claimed, err := b.Claim(b.ctx, store.ClaimRequest{Worker: "w", Limit: 6, Lease: time.Minute, MaxAttempts: 3, Expired: 2})
	require.NoError(t, err)
	assert.LessOrEqual(t, len(claimed), 2)
}

// A task that was set aside, and is worked now, is not failed.
func TestFailSetAside_TaskThatIsWorked(t *testing.T) {
	b := fresh(t)
	held := b.claimOne(1)
	require.NoError(t, b.SetAside(b.ctx, held.ID, "fail a task", nil))
	b.exec(`update imagetasks.set_aside set since = now() - interval '3 hours', tried_at = now() - interval '2 hours'`)
	b.expireLeases()
	require.Len(t, b.claim(1), 1, "it is tried again after an hour")
	failed, err := b.FailSetAside(b.ctx, time.Hour, 10, uuid.Nil)
	require.NoError(t, err)
	assert.Empty(t, failed)
	b.expireLeases()
	failed, err = b.FailSetAside(b.ctx, time.Hour, 10, uuid.Nil)
	require.NoError(t, err)
	assert.Empty(t, failed, "it was set aside by an earlier fault")
	require.NoError(t, b.SetAside(b.ctx, held.ID, "fail a task", nil))
	failed, err = b.FailSetAside(b.ctx, 0, 10, uuid.Nil)
	require.NoError(t, err)
	assert.Len(t, failed, 1)
}

// With USER_CONCURRENCY a row that can't be admitted keeps neither the user's other tasks nor those of other users from being claimed.
func TestAdmit_SetsBadRowAside(t *testing.T) {
	b := fresh(t)
	require.NoError(t, b.SetLimits(b.ctx, 2, 0))
	user := b.user(5)
	ids := b.enqueue(user, 5, 1)
	others := b.enqueue(b.user(2), 2, 1)
	b.exec(`update imagetasks.tasks set waits_for = 'time', run_after = now() - interval '1 second' where task_id = any (array[$1, $2])`, ids[0], others[0])
	b.refuse(ids[2])
	assert.NotEmpty(t, b.claim(10))
	for range 5 {
		require.NoError(t, b.AdmitAll(b.ctx))
		b.claim(10)
		b.exec(`update imagetasks.tasks set status = 'completed', image_url = 'x' where status = 'processing'`)
	}
	assert.Equal(t, 6, b.number(`select count(*) from imagetasks.tasks where status = 'completed'`))
	aside, err := b.TasksAside(b.ctx, 10)
	require.NoError(t, err)
	require.Len(t, aside, 1)
	assert.Equal(t, ids[2], aside[0].TaskID)
	assert.Equal(t, "admit", aside[0].Operation)
}

// A suspect task whose row somebody else has locked does not keep processors from claiming others.
func TestHasSuspect_LockedRow(t *testing.T) {
	b := fresh(t)
	held := b.claimOne(1)
	b.exec(`update imagetasks.tasks set lease_expires_at = now() - interval '1 hour', lost_claims = 1`)
	found, err := b.HasSuspect(b.ctx, 5)
	require.NoError(t, err)
	assert.True(t, found)
	b.openTransaction(`select from imagetasks.tasks where task_id = $1 for update`, held.ID)
	found, err = b.HasSuspect(b.ctx, 5)
	require.NoError(t, err)
	assert.False(t, found)
}

// A dump that is restored into the database that it was made of is a restored backup, too: its tasks may have been paid for since.
func TestClaim_DumpRestoredInPlace(t *testing.T) {
	b := fresh(t)
	b.enqueue(b.user(1), 1, 1)
	// As a restore does, the table is dropped and made again, with its rows.
	b.exec(`create table imagetasks.restored (like imagetasks.control including all)`)
	b.exec(`insert into imagetasks.restored select * from imagetasks.control`)
	b.exec(`drop table imagetasks.control cascade`)
	b.exec(`alter table imagetasks.restored rename to control`)
	control, err := b.Control(b.ctx)
	require.NoError(t, err)
	assert.True(t, control.Copied)
	assert.Empty(t, b.claim(1), "until an operator resumes")
	require.NoError(t, b.Resume(b.ctx))
	assert.Len(t, b.claim(1), 1)
}
