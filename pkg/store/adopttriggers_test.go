package store_test

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/pgfault"
	"imagetasks/pkg/bridge"
	"imagetasks/pkg/store"
)

// The triggers note what changed, whichever statement changes it.
func TestAdopt_TriggersNoteChanges(t *testing.T) {
	sh := shapes()["supabase"]
	b := adopted(t, sh)
	const user = "11111111-1111-1111-1111-111111111111"
	for _, c := range []struct{ statement, want string }{
		{`insert into ai_tasks (task_id, user_id, prompt, status) values ('a', '` + user + `', 'x', 'pending'), ('b', '` + user + `', 'x', 'completed')`, "task a"},
		{`insert into ai_tasks (task_id, user_id, prompt, status) values ('a', '` + user + `', 'x', 'pending') on conflict (task_id) do update set status = 'processing'`, "task a"},
		{`insert into ai_tasks (task_id, user_id, prompt, status) values ('a', '` + user + `', 'x', 'pending') on conflict (task_id) do nothing`, ""},
		{`update ai_tasks set progress_percentage = 5, image_base64 = 'x', result_url = 'y', current_stage = 'z' where task_id = 'a'`, ""},
		{`update ai_tasks set prompt = 'y' where task_id = 'a'`, "task a"},
		{`update ai_tasks set status = 'cancelled', credits_refunded = true where task_id in ('a', 't8')`, "task a, task t8"},
		{`update ai_tasks set task_id = 'c' where task_id = 'a'`, "task a, task c"},
		{`delete from ai_tasks where task_id in ('b', 'c')`, "task b, task c"},
		{`copy`, "task copied"},
		{`update ai_credits set credits = credits - 1`, "balance " + user + " 7 -> 6"},
		{`update ai_credits set credits = credits`, ""},
		{`update ai_credits set credits = null`, "balance " + user + " 6 -> 0"},
		{`insert into ai_credits (user_id, credits) values (null, 3), ('22222222-2222-2222-2222-222222222222', 3)`, "balance 22222222-2222-2222-2222-222222222222 null -> 3"},
		{`update ai_credits set user_id = '33333333-2222-2222-2222-222222222222' where credits = 3 and user_id is not null`,
			"balance 22222222-2222-2222-2222-222222222222 3 -> null, balance 33333333-2222-2222-2222-222222222222 null -> 3"},
		{`delete from ai_credits where user_id = '33333333-2222-2222-2222-222222222222'`, "balance 33333333-2222-2222-2222-222222222222 3 -> null"},
		{`with x as (update ai_tasks set style = 'q' where task_id = 't1') update ai_credits set credits = 9 where user_id = '` + user + `'`,
			"balance " + user + " 0 -> 9, task t1"},
		{`truncate ai_credits`, "missed "},
		{`truncate ai_tasks`, "missed "},
	} {
		b.exec(`delete from imagetasks.inbox`)
		if c.statement == "copy" {
			b.copyIn(`copy ai_tasks (task_id, user_id, prompt, status) from stdin`, "copied", user, "x", "pending")
		} else {
			b.exec(c.statement)
		}
		assert.Equal(t, strings.ReplaceAll(c.want, "null", "null"), strings.TrimPrefix(b.text(`select coalesce(string_agg(kind || ' ' || key
			|| case when kind = 'balance' then ' ' || coalesce(before::text, 'null') || ' -> ' || coalesce(after::text, 'null') else '' end, ', ' order by kind, key), '')
			from imagetasks.inbox`), "null"), c.statement)
	}
}

func (b *testStore) copyIn(statement string, values ...any) {
	b.tb.Helper()
	tx, err := b.raw.BeginTx(b.ctx, nil)
	require.NoError(b.tb, err)
	st, err := tx.PrepareContext(b.ctx, statement)
	require.NoError(b.tb, err)
	_, err = st.ExecContext(b.ctx, values...)
	require.NoError(b.tb, err)
	_, err = st.ExecContext(b.ctx)
	require.NoError(b.tb, err)
	require.NoError(b.tb, st.Close())
	require.NoError(b.tb, tx.Commit())
}

// A refund that the application logs, a row that Only leaves out, a deletion that cascades, and a partitioned table.
func TestAdopt_TriggersOfOtherShapes(t *testing.T) {
	t.Parallel()
	keys := func(b *testStore) string {
		return b.text(`select coalesce(string_agg(key, ',' order by key), '') from imagetasks.inbox`)
	}
	b := adopted(t, shapes()["booleans"])
	b.exec(`delete from imagetasks.inbox; insert into txn (job, kind) values (3, 'refund'), (4, 'usage'), (5, 'gift'), (null, 'refund')`)
	assert.Equal(t, "3,4", keys(b))
	b.exec(`delete from imagetasks.inbox; update jobs set output = '[]' where id = 1; update jobs set output = '{"a": 1}' where id = 2; update jobs set failed = true where id = 3`)
	assert.Equal(t, "1,2,3", keys(b))

	b = adopted(t, shapes()["enum"])
	b.exec(`delete from imagetasks.inbox; insert into "My App"."Order" ("Id", "User", "order", kind) values ('11111111-0000-0000-0000-000000000001', 1, 'x', 'mail');
		update "My App"."Order" set "order" = 'y' where kind = 'mail'`)
	assert.Equal(t, "", strings.TrimPrefix(keys(b), "null"))
	b.exec(`update "My App"."Order" set kind = 'image' where "Id" = '11111111-0000-0000-0000-000000000001'; delete from "My App"."Order" where kind = 'mail'`)
	assert.Equal(t, "11111111-0000-0000-0000-000000000001", keys(b))

	b = fresh(t)
	b.exec(shapes()["text keys"].sql)
	b.exec(`alter table generation add foreign key (user_id) references user_credits (user_id) on delete cascade`)
	_, err := b.Adopt(b.ctx, shapes()["text keys"].description, nil)
	require.NoError(t, err)
	b.exec(`delete from imagetasks.inbox; update generation set id = 'h' || id where id in ('g1', 'g2')`)
	assert.Equal(t, "g1,g2,hg1,hg2", keys(b), "rows that change their partition, too")
	b.exec(`delete from imagetasks.inbox; delete from user_credits`)
	assert.Equal(t, "g3,g4,g5,g6,g7,g8,hg1,hg2,u", keys(b))
}

// A statement on many rows is compared in linear time.
func TestAdopt_TriggersOnManyRows(t *testing.T) {
	t.Parallel()
	b := adopted(t, shapes()["supabase"])
	b.exec(`update ai_tasks set prompt = 'one row, so that its plan is kept' where task_id = 't1'`)
	b.exec(`insert into ai_tasks (task_id, user_id, status) select 'm' || n, gen_random_uuid(), 'pending' from generate_series(1, 20000) n`)
	conn, err := b.raw.Conn(b.ctx)
	require.NoError(t, err)
	defer conn.Close()
	for range 6 {
		_, err = conn.ExecContext(b.ctx, `update ai_tasks set prompt = prompt || 'x' where task_id = 't1'`)
		require.NoError(t, err)
	}
	began := time.Now()
	_, err = conn.ExecContext(b.ctx, `alter table ai_tasks disable trigger touch; update ai_tasks set style = 'z'`)
	require.NoError(t, err)
	assert.Less(t, time.Since(began), 10*time.Second)
	assert.Equal(t, 20008, b.number(`select count(distinct key) from imagetasks.inbox`))
}

// The application's statement neither fails nor waits for long, whatever happened to our schema.
func TestAdopt_TriggersNeverFail(t *testing.T) {
	t.Parallel()
	sh := shapes()["supabase"]
	b := adopted(t, sh)
	b.role("writer_never_fails")
	b.exec(`grant usage on schema public to writer_never_fails; grant select, insert, update, delete, truncate on ai_tasks, ai_credits to writer_never_fails;
		grant select on ai_logs to writer_never_fails;
		alter table ai_tasks enable row level security; alter table ai_credits enable row level security;
		create policy own on ai_tasks to writer_never_fails using (user_id = '` + sh.user + `'); create policy own on ai_credits to writer_never_fails using (user_id = '` + sh.user + `')`)
	app, err := sql.Open("postgres", b.urlAs("writer_never_fails"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = app.Close() })
	n := 0
	write := func(why string) time.Duration {
		t.Helper()
		n++
		var longest time.Duration
		for _, statement := range []string{
			fmt.Sprintf(`insert into ai_tasks (task_id, user_id, prompt, status) values ('w%d', '%s', 'x', 'pending')`, n, sh.user),
			fmt.Sprintf(`update ai_tasks set status = 'cancelled' where task_id = 'w%d'`, n),
			`update ai_credits set credits = credits + 1`,
			fmt.Sprintf(`delete from ai_tasks where task_id = 'w%d'`, n),
		} {
			began := time.Now()
			conn, err := app.Conn(b.ctx)
			require.NoError(t, err)
			_, err = conn.ExecContext(b.ctx, `set statement_timeout = '250ms'`)
			require.NoError(t, err)
			_, err = conn.ExecContext(b.ctx, statement)
			assert.NoError(t, err, "%s: %s", why, statement)
			longest = max(longest, time.Since(began))
			require.NoError(t, conn.Close())
		}
		return longest
	}
	write("nothing happened")
	assert.Equal(t, 4, b.number(`select count(*) from imagetasks.inbox where key in ('w1', '`+sh.user+`')`))

	tx, err := b.raw.BeginTx(b.ctx, nil)
	require.NoError(t, err)
	_, err = tx.ExecContext(b.ctx, `lock table imagetasks.inbox in access exclusive mode; select * from imagetasks.bridge for update`)
	require.NoError(t, err)
	longest := write("the inbox is locked")
	require.NoError(t, tx.Rollback())
	assert.Less(t, longest, 250*time.Millisecond)

	b.exec(`delete from imagetasks.inbox; alter table imagetasks.inbox add constraint refuse check (kind = 'missed') not valid`)
	write("the inbox refuses rows")
	assert.Equal(t, 4, b.number(`select count(*) from imagetasks.inbox where kind = 'missed'`), "that something was missed is noted")
	b.exec(`alter table imagetasks.inbox drop column kind`)
	write("a column is dropped")
	b.exec(`revoke all on schema imagetasks from public; drop table imagetasks.inbox cascade`)
	write("the inbox is dropped")
	b.exec(`alter table ai_tasks drop column style`)
	write("a column of the application is dropped")
	b.exec(`alter table ai_tasks rename column status to state; alter table ai_tasks rename column state to status`)
	write("a column of the application is renamed")
	b.exec(`drop schema imagetasks cascade`)
	write("the schema is dropped")
}

// A transaction that never ends is named, and what was done before stands.
func TestAdopt_NamesWhoHoldsATable(t *testing.T) {
	t.Parallel()
	sh := shapes()["supabase"]
	b := fresh(t)
	b.exec(sh.sql)
	tx, err := b.raw.BeginTx(b.ctx, nil)
	require.NoError(t, err)
	defer tx.Rollback()
	_, err = tx.ExecContext(b.ctx, `set local application_name = 'report'; update ai_credits set credits = credits`)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(b.ctx, 3*time.Second)
	defer cancel()
	_, err = b.Adopt(ctx, sh.description, nil)
	require.ErrorContains(t, err, "a transaction holds the table public.ai_credits (pid ")
	assert.ErrorContains(t, err, "report")
	require.NoError(t, tx.Rollback())
	done, err := b.Adopt(b.ctx, sh.description, nil)
	require.NoError(t, err)
	assert.Len(t, done.Steps, 3, "the triggers on the other table, and what follows")
}

// A role that is not the owner gets a clear error; so does an owner that could not see or do what the bridge does.
func TestAdopt_ChecksAccess(t *testing.T) {
	t.Parallel()
	sh := shapes()["supabase"]
	b := open(t, server.Empty(t))
	b.exec(sh.sql)
	b.role("owner_of_ours")
	b.role("somebody_else")
	b.exec(`grant create on database ` + strings.TrimPrefix(b.name(), "/") + ` to owner_of_ours`)
	ours := b.as("owner_of_ours")
	_, err := ours.PlanAdoption(b.ctx, sh.description)
	require.ErrorIs(t, err, store.ErrSchema)
	_, err = ours.Migrate(b.ctx, store.Roles{})
	require.NoError(t, err)
	refused := func(s *store.Store, d bridge.Description, want string) {
		t.Helper()
		_, planned := s.PlanAdoption(b.ctx, d)
		require.ErrorContains(t, planned, want)
		_, err := s.Adopt(b.ctx, d, nil)
		require.EqualError(t, err, planned.Error())
	}
	refused(b.as("somebody_else"), sh.description, "DATABASE_URL of the role owner_of_ours")
	refused(b.Store, sh.description, "DATABASE_URL of the role owner_of_ours")
	b.exec(`revoke all on schema public from public`)
	refused(ours, sh.description, "grant usage on schema")
	b.exec(`grant usage on schema public to owner_of_ours`)
	refused(ours, sh.description, `grant select, update, trigger on "public"."ai_tasks" to owner_of_ours`)
	b.exec(`grant select, update, insert, trigger on all tables in schema public to owner_of_ours; alter table ai_credits enable row level security`)
	refused(ours, sh.description, `create policy imagetasks on "public"."ai_credits"`)
	b.exec(`create policy imagetasks on ai_credits to owner_of_ours using (true) with check (true)`)
	b.exec(`alter table ai_logs add column id serial, add column number bigint generated by default as identity`)
	refused(ours, sh.description, "grant usage on sequence public.ai_logs_id_seq to owner_of_ours")
	b.exec(`grant usage on sequence ai_logs_id_seq to owner_of_ours`)
	_, err = ours.PlanAdoption(b.ctx, sh.description)
	require.NoError(t, err)
	b.exec(`insert into imagetasks.processors (worker, host, pid, version) values ('old', 'h', 1, '0.1')`)
	refused(ours, sh.description, "the processor old is of a version without the bridge")
	b.exec(`delete from imagetasks.processors`)

	for want, change := range map[string]func(*bridge.Description){
		"there is no table public.nothing":    func(d *bridge.Description) { d.Tasks.Name = "nothing" },
		"is a view":                           func(d *bridge.Description) { d.Tasks.Name = "a_view" },
		`has no column "x'); drop table"`:     func(d *bridge.Description) { d.Prompt = "x'); drop table" },
		"questions are open":                  func(d *bridge.Description) { d.Questions = []string{"which table?"} },
		"must be a number":                    func(d *bridge.Description) { d.Progress = "prompt2" },
		"there is no function public.give":    func(d *bridge.Description) { d.Credits.Refund = "public.give({user})" },
		"numbers, 'texts'":                    func(d *bridge.Description) { d.Credits.Refund = "public.give({user}, now())" },
		"{secret} is not known here":          func(d *bridge.Description) { d.History.Columns["prompt"] = "{secret}" },
		"is not a setting of the application": func(d *bridge.Description) { d.Settings = map[string]string{"session_replication_role": "replica"} },
		"two of: tasks, balances":             func(d *bridge.Description) { d.Credits.RefundLog = &bridge.Match{Table: d.Tasks, Task: "task_id"} },
		"has two meanings":                    func(d *bridge.Description) { d.Error = "result_url" },
		`needs a value`:                       func(d *bridge.Description) { delete(d.History.Columns, "user_id") },
		"is longer than the column":           func(d *bridge.Description) { d.Stages = map[string]string{"x": strings.Repeat("x", 13)} },
		"there is no word for failed":         func(d *bridge.Description) { d.Status.Failed = nil },
		"is not unique":                       func(d *bridge.Description) { d.Key = "prompt" },
		"a key must be text":                  func(d *bridge.Description) { d.Key = "created_at" },
	} {
		if want == "is a view" {
			b.exec(`create view a_view as select * from ai_tasks; grant all on a_view to owner_of_ours`)
		}
		d := shapes()["supabase"].description
		change(&d)
		if want == "must be a number" {
			d.Progress = "prompt"
			d.Prompt = ""
			d.Credits.CostColumn = "prompt"
		}
		refused(ours, d, want)
	}
	assert.Zero(t, b.number(`select count(*) from pg_trigger where tgname like 'imagetasks%'`))
}

// A writer that holds transactions open is not disturbed by adopt and its removal.
func TestAdopt_LocksAreShort(t *testing.T) {
	t.Parallel()
	sh := shapes()["supabase"]
	b := fresh(t)
	b.exec(sh.sql)
	b.exec(`update imagetasks.control set paused_at = now()`)
	ctx, stop := context.WithCancel(b.ctx)
	var wg sync.WaitGroup
	var longest, statements atomic.Int64
	for w := range 2 {
		app := openRaw(t, b.url)
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				tx, err := app.BeginTx(b.ctx, nil)
				if !assert.NoError(t, err) {
					return
				}
				for _, statement := range []string{
					fmt.Sprintf(`insert into ai_tasks (task_id, user_id, status) values ('w%d-%d', '%s', 'pending')`, w, n, sh.user),
					`select count(*) from ai_credits`, `select pg_sleep(0.15)`,
					fmt.Sprintf(`update ai_tasks set status = 'cancelled' where task_id = 'w%d-%d'`, w, n),
				} {
					began := time.Now()
					_, err := tx.ExecContext(b.ctx, statement)
					assert.NoError(t, err)
					if !strings.Contains(statement, "pg_sleep") {
						longest.Store(max(longest.Load(), int64(time.Since(began))))
						statements.Add(1)
					}
				}
				assert.NoError(t, tx.Commit())
			}
		})
	}
	_, err := b.Adopt(b.ctx, sh.description, nil)
	assert.NoError(t, err)
	_, err = b.RemoveBridge(b.ctx, false, nil)
	assert.NoError(t, err)
	stop()
	wg.Wait()
	t.Logf("%d statements, the longest %s", statements.Load(), time.Duration(longest.Load()))
	assert.Less(t, time.Duration(longest.Load()), 600*time.Millisecond, "200 ms, and what a busy machine adds")
	assert.Zero(t, b.number(`select count(*) from pg_trigger where tgname like 'imagetasks%'`))
}

func openRaw(t *testing.T, url string) *sql.DB {
	t.Helper()
	db, err := sql.Open("postgres", url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// Whichever statement the connection is lost at, a repeat finishes.
func TestAdopt_Interrupted(t *testing.T) {
	t.Parallel()
	sh := shapes()["booleans"]
	b := fresh(t)
	b.exec(sh.sql + "; update imagetasks.control set paused_at = now()")
	before := dump(t, b.url)
	proxy, through, err := pgfault.StartFor(b.url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = proxy.Close() })
	s, err := store.Open(store.Config{URL: through, ApplicationName: "interrupted"})
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	s.RepeatSoon()
	interrupt := func(fault pgfault.Fault, at string, run func() error) {
		t.Helper()
		injection := proxy.Add(pgfault.Rule{Fault: fault, Contains: at})
		defer injection.Remove()
		assert.Error(t, run(), at)
		assert.NotZero(t, injection.Hits(), at)
	}
	adopt := func() error { _, err := s.Adopt(b.ctx, sh.description, nil); return err }
	remove := func() error { _, err := s.RemoveBridge(b.ctx, false, nil); return err }
	for fault, places := range map[pgfault.Fault][2][]string{
		pgfault.LostFIN: {{`insert into "imagetasks".bridge`, "imagetasks_insert", "set active"}, {"drop trigger", "drop function"}},
		pgfault.Cut:     {{"app_rows", "imagetasks_truncate"}, {"drop trigger", `from "imagetasks".outbox`}},
	} {
		for _, at := range places[0] {
			interrupt(fault, at, adopt)
		}
		require.NoError(t, adopt())
		again, err := s.PlanAdoption(b.ctx, sh.description)
		require.NoError(t, err)
		assert.Empty(t, again.Steps)
		for _, at := range places[1] {
			interrupt(fault, at, remove)
		}
		require.NoError(t, remove())
	}
	assert.Equal(t, before, dump(t, b.url))
	assert.Zero(t, b.number(`select count(*) from imagetasks.bridge`))
}
