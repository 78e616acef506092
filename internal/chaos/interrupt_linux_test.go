package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// An interrupted run leaves no process, mount or file.
func TestChaos_Interrupted(t *testing.T) {
	bin := buildPrograms(t)
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	o, err := parse([]string{"--seconds", "60"}, os.Stderr)
	require.NoError(t, err)
	o.bin = bin
	ctx, cancel := context.WithCancel(t.Context())
	out := &watchedOutput{contains: "answers silent", found: cancel} // the first fault of seed 1
	require.ErrorIs(t, execute(ctx, o, out), errInterrupted)
	left, err := os.ReadDir(temp)
	require.NoError(t, err)
	assert.Empty(t, left)
	for pid := range processes(t) {
		path, err := os.Readlink(filepath.Join("/proc", pid, "exe"))
		assert.False(t, err == nil && filepath.Dir(path) == bin, "%s runs", path)
	}
	mounts, err := os.ReadFile("/proc/mounts")
	require.NoError(t, err)
	assert.NotContains(t, string(mounts), temp)
}

// watchedOutput calls found when a text was written.
type watchedOutput struct {
	bytes.Buffer
	contains string
	found    func()
}

func (w *watchedOutput) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte(w.contains)) {
		w.found()
	}
	return w.Buffer.Write(p)
}

// processes returns the ids of the processes of this machine.
func processes(t *testing.T) map[string]bool {
	t.Helper()
	found, err := filepath.Glob("/proc/[0-9]*")
	require.NoError(t, err)
	ids := map[string]bool{}
	for _, path := range found {
		ids[filepath.Base(path)] = true
	}
	return ids
}
