package clients

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/lib/pq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// calls are calls of the whole interface that succeed for a user with credits and, where there is a task id, with such a task.
func calls(taskID string) map[string]map[string]any {
	return map[string]map[string]any{
		"grant_credits": {"user_id": user, "credits": 1, "idempotency_key": "order-2"},
		"enqueue":       {"user_id": user, "prompt": "a lantern"},
		"enqueue_many":  {"user_id": user, "tasks": []any{map[string]any{"prompt": "a lantern"}}},
		"balance":       {"user_id": user},
		"cancel":        {"task_id": taskID},
		"redrive":       {"task_id": taskID},
	}
}

// grantEverything are default privileges as generous as they get, for objects that the owner creates later. Supabase's are such for
// the schema public.
const grantEverything = `
	alter default privileges for role owner grant all on schemas to anon, authenticated, service_role, my_app;
	alter default privileges for role owner grant all on tables to anon, authenticated, service_role, my_app;
	alter default privileges for role owner grant all on sequences to anon, authenticated, service_role, my_app;
	alter default privileges for role owner grant all on functions to anon, authenticated, service_role, my_app;`

// grantInSchema creates the schema before migrate, as the guide to custom schemas of Supabase describes it.
const grantInSchema = `
	create schema imagetasks authorization owner;
	grant usage on schema imagetasks to anon, authenticated, service_role;
	alter default privileges for role owner in schema imagetasks grant all on tables to anon, authenticated, service_role;
	alter default privileges for role owner in schema imagetasks grant all on sequences to anon, authenticated, service_role;
	alter default privileges for role owner in schema imagetasks grant all on functions to anon, authenticated, service_role;`

// databases returns databases with the schema, migrated under several default privileges, with a failed task.
func databases(t *testing.T, test func(t *testing.T, d *database, taskID string)) {
	t.Helper()
	for name, before := range map[string]string{"plain": "", "default privileges": grantEverything, "default privileges in the schema": grantInSchema} {
		t.Run(name, func(t *testing.T) {
			d := &database{t: t, url: server.Empty(t)}
			d.raw = connect(t, d.url)
			d.exec("grant create on database " + pq.QuoteIdentifier(d.text("select current_database()")) + " to owner;" + before)
			require.NoError(t, migrate(t.Context(), d.url))
			d.exec(`select imagetasks.grant_credits($1, 100, '', 'order-1')`, user)
			d.exec(`select imagetasks.enqueue($1, 'a lantern')`, user)
			taskID := d.text(`select task_id from imagetasks.tasks`)
			d.exec(`update imagetasks.tasks set status = 'failed', completed_at = now(), credits_refunded = 1`)
			d.exec(`insert into imagetasks.ledger (user_id, task_id, run, kind, amount, balance_after) values ($1, $2, 1, 'refund', 1, 100)`, user, taskID)
			d.exec(`update imagetasks.credits set credits = 100`)
			test(t, d, taskID)
		})
	}
}

// list returns the only column of a query.
func (d *database) list(statement string, args ...any) []string {
	d.t.Helper()
	var out []string
	require.NoError(d.t, d.raw.QueryRowContext(d.t.Context(), "select array(select * from ("+statement+") l order by 1)", args...).Scan(pq.Array(&out)))
	return out
}

// Browsers, signed in or not, can neither call a function nor read a table or view, through supabase-js.
func TestSupabaseJS_BrowsersAreRefused(t *testing.T) {
	databases(t, func(t *testing.T, d *database, taskID string) {
		api, address := startDataAPI(t, d.url, "public", "imagetasks")
		c := startNode(t, testdata(t, "arguments-supabase.mjs"), "NEXT_PUBLIC_SUPABASE_URL="+address,
			"SUPABASE_SERVICE_ROLE_KEY="+api.key("service_role"))
		before := d.text(`select count(*) || ' ' || (select count(*) from imagetasks.ledger) from imagetasks.tasks`)
		relations := d.list(`select relname from pg_class where relnamespace = 'imagetasks'::regnamespace and relkind in ('r', 'v')`)
		require.Contains(t, relations, "task_status")
		require.Contains(t, relations, "ledger")
		for role, status := range map[string]int{"anon": 401, "authenticated": 403} {
			for name, args := range calls(taskID) {
				reply := c.row("rpc", name, args, api.key(role))
				assert.Equal(t, "42501", reply["code"], "%s as %s: %v", name, role, reply)
				assert.EqualValues(t, status, reply["status"], role)
			}
			for _, name := range relations {
				assert.Equal(t, "42501", c.row("read", name, api.key(role))["code"], "%s as %s", name, role)
			}
		}
		assert.Equal(t, before, d.text(`select count(*) || ' ' || (select count(*) from imagetasks.ledger) from imagetasks.tasks`))

		for _, name := range relations {
			reply := c.row("read", name, api.key("service_role"))
			if name == "task_status" {
				assert.EqualValues(t, 200, reply["status"])
				assert.Len(t, reply["data"], 1)
			} else {
				assert.Equal(t, "42501", reply["code"], name)
				assert.EqualValues(t, 403, reply["status"])
			}
		}
		for _, name := range slices.Backward(slices.Sorted(maps.Keys(calls(taskID)))) { // redrive before cancel
			reply := c.row("rpc", name, calls(taskID)[name], api.key("service_role"))
			assert.EqualValues(t, 200, reply["status"], "%s: %v", name, reply)
		}
	})
}

// PostgREST's own errors, which a schema that is not exposed and a wrong key cause.
func TestSupabaseJS_SchemaNotExposed(t *testing.T) {
	d := newDatabase(t)
	api, address := startDataAPI(t, d.url, "public")
	c := startNode(t, testdata(t, "arguments-supabase.mjs"), "NEXT_PUBLIC_SUPABASE_URL="+address,
		"SUPABASE_SERVICE_ROLE_KEY="+api.key("service_role"))
	for _, reply := range []map[string]any{c.row("rpc", "balance", map[string]any{"user_id": user}), c.row("read", "task_status")} {
		assert.Equal(t, "PGRST106", reply["code"])
		assert.EqualValues(t, 406, reply["status"])
		assert.Equal(t, "Invalid schema: imagetasks", reply["message"])
	}
}

func TestSupabaseJS_ErrorCodes(t *testing.T) {
	d := newDatabase(t)
	api, address := startDataAPI(t, d.url, "public", "imagetasks")
	c := startNode(t, testdata(t, "arguments-supabase.mjs"), "NEXT_PUBLIC_SUPABASE_URL="+address,
		"SUPABASE_SERVICE_ROLE_KEY="+api.key("service_role"))
	d.exec(`select imagetasks.grant_credits($1, 1, '', 'order-1')`, user)
	for code, call := range map[string]struct {
		status int
		name   string
		args   map[string]any
	}{
		"PGRST202": {404, "balance", map[string]any{"user": user}},
		"IT001":    {400, "enqueue", map[string]any{"user_id": user, "prompt": "x", "cost": 2}},
		"IT002":    {400, "enqueue", map[string]any{"user_id": user, "prompt": "x", "options": []any{}}},
		"IT003":    {400, "grant_credits", map[string]any{"user_id": user, "credits": 2, "idempotency_key": "order-1"}},
		"IT004":    {400, "cancel", map[string]any{"task_id": "none"}},
		"22P02":    {400, "enqueue", map[string]any{"user_id": user, "prompt": "x", "cost": "two"}},
	} {
		reply := c.row("rpc", call.name, call.args)
		assert.Equal(t, code, reply["code"], "%v", reply)
		assert.EqualValues(t, call.status, reply["status"], code)
	}
	assert.Equal(t, "PGRST301", c.row("rpc", "balance", map[string]any{"user_id": user}, api.key("service_role")+"x")["code"])
}

// The role of an application may call the interface and read the view, and nothing else.
func TestAppRole_HasTheInterfaceOnly(t *testing.T) {
	databases(t, func(t *testing.T, d *database, taskID string) {
		const functions = `select p.proname from pg_proc p where p.pronamespace = 'imagetasks'::regnamespace and has_function_privilege($1, p.oid, 'execute')`
		const relations = `select c.relname || ' ' || p from pg_class c, unnest(array['select', 'insert', 'update', 'delete', 'truncate', 'references', 'trigger']) p
			where c.relnamespace = 'imagetasks'::regnamespace and c.relkind in ('r', 'v') and has_table_privilege($1, c.oid, p)`
		const sequences = `select c.relname || ' ' || p from pg_class c, unnest(array['usage', 'select', 'update']) p
			where c.relnamespace = 'imagetasks'::regnamespace and c.relkind = 'S' and has_sequence_privilege($1, c.oid, p)`
		for _, role := range []string{"my_app", "service_role"} {
			assert.Equal(t, slices.Sorted(maps.Keys(calls(""))), d.list(functions, role), role)
			assert.Equal(t, []string{"task_status select"}, d.list(relations, role), role)
			assert.Empty(t, d.list(sequences, role), role)
		}
		for _, role := range []string{"anon", "authenticated"} {
			assert.Empty(t, d.list(functions, role), role)
			assert.Empty(t, d.list(relations, role), role)
			assert.Empty(t, d.list(sequences, role), role)
		}

		app := connect(t, as(t, d.url, "my_app"))
		for _, statement := range []string{
			"select * from imagetasks.tasks", "select * from imagetasks.credits", "select count(*) from imagetasks.ledger",
			"insert into imagetasks.tasks (task_id, user_id, prompt) values ('t', 'u', 'p')",
			"insert into imagetasks.credits (user_id, credits) values ('u', 1)",
			"insert into imagetasks.ledger (user_id, kind, amount, balance_after) values ('u', 'grant', 1, 1)",
			"update imagetasks.credits set credits = credits + 1", "delete from imagetasks.keys", "truncate imagetasks.calls",
			"select imagetasks.charge('u', 1)", "select imagetasks.insert_tasks('u', '[]')", "select imagetasks.promote(1, null)",
			"select * from imagetasks.claim(gen_random_uuid(), 'w', 1, 1000, 3, 5, 1, 0, true, null, '{}', null, false, null, false)", "select nextval('imagetasks.virtual_time_0')",
			"create table imagetasks.mine ()",
		} {
			_, err := app.ExecContext(t.Context(), statement)
			requireSQLState(t, "42501", err, statement)
		}
		require.NoError(t, app.QueryRowContext(t.Context(), `select from imagetasks.redrive($1)`, taskID).Scan())
		require.NoError(t, app.QueryRowContext(t.Context(), `select from imagetasks.task_status where status = 'pending'`).Scan())
	})
}

// A schema on the search_path of a session, with objects of the same names, does not change what the functions do.
func TestAppRole_SearchPath(t *testing.T) {
	d := newDatabase(t)
	d.exec(`create schema mine authorization my_app`)
	db := connect(t, as(t, d.url, "my_app"))
	db.SetMaxOpenConns(1)
	for _, statement := range []string{
		`create table mine.tasks ()`, `create table mine.credits (user_id text, credits bigint)`,
		`create function mine.check_id(name text, value text) returns void language plpgsql as $$ begin raise 'mine'; end $$`,
		`create function mine.now() returns timestamptz language plpgsql as $$ begin raise 'mine'; end $$`,
		`create temp table tasks ()`, `create temp table control ()`, `set search_path = mine, pg_temp, imagetasks, pg_catalog`,
		fmt.Sprintf(`select imagetasks.grant_credits('%s', 5, '', 'order-1')`, user),
		fmt.Sprintf(`select imagetasks.enqueue('%s', 'a lantern')`, user),
	} {
		_, err := db.ExecContext(t.Context(), statement)
		require.NoError(t, err, statement)
	}
	assert.Equal(t, "4", d.text(`select imagetasks.balance($1)`, user))
	d.requireAudit()
}

func requireSQLState(t *testing.T, code string, err error, statement string) {
	t.Helper()
	pqErr, ok := errors.AsType[*pq.Error](err)
	require.True(t, ok, "%s: %v", statement, err)
	require.Equal(t, code, string(pqErr.Code), "%s: %v", statement, err)
}
