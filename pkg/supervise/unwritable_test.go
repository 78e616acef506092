package supervise_test

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/postgres"
	"imagetasks/internal/smalldisk"
	"imagetasks/pkg/supervise"
)

// isUnprivileged reports whether a test's body is to run in this process. For root, who may write everywhere, it runs the test
// as another user instead.
func isUnprivileged(t *testing.T) bool {
	t.Helper()
	if os.Geteuid() != 0 {
		return true
	}
	cred, err := postgres.Unprivileged()
	require.NoError(t, err)
	dir, err := os.MkdirTemp("", "supervise-")
	require.NoError(t, err)
	defer os.RemoveAll(dir)
	require.NoError(t, os.Chmod(dir, 0o755))
	program := filepath.Join(dir, "supervise.test")
	text, err := os.ReadFile(os.Args[0])
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(program, text, 0o755))
	cmd := exec.Command(program, "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Dir, cmd.SysProcAttr = dir, &syscall.SysProcAttr{Credential: cred}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "--- PASS: "+t.Name())
	return false
}

func TestUnwritableDir_KeepsNothingFromRunning(t *testing.T) {
	if !isUnprivileged(t) {
		return
	}
	d := program(t, "exit 1")
	require.NoError(t, os.Chmod(string(d.Dir), 0o500))
	t.Cleanup(func() { _ = os.Chmod(string(d.Dir), 0o700) })
	var warned []supervise.Effect
	d.Warn = func(w supervise.Warning) {
		assert.Contains(t, w.Error(), "permission denied")
		warned = append(warned, w.Effect)
	}
	_, _, err := d.Start(t.Context())
	require.ErrorAs(t, err, new(*supervise.StartError))
	// The directory is locked in the place of the file.
	assert.Equal(t, []supervise.Effect{supervise.NotRevived, supervise.OutputLost}, warned)
	warned = nil
	_, err = d.Stop(t.Context(), "a test", false)
	require.NoError(t, err)
	assert.Equal(t, []supervise.Effect{supervise.MayBeStarted}, warned)

	var seen reports
	l, err := d.Dir.Lock(seen.add)
	require.NoError(t, err)
	require.Len(t, seen.all(), 1)
	assert.ErrorContains(t, seen.all()[0], "permission denied")
	assert.False(t, inspect(t, d.Dir).Running, "it could not lock anything")
	require.NoError(t, l.Release())

	// With the files of an earlier run the lock holds, and a processor that was started is wanted.
	require.NoError(t, os.Chmod(string(d.Dir), 0o700))
	for _, suffix := range []string{"pid", "started"} {
		require.NoError(t, os.WriteFile(filepath.Join(string(d.Dir), "task-processor."+suffix), []byte("1\n"), 0o444))
	}
	require.NoError(t, os.Chmod(string(d.Dir), 0o500))
	l, err = d.Dir.Lock(seen.add)
	require.NoError(t, err)
	s := inspect(t, d.Dir)
	assert.True(t, s.Running)
	if runtime.GOOS == "linux" {
		assert.Equal(t, os.Getpid(), s.PID, "the kernel knows who holds the lock")
	}
	require.NoError(t, l.Release())
	warned = nil
	pid, err := d.Revive(t.Context(), false)
	require.ErrorAs(t, err, new(*supervise.StartError))
	assert.Zero(t, pid)
	assert.Equal(t, []supervise.Effect{supervise.RestartsNotCounted, supervise.OutputLost}, warned)
}

func TestMissingDir_KeepsNothingFromRunning(t *testing.T) {
	d := program(t, "exit 1")
	file := filepath.Join(string(d.Dir), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o644))
	d.Dir = supervise.Dir(filepath.Join(file, "below"))
	var warned []supervise.Effect
	d.Warn = func(w supervise.Warning) { warned = append(warned, w.Effect) }
	_, _, err := d.Start(t.Context())
	require.ErrorAs(t, err, new(*supervise.StartError))
	_, err = d.Stop(t.Context(), "a test", false)
	require.NoError(t, err)
	assert.Equal(t, []supervise.Effect{supervise.NotExclusive, supervise.NotRevived, supervise.OutputLost, supervise.NotExclusive, supervise.MayBeStarted}, warned)
	l, err := d.Dir.Lock(nil)
	require.NoError(t, err)
	require.NoError(t, l.Release())
}

// fill writes until there is no space.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	require.NoError(t, err)
	defer f.Close()
	_, err = io.Copy(f, io.LimitReader(zeros{}, 1<<30))
	require.ErrorIs(t, err, syscall.ENOSPC)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func TestFullDisk_MarkersAreEmpty(t *testing.T) {
	d := program(t, "exit 1")
	d.Dir = supervise.Dir(smalldisk.Mount(t, "size=64k,mode=0755"))
	fill(t, filepath.Join(string(d.Dir), "filler"))
	d.Warn = func(w supervise.Warning) { assert.NoError(t, w) }
	_, _, err := d.Start(t.Context())
	require.ErrorAs(t, err, new(*supervise.StartError))
	assert.True(t, inspect(t, d.Dir).Wanted)
	var seen reports
	l, err := d.Dir.Lock(seen.add)
	require.NoError(t, err)
	require.Len(t, seen.all(), 1)
	assert.ErrorIs(t, seen.all()[0], syscall.ENOSPC)
	s := inspect(t, d.Dir)
	assert.True(t, s.Running)
	assert.Equal(t, os.Getpid(), s.PID, "the kernel knows it where the file has none")
	require.NoError(t, l.Release())
	_, err = d.Stop(t.Context(), "a test", false)
	require.NoError(t, err)
	s = inspect(t, d.Dir)
	require.NotNil(t, s.Stopped)
	assert.Equal(t, "unknown", s.Stopped.By)
	assert.False(t, s.Wanted)
}

// Where no file can be created at all, the start marker becomes the stop marker.
func TestFullDisk_NoFileCanBeCreated(t *testing.T) {
	d := program(t, "exit 1")
	d.Dir = supervise.Dir(smalldisk.Mount(t, "nr_inodes=6,mode=0755"))
	_, _, err := d.Start(t.Context())
	require.ErrorAs(t, err, new(*supervise.StartError))
	for n := 0; ; n++ {
		f, err := os.Create(filepath.Join(string(d.Dir), "filler"+strings.Repeat("r", n)))
		if err != nil {
			require.ErrorIs(t, err, syscall.ENOSPC)
			break
		}
		require.NoError(t, f.Close())
	}
	d.Warn = func(w supervise.Warning) { assert.NoError(t, w) }
	_, err = d.Stop(t.Context(), "a test", false)
	require.NoError(t, err)
	s := inspect(t, d.Dir)
	assert.NotNil(t, s.Stopped)
	assert.False(t, s.Wanted)
}
