package e2e_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/supervise"
)

// withDaemon makes sure that no background processor outlives the test.
func withDaemon(w *fixture) {
	w.env["LOG_DIR"] = w.dir
	w.t.Cleanup(func() {
		if pid := w.lockHolder(); pid != 0 {
			_ = syscall.Kill(pid, syscall.SIGCONT)
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		w.waitFor("the background processor is gone", func() bool { return w.lockHolder() == 0 })
	})
}

// lockHolder returns the pid of the background processor that runs in the fixture's directory; 0: none.
func (w *fixture) lockHolder() int {
	for pid := range commandLines(w.t) {
		if at, err := os.Readlink("/proc/" + pid + "/cwd"); err != nil || at != w.dir {
			continue
		}
		if line, err := os.ReadFile("/proc/" + pid + "/cmdline"); err == nil && strings.Contains(string(line), "--background") {
			n, err := strconv.Atoi(pid)
			require.NoError(w.t, err)
			return n
		}
	}
	return 0
}

// waitUntilStopped waits until no background processor runs and its lock is free.
func (w *fixture) waitUntilStopped() {
	w.t.Helper()
	w.waitFor("the processor is gone", func() bool {
		state, err := supervise.Dir(w.dir).Inspect()
		return err == nil && !state.Running && w.lockHolder() == 0
	})
}

// pid returns the pid in the pid file.
func (w *fixture) pid() int {
	w.t.Helper()
	text, err := os.ReadFile(filepath.Join(w.dir, "task-processor.pid"))
	require.NoError(w.t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	require.NoError(w.t, err, "%q", text)
	return pid
}

func (w *fixture) file(name string) string {
	w.t.Helper()
	text, err := os.ReadFile(filepath.Join(w.dir, name))
	require.NoError(w.t, err)
	return string(text)
}

// problem is a problem as documents show it.
type problem struct{ Code, What, Do string }

// monitorReport is the document of monitor-tasks --json.
type monitorReport struct {
	Processor struct {
		Verdict    string
		PID        int
		Action     string
		RestartPID int `json:"restart_pid"`
	}
	Repair struct {
		Tasks []struct {
			TaskID string `json:"task_id"`
		}
		Remaining int `json:"stuck_remaining"`
	}
	API struct {
		At string
		OK bool
	}
	Checks   []struct{ Check string } `json:"health_checks"`
	Problems []problem
	Summary  string
}

// monitorPass runs a pass of the monitor and requires its exit code.
func (w *fixture) monitorPass(code int, more ...string) monitorReport {
	w.t.Helper()
	r := w.run("monitor-tasks", append([]string{"--json"}, more...)...)
	r.is(code)
	var report monitorReport
	r.json(&report)
	return report
}

func TestStartStopRestart_Repeat(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	withDaemon(w)
	w.grant(2)
	assert.Contains(t, w.run("task-processor", "start").ok(), "is running (pid ")
	first := w.pid()
	assert.Contains(t, w.run("task-processor", "start").ok(), fmt.Sprintf("is already running (pid %d)", first))
	assert.Equal(t, first, w.pid())
	w.enqueue("in the background")
	w.waitFor("a picture", func() bool { return w.count("completed") == 1 })
	assert.Contains(t, w.run("task-processor", "status").ok(), fmt.Sprintf("running (pid %d)", first))

	assert.Contains(t, w.run("task-processor", "restart").ok(), "is running (pid ")
	second := w.pid()
	assert.NotEqual(t, first, second)
	assert.Contains(t, w.run("task-processor", "stop").ok(), "has stopped")
	assert.Contains(t, w.run("task-processor", "stop").ok(), "was not running")
	assert.Zero(t, w.lockHolder())
	assert.Equal(t, 0, w.number(`select count(*) from imagetasks.processors`), "a processor that stops deregisters")
	assert.Contains(t, w.run("task-processor", "restart", "--if-running").ok(), "not restarted")
	assert.Contains(t, w.run("task-processor", "start", "--unless-stopped").ok(), "not started: the processor was stopped by")
	w.run("task-processor", "restart").ok()
	w.enqueue("again")
	w.waitFor("a picture", func() bool { return w.count("completed") == 2 })
	w.run("task-processor", "stop").ok()
	assert.Equal(t, 0, strings.Count(w.file("task-processor.out"), "level="), "the log goes to its file only")
}

// The daemon leads its own session and inherits no descriptors from the shell that started it.
func TestStart_DetachesDaemon(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	withDaemon(w)
	// A shell with an open and locked descriptor, like a script under flock(1).
	held := filepath.Join(w.dir, "held by the shell")
	p := w.start("/bin/bash", "-c", fmt.Sprintf("exec 9>'%s'; flock 9; %s/task-processor start", held, bin))
	p.result().ok()
	pid := w.pid()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	require.NoError(t, err)
	fields := strings.Fields(string(stat[strings.LastIndex(string(stat), ")")+2:]))
	assert.Equal(t, strconv.Itoa(pid), fields[3], "session leader")
	assert.Equal(t, "0", fields[4], "no terminal")
	descriptors, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	require.NoError(t, err)
	for _, path := range descriptors {
		target, err := os.Readlink(path)
		if err == nil {
			assert.NotEqual(t, held, target)
			if strings.HasSuffix(path, "/0") {
				assert.Equal(t, "/dev/null", target)
			}
		}
	}
	require.NoError(t, exec.Command("flock", "--nonblock", held, "true").Run(), "the shell's lock is free")
	w.run("task-processor", "stop").ok()
}

func TestStart_FailureShowsLog(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	withDaemon(w)
	w.env["STATUS_ADDR"] = strings.TrimPrefix(w.proxy.Addr(), "http://") // in use
	r := w.run("task-processor", "start")
	r.is(1)
	assert.Contains(t, r.stderr, "did not start")
	assert.Contains(t, r.stderr, "address already in use")
	w.env["OPENAI_PROXY"] = "ftp://nowhere"
	r = w.run("task-processor", "start")
	assert.NotZero(t, r.code)
	assert.Contains(t, r.stderr, "OPENAI_PROXY")
	assert.Zero(t, w.lockHolder())
}

func TestMonitor_RestartsKilledNotStopped(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	withDaemon(w)
	assert.Equal(t, "never started", w.monitorPass(0).Processor.Verdict)
	assert.Zero(t, w.lockHolder(), "a processor that was never started is not started")
	w.run("task-processor", "start").ok()
	assert.Equal(t, "running", w.monitorPass(0).Processor.Verdict)

	first := w.pid()
	require.NoError(t, syscall.Kill(first, syscall.SIGKILL))
	w.waitUntilStopped()
	assert.Contains(t, w.run("task-processor", "status").is(3), "not running (ended unexpectedly)")
	assert.Equal(t, "dead", w.monitorPass(3, "--no-restart").Processor.Verdict)
	assert.Equal(t, "dead", w.monitorPass(3, "--dry-run").Processor.Verdict)
	report := w.monitorPass(0)
	assert.Equal(t, "dead", report.Processor.Verdict)
	assert.Equal(t, "restarted", report.Processor.Action)
	assert.Equal(t, w.pid(), report.Processor.RestartPID)
	assert.NotEqual(t, first, w.pid())
	assert.Contains(t, w.file("task-monitor.log"), "restarting the processor")

	w.run("task-processor", "stop").ok()
	report = w.monitorPass(0)
	assert.Equal(t, "stopped", report.Processor.Verdict)
	assert.Contains(t, report.Summary, "processor stopped by ")
	assert.Zero(t, w.lockHolder())
	assert.Contains(t, w.run("task-processor", "status").ok(), "stopped by ")
}

func TestStop_StalePIDFile(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	withDaemon(w)
	w.run("task-processor", "start").ok()
	require.NoError(t, syscall.Kill(w.pid(), syscall.SIGKILL))
	w.waitUntilStopped()
	bystander := w.start("/bin/sleep", "600")
	require.NoError(t, os.WriteFile(filepath.Join(w.dir, "task-processor.pid"), fmt.Appendln(nil, bystander.Process.Pid), 0o644))

	assert.Contains(t, w.run("task-processor", "status").is(3), "not running (ended unexpectedly)")
	w.run("task-processor", "stop").ok()
	assert.NoError(t, bystander.Process.Signal(syscall.Signal(0)))
	w.run("task-processor", "start").ok()
	require.NoError(t, syscall.Kill(w.pid(), syscall.SIGKILL))
	w.waitUntilStopped()
	require.NoError(t, os.WriteFile(filepath.Join(w.dir, "task-processor.pid"), fmt.Appendln(nil, bystander.Process.Pid), 0o644))
	w.monitorPass(0)
	assert.NotEqual(t, bystander.Process.Pid, w.pid())
	assert.NoError(t, bystander.Process.Signal(syscall.Signal(0)), "the other program still runs")
	w.run("task-processor", "stop").ok()
}

// A process that was stopped by SIGSTOP exists and sends no heartbeats: the monitor replaces it, and its task is claimed again
// after its lease expired.
func TestMonitor_ReplacesHungProcessor(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	withDaemon(w)
	w.env["HUNG_AFTER"], w.env["TASK_LEASE"], w.env["SHUTDOWN_GRACE"] = "3s", "1s", "1s"
	w.grant(1)
	release := w.api.BlockResponses()
	w.run("task-processor", "start").ok()
	w.enqueue("hung")
	w.waitFor("the request", func() bool { return len(w.api.Calls()) == 1 })
	hung := w.pid()
	require.NoError(t, syscall.Kill(hung, syscall.SIGSTOP))
	release()
	w.waitFor("silence", func() bool {
		return w.number(`select count(*) from imagetasks.processors where beat_at < now() - interval '3500 ms'`) == 1
	})
	assert.Contains(t, w.run("task-processor", "status").is(3), "hung")
	report := w.monitorPass(0)
	assert.Equal(t, "hung", report.Processor.Verdict)
	assert.NotEqual(t, hung, w.pid())
	w.waitFor("the picture", func() bool { return w.count("completed") == 1 })
	assert.Len(t, w.pictures(), 1)
	w.audit()
	w.run("task-processor", "stop").ok()
}

// A processor is suspended while a sweep fails and refunds its task. When it continues, it changes nothing.
func TestLateWorker_ChangesNothing(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	withDaemon(w)
	w.env["TASK_LEASE"] = "1s"
	w.grant(1)
	release := w.api.BlockResponses()
	w.run("task-processor", "start").ok()
	id := w.enqueue("late")[0]
	w.waitFor("the request", func() bool { return len(w.api.Calls()) == 1 })
	pid := w.pid()
	require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
	w.waitFor("the lease has run out", func() bool {
		return w.number(`select count(*) from imagetasks.tasks where lease_expires_at < now()`) == 1
	})
	_, err := w.db.Exec(`update imagetasks.tasks set processing_started_at = now() - interval '21 minutes'`)
	require.NoError(t, err)
	assert.Len(t, w.monitorPass(0).Repair.Tasks, 1)
	assert.Equal(t, pid, w.pid(), "silent for less than HUNG_AFTER: not restarted")
	release()
	require.NoError(t, syscall.Kill(pid, syscall.SIGCONT))
	w.waitFor("the loss is logged", func() bool { return strings.Contains(w.file("task-processor.log"), "the lease was lost") })
	assert.Equal(t, 1, w.number(`select count(*) from imagetasks.tasks where task_id = $1 and status = 'failed' and credits_refunded = 1`, id))
	assert.Equal(t, 1, w.credits())
	assert.LessOrEqual(t, len(w.pictures()), 1, "the monitor removes it a day later")
	w.audit()
	w.run("task-processor", "stop").ok()
}

func TestMonitor_RestartLimit(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	withDaemon(w)
	w.run("task-processor", "start").ok()
	kill := func() {
		require.NoError(t, syscall.Kill(w.pid(), syscall.SIGKILL))
		w.waitUntilStopped()
	}
	for range 5 {
		kill()
		assert.Contains(t, w.monitorPass(0).Processor.Action, "restarted")
	}
	kill()
	for range 2 {
		report := w.monitorPass(3)
		assert.Equal(t, "restart_limit_reached", report.Processor.Action)
		require.NotEmpty(t, report.Problems)
		assert.Equal(t, "restart_limit_reached", report.Problems[0].Code)
		assert.Contains(t, report.Problems[0].What, "restarted 5 times within an hour")
		assert.Zero(t, w.lockHolder())
	}
	// A start by an operator resets the count.
	w.run("task-processor", "start").ok()
	kill()
	w.monitorPass(0)
	w.run("task-processor", "stop").ok()
}
