package e2e_test

import (
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/simapi"
	"imagetasks/internal/simproxy"
)

func through(scheme string) option {
	return func(_ *simapi.Config, p *simproxy.Config) { p.Scheme = scheme }
}

func slow(delay time.Duration) option {
	return func(a *simapi.Config, _ *simproxy.Config) { a.Delay = delay }
}

func TestRunOnce_PicturesThroughProxy(t *testing.T) {
	for _, scheme := range []string{"http", "socks5"} {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			w := newFixture(t, through(scheme))
			w.grant(30)
			require.Len(t, w.enqueue("a lantern of zinnober", "--count", "10"), 10)
			for _, behaviour := range []string{"moderation", "500 once", "429 once", "html", "text"} {
				require.Len(t, w.enqueue("["+behaviour+"] a lantern of zinnober"), 1)
			}
			ended := w.run("task-processor", "run", "--once", "--log-level", "debug")
			ended.ok()
			assert.Empty(t, ended.stdout, "logs belong on stderr")
			assert.NotContains(t, ended.stderr, "zinnober", "a prompt is the user's own")

			var status struct{ Tasks map[string]int }
			w.run("task-processor", "status", "--json").json(&status)
			assert.Equal(t, map[string]int{"completed": 12, "failed": 3, "pending": 0, "processing": 0, "cancelled": 0}, status.Tasks)
			assert.Equal(t, 18, w.credits())
			w.audit()
			require.Len(t, w.pictures(), 12)
			for _, name := range w.pictures() {
				head, err := os.ReadFile(name)
				require.NoError(t, err)
				assert.True(t, strings.HasSuffix(name, ".png") && strings.HasPrefix(string(head), "\x89PNG\r\n\x1a\n"), name)
			}
			assert.Len(t, w.api.Calls(), 18, "those of the web page are repeated once")
			assert.Zero(t, w.directCalls())
			log, err := os.ReadFile(filepath.Join(w.dir, "task-processor.log"))
			require.NoError(t, err)
			assert.Contains(t, string(log), "moderation_blocked")
			assert.NotContains(t, string(log), "zinnober")
		})
	}
}

func TestProcessList_NoSecrets(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.grant(5)
	w.enqueue("a lantern", "--count", "3")
	release := w.api.BlockResponses()
	database := w.env["DATABASE_URL"]
	delete(w.env, "DATABASE_URL")
	var running []*process
	for _, args := range [][]string{{"run", "--once", "--database-url", database}, {"--database-url=" + database, "run", "--once"}} {
		running = append(running, w.start("task-processor", args...))
	}
	w.waitFor("requests at the API", func() bool { return len(w.api.Calls()) == 3 })
	for pid, line := range commandLines(t) {
		for _, secret := range []string{apiKey, proxyPassword, url.PathEscape(proxyPassword), databasePassword} {
			assert.NotContains(t, line, secret, "process %s", pid)
		}
	}
	release()
	for _, p := range running {
		p.result().ok()
	}
	w.env["DATABASE_URL"] = database
	assert.Equal(t, 3, w.count("completed"))
}

func TestEnqueue_InsufficientCredits(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.grant(5)
	r := w.run("task-processor", "enqueue", "--user", w.user, "--prompt", "too many", "--count", "3", "--cost", "2")
	assert.Empty(t, r.is(1))
	assert.Contains(t, r.stderr, "nothing was enqueued or charged")
	assert.Contains(t, r.stderr, "the balance is 5, needed are 6")
	assert.Zero(t, w.number(`select count(*) from imagetasks.tasks`))
	assert.Equal(t, 5, w.credits())
	assert.Len(t, w.enqueue("just enough", "--count", "5"), 5)
	assert.Equal(t, 0, w.credits())
	w.audit()
}

func TestRun_FourProcesses(t *testing.T) {
	t.Parallel()
	dot := simapi.Draw("a dot")
	w := newFixture(t, func(a *simapi.Config, _ *simproxy.Config) { a.Picture = func(string) []byte { return dot } })
	w.grant(2000)
	for range 2 {
		w.enqueue("a dot", "--count", "1000")
	}
	var four []*process
	for range 4 {
		four = append(four, w.start("task-processor", "run", "--once", "--concurrency", "8", "--log-level", "warn"))
	}
	for _, p := range four {
		p.result().ok()
	}
	// A task that was claimed ahead, and waited for too long, was given back, which its record tells.
	assert.Equal(t, 2000, w.number(`select count(*) from imagetasks.tasks where status = 'completed' and attempt_count = 0 and requests_sent = 1
		and lease_epoch = 1 + jsonb_array_length(jsonb_path_query_array(attempts, '$[*] ? (@.outcome == "release")'))`))
	assert.Len(t, w.api.Calls(), 2000)
	assert.Len(t, w.pictures(), 2000)
	assert.Zero(t, w.directCalls())
	assert.Equal(t, 0, w.credits())
	w.audit()
}

func TestRun_SIGTERM(t *testing.T) {
	t.Parallel()
	w := newFixture(t, slow(20*time.Millisecond))
	w.grant(40)
	w.enqueue("a river", "--count", "40")
	p := w.start("task-processor", "run", "--concurrency", "4", "--shutdown-grace", "200ms")
	w.waitFor("some pictures", func() bool { return w.count("completed") >= 8 })
	release := w.api.BlockResponses()
	w.waitFor("all hands busy", func() bool {
		return w.number(`select count(*) from imagetasks.tasks where current_stage = 'waiting for the API' or status = 'processing'`) >= 4
	})
	require.NoError(t, p.Process.Signal(syscall.SIGTERM))
	w.waitFor("it stops", func() bool { return strings.Contains(p.stderr.String(), "stopping: no more tasks are claimed") })
	time.Sleep(time.Second) // longer than the grace
	release()
	p.result().ok()

	assert.Zero(t, w.count("processing"))
	assert.Equal(t, 40, w.count("completed")+w.count("pending"))
	assert.Zero(t, w.number(`select count(*) from imagetasks.tasks where status = 'pending' and (attempt_count <> 0 or requests_sent <> 0)`),
		"a paid request may take longer than the grace")
	assert.Equal(t, w.count("completed"), len(w.pictures()))
	w.audit()

	w.run("task-processor", "run", "--once", "--concurrency", "4").ok()
	assert.Equal(t, 40, w.number(`select count(*) from imagetasks.tasks where status = 'completed' and attempt_count = 0 and requests_sent = 1`))
	assert.Len(t, w.api.Calls(), 40)
	assert.Equal(t, 0, w.credits())
	assert.Len(t, w.pictures(), 40)
	w.audit()
}

func TestRun_SecondSignal(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.grant(1)
	w.enqueue("a slow river")
	defer w.api.BlockResponses()()
	p := w.start("task-processor", "run", "--shutdown-grace", "1h")
	w.waitFor("a request", func() bool { return len(w.api.Calls()) == 1 })
	require.NoError(t, p.Process.Signal(os.Interrupt))
	w.waitFor("it stops", func() bool { return strings.Contains(p.stderr.String(), "stop") })
	p.stop(os.Interrupt.(syscall.Signal)).ok()
	assert.Equal(t, 1, w.number(`select count(*) from imagetasks.tasks where status = 'pending' and attempt_count = 0`))
}

func TestRun_ReclaimsTasksOfKilledProcessor(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.grant(6)
	w.enqueue("a bridge", "--count", "6")
	release := w.api.BlockResponses()
	p := w.start("task-processor", "run", "--lease", "2s", "--concurrency", "3")
	w.waitFor("three requests", func() bool { return len(w.api.Calls()) == 3 })
	p.stop(syscall.SIGKILL)
	release()
	next := w.start("task-processor", "run", "--lease", "2s", "--concurrency", "3")
	w.waitFor("all pictures", func() bool { return w.count("completed") == 6 })
	next.stop(syscall.SIGTERM).ok()
	assert.Equal(t, 3, w.number(`select count(*) from imagetasks.tasks where attempt_count = 0 and lost_claims = 1 and unknown_outcomes = 1 and requests_sent = 2 and lease_epoch = 2`))
	assert.Len(t, w.pictures(), 6, "a draft was left behind")
	assert.Equal(t, 0, w.credits())
	w.audit()
}

func TestCancel_RefundsOnce(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.grant(1)
	id := w.enqueue("never mind")[0]
	var wg sync.WaitGroup
	codes := make(chan int, 4)
	for range 4 {
		p := w.start("task-processor", "cancel", "--task", id)
		wg.Go(func() { codes <- p.result().code })
	}
	wg.Wait()
	close(codes)
	done := 0
	for code := range codes {
		if code == 0 {
			done++
		}
	}
	assert.Equal(t, 4, done, "each caller gets the same result")
	assert.Equal(t, 1, w.credits())
	w.audit()
}

func TestRepair_MonitorAndFixStuckTasks(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.grant(3)
	w.enqueue("stuck", "--count", "3")
	age := func(n int, minutes int) {
		_, err := w.db.Exec(`update imagetasks.tasks set status = 'processing', processing_started_at = now() - $2 * interval '1 minute'
			where task_id in (select task_id from imagetasks.tasks where status = 'pending' limit $1)`, n, minutes)
		require.NoError(t, err)
	}
	age(1, 21)
	assert.Contains(t, w.run("monitor-tasks", "--dry-run").is(3), "1 task is stuck")
	assert.Equal(t, 1, w.count("processing"))
	assert.Contains(t, w.run("monitor-tasks").is(3), "! 2 tasks are due, and no processor is running")
	age(1, 21)
	age(1, 19)
	var report struct {
		Tasks []struct {
			Age float64 `json:"age_seconds"`
		}
		Credits int `json:"credits_refunded"`
		Left    int `json:"stuck_remaining"`
	}
	r := w.run("fix-stuck-tasks", "--json")
	r.ok()
	r.json(&report)
	require.Len(t, report.Tasks, 1)
	assert.Greater(t, report.Tasks[0].Age, 1200.0)
	assert.Equal(t, 1, report.Credits)
	assert.Equal(t, 2, w.count("failed"))
	assert.Equal(t, 1, w.count("processing"))
	assert.Equal(t, 2, w.credits())
	log, err := os.ReadFile(filepath.Join(w.dir, "task-monitor.log"))
	require.NoError(t, err)
	assert.Contains(t, string(log), "pass: 1 stuck task failed, 1 credit refunded, 0 remaining")
	w.audit()
}

func TestAudit_Violations(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.grant(3)
	id := w.enqueue("unlucky")[0]
	_, err := w.db.Exec(`update imagetasks.tasks set status = 'failed' where task_id = $1`, id)
	require.NoError(t, err)
	assert.Contains(t, w.run("fix-stuck-tasks", "audit").is(3), id)
	var found struct {
		OK     bool
		Broken int
	}
	r := w.run("fix-stuck-tasks", "audit", "--json")
	r.is(3)
	r.json(&found)
	assert.False(t, found.OK)
	assert.Equal(t, 1, found.Broken)
}
