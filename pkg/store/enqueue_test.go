package store_test

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

func TestEnqueue_ChargesAndWritesLedger(t *testing.T) {
	b := fresh(t)
	user := b.user(10)
	ids := b.enqueue(user, 3, 2)
	assert.Equal(t, 4, b.balance(user))
	for _, id := range ids {
		r := b.row(id)
		assert.Equal(t, task.Pending, r.State)
		assert.EqualValues(t, 2, r.Deducted)
	}
	moves, err := b.Ledger(b.ctx, user, 10)
	require.NoError(t, err)
	require.Len(t, moves, 4)
	assert.Equal(t, "charge", moves[0].Kind)
	assert.EqualValues(t, -2, moves[0].Amount)
	assert.EqualValues(t, 4, moves[0].BalanceAfter)
	assert.Equal(t, ids[2], moves[0].TaskID)
	assert.Equal(t, "grant", moves[3].Kind)
	b.requireAudit()
}

func TestEnqueue_InsufficientCreditsChangesNothing(t *testing.T) {
	b := fresh(t)
	user := b.user(5)
	for _, n := range []store.EnqueueRequest{
		{UserID: user, Prompt: "x", Cost: 2, Count: 3},
		{UserID: user, Prompt: "x", Cost: 6},
		{UserID: user, Prompt: "x", Cost: 1 << 20, Count: 1000},
		{UserID: uuid.NewString(), Prompt: "x", Cost: 1},
	} {
		_, err := b.Enqueue(b.ctx, n)
		assert.ErrorIs(t, err, task.ErrInsufficientCredits)
	}
	for _, n := range []store.EnqueueRequest{
		{UserID: user, Prompt: "x", Cost: -1},
		{UserID: user, Cost: 1},
		{UserID: user, Prompt: "x", Cost: 1 << 30, Count: 1001},
		{UserID: user, Prompt: "a\x00b", Cost: 1},
	} {
		_, err := b.Enqueue(b.ctx, n)
		assert.Error(t, err, "%+v", n)
	}
	assert.Equal(t, 5, b.balance(user))
	assert.Zero(t, b.number("select count(*) from imagetasks.tasks"))
	assert.Equal(t, 1, b.number("select count(*) from imagetasks.ledger"))
}

func TestEnqueue_ConcurrentNeverOverdraws(t *testing.T) {
	b := fresh(t)
	user := b.user(25)
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			for range 5 {
				_, err := b.Enqueue(b.ctx, store.EnqueueRequest{UserID: user, Prompt: "x", Cost: 1})
				if err != nil {
					assert.ErrorIs(t, err, task.ErrInsufficientCredits)
				}
			}
		})
	}
	wg.Wait()
	assert.Zero(t, b.balance(user))
	assert.Equal(t, 25, b.number("select count(*) from imagetasks.tasks"))
	b.requireAudit()
}

// The ids of a call are UUIDs of version 7 in the order of its tasks, and come after those of the calls before.
func TestEnqueue_IDsAscend(t *testing.T) {
	b := fresh(t)
	user := b.user(3000)
	var all []string
	for range 3 {
		done, err := b.Enqueue(b.ctx, store.EnqueueRequest{UserID: user, Prompt: "x", Cost: 1, Count: 1000})
		require.NoError(t, err)
		all = append(all, done.TaskIDs...)
	}
	assert.True(t, slices.IsSorted(all))
	assert.Len(t, slices.Compact(all), 3000)
	for _, id := range all {
		parsed, err := uuid.Parse(id)
		require.NoError(t, err, id)
		assert.Equal(t, []any{uuid.Version(7), uuid.RFC4122}, []any{parsed.Version(), parsed.Variant()}, id)
	}
	made := time.Unix(uuid.MustParse(all[0]).Time().UnixTime())
	assert.WithinDuration(t, time.Now(), made, time.Minute)
}
