package store_test

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/lib/pq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// Closed tasks must not slow down a claim or a sweep, and many stuck tasks must not slow down a renewal. Each statement
// uses the indexes named in its comment, even if the statistics contain no processing task.
func TestPlans_UseNamedIndexes(t *testing.T) {
	b := fresh(t)
	b.exec(`insert into imagetasks.tasks (task_id, user_id, prompt, status, processing_started_at)
	        select 'old-' || i, gen_random_uuid(), 'x', 'completed', now() - interval '1 day' from generate_series(1, 20000) i`)
	b.exec(`insert into imagetasks.ledger (user_id, task_id, run, kind, amount, balance_after)
	        select gen_random_uuid(), 'old-' || i, 1, 'charge', -1, 0 from generate_series(1, 20000) i`)
	b.enqueue(b.user(300), 300, 1)
	b.exec(`vacuum analyze imagetasks.tasks, imagetasks.ledger, imagetasks.credits`)
	held := b.claim(100)
	b.exec(`update imagetasks.tasks set processing_started_at = now() - interval '1 hour' where task_id = $1`, held[0].ID)
	stuck := int(20 * time.Minute / time.Millisecond)
	id, epoch := held[0].ID, held[0].Epoch
	ids, epochs := pq.Array([]string{id}), pq.Array([]int64{epoch})
	call, none := uuid.NewString(), pq.Array([]string{})
	texts, numbers := pq.Array([]string{"x"}), pq.Array([]int64{1})
	const primary, pending, lease = "tasks_pkey", "tasks_due", "tasks_lease"
	for _, c := range []struct {
		statement string
		args      []any
		indexes   []string
	}{
		{"fail_abandoned", []any{3, 0, 100, "c", "m", nil, none, call}, []string{primary, lease}},
		{"fail_overdue", []any{stuck, 1000, "c", "m", nil, none, call}, []string{primary, pending}},
		{"count_overdue", []any{stuck}, []string{pending}},
		{"sweep", []any{stuck, 1000, "c", "m", nil, 0, nil, none, call}, []string{primary, lease}},
		{"requeue", []any{stuck, 1000, "c", "m", nil, 0, nil, none, call}, []string{primary, lease}},
		{"stuck", []any{stuck, 100, nil, nil}, []string{lease}},
		{"count_stuck", []any{stuck, nil, nil}, []string{lease}},
		{"next_due", []any{true}, []string{lease}},
		{"has_suspect", []any{5}, []string{lease}},
		{"abandoned", []any{3, 100}, []string{lease}},
		{"queue_stats", []any{stuck}, []string{primary, pending, lease}},
		{"renew_leases", []any{ids, epochs, numbers, texts, 60000}, []string{primary}},
		{"save_pending", []any{id, epoch, "u", "r", "e", ""}, []string{primary}},
		{"release", []any{ids, epochs, numbers, texts, texts, texts, texts, texts, pq.Array([]bool{false}), pq.Array([]bool{true})}, []string{primary}},
		{"retry", []any{id, epoch, 1000, "c", "m", "r", "e", "answered"}, []string{primary}},
		{"fail", []any{id, epoch, "c", "m", "r", "e", "answered", 1, ""}, []string{primary}},
	} {
		plan := b.explain(b.Statement(c.statement), c.args...)
		assert.NotRegexp(t, "Seq Scan on (tasks|ledger)", plan, c.statement)
		for _, index := range []string{primary, pending, lease} {
			assert.Equal(t, slices.Contains(c.indexes, index), strings.Contains(plan, index), "%s and %s:\n%s", c.statement, index, plan)
		}
	}
	assert.Equal(t, task.Processing, b.row(held[0].ID).State, "explain changes nothing")
}

// With a million closed tasks (a fifth of that in the short form), a pass of the monitor that finds nothing to do stays cheap: each of its statements reads
// at most 20 pages, and none scans the table of tasks.
func TestPlans_IdlePassReadsFewPages(t *testing.T) {
	b := fresh(t)
	closed := 200_000
	if long() {
		closed = 1_000_000
	}
	b.exec(`insert into imagetasks.tasks (task_id, user_id, prompt, status, credits_deducted, processing_started_at, completed_at)
	        select 'old-' || i, gen_random_uuid(), 'x', 'completed', 1, now() - interval '1 day', now() - interval '1 day'
	        from generate_series(1, $1) i`, closed)
	b.exec(`vacuum analyze imagetasks.tasks`)
	b.enqueue(b.user(3), 3, 1)
	held := b.claim(2)
	require.NoError(t, b.RecordHeartbeat(b.ctx, store.Processor{Worker: "w", Host: "h", PID: 1}))
	_, err := b.Complete(b.ctx, store.Completion{Lease: held[0].Lease()})
	require.NoError(t, err)
	stuck, none := int(20*time.Minute/time.Millisecond), pq.Array([]string{})
	for name, args := range map[string][]any{
		"count_stuck":    {stuck, nil, nil},
		"fail_overdue":   {stuck, 1000, "c", "m", nil, none, uuid.NewString()},
		"sweep":          {stuck, 1000, "c", "m", nil, 0, nil, none, uuid.NewString()},
		"queue_stats":    {stuck},
		"processors":     nil,
		"prunable":       {stuck, stuck, stuck, stuck, stuck},
		"prune_inputs":   {stuck, 1000, uuid.NewString()},
		"prune_keys":     {stuck, 1000, uuid.NewString()},
		"prune_calls":    {stuck, 1000, uuid.NewString()},
		"prune_pending":  {0, 1000, uuid.NewString()},
		"next_due":       {true},
		"has_suspect":    {5},
		"tasks_aside":    {100},
		"fail_set_aside": {stuck, 1000, "c", nil, none, uuid.NewString()},
		"fail_abandoned": {3, 0, 100, "c", "m", nil, none, uuid.NewString()},
	} {
		pages, plan := b.pages(name, args...)
		assert.LessOrEqual(t, pages, 20, "%s:\n%s", name, plan)
		assert.NotContains(t, plan, "Seq Scan on tasks", name)
	}
	// Its function updates a row that is in several indexes.
	pages, plan := b.pages("begin_requests", pq.Array([]string{held[1].ID}), pq.Array([]int64{held[1].Epoch}), pq.Array([]string{uuid.NewString()}), pq.Array([]string{"e"}), pq.Array([]int64{60}))
	assert.LessOrEqual(t, pages, 100, plan)
	for _, name := range []string{"closed_within", "failures_within"} {
		recent := b.explainWith("explain (analyze, buffers) ", b.Statement(name), 3_600_000)
		assert.Contains(t, recent, "tasks_completed", "%s finds the last hour through the index", name)
	}
}

// pages returns how many pages a statement reads, with its plan.
func (b *testStore) pages(name string, args ...any) (n int, plan string) {
	b.tb.Helper()
	_ = b.explainWith("explain (analyze, buffers) ", b.Statement(name), args...) // the first call of a session reads catalogs
	plan = b.explainWith("explain (analyze, buffers) ", b.Statement(name), args...)
	touched := regexp.MustCompile(`Buffers: shared hit=(\d+)(?: read=(\d+))?`).FindStringSubmatch(plan)
	for i := 1; i < len(touched); i++ {
		pages, _ := strconv.Atoi("0" + touched[i])
		n += pages
	}
	return n, plan
}

func (b *testStore) explain(statement string, args ...any) string {
	b.tb.Helper()
	return b.explainWith("explain ", statement, args...)
}

func (b *testStore) explainWith(explain, statement string, args ...any) string {
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
