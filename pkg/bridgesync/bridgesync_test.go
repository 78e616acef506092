package bridgesync_test

import (
	"context"
	"database/sql"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/postgres"
	"imagetasks/pkg/bridgesync"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

func TestNew_WithoutStore(t *testing.T) {
	t.Parallel()
	_, err := bridgesync.New(bridgesync.Config{})
	assert.Error(t, err)
}

func TestService_TakesAndApplies(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s, stop := f.start(nil)
	ids := f.insert("a", 3)
	f.awaitTaken(3)
	tasks := f.claim(3)
	require.Len(t, tasks, 3)
	f.complete(tasks[0])
	f.fail(tasks[1])
	s.Closed()
	f.awaitApplied(2)
	assert.Equal(t, "https://pictures.example/"+tasks[0].ID+".png", f.text(`select url from public.jobs where id = $1`, tasks[0].ID))
	assert.Equal(t, "failed", f.text(`select state from public.jobs where refunded`))
	assert.Equal(t, 11, f.number(`select credits from public.wallets`))

	// The application cancels one that is being processed.
	f.exec(`update public.jobs set state = 'cancelled' where id = $1`, tasks[2].ID)
	f.await("superseded", func(e bridgesync.Event) bool { return e.Sync.Superseded == 1 })
	row, err := f.store.Task(t.Context(), tasks[2].ID)
	require.NoError(t, err)
	assert.Equal(t, task.Cancelled, row.State)
	assert.Equal(t, task.CodeSuperseded, row.ErrorCode)
	assert.Equal(t, "superseded", row.BridgeState)
	assert.ElementsMatch(t, ids, []string{tasks[0].ID, tasks[1].ID, tasks[2].ID})
	assert.True(t, s.Running())
	stop()
	assert.False(t, s.Running())
}

// countingStore counts the calls but for SyncBridge.
type countingStore struct {
	*store.Store
	others atomic.Int64
}

func (s *countingStore) BridgeDue(ctx context.Context, limit int) ([]string, error) {
	s.others.Add(1)
	return s.Store.BridgeDue(ctx, limit)
}

func (s *countingStore) WriteBridgeProgress(ctx context.Context, p ...store.BridgeProgress) ([]string, error) {
	s.others.Add(1)
	return s.Store.WriteBridgeProgress(ctx, p...)
}

func (s *countingStore) ReconcileBridge(ctx context.Context) (int, error) {
	s.others.Add(1)
	return s.Store.ReconcileBridge(ctx)
}

func TestService_WithoutBridge(t *testing.T) {
	t.Parallel()
	f := newEmptyFixture(t, server.Database(t))
	counted := &countingStore{Store: f.store}
	s, stop := f.start(func(c *bridgesync.Config) {
		c.Store, c.LookInterval, c.Interval, c.ProgressInterval = counted, 20*time.Millisecond, time.Millisecond, time.Millisecond
		c.Progress = func() []store.BridgeProgress { return []store.BridgeProgress{{TaskID: "x", Stage: "claimed"}} }
	})
	for range 3 {
		f.await("a look", func(e bridgesync.Event) bool { return e.Kind == bridgesync.EventSynced })
	}
	s.Closed()
	assert.Zero(t, counted.others.Load(), "one statement looks for a bridge")
	// The bridge is made while it runs.
	f.exec(application(t))
	f.await("an active bridge", func(e bridgesync.Event) bool { return e.Sync.Active })
	seen := map[bridgesync.EventKind]bool{}
	f.await("a comparison, and progress", func(e bridgesync.Event) bool {
		seen[e.Kind] = true
		return seen[bridgesync.EventReconciled] && seen[bridgesync.EventProgress]
	})
	// And it is removed.
	f.exec(`delete from imagetasks.bridge`)
	f.await("no bridge", func(e bridgesync.Event) bool { return e.Kind == bridgesync.EventSynced && !e.Sync.Active })
	stop()
	assert.Equal(t, 1, f.lines("the bridge to the application's tables is active"))
	assert.Equal(t, 1, f.lines("the bridge to the application's tables is not active any more"))
}

// A row that the application holds locked is tried again and again, and the others go on.
func TestService_LockedRows(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.insert("a", 40)
	_, stop := f.start(nil)
	defer stop()
	f.awaitTaken(40)
	tasks := f.claim(40)
	require.Len(t, tasks, 40)
	tx, err := f.db.Begin()
	require.NoError(t, err)
	defer tx.Rollback()
	locked := map[string]bool{}
	for _, held := range tasks[:12] { // more than there are workers
		_, err = tx.Exec(`select from public.jobs where id = $1 for update`, held.ID)
		require.NoError(t, err)
		locked[held.ID] = true
	}
	f.complete(tasks...)
	applied, busy := 0, map[string]int{}
	f.await("the others", func(e bridgesync.Event) bool {
		switch e.Kind {
		case bridgesync.EventApplied:
			assert.False(t, locked[e.Task])
			applied++
		case bridgesync.EventBusy:
			busy[e.Task]++
		}
		return applied == 28
	})
	f.await("another try", func(e bridgesync.Event) bool {
		if e.Kind == bridgesync.EventBusy {
			busy[e.Task]++
		}
		return len(busy) == 12
	})
	state, err := f.store.Bridge(t.Context())
	require.NoError(t, err)
	assert.Equal(t, 12, state.Owed)
	assert.Zero(t, state.Failing, "a lock is no failure")
	require.NoError(t, tx.Commit())
	f.awaitApplied(12)
	assert.Zero(t, f.number(`select count(*) from public.jobs where url is null`))
}

// What can't be written stops nothing else, is logged once, and is tried again.
func TestService_RefusedRow(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.exec(`alter table public.jobs add constraint no_secrets check (url not like '%a0001%')`)
	f.insert("a", 3)
	_, stop := f.start(nil)
	defer stop()
	f.awaitTaken(3)
	tasks := f.claim(3)
	f.complete(tasks...)
	f.awaitTask(bridgesync.EventWaiting, "a0001")
	f.exec(`update imagetasks.outbox set next_try_at = now()`)
	f.awaitTask(bridgesync.EventWaiting, "a0001")
	assert.Equal(t, 1, f.lines("its end can't be written to the application's tables, and is tried again; to see all of them run: task-processor adopt --check"))
	require.Eventually(t, func() bool { return f.number(`select count(*) from public.jobs where url is not null`) == 2 }, 30*time.Second, 10*time.Millisecond)
	f.exec(`alter table public.jobs drop constraint no_secrets`)
	f.exec(`update imagetasks.outbox set next_try_at = now()`)
	f.awaitTask(bridgesync.EventApplied, "a0001")
}

// A trigger that was off is made up for by the comparison.
func TestService_Reconciles(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.exec(`alter table public.jobs disable trigger imagetasks_task`)
	f.insert("a", 2)
	f.start(nil)
	f.awaitTaken(2)
	f.insert("b", 2)
	f.exec(`insert into imagetasks.inbox (kind, key) values ('missed', '')`)
	f.awaitTaken(2)
	assert.Zero(t, f.number(`select count(*) from imagetasks.inbox`))
}

func TestService_Progress(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var mu sync.Mutex
	var inFlight []store.BridgeProgress
	set := func(p ...store.BridgeProgress) {
		mu.Lock()
		defer mu.Unlock()
		inFlight = p
	}
	f.insert("a", 50)
	f.start(func(c *bridgesync.Config) {
		c.ProgressInterval = 5 * time.Millisecond
		c.Progress = func() []store.BridgeProgress {
			mu.Lock()
			defer mu.Unlock()
			return inFlight
		}
	})
	f.awaitTaken(50)
	tasks := f.claim(50)
	require.Len(t, tasks, 50)
	f.exec(`create table public.writes (id text, stage text);
		create function public.noted() returns trigger language plpgsql as $$ begin insert into public.writes values (new.id, new.stage); return null; end $$;
		create trigger noted after update on public.jobs for each row execute function public.noted()`)
	var all []store.BridgeProgress
	for i := len(tasks) - 1; i >= 0; i-- {
		all = append(all, store.BridgeProgress{TaskID: tasks[i].ID, Epoch: tasks[i].Epoch, Stage: "claimed"})
	}
	set(all...)
	seen := 0
	f.await("the first stage", func(e bridgesync.Event) bool {
		if e.Kind == bridgesync.EventProgress {
			seen++
		}
		return seen == 50
	})
	assert.Equal(t, 50, f.number(`select count(*) from public.jobs where state = 'processing' and stage = 'claimed'`))
	one := all[0]
	one.Percent = 40 // is no reason to write
	set(append([]store.BridgeProgress{one}, all[1:]...)...)
	one.Percent, one.Stage = 60, "receiving the picture"
	two := all[1]
	two.Percent, two.Stage = 10, "waiting for the API"
	set(one, two)
	more := 0
	f.await("the next stages", func(e bridgesync.Event) bool {
		if e.Kind == bridgesync.EventProgress {
			more++
		}
		return more == 2
	})
	assert.Equal(t, 52, f.number(`select count(*) from public.writes`))
	assert.Equal(t, 60, f.number(`select percent from public.jobs where id = $1`, one.TaskID))
}

// At a stop, what the tasks that ended last have left is written.
func TestService_LastWrites(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.insert("a", 30)
	_, stop := f.start(func(c *bridgesync.Config) { c.Interval = time.Hour }) // only the first read of the inbox
	f.awaitTaken(30)
	f.complete(f.claim(30)...)
	stop()
	assert.Equal(t, 30, f.number(`select count(*) from public.jobs where url is not null`))
}

// A locked row delays a stop for a moment only.
func TestService_StopWithLockedRow(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.insert("a", 1)
	_, stop := f.start(nil)
	f.awaitTaken(1)
	tx, err := f.db.Begin()
	require.NoError(t, err)
	defer tx.Rollback()
	_, err = tx.Exec(`select from public.jobs for update`)
	require.NoError(t, err)
	f.complete(f.claim(1)...)
	f.awaitTask(bridgesync.EventBusy, "a0000")
	began := time.Now()
	stop()
	assert.Less(t, time.Since(began), 5*time.Second)
	assert.Equal(t, 1, f.number(`select count(*) from imagetasks.outbox`))
}

// Several services on one database write each end once.
func TestService_TwoAtOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.insert("a", 200)
	f.start(nil)
	f.start(nil)
	f.awaitTaken(200)
	tasks := f.claim(200)
	require.Len(t, tasks, 200)
	for i, claimed := range tasks {
		if i%2 == 0 {
			f.fail(claimed)
		}
	}
	for i := 1; i < len(tasks); i += 2 {
		f.complete(tasks[i])
	}
	f.awaitApplied(200)
	assert.Equal(t, 110, f.number(`select credits from public.wallets`), "one refund for each task that failed")
	assert.Equal(t, 100, f.number(`select count(*) from public.gallery`))
	assert.Equal(t, 100, f.number(`select count(*) from imagetasks.ledger where kind = 'refund'`))
	assert.Zero(t, f.number(`select count(*) from imagetasks.outbox`))
}

func TestService_DatabaseOutage(t *testing.T) {
	t.Parallel()
	cluster, err := postgres.Start(t.Context(), postgres.Config{})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, cluster.Stop()) })
	f := newEmptyFixture(t, cluster.URL("postgres"))
	_, err = f.store.Migrate(t.Context(), store.Roles{})
	require.NoError(t, err)
	f.exec(application(t))
	f.exec(`insert into public.wallets values ('ann', 10)`)
	f.insert("a", 1)
	_, stop := f.start(func(c *bridgesync.Config) { c.Interval = 20 * time.Millisecond })
	f.awaitTaken(1)
	f.complete(f.claim(1)...)
	f.awaitTask(bridgesync.EventApplied, "a0000")
	require.NoError(t, cluster.Halt())
	lost := func() int { return f.lines("could not read the inbox of the bridge; trying again") }
	require.Eventually(t, func() bool { return lost() > 0 }, 30*time.Second, 10*time.Millisecond)
	for range 4 {
		f.await("a failure", func(e bridgesync.Event) bool { return e.Kind == bridgesync.EventFailed })
	}
	assert.Equal(t, 1, lost(), "it is logged once")
	require.NoError(t, cluster.Launch(t.Context()))
	f.await("the database again", func(e bridgesync.Event) bool { return e.Kind == bridgesync.EventSynced && e.Sync.Active })
	require.Eventually(t, func() bool { return f.db.Ping() == nil }, 30*time.Second, 20*time.Millisecond)
	f.insert("b", 1)
	f.awaitTaken(1)
	assert.Equal(t, 1, f.lines("works again: read the inbox of the bridge"))

	// A stop without a database does not wait.
	require.NoError(t, cluster.Halt())
	began := time.Now()
	stop()
	assert.Less(t, time.Since(began), 20*time.Second)
	require.NoError(t, cluster.Launch(t.Context()))
}

func TestPass_WithoutBridge(t *testing.T) {
	t.Parallel()
	f := newEmptyFixture(t, server.Database(t))
	done, err := bridgesync.Pass(t.Context(), f.store, f.log)
	require.NoError(t, err)
	assert.Zero(t, done)
}

func TestPass(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.exec(`alter table public.jobs disable trigger imagetasks_task`)
	f.insert("lost", 1)
	f.exec(`alter table public.jobs enable trigger imagetasks_task`)
	f.insert("a", 4)
	done, err := bridgesync.Pass(t.Context(), f.store, f.log)
	require.NoError(t, err)
	assert.Equal(t, bridgesync.Report{Active: true, Taken: 5}, done)
	tasks := f.claim(5)
	require.Len(t, tasks, 5)
	f.complete(tasks[0])
	f.fail(tasks[1])
	f.fail(tasks[2])
	f.exec(`update public.jobs set state = 'failed', refunded = true where id = $1`, tasks[2].ID)
	tx, err := f.db.Begin()
	require.NoError(t, err)
	defer tx.Rollback()
	_, err = tx.Exec(`select from public.jobs where id = $1 for update`, tasks[3].ID)
	require.NoError(t, err)
	f.fail(tasks[3])
	done, err = bridgesync.Pass(t.Context(), f.store, f.log)
	require.NoError(t, err)
	assert.Equal(t, bridgesync.Report{Active: true, Superseded: 1, Applied: 2, Refunded: 1, Owed: 1}, done)
	require.NoError(t, tx.Commit())
	done, err = bridgesync.Pass(t.Context(), f.store, f.log)
	require.NoError(t, err)
	assert.Equal(t, bridgesync.Report{Active: true, Applied: 1, Refunded: 1}, done)
}

// failingStore is a store in which one call fails.
type failingStore struct {
	*store.Store
	sync, due, reconcile bool
}

func (s failingStore) SyncBridge(ctx context.Context, limit int) (store.BridgeSync, error) {
	if s.sync {
		return store.BridgeSync{}, sql.ErrConnDone
	}
	return s.Store.SyncBridge(ctx, limit)
}

func (s failingStore) BridgeDue(ctx context.Context, limit int) ([]string, error) {
	if s.due {
		return nil, sql.ErrConnDone
	}
	return s.Store.BridgeDue(ctx, limit)
}

func (s failingStore) ReconcileBridge(ctx context.Context) (int, error) {
	if s.reconcile {
		return 0, sql.ErrConnDone
	}
	return s.Store.ReconcileBridge(ctx)
}

// Each step of a pass is done whatever became of the one before.
func TestPass_StepsAreIndependent(t *testing.T) {
	t.Parallel()
	for name, failing := range map[string]failingStore{"sync": {sync: true}, "due": {due: true}, "reconcile": {reconcile: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.insert("a", 1)
			_, err := bridgesync.Pass(t.Context(), f.store, f.log)
			require.NoError(t, err)
			f.fail(f.claim(1)[0])
			f.insert("b", 1)
			var checked time.Time
			require.NoError(t, f.db.QueryRow(`select checked_at from imagetasks.bridge`).Scan(&checked))
			failing.Store = f.store
			_, err = bridgesync.Pass(t.Context(), failing, f.log)
			require.ErrorIs(t, err, sql.ErrConnDone)
			assert.Equal(t, failing.due, f.number(`select count(*) from public.jobs where refunded`) == 0)
			assert.Equal(t, failing.sync, f.number(`select count(*) from imagetasks.tasks where task_id like 'b%'`) == 0)
			assert.Equal(t, failing.reconcile, f.number(`select count(*) from imagetasks.bridge where checked_at > $1`, checked) == 0)
		})
	}
}

// More ends than one read of the outbox returns.
func TestDrain_Backlog(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.exec(`insert into public.jobs (id, owner, prompt) select 'a' || i, 'ann', 'a lantern' from generate_series(1, 700) i`)
	require.NoError(t, bridgesync.Prepare(t.Context(), f.store, f.log))
	assert.Zero(t, f.number(`select count(*) from imagetasks.inbox where kind = 'task'`))
	f.exec(`select imagetasks.cancel(task_id) from imagetasks.tasks`)
	done, err := bridgesync.Drain(t.Context(), f.store, f.log)
	require.NoError(t, err)
	assert.Equal(t, bridgesync.Report{Active: true, Applied: 700, Refunded: 700}, done)
	assert.Equal(t, 710, f.number(`select credits from public.wallets`))
}
