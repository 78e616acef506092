package supervise

import (
	"context"
	"io/fs"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// noKernel is a system that does not tell who holds a lock.
type noKernel struct{}

func (noKernel) holds(int, fs.FileInfo) (holds, known bool) { return false, false }

func (noKernel) holder(fs.FileInfo) int { return 0 }

// lockedBy starts a process that holds the pid lock of a directory.
func lockedBy(t *testing.T, d *Daemon) (*exec.Cmd, <-chan error) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=TestHelperProcess")
	cmd.Env = append(os.Environ(), "HOLD="+string(d.Dir), "HOLD_LOG=ignore")
	require.NoError(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	require.Eventually(t, func() bool {
		s, err := d.Inspect(t.Context())
		return err == nil && s.PID == cmd.Process.Pid
	}, time.Minute, 5*time.Millisecond)
	return cmd, ended
}

func TestInspect_UnknownHolderIsUnconfirmed(t *testing.T) {
	d := &Daemon{Dir: Dir(t.TempDir()), kernel: noKernel{}}
	lock, err := d.Dir.Lock(nil)
	require.NoError(t, err)
	s, err := d.Inspect(t.Context())
	require.NoError(t, err)
	assert.True(t, s.Running)
	assert.Equal(t, os.Getpid(), s.PID)
	assert.False(t, s.PIDConfirmed)
	require.NoError(t, lock.Release())
	s, err = d.Inspect(t.Context())
	require.NoError(t, err)
	assert.Equal(t, State{}, s)

	d.kernel = nil
	lock, err = d.Dir.Lock(nil)
	require.NoError(t, err)
	defer func() { assert.NoError(t, lock.Release()) }()
	s, err = d.Inspect(t.Context())
	require.NoError(t, err)
	assert.True(t, s.PIDConfirmed)
}

func TestStop_NeverSignalsAnUnconfirmedPID(t *testing.T) {
	d := &Daemon{Dir: Dir(t.TempDir()), kernel: noKernel{}, Grace: 10 * time.Millisecond}
	_, ended := lockedBy(t, d)
	_, err := d.Stop(t.Context(), "a test", false)
	assert.ErrorIs(t, err, ErrNoPID)
	d.Find = func(context.Context) (Found, bool) { return Found{PID: os.Getpid()}, true }
	_, err = d.Stop(t.Context(), "a test", false)
	assert.ErrorIs(t, err, ErrNoPID)
	select {
	case err := <-ended:
		assert.Fail(t, "it was signalled", "%v", err)
	default:
	}
}

func TestStop_SignalsAConfirmedPID(t *testing.T) {
	d := &Daemon{Dir: Dir(t.TempDir()), kernel: noKernel{}, Grace: 10 * time.Millisecond}
	cmd, ended := lockedBy(t, d)
	d.Find = func(context.Context) (Found, bool) { return Found{PID: cmd.Process.Pid}, true }
	stopped, err := d.Stop(t.Context(), "a test", false)
	require.NoError(t, err)
	assert.Equal(t, StopResult{WasRunning: true, PID: cmd.Process.Pid, Killed: true}, stopped)
	assert.ErrorContains(t, <-ended, "killed")
}
