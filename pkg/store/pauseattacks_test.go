package store_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/store"
)

// expire lets the leases of all tasks run out, those of an endpoint first.
func (b *testStore) expire(endpoint string) {
	b.tb.Helper()
	b.exec(`update imagetasks.tasks set lease_expires_at = now() - case when endpoint = $1 then interval '2 minutes' else interval '1 minute' end
		where status = 'processing'`, endpoint)
}

// Tasks with an expired lease whose request may still be worked at a paused endpoint wait, and don't keep others from being claimed.
func TestClaim_ExpiredOfPausedEndpoint(t *testing.T) {
	t.Parallel()
	b := fresh(t)
	user := b.user(100)
	first := store.ClaimEndpoint{Name: "first", Preference: 1, Models: []string{"a"}}
	second := store.ClaimEndpoint{Name: "second", Preference: 2, Models: []string{"b", "a"}}
	b.enqueueModels(user, "a", "a", "a", "b")
	for _, held := range b.claimFor(10, first, second) {
		_, _, err := b.BeginRequest(b.ctx, held.Lease(), uuid.New(), held.Endpoint, 0)
		require.NoError(t, err)
	}
	b.expire("first")
	b.pause(store.ScopeEndpoint, "first")
	tasks, err := b.Claim(b.ctx, store.ClaimRequest{Worker: "w", Limit: 10, Lease: time.Minute, MaxAttempts: 3, MaxLostClaims: 5, Expired: 2,
		Endpoints: []store.ClaimEndpoint{first, second}})
	require.NoError(t, err)
	assert.Equal(t, []string{"b"}, models(tasks))
}

// A run until nothing is left does not wait for tasks with an expired lease that a pause holds back.
func TestHasPendingFor_ExpiredOfPaused(t *testing.T) {
	t.Parallel()
	b := fresh(t)
	user := b.user(100)
	e := store.ClaimEndpoint{Name: "e", Default: "m"}
	b.enqueueModels(user, "m", "")
	require.Len(t, b.claimFor(10, e), 2)
	b.expire("e")
	b.pause(store.ScopeModel, "m")
	assert.Empty(t, b.claimFor(10, e))
	found, err := b.HasPendingFor(b.ctx, []store.ClaimEndpoint{e})
	require.NoError(t, err)
	assert.False(t, found)
	b.resume(store.ScopeModel, "m")
	found, err = b.HasPendingFor(b.ctx, []store.ClaimEndpoint{e})
	require.NoError(t, err)
	assert.True(t, found)
}

// A paused model waits also where no endpoint has it at the moment: its tasks are not failed for that.
func TestClaim_PausedModelOfNoEndpoint(t *testing.T) {
	t.Parallel()
	b := fresh(t)
	user := b.user(100)
	e := store.ClaimEndpoint{Name: "e", Models: []string{"a"}}
	b.enqueueModels(user, "gone", "a")
	b.pause(store.ScopeModel, "gone")
	assert.Equal(t, []string{"a"}, models(b.claimFor(10, e)))
}

// Nothing is held back for a suspect task that no processor can claim, because its request may still be worked at a paused endpoint.
func TestHasSuspect_PausedEndpoint(t *testing.T) {
	t.Parallel()
	b := fresh(t)
	b.enqueueModels(b.user(100), "m")
	held := b.claimFor(1, store.ClaimEndpoint{Name: "e"})
	require.Len(t, held, 1)
	_, _, err := b.BeginRequest(b.ctx, held[0].Lease(), uuid.New(), "e", 0)
	require.NoError(t, err)
	b.exec(`update imagetasks.tasks set lost_claims = 1`)
	b.expire("e")
	found, err := b.HasSuspect(b.ctx, 5)
	require.NoError(t, err)
	assert.True(t, found)
	b.pause(store.ScopeEndpoint, "e")
	found, err = b.HasSuspect(b.ctx, 5)
	require.NoError(t, err)
	assert.False(t, found)
}

// The log tells what was done from what had been done before: who adds up its grants gets what was granted.
func TestOperations_DoneBefore(t *testing.T) {
	t.Parallel()
	b := fresh(t)
	user := b.user(100)
	cancelled := b.enqueue(user, 1, 5)[0]
	for range 2 {
		_, err := b.CancelBy(b.ctx, store.By("ann"), cancelled, "")
		require.NoError(t, err)
	}
	failed := b.claimOne(5)
	_, err := b.Fail(b.ctx, failed.Lease(), errServer, true)
	require.NoError(t, err)
	for range 2 {
		_, err := b.RedriveBy(b.ctx, store.By("ann"), failed.ID, 1)
		require.NoError(t, err)
		_, err = b.GrantCreditsBy(b.ctx, store.By("ann"), user, 7, "reason", "key")
		require.NoError(t, err)
	}
	entries, err := b.Operations(b.ctx, 10)
	require.NoError(t, err)
	var results []string
	for _, e := range entries {
		results = append(results, e.What+": "+e.Result)
	}
	assert.Equal(t, []string{"grant: was granted, balance 107", "redrive: was run 2", "grant: balance 107", "redrive: run 2",
		"cancel: was cancelled", "cancel: cancelled"}, results)
}

// Pauses stay small, because each claim reads them.
func TestPauseScope_Bounds(t *testing.T) {
	t.Parallel()
	b := fresh(t)
	_, err := b.PauseScope(b.ctx, store.By("ann"), store.ScopeModel, "m", strings.Repeat("long ", 20_000))
	require.NoError(t, err)
	assert.Less(t, b.number(`select length(pauses::text) from imagetasks.control`), 1000)
	b.exec(`update imagetasks.control set pauses = (select jsonb_agg(jsonb_build_object('scope', 'model', 'name', n)) from generate_series(1, 100) n)`)
	_, err = b.PauseScope(b.ctx, store.By("ann"), store.ScopeModel, "one more", "")
	require.ErrorContains(t, err, "there are as many pauses of endpoints and models as there may be")
	assert.Zero(t, b.number(`select count(*) from imagetasks.operations where subject = 'one more'`))
}
