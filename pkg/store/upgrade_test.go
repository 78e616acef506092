package store_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// version1 is an installation as the programs of version 1 leave it, with tasks in every state.
type version1 struct {
	*testStore
	user string
	ids  map[string]string // of the tasks, by what they are
}

func newVersion1(t *testing.T) version1 {
	t.Helper()
	b := open(t, server.Empty(t))
	b.role("app_1")
	b.role("worker_1")
	b.role("visitor_1")
	for _, kind := range []string{"tables", "functions", "sequences", "schemas"} {
		b.exec("alter default privileges grant all on " + kind + " to visitor_1")
	}
	require.NoError(t, b.MigrateTo(b.ctx, 1, store.Roles{App: []string{"app_1"}, Worker: []string{"worker_1"}}))

	v := version1{testStore: b, user: "user 1", ids: map[string]string{}}
	b.exec(`select imagetasks.grant_credits($1, 100, 'order', 'order-1')`, v.user)
	for _, what := range []string{"ready", "with input", "later", "retried", "first attempt", "last attempt", "completed", "closed by hand", "failed", "cancelled"} {
		inputs := "[]"
		if what == "with input" || what == "failed" {
			inputs = `[{"url": "https://example.com/a.png"}]`
		}
		var runAt *time.Time
		if what == "later" {
			at := time.Now().Add(time.Hour)
			runAt = &at
		}
		var id string
		require.NoError(t, b.raw.QueryRowContext(b.ctx, `select task_id from imagetasks.enqueue($1, $2, cost => 2, idempotency_key => $2, run_at => $3, inputs => $4)`,
			v.user, what, runAt, inputs).Scan(&id))
		v.ids[what] = id
	}
	claimed := map[string]int{"retried": 1, "first attempt": 1, "last attempt": 3, "completed": 1, "closed by hand": 2, "failed": 3, "cancelled": 1}
	for what, attempts := range claimed {
		b.exec(`update imagetasks.tasks set status = 'processing', attempt_count = $2::int, lease_epoch = $2::int, leased_by = 'host:1:a', current_stage = 'claimed',
			lease_expires_at = now() + interval '1 minute', processing_started_at = now() where task_id = $1`, v.ids[what], attempts)
	}
	b.exec(`update imagetasks.tasks set status = 'pending', run_after = now() - interval '1 second', waits_for = 'time', error_code = 'api_server_error',
		leased_by = null, lease_expires_at = null, processing_started_at = null,
		attempts = '[{"run": 1, "attempt": 1, "outcome": "retry", "seconds": 1.5, "at": "2026-01-01T00:00:00Z", "code": "api_server_error"}]'
		where task_id = $1`, v.ids["retried"])
	b.exec(`update imagetasks.tasks set lease_expires_at = now() - interval '1 second' where task_id = $1`, v.ids["last attempt"])
	b.exec(`update imagetasks.tasks set status = 'completed', image_url = 'p/1.png', leased_by = null, lease_expires_at = null, completed_at = now()
		where task_id = $1`, v.ids["completed"])
	// An application that writes the state itself leaves the lease.
	b.exec(`update imagetasks.tasks set status = 'completed', image_url = 'p/2.png' where task_id = $1`, v.ids["closed by hand"])
	b.exec(`with closed as (update imagetasks.tasks set status = 'failed', error_code = 'lease_expired', leased_by = null, lease_expires_at = null,
			credits_refunded = 2, completed_at = now() where task_id = $1 returning task_id, user_id),
		paid as (update imagetasks.credits set credits = credits + 2 returning credits)
		insert into imagetasks.ledger (user_id, task_id, run, kind, amount, balance_after, reason)
		select user_id, task_id, 1, 'refund', 2, credits, 'task failed' from closed, paid`, v.ids["failed"])
	b.exec(`select imagetasks.cancel($1)`, v.ids["cancelled"])
	b.exec(`insert into imagetasks.processors (worker, host, pid, version, capacity) values ('host:1:a', 'host', 1, '0.1.0', 3)`)
	b.exec(`update imagetasks.control set user_max_waiting = 50, paused_at = now(), paused_by = 'root', paused_reason = 'upgrade'`)
	return v
}

// rows returns the rows of a table, without columns that a migration adds.
func (v version1) rows(table, without string) string {
	v.tb.Helper()
	var text string
	require.NoError(v.tb, v.raw.QueryRowContext(v.ctx, `select coalesce(jsonb_agg(row order by row), '[]')
		from (select to_jsonb(t) - string_to_array($1, ' ') as row from imagetasks.`+table+` t) rows`, without).Scan(&text))
	return text
}

const newColumns = "request_open request_call request_key request_endpoint unknown_outcomes lost_claims bridge_state bridge_refunds bridge_deleted endpoint permit_at admitted quiet"

func TestMigrate_UpgradesWorkingInstallation(t *testing.T) {
	v := newVersion1(t)
	want := map[string]string{
		"tasks":   v.rows("tasks", "attempt_count leased_by lease_expires_at completed_at"),
		"control": v.rows("control", ""),
	}
	unchanged := []string{"inputs", "credits", "ledger", "keys", "calls", "processors", "roles"}
	for _, table := range unchanged {
		want[table] = v.rows(table, "")
	}
	require.ErrorContains(t, v.CheckAccess(v.ctx), fmt.Sprintf("its version is 1, this program needs %d", store.Migrations))

	plan, err := v.Plan(v.ctx, store.Roles{})
	require.NoError(t, err)
	assert.Equal(t, 1, plan.Version)
	require.Len(t, plan.Migrations, store.Migrations-1)
	assert.Equal(t, "0002_requests", plan.Migrations[0].Name)
	assert.Zero(t, v.number(`select count(*) from pg_attribute where attname = 'request_open'`), "a plan changes nothing")
	done, err := v.Migrate(v.ctx, store.Roles{})
	require.NoError(t, err)
	assert.Equal(t, plan, done)
	assert.Equal(t, store.Roles{App: []string{"app_1"}, Worker: []string{"worker_1"}}, done.Roles)
	plan, err = v.Plan(v.ctx, store.Roles{})
	require.NoError(t, err)
	assert.Empty(t, plan.Steps)
	assert.Empty(t, plan.Drift, "as in a new installation")

	// What was there is there.
	assert.JSONEq(t, want["tasks"], v.rows("tasks", "attempt_count leased_by lease_expires_at completed_at "+newColumns))
	assert.JSONEq(t, want["control"], v.rows("control", "installation_id picture_secret database_identity accepted_at completion_events pauses"))
	for _, table := range unchanged {
		assert.JSONEq(t, want[table], v.rows(table, "external schema_version"), table)
	}
	for what, attempts := range map[string]int{"ready": 0, "later": 0, "retried": 1, "first attempt": 0, "last attempt": 2, "completed": 1, "closed by hand": 2, "failed": 3, "cancelled": 1} {
		assert.Equal(t, attempts, v.row(v.ids[what]).Attempts, "failures of the task's own: %s", what)
	}
	assert.Zero(t, v.number(`select count(*) from imagetasks.tasks where status in ('completed', 'failed', 'cancelled') and (lease_expires_at is not null or completed_at is null)`))
	assert.Equal(t, 2, v.number(`select count(*) from imagetasks.tasks where status = 'processing' and leased_by = 'host:1:a' and lease_expires_at is not null`))
	v.requireAudit()
	control, err := v.Control(v.ctx)
	require.NoError(t, err)
	assert.Equal(t, "root", control.PausedBy)
	assert.Equal(t, 50, control.UserMaxWaiting)
	assert.False(t, control.Copied)

	// The roles can do what they could, and what is new.
	assert.Empty(t, v.allowed("visitor_1"))
	worker := v.as("worker_1")
	require.NoError(t, worker.CheckAccess(v.ctx))
	app := v.rawAs("app_1")
	_, err = app.ExecContext(v.ctx, `select imagetasks.enqueue($1, 'ready', cost => 2, idempotency_key => 'ready')`, v.user)
	require.NoError(t, err, "a repeat of a call from before")
	_, err = app.ExecContext(v.ctx, `select imagetasks.grant_credits($1, 100, 'order', 'order-1')`, v.user)
	require.NoError(t, err)
	assert.JSONEq(t, want["ledger"], v.rows("ledger", "external"))
	require.NoError(t, worker.Resume(v.ctx))

	// A processor of version 1 completes what it has, and claims nothing more.
	held, err := v.raw.ExecContext(v.ctx, `update imagetasks.tasks set status = 'completed', image_url = 'p/3.png', leased_by = null, lease_expires_at = null,
		completed_at = now() where task_id = $1 and lease_epoch = 1 and status = 'processing'`, v.ids["first attempt"])
	require.NoError(t, err)
	n, err := held.RowsAffected()
	require.NoError(t, err)
	assert.EqualValues(t, 1, n)
	_, err = v.raw.ExecContext(v.ctx, `select * from imagetasks.claim(gen_random_uuid(), 'old', 1, 60000, 3)`)
	assert.ErrorContains(t, err, "does not exist")

	// The new program works what is there: 3 pending tasks, and one whose lease has expired.
	request := store.ClaimRequest{Worker: "w", Limit: 10, Lease: time.Minute, MaxAttempts: 3, MaxLostClaims: 5, Expired: 10, Alone: true}
	tasks, err := worker.Claim(v.ctx, request)
	require.NoError(t, err)
	attempts := map[string]int{}
	for _, c := range tasks {
		attempts[c.ID] = c.Attempt
		_, _, err := worker.BeginRequest(v.ctx, c.Lease(), uuid.New(), "https://api.example", 0)
		require.NoError(t, err)
		_, err = worker.Complete(v.ctx, store.Completion{Lease: c.Lease(), ImageURL: "p/" + c.ID + ".png"})
		require.NoError(t, err)
	}
	assert.Equal(t, map[string]int{v.ids["ready"]: 1, v.ids["with input"]: 1, v.ids["retried"]: 2, v.ids["last attempt"]: 3}, attempts)
	redriven, err := worker.Redrive(v.ctx, v.ids["failed"], 1)
	require.NoError(t, err)
	assert.Equal(t, 2, redriven.Run)
	details, err := worker.TaskDetails(v.ctx, v.ids["retried"])
	require.NoError(t, err)
	require.Len(t, details.Outcomes, 2)
	assert.Equal(t, 1.5, details.Outcomes[0].Seconds)
	assert.Equal(t, "completed", details.Outcomes[1].Outcome)
	states, err := worker.CountByState(v.ctx)
	require.NoError(t, err)
	assert.Equal(t, map[task.State]int{task.Pending: 2, task.Processing: 0, task.Completed: 7, task.Failed: 0, task.Cancelled: 1}, states)
	v.requireAudit()
}

// The order of the locks is that of an application that enqueues in a long transaction: the migration waits before it locks anything
// that such a transaction still needs.
func TestMigrate_WaitsWithoutHoldingOthersUp(t *testing.T) {
	v := newVersion1(t)
	tx, err := v.raw.BeginTx(v.ctx, nil)
	require.NoError(t, err)
	defer tx.Rollback()
	_, err = tx.ExecContext(v.ctx, `select imagetasks.lock_user($1)`, v.user)
	require.NoError(t, err)
	migrated := make(chan error, 1)
	go func() {
		_, err := v.Migrate(v.ctx, store.Roles{})
		migrated <- err
	}()
	require.Eventually(t, func() bool {
		return v.number(`select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`) == 1
	}, time.Minute, 10*time.Millisecond)
	_, err = tx.ExecContext(v.ctx, `set local lock_timeout = '1s'; select imagetasks.enqueue('`+v.user+`', 'x')`)
	assert.NoError(t, err)
	require.NoError(t, tx.Commit())
	require.NoError(t, <-migrated)
	v.requireAudit()
}

func TestMigrate_TimesOutOnALock(t *testing.T) {
	v := newVersion1(t)
	before := v.rows("tasks", "")
	tx, err := v.raw.BeginTx(v.ctx, nil)
	require.NoError(t, err)
	defer tx.Rollback()
	_, err = tx.ExecContext(v.ctx, `select count(*) from imagetasks.tasks`)
	require.NoError(t, err)
	began := time.Now()
	_, err = v.Migrate(v.ctx, store.Roles{})
	assert.ErrorContains(t, err, "nothing was changed; another transaction holds a lock on the table; run it again when that has ended")
	assert.Greater(t, time.Since(began), 4*time.Second)
	require.NoError(t, tx.Rollback())
	var rows []json.RawMessage
	require.NoError(t, json.Unmarshal([]byte(before), &rows))
	assert.Len(t, rows, 10)
	assert.JSONEq(t, before, v.rows("tasks", ""))
}

// A processor of version 2 is working when version 3 is installed: it claims nothing more, and what it has claimed is completed.
func TestMigrate_UpgradesVersion2AtWork(t *testing.T) {
	b := open(t, server.Empty(t))
	require.NoError(t, b.MigrateTo(b.ctx, 2, store.Roles{}))
	b.exec(`select imagetasks.grant_credits('u', 10, 'order', 'order-1'); select imagetasks.enqueue('u', 'x'), imagetasks.enqueue('u', 'y')`)
	var held task.Lease
	const oldClaim = `select task_id, lease_epoch from imagetasks.claim(gen_random_uuid(), 'old', 1, 60000, 3, 5, 1, 0, true, null)`
	require.NoError(t, b.raw.QueryRowContext(b.ctx, oldClaim).Scan(&held.TaskID, &held.Epoch))
	b.exec(`update imagetasks.tasks set requests_sent = requests_sent + 1, request_key = 'key', request_open = true, request_endpoint = 'e'
		where task_id = $1 and lease_epoch = $2`, held.TaskID, held.Epoch)

	_, err := b.Migrate(b.ctx, store.Roles{})
	require.NoError(t, err)
	_, err = b.raw.ExecContext(b.ctx, oldClaim)
	require.ErrorContains(t, err, "does not exist")
	b.exec(`update imagetasks.tasks set status = 'completed', image_url = 'p.png', leased_by = null, lease_expires_at = null, request_open = false
		where task_id = $1 and lease_epoch = $2`, held.TaskID, held.Epoch)
	assert.Len(t, b.claim(10), 1)
	b.requireAudit()
	plan, err := b.Plan(b.ctx, store.Roles{})
	require.NoError(t, err)
	assert.Empty(t, plan.Drift)
}
