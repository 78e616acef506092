package store_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"regexp"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// reportTasks is the number of tasks in the test of reports.
const reportTasks = 10_000

// makeHistory makes tasks of several users, models, endpoints and days, with every end that a task can have.
func (b *testStore) makeHistory(random *rand.Rand) {
	b.tb.Helper()
	models := []string{"", "gpt-image-1", "dall-e-3", "flux"}
	var users []string
	for range 7 {
		users = append(users, b.user(reportTasks*3))
	}
	for n, batch := 0, 100; n < reportTasks; n += batch {
		options := json.RawMessage(`{}`)
		if model := models[random.IntN(len(models))]; model != "" {
			options = json.RawMessage(fmt.Sprintf(`{"model": %q}`, model))
		}
		made, err := b.Enqueue(b.ctx, store.EnqueueRequest{UserID: users[random.IntN(len(users))], Prompt: "x", Cost: int64(random.IntN(4)), Count: batch, Options: options})
		require.NoError(b.tb, err)
		for _, id := range made.TaskIDs[:1] {
			b.cancel(id)
		}
	}
	for b.endSome(random, 500) {
	}
	// Some begin again: most complete, some stay pending, and some fail a second time.
	failed := b.texts(`select task_id from imagetasks.tasks where status = 'failed' order by task_id limit 80`)
	for _, id := range failed {
		_, err := b.Redrive(b.ctx, id, 1)
		require.NoError(b.tb, err)
	}
	b.endSome(random, 60)
	b.requireAudit()
	// The application's own charges and refunds, and what it changed besides.
	b.exec(`insert into imagetasks.ledger (user_id, task_id, run, kind, amount, balance_after, reason, external)
		select 'theirs', 'theirs-' || n, 1, kind, amount, 0, '', true
		from generate_series(1, 50) n, (values ('charge', -3), ('refund', 3)) as v (kind, amount) where kind = 'charge' or n % 5 = 0`)
	b.exec(`insert into imagetasks.ledger (user_id, kind, amount, balance_after, external) values ('theirs', 'grant', 154, 0, true), ('theirs', 'adjust', -34, 0, true)`)
	// The ledger and the results are of the last ten weeks, also of both sides of midnight and of a change of the clock.
	b.exec(`alter table imagetasks.ledger disable trigger append_only`)
	b.exec(`update imagetasks.ledger set created_at = timestamptz '2026-03-20 00:00+00' - mod(id * 7919, 6048000) * interval '1 second'`)
	b.exec(`alter table imagetasks.ledger enable trigger append_only`)
	b.exec(`update imagetasks.results r set at = l.created_at + interval '40 seconds' from imagetasks.ledger l
		where l.task_id = r.task_id and l.run = r.run and l.kind = 'charge'`)
	b.exec(`update imagetasks.results set at = timestamptz '2026-03-01 04:59:59.999999+00' where at > now() - interval '1 day'`)
	b.exec(`update imagetasks.tasks set completed_at = timestamptz '2026-03-08 05:00+00' - mod(priority + lease_epoch * 7919, 600000) * interval '1 second'
		where completed_at is not null`)
	b.exec(`analyze imagetasks.ledger, imagetasks.results, imagetasks.tasks`)
}

// endSome claims tasks and ends them in all ways. It returns false when nothing is left to claim.
func (b *testStore) endSome(random *rand.Rand, limit int) bool {
	b.tb.Helper()
	endpoints := []string{"relay-a", "relay-b", "https://api.example/v1"}
	currencies := []string{"USD", "CNY", "EUR", ""}
	claimed, err := b.Claim(b.ctx, store.ClaimRequest{Worker: "w", Limit: limit, Lease: time.Minute, MaxAttempts: 3})
	require.NoError(b.tb, err)
	var done []store.Completion
	for _, c := range claimed {
		model := c.Model
		if model == "" {
			model = "gpt-image-1"
		}
		usage := task.Usage{Endpoint: endpoints[random.IntN(len(endpoints))], Model: model + "-there", Took: time.Duration(random.IntN(60_000)) * time.Millisecond,
			Counts: json.RawMessage(`{"total_tokens": 4160}`), Currency: currencies[random.IntN(len(currencies))]}
		if usage.Currency != "" {
			usage.Cost = random.Int64N(90_000_000) + 1
		}
		switch n := random.IntN(1000); {
		case n < 10: // a result without a picture
			cause := &task.Error{Code: task.CodeBadAnswer, Disposition: task.Fail, Message: "no picture", Paid: true, Usage: &usage}
			_, err := b.Fail(b.ctx, c.Lease(), cause, true)
			require.NoError(b.tb, err)
		case n < 25:
			_, err := b.Fail(b.ctx, c.Lease(), errServer, true)
			require.NoError(b.tb, err)
		case n < 35: // the outcome of a request is unknown
			_, _, err := b.BeginRequest(b.ctx, c.Lease(), uuid.New(), usage.Endpoint, 0)
			require.NoError(b.tb, err)
			_, err = b.Fail(b.ctx, c.Lease(), &task.Error{Code: task.CodeOutcomeUnknown, Disposition: task.Fail, Message: "cut off", Unknown: true}, false)
			require.NoError(b.tb, err)
		default:
			done = append(done, store.Completion{Lease: c.Lease(), ImageURL: "p/" + c.ID + ".png", Endpoint: usage.Endpoint, Usage: usage})
		}
	}
	_, err = b.Complete(b.ctx, done...)
	require.NoError(b.tb, err)
	return len(claimed) > 0
}

// texts returns the texts that a query selects.
func (b *testStore) texts(query string, args ...any) (out []string) {
	b.tb.Helper()
	rows, err := b.raw.QueryContext(b.ctx, query, args...)
	require.NoError(b.tb, err)
	defer rows.Close()
	for rows.Next() {
		var text string
		require.NoError(b.tb, rows.Scan(&text))
		out = append(out, text)
	}
	require.NoError(b.tb, rows.Err())
	return out
}

// sumsBySQL returns each figure as a text, summed row by row: "key figure sum". The key is an SQL expression for each of the rows.
func (b *testStore) sumsBySQL(ofResult, ofLedger, ofTask, where string) []string {
	b.tb.Helper()
	return b.texts(fmt.Sprintf(`
		select key || ' ' || figure || ' ' || sum(n) from (
			select %[1]s, 'pictures', 1::numeric from imagetasks.results x where outcome = 'completed' and at %[4]s
			union all select %[1]s, 'lost', 1 from imagetasks.results x where outcome = 'paid' and at %[4]s
			union all select %[1]s, 'cost ' || currency, (cost / 1000000.0)::numeric(30, 6) from imagetasks.results x where currency <> '' and at %[4]s
			union all select %[2]s, 'charged', - amount from imagetasks.ledger x where kind = 'charge' and created_at %[4]s
			union all select %[2]s, 'refunded', amount from imagetasks.ledger x where kind = 'refund' and created_at %[4]s
			union all select %[2]s, 'income', - amount from imagetasks.ledger x where kind in ('charge', 'refund') and created_at %[4]s
			union all select %[2]s, 'refunds', 1 from imagetasks.ledger x where kind = 'refund' and created_at %[4]s
			union all select %[3]s, 'unknown', unknown_outcomes from imagetasks.tasks x
				where unknown_outcomes > 0 and coalesce(completed_at, processing_started_at, updated_at) %[4]s
		) as figures (key, figure, n) group by key, figure having sum(n) <> 0 order by 1`, ofResult, ofLedger, ofTask, where))
}

// sumsOf returns the figures of a report in the form of sumsBySQL.
func sumsOf(t *testing.T, key string, s store.ReportSums) (out []string) {
	t.Helper()
	add := func(figure string, n int64) {
		if n != 0 {
			out = append(out, fmt.Sprintf("%s %s %d", key, figure, n))
		}
	}
	add("charged", s.Charged)
	for _, c := range s.Costs {
		assert.Regexp(t, `^\d+\.\d{6}$`, c.Amount)
		out = append(out, fmt.Sprintf("%s cost %s %s", key, c.Currency, c.Amount))
	}
	add("income", s.Income)
	add("lost", s.Lost)
	add("pictures", s.Pictures)
	add("refunded", s.Refunded)
	add("refunds", s.Refunds)
	add("unknown", s.Unknown)
	return out
}

var (
	unknownLine = regexp.MustCompile(` unknown \d+$`)
	madeLine    = regexp.MustCompile(`^[\w-]+-there (pictures|lost|income|cost \w+) `)
)

func onlyMade(lines []string) (out []string) {
	for _, line := range lines {
		if madeLine.MatchString(line) {
			out = append(out, line)
		}
	}
	return out
}

func withoutUnknown(lines []string) (out []string) {
	for _, line := range lines {
		if !unknownLine.MatchString(line) {
			out = append(out, line)
		}
	}
	return out
}

// A report equals an independent sum, to the unit, by each group and for a part of the time. It stays so when the tasks are pruned, apart from
// what is said to end with them.
func TestReport_EqualsSQL(t *testing.T) {
	t.Parallel()
	b := fresh(t)
	b.makeHistory(rand.New(rand.NewPCG(18, 18)))
	zones := map[string]*time.Location{}
	for _, name := range []string{"UTC", "Asia/Shanghai", "America/New_York"} {
		zone, err := time.LoadLocation(name)
		require.NoError(t, err)
		zones[name] = zone
	}
	const everything = `is not null`
	resultOf := func(column string) string {
		return `case when exists (select from imagetasks.results r where (r.task_id, r.run) = (x.task_id, x.run))
			then coalesce((select r.` + column + ` from imagetasks.results r where (r.task_id, r.run) = (x.task_id, x.run)), '') `
	}
	report := func(r store.ReportRequest) []string {
		t.Helper()
		if r.Zone == nil {
			r.Zone = time.UTC
		}
		r.Limit = 1000
		made, err := b.Report(b.ctx, r)
		require.NoError(t, err)
		assert.Zero(t, made.More)
		var lines []string
		for _, g := range made.Groups {
			key := g.Key
			if key == "" {
				key = "-"
			}
			lines = append(lines, sumsOf(t, key, g.ReportSums)...)
		}
		return append(lines, sumsOf(t, "total", made.Total)...)
	}
	byDay := func(zone string) string { return `to_char(%s at time zone '` + zone + `', 'YYYY-MM-DD')` }
	day := func(zone, column string) string { return fmt.Sprintf(byDay(zone), column) }
	const ended = `coalesce(completed_at, processing_started_at, updated_at)`
	same := func(name string, r store.ReportRequest, ofResult, ofLedger, ofTask, where string) []string {
		t.Helper()
		got := report(r)
		want := append(b.sumsBySQL(ofResult, ofLedger, ofTask, where), b.sumsBySQL(`'total'`, `'total'`, `'total'`, where)...)
		assert.ElementsMatch(t, want, got, name)
		return got
	}
	users := same("user", store.ReportRequest{By: store.ByUser}, `user_id`, `user_id`, `user_id`, everything)
	models := same("model", store.ReportRequest{By: store.ByModel}, `coalesce(nullif(model, ''), '-')`,
		`coalesce(nullif(`+resultOf("model")+` else (select t.model from imagetasks.tasks t where t.task_id = x.task_id) end, ''), '-')`,
		`coalesce(model, '-')`, everything)
	same("endpoint", store.ReportRequest{By: store.ByEndpoint}, `coalesce(nullif(endpoint, ''), '-')`,
		`coalesce(nullif(`+resultOf("endpoint")+` else (select coalesce(t.request_endpoint, t.endpoint) from imagetasks.tasks t
			where (t.task_id, t.run) = (x.task_id, x.run)) end, ''), '-')`,
		`coalesce(request_endpoint, endpoint, '-')`, everything)
	for name, zone := range zones {
		same("day in "+name, store.ReportRequest{By: store.ByDay, Zone: zone}, day(name, "x.at"), day(name, "created_at"), day(name, ended), everything)
	}
	york := zones["America/New_York"]
	from, to := store.StartOfDay(2026, time.February, 28, york), store.StartOfDay(2026, time.March, 9, york)
	part := `between (timestamp '2026-02-28 00:00' at time zone 'America/New_York') and (timestamp '2026-03-09 00:00' at time zone 'America/New_York') - interval '1 microsecond'`
	same("days of a part", store.ReportRequest{By: store.ByDay, Zone: york, From: from, To: to}, day("America/New_York", "x.at"), day("America/New_York", "created_at"),
		day("America/New_York", ended), part)
	same("users of a part", store.ReportRequest{By: store.ByUser, From: from, To: to}, `user_id`, `user_id`, `user_id`, part)

	// What the users have paid is what they lack.
	all, err := b.Report(b.ctx, store.ReportRequest{By: store.ByUser, Limit: 2})
	require.NoError(t, err)
	assert.Equal(t, 6, all.More)
	assert.Len(t, all.Groups, 2)
	assert.EqualValues(t, b.number(`select 7 * $1::int - (select sum(credits) from imagetasks.credits) + 40 * 3`, reportTasks*3), all.Total.Income)
	assert.Positive(t, all.Total.Unknown)
	assert.Positive(t, all.Total.Lost)

	var pruned store.Pruned
	for more := true; more; more = pruned.More(5000) {
		pruned, err = b.Prune(b.ctx, store.PruneConfig{Retention: time.Hour, RedriveWindow: time.Hour, Batch: 5000})
		require.NoError(t, err)
	}
	require.Less(t, b.number(`select count(*) from imagetasks.tasks`), 300)
	assert.Equal(t, withoutUnknown(users), withoutUnknown(report(store.ReportRequest{By: store.ByUser})))
	// A run without a result was refunded, so that only charges and refunds of the same sum lose their model.
	assert.Subset(t, report(store.ReportRequest{By: store.ByModel}), onlyMade(models))
}
