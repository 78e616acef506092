package store_test

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/lib/pq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

func TestManyProgramsMigrateAtOnce(t *testing.T) {
	url := server.Empty(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	steps := 0
	for range 6 {
		b := open(t, url)
		wg.Go(func() {
			done, err := b.Migrate(b.ctx)
			assert.NoError(t, err)
			mu.Lock()
			steps += len(done)
			mu.Unlock()
		})
	}
	wg.Wait()
	assert.Equal(t, 2, steps, "each step is taken once")
	assert.NoError(t, open(t, url).CheckSchema(t.Context()))
}

func TestPlanPrintsAndChangesNothing(t *testing.T) {
	b := open(t, server.Empty(t))
	assert.ErrorIs(t, b.CheckSchema(b.ctx), store.ErrSchema)
	plan, err := b.Plan(b.ctx)
	require.NoError(t, err)
	require.Len(t, plan, 2)
	assert.Contains(t, plan[0].SQL, `create table "image_tasks"`)
	assert.Contains(t, plan[1].SQL, `create table "imagetasks_processors"`)
	for _, step := range plan {
		assert.NotContains(t, step.SQL, "drop table")
	}
	assert.Zero(t, b.number("select count(*) from information_schema.tables where table_schema = 'public'"))

	done, err := b.Migrate(b.ctx)
	require.NoError(t, err)
	assert.Len(t, done, 2)
	plan, err = b.Plan(b.ctx)
	require.NoError(t, err)
	assert.Empty(t, plan)
}

func TestANewerSchemaIsRefused(t *testing.T) {
	b := fresh(t)
	b.exec(`insert into imagetasks_schema_version (version_id, is_applied) values (9999, true)`)
	err := b.CheckSchema(b.ctx)
	assert.ErrorIs(t, err, store.ErrSchema)
	assert.ErrorContains(t, err, "newer")
}

func TestOtherTableNamesWork(t *testing.T) {
	url := server.Empty(t)
	b := open(t, url)
	b.exec(`create schema "App"`)
	s, err := store.Open(store.Config{URL: url, Tables: store.Tables{Tasks: "App.Jobs", Credits: "App.wallets"}})
	require.NoError(t, err)
	defer s.Close()
	_, err = s.Migrate(b.ctx)
	require.NoError(t, err)
	user := uuid.NewString()
	_, err = s.GrantCredits(b.ctx, user, 2, "")
	require.NoError(t, err)
	ids, err := s.Enqueue(b.ctx, store.NewTask{UserID: user, Prompt: "x", Cost: 2})
	require.NoError(t, err)
	_, err = s.Cancel(b.ctx, ids[0], "")
	require.NoError(t, err)
	assert.Equal(t, 2, b.number(`select credits from "App".wallets`))
	assert.Equal(t, 1, b.number(`select count(*) from "App"."Jobs"`))
	rules, err := s.Audit(b.ctx)
	require.NoError(t, err)
	assert.Zero(t, store.CountViolations(rules))
}

func TestTheSchemaRefusesWhatMustNotBe(t *testing.T) {
	b := fresh(t)
	user := b.user(3)
	id := b.enqueue(user, 1, 1)[0]
	for rule, statement := range map[string]string{
		"a balance below zero": `update user_credits set credits = -1`,
		"a second charge":      `insert into credit_ledger (user_id, task_id, kind, amount, balance_after) select user_id, task_id, kind, amount, 0 from credit_ledger where kind = 'charge'`,
		"a positive charge":    `insert into credit_ledger (user_id, task_id, kind, amount, balance_after) select user_id, 'x', 'charge', 1, 0 from user_credits`,
		"a grant for a task":   `insert into credit_ledger (user_id, task_id, kind, amount, balance_after) select user_id, 'x', 'grant', 1, 0 from user_credits`,
		"a change of books":    `update credit_ledger set amount = amount`,
		"a deletion of books":  `delete from credit_ledger`,
		"an emptying of books": `truncate credit_ledger`,
		"an unknown state":     `update image_tasks set status = 'lost'`,
		"progress beyond 100":  `update image_tasks set progress_percentage = 101`,
		"a task without name":  `insert into image_tasks (task_id, user_id, prompt) select '', user_id, 'x' from user_credits`,
	} {
		_, err := b.raw.ExecContext(b.ctx, statement)
		assert.Error(t, err, rule)
	}
	noErr(t)(b.Cancel(b.ctx, id, ""))
	b.requireAudit()
}

// Each money rule, broken behind the store's back, is found by the audit under its name.
func TestTheAuditFindsEveryFault(t *testing.T) {
	const disarm = `alter table credit_ledger disable trigger append_only;`
	for name, fault := range map[string]struct{ rule, do string }{
		"index dropped": {"one charge", `alter table credit_ledger drop constraint credit_ledger_once`},
		"charged twice": {"one charge", `alter table credit_ledger drop constraint credit_ledger_once;
			insert into credit_ledger (user_id, task_id, kind, amount, balance_after)
			select user_id, task_id, kind, amount, 0 from credit_ledger where kind = 'charge'`},
		"refund without charge": {"nothing is refunded that", `insert into credit_ledger (user_id, task_id, kind, amount, balance_after)
			select user_id, 'ghost', 'refund', 1, 1 from user_credits`},
		"refund of another amount": {"nothing is refunded that", disarm + `update credit_ledger set amount = 3 where kind = 'refund'`},
		"refund to another user":   {"nothing is refunded that", disarm + `update credit_ledger set user_id = gen_random_uuid() where kind = 'refund'`},
		"refund of a completed task": {"no task is refunded but", `update image_tasks set status = 'completed'
			where status = 'cancelled'`},
		"failed without refund":  {"every failed or cancelled", `update image_tasks set status = 'failed' where status = 'pending'`},
		"column without ledger":  {"every task's columns", `update image_tasks set credits_refunded = 9`},
		"balance changed behind": {"every balance", `update user_credits set credits = credits + 1`},
		"user deleted":           {"every balance", `delete from user_credits`},
		"rows that cancel out": {"every ledger row", disarm + `update credit_ledger set balance_after = balance_after + 1
			where kind = 'grant'`},
	} {
		t.Run(name, func(t *testing.T) {
			b := fresh(t)
			user := b.user(10)
			ids := b.enqueue(user, 2, 2)
			noErr(t)(b.Cancel(b.ctx, ids[0], ""))
			b.requireAudit()
			b.exec(fault.do)
			rules, err := b.Audit(b.ctx)
			require.NoError(t, err)
			assert.Positive(t, store.CountViolations(rules))
			found := false
			for _, r := range rules {
				if strings.HasPrefix(r.Name, fault.rule) {
					found = r.Count > 0 && len(r.Violations) > 0 && r.Violations[0].Detail != ""
				}
			}
			assert.True(t, found, "%s: %+v", fault.rule, rules)
		})
	}
}

// Finished tasks must not make a claim or a sweep dearer, nor many stuck ones a heartbeat: each
// statement reads the index that it names, even while the statistics know of no task in processing.
func TestPlansUseTheIndexesTheyName(t *testing.T) {
	b := fresh(t)
	b.exec(`insert into image_tasks (task_id, user_id, prompt, status, processing_started_at)
	        select 'old-' || i, gen_random_uuid(), 'x', 'completed', now() - interval '1 day' from generate_series(1, 20000) i`)
	b.exec(`insert into credit_ledger (user_id, task_id, kind, amount, balance_after)
	        select gen_random_uuid(), 'old-' || i, 'charge', -1, 0 from generate_series(1, 20000) i`)
	b.enqueue(b.user(300), 300, 1)
	b.exec(`vacuum analyze image_tasks, credit_ledger, user_credits`)
	held := b.claim(100)
	b.exec(`update image_tasks set processing_started_at = now() - interval '1 hour' where task_id = $1`, held[0].ID)
	stuck := int(20 * time.Minute / time.Millisecond)
	id, epoch := held[0].ID, held[0].Epoch
	ids, epochs := pq.Array([]string{id}), pq.Array([]int64{epoch})
	texts, numbers := pq.Array([]string{"x"}), pq.Array([]int64{1})
	const primary, pending, lease, started = "image_tasks_pkey", "image_tasks_pending", "image_tasks_lease", "image_tasks_started"
	for _, c := range []struct {
		statement string
		args      []any
		indexes   []string
	}{
		{"claim", []any{"w", 100, 60000, 3}, []string{primary, pending, lease}},
		{"reap", []any{3, 100, "c", "m"}, []string{primary, lease}},
		{"expire", []any{stuck, 1000, "c", "m"}, []string{primary, pending}},
		{"count expired", []any{stuck}, []string{pending}},
		{"sweep", []any{stuck, 1000, "c", "m", nil, nil}, []string{primary, started}},
		{"requeue", []any{stuck, 1000, "c", "m", nil, nil}, []string{primary, started}},
		{"stuck", []any{stuck, 100, nil, nil}, []string{started}},
		{"count stuck", []any{stuck, nil, nil}, []string{started}},
		{"next", nil, []string{pending, lease}},
		{"queue", []any{stuck}, []string{pending, started}},
		{"heartbeat", []any{ids, epochs, numbers, texts, 60000}, []string{primary}},
		{"complete", []any{ids, epochs, texts, texts}, []string{primary}},
		{"release", []any{ids, epochs, numbers, texts, texts}, []string{primary}},
		{"retry", []any{id, epoch, 1000, "c", "m", "r"}, []string{primary}},
		{"fail", []any{id, epoch, "c", "m", "r"}, []string{primary}},
		{"cancel", []any{id, "c", "m"}, []string{primary}},
	} {
		plan := b.explain(b.Statement(c.statement), c.args...)
		assert.NotRegexp(t, "Seq Scan on (image_tasks|credit_ledger)", plan, c.statement)
		for _, index := range []string{primary, pending, lease, started} {
			assert.Equal(t, slices.Contains(c.indexes, index), strings.Contains(plan, index), "%s and %s:\n%s", c.statement, index, plan)
		}
	}
	assert.Equal(t, task.Processing, b.row(held[0].ID).State, "explain changed nothing")
}

// A million finished tasks don't make a round of the monitor dearer that finds nothing to do: each of its
// statements reads a handful of pages, and no page of the table of tasks.
func TestARoundWithNothingToDoReadsAHandfulOfPages(t *testing.T) {
	b := fresh(t)
	b.exec(`insert into image_tasks (task_id, user_id, prompt, status, credits_deducted, processing_started_at, completed_at)
	        select 'old-' || i, gen_random_uuid(), 'x', 'completed', 1, now() - interval '1 day', now() - interval '1 day'
	        from generate_series(1, 1000000) i`)
	b.exec(`vacuum analyze image_tasks`)
	b.enqueue(b.user(3), 3, 1)
	held := b.claim(2)
	require.NoError(t, b.RecordHeartbeat(b.ctx, store.Processor{Worker: "w", Host: "h", PID: 1}))
	_, err := b.Complete(b.ctx, store.Completion{Lease: held[0].Lease()})
	require.NoError(t, err)
	stuck := int(20 * time.Minute / time.Millisecond)
	for name, args := range map[string][]any{
		"count stuck": {stuck, nil, nil},
		"expire":      {stuck, 1000, "c", "m"},
		"sweep":       {stuck, 1000, "c", "m", nil, nil},
		"queue":       {stuck},
		"processors":  nil,
		"forget":      nil,
		"next":        nil,
		"reap":        {3, 100, "c", "m"},
	} {
		plan := b.explainWith("explain (analyze, buffers) ", b.Statement(name), args...)
		touched := regexp.MustCompile(`Buffers: shared hit=(\d+)(?: read=(\d+))?`).FindStringSubmatch(plan)
		pages := 0
		for i := 1; i < len(touched); i++ {
			n, _ := strconv.Atoi("0" + touched[i])
			pages += n
		}
		assert.LessOrEqual(t, pages, 20, "%s:\n%s", name, plan)
		assert.NotContains(t, plan, "Seq Scan on image_tasks", name)
	}
	recent := b.explainWith("explain (analyze, buffers) ", b.Statement("recent"), 3_600_000)
	assert.Contains(t, recent, "image_tasks_completed", "the last hour is found by its index")
}

func (b *bench) explain(statement string, args ...any) string {
	b.tb.Helper()
	return b.explainWith("explain ", statement, args...)
}

func (b *bench) explainWith(explain, statement string, args ...any) string {
	b.tb.Helper()
	rows, err := b.raw.QueryContext(b.ctx, explain+statement, args...)
	require.NoError(b.tb, err)
	defer rows.Close()
	var plan strings.Builder
	for rows.Next() {
		var line string
		require.NoError(b.tb, rows.Scan(&line))
		plan.WriteString(line + "\n")
	}
	require.NoError(b.tb, rows.Err())
	return plan.String()
}

func TestOpenRefusesWhatIsNoDatabaseURLWithoutQuotingIt(t *testing.T) {
	for _, url := range []string{
		"", "   ", "mysql://u:hunter2@h/d", "postgres://u:hunter2@h:port/d", "postgres://u:hunt%er2@h/d",
		"host=x password=hunter2 port=many", "postgres://u:hunter2@h/d?sslmode=whatever",
	} {
		_, err := store.Open(store.Config{URL: url})
		if assert.Error(t, err, url) {
			assert.NotContains(t, err.Error(), "hunter2")
		}
	}
}
