package store_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/store"
)

// queue puts tasks of a model into the queue, in the order of their slots, each of one of 50 users.
func (b *testStore) queue(model string, count, slot int) {
	b.tb.Helper()
	b.exec(`insert into imagetasks.tasks (task_id, user_id, prompt, model, waits_for, slot, backlog, run_after)
		select $1 || i, 'u' || (i % 50), 'x', $1, null, $2 + i, 1, now() from generate_series(1, $3::int) i`, model, slot, count)
}

// Tasks of one endpoint that fill the queue keep no task from another endpoint, although the first one has a free permit for each claim.
func TestClaim_FullEndpointKeepsNoOther(t *testing.T) {
	t.Parallel()
	b := fresh(t)
	b.queue("a", 3000, 0)
	b.queue("b", 3, 5000)
	limited, other := store.ClaimEndpoint{Name: "a", Models: []string{"a"}, Concurrent: 1}, store.ClaimEndpoint{Name: "b", Models: []string{"b"}}
	assert.Equal(t, []string{"a", "b", "b"}, chosen(b.claimFor(3, limited, other)))
	b.exec(`update imagetasks.tasks set status = 'completed', completed_at = now(), image_url = 'p', leased_by = null, lease_expires_at = null where status = 'processing'`)
	again := b.claimFor(3, limited, other)
	assert.Equal(t, []string{"a", "b"}, chosen(again))
	assert.Equal(t, "a2", again[0].ID, "in turn")
	b.requireAudit()
}

// What is chosen for an endpoint that is full by then stays counted for its user.
func TestClaim_FullEndpointWithUserConcurrency(t *testing.T) {
	t.Parallel()
	b := fresh(t)
	require.NoError(t, b.SetLimits(b.ctx, 1, 0))
	user := b.user(10)
	b.enqueueModels(user, "a", "b", "b")
	b.enqueueModels(b.user(10), "a", "a")
	limited, other := store.ClaimEndpoint{Name: "a", Models: []string{"a"}, Concurrent: 1}, store.ClaimEndpoint{Name: "b", Models: []string{"b"}}
	for range 3 {
		b.claimFor(5, limited, other)
		assert.LessOrEqual(t, b.number(`select max(n) from (select count(*) as n from imagetasks.tasks where status = 'processing' or status = 'pending' and waits_for is null
			group by user_id) active`), 1)
		assert.Zero(t, b.number(`select count(*) from imagetasks.tasks where status = 'processing' and waits_for is not null`))
	}
	assert.Equal(t, 1, b.number(`select count(*) from imagetasks.tasks where status = 'processing' and user_id = $1`, user))
}

// A claim that passes by a long queue of models that can't be claimed takes less than its time, also one that leaves them where they are.
func TestClaim_LongQueueOfOtherModels(t *testing.T) {
	t.Parallel()
	b := fresh(t)
	b.queue("a", 50_000, 0)
	b.queue("b", 10, 100_000)
	closed, other := store.ClaimEndpoint{Name: "a", Models: []string{"a"}, Max: upTo(0)}, store.ClaimEndpoint{Name: "b", Models: []string{"b"}}
	began := time.Now()
	tasks, err := b.Claim(b.ctx, store.ClaimRequest{Worker: "w", Limit: 2, Lease: time.Minute, MaxAttempts: 3, Endpoints: []store.ClaimEndpoint{closed, other}, Trial: true})
	require.NoError(t, err)
	assert.Equal(t, []string{"b", "b"}, chosen(tasks))
	assert.Less(t, time.Since(began), 4*time.Second)
	assert.Zero(t, b.number(`select count(*) from imagetasks.tasks where waits_for = 'model'`))
	began = time.Now()
	found, err := b.HasPendingFor(b.ctx, []store.ClaimEndpoint{closed})
	require.NoError(t, err)
	assert.True(t, found, "nobody has the model b")
	found, err = b.HasPendingFor(b.ctx, []store.ClaimEndpoint{closed, {Name: "b", Models: []string{"b"}, Max: upTo(0)}})
	require.NoError(t, err)
	assert.False(t, found)
	assert.Less(t, time.Since(began), 4*time.Second)
}

// A clock of the server that was an hour ahead for some time does not stop an endpoint for an hour.
func TestClaim_RateAfterClockWasAhead(t *testing.T) {
	t.Parallel()
	b := fresh(t)
	const rate = 600
	limited := store.ClaimEndpoint{Name: "e", Rate: rate}
	b.enqueueModels(b.user(10), "m", "m", "m")
	held := b.claimFor(1, limited)
	require.Len(t, held, 1)
	b.exec(`update imagetasks.endpoints set next_at = now() + interval '1 hour'`)
	b.exec(`update imagetasks.tasks set permit_at = now() + interval '1 hour' where status = 'processing'`)
	require.Empty(t, b.claimFor(1, limited))
	wait, err := b.PermitWait(b.ctx, []string{"e"})
	require.NoError(t, err)
	assert.Less(t, wait, 10*time.Second)
	require.Eventually(t, func() bool { return len(b.claimFor(1, limited)) == 1 }, 20*time.Second, 10*time.Millisecond)
	_, wait, err = b.BeginRequest(b.ctx, held[0].Lease(), uuid.New(), "e", rate)
	require.NoError(t, err)
	assert.Less(t, wait, 10*time.Second)
}
