package e2e_test

import (
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTheStatusScreen(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	withDaemon(w)
	w.grant(5)
	w.env["HUNG_AFTER"] = "16s" // a sign of life every 2 seconds
	w.run("task-processor", "start").ok()
	w.enqueue("a lantern", "--count", "3")
	w.enqueue("[moderation]")
	w.until("all is done", func() bool { return w.count("completed") == 3 && w.count("failed") == 1 })
	w.round(0)
	w.until("its health is told", func() bool {
		return w.number(`select count(*) from imagetasks_processors 
			where jsonb_array_length(report->'health_checks') = 2 and (report->>'in_flight')::int = 0 and (report->'counts'->>'completed')::int = 3`) == 1
	})

	screen := w.run("task-processor", "status").ok()
	for _, line := range []string{
		`(?m)^processor +running, pid \d+, since .*, version 0\.1\.0.*, last heartbeat .* ago; 0 of 3 in hand$`,
		`(?m)^tasks +0 pending, 0 processing, 3 completed, 1 failed, 0 cancelled$`,
		`(?m)^queue +0 due, the oldest for 0s; 0 stuck$`,
		`(?m)^last hour +3 completed, median [\d.]+m?s, p95 [\d.]+m?s$`,
		`(?m)^last hour +1 failed, median `,
		`(?m)^refunds +1 today, 1 credits$`,
		`(?m)^api +reached through http://127[0-9.:]+; answered at \d{4}-`,
		`(?m)^monitor +\d{4}-.* round: 0 stuck tasks failed`,
		`(?m)^cron +`,
		`(?m)^checks +\d\d:\d\d:\d\d ✓ api +responds`,
		`(?m)^ +\d\d:\d\d:\d\d ✓ database +responds`,
		`(?m)^All is well\.$`,
	} {
		assert.Regexp(t, line, screen)
	}
	assert.NotContains(t, screen, "\x1b", "no colour where there is no terminal")
	assert.LessOrEqual(t, strings.Count(screen, "\n"), 25, "one screen")
	terminal := w.run("/usr/bin/script", "--quiet", "--return", "--command", bin+"/task-processor status", "/dev/null").ok()
	assert.Contains(t, terminal, "\x1b[32mrunning")

	var said struct {
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
			What string
			OK   bool
		} `json:"health_checks"`
		Monitor  struct{ Summary string }
		Cron     struct{ Detail string }
		Problems []any
	}
	w.run("task-processor", "status", "--json").json(&said)
	assert.Equal(t, "running", said.Processor.Verdict)
	assert.Equal(t, w.pid(), said.Processor.PID)
	require.Len(t, said.Processors, 1)
	assert.Equal(t, 3, said.Processors[0].Report.Concurrency)
	assert.Equal(t, 3, said.Tasks["completed"])
	assert.Equal(t, 3, said.LastHour["completed"].Count)
	assert.Positive(t, said.LastHour["completed"].Median)
	assert.Equal(t, 1, said.Refunds.Credits)
	assert.Len(t, said.Checks, 2)
	assert.Contains(t, said.Monitor.Summary, "round: ")
	assert.NotEmpty(t, said.Cron.Detail)
	assert.Empty(t, said.Problems)

	// What is wrong comes with the next thing to do.
	require.NoError(t, syscall.Kill(w.pid(), syscall.SIGKILL))
	w.gone()
	w.stick(2, 30)
	screen = w.run("task-processor", "status").is(3)
	assert.Contains(t, screen, "! the processor is dead\n  next: task-processor start\n")
	assert.Contains(t, screen, "! 2 tasks are stuck\n  next: fix-stuck-tasks\n")
	w.run("fix-stuck-tasks").ok()
	w.run("task-processor", "stop").ok()
	w.run("task-processor", "status").ok()
	w.grant(1)
	w.enqueue("nobody comes")
	assert.Contains(t, w.run("task-processor", "status").is(3), "1 tasks wait, and the processor was stopped by")
}
