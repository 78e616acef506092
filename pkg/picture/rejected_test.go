package picture_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/smalldisk"
	"imagetasks/pkg/picture"
	"imagetasks/pkg/task"
)

func rejectedDir(s *picture.Store) string { return filepath.Join(s.Dir(), "rejected") }

// rejectedFiles returns the names of what was rejected, the oldest first.
func rejectedFiles(t *testing.T, s *picture.Store) []string {
	t.Helper()
	entries, err := os.ReadDir(rejectedDir(s))
	if os.IsNotExist(err) {
		return nil
	}
	require.NoError(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func readRejected(t *testing.T, s *picture.Store) (picture.Rejected, string) {
	t.Helper()
	var r picture.Rejected
	for _, name := range rejectedFiles(t, s) {
		if strings.HasSuffix(name, ".json") {
			text, err := os.ReadFile(filepath.Join(rejectedDir(s), name))
			require.NoError(t, err)
			require.NoError(t, json.Unmarshal(text, &r))
		}
	}
	content, err := os.ReadFile(filepath.Join(rejectedDir(s), r.File))
	require.NoError(t, err)
	return r, string(content)
}

// What is rejected is kept with its cause, readable by nobody else, and is no picture of the store.
func TestReject(t *testing.T) {
	s := openIn(t, t.TempDir())
	d, err := s.Create()
	require.NoError(t, err)
	content := pngBytes(t)[:50]
	_, err = d.Write(content)
	require.NoError(t, err)
	require.NoError(t, d.Reject(picture.Rejected{TaskID: "t", Run: 2, Code: task.CodeNotAPicture, Cause: "cut off", RequestID: "req-1",
		Endpoint: "https://api.example/v1"}, []string{"a private prompt"}))
	require.NoError(t, d.Discard())
	r, kept := readRejected(t, s)
	assert.WithinDuration(t, time.Now(), r.At, time.Minute)
	assert.Equal(t, picture.Rejected{TaskID: "t", Run: 2, At: r.At, Code: task.CodeNotAPicture, Cause: "cut off", RequestID: "req-1",
		Endpoint: "https://api.example/v1", ContentType: "image/png", File: r.File, Bytes: 50}, r)
	assert.Equal(t, string(content), kept, "without what was reserved")
	info, err := os.Stat(rejectedDir(s))
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o700), info.Mode().Perm())
	for _, name := range rejectedFiles(t, s) {
		info, err := os.Stat(filepath.Join(rejectedDir(s), name))
		require.NoError(t, err)
		assert.Equal(t, os.FileMode(0o600), info.Mode().Perm(), name)
	}
	others, err := s.List(t.Context(), func(e []picture.Entry) error { return fmt.Errorf("there is %v", e) })
	require.NoError(t, err)
	assert.Zero(t, others)
	assert.Empty(t, names(t, s), "no draft is left")
	_, found, err := s.Find(t.Context(), "t", 2)
	require.NoError(t, err)
	assert.False(t, found)
}

// Neither a text nor a picture is kept with the prompt in it.
func TestReject_WithoutPrivateTexts(t *testing.T) {
	const prompt = "a private prompt\nof \"two\" lines"
	escaped := `a private prompt\nof \"two\" lines`
	for name, content := range map[string]string{
		"text": "no: " + prompt, "JSON": `{"error":"` + escaped + `"}`, "picture": "\x89PNG\r\n\x1a\n" + strings.Repeat("\x00", 600_000) + prompt,
		"at the cut": strings.Repeat("x", 64<<10-5) + prompt,
	} {
		s := openIn(t, t.TempDir())
		d, err := s.Create()
		require.NoError(t, err)
		_, err = d.Write([]byte(content))
		require.NoError(t, err)
		require.NoError(t, d.Reject(picture.Rejected{TaskID: "t", Run: 1}, []string{prompt, ""}), name)
		_, kept := readRejected(t, s)
		assert.NotContains(t, kept, "private", name)
		assert.NotContains(t, kept, "priva", name)
		assert.LessOrEqual(t, len(kept), 64<<10, name)
	}
}

// An empty draft has nothing to keep.
func TestReject_Nothing(t *testing.T) {
	s := openIn(t, t.TempDir())
	d, err := s.Create()
	require.NoError(t, err)
	require.NoError(t, d.Reject(picture.Rejected{}, nil))
	assert.Empty(t, rejectedFiles(t, s))
	require.NoError(t, d.Discard())
	require.NoError(t, d.Reject(picture.Rejected{}, nil), "nor has one that was discarded")
}

// At most 200 files are kept, the newest; those of a day ago go.
func TestReject_Bounds(t *testing.T) {
	s := openIn(t, t.TempDir())
	var running sync.WaitGroup
	for i := range 4 {
		running.Go(func() {
			for n := range 40 {
				assert.NoError(t, s.Reject(picture.Rejected{TaskID: fmt.Sprint(i, "-", n)}, []byte("x")))
			}
		})
	}
	running.Wait()
	require.NoError(t, s.Reject(picture.Rejected{TaskID: "last"}, []byte("x")))
	files := rejectedFiles(t, s)
	assert.Len(t, files, 200)
	r, _ := readRejected(t, s)
	assert.Equal(t, "last", r.TaskID)

	old := time.Now().Add(-24*time.Hour - time.Minute)
	for _, name := range files[:50] {
		require.NoError(t, os.Chtimes(filepath.Join(rejectedDir(s), name), old, old))
	}
	removed, err := s.CleanRejected(time.Now())
	require.NoError(t, err)
	assert.Equal(t, 50, removed)
	assert.Equal(t, files[50:], rejectedFiles(t, s))
	for _, name := range files[50:60] {
		require.NoError(t, os.Chtimes(filepath.Join(rejectedDir(s), name), old, old))
	}
	openIn(t, filepath.Dir(s.Dir()))
	assert.Equal(t, files[60:], rejectedFiles(t, s), "a start removes them, too")
}

// A user's tasks are forgotten there, too.
func TestRemoveRejected(t *testing.T) {
	s := openIn(t, t.TempDir())
	require.NoError(t, s.RemoveRejected([]string{"a"}), "there is nothing yet")
	for _, id := range []string{"a", "b", "a"} {
		require.NoError(t, s.Reject(picture.Rejected{TaskID: id}, []byte("x")))
	}
	require.NoError(t, os.WriteFile(filepath.Join(rejectedDir(s), "x.json"), []byte("{"), 0o600))
	require.NoError(t, s.RemoveRejected([]string{"a", "c"}))
	assert.Len(t, rejectedFiles(t, s), 3)
	require.NoError(t, os.Remove(filepath.Join(rejectedDir(s), "x.json")))
	r, _ := readRejected(t, s)
	assert.Equal(t, "b", r.TaskID)
}

// Large ones are bounded by their size together. Sparse files have the size and take no space.
func TestReject_TotalSize(t *testing.T) {
	s := openIn(t, t.TempDir())
	for range 3 {
		require.NoError(t, s.Reject(picture.Rejected{}, []byte("x")))
	}
	files := rejectedFiles(t, s)
	for _, name := range files {
		if strings.HasSuffix(name, ".bin") {
			require.NoError(t, os.Truncate(filepath.Join(rejectedDir(s), name), 250<<20))
		}
	}
	removed, err := s.CleanRejected(time.Now())
	require.NoError(t, err)
	assert.Positive(t, removed)
	var total int64
	for _, name := range rejectedFiles(t, s) {
		info, err := os.Stat(filepath.Join(rejectedDir(s), name))
		require.NoError(t, err)
		total += info.Size()
	}
	assert.LessOrEqual(t, total, int64(512<<20))
	assert.Contains(t, rejectedFiles(t, s), files[len(files)-1], "the newest stays")
}

// Where a file system can't reserve space, it is written.
func TestCreate_WritesWhereItCannotReserve(t *testing.T) {
	dir := smalldisk.Mount(t, "size=1m")
	f, err := os.Create(filepath.Join(dir, "x"))
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, picture.WriteZeros(f, 700_001))
	info, err := f.Stat()
	require.NoError(t, err)
	assert.EqualValues(t, 700_001, info.Size())
	assert.ErrorIs(t, picture.WriteZeros(f, 2<<20), syscall.ENOSPC)
}

// A file system that does not respond holds up one probe, and no more.
func TestProbe_Silence(t *testing.T) {
	s := openIn(t, t.TempDir())
	release := make(chan struct{})
	s.BlockDrafts(release)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	assert.ErrorIs(t, s.Probe(ctx), context.DeadlineExceeded)
	assert.ErrorContains(t, s.Probe(t.Context()), "has not responded yet")
	close(release)
	require.Eventually(t, func() bool { return s.Probe(t.Context()) == nil }, time.Minute, time.Millisecond)
	assert.Empty(t, names(t, s))
}

// A directory that was replaced is not the store.
func TestProbe_OtherDirectory(t *testing.T) {
	s := openIn(t, t.TempDir())
	require.NoError(t, os.Remove(filepath.Join(s.Dir(), markerName)))
	e := task.AsError(s.Probe(t.Context()))
	assert.Equal(t, []any{task.CodePictureStore, task.Pause, task.ScopeAll}, []any{e.Code, e.Disposition, e.Scope})
}

// Somebody may have put files there, or a link to a directory of theirs: they are not ours to remove.
func TestCleanRejected_LeavesOtherFiles(t *testing.T) {
	s := openIn(t, t.TempDir())
	require.NoError(t, s.Reject(picture.Rejected{TaskID: "../../t"}, []byte("x")))
	old := time.Now().Add(-48 * time.Hour)
	other := filepath.Join(rejectedDir(s), "notes.txt")
	require.NoError(t, os.WriteFile(other, []byte("x"), 0o600))
	for _, name := range rejectedFiles(t, s) {
		require.NoError(t, os.Chtimes(filepath.Join(rejectedDir(s), name), old, old))
	}
	removed, err := s.CleanRejected(time.Now())
	require.NoError(t, err)
	assert.Equal(t, 2, removed)
	assert.Equal(t, []string{"notes.txt"}, rejectedFiles(t, s))

	elsewhere := t.TempDir()
	kept := filepath.Join(elsewhere, "20200101T000000.000000000Z-"+"6ba7b810-9dad-11d1-80b4-00c04fd430c8.bin")
	require.NoError(t, os.WriteFile(kept, []byte("x"), 0o600))
	require.NoError(t, os.Chtimes(kept, old, old))
	require.NoError(t, os.RemoveAll(rejectedDir(s)))
	require.NoError(t, os.Symlink(elsewhere, rejectedDir(s)))
	removed, err = s.CleanRejected(time.Now())
	assert.ErrorContains(t, err, "is not a directory")
	assert.Zero(t, removed)
	assert.ErrorContains(t, s.Reject(picture.Rejected{TaskID: "t"}, []byte("x")), "is not a directory")
	entries, err := os.ReadDir(elsewhere)
	require.NoError(t, err)
	assert.Len(t, entries, 1)
}

// What can't be used must not take the space of what can.
func TestCreate_RemovesWhatWasRejectedWhenTheDiskIsFull(t *testing.T) {
	s := openIn(t, smalldisk.Mount(t, "size=1m"))
	for range 4 {
		require.NoError(t, s.Reject(picture.Rejected{TaskID: "t"}, make([]byte, 200<<10)))
	}
	require.NoError(t, s.Probe(t.Context()))
	assert.Empty(t, rejectedFiles(t, s))

	require.NoError(t, s.Reject(picture.Rejected{TaskID: "t"}, make([]byte, 800<<10)))
	d, err := s.Create()
	require.NoError(t, err)
	assert.Empty(t, rejectedFiles(t, s))
	require.NoError(t, d.Discard())
}
