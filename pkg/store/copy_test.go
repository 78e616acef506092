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

// The tasks of a copied database may have been paid for elsewhere: until it is resumed nothing is claimed or closed, and after that each task has
// the time of a new one.
func TestResume_AcceptsACopy(t *testing.T) {
	b := fresh(t)
	user := b.user(10)
	ids := b.enqueue(user, 4, 1)
	b.exec(`update imagetasks.tasks set run_after = now() - interval '1 hour'`)
	b.exec(`update imagetasks.tasks set status = 'processing', waits_for = null, processing_started_at = now() - interval '1 hour',
		lease_expires_at = now() - interval '1 hour' where task_id in ($1, $2)`, ids[0], ids[1])
	b.exec(`update imagetasks.tasks set lost_claims = 5 where task_id = $1`, ids[1])
	require.NoError(t, b.PutAside(b.ctx, ids[2]))
	b.exec(`update imagetasks.set_aside set since = now() - interval '1 hour'`)
	b.exec(`update imagetasks.control set database_identity = 'another'`)
	closed := func() map[string][]task.Refund {
		t.Helper()
		out := map[string][]task.Refund{}
		note := func(what string) func([]task.Refund, error) {
			return func(r []task.Refund, err error) {
				t.Helper()
				require.NoError(t, err)
				if len(r) > 0 {
					out[what] = r
				}
			}
		}
		note("abandoned")(b.FailAbandoned(b.ctx, 5, 0, 10, uuid.New()))
		note("overdue")(b.FailOverdue(b.ctx, 20*time.Minute, 10, uuid.New()))
		note("aside")(b.FailSetAside(b.ctx, 20*time.Minute, 10, uuid.New()))
		note("requeued")(b.Sweep(b.ctx, store.Sweep{OlderThan: 20 * time.Minute, Limit: 10, Requeue: true}))
		note("stuck")(b.Sweep(b.ctx, store.Sweep{OlderThan: 20 * time.Minute, Limit: 10}))
		return out
	}
	control, err := b.Control(b.ctx)
	require.NoError(t, err)
	assert.True(t, control.Copied)
	assert.True(t, control.Paused())
	assert.Empty(t, b.claim(10))
	assert.Empty(t, closed())

	require.NoError(t, b.Resume(b.ctx))
	found := closed()
	assert.Len(t, found, 1, "the others have as much time as new tasks")
	assert.Len(t, found["abandoned"], 1, "after the time of a lease")
	b.exec(`update imagetasks.control set accepted_at = now() - interval '1 hour'`)
	require.NoError(t, b.Resume(b.ctx), "of the same database: no time begins again")
	_, err = b.PauseRestored(b.ctx, "me", "restored in place")
	require.NoError(t, err)
	assert.Empty(t, closed())
	require.NoError(t, b.Resume(b.ctx))
	assert.Empty(t, closed(), "time begins again")
	b.exec(`update imagetasks.control set accepted_at = now() - interval '1 hour'`)
	found = closed()
	assert.Len(t, found["overdue"], 1)
	assert.Len(t, found["aside"], 1)
	assert.Len(t, found["requeued"], 1)
	b.requireAudit()
}
