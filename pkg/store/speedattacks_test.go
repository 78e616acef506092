package store_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// waitsForLock waits until a session waits for a lock in a statement that contains text.
func (b *testStore) waitsForLock(text string) {
	b.tb.Helper()
	require.Eventually(b.tb, func() bool {
		return b.number(`select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()
		                 and pid <> pg_backend_pid() and query like '%' || $1 || '%'`, text) > 0
	}, 30*time.Second, time.Millisecond)
}

// A result that is recorded, and whose task is released, while a claim is about to read the queue: it must be fetched, not paid for again.
func TestClaim_ResultRecordedMeanwhile(t *testing.T) {
	b := fresh(t)
	b.enqueue(b.user(2), 2, 1)
	held := b.claim(1)[0]
	// The claim has looked for results when it waits for this.
	calls := b.openTransaction(`lock table imagetasks.calls in share mode`)
	claimed := make(chan []task.Task)
	go func() {
		tasks, err := b.Claim(b.ctx, store.ClaimRequest{Worker: "other", Limit: 2, Lease: time.Minute, MaxAttempts: 3, Expired: 1000, Alone: true})
		assert.NoError(t, err)
		claimed <- tasks
	}()
	b.waitsForLock("pending_ref")
	require.NoError(t, b.SavePending(b.ctx, held.Lease(), task.PendingResult{Ref: "https://pictures.example/a.png"}))
	requireHeld(t)(b.Release(b.ctx, store.ReleaseRequest{Lease: held.Lease()}))
	require.Equal(t, 1, b.number(`select imagetasks.promote(1000, null)`))
	require.NoError(t, calls.Commit())
	tasks := append(<-claimed, b.claim(2)...)
	require.Len(t, tasks, 2)
	for _, tk := range tasks {
		assert.Equal(t, tk.ID == held.ID, tk.Pending != nil, "the task has something to fetch")
	}
}

// A task that was completed when no event was wanted, and that the application begins again: the end of the next run is an event like any other.
func TestEvents_OfNextRunAfterQuietOne(t *testing.T) {
	b := fresh(t)
	held := b.claimOne(0)
	requireHeld(t)(b.Complete(b.ctx, store.Completion{Lease: held.Lease(), ImageURL: "a.png"}))
	require.NoError(t, b.SetCompletionEvents(b.ctx, store.ReceiverWebhook))
	// As bridge_take_task does.
	b.exec(`update imagetasks.tasks set run = 2, status = 'pending', waits_for = 'time', lease_epoch = lease_epoch + 1, completed_at = null where task_id = $1`, held.ID)
	b.cancel(held.ID)
	assert.Equal(t, map[string]string{held.ID: "task.cancelled"}, eventTypes(b.claimAll()))
}

// ratedTasks claims tasks for endpoints with a rate, whose permits are too old, in the order of their ids.
func (b *testStore) ratedTasks(n int, endpoints ...string) []task.Task {
	b.tb.Helper()
	b.enqueue(b.user(0), n, 0)
	held := b.claim(n)
	require.Len(b.tb, held, n)
	slices.SortFunc(held, func(x, y task.Task) int { return strings.Compare(x.ID, y.ID) })
	for _, e := range endpoints {
		b.exec(`insert into imagetasks.endpoints (name) values ($1)`, e)
	}
	return held
}

func rated(tk task.Task, endpoint string) store.RequestStart {
	return store.RequestStart{Lease: tk.Lease(), Call: uuid.New(), Endpoint: endpoint, Rate: 6000}
}

// beginAside calls BeginRequests in another goroutine.
func (b *testStore) beginAside(starts ...store.RequestStart) (done chan error) {
	done = make(chan error, 1)
	go func() {
		_, err := b.BeginRequests(b.ctx, starts...)
		done <- err
	}()
	return done
}

// While requests wait for a row that an application has locked, claims don't wait for their endpoint.
func TestBeginRequests_LockedRowHoldsNoEndpoint(t *testing.T) {
	b := fresh(t)
	held := b.ratedTasks(2, "e")
	tx := b.openTransaction(`select from imagetasks.tasks where task_id = $1 for update`, held[1].ID)
	done := b.beginAside(rated(held[0], "e"), rated(held[1], "e"))
	b.waitsForLock("begin_requests")
	assert.Equal(t, 1, b.number(`select count(*) from (select from imagetasks.endpoints where name = 'e' for update skip locked) free`))
	require.NoError(t, tx.Rollback())
	require.NoError(t, <-done)
}

// Two processors record requests to the same two endpoints, in different orders.
func TestBeginRequests_EndpointsInOneOrder(t *testing.T) {
	b := fresh(t)
	held := b.ratedTasks(4, "a", "b")
	tx := b.openTransaction(`select from imagetasks.tasks where task_id = $1 for update`, held[2].ID)
	first := b.beginAside(rated(held[0], "a"), rated(held[2], "b"))
	b.waitsForLock("begin_requests")
	second := b.beginAside(rated(held[1], "b"), rated(held[3], "a"))
	// It is done, or waits too.
	require.Eventually(t, func() bool {
		return len(second) > 0 || b.number(`select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`) == 2
	}, 30*time.Second, time.Millisecond)
	require.NoError(t, tx.Rollback())
	assert.NoError(t, <-first)
	assert.NoError(t, <-second)
}

// Statements about many tasks wait for a row that a transaction of the application has locked, and hold another one that it wants: they give up before
// the server chooses the application as the victim of the deadlock.
func TestManyTasks_ApplicationIsNoVictim(t *testing.T) {
	for name, call := range map[string]func(b *testStore, held []task.Task) error{
		"complete": func(b *testStore, held []task.Task) error {
			_, err := b.Complete(b.ctx, store.Completion{Lease: held[0].Lease()}, store.Completion{Lease: held[1].Lease()})
			return err
		},
		"release": func(b *testStore, held []task.Task) error {
			_, err := b.Release(b.ctx, store.ReleaseRequest{Lease: held[0].Lease()}, store.ReleaseRequest{Lease: held[1].Lease()})
			return err
		},
		"begin requests": func(b *testStore, held []task.Task) error {
			_, err := b.BeginRequests(b.ctx, store.RequestStart{Lease: held[0].Lease()}, store.RequestStart{Lease: held[1].Lease()})
			return err
		},
		"begin requests with a rate": func(b *testStore, held []task.Task) error {
			_, err := b.BeginRequests(b.ctx, rated(held[0], "e"), rated(held[1], "e"))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := fresh(t)
			held := b.ratedTasks(2, "e")
			tx := b.openTransaction(`select imagetasks.cancel($1)`, held[1].ID)
			done := make(chan error, 1)
			go func() { done <- call(b, held) }()
			b.waitsForLock("epoch")
			_, err := tx.Exec(`select imagetasks.cancel($1)`, held[0].ID)
			require.NoError(t, err)
			err = <-done
			assert.True(t, store.IsLockTimeout(err), "%v", err)
			require.NoError(t, tx.Commit())
		})
	}
}

// A task that is given back before it was begun is as suspect as before: its processor may have ended because of it.
func TestRelease_UnstartedKeepsLostClaims(t *testing.T) {
	b := fresh(t)
	b.claimOne(0)
	for _, unstarted := range []bool{true, false} {
		b.expireLeases()
		held := b.claim(1)
		require.Len(t, held, 1)
		require.Equal(t, 1, held[0].LostClaims)
		requireHeld(t)(b.Release(b.ctx, store.ReleaseRequest{Lease: held[0].Lease(), Unstarted: unstarted}))
		held = b.claim(1)
		require.Len(t, held, 1)
		if !unstarted {
			assert.Zero(t, held[0].LostClaims)
			continue
		}
		assert.Equal(t, 1, held[0].LostClaims)
		requireHeld(t)(b.Release(b.ctx, store.ReleaseRequest{Lease: held[0].Lease()}))
		require.Len(t, b.claim(1), 1)
	}
}

// The row of a task of an application tells its last run only, and another may follow one that was completed.
func TestComplete_BridgedTaskKeepsOutcome(t *testing.T) {
	b := fresh(t)
	held := b.claimOne(0)
	b.exec(`update imagetasks.tasks set bridge_state = 'live' where task_id = $1`, held.ID)
	requireHeld(t)(b.Complete(b.ctx, store.Completion{Lease: held.Lease(), ImageURL: "a.png"}))
	for _, attempts := range []string{"attempts", "imagetasks.attempts_of(task_id)"} {
		assert.Equal(t, 1, b.number(`select jsonb_array_length(`+attempts+`) from imagetasks.tasks where task_id = $1`, held.ID))
	}
}

// A claim that meets set_limits at work takes no task in the place of one that set_limits lets start.
func TestSetLimits_MeetsClaim(t *testing.T) {
	b := fresh(t)
	b.enqueue(b.user(0), 2, 0)
	ids := b.claimOrder()
	set := make(chan error, 1)
	require.Eventually(t, func() bool {
		tx := b.openTransaction(`select from imagetasks.tasks where task_id = $1 for update`, ids[1])
		go func() { set <- b.SetLimits(b.ctx, 1, 0) }()
		b.waitsForLock("set_limits")
		_, err := tx.Exec(`select imagetasks.claim(gen_random_uuid(), 'w', 1, 60000, 3, 5, 0, 0, false, null, null, null, false, null, false)`)
		require.NoError(t, err)
		require.NoError(t, tx.Commit())
		err = <-set
		if err != nil { // the machine was slow
			require.True(t, store.IsLockTimeout(err), "%v", err)
			b.exec(`update imagetasks.tasks set status = 'pending', waits_for = null where status = 'processing'`)
		}
		return err == nil
	}, time.Minute, time.Millisecond)
	assert.Equal(t, 1, b.number(`select count(*) from imagetasks.tasks where status = 'processing' or status = 'pending' and waits_for is null`))
}

// claimOrder returns the tasks that may start, in the order in which they are claimed.
func (b *testStore) claimOrder() (ids []string) {
	b.tb.Helper()
	rows, err := b.raw.Query(`select task_id from imagetasks.tasks where status = 'pending' and waits_for is null order by (- priority), slot, backlog, run_after, task_id`)
	require.NoError(b.tb, err)
	defer rows.Close()
	for rows.Next() {
		var id string
		require.NoError(b.tb, rows.Scan(&id))
		ids = append(ids, id)
	}
	require.NoError(b.tb, rows.Err())
	return ids
}
