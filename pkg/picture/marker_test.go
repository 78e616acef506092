package picture_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/picture"
	"imagetasks/pkg/task"
)

func TestOpen_Marker(t *testing.T) {
	dir := t.TempDir()
	s := openIn(t, dir)
	assert.Equal(t, filepath.Join(dir, "0f3a1b2c4d5e"), s.Dir())
	text, err := os.ReadFile(filepath.Join(s.Dir(), markerName))
	require.NoError(t, err)
	var m map[string]string
	require.NoError(t, json.Unmarshal(text, &m))
	assert.Equal(t, map[string]string{"installation": installation, "store": s.ID()}, m)
	assert.NotEmpty(t, s.ID())
	assert.Equal(t, s.ID(), openIn(t, dir).ID(), "a second start finds the same")
	existing, found, err := picture.OpenExisting(config(dir))
	require.NoError(t, err)
	assert.True(t, found)
	assert.Equal(t, s.ID(), existing.ID())
	assert.NotEqual(t, s.ID(), openIn(t, t.TempDir()).ID())
	info, err := os.Stat(s.Dir())
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o755), info.Mode().Perm())
}

// Several processes may start at the same time in an empty directory: they agree on the id of the store.
func TestOpen_Concurrent(t *testing.T) {
	for range 20 {
		dir := t.TempDir()
		ids := make([]string, 8)
		var wg sync.WaitGroup
		for i := range ids {
			wg.Go(func() {
				if s, err := picture.Open(config(dir)); assert.NoError(t, err) {
					ids[i] = s.ID()
				}
			})
		}
		wg.Wait()
		for _, id := range ids {
			assert.Equal(t, ids[0], id)
		}
		left, err := filepath.Glob(filepath.Join(dir, "0f3a1b2c4d5e", ".marker-*"))
		require.NoError(t, err)
		assert.Empty(t, left)
	}
}

func TestOpen_TwoInstallationsOnOneDirectory(t *testing.T) {
	dir := t.TempDir()
	s := openIn(t, dir)
	c := config(dir)
	c.Installation, c.Secret = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee", []byte("the secret of the other database")
	other, err := picture.Open(c)
	require.NoError(t, err)
	assert.NotEqual(t, s.Dir(), other.Dir())
	p, err := publish(t, s, "t", 1, pngBytes(t))
	require.NoError(t, err)
	_, found, err := other.Find(t.Context(), "t", 1)
	require.NoError(t, err)
	assert.False(t, found)
	n, err := other.RemoveRuns(t.Context(), "t", 3)
	require.NoError(t, err)
	assert.Zero(t, n)
	_, err = other.Remove(t.Context(), picture.Entry{Name: p.Name, TaskID: "t", Run: 1})
	assert.ErrorContains(t, err, "not the name of a picture of this installation")
	assert.FileExists(t, p.Path)
}

// What belongs to somebody else is not changed.
func TestOpen_RefusesOtherDirectories(t *testing.T) {
	for name, c := range map[string]struct{ file, content, want string }{
		"another installation": {markerName, `{"installation": "0f3a1b2c-4d5e-4f60-8123-000000000000", "store": "x"}`, "belongs to the installation 0f3a1b2c-4d5e-4f60-8123-000000000000"},
		"no marker":            {"holiday.jpg", "x", "has files in it and no " + markerName},
		"a draft, no marker":   {".draft-1", "x", "has files in it and no " + markerName},
		"invalid marker":       {markerName, `{"installation": `, "can't be read"},
		"empty marker":         {markerName, ``, "can't be read"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "0f3a1b2c4d5e", c.file)
			require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
			require.NoError(t, os.WriteFile(path, []byte(c.content), 0o600))
			_, err := picture.Open(config(dir))
			require.ErrorContains(t, err, c.want)
			assert.ErrorContains(t, err, "IMAGE_STORE")
			_, _, err = picture.OpenExisting(config(dir))
			assert.ErrorContains(t, err, c.want)
			entries, err := os.ReadDir(filepath.Dir(path))
			require.NoError(t, err)
			require.Len(t, entries, 1)
			content, err := os.ReadFile(path)
			require.NoError(t, err)
			assert.Equal(t, c.content, string(content))
		})
	}
}

// The message about a lost marker file says what to write into it.
func TestOpen_RestoredMarker(t *testing.T) {
	dir := t.TempDir()
	s := openIn(t, dir)
	p, err := publish(t, s, "t", 1, pngBytes(t))
	require.NoError(t, err)
	require.NoError(t, os.Remove(filepath.Join(s.Dir(), markerName)))
	_, err = picture.Open(config(dir))
	require.ErrorContains(t, err, `write {"installation": "`+installation+`"} to that file`)
	require.NoError(t, os.WriteFile(filepath.Join(s.Dir(), markerName), []byte(`{"installation": "`+installation+`"}`), 0o644))
	again := openIn(t, dir)
	assert.NotEmpty(t, again.ID())
	found, ok, err := again.Find(t.Context(), "t", 1)
	require.NoError(t, err)
	assert.True(t, ok)
	assert.Equal(t, p, found)
}

func TestOpen_NewFileSystem(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "0f3a1b2c4d5e", "lost+found"), 0o755))
	assert.NotEmpty(t, openIn(t, dir).ID())
}

func TestOpenExisting_ChangesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "none")
	s, found, err := picture.OpenExisting(config(dir))
	require.NoError(t, err)
	assert.False(t, found)
	assert.Equal(t, filepath.Join(dir, "0f3a1b2c4d5e"), s.Dir())
	assert.NoDirExists(t, dir)
}

func TestOpen_InvalidInstallation(t *testing.T) {
	for _, change := range []func(*picture.Config){
		func(c *picture.Config) { c.Installation = "../x" },
		func(c *picture.Config) { c.Secret = []byte("short") },
	} {
		c := config(t.TempDir())
		change(&c)
		_, err := picture.Open(c)
		assert.Error(t, err)
	}
}

// A directory that is not the one of the start says nothing about which pictures were published.
func TestFind_DirectoryReplaced(t *testing.T) {
	for name, replace := range map[string]func(dir string) error{
		"gone":         os.RemoveAll,
		"no marker":    func(dir string) error { return os.Remove(filepath.Join(dir, markerName)) },
		"another disk": func(dir string) error { _, err := replaceStore(dir); return err },
		"another name": func(dir string) error { return os.Rename(filepath.Join(dir, markerName), filepath.Join(dir, "x")) },
	} {
		t.Run(name, func(t *testing.T) {
			s := openIn(t, t.TempDir())
			_, found, err := s.Find(t.Context(), "t", 1)
			require.NoError(t, err)
			require.False(t, found)
			require.NoError(t, replace(s.Dir()))
			_, _, err = s.Find(t.Context(), "t", 1)
			require.Error(t, err)
			e := task.AsError(err)
			assert.Equal(t, task.CodePictureStore, e.Code)
			assert.Equal(t, task.Pause, e.Disposition)
		})
	}
}

func replaceStore(dir string) (*picture.Store, error) {
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	return picture.Open(config(filepath.Dir(dir)))
}

func TestFind_NotAFile(t *testing.T) {
	s := openIn(t, t.TempDir())
	for i, create := range []func(path string) error{
		func(path string) error { return os.Mkdir(path, 0o755) },
		func(path string) error { return syscall.Mkfifo(path, 0o644) },
	} {
		require.NoError(t, create(filepath.Join(s.Dir(), s.FileName("t", i+1, "png"))))
		_, _, err := s.Find(t.Context(), "t", i+1)
		assert.ErrorContains(t, err, "not a regular file")
	}
}
