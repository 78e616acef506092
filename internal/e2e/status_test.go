package e2e_test

import (
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestStatus_Screen(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	withDaemon(w)
	w.grant(5)
	w.env["HUNG_AFTER"] = "16s" // a heartbeat every 2 seconds
	w.run("task-processor", "start").ok()
	w.enqueue("a lantern", "--count", "3")
	w.enqueue("[moderation]")
	w.waitFor("all tasks to close", func() bool { return w.count("completed") == 3 && w.count("failed") == 1 })
	w.monitorPass(0)
	w.waitFor("the health checks", func() bool {
		return w.number(`select count(*) from imagetasks.processors 
			where jsonb_array_length(report->'health_checks') = 2 and (report->>'in_flight')::int = 0 and (report->'counts'->>'completed')::int = 3`) == 1
	})

	screen := w.run("task-processor", "status").ok()
	for _, line := range []string{
		`(?m)^processor +running \(pid \d+\), processing 0/3, last heartbeat .* ago, since .*, version 0\.1\.0`,
		`(?m)^tasks +0 pending, 0 processing, 3 completed, 1 failed, 0 cancelled$`,
		`(?m)^queue +no tasks due; 0 stuck$`,
		`(?m)^last hour +3 completed, median [\d.]+m?s, p95 [\d.]+m?s$`,
		`(?m)^last hour +1 failed, median `,
		`(?m)^refunds +1 today, 1 credit$`,
		`(?m)^api +through http://127[0-9.:]+; last response at \d{4}-`,
		`(?m)^monitor +\d{4}-.* pass: 0 stuck tasks failed`,
		`(?m)^cron +`,
		`(?m)^checks +\d\d:\d\d:\d\d ✓ api +responds`,
		`(?m)^ +\d\d:\d\d:\d\d ✓ database +responds`,
		`(?m)^All is well\.$`,
	} {
		assert.Regexp(t, line, screen)
	}
	assert.NotContains(t, screen, "\x1b", "no color without a terminal")
	assert.LessOrEqual(t, strings.Count(screen, "\n"), 25, "one screen")
	terminal := w.run("/usr/bin/script", "--quiet", "--return", "--command", bin+"/task-processor status", "/dev/null").ok()
	assert.Contains(t, terminal, "\x1b[32mrunning")

	var report struct {
		Processor struct {
			Verdict string
			PID     int
		}
		Processors []struct {
			Version string
			Report  struct{ Concurrency int }
		}
		Tasks    map[string]int
		LastHour map[string]struct {
			Count  int
			Median float64 `json:"median_seconds"`
		} `json:"last_hour"`
		Refunds struct{ Count, Credits int } `json:"refunds_today"`
		Checks  []struct {
			Check string
			OK    bool
		} `json:"health_checks"`
		Monitor  struct{ Summary string }
		Cron     struct{ Status string }
		Problems []any
	}
	w.run("task-processor", "status", "--json").json(&report)
	assert.Equal(t, "running", report.Processor.Verdict)
	assert.Equal(t, w.pid(), report.Processor.PID)
	require.Len(t, report.Processors, 1)
	assert.Equal(t, 3, report.Processors[0].Report.Concurrency)
	assert.Equal(t, 3, report.Tasks["completed"])
	assert.Equal(t, 3, report.LastHour["completed"].Count)
	assert.Positive(t, report.LastHour["completed"].Median)
	assert.Equal(t, 1, report.Refunds.Credits)
	assert.Len(t, report.Checks, 2)
	assert.Contains(t, report.Monitor.Summary, "pass: ")
	assert.NotEmpty(t, report.Cron.Status)
	assert.Empty(t, report.Problems)

	// Each problem names the command to run next.
	require.NoError(t, syscall.Kill(w.pid(), syscall.SIGKILL))
	w.waitUntilStopped()
	w.insertStuck(2, 30)
	screen = w.run("task-processor", "status").is(3)
	assert.Contains(t, screen, "! the processor is not running: its process ended without a stop command\n  next: "+bin+"/task-processor start\n")
	assert.Contains(t, screen, "! 2 tasks are stuck\n  next: "+bin+"/fix-stuck-tasks\n")
	w.run("fix-stuck-tasks").ok()
	w.run("task-processor", "stop").ok()
	w.run("task-processor", "status").ok()
	w.grant(1)
	w.enqueue("unclaimed")
	assert.Contains(t, w.run("task-processor", "status").is(3), "! 1 task is due, and the processor was stopped by")
}
