// Package storetest holds every picture.Backend to what the picture store relies on.
package storetest

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/picture"
)

// Source returns what Put stores: a file in dir.
func Source(tb testing.TB, dir string, content []byte) picture.Source {
	tb.Helper()
	f, err := os.CreateTemp(dir, ".draft-")
	require.NoError(tb, err)
	_, err = f.Write(content)
	require.NoError(tb, err)
	require.NoError(tb, f.Close())
	sum := sha256.Sum256(content)
	return picture.Source{ReaderAt: bytes.NewReader(content), Path: f.Name(), Size: int64(len(content)), SHA256: sum[:], Type: "image/png"}
}

// Check checks an empty Backend. dir is a directory for sources, on its file system where it is one. exact: it refuses a name that is taken.
func Check(t *testing.T, b picture.Backend, dir string, exact bool) {
	ctx := t.Context()
	read := func(name string) string {
		t.Helper()
		r, err := b.Get(ctx, name)
		require.NoError(t, err)
		defer r.Close()
		content, err := io.ReadAll(r)
		require.NoError(t, err)
		return string(content)
	}
	list := func() (names []string) {
		t.Helper()
		require.NoError(t, b.List(ctx, func(found []picture.Info) error {
			assert.LessOrEqual(t, len(found), 1000)
			for _, info := range found {
				names = append(names, info.Name)
			}
			return nil
		}))
		slices.Sort(names)
		return names
	}
	for what, call := range map[string]func() error{
		"Get":    func() error { _, err := b.Get(ctx, "missing.png"); return err },
		"Stat":   func() error { _, err := b.Stat(ctx, "missing.png"); return err },
		"Remove": func() error { return b.Remove(ctx, "missing.png") },
	} {
		assert.ErrorIs(t, call(), fs.ErrNotExist, what)
	}
	assert.Empty(t, list())
	assert.NotEmpty(t, b.String())
	assert.Contains(t, b.URL("a.png"), "a.png")

	require.NoError(t, b.Put(ctx, "a.png", Source(t, dir, []byte("first")), false))
	assert.Equal(t, "first", read("a.png"))
	info, err := b.Stat(ctx, "a.png")
	require.NoError(t, err)
	assert.Equal(t, []any{"a.png", int64(5)}, []any{info.Name, info.Bytes})
	assert.WithinDuration(t, time.Now(), info.ModifiedAt, time.Minute)
	if exact {
		assert.ErrorIs(t, b.Put(ctx, "a.png", Source(t, dir, []byte("other")), false), fs.ErrExist)
		assert.Equal(t, "first", read("a.png"))
	}
	require.NoError(t, b.Put(ctx, "a.png", Source(t, dir, []byte("second")), true))
	assert.Equal(t, "second", read("a.png"))

	large := bytes.Repeat([]byte("0123456789abcdef"), 1<<17)
	require.NoError(t, b.Put(ctx, "large.png", Source(t, dir, large), false))
	assert.True(t, read("large.png") == string(large))
	require.NoError(t, b.Put(ctx, "task_1-1-name_2e.png", Source(t, dir, []byte("x")), false))
	assert.Equal(t, []string{"a.png", "large.png", "task_1-1-name_2e.png"}, list())
	stop := fmt.Errorf("enough")
	assert.ErrorIs(t, b.List(ctx, func([]picture.Info) error { return stop }), stop)
	for _, name := range list() {
		require.NoError(t, b.Remove(ctx, name))
		assert.ErrorIs(t, b.Remove(ctx, name), fs.ErrNotExist)
	}
	assert.Empty(t, list())
	left, err := filepath.Glob(filepath.Join(dir, ".draft-*"))
	require.NoError(t, err)
	for _, path := range left {
		require.NoError(t, os.Remove(path))
	}
}
