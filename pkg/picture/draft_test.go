package picture_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/simapi"
	"imagetasks/pkg/picture"
	"imagetasks/pkg/task"
)

func TestPublish_OncePerRun(t *testing.T) {
	s := openIn(t, t.TempDir())
	first, err := publish(t, s, "t", 1, pngBytes(t))
	require.NoError(t, err)
	for _, content := range [][]byte{simapi.Draw("another"), jpegBytes(t), webpBytes(t)} {
		again, err := publish(t, s, "t", 1, content)
		require.NoError(t, err)
		assert.Equal(t, first, again, "the first picture is that of the run")
	}
	stored, err := os.ReadFile(first.Path)
	require.NoError(t, err)
	assert.Equal(t, pngBytes(t), stored)
	next, err := publish(t, s, "t", 2, jpegBytes(t))
	require.NoError(t, err)
	assert.ElementsMatch(t, []string{first.Name, next.Name}, names(t, s), "no draft remains")
	for run, want := range map[int]picture.Picture{1: first, 2: next} {
		found, ok, err := s.Find(t.Context(), "t", run)
		require.NoError(t, err)
		assert.True(t, ok)
		assert.Equal(t, want, found)
	}
	_, ok, err := s.Find(t.Context(), "t", 3)
	require.NoError(t, err)
	assert.False(t, ok)
}

// Each caller gets a complete picture of the run, and with one format there is one file.
func TestPublish_Concurrent(t *testing.T) {
	dir := t.TempDir()
	s := openIn(t, dir)
	for _, supported := range []bool{true, false} {
		id := "linked"
		var f picture.Faults
		if !supported {
			id = "renamed"
			f.FailLink(syscall.EPERM)
		}
		got := make([]picture.Picture, 16)
		var wg sync.WaitGroup
		for i := range got {
			each := openIn(t, dir)
			each.Inject(&f)
			wg.Go(func() {
				d, err := each.Create()
				if !assert.NoError(t, err) {
					return
				}
				_, err = d.Write(simapi.Draw(string(rune('a' + i))))
				assert.NoError(t, err)
				got[i], err = d.Publish(t.Context(), id, 1, nil)
				assert.NoError(t, err)
			})
		}
		wg.Wait()
		for _, p := range got {
			assert.Equal(t, got[0].Name, p.Name)
		}
		found, ok, err := s.Find(t.Context(), id, 1)
		require.NoError(t, err)
		require.True(t, ok)
		assert.Equal(t, got[0].Name, found.Name)
	}
	assert.Len(t, names(t, s), 2, "no draft remains")
}

func TestPublish_WithoutHardLinks(t *testing.T) {
	s := openIn(t, t.TempDir())
	var f picture.Faults
	f.FailLink(syscall.ENOTSUP)
	s.Inject(&f)
	first, err := publish(t, s, "t", 1, pngBytes(t))
	require.NoError(t, err)
	again, err := publish(t, s, "t", 1, simapi.Draw("x"))
	require.NoError(t, err)
	assert.Equal(t, first, again)
	assert.Equal(t, []string{first.Name}, names(t, s))
}

// A file that is not a whole picture, as after a crash of a disk, is not the run's picture.
func TestPublish_ReplacesIncompletePicture(t *testing.T) {
	s := openIn(t, t.TempDir())
	path := filepath.Join(s.Dir(), s.FileName("t", 1, "png"))
	for _, content := range [][]byte{{}, pngBytes(t)[:20]} {
		require.NoError(t, os.WriteFile(path, content, 0o644))
		_, found, err := s.Find(t.Context(), "t", 1)
		require.NoError(t, err)
		assert.False(t, found)
		p, err := publish(t, s, "t", 1, pngBytes(t))
		require.NoError(t, err)
		assert.Equal(t, path, p.Path)
		_, found, err = s.Find(t.Context(), "t", 1)
		require.NoError(t, err)
		assert.True(t, found)
	}
}

// A process that crashes between any two steps of Publish leaves a picture that is found, or none and a draft that is removed.
func TestPublish_CrashBetweenSteps(t *testing.T) {
	dir := t.TempDir()
	s := openIn(t, dir)
	d, err := s.Create()
	require.NoError(t, err)
	_, err = d.Write(pngBytes(t))
	require.NoError(t, err)
	draft := d.Crash()
	require.NoError(t, os.Truncate(draft, int64(len(pngBytes(t))))) // as Publish does before it
	path := filepath.Join(s.Dir(), s.FileName("t", 1, "png"))

	require.NoError(t, os.Link(draft, path)) // as Publish does, and then it crashed
	found, ok, err := openIn(t, dir).Find(t.Context(), "t", 1)
	require.NoError(t, err)
	require.True(t, ok)
	assert.Equal(t, path, found.Path)
	assert.Equal(t, []string{found.Name}, names(t, s), "the draft's own name is gone")

	d, err = s.Create()
	require.NoError(t, err)
	_, err = d.Write(pngBytes(t))
	require.NoError(t, err)
	d.Crash() // before it
	_, ok, err = openIn(t, dir).Find(t.Context(), "u", 1)
	require.NoError(t, err)
	assert.False(t, ok)
	assert.Equal(t, []string{found.Name}, names(t, s))
}

// fault is one that passes.
type fault struct {
	begin  func(*picture.Faults)
	during bool // while the picture arrives
}

// What was paid for is stored when the disk works again.
func TestPublish_DiskFails(t *testing.T) {
	content := simapi.Draw("a picture of some size")
	for name, c := range map[string]fault{
		"full at once":            {func(f *picture.Faults) { f.FullAfter(0) }, true},
		"full in the middle":      {func(f *picture.Faults) { f.FullAfter(len(content) / 2) }, true},
		"sync":                    {func(f *picture.Faults) { f.FailSync(false) }, false},
		"link":                    {func(f *picture.Faults) { f.FailLink(syscall.ENOSPC) }, false},
		"link, quota":             {func(f *picture.Faults) { f.FailLink(syscall.EDQUOT) }, false},
		"directory gone for long": {func(f *picture.Faults) { f.FailLink(syscall.ENOENT); f.FailCreate(syscall.ENOENT) }, false},
		"sync of the directory":   {func(f *picture.Faults) { f.FailSyncDir(syscall.EIO) }, false},
		"several":                 {func(f *picture.Faults) { f.FullAfter(10); f.FailSync(false); f.FailCreate(syscall.ENOSPC) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openIn(t, t.TempDir())
			var f picture.Faults
			s.Inject(&f)
			d, err := s.Create()
			require.NoError(t, err)
			if c.during {
				c.begin(&f)
			}
			for rest := content; len(rest) > 0; rest = rest[min(1000, len(rest)):] {
				n, err := d.Write(rest[:min(1000, len(rest))])
				require.NoError(t, err)
				require.Equal(t, min(1000, len(rest)), n)
			}
			if !c.during {
				c.begin(&f)
			}
			waits := 0
			p, err := d.Publish(t.Context(), "t", 1, func(err error) {
				assert.Error(t, err)
				if waits++; waits == 3 {
					f.Repair()
				}
			})
			require.NoError(t, err)
			assert.Equal(t, 3, waits)
			stored, err := os.ReadFile(p.Path)
			require.NoError(t, err)
			assert.Equal(t, content, stored)
			info, err := os.Stat(p.Path)
			require.NoError(t, err)
			assert.Equal(t, os.FileMode(0o644), info.Mode().Perm())
			assert.Equal(t, []string{p.Name}, names(t, s))
		})
	}
}

func TestPublish_GivesUpWhenContextEnds(t *testing.T) {
	s := openIn(t, t.TempDir())
	var f picture.Faults
	s.Inject(&f)
	d, err := s.Create()
	require.NoError(t, err)
	f.FullAfter(5)
	_, err = d.Write(pngBytes(t))
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err = d.Publish(ctx, "t", 1, nil)
	require.Error(t, err)
	e := task.AsError(err)
	assert.Equal(t, task.CodePictureStore, e.Code)
	assert.Equal(t, task.Fail, e.Disposition, "it is not paid for again")
	assert.ErrorIs(t, err, syscall.ENOSPC)
	require.NoError(t, d.Discard())
	assert.Empty(t, names(t, s))

	f.Repair()
	d, err = s.Create()
	require.NoError(t, err)
	_, err = d.Write(pngBytes(t))
	require.NoError(t, err)
	_, err = d.Publish(ctx, "t", 1, nil)
	assert.NoError(t, err, "one try is made even so")
}

// A disk that returns other data than was written must not make a picture.
func TestPublish_DiskLosesData(t *testing.T) {
	s := openIn(t, t.TempDir())
	var f picture.Faults
	s.Inject(&f)
	d, err := s.Create()
	require.NoError(t, err)
	_, err = d.Write(pngBytes(t))
	require.NoError(t, err)
	f.FailSync(true)
	_, err = d.Publish(t.Context(), "t", 1, func(error) { f.Repair() })
	require.ErrorContains(t, err, "the disk returned other data")
	assert.Equal(t, task.Fail, task.AsError(err).Disposition)
	require.NoError(t, d.Discard())
	assert.Empty(t, names(t, s))
}

func TestCreate_FullDisk(t *testing.T) {
	s := openIn(t, t.TempDir())
	var f picture.Faults
	s.Inject(&f)
	f.FullAfter(1000)
	_, err := s.Create()
	require.ErrorIs(t, err, syscall.ENOSPC)
	assert.Equal(t, task.Pause, task.AsError(err).Disposition, "before anything is paid for")
	assert.Equal(t, task.CodePictureStore, task.AsError(err).Code)
	assert.Empty(t, names(t, s))
}

func TestSave(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "results")
	p, err := picture.Save(dir, "simple-test", 1<<20, func(w io.Writer) error { _, err := w.Write(jpegBytes(t)); return err })
	require.NoError(t, err)
	assert.Equal(t, filepath.Join(dir, "simple-test.jpg"), p.Path)
	assert.FileExists(t, p.Path)
	_, err = picture.Save(dir, "x", 1<<20, func(w io.Writer) error { _, err := w.Write([]byte("text")); return err })
	assert.Equal(t, task.CodeNotAPicture, task.AsError(err).Code)
	_, err = picture.Save(dir, "x", 10, func(w io.Writer) error { _, err := w.Write(jpegBytes(t)); return err })
	assert.Equal(t, task.CodeTooLarge, task.AsError(err).Code)
	failed := errors.New("no answer")
	_, err = picture.Save(dir, "x", 1<<20, func(io.Writer) error { return failed })
	assert.ErrorIs(t, err, failed)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Len(t, entries, 1)
}

func TestFilesAndRemoveRuns_ExactNames(t *testing.T) {
	s := openIn(t, t.TempDir())
	var all []string
	for run := 1; run <= 3; run++ {
		p, err := publish(t, s, "t", run, jpegBytes(t))
		require.NoError(t, err)
		all = append(all, p.Name)
	}
	other, err := publish(t, s, "t-1", 1, pngBytes(t))
	require.NoError(t, err)
	files, err := s.Files(t.Context(), "t", 3)
	require.NoError(t, err)
	assert.Equal(t, all, files)
	n, err := s.RemoveRuns(t.Context(), "t", 2)
	require.NoError(t, err)
	assert.Equal(t, 2, n)
	n, err = s.RemoveRuns(t.Context(), "t", 2)
	require.NoError(t, err)
	assert.Zero(t, n)
	assert.ElementsMatch(t, []string{all[2], other.Name}, names(t, s))
}

// A draft that was reset has only what was written since.
func TestReset(t *testing.T) {
	s := openIn(t, t.TempDir())
	var f picture.Faults
	s.Inject(&f)
	for id, prepare := range map[string]func(){"written": func() {}, "in memory": func() { f.FullAfter(1000) }} {
		d, err := s.Create()
		require.NoError(t, err)
		prepare()
		_, err = d.Write(append(jpegBytes(t), make([]byte, 300_000)...))
		require.NoError(t, err)
		f.Repair()
		require.NoError(t, d.Reset())
		_, err = d.Write(pngBytes(t))
		require.NoError(t, err)
		p, err := d.Publish(t.Context(), id, 1, nil)
		require.NoError(t, err)
		stored, err := os.ReadFile(p.Path)
		require.NoError(t, err)
		assert.True(t, bytes.Equal(pngBytes(t), stored), id)
		require.Error(t, d.Reset(), "it is published")
	}
	assert.Len(t, names(t, s), 2)
}

// A draft that was reset and then has to be written again, because the disk lost it, has only what was written since.
func TestReset_ThenDamaged(t *testing.T) {
	s := openIn(t, t.TempDir())
	var f picture.Faults
	s.Inject(&f)
	d, err := s.Create()
	require.NoError(t, err)
	_, err = d.Write(make([]byte, 5000))
	require.NoError(t, err)
	require.NoError(t, d.Reset())
	_, err = d.Write(pngBytes(t))
	require.NoError(t, err)
	f.FailSync(false)
	p, err := d.Publish(t.Context(), "t", 1, func(error) { f.Repair() })
	require.NoError(t, err)
	stored, err := os.ReadFile(p.Path)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(pngBytes(t), stored))
}
