package e2e_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/simapi"
)

var nextLine = regexp.MustCompile(`(?m)^  next: (.*)$`)

// runNext runs the first command that a report names, as typed: by a shell in the working directory.
func (w *fixture) runNext(report string) result {
	w.t.Helper()
	next := nextLine.FindStringSubmatch(report)
	require.NotNil(w.t, next, report)
	return w.run("/bin/sh", "-c", next[1])
}

// Nothing runs, no crontab entry is installed, and the monitor has never run: nothing would notice a task.
func TestStatus_NotSupervised(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.install()
	withDaemon(w)
	delete(w.env, "LOG_DIR")
	spool := w.spool()
	require.NoError(t, os.CopyFS(filepath.Join(w.dir, "bin"), os.DirFS(bin)))
	w.writeEnv()
	w.env["SSL_CERT_FILE"] = w.env["TRUSTED"]
	report := w.runWithCrontabs(spool, "bin/task-processor", "status").is(3)
	assert.Contains(t, report, "! no processor is running, and nothing would start one")
	assert.NotContains(t, report, "All is well")
	assert.Contains(t, report, "\n  next: ./scripts/monitoring-setup.sh\n")
	assert.Contains(t, w.runWithCrontabs(spool, "bin/task-processor", "status", "--lang", "zh").is(3), "也没有任何机制会启动它")

	w.runWithCrontabs(spool, "/bin/sh", "-c", nextLine.FindStringSubmatch(report)[1]).ok()
	assert.Contains(t, w.runWithCrontabs(spool, "bin/task-processor", "status").ok(), "All is well.")

	// The entries are installed for longer than two intervals, and no pass happened: cron does not run.
	crontab := w.runWithCrontabs(spool, "crontab", "-l").ok()
	installed := regexp.MustCompile(`(?m)^# Installed (.*)$`)
	require.Regexp(t, installed, crontab)
	old := filepath.Join(t.TempDir(), "crontab")
	before := time.Now().Add(-11 * time.Minute).UTC().Format(time.RFC3339)
	require.NoError(t, os.WriteFile(old, []byte(installed.ReplaceAllString(crontab, "# Installed "+before)), 0o644))
	w.runWithCrontabs(spool, "crontab", old).ok()
	report = w.runWithCrontabs(spool, "bin/task-processor", "status").is(3)
	assert.Contains(t, report, "! the crontab entries are installed, but the monitor has not run since")
	assert.Contains(t, report, "\n  next: bin/monitor-tasks\n")
	w.runNext(report).ok()
	assert.Contains(t, w.runWithCrontabs(spool, "bin/task-processor", "status").ok(), "All is well.")
}

// From another directory, and with an env file, the next command still works as typed.
func TestStatus_NextCommandWorksAsTyped(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	withDaemon(w)
	w.monitorPass(0)
	file := filepath.Join(w.dir, "it's my.env")
	require.NoError(t, os.WriteFile(file, []byte("DATABASE_URL='"+w.env["DATABASE_URL"]+"'\n"), 0o600))
	delete(w.env, "DATABASE_URL")
	w.insertStuck(1, 30)
	report := w.run("task-processor", "status", "--env-file", file).is(3)
	assert.Contains(t, report, "! 1 task is stuck\n")
	w.runNext(report).ok()
	w.run("task-processor", "status", "--env-file", file).ok()
}

func TestStatus_EmptyQueueHasNoOldestTask(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.monitorPass(0)
	report := w.run("task-processor", "status").ok()
	assert.Contains(t, report, "no tasks due; 0 stuck")
	assert.NotContains(t, report, "0s")
	assert.Contains(t, w.run("task-processor", "status", "--lang", "zh").ok(), "没有待领取的任务；0 个卡住")
}

// 30 of 30 tasks failed within the hour for one cause.
func TestStatus_TasksFailing(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.monitorPass(0)
	w.grant(30)
	w.enqueue("[moderation]", "--count", "30")
	w.run("task-processor", "run", "--once", "--concurrency", "10").ok()
	report := w.run("task-processor", "status").is(3)
	assert.Contains(t, report, "! 30 of the 30 tasks closed within the last hour failed with moderation_blocked. ")
	var document struct {
		Problems []struct {
			Code, Cause, What string
			Count, Total      int
		}
		Failures []struct {
			Code  string `json:"error_code"`
			Count int
		} `json:"last_hour_failures"`
	}
	w.run("task-processor", "status", "--json").json(&document)
	require.Len(t, document.Problems, 1)
	assert.Equal(t, "tasks_failing", document.Problems[0].Code)
	assert.Equal(t, "moderation_blocked", document.Problems[0].Cause)
	assert.Equal(t, 30, document.Failures[0].Count)
	w.grant(31)
	w.enqueue("a lantern", "--count", "31")
	w.run("task-processor", "run", "--once", "--concurrency", "10").ok()
	w.run("task-processor", "status").ok()
}

// The monitor checked the API a while ago; the running processor knows that it is unreachable now.
func TestMonitor_UsesTheProcessorsStateOfTheAPI(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	withDaemon(w)
	w.env["HUNG_AFTER"] = "16s" // a heartbeat every 2 seconds
	assert.True(t, w.monitorPass(0).API.OK)
	w.run("task-processor", "start").ok()
	w.api.Refuse(&simapi.Refusal{Status: 401, Code: "invalid_api_key"})
	w.grant(1)
	w.enqueue("a lantern")
	w.waitFor("the processor to pause", func() bool {
		return w.number(`select count(*) from imagetasks.processors where report ? 'api_unreachable_since'`) == 1
	})
	report := w.monitorPass(3)
	require.Len(t, report.Problems, 1)
	assert.Equal(t, "api_unreachable", report.Problems[0].Code)
	assert.Contains(t, report.Summary, "API unreachable since")
	assert.NotContains(t, report.Summary, "API responded")
	screen := w.run("task-processor", "status").is(3)
	assert.Equal(t, 1, strings.Count(screen, "! the image API has refused all requests"), "reported once")
	w.api.Refuse(nil)
	w.waitFor("the picture", func() bool { return w.count("completed") == 1 })
	w.waitFor("a heartbeat", func() bool {
		return w.number(`select count(*) from imagetasks.processors where report ? 'api_unreachable_since'`) == 0
	})
	assert.Contains(t, w.monitorPass(0).Summary, "API responded")
	w.run("task-processor", "stop").ok()
}

// On a terminal no sentence is printed twice, once by the log and once by the command.
func TestTerminal_NoSentenceTwice(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.insertStuck(1, 30)
	terminal := func(command string) string {
		r := w.run("/usr/bin/script", "--quiet", "--return", "--command", bin+"/"+command, "/dev/null")
		return strings.ReplaceAll(r.stdout, "\r", "")
	}
	once := func(command, sentence string) {
		t.Helper()
		out := terminal(command)
		assert.Equal(t, 1, strings.Count(out, sentence), "%s: %s", command, out)
	}
	once("monitor-tasks", "1 stuck task failed")
	w.env["OPENAI_PROXY"] = "ftp://proxy:1"
	once("simple-test", "OPENAI_PROXY")
	once("task-processor run --once", "OPENAI_PROXY")
	w.env["OPENAI_PROXY"] = w.proxy.URL()
	w.env["DATABASE_URL"] = "postgres://operator@127.0.0.1:1/nowhere?sslmode=disable"
	once("monitor-tasks", "connection refused")
	once("task-processor run --once", "connection refused")
	once("fix-stuck-tasks", "connection refused")
	once("task-processor start", "connection refused")
}
