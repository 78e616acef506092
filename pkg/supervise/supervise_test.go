package supervise_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/supervise"
)

func inspect(t *testing.T, d supervise.Dir) supervise.State {
	t.Helper()
	s, err := d.Inspect()
	require.NoError(t, err)
	return s
}

func TestInspect_LockDecidesNotThePID(t *testing.T) {
	d := supervise.Dir(t.TempDir())
	assert.Equal(t, supervise.State{}, inspect(t, d))
	lock, err := d.Lock(nil)
	require.NoError(t, err)
	s := inspect(t, d)
	assert.True(t, s.Running)
	assert.Equal(t, os.Getpid(), s.PID)
	_, err = d.Lock(nil)
	assert.ErrorIs(t, err, supervise.ErrRunning)

	// A pid that does not hold the lock is ignored; the kernel knows the one that does.
	known := os.Getpid()
	if runtime.GOOS != "linux" {
		known = 0
	}
	for _, text := range []string{"1\n", fmt.Sprintln(os.Getppid()), "nonsense", ""} {
		require.NoError(t, os.WriteFile(d.PidFile(), []byte(text), 0o644))
		assert.Equal(t, known, inspect(t, d).PID, "%q", text)
	}

	require.NoError(t, lock.Release())
	assert.False(t, inspect(t, d).Running)
	require.NoError(t, os.WriteFile(d.PidFile(), fmt.Appendln(nil, os.Getpid()), 0o644))
	assert.False(t, inspect(t, d).Running, "a pid without the lock does not count")
	again, err := d.Lock(nil)
	require.NoError(t, err)
	require.NoError(t, again.Release())
}

// program returns a daemon that runs a shell script.
func program(t *testing.T, script string) *supervise.Daemon {
	t.Helper()
	return &supervise.Daemon{
		Dir: supervise.Dir(t.TempDir()), Program: "/bin/sh", Args: []string{"-c", script}, Env: os.Environ(),
		Grace: time.Minute, Healthy: func(context.Context, int) (bool, error) { return false, nil },
	}
}

func TestStart_ExitsAtOnce(t *testing.T) {
	d := program(t, `echo "no such proxy hunter2" >&2; exit 7`)
	d.Redact = func(s string) string { return s + " (redacted)" }
	require.NoError(t, os.WriteFile(d.Dir.Log(), []byte("an older line\n"), 0o644))
	_, _, err := d.Start(t.Context())
	failed, ok := errors.AsType[*supervise.StartError](err)
	require.True(t, ok, "%v", err)
	assert.Contains(t, failed.Reason, "exit status 7")
	assert.Contains(t, failed.Tail, "no such proxy")
	assert.Contains(t, failed.Tail, "(redacted)")
	assert.NotContains(t, failed.Tail, "an older line")
	assert.ErrorContains(t, err, "no such proxy")
}

func TestStart_NeverHealthyIsKilledAndQuotesTheLog(t *testing.T) {
	d := program(t, `echo "line $LOG_LINE" >>"$LOG"; exec sleep 600`)
	d.StartTimeout = time.Second
	d.Env = append(d.Env, "LOG="+d.Dir.Log(), "LOG_LINE=one")
	pids := make(chan int, 1000)
	d.Healthy = func(_ context.Context, pid int) (bool, error) {
		select {
		case pids <- pid:
		default:
		}
		return false, errors.New("the database is unreachable")
	}
	_, _, err := d.Start(t.Context())
	failed, ok := errors.AsType[*supervise.StartError](err)
	require.True(t, ok, "%v", err)
	assert.Contains(t, failed.Reason, "not healthy within 1s")
	assert.Equal(t, "line one", failed.Tail)
	assert.NoDirExists(t, fmt.Sprintf("/proc/%d", <-pids), "no process is left")
}

func TestStart_Healthy(t *testing.T) {
	d := program(t, `exec sleep 600`)
	d.Healthy = func(context.Context, int) (bool, error) { return true, nil }
	pid, already, err := d.Start(t.Context())
	require.NoError(t, err)
	assert.False(t, already)
	process, err := os.FindProcess(pid)
	require.NoError(t, err)
	require.NoError(t, process.Kill())
}

func TestStop_MarkerIsRespectedUntilStart(t *testing.T) {
	d := program(t, `exit 1`)
	_, err := d.Stop(t.Context(), "wei (sudo)", false)
	require.NoError(t, err)
	s := inspect(t, d.Dir)
	require.NotNil(t, s.Stopped)
	assert.Equal(t, "wei (sudo)", s.Stopped.By)
	assert.WithinDuration(t, time.Now(), s.Stopped.At, time.Hour)
	pid, err := d.Revive(t.Context(), false)
	require.NoError(t, err)
	assert.Zero(t, pid, "the stop marker is respected")

	_, _, err = d.Start(t.Context())
	require.Error(t, err)
	s = inspect(t, d.Dir)
	assert.Nil(t, s.Stopped)
	assert.True(t, s.Wanted)

	// A marker that can't be parsed still counts.
	require.NoError(t, os.WriteFile(filepath.Join(string(d.Dir), "task-processor.stopped"), []byte("?"), 0o644))
	assert.NotNil(t, inspect(t, d.Dir).Stopped)
	assert.False(t, inspect(t, d.Dir).Wanted)
}

func TestRevive_CountsRestartsForAnHour(t *testing.T) {
	d := program(t, `exit 1`)
	_, _, err := d.Start(t.Context())
	require.Error(t, err)
	for range supervise.MaxRestarts {
		_, err := d.Revive(t.Context(), false)
		_, ok := errors.AsType[*supervise.StartError](err)
		require.True(t, ok, "%v", err)
	}
	_, err = d.Revive(t.Context(), false)
	assert.ErrorAs(t, err, new(*supervise.CrashLoopError))
	recent := d.Dir.Restarts(time.Now())
	assert.Len(t, recent, supervise.MaxRestarts, "only tries count")
	recent = d.Dir.Restarts(time.Now().Add(supervise.RestartWindow))
	assert.Empty(t, recent)
	require.NoError(t, os.WriteFile(filepath.Join(string(d.Dir), "task-processor.restarts"), []byte("{"), 0o644))
	recent = d.Dir.Restarts(time.Now())
	assert.Empty(t, recent)
}

// A processor that ignores the signal is killed after the grace.
func TestStop_KillsAfterTheGrace(t *testing.T) {
	d := program(t, "")
	cmd, ended := holder(t, d.Dir, "ignore")
	d.Grace = 10 * time.Millisecond
	stopped, err := d.Stop(t.Context(), "a test", false)
	require.NoError(t, err)
	assert.Equal(t, supervise.StopResult{WasRunning: true, PID: cmd.Process.Pid, Killed: true}, stopped)
	assert.ErrorContains(t, <-ended, "killed")
}

// holder starts a process that holds the lock as a processor does. With a log it writes the signals that it gets to it, and
// exits when it got both SIGTERM and SIGINT; with "ignore" it ignores SIGTERM and PlannedStop.
func holder(t *testing.T, d supervise.Dir, log string) (*exec.Cmd, <-chan error) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=TestHelperProcess")
	cmd.Env = append(os.Environ(), "HOLD="+string(d), "HOLD_LOG="+log)
	require.NoError(t, cmd.Start())
	ended := make(chan error, 1)
	go func() {
		ended <- cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
	})
	require.Eventually(t, func() bool { return inspect(t, d).PID == cmd.Process.Pid }, time.Minute, 5*time.Millisecond)
	return cmd, ended
}

// TestHelperProcess is the process of holder.
func TestHelperProcess(t *testing.T) {
	dir, path := os.Getenv("HOLD"), os.Getenv("HOLD_LOG")
	if dir == "" {
		return
	}
	got := make(chan os.Signal, 10)
	var log *os.File
	switch path {
	case "":
	case "ignore":
		signal.Ignore(syscall.SIGTERM, supervise.PlannedStop)
	default:
		signal.Notify(got, supervise.PlannedStop, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
		var err error
		log, err = os.Create(path)
		require.NoError(t, err)
	}
	_, err := supervise.Dir(dir).Lock(nil)
	require.NoError(t, err)
	seen := map[os.Signal]bool{}
	for end := time.After(time.Hour); ; {
		select {
		case <-end:
			return
		case s := <-got:
			seen[s] = true
			_, err := fmt.Fprintln(log, s)
			require.NoError(t, err)
			if seen[syscall.SIGTERM] && seen[syscall.SIGINT] {
				os.Exit(0)
			}
		}
	}
}
