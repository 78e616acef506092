package supervise_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/supervise"
)

func look(t *testing.T, d supervise.Dir) supervise.State {
	t.Helper()
	s, err := d.Inspect()
	require.NoError(t, err)
	return s
}

func TestTheLockSaysThatItRunsNotTheNumber(t *testing.T) {
	d := supervise.Dir(t.TempDir())
	assert.Equal(t, supervise.State{}, look(t, d))
	hold, err := d.Lock()
	require.NoError(t, err)
	s := look(t, d)
	assert.True(t, s.Running)
	assert.Equal(t, os.Getpid(), s.PID)
	_, err = d.Lock()
	assert.ErrorIs(t, err, supervise.ErrRunning)

	// A number under the lock that is another program's is not believed.
	require.NoError(t, os.WriteFile(d.PidFile(), []byte("1\n"), 0o644))
	assert.Zero(t, look(t, d).PID)
	require.NoError(t, os.WriteFile(d.PidFile(), fmt.Appendln(nil, os.Getppid()), 0o644))
	assert.Zero(t, look(t, d).PID)
	require.NoError(t, os.WriteFile(d.PidFile(), []byte("nonsense"), 0o644))
	assert.Zero(t, look(t, d).PID)
	_, err = (&supervise.Daemon{Dir: d}).Stop(t.Context(), "a test")
	assert.ErrorIs(t, err, supervise.ErrNoPID)

	require.NoError(t, hold.Release())
	assert.False(t, look(t, d).Running)
	require.NoError(t, os.WriteFile(d.PidFile(), fmt.Appendln(nil, os.Getpid()), 0o644))
	assert.False(t, look(t, d).Running, "a number without the lock is nothing")
	again, err := d.Lock()
	require.NoError(t, err)
	require.NoError(t, again.Release())
}

// program is a daemon that is a shell script.
func program(t *testing.T, script string) *supervise.Daemon {
	t.Helper()
	return &supervise.Daemon{
		Dir: supervise.Dir(t.TempDir()), Program: "/bin/sh", Args: []string{"-c", script}, Env: os.Environ(),
		Grace: time.Minute, Healthy: func(context.Context, int) (bool, error) { return false, nil },
	}
}

func TestAStartThatEndsAtOnceSaysWhy(t *testing.T) {
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

func TestAStartThatIsNeverHealthyIsEndedAndShowsTheLog(t *testing.T) {
	d := program(t, `echo "line $LOG_LINE" >>"$LOG"; exec sleep 600`)
	d.StartTimeout = time.Second
	d.Env = append(d.Env, "LOG="+d.Dir.Log(), "LOG_LINE=one")
	pids := make(chan int, 1000)
	d.Healthy = func(_ context.Context, pid int) (bool, error) {
		select {
		case pids <- pid:
		default:
		}
		return false, errors.New("the database is away")
	}
	_, _, err := d.Start(t.Context())
	failed, ok := errors.AsType[*supervise.StartError](err)
	require.True(t, ok, "%v", err)
	assert.Contains(t, failed.Reason, "not healthy within 1s")
	assert.Equal(t, "line one", failed.Tail)
	assert.NoDirExists(t, fmt.Sprintf("/proc/%d", <-pids), "nothing is left behind")
}

func TestAHealthyStartReturnsItsPidAndLeavesItRunning(t *testing.T) {
	d := program(t, `exec sleep 600`)
	d.Healthy = func(context.Context, int) (bool, error) { return true, nil }
	pid, already, err := d.Start(t.Context())
	require.NoError(t, err)
	assert.False(t, already)
	process, err := os.FindProcess(pid)
	require.NoError(t, err)
	require.NoError(t, process.Kill())
}

func TestAMarkOfAStopAndOfAStart(t *testing.T) {
	d := program(t, `exit 1`)
	_, err := d.Stop(t.Context(), "wei (sudo)")
	require.NoError(t, err)
	s := look(t, d.Dir)
	require.NotNil(t, s.Stopped)
	assert.Equal(t, "wei (sudo)", s.Stopped.By)
	assert.WithinDuration(t, time.Now(), s.Stopped.At, time.Hour)
	pid, err := d.Revive(t.Context(), false)
	require.NoError(t, err)
	assert.Zero(t, pid, "a stop on purpose is respected")

	_, _, err = d.Start(t.Context())
	require.Error(t, err)
	s = look(t, d.Dir)
	assert.Nil(t, s.Stopped)
	assert.True(t, s.Wanted)

	// A mark that can't be read is a mark all the same.
	require.NoError(t, os.WriteFile(filepath.Join(string(d.Dir), "task-processor.stopped"), []byte("?"), 0o644))
	assert.NotNil(t, look(t, d.Dir).Stopped)
	assert.False(t, look(t, d.Dir).Wanted)
}

func TestRestartsAreCountedForAnHour(t *testing.T) {
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
	recent, err := d.Dir.Restarts(time.Now())
	require.NoError(t, err)
	assert.Len(t, recent, supervise.MaxRestarts, "what was not tried is not counted")
	recent, err = d.Dir.Restarts(time.Now().Add(supervise.RestartWindow))
	require.NoError(t, err)
	assert.Empty(t, recent)
	require.NoError(t, os.WriteFile(filepath.Join(string(d.Dir), "task-processor.restarts"), []byte("{"), 0o644))
	recent, err = d.Dir.Restarts(time.Now())
	require.NoError(t, err)
	assert.Empty(t, recent)
}

// A processor that takes its time is killed when the grace is over.
func TestAStopIsFirmInTheEnd(t *testing.T) {
	d := program(t, "")
	// It holds the lock as a processor does, and is deaf to SIGTERM.
	cmd := exec.Command(os.Args[0], "-test.run=TestHelperProcess")
	cmd.Env = append(os.Environ(), "HOLD="+string(d.Dir))
	require.NoError(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	require.Eventually(t, func() bool { return look(t, d.Dir).PID == cmd.Process.Pid }, time.Minute, 5*time.Millisecond)
	d.Grace = 10 * time.Millisecond
	stopped, err := d.Stop(t.Context(), "a test")
	require.NoError(t, err)
	assert.Equal(t, supervise.StopResult{WasRunning: true, PID: cmd.Process.Pid, Killed: true}, stopped)
	assert.ErrorContains(t, <-ended, "killed")
}

// TestHelperProcess is the processor of TestAStopIsFirmInTheEnd.
func TestHelperProcess(t *testing.T) {
	dir := os.Getenv("HOLD")
	if dir == "" {
		return
	}
	signal.Ignore(syscall.SIGTERM)
	_, err := supervise.Dir(dir).Lock()
	require.NoError(t, err)
	time.Sleep(time.Hour)
}
