package supervise_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/supervise"
)

// reports collects what a PIDLock reports.
type reports struct {
	mu   sync.Mutex
	errs []error
}

func (r *reports) add(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errs = append(r.errs, err)
}

func (r *reports) all() []error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]error(nil), r.errs...)
}

func lock(t *testing.T, d supervise.Dir, report func(error)) *supervise.PIDLock {
	t.Helper()
	l, err := d.Lock(report)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, l.Release()) })
	return l
}

func runs(d supervise.Dir) func() bool {
	return func() bool {
		s, err := d.Inspect()
		return err == nil && s.Running && s.PID == os.Getpid()
	}
}

func TestLock_PutsBackADeletedPIDFile(t *testing.T) {
	t.Parallel()
	d := supervise.Dir(t.TempDir())
	lock(t, d, nil)
	for range 2 {
		require.NoError(t, os.Remove(d.PidFile()))
		require.Eventually(t, runs(d), time.Minute, 10*time.Millisecond)
		text, err := os.ReadFile(d.PidFile())
		require.NoError(t, err)
		assert.Equal(t, strconv.Itoa(os.Getpid())+"\n", string(text))
		_, err = d.Lock(nil)
		assert.ErrorIs(t, err, supervise.ErrRunning)
	}
	names, err := os.ReadDir(string(d))
	require.NoError(t, err)
	assert.Len(t, names, 1, "no temporary file is left")
}

func TestLock_AdoptsAnotherPIDFile(t *testing.T) {
	t.Parallel()
	d := supervise.Dir(t.TempDir())
	lock(t, d, nil)
	other := filepath.Join(string(d), "other")
	require.NoError(t, os.WriteFile(other, []byte("1\n"), 0o644))
	require.NoError(t, os.Rename(other, d.PidFile()))
	require.Eventually(t, runs(d), time.Minute, 10*time.Millisecond)
	_, err := d.Lock(nil)
	assert.ErrorIs(t, err, supervise.ErrRunning)
}

// A file that another process holds is neither overwritten nor taken away.
func TestLock_LeavesALockedPIDFile(t *testing.T) {
	t.Parallel()
	d := supervise.Dir(t.TempDir())
	var seen reports
	lock(t, d, seen.add)
	other := filepath.Join(string(d), "other")
	held, err := supervise.TryLock(other)
	require.NoError(t, err)
	_, err = held.WriteString("held\n")
	require.NoError(t, err)
	require.NoError(t, os.Rename(other, d.PidFile()))
	require.Eventually(t, func() bool { return len(seen.all()) == 1 }, time.Minute, 10*time.Millisecond)
	assert.ErrorContains(t, seen.all()[0], "another process holds the lock")
	text, err := os.ReadFile(d.PidFile())
	require.NoError(t, err)
	assert.Equal(t, "held\n", string(text))
	require.NoError(t, held.Close())
	require.Eventually(t, runs(d), time.Minute, 10*time.Millisecond)
	require.Eventually(t, func() bool { return len(seen.all()) == 2 }, time.Minute, 10*time.Millisecond)
	assert.NoError(t, seen.all()[1], "it is in order again")
}

func TestLock_ObstacleIsReportedOnce(t *testing.T) {
	t.Parallel()
	for name, put := range map[string]func(t *testing.T, path, target string){
		"a symbolic link": func(t *testing.T, path, target string) { require.NoError(t, os.Symlink(target, path)) },
		"a directory":     func(t *testing.T, path, _ string) { require.NoError(t, os.Mkdir(path, 0o755)) },
		"not a regular":   func(t *testing.T, path, _ string) { require.NoError(t, syscall.Mkfifo(path, 0o644)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := supervise.Dir(t.TempDir())
			target := filepath.Join(t.TempDir(), "precious")
			require.NoError(t, os.WriteFile(target, []byte("precious\n"), 0o644))
			var seen reports
			l := lock(t, d, seen.add)
			require.NoError(t, os.Remove(d.PidFile()))
			put(t, d.PidFile(), target)
			require.Eventually(t, func() bool { return len(seen.all()) == 1 }, time.Minute, 10*time.Millisecond)
			assert.ErrorContains(t, seen.all()[0], name)
			s := inspect(t, d)
			assert.False(t, s.Running)
			assert.ErrorAs(t, s.Obstacle, new(*supervise.NotAFileError))
			_, err := d.Lock(nil)
			assert.ErrorAs(t, err, new(*supervise.NotAFileError))
			_, _, err = (&supervise.Daemon{Dir: d}).Start(t.Context())
			assert.ErrorContains(t, err, name)
			assert.ErrorContains(t, err, "remove it")

			require.NoError(t, os.Remove(d.PidFile()))
			require.Eventually(t, runs(d), time.Minute, 10*time.Millisecond)
			require.NoError(t, l.Release())
			text, err := os.ReadFile(target)
			require.NoError(t, err)
			assert.Equal(t, "precious\n", string(text))
			assert.Len(t, seen.all(), 2)
		})
	}
}

// Nothing is written through a symbolic link in the place of the other files either; only the pid file's keeps a processor
// from starting.
func TestStart_WritesThroughNoLink(t *testing.T) {
	t.Parallel()
	d := program(t, `echo printed; exit 1`)
	target := filepath.Join(t.TempDir(), "precious")
	require.NoError(t, os.WriteFile(target, []byte("precious\n"), 0o644))
	for _, name := range []string{"task-processor.out", "task-processor.control", "task-processor.started", "task-processor.stopped"} {
		require.NoError(t, os.Symlink(target, filepath.Join(string(d.Dir), name)))
	}
	var warned []supervise.Effect
	d.Warn = func(w supervise.Warning) { warned = append(warned, w.Effect) }
	_, _, err := d.Start(t.Context())
	require.ErrorAs(t, err, new(*supervise.StartError))
	assert.Equal(t, []supervise.Effect{supervise.OutputLost}, warned, "the directory is locked instead of task-processor.control")
	assert.True(t, inspect(t, d.Dir).Wanted)
	_, err = d.Stop(t.Context(), "a test", false)
	require.NoError(t, err)
	text, err := os.ReadFile(target)
	require.NoError(t, err)
	assert.Equal(t, "precious\n", string(text))
}

func TestInspect_FindsAProcessorWithoutItsLock(t *testing.T) {
	t.Parallel()
	d := program(t, "exit 1")
	cmd, ended := holder(t, d.Dir, "")
	found := false
	d.Find = func(context.Context) (supervise.Found, bool) {
		return supervise.Found{PID: cmd.Process.Pid, Started: time.Now()}, found
	}
	require.NoError(t, cmd.Process.Signal(syscall.SIGSTOP)) // so that it does not put the file back in between
	require.NoError(t, os.Remove(d.Dir.PidFile()))
	require.NoError(t, os.Mkdir(d.Dir.PidFile(), 0o755))
	require.NoError(t, cmd.Process.Signal(syscall.SIGCONT))
	s, err := d.Inspect(t.Context())
	require.NoError(t, err)
	assert.False(t, s.Running)
	found = true
	s, err = d.Inspect(t.Context())
	require.NoError(t, err)
	assert.True(t, s.Running)
	assert.True(t, s.Unlocked)
	assert.Equal(t, cmd.Process.Pid, s.PID)
	pid, already, err := d.Start(t.Context())
	require.NoError(t, err)
	assert.True(t, already)
	assert.Equal(t, cmd.Process.Pid, pid)
	revived, err := d.Revive(t.Context(), false)
	require.NoError(t, err)
	assert.Zero(t, revived, "it runs")
	d.ShortGrace = time.Minute
	stopped, err := d.Stop(t.Context(), "a test", true)
	require.NoError(t, err)
	assert.Equal(t, supervise.StopResult{WasRunning: true, PID: cmd.Process.Pid}, stopped)
	assert.Regexp(t, "terminated|interrupt", <-ended)
}

// signals returns the signals that a processor of HOLD_LOG has got.
func signals(t *testing.T, path string) []string {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	return strings.Fields(string(text))
}

func TestStop_Now(t *testing.T) {
	t.Parallel()
	d := program(t, "")
	log := filepath.Join(t.TempDir(), "signals")
	_, ended := holder(t, d.Dir, log)
	d.ShortGrace = time.Minute
	stopped, err := d.Stop(t.Context(), "a test", true)
	require.NoError(t, err)
	assert.False(t, stopped.Killed)
	require.NoError(t, <-ended)
	assert.ElementsMatch(t, []string{"terminated", "interrupt"}, signals(t, log))
}

// stop --now ends what another stop waits for.
func TestStop_NowWhileAnotherWaits(t *testing.T) {
	t.Parallel()
	d := program(t, "")
	_, ended := holder(t, d.Dir, filepath.Join(t.TempDir(), "signals"))
	waits := make(chan time.Duration, 1)
	patient := *d
	patient.Grace, patient.OnWait = time.Hour, func(atMost time.Duration) { waits <- atMost }
	done := make(chan error, 1)
	go func() {
		s, err := patient.Stop(t.Context(), "a test", false)
		assert.False(t, s.Killed)
		done <- err
	}()
	assert.Equal(t, time.Hour, <-waits)
	d.ShortGrace = time.Minute
	_, err := d.Stop(t.Context(), "another", true)
	require.NoError(t, err)
	require.NoError(t, <-done)
	require.NoError(t, <-ended)
	assert.Equal(t, "another", inspect(t, d.Dir).Stopped.By)
}

// The end of the command does not end the processor's stop, and does not kill it.
func TestStop_InterruptedLeavesTheProcessorStopping(t *testing.T) {
	t.Parallel()
	d := program(t, "")
	log := filepath.Join(t.TempDir(), "signals")
	cmd, ended := holder(t, d.Dir, log)
	ctx, cancel := context.WithCancel(t.Context())
	d.Grace, d.OnWait = time.Hour, func(time.Duration) { cancel() }
	_, err := d.Stop(ctx, "a test", false)
	require.ErrorIs(t, err, context.Canceled)
	assert.Equal(t, []string{"user", "defined", "signal", "1"}, signals(t, log))
	assert.True(t, supervise.ProcessExists(cmd.Process.Pid))
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
	require.NoError(t, <-ended)
}

// A hung processor is told to cut its requests before it is killed.
func TestRevive_CutsAHungProcessor(t *testing.T) {
	t.Parallel()
	d := program(t, "exit 1")
	log := filepath.Join(t.TempDir(), "signals")
	_, _, err := d.Start(t.Context())
	require.Error(t, err)
	_, ended := holder(t, d.Dir, log)
	d.Grace, d.ShortGrace = time.Hour, 100*time.Millisecond
	_, err = d.Revive(t.Context(), true)
	require.ErrorAs(t, err, new(*supervise.StartError))
	require.NoError(t, <-ended)
	assert.ElementsMatch(t, []string{"terminated", "interrupt"}, signals(t, log))
}

func TestReload_SendsSIGHUP(t *testing.T) {
	t.Parallel()
	d := program(t, "")
	_, err := d.Reload(t.Context())
	require.ErrorIs(t, err, supervise.ErrNotRunning)
	log := filepath.Join(t.TempDir(), "signals")
	cmd, ended := holder(t, d.Dir, log)
	pid, err := d.Reload(t.Context())
	require.NoError(t, err)
	assert.Equal(t, cmd.Process.Pid, pid)
	require.Eventually(t, func() bool { return len(signals(t, log)) == 1 }, time.Minute, 10*time.Millisecond)
	assert.Equal(t, []string{"hangup"}, signals(t, log))
	require.NoError(t, cmd.Process.Kill())
	<-ended
}
