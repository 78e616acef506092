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

// requests returns requests_sent, unknown_outcomes and request_open of a task, and its idempotency key.
func (b *testStore) requests(id string) (sent, unknown int, open bool, key string) {
	b.tb.Helper()
	require.NoError(b.tb, b.raw.QueryRow(`select requests_sent, unknown_outcomes, request_open, coalesce(request_key, '') from imagetasks.tasks where task_id = $1`, id).
		Scan(&sent, &unknown, &open, &key))
	return sent, unknown, open, key
}

func (b *testStore) begin(t task.Task) string {
	b.tb.Helper()
	key, _, err := b.BeginRequest(b.ctx, t.Lease(), uuid.New(), "https://api.example/v1", 0)
	require.NoError(b.tb, err)
	return key
}

func TestBeginRequest_RecordedOncePerCall(t *testing.T) {
	b := fresh(t)
	held := b.claimOne(1)
	call := uuid.New()
	var keys []string
	for range 3 {
		key, _, err := b.BeginRequest(b.ctx, held.Lease(), call, "https://api.example/v1", 0)
		require.NoError(t, err)
		keys = append(keys, key)
	}
	assert.Equal(t, []string{keys[0], keys[0], keys[0]}, keys)
	sent, _, open, key := b.requests(held.ID)
	assert.Equal(t, 1, sent)
	assert.True(t, open)
	assert.Equal(t, keys[0], key)

	b.expireLeases()
	require.Len(t, b.claim(1), 1)
	_, _, err := b.BeginRequest(b.ctx, held.Lease(), uuid.New(), "", 0)
	assert.ErrorIs(t, err, task.ErrLeaseLost, "the epoch is another one")
	_, unknown, open, _ := b.requests(held.ID)
	assert.Equal(t, 1, unknown, "nobody recorded what became of it")
	assert.False(t, open)
}

// What is recorded of a request when its claim ends: by answer, and by each statement that ends a claim.
func TestRequests_Outcomes(t *testing.T) {
	var (
		answered = errServer
		unknown  = &task.Error{Code: task.CodeNetwork, Message: "broken", Unknown: true}
		unsent   = &task.Error{Code: task.CodeProxyRefused, Message: "no proxy", NotSent: true}
	)
	for name, c := range map[string]struct {
		end           func(*testStore, task.Lease) error
		sent, unknown int
		keeps         bool // the idempotency key
	}{
		"retry":             {func(b *testStore, l task.Lease) error { return b.Retry(b.ctx, l, 0, answered) }, 1, 0, false},
		"release, answered": {func(b *testStore, l task.Lease) error { return b.release(l, answered) }, 1, 0, false},
		"release, unknown":  {func(b *testStore, l task.Lease) error { return b.release(l, unknown) }, 1, 1, true},
		"release, no cause": {func(b *testStore, l task.Lease) error { return b.release(l, nil) }, 1, 1, true},
		"release, unsent":   {func(b *testStore, l task.Lease) error { return b.release(l, unsent) }, 0, 0, false},
		"fail, answered":    {func(b *testStore, l task.Lease) error { _, err := b.Fail(b.ctx, l, answered, true); return err }, 1, 0, false},
		"fail, unknown":     {func(b *testStore, l task.Lease) error { _, err := b.Fail(b.ctx, l, unknown, false); return err }, 1, 1, true},
		"complete": {func(b *testStore, l task.Lease) error {
			_, err := b.Complete(b.ctx, store.Completion{Lease: l, ImageURL: "x"})
			return err
		}, 1, 0, false},
		"sweep": {func(b *testStore, l task.Lease) error {
			b.exec(`update imagetasks.tasks set processing_started_at = now() - interval '1 hour'`)
			_, err := b.Sweep(b.ctx, store.Sweep{OlderThan: time.Minute, Limit: 1})
			return err
		}, 1, 1, true},
	} {
		b := fresh(t)
		held := b.claimOne(1)
		first := b.begin(held)
		require.NoError(t, c.end(b, held.Lease()), name)
		sent, unknown, open, key := b.requests(held.ID)
		assert.Equal(t, []any{c.sent, c.unknown, false}, []any{sent, unknown, open}, name)
		assert.Equal(t, c.keeps, key == first, name)
		if b.row(held.ID).State == task.Pending {
			again := b.claim(1)
			require.Len(t, again, 1)
			assert.Equal(t, c.keeps, b.begin(again[0]) == first, "%s: the next request has the same key only while the outcome is unknown", name)
			assert.Equal(t, c.unknown, again[0].UnknownOutcomes)
		}
		b.requireAudit()
	}
}

func (b *testStore) release(l task.Lease, cause *task.Error) error {
	_, err := b.Release(b.ctx, store.ReleaseRequest{Lease: l, Cause: cause})
	return err
}

// An unsent request after one of unknown outcome leaves that one's key.
func TestRequests_UnsentAfterUnknown(t *testing.T) {
	b := fresh(t)
	held := b.claimOne(1)
	key := b.begin(held)
	require.NoError(t, b.release(held.Lease(), &task.Error{Code: task.CodeNetwork, Unknown: true}))
	again := b.claim(1)
	require.Equal(t, key, b.begin(again[0]))
	require.NoError(t, b.release(again[0].Lease(), &task.Error{Code: task.CodeProxyRefused, NotSent: true}))
	sent, unknown, _, kept := b.requests(held.ID)
	assert.Equal(t, []int{1, 1}, []int{sent, unknown})
	assert.Equal(t, key, kept)
}

// A call that is repeated by the holder of the lease after its answer was lost reports what the first try did; anybody else lost the lease.
func TestOutcomes_RepeatedCallReportsFirstResult(t *testing.T) {
	b := fresh(t)
	held := b.claimOne(3)
	for range 2 {
		require.NoError(t, b.Retry(b.ctx, held.Lease(), time.Hour, errServer))
	}
	assert.Equal(t, 1, b.row(held.ID).Attempts)
	assert.ErrorIs(t, b.Retry(b.ctx, task.Lease{TaskID: held.ID, Epoch: held.Epoch + 1}, 0, errServer), task.ErrLeaseLost)
	_, err := b.Fail(b.ctx, held.Lease(), errServer, true)
	assert.ErrorIs(t, err, task.ErrLeaseLost, "it was retried, not failed")
	b.exec(`update imagetasks.tasks set run_after = now()`)

	held = b.claim(1)[0]
	for range 2 {
		requireHeld(t)(b.Release(b.ctx, store.ReleaseRequest{Lease: held.Lease()}))
	}
	released, err := b.Release(b.ctx, store.ReleaseRequest{Lease: task.Lease{TaskID: held.ID, Epoch: 77}})
	require.NoError(t, err)
	assert.Empty(t, released)

	held = b.claim(1)[0]
	first, err := b.Fail(b.ctx, held.Lease(), errServer, true)
	require.NoError(t, err)
	require.EqualValues(t, 3, first.Credits)
	b.enqueue(held.UserID, 1, 2)
	again, err := b.Fail(b.ctx, held.Lease(), errServer, true)
	require.NoError(t, err)
	assert.Equal(t, first.Credits, again.Credits)
	assert.Equal(t, first.Balance, again.Balance)
	assert.Equal(t, first.UserID, again.UserID)
	b.requireAudit()

	stuck := b.claim(1)[0]
	b.exec(`update imagetasks.tasks set processing_started_at = now() - interval '1 hour' where task_id = $1`, stuck.ID)
	swept, err := b.Sweep(b.ctx, store.Sweep{OlderThan: time.Minute, Limit: 1})
	require.NoError(t, err)
	require.Len(t, swept, 1)
	_, err = b.Fail(b.ctx, stuck.Lease(), errServer, true)
	assert.ErrorIs(t, err, task.ErrLeaseLost, "a sweep failed it, not this worker")
}

// A picture that is finished when its task was requeued completes the task, as long as nobody else has claimed it.
func TestComplete_RequeuedTask(t *testing.T) {
	b := fresh(t)
	held := b.claimOne(1)
	b.exec(`update imagetasks.tasks set processing_started_at = now() - interval '1 hour'`)
	_, err := b.Sweep(b.ctx, store.Sweep{OlderThan: time.Minute, Limit: 1, Requeue: true})
	require.NoError(t, err)
	requireHeld(t)(b.Complete(b.ctx, store.Completion{Lease: held.Lease(), ImageURL: "x"}))
	assert.Equal(t, task.Completed, b.row(held.ID).State)
	b.requireAudit()
}

// A claim that is repeated after its answer was lost holds the same leases for another while, also when they had expired meanwhile.
func TestClaim_RepeatAfterExpiry(t *testing.T) {
	b := fresh(t)
	b.enqueue(b.user(2), 2, 1)
	r := store.ClaimRequest{Worker: "w", Limit: 2, Lease: time.Minute, MaxAttempts: 3, CallID: uuid.New()}
	first, err := b.Claim(b.ctx, r)
	require.NoError(t, err)
	require.Len(t, first, 2)
	for range 10 {
		b.expireLeases()
		again, err := b.Claim(b.ctx, r)
		require.NoError(t, err)
		assert.ElementsMatch(t, first, again)
	}
	assert.Empty(t, b.claim(2), "the leases hold again")
	assert.Zero(t, b.number(`select sum(lost_claims) + sum(attempt_count) from imagetasks.tasks`))
}

// A row that an application closes by SQL keeps no lease and costs no claim anything.
func TestClosedBySQL_KeepsNoLease(t *testing.T) {
	b := fresh(t)
	held := b.claimOne(0)
	b.exec(`update imagetasks.tasks set status = 'completed' where task_id = $1`, held.ID)
	assert.Equal(t, 1, b.number(`select count(*) from imagetasks.tasks where lease_expires_at is null and leased_by is null and completed_at is not null`))
	_, found, err := b.NextDue(b.ctx, true)
	require.NoError(t, err)
	assert.False(t, found)
	_, err = b.raw.Exec(`update imagetasks.tasks set lease_expires_at = now()`)
	assert.ErrorContains(t, err, "violates check constraint")
}

// A worker of an earlier run changes nothing in the next one, also before that is claimed.
func TestComplete_EarlierRun(t *testing.T) {
	b := fresh(t)
	held := b.claimOne(1)
	b.exec(`update imagetasks.tasks set processing_started_at = now() - interval '1 hour'`)
	swept, err := b.Sweep(b.ctx, store.Sweep{OlderThan: time.Minute, Limit: 1})
	require.NoError(t, err)
	require.Len(t, swept, 1)
	_, err = b.Redrive(b.ctx, held.ID, 1)
	require.NoError(t, err)
	accepted, err := b.Complete(b.ctx, store.Completion{Lease: held.Lease(), ImageURL: "x"})
	require.NoError(t, err)
	assert.Empty(t, accepted)
	assert.Equal(t, task.Pending, b.row(held.ID).State)
}
