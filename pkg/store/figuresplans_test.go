package store_test

import (
	"regexp"
	"testing"
	"time"

	"github.com/lib/pq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// With a million closed tasks of two weeks (a tenth of that in the short form), what the status page asks of the database every two seconds reads few pages,
// what it asks once a minute or once a day reads no more than that minute or day, and nothing scans a table that grows with the history.
func TestPlans_StatusPage(t *testing.T) {
	b := fresh(t)
	closed := 100_000
	if long() {
		closed = 1_000_000
	}
	b.exec(`insert into imagetasks.tasks (task_id, user_id, prompt, status, error_code, processing_started_at, created_at, completed_at, image_url)
	        select lpad(to_hex(i), 8, '0') || '-0000-7000-8000-000000000000', 'user-' || i % 1000, 'x', case when i % 50 = 0 then 'failed' else 'completed' end,
	               case when i % 50 = 0 then 'api_server_error' end, at - interval '20 seconds', at - interval '30 seconds', at, 'u'
	        from (select i, now() - interval '14 days' * (1 - i::float8 / $1) as at from generate_series(1, $1) i) g`, closed)
	b.exec(`insert into imagetasks.ledger (user_id, task_id, run, kind, amount, balance_after, created_at)
	        select user_id, task_id, 1, 'charge', -1, 0, created_at from imagetasks.tasks order by task_id`)
	b.exec(`insert into imagetasks.results (task_id, run, user_id, outcome, at, took_ms, cost, currency)
	        select task_id, 1, user_id, 'completed', completed_at, 20000, 40000, 'USD' from imagetasks.tasks where status = 'completed' order by task_id`)
	b.exec(`vacuum analyze imagetasks.tasks, imagetasks.ledger, imagetasks.results`)
	b.enqueue(b.user(30), 30, 1)
	b.claim(3)
	_, err := b.RecordFigures(b.ctx, 24*time.Hour)
	require.NoError(t, err)
	b.exec(`insert into imagetasks.figures (minute, arrived, completed, failed, cancelled, charged, refunded, failures)
		select minute - n * interval '1 day', arrived, completed, failed, cancelled, charged, refunded, failures from imagetasks.figures, generate_series(1, 14) n order by 1
		on conflict do nothing`)
	b.exec(`vacuum analyze imagetasks.figures`)
	require.Equal(t, closed, b.number(`select count(*) from imagetasks.tasks where completed_at is not null`))

	recorded, err := b.ClosedFigures(b.ctx, 24*time.Hour, 12)
	require.NoError(t, err)
	now := recorded.Now
	minute := time.Minute
	day := int((24 * time.Hour).Milliseconds())
	aDay := closed/14 + closed/100 // and what shares its pages
	seqScan := regexp.MustCompile(`Seq Scan on (tasks|ledger|results|attempts|inputs|events|keys)`)
	for _, c := range []struct {
		name  string
		args  []any
		pages int // at most
	}{
		// Every two seconds.
		{"queue_stats", []any{day}, 40},
		{"closed_figures", []any{nil, day, 12, nil}, 100},
		{"closed_since", []any{recorded.To, 3}, 400},
		{"recent_closed", []any{recorded.LastFrom, 12}, 400},
		{"processors", nil, 20},
		{"control", nil, 20},
		// Once a minute, or when somebody looks.
		{"figures_bounds", []any{10_000, day}, 20},
		{"record_figures", []any{recorded.To.Add(-minute), recorded.To, day * 15}, 800},
		{"failure_figures", []any{now.Add(-24 * time.Hour)}, 300},
		{"figures", []any{day, 60_000}, 300},
		{"figures", []any{7 * day, 600_000}, 1000},
		{"failed_ids", []any{"api_server_error", 50}, 400},
		{"find_ids", []any{pq.Array([]string{"00000001-0000-7000-8000-000000000000", "none"})}, 20},
		{"find_prefix", []any{"00000100-0000-0000-0000-000000000000", "000001ff-ffff-ffff-ffff-ffffffffffff", "000001", 50}, 150},
		{"find_user", []any{"user-7", 50}, 200},
		// Once for each day.
		{"closed_between", []any{now.Add(-72 * time.Hour), now.Add(-48 * time.Hour)}, aDay},
		{"booked_between", []any{now.Add(-72 * time.Hour), now.Add(-48 * time.Hour)}, aDay},
		{"unsettled", []any{day, 100}, aDay},
	} {
		pages, plan := b.pages(c.name, c.args...)
		took := regexp.MustCompile(`Execution Time: (.*) ms`).FindStringSubmatch(plan)
		t.Logf("%s: %d pages, %s ms", c.name, pages, took[1])
		assert.LessOrEqual(t, pages, c.pages, "%s:\n%s", c.name, plan)
		assert.NotRegexp(t, seqScan, plan, c.name)
	}
	_, err = b.RecordFigures(b.ctx, 24*time.Hour)
	require.NoError(t, err, "explain analyze of an insert inserts nothing that is there")
}
