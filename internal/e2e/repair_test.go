package e2e_test

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// insertStuck inserts charged tasks that have been processing for that many minutes, without a processor. They
// appear as such at once, so that no processor takes them for pending.
func (w *fixture) insertStuck(n, minutes int) {
	w.t.Helper()
	user := uuid.NewString()
	_, err := w.db.Exec(`with balance as (insert into imagetasks.credits (user_id, credits) values ($1, 0))
		insert into imagetasks.ledger (user_id, kind, amount, balance_after) values ($1, 'grant', $2, $2)`, user, n)
	require.NoError(w.t, err)
	_, err = w.db.Exec(`with made as (
			insert into imagetasks.tasks (task_id, user_id, prompt, credits_deducted, status, attempt_count, lease_epoch,
				lease_expires_at, processing_started_at)
			select 'stuck-' || gen_random_uuid(), $1, 'stuck', 1, 'processing', 1, 1, now() + interval '1 hour', now() - $3 * interval '1 minute'
			from generate_series(1, $2)
			returning task_id
		)
		insert into imagetasks.ledger (user_id, task_id, run, kind, amount, balance_after)
		select $1, task_id, 1, 'charge', -1, $2 - row_number() over () from made`, user, n, minutes)
	require.NoError(w.t, err)
}

func TestRepair_ConcurrentMonitorsAndFixers(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.insertStuck(300, 21)
	w.insertStuck(100, 19)
	var all []*process
	for host := range 4 {
		dir := filepath.Join(w.dir, fmt.Sprintf("host %d", host)) // passes on one host never overlap
		require.NoError(t, os.Mkdir(dir, 0o755))
		all = append(all,
			w.start("monitor-tasks", "--log-dir", dir),
			w.start("fix-stuck-tasks", "--log-dir", dir))
	}
	for _, p := range all {
		r := p.result()
		// 3: tasks that another process was closing at that moment were still stuck.
		assert.Contains(t, []int{0, 3}, r.code, "%s\n%s", r.line, r.stderr)
	}
	assert.Equal(t, 300, w.count("failed"))
	assert.Equal(t, 100, w.count("processing"))
	assert.Equal(t, 300, w.number(`select count(*) from imagetasks.ledger where kind = 'refund'`))
	assert.Equal(t, 300, w.number(`select count(distinct task_id) from imagetasks.ledger where kind = 'refund'`))
	assert.Equal(t, 300, w.number(`select sum(credits)::int from imagetasks.credits`))
	w.audit()
	lines := 0
	logs, err := filepath.Glob(filepath.Join(w.dir, "host *", "*.log"))
	require.NoError(t, err)
	for _, path := range logs {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		for line := range strings.Lines(string(text)) {
			if strings.Contains(line, "stuck: failed and refunded") {
				lines++
				for _, field := range []string{"task=", "user=", "age=21m", "refund=1", "balance="} {
					assert.Contains(t, line, field)
				}
			}
		}
	}
	assert.Equal(t, 300, lines, "each task is logged once")
}

func TestMonitor_PassesDoNotOverlap(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.insertStuck(1, 30)
	watching := w.start("monitor-tasks", "--watch", "--interval", "1h", "--watch-addr", "127.0.0.1:0")
	w.waitFor("the first pass", func() bool { return w.count("failed") == 1 })
	w.insertStuck(1, 30)
	assert.Contains(t, w.run("monitor-tasks").ok(), "another monitor pass is running")
	assert.Equal(t, 1, w.count("processing"))
	assert.Contains(t, w.run("monitor-tasks", "--watch").is(1)+w.run("monitor-tasks", "--watch").stderr, "another monitor pass is running")

	body, status := w.get(watching, "/status.json")
	assert.Equal(t, 200, status)
	var shown struct {
		Last   monitorReport            `json:"last_pass"`
		Checks []struct{ Check string } `json:"health_checks"`
	}
	w.waitFor("the pass is shown", func() bool {
		body, _ = w.get(watching, "/status.json")
		require.NoError(t, json.Unmarshal([]byte(body), &shown))
		return shown.Last.Summary != ""
	})
	assert.Len(t, shown.Last.Repair.Tasks, 1)
	assert.NotEmpty(t, shown.Checks)
	watching.stop(syscall.SIGTERM).ok()
	assert.Contains(t, w.run("monitor-tasks").ok(), "1 stuck task failed")
}

func TestMonitorWatch_DatabaseOutage(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	p := w.start("monitor-tasks", "--watch", "--interval", "50ms")
	for i := range 3 {
		w.insertStuck(2, 21+i)
		w.waitFor("a sweep", func() bool { return w.count("failed") == 2*(i+1) })
	}
	var name string
	require.NoError(t, w.db.QueryRow(`select current_database()`).Scan(&name))
	other, err := sql.Open("postgres", server.URL("postgres"))
	require.NoError(t, err)
	defer other.Close()
	forbid := func(yes bool) {
		_, err := other.Exec(fmt.Sprintf(`alter database %s allow_connections %t`, name, !yes))
		require.NoError(t, err)
	}
	forbid(true)
	defer forbid(false)
	_, err = other.Exec(`select pg_terminate_backend(pid) from pg_stat_activity where datname = $1`, name)
	require.NoError(t, err)
	w.waitFor("the outage is logged", func() bool { return strings.Contains(p.stderr.String(), "the database does not respond") })
	forbid(false)
	w.insertStuck(1, 30)
	w.waitFor("the next sweep", func() bool { return w.count("failed") == 7 })
	p.stop(syscall.SIGINT).ok()
	w.audit()
}

// The API is checked every 30 minutes, and at once after many stuck tasks.
func TestMonitor_APICheckInterval(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	first := w.monitorPass(0)
	assert.True(t, first.API.OK)
	assert.Equal(t, first.API.At, w.monitorPass(0).API.At, "not again within 30 minutes")
	w.insertStuck(9, 30)
	assert.Equal(t, first.API.At, w.monitorPass(0).API.At, "9 stuck tasks are no reason")
	w.insertStuck(10, 30)
	second := w.monitorPass(0)
	assert.NotEqual(t, first.API.At, second.API.At, "10 are")
	assert.Zero(t, w.directCalls(), "through the proxy")

	// Half an hour later, according to the state file.
	later := func() {
		text := w.file("task-monitor.state")
		var state map[string]any
		require.NoError(t, json.Unmarshal([]byte(text), &state))
		state["api"].(map[string]any)["at"] = time.Now().Add(-31 * time.Minute)
		changed, err := json.Marshal(state)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(w.dir, "task-monitor.state"), changed, 0o644))
	}
	later()
	third := w.monitorPass(0)
	assert.NotEqual(t, second.API.At, third.API.At)
	require.NoError(t, w.proxy.Close())
	later()
	down := w.monitorPass(3)
	assert.False(t, down.API.OK)
	assert.Equal(t, "api_unreachable", down.Problems[0].Code)
	assert.Equal(t, bin+"/simple-test", down.Problems[0].Do)
	assert.Contains(t, w.run("task-processor", "status").is(3), "next: "+bin+"/simple-test\n")
	w.monitorPass(3) // reported until the API responds
}

func TestFixStuckTasks_Selection(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.insertStuck(3, 21)
	w.insertStuck(2, 10)
	ids := func(where string) []string {
		rows, err := w.db.Query(`select task_id from imagetasks.tasks where ` + where + ` order by task_id`)
		require.NoError(t, err)
		defer rows.Close()
		var out []string
		for rows.Next() {
			var id string
			require.NoError(t, rows.Scan(&id))
			out = append(out, id)
		}
		return out
	}
	old := ids(`processing_started_at < now() - interval '20 minutes'`)
	young := ids(`processing_started_at > now() - interval '20 minutes'`)
	var youngUser string
	require.NoError(t, w.db.QueryRow(`select user_id from imagetasks.tasks where task_id = $1`, young[0]).Scan(&youngUser))

	output := w.run("fix-stuck-tasks", "--dry-run").is(3)
	assert.Contains(t, output, "3 stuck tasks would fail, 3 credits would be refunded; nothing was changed")
	for _, id := range old {
		assert.Contains(t, output, id)
	}
	assert.Equal(t, 5, w.count("processing"))

	assert.Contains(t, w.run("fix-stuck-tasks", "--limit", "1").is(3), "1 stuck task failed, 1 credit refunded, 2 remaining")
	left := ids(`status = 'processing' and processing_started_at < now() - interval '20 minutes'`)
	output = w.run("fix-stuck-tasks", "--task", left[0], "--task", young[0], "--task", "no-such-task").is(3)
	assert.Contains(t, output, "1 stuck task failed")
	assert.Contains(t, output, "not repaired: "+young[0]+": it has been processing for less than 20m (--older-than)")
	assert.Contains(t, output, "not repaired: no-such-task: the task does not exist")
	w.run("fix-stuck-tasks", "--task", young[0], "--older-than", "5m").ok()
	assert.Contains(t, w.run("fix-stuck-tasks", "--task", young[0]).is(3), "its status is failed; it is not stuck")

	// Requeued: nothing is refunded, no attempt is used, and the task is due at once.
	w.run("fix-stuck-tasks", "--user", youngUser, "--older-than", "5m", "--requeue").ok()
	assert.Equal(t, 1, w.number(`select count(*) from imagetasks.tasks where status = 'pending' and attempt_count = 1 and task_id = $1`, young[1]))
	assert.Equal(t, 0, w.number(`select count(*) from imagetasks.ledger where kind = 'refund' and task_id = $1`, young[1]))
	assert.Equal(t, 1, w.count("processing"), "the other user's task is unchanged")
	w.audit()
	w.run("fix-stuck-tasks").ok()
	w.run("task-processor", "run", "--once").ok()
	assert.Equal(t, 1, w.count("completed"))
	assert.Equal(t, 4, w.count("failed"))
	w.audit()
}

// Ctrl-C stops between batches: closed tasks are reported, and the next run closes the rest. A terminal shows a progress bar.
func TestFixStuckTasks_Many(t *testing.T) {
	t.Parallel()
	const many = 100_000
	w := newFixture(t)
	_, err := w.db.Exec(`with users as (
			insert into imagetasks.credits (user_id, credits) select gen_random_uuid()::text, 0 from generate_series(1, 500) returning user_id
		), numbered as (select user_id, row_number() over () - 1 as u from users
		), made as (
			insert into imagetasks.tasks (task_id, user_id, prompt, credits_deducted, status, processing_started_at, lease_epoch, attempt_count)
			select 'stuck-' || n, user_id, 'x', 1, 'processing', now() - interval '1 hour', 1, 1
			from generate_series(1, $1) n join numbered on u = n % 500
			returning user_id
		)
		insert into imagetasks.ledger (user_id, kind, amount, balance_after) select user_id, 'grant', count(*), count(*) from made group by user_id`, many)
	require.NoError(t, err)
	_, err = w.db.Exec(`insert into imagetasks.ledger (user_id, task_id, run, kind, amount, balance_after)
		select user_id, task_id, 1, 'charge', -1, (count(*) over (partition by user_id)) - row_number() over (partition by user_id order by task_id)
		from imagetasks.tasks order by user_id, task_id`)
	require.NoError(t, err)
	interrupted := w.start("fix-stuck-tasks")
	w.waitFor("some", func() bool { return w.count("failed") > 0 })
	r := interrupted.stop(syscall.SIGINT)
	unreported := 0
	if r.code != 0 { // 0: it had already ended
		r.is(1)
		if !strings.Contains(r.stderr, "run it again to continue") { // the last batch took longer than an interrupt allows
			assert.Contains(t, r.stderr, "unknown")
			unreported = 1000
		}
	}
	done := w.count("failed")
	logged := strings.Count(w.file("fix-stuck-tasks.log"), "stuck: failed and refunded")
	assert.GreaterOrEqual(t, logged, done-unreported, "every closed task is in the log")
	assert.LessOrEqual(t, logged, done)

	// script(1) gives it a terminal.
	w.env["TASK_LEASE"] = "1s"
	output := w.run("/usr/bin/script", "--quiet", "--return", "--command", bin+"/fix-stuck-tasks", "/dev/null").ok()
	assert.Contains(t, output, fmt.Sprintf("%d stuck tasks failed", many-done))
	assert.Regexp(t, `[0-9]+ tasks/s`, output)
	t.Log(output[strings.LastIndex(output, "\ntook ")+1:])
	assert.Contains(t, output, "100%")
	assert.NotContains(t, output, "stuck: failed and refunded", "the lines are in the log, not on the terminal")
	assert.Equal(t, many, w.count("failed"))
	assert.Equal(t, many, w.number(`select sum(credits)::int from imagetasks.credits`))
	w.audit()
}

// Refunds do not depend on the API's settings.
func TestMonitor_WithoutAPIKey(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.insertStuck(2, 30)
	delete(w.env, "OPENAI_API_KEY")
	report := w.monitorPass(3)
	assert.Len(t, report.Repair.Tasks, 2)
	assert.Contains(t, report.Problems[0].What, "OPENAI_API_KEY")
	assert.Equal(t, 2, w.count("failed"))
	w.audit()
}

// A pass that waits for a lock held by the application is killed: whatever the server does with its statement, the ledger is right.
func TestMonitor_KilledDuringRefund(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.insertStuck(1, 30)
	tx, err := w.db.Begin()
	require.NoError(t, err)
	// The statement has closed the task and changed the balance when it waits for the ledger.
	_, err = tx.Exec(`lock table imagetasks.ledger in exclusive mode`)
	require.NoError(t, err)
	p := w.start("monitor-tasks")
	w.waitFor("a lock wait", func() bool {
		return w.number(`select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`) == 1
	})
	r := p.stop(syscall.SIGKILL)
	assert.NotZero(t, r.code)
	require.NoError(t, tx.Rollback())
	w.waitFor("the end of its session", func() bool {
		return w.number(`select count(*) from pg_stat_activity where datname = current_database() and application_name = 'imagetasks'`) == 0
	})
	w.run("monitor-tasks").ok()
	assert.Equal(t, 1, w.count("failed"))
	assert.Equal(t, 1, w.number(`select count(*) from imagetasks.ledger where kind = 'refund'`))
	w.audit()
}

// PENDING_TIMEOUT is a day by default; the monitor applies it even when no processor runs.
func TestPendingTimeout_FailsAndRefunds(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.grant(4)
	w.enqueue("a lantern", "--count", "4")
	dueFor := func(hours int) {
		_, err := w.db.Exec(`update imagetasks.tasks set run_after = now() - $1 * interval '1 hour'
			where task_id in (select task_id from imagetasks.tasks order by task_id limit 3)`, hours)
		require.NoError(t, err)
	}
	dueFor(23)
	w.run("monitor-tasks").is(3) // no processor is running
	assert.Equal(t, 4, w.count("pending"), "less than a day")
	dueFor(25)
	w.env["PENDING_TIMEOUT"] = "off"
	w.run("monitor-tasks").is(3)
	assert.Equal(t, 4, w.count("pending"), "off")
	delete(w.env, "PENDING_TIMEOUT")
	assert.Contains(t, w.run("monitor-tasks", "--dry-run").is(3), "3 overdue tasks would fail", "the default")

	dueFor(2)
	w.env["PENDING_TIMEOUT"] = "90m"
	assert.Contains(t, w.run("monitor-tasks", "--dry-run").is(3), "3 overdue tasks would fail")
	assert.Equal(t, 4, w.count("pending"))
	assert.Contains(t, w.run("monitor-tasks").is(3), "3 credits refunded, 0 remaining, 3 overdue tasks failed")
	assert.Equal(t, 3, w.number(`select count(*) from imagetasks.tasks where status = 'failed' and error_code = 'pending_timeout' and credits_refunded = 1`))
	assert.Equal(t, 1, w.count("pending"))
	assert.Equal(t, 3, w.credits())
	assert.Equal(t, 3, strings.Count(w.file("task-monitor.log"), "due for longer than PENDING_TIMEOUT"))
	w.audit()
}

// API_RATE limits how many tasks start, and the processor fails those that stay due for longer than PENDING_TIMEOUT.
func TestRun_RateAndPendingTimeout(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.env["PENDING_TIMEOUT"] = "1h"
	w.grant(3)
	w.enqueue("a lantern", "--count", "3")
	p := w.start("task-processor", "run", "--api-rate", "1", "--lease", "3s", "--status-addr", "127.0.0.1:0")
	w.waitFor("the first picture", func() bool { return w.count("completed") == 1 })
	assert.Equal(t, 1, w.statusOf(p).Processor.Endpoints[0].Rate)
	_, err := w.db.Exec(`update imagetasks.tasks set run_after = now() - interval '2 hours' where status = 'pending'`)
	require.NoError(t, err)
	w.waitFor("the rest is refunded", func() bool {
		return w.number(`select count(*) from imagetasks.tasks where status = 'failed' and error_code = 'pending_timeout' and attempt_count = 0`) == 2
	})
	p.stop(syscall.SIGTERM).ok()
	assert.Len(t, w.api.Calls(), 1)
	assert.Equal(t, 2, w.credits())
	w.audit()
}
