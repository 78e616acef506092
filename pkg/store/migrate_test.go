package store_test

import (
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/store"
)

func TestMigrate_Concurrent(t *testing.T) {
	url := server.Empty(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	steps := 0
	for range 6 {
		b := open(t, url)
		wg.Go(func() {
			done, err := b.Migrate(b.ctx, store.Roles{})
			assert.NoError(t, err)
			mu.Lock()
			steps += len(done.Migrations)
			mu.Unlock()
		})
	}
	wg.Wait()
	assert.Equal(t, 2, steps, "each migration is applied once")
	assert.NoError(t, open(t, url).CheckAccess(t.Context()))
}

func TestPlan_ChangesNothing(t *testing.T) {
	b := open(t, server.Empty(t))
	assert.ErrorIs(t, b.CheckAccess(b.ctx), store.ErrSchema)
	plan, err := b.Plan(b.ctx, store.Roles{})
	require.NoError(t, err)
	assert.Zero(t, plan.Version)
	require.Len(t, plan.Migrations, 2)
	assert.Zero(t, b.number("select count(*) from pg_namespace where nspname = 'imagetasks'"))

	done, err := b.Migrate(b.ctx, store.Roles{})
	require.NoError(t, err)
	assert.Equal(t, plan, done, "migrate does what the plan shows")
	plan, err = b.Plan(b.ctx, store.Roles{})
	require.NoError(t, err)
	assert.Empty(t, plan.Migrations)
	assert.Empty(t, plan.Steps)
}

// What the plan prints is what an administrator may run by hand.
func TestPlan_StepsCanBeRunByHand(t *testing.T) {
	b := open(t, server.Empty(t))
	b.role("by_hand")
	plan, err := b.Plan(b.ctx, store.Roles{Worker: []string{"by_hand"}})
	require.NoError(t, err)
	for _, step := range plan.Steps {
		b.exec(step.SQL)
	}
	require.NoError(t, b.CheckAccess(b.ctx))
	assert.NoError(t, b.as("by_hand").CheckAccess(b.ctx))
	again, err := b.Migrate(b.ctx, store.Roles{})
	require.NoError(t, err)
	assert.Empty(t, again.Steps)
}

// Default privileges may grant on schemas too; with CREATE, a role could add objects to the schema.
func TestMigrate_RevokesDefaultsOnSchema(t *testing.T) {
	b := open(t, server.Empty(t))
	b.role("browser")
	b.role("server")
	b.exec(`alter default privileges grant all on schemas to browser, server, public`)
	done, err := b.Migrate(b.ctx, store.Roles{App: []string{"server"}})
	require.NoError(t, err)
	assert.Equal(t, []string{"browser", "server"}, done.Revoked)
	assert.Equal(t, 1, b.number(`select count(*) from pg_namespace n, unnest(array['browser', 'server']) r, unnest(array['usage', 'create']) p
		where nspname = 'imagetasks' and has_schema_privilege(r, n.oid, p)`), "usage for the server")
}

func TestMigrate_SaysWhereItWouldFail(t *testing.T) {
	b := open(t, server.Empty(t))
	b.role("nobody")
	b.role("reader")
	b.exec(`alter role reader set default_transaction_read_only = on`)
	for name, c := range map[string]struct {
		prepare, want string
		roles         store.Roles
		url           string
	}{
		"role missing":       {want: `create role "ghost" login`, roles: store.Roles{App: []string{"ghost"}}},
		"role of everybody":  {want: "every visitor of the application", roles: store.Roles{Worker: []string{"anon"}}},
		"schema of others":   {prepare: `create schema imagetasks; create table imagetasks.tasks (id int)`, want: "set DATABASE_SCHEMA to another name"},
		"no right to create": {want: "grant create on database", url: "nobody"},
		"read-only":          {want: "read-only", url: "reader"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.prepare != "" {
				b.exec(c.prepare)
			}
			s := b.Store
			if c.url != "" {
				s = b.as(c.url)
			}
			_, planned := s.Plan(b.ctx, c.roles)
			_, err := s.Migrate(b.ctx, c.roles)
			require.ErrorContains(t, err, c.want)
			assert.EqualError(t, planned, err.Error())
			b.exec(`drop schema if exists imagetasks cascade`)
		})
	}
}

// A plan compares the schema with what the migrations make of a new one.
func TestPlan_Drift(t *testing.T) {
	b := fresh(t)
	drift := func() []string {
		t.Helper()
		plan, err := b.Plan(b.ctx, store.Roles{})
		require.NoError(t, err)
		return plan.Drift
	}
	assert.Empty(t, drift())
	b.exec(`create index of_mine on imagetasks.tasks (model)`)
	assert.Empty(t, drift(), "objects that an operator added are not compared")
	b.exec(`drop index imagetasks.tasks_ready;
		alter table imagetasks.ledger disable trigger append_only;
		alter table imagetasks.credits drop constraint credits_credits_check;
		alter table imagetasks.keys disable row level security;
		alter table imagetasks.tasks alter column priority set default 3;
		create or replace function imagetasks.balance(user_id text) returns bigint language sql as 'select 7::bigint'`)
	assert.Equal(t, []string{"column tasks.priority was changed", "constraint credits.credits_credits_check is missing", "function balance(user_id text) was changed",
		"index tasks_ready is missing", "row-level security of table keys was changed", "trigger ledger.append_only was changed"}, drift())
	assert.Zero(t, b.number(`select count(*) from pg_namespace where nspname like '%reference'`))
}

// The owner may have the schema's name: then its objects are in the search path.
func TestPlan_NoDriftForOwnerNamedLikeTheSchema(t *testing.T) {
	b := open(t, server.Empty(t))
	b.role("imagetasks")
	b.exec(`grant create on database ` + strings.TrimPrefix(b.name(), "/") + ` to imagetasks`)
	s := b.as("imagetasks")
	_, err := s.Migrate(b.ctx, store.Roles{})
	require.NoError(t, err)
	plan, err := s.Plan(b.ctx, store.Roles{})
	require.NoError(t, err)
	assert.Empty(t, plan.Drift)
}

// A schema that is newer and compatible is accepted, so that hosts can be upgraded one by one.
func TestCheckAccess_NewerSchema(t *testing.T) {
	b := fresh(t)
	b.exec(`insert into imagetasks.schema_versions (version, name, compatible_with) values (3, 'later', 1)`)
	require.NoError(t, b.CheckAccess(b.ctx))
	done, err := b.Migrate(b.ctx, store.Roles{})
	require.NoError(t, err)
	assert.Empty(t, done.Migrations)
	_, err = b.Migrate(b.ctx, store.Roles{App: []string{"postgres"}})
	assert.ErrorContains(t, err, "grant roles with the programs of that version")
	b.exec(`update imagetasks.schema_versions set compatible_with = 3 where version = 3`)
	_, migrated := b.Migrate(b.ctx, store.Roles{})
	for _, err := range []error{b.CheckAccess(b.ctx), migrated} {
		assert.ErrorIs(t, err, store.ErrSchema)
		assert.ErrorContains(t, err, "install a newer imagetasks")
	}
	b.exec(`delete from imagetasks.schema_versions`)
	assert.ErrorContains(t, b.CheckAccess(b.ctx), "task-processor migrate")
}

func TestSchema_RejectsInvalidRows(t *testing.T) {
	b := fresh(t)
	user := b.user(3)
	id := b.enqueue(user, 1, 1)[0]
	for rule, statement := range map[string]string{
		"a balance below zero":       `update imagetasks.credits set credits = -1`,
		"a second charge":            `insert into imagetasks.ledger (user_id, task_id, run, kind, amount, balance_after) select user_id, task_id, run, kind, amount, 0 from imagetasks.ledger where kind = 'charge'`,
		"a positive charge":          `insert into imagetasks.ledger (user_id, task_id, run, kind, amount, balance_after) select user_id, 'x', 1, 'charge', 1, 0 from imagetasks.credits`,
		"a grant for a task":         `insert into imagetasks.ledger (user_id, task_id, run, kind, amount, balance_after) select user_id, 'x', 1, 'grant', 1, 0 from imagetasks.credits`,
		"an update of the ledger":    `update imagetasks.ledger set amount = amount`,
		"a deletion from the ledger": `delete from imagetasks.ledger`,
		"a truncation of the ledger": `truncate imagetasks.ledger`,
		"an unknown state":           `update imagetasks.tasks set status = 'lost'`,
		"progress beyond 100":        `update imagetasks.tasks set progress_percentage = 101`,
		"an infinite time":           `update imagetasks.tasks set run_after = 'infinity'`,
		"a huge epoch":               `update imagetasks.tasks set lease_epoch = 9223372036854775807`,
		"a control character":        `update imagetasks.tasks set user_id = E'a\nb'`,
		"neither prompt nor input":   `update imagetasks.tasks set prompt = ''`,
		"a task without an id":       `insert into imagetasks.tasks (task_id, user_id, prompt) select '', user_id, 'x' from imagetasks.credits`,
	} {
		_, err := b.raw.ExecContext(b.ctx, statement)
		assert.Error(t, err, rule)
	}
	b.cancel(id)
	b.requireAudit()
}
