package supervise

import (
	"context"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// unknownHolder is what a system reports that does not tell who holds a lock.
func unknownHolder(int, os.FileInfo) (holds, known bool) { return false, false }

// lockedBy starts a process that holds the pid lock of a directory.
func lockedBy(t *testing.T, d *Daemon) (*exec.Cmd, <-chan error) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=TestHelperProcess")
	cmd.Env = append(os.Environ(), "HOLD="+string(d.Dir))
	require.NoError(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	require.Eventually(t, func() bool {
		s, err := d.Inspect()
		return err == nil && s.PID == cmd.Process.Pid
	}, time.Minute, 5*time.Millisecond)
	return cmd, ended
}

func TestInspect_UnknownHolderIsUnconfirmed(t *testing.T) {
	d := &Daemon{Dir: Dir(t.TempDir()), holder: unknownHolder}
	lock, err := d.Dir.Lock()
	require.NoError(t, err)
	s, err := d.Inspect()
	require.NoError(t, err)
	assert.True(t, s.Running)
	assert.Equal(t, os.Getpid(), s.PID)
	assert.False(t, s.PIDConfirmed)
	require.NoError(t, lock.Release())
	s, err = d.Inspect()
	require.NoError(t, err)
	assert.Equal(t, State{}, s)

	d.holder = nil
	lock, err = d.Dir.Lock()
	require.NoError(t, err)
	defer func() { assert.NoError(t, lock.Release()) }()
	s, err = d.Inspect()
	require.NoError(t, err)
	assert.True(t, s.PIDConfirmed)
}

func TestStop_NeverSignalsAnUnconfirmedPID(t *testing.T) {
	d := &Daemon{Dir: Dir(t.TempDir()), holder: unknownHolder, Grace: 10 * time.Millisecond}
	_, ended := lockedBy(t, d)
	_, err := d.Stop(t.Context(), "a test")
	assert.ErrorIs(t, err, ErrNoPID)
	d.Confirm = func(context.Context, int, time.Time) bool { return false }
	_, err = d.Stop(t.Context(), "a test")
	assert.ErrorIs(t, err, ErrNoPID)
	select {
	case err := <-ended:
		assert.Fail(t, "it was signalled", "%v", err)
	default:
	}
}

func TestStop_SignalsAConfirmedPID(t *testing.T) {
	d := &Daemon{Dir: Dir(t.TempDir()), holder: unknownHolder, Grace: 10 * time.Millisecond}
	cmd, ended := lockedBy(t, d)
	d.Confirm = func(_ context.Context, pid int, since time.Time) bool {
		return pid == cmd.Process.Pid && time.Since(since) < time.Hour
	}
	stopped, err := d.Stop(t.Context(), "a test")
	require.NoError(t, err)
	assert.Equal(t, StopResult{WasRunning: true, PID: cmd.Process.Pid, Killed: true}, stopped)
	assert.ErrorContains(t, <-ended, "killed")
}
