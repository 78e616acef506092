package store_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/postgres"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// role creates a role that may log in, and drops it when the test ends.
func (b *testStore) role(name string) {
	b.tb.Helper()
	quoted := pq.QuoteIdentifier(name)
	b.exec("create role " + quoted + " login")
	b.tb.Cleanup(func() {
		_, err := b.raw.Exec("drop owned by " + quoted + "; drop role " + quoted)
		require.NoError(b.tb, err)
	})
}

func (b *testStore) urlAs(role string) string {
	b.tb.Helper()
	u, err := url.Parse(b.url)
	require.NoError(b.tb, err)
	u.User = url.User(role)
	return u.String()
}

// name returns the database's name.
func (b *testStore) name() string {
	b.tb.Helper()
	u, err := url.Parse(b.url)
	require.NoError(b.tb, err)
	return u.Path
}

// as returns a Store that connects as another role.
func (b *testStore) as(role string) *store.Store {
	b.tb.Helper()
	s, err := store.Open(store.Config{URL: b.urlAs(role), MaxConns: 4})
	require.NoError(b.tb, err)
	b.tb.Cleanup(func() { _ = s.Close() })
	return s
}

// rawAs returns connections of another role, for statements of its own.
func (b *testStore) rawAs(role string) *sql.DB {
	b.tb.Helper()
	db, err := sql.Open("postgres", b.urlAs(role))
	require.NoError(b.tb, err)
	b.tb.Cleanup(func() { _ = db.Close() })
	return db
}

// objects returns statements that use every table, view, sequence and function of the schema in every way that a privilege allows,
// each with its object.
func (b *testStore) objects() map[string][]string {
	b.tb.Helper()
	rows, err := b.raw.QueryContext(b.ctx, `
		select c.relkind::text, c.relname, (select attname::text from pg_attribute where attrelid = c.oid and attnum = 2)
		from pg_class c where c.relnamespace = 'imagetasks'::regnamespace and c.relkind in ('r', 'v', 'S')
		union all
		select 'f', p.proname, (select string_agg('null::' || format_type(t, null), ', ' order by n) from unnest(p.proargtypes::oid[]) with ordinality a (t, n))
		from pg_proc p where p.pronamespace = 'imagetasks'::regnamespace and p.prorettype <> 'trigger'::regtype`)
	require.NoError(b.tb, err)
	defer rows.Close()
	out := map[string][]string{}
	for rows.Next() {
		var kind, name string
		var detail sql.NullString
		require.NoError(b.tb, rows.Scan(&kind, &name, &detail))
		object := "imagetasks." + name
		switch kind {
		case "S":
			out[name] = []string{"select nextval('" + object + "')", "select last_value from " + object}
		case "f":
			out[name+"()"] = []string{"select * from " + object + "(" + detail.String + ")"}
		case "v":
			out[name] = []string{"select * from " + object + " limit 1"}
		default:
			out[name] = []string{"select * from " + object + " limit 1", "delete from " + object + " where false",
				"insert into " + object + " default values", fmt.Sprintf("update %s set %s = %[2]s where false", object, detail.String)}
		}
	}
	require.NoError(b.tb, rows.Err())
	require.Greater(b.tb, len(out), 30)
	return out
}

// allowed returns which objects a role may use in any way. Everything is rolled back.
func (b *testStore) allowed(role string) []string {
	b.tb.Helper()
	db := b.rawAs(role)
	var out []string
	for name, statements := range b.objects() {
		for _, statement := range statements {
			tx, err := db.BeginTx(b.ctx, nil)
			require.NoError(b.tb, err)
			_, err = tx.ExecContext(b.ctx, statement)
			require.NoError(b.tb, tx.Rollback())
			if pq.As(err, pqerror.InsufficientPrivilege) == nil {
				out = append(out, name)
				break
			}
		}
	}
	return out
}

// Databases with Supabase's older grants give everything new to anon and authenticated.
func TestMigrate_DefaultPrivilegesAreRevoked(t *testing.T) {
	b := open(t, server.Empty(t))
	for _, role := range []string{"anon", "authenticated", "service_role"} {
		b.role(role)
		for _, kind := range []string{"tables", "functions", "sequences", "schemas"} {
			b.exec(fmt.Sprintf("alter default privileges grant all on %s to %s", kind, role))
		}
	}
	done, err := b.Migrate(b.ctx, store.Roles{App: []string{"service_role"}})
	require.NoError(t, err)
	assert.True(t, done.Supabase)
	assert.Equal(t, []string{"anon", "authenticated", "service_role"}, done.Revoked)
	for _, role := range []string{"anon", "authenticated"} {
		assert.Empty(t, b.allowed(role), role)
	}
	assert.ElementsMatch(t, appInterface, b.allowed("service_role"))
	assert.NoError(t, b.CheckAccess(b.ctx))
}

var appInterface = []string{"task_status", "enqueue()", "enqueue_many()", "cancel()", "redrive()", "grant_credits()", "balance()"}

func TestMigrate_AppRoleHasTheInterfaceOnly(t *testing.T) {
	b := open(t, server.Empty(t))
	b.role(`the "app"`)
	b.role("stranger")
	_, err := b.Migrate(b.ctx, store.Roles{App: []string{`the "app"`}})
	require.NoError(t, err)
	assert.ElementsMatch(t, appInterface, b.allowed(`the "app"`))
	assert.Empty(t, b.allowed("stranger"))

	app := b.rawAs(`the "app"`)
	call := func(statement string, dest ...any) {
		t.Helper()
		require.NoError(t, app.QueryRowContext(b.ctx, statement).Scan(dest...), statement)
	}
	var balance int
	var id, second, status string
	call(`select imagetasks.grant_credits('u', 5, 'order 1', 'order-1')`, &balance)
	assert.Equal(t, 5, balance)
	call(`select * from imagetasks.enqueue('u', 'a cat', cost => 2)`, &id, &balance)
	call(`select task_ids[1], balance from imagetasks.enqueue_many('u', '[{"prompt": "a dog"}]')`, &second, &balance)
	assert.Equal(t, 2, balance)
	call(`select status from imagetasks.task_status where task_id = '`+id+`'`, &status)
	assert.Equal(t, "pending", status)
	call(`select status, balance from imagetasks.cancel('`+id+`', 'u')`, &status, &balance)
	assert.Equal(t, 4, balance)
	b.exec(`update imagetasks.tasks set status = 'failed', credits_cost = 0, credits_deducted = 0 where task_id = $1`, second)
	call(`select new_run, balance from imagetasks.redrive('`+second+`')`, &balance, &balance)
	call(`select imagetasks.balance('u')`, &balance)
	assert.Equal(t, 4, balance)
}

// everything does everything that the four programs do with the database, and returns the first error.
func everything(ctx context.Context, s *store.Store, user string) error {
	if err := s.CheckAccess(ctx); err != nil {
		return err
	}
	return everythingUnchecked(ctx, s, user)
}

func everythingUnchecked(ctx context.Context, s *store.Store, user string) error {
	var all []error
	must := func(err error) { all = append(all, err) }
	must(s.RecordHeartbeat(ctx, store.Processor{Worker: user, Host: "h", PID: 1, Capacity: 1, TaskDuration: time.Second}))
	must(s.RecordHeartbeat(ctx, store.Processor{Worker: user, Host: "h", PID: 1}))
	_, err := s.GrantCredits(ctx, user, 100, "", user)
	must(err)
	err = s.SetLimits(ctx, 2, 100)
	must(err)
	// Its time comes while the others are enqueued.
	_, err = s.Enqueue(ctx, store.EnqueueRequest{UserID: user, Prompt: "x", Cost: 1, RunAt: time.Now().Add(time.Millisecond)})
	must(err)
	for priority := range 10 {
		_, err = s.Enqueue(ctx, store.EnqueueRequest{UserID: user, Prompt: "x", Cost: 1, Priority: priority, Key: fmt.Sprint(priority),
			Inputs: []task.Input{{Content: []byte("x")}}})
		must(err)
	}
	_, err = s.Enqueue(ctx, store.EnqueueRequest{UserID: user, Prompt: "x", Cost: 1, RunAt: time.Now().Add(time.Hour)})
	must(err)
	err = s.Admit(ctx, user)
	must(err)
	must(s.Admit(ctx, user+" without credits"))
	err = s.SetLimits(ctx, 0, 0)
	must(err)
	err = s.AdmitAll(ctx)
	must(err)
	claim := func(n int) []task.Task {
		tasks, err := s.Claim(ctx, store.ClaimRequest{Worker: user, Limit: n, Lease: time.Hour, MaxAttempts: 3, Expired: 1000, Alone: true,
			Endpoints: []store.ClaimEndpoint{{Name: "e", Preference: 1, Skip: []string{"bad"}}, {Name: "limited", Preference: 2, Rate: 60, Concurrent: 1}}})
		must(err)
		return tasks
	}
	// Tasks whose model is out of order wait for it, and come back.
	for _, skipped := range [][]string{{""}, nil} {
		held, err := s.Claim(ctx, store.ClaimRequest{Worker: user, Limit: 1, Lease: time.Hour, MaxAttempts: 3, SkipModels: skipped})
		must(err)
		if len(held) > 0 {
			must(s.SavePending(ctx, held[0].Lease(), task.PendingResult{Ref: "https://pictures.example/a.png"}))
			must(s.SavePending(ctx, held[0].Lease(), task.PendingResult{Ref: "https://pictures.example/a.png"}))
			_, err = s.Release(ctx, store.ReleaseRequest{Lease: held[0].Lease(), Cause: &task.Error{Code: task.CodeDownload, Gone: true}})
			must(err)
		}
	}
	must(s.SetCompletionEvents(ctx, store.ReceiverWebhook, store.ReceiverNotify))
	for range 2 {
		must(s.RecordModel(ctx, store.Model{Endpoint: "e", Name: user}))
	}
	_, err = s.WorkedModels(ctx)
	must(err)
	tasks := append(claim(2), claim(1000)...)
	// Calls for other users left tasks when a privilege was missing.
	tasks = slices.DeleteFunc(tasks, func(t task.Task) bool { return t.UserID != user })
	if len(tasks) < 10 {
		return errors.Join(append(all, fmt.Errorf("claimed %d", len(tasks)))...)
	}
	_, err = s.Inputs(ctx, tasks[0].Lease())
	must(err)
	_, _, err = s.BeginRequest(ctx, tasks[0].Lease(), uuid.New(), "limited", 6000)
	must(err)
	for range 2 {
		must(s.PutAside(ctx, tasks[9].ID))
	}
	_, err = s.FailSetAside(ctx, time.Hour, 10, uuid.Nil)
	must(err)
	_, _, err = s.RenewLeases(ctx, time.Hour, []store.LeaseRenewal{{Lease: tasks[0].Lease()}})
	must(err)
	_, err = s.Complete(ctx, store.Completion{Lease: tasks[0].Lease()})
	must(err)
	must(s.Retry(ctx, tasks[1].Lease(), 0, errServer))
	_, err = s.Release(ctx, store.ReleaseRequest{Lease: tasks[2].Lease()})
	must(err)
	_, err = s.Fail(ctx, tasks[3].Lease(), errServer, true)
	must(err)
	_, err = s.Redrive(ctx, tasks[3].ID, 1)
	must(err)
	_, err = s.Cancel(ctx, tasks[4].ID, user)
	must(err)
	_, err = s.Fail(ctx, tasks[5].Lease(), errServer, true)
	must(err)
	must(s.SaveProgress(ctx, []store.LeaseRenewal{{Lease: tasks[9].Lease(), Progress: 1, Stage: "x"}}))
	_, err = s.PermitWait(ctx, []string{"e"})
	must(err)
	_, err = s.HasPendingFor(ctx, []store.ClaimEndpoint{{Name: "e"}})
	must(err)
	time.Sleep(2 * time.Millisecond) // the statements below select what is older than a millisecond
	_, err = s.Sweep(ctx, store.Sweep{OlderThan: time.Millisecond, Limit: 1})
	must(err)
	_, err = s.Sweep(ctx, store.Sweep{OlderThan: time.Millisecond, Limit: 1, Requeue: true})
	must(err)
	_, err = s.FailAbandoned(ctx, 1, 0, 1, uuid.Nil)
	must(err)
	_, err = s.FailOverdue(ctx, time.Millisecond, 1, uuid.Nil)
	must(err)
	_, err = s.RepairRefunds(ctx, 10, uuid.Nil)
	must(err)
	_, err = s.Prune(ctx, store.PruneConfig{Retention: time.Millisecond, RedriveWindow: time.Millisecond, Batch: 1, CallID: uuid.New()})
	must(err)
	_, err = s.Pause(ctx, "operator", "")
	must(err)
	must(s.Resume(ctx))
	_, err = s.PauseScope(ctx, store.By("operator"), store.ScopeModel, "m", "")
	must(err)
	claim(1)
	_, err = s.ResumeScope(ctx, store.By("operator"), "", "")
	must(err)
	_, err = s.Operations(ctx, 10)
	must(err)
	_, err = s.Control(ctx)
	must(err)
	_, err = s.ListTasks(ctx, store.TaskFilter{Limit: 10})
	must(err)
	_, err = s.TaskDetails(ctx, tasks[9].ID)
	must(err)
	_, err = s.Balance(ctx, user)
	must(err)
	_, err = s.Ledger(ctx, user, 10)
	must(err)
	_, err = s.QueueStats(ctx, time.Minute)
	must(err)
	_, err = s.Processors(ctx)
	must(err)
	_, _, err = s.DeleteUserContent(ctx, user)
	must(err)
	rules, err := s.Audit(ctx)
	must(err)
	if n := store.CountViolations(rules); n > 0 {
		must(fmt.Errorf("the audit found %d errors", n))
	}
	_, err = s.SyncBridge(ctx, 10)
	must(err)
	_, err = s.BridgeDue(ctx, 10)
	must(err)
	_, err = s.ApplyToBridge(ctx, user)
	must(err)
	_, err = s.WriteBridgeProgress(ctx, store.BridgeProgress{TaskID: user})
	must(err)
	_, err = s.ReconcileBridge(ctx)
	must(err)
	_, err = s.Bridge(ctx)
	must(err)
	_, err = s.BridgeProblems(ctx, 10)
	must(err)
	_, err = s.CheckBridge(ctx)
	must(err)
	must(s.AcknowledgeLostUpdates(ctx, 1))
	_, err = s.OweRefunds(ctx, 10)
	must(err)
	must(deliverEverything(ctx, s))
	must(useAlerts(ctx, s, user))
	must(s.RecordFiguresBetween(ctx, time.Now().Truncate(time.Minute).Add(-time.Minute), time.Now().Truncate(time.Minute)))
	_, err = s.Figures(ctx, time.Hour, time.Minute)
	must(err)
	must(s.Deregister(ctx, user))
	return errors.Join(all...)
}

// The worker role may do everything that the programs do, and needs each privilege that it has: without any one of them, the check at
// the start names it, and something would not work.
func TestMigrate_WorkerRoleNeedsEachGrant(t *testing.T) {
	b := open(t, server.Empty(t))
	b.role("worker")
	_, err := b.Migrate(b.ctx, store.Roles{Worker: []string{"worker"}})
	require.NoError(t, err)
	s := b.as("worker")
	require.NoError(t, everything(b.ctx, s, "first user"))

	grants := store.WorkerGrants("imagetasks", "worker")
	require.Greater(t, len(grants), 40)
	for i, grant := range grants {
		b.exec(strings.Replace(strings.Replace(grant, "grant ", "revoke ", 1), " to ", " from ", 1))
		err := s.CheckAccess(b.ctx)
		_, ok := errors.AsType[*store.AccessError](err)
		assert.True(t, ok, "%s: %v", grant, err)
		assert.ErrorContains(t, err, grant, "the error names the statement that fixes it")
		if strings.Contains(grant, "schema_versions") {
			b.exec(grant)
			continue // it is needed by the check itself
		}
		assert.Error(t, everythingUnchecked(b.ctx, s, fmt.Sprintf("user %d", i)), "not needed: %s", grant)
		b.exec(grant)
	}
	require.NoError(t, everything(b.ctx, s, "last user"))
}

// Row-level security that hides rows must not look like an empty queue.
func TestCheckAccess_HiddenRows(t *testing.T) {
	b := open(t, server.Empty(t))
	b.role("worker")
	_, err := b.Migrate(b.ctx, store.Roles{Worker: []string{"worker"}})
	require.NoError(t, err)
	s := b.as("worker")
	require.NoError(t, s.CheckAccess(b.ctx))
	policies := []string{"schema_versions", "tasks", "inputs", "credits", "ledger", "keys", "calls", "processors", "control"}
	for _, table := range policies {
		b.exec(`drop policy "imagetasks worker worker" on imagetasks.` + table)
		err := s.CheckAccess(b.ctx)
		require.ErrorContains(t, err, "row-level security", table)
		_, fix, found := strings.Cut(err.Error(), "(or only: ")
		require.True(t, found, err.Error())
		b.exec(strings.TrimSuffix(fix, ")"))
		require.NoError(t, s.CheckAccess(b.ctx), table)
	}
	b.exec(`create policy mine on imagetasks.tasks as restrictive to worker using (user_id = 'me')`)
	assert.ErrorContains(t, s.CheckAccess(b.ctx), "row-level security")
	b.exec(`drop policy mine on imagetasks.tasks; alter policy "imagetasks worker worker" on imagetasks.tasks using (user_id = 'me')`)
	assert.ErrorContains(t, s.CheckAccess(b.ctx), "row-level security")
}

func TestCheckAccess_EachProblemHasItsMessage(t *testing.T) {
	b := fresh(t)
	b.role("somebody")
	s := b.as("somebody")
	assert.ErrorContains(t, s.CheckAccess(b.ctx), `grant usage on schema "imagetasks" to "somebody"`)
	b.exec(`alter role somebody set default_transaction_read_only = on`)
	assert.ErrorContains(t, b.as("somebody").CheckAccess(b.ctx), `alter role "somebody" reset default_transaction_read_only`)
	b.exec(`drop function imagetasks.cancel`)
	err := b.CheckAccess(b.ctx)
	assert.ErrorIs(t, err, store.ErrSchema)
	assert.ErrorContains(t, err, "cancel(text, text) is missing")
	empty := open(t, server.Empty(t))
	assert.ErrorContains(t, empty.CheckAccess(b.ctx), "task-processor migrate")
}

// The fix that the error names must not give the application every table.
func TestCheckAccess_AppRole(t *testing.T) {
	b := fresh(t)
	b.role("app_only")
	_, err := b.Migrate(b.ctx, store.Roles{App: []string{"app_only"}})
	require.NoError(t, err)
	err = b.as("app_only").CheckAccess(b.ctx)
	require.ErrorContains(t, err, "the role app_only may call the functions for applications")
	assert.NotContains(t, err.Error(), "--worker-role app_only")
	_, err = b.as("app_only").Migrate(b.ctx, store.Roles{})
	assert.ErrorContains(t, err, `does not own the schema "imagetasks"; run it with a DATABASE_URL of the role postgres`)
}

// A server that stays in recovery is a standby.
func TestCheckAccess_Standby(t *testing.T) {
	ctx := t.Context()
	cluster, err := postgres.Start(ctx, postgres.Config{})
	require.NoError(t, err)
	defer func() { assert.NoError(t, cluster.Stop()) }()
	require.NoError(t, migrate(ctx, cluster.URL("postgres")))
	require.NoError(t, cluster.Halt())
	require.NoError(t, os.WriteFile(filepath.Join(cluster.SocketDir(), "data", "standby.signal"), nil, 0o644))
	require.NoError(t, cluster.Launch(ctx))
	s, err := store.Open(store.Config{URL: cluster.URL("postgres")})
	require.NoError(t, err)
	defer s.Close()
	for _, call := range []func() error{
		func() error { return s.CheckAccess(ctx) },
		func() error { _, err := s.Migrate(ctx, store.Roles{}); return err },
		func() error { _, err := s.Plan(ctx, store.Roles{}); return err },
	} {
		assert.EqualError(t, call(), "the database is a read-only standby; set DATABASE_URL to the primary server")
	}
}
