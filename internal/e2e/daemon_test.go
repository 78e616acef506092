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
func withDaemon(w *world) {
	w.env["LOG_DIR"] = w.dir
	w.t.Cleanup(func() {
		if pid := w.lockHolder(); pid != 0 {
			_ = syscall.Kill(pid, syscall.SIGCONT)
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		w.until("the background processor is gone", func() bool { return w.lockHolder() == 0 })
	})
}

// lockHolder returns the pid of the background processor that works in the world's directory; 0: none.
func (w *world) lockHolder() int {
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

// gone waits until no background processor runs and its lock is free: the one may be seen before the other.
func (w *world) gone() {
	w.t.Helper()
	w.until("it is gone", func() bool {
		state, err := supervise.Dir(w.dir).Inspect()
		return err == nil && !state.Running && w.lockHolder() == 0
	})
}

// pid is what the pid file says.
func (w *world) pid() int {
	w.t.Helper()
	text, err := os.ReadFile(filepath.Join(w.dir, "task-processor.pid"))
	require.NoError(w.t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	require.NoError(w.t, err, "%q", text)
	return pid
}

func (w *world) file(name string) string {
	w.t.Helper()
	text, err := os.ReadFile(filepath.Join(w.dir, name))
	require.NoError(w.t, err)
	return string(text)
}

// monitorReport is what monitor-tasks --json says.
type monitorReport struct {
	Processor struct {
		Verdict string
		PID     int
		Action  string
	}
	Repair struct {
		Tasks []struct {
			TaskID string `json:"task_id"`
		}
		Left int `json:"stuck_left"`
	}
	API struct {
		At string
		OK bool
	}
	Checks   []struct{ What string } `json:"health_checks"`
	Problems []string
	Summary  string
}

// round makes a round of the monitor and requires its exit code.
func (w *world) round(code int, more ...string) monitorReport {
	w.t.Helper()
	r := w.run("monitor-tasks", append([]string{"--json"}, more...)...)
	r.is(code)
	var report monitorReport
	r.json(&report)
	return report
}

func TestStartStopAndRestartAreSafeToRepeat(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	withDaemon(w)
	w.grant(2)
	assert.Contains(t, w.run("task-processor", "start").ok(), "runs as pid")
	first := w.pid()
	assert.Contains(t, w.run("task-processor", "start").ok(), fmt.Sprintf("runs already, as pid %d", first))
	assert.Equal(t, first, w.pid())
	w.enqueue("in the background")
	w.until("a picture", func() bool { return w.count("completed") == 1 })
	assert.Contains(t, w.run("task-processor", "status").ok(), fmt.Sprintf("running, pid %d", first))

	assert.Contains(t, w.run("task-processor", "restart").ok(), "runs as pid")
	second := w.pid()
	assert.NotEqual(t, first, second)
	assert.Contains(t, w.run("task-processor", "stop").ok(), "has stopped")
	assert.Contains(t, w.run("task-processor", "stop").ok(), "was not running")
	assert.Zero(t, w.lockHolder())
	assert.Equal(t, 0, w.number(`select count(*) from imagetasks_processors`), "who stops in order takes leave")
	assert.Contains(t, w.run("task-processor", "restart", "--if-running").ok(), "left alone")
	assert.Contains(t, w.run("task-processor", "start", "--unless-stopped").ok(), "left alone")
	w.run("task-processor", "restart").ok()
	w.enqueue("again")
	w.until("a picture", func() bool { return w.count("completed") == 2 })
	w.run("task-processor", "stop").ok()
	assert.Equal(t, 0, strings.Count(w.file("task-processor.out"), "level="), "the log goes to the log's file only")
}

// The daemon has a session of its own and nothing of the shell that started it.
func TestTheDaemonIsDetached(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	withDaemon(w)
	// A shell with an open descriptor and a lock on it, as a script under flock(1) has.
	held := filepath.Join(w.dir, "held by the shell")
	p := w.start("/bin/bash", "-c", fmt.Sprintf("exec 9>'%s'; flock 9; %s/task-processor start", held, bin))
	p.result().ok()
	pid := w.pid()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	require.NoError(t, err)
	fields := strings.Fields(string(stat[strings.LastIndex(string(stat), ")")+2:]))
	assert.Equal(t, strconv.Itoa(pid), fields[3], "it leads a session")
	assert.Equal(t, "0", fields[4], "it has no terminal")
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

func TestAStartThatFailsShowsTheEndOfTheLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	withDaemon(w)
	w.env["STATUS_ADDR"] = strings.TrimPrefix(w.proxy.Addr(), "http://") // taken
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

func TestAKilledDaemonIsBroughtBackAndAStoppedOneIsNot(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	withDaemon(w)
	assert.Equal(t, "never started", w.round(0).Processor.Verdict)
	assert.Zero(t, w.lockHolder(), "what was never started is not started")
	w.run("task-processor", "start").ok()
	assert.Equal(t, "running", w.round(0).Processor.Verdict)

	first := w.pid()
	require.NoError(t, syscall.Kill(first, syscall.SIGKILL))
	w.gone()
	assert.Contains(t, w.run("task-processor", "status").is(3), "dead")
	assert.Equal(t, "dead", w.round(3, "--no-restart").Processor.Verdict)
	assert.Equal(t, "dead", w.round(3, "--dry-run").Processor.Verdict)
	report := w.round(0)
	assert.Equal(t, "dead", report.Processor.Verdict)
	assert.Equal(t, fmt.Sprintf("restarted as pid %d", w.pid()), report.Processor.Action)
	assert.NotEqual(t, first, w.pid())
	assert.Contains(t, w.file("task-monitor.log"), "the processor is dead; it is started again")

	w.run("task-processor", "stop").ok()
	report = w.round(0)
	assert.Equal(t, "stopped", report.Processor.Verdict)
	assert.Contains(t, report.Summary, "stopped by an operator")
	assert.Zero(t, w.lockHolder())
	assert.Contains(t, w.run("task-processor", "status").ok(), "stopped by an operator")
}

func TestAPidFileThatNamesAnotherProgramTouchesNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	withDaemon(w)
	w.run("task-processor", "start").ok()
	require.NoError(t, syscall.Kill(w.pid(), syscall.SIGKILL))
	w.gone()
	bystander := w.start("/bin/sleep", "600")
	require.NoError(t, os.WriteFile(filepath.Join(w.dir, "task-processor.pid"), fmt.Appendln(nil, bystander.Process.Pid), 0o644))

	assert.Contains(t, w.run("task-processor", "status").is(3), "dead")
	w.run("task-processor", "stop").ok()
	assert.NoError(t, bystander.Process.Signal(syscall.Signal(0)))
	w.run("task-processor", "start").ok()
	require.NoError(t, syscall.Kill(w.pid(), syscall.SIGKILL))
	w.gone()
	require.NoError(t, os.WriteFile(filepath.Join(w.dir, "task-processor.pid"), fmt.Appendln(nil, bystander.Process.Pid), 0o644))
	w.round(0)
	assert.NotEqual(t, bystander.Process.Pid, w.pid())
	assert.NoError(t, bystander.Process.Signal(syscall.Signal(0)), "the other program lives")
	w.run("task-processor", "stop").ok()
}

// A stopped process is alive and silent: the monitor ends it and starts another. Its task, whose lease ran out,
// is worked once more.
func TestAHungDaemonIsReplaced(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	withDaemon(w)
	w.env["HUNG_AFTER"], w.env["TASK_LEASE"], w.env["SHUTDOWN_GRACE"] = "3s", "1s", "1s"
	w.grant(1)
	release := w.api.Hold()
	w.run("task-processor", "start").ok()
	w.enqueue("hung")
	w.until("in hand", func() bool { return len(w.api.Calls()) == 1 })
	hung := w.pid()
	require.NoError(t, syscall.Kill(hung, syscall.SIGSTOP))
	release()
	w.until("silence", func() bool {
		return w.number(`select count(*) from imagetasks_processors where beat_at < now() - interval '3500 ms'`) == 1
	})
	assert.Contains(t, w.run("task-processor", "status").is(3), "hung")
	report := w.round(0)
	assert.Equal(t, "hung", report.Processor.Verdict)
	assert.NotEqual(t, hung, w.pid())
	w.until("the picture", func() bool { return w.count("completed") == 1 })
	assert.Len(t, w.pictures(), 1)
	w.audit()
	w.run("task-processor", "stop").ok()
}

// It sleeps through the sweep that fails and refunds its task; when it wakes, it changes nothing.
func TestALateWorkerChangesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	withDaemon(w)
	w.env["TASK_LEASE"] = "1s"
	w.grant(1)
	release := w.api.Hold()
	w.run("task-processor", "start").ok()
	id := w.enqueue("late")[0]
	w.until("in hand", func() bool { return len(w.api.Calls()) == 1 })
	pid := w.pid()
	require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
	w.until("the lease has run out", func() bool {
		return w.number(`select count(*) from image_tasks where lease_expires_at < now()`) == 1
	})
	_, err := w.db.Exec(`update image_tasks set processing_started_at = now() - interval '21 minutes'`)
	require.NoError(t, err)
	assert.Len(t, w.round(0).Repair.Tasks, 1)
	assert.Equal(t, pid, w.pid(), "silent for less than HUNG_AFTER: it is left alone")
	release()
	require.NoError(t, syscall.Kill(pid, syscall.SIGCONT))
	w.until("it knows", func() bool { return strings.Contains(w.file("task-processor.log"), "taken over or closed") })
	assert.Equal(t, 1, w.number(`select count(*) from image_tasks where task_id = $1 and status = 'failed' and credits_refunded = 1`, id))
	assert.Equal(t, 1, w.credits())
	assert.Empty(t, w.pictures())
	w.audit()
	w.run("task-processor", "stop").ok()
}

func TestACrashLoopEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	withDaemon(w)
	w.run("task-processor", "start").ok()
	die := func() {
		require.NoError(t, syscall.Kill(w.pid(), syscall.SIGKILL))
		w.gone()
	}
	for range 5 {
		die()
		assert.Contains(t, w.round(0).Processor.Action, "restarted")
	}
	die()
	for range 2 {
		report := w.round(3)
		assert.Equal(t, "no more restarts", report.Processor.Action)
		require.NotEmpty(t, report.Problems)
		assert.Contains(t, report.Problems[0], "keeps exiting")
		assert.Zero(t, w.lockHolder())
	}
	// An operator's start is a new beginning.
	w.run("task-processor", "start").ok()
	die()
	w.round(0)
	w.run("task-processor", "stop").ok()
}
