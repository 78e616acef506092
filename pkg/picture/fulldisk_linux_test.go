package picture_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/smalldisk"
	"imagetasks/pkg/picture"
	"imagetasks/pkg/task"
)

// largePNG is a picture of about size bytes.
func largePNG(t *testing.T, size int) []byte {
	t.Helper()
	small := pngBytes(t)
	end := len(small) - 12
	content := append(bytes.Clone(small[:end]), make([]byte, size)...)
	return append(content, small[end:]...)
}

// fill writes a file until the disk is full.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	require.NoError(t, err)
	_, err = io.Copy(f, &endless{})
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.NoError(t, f.Close())
}

// On a disk that is really full, the picture is stored when there is space again.
func TestPublish_FullFileSystem(t *testing.T) {
	dir := smalldisk.Mount(t, "size=512k")
	s := openIn(t, dir)
	content := largePNG(t, 300_000) // more than what is reserved
	d, err := s.Create()
	require.NoError(t, err)
	filler := filepath.Join(dir, "filler")
	fill(t, filler)
	_, err = d.Write(content)
	require.NoError(t, err)
	p, err := d.Publish(t.Context(), "t", 1, func(err error) {
		assert.ErrorIs(t, err, syscall.ENOSPC)
		assert.NoError(t, os.RemoveAll(filler))
	})
	require.NoError(t, err)
	stored, err := os.ReadFile(p.Path)
	require.NoError(t, err)
	assert.Equal(t, content, stored)
	// A full disk is noticed before a picture is requested.
	fill(t, filler)
	_, err = s.Create()
	assert.ErrorIs(t, err, syscall.ENOSPC)
	_, found, err := s.Find(t.Context(), "t", 1)
	require.NoError(t, err)
	assert.True(t, found, "what is stored is found on a full disk, too")
	// A program can start on a full disk, and waits there for space.
	again := openIn(t, dir)
	_, err = again.Create()
	assert.ErrorIs(t, err, syscall.ENOSPC)
}

// Each draft has the space for a picture before the picture is requested: what fills the disk later takes nothing of it.
func TestCreate_ReservesSpace(t *testing.T) {
	dir := smalldisk.Mount(t, "size=2m")
	s := openIn(t, dir)
	first, err := publish(t, s, "first", 1, largePNG(t, 300_000))
	require.NoError(t, err)
	var drafts []*picture.Draft
	for {
		d, err := s.Create()
		if err != nil {
			require.ErrorIs(t, err, syscall.ENOSPC)
			e := task.AsError(err)
			assert.Equal(t, []any{task.CodePictureStore, task.Pause, task.ScopeAll}, []any{e.Code, e.Disposition, e.Scope})
			break
		}
		drafts = append(drafts, d)
	}
	// 2 MiB less the picture hold 3 drafts of 1.5 times its size.
	require.Len(t, drafts, 3, "each reserves one and a half times the size of %d", first.Bytes)
	fill(t, filepath.Join(dir, "filler"))
	content := largePNG(t, 400_000)
	for i, d := range drafts {
		_, err := d.Write(content)
		require.NoError(t, err)
		_, err = d.Publish(t.Context(), "t", i+1, func(err error) { t.Error("has to wait for space", err) })
		require.NoError(t, err)
	}
	// What was not used is free again: 3 times 50 kB.
	require.NoError(t, os.Remove(filepath.Join(dir, "filler")))
	fill(t, filepath.Join(dir, "filler"))
	info, err := os.Stat(filepath.Join(dir, "filler"))
	require.NoError(t, err)
	assert.Greater(t, info.Size(), int64(2<<20-4*450_000+100_000))
}

// A probe finds out within one call that the store is full, and that it has space again; it leaves nothing.
func TestProbe_FullFileSystem(t *testing.T) {
	dir := smalldisk.Mount(t, "size=1m")
	s := openIn(t, dir)
	require.NoError(t, s.Probe(t.Context()))
	filler := filepath.Join(dir, "filler")
	fill(t, filler)
	err := s.Probe(t.Context())
	require.ErrorIs(t, err, syscall.ENOSPC)
	assert.Equal(t, task.CodePictureStore, task.AsError(err).Code)
	// A little space is not enough for a picture.
	require.NoError(t, os.Truncate(filler, 1<<20-200<<10))
	require.ErrorIs(t, s.Probe(t.Context()), syscall.ENOSPC)
	require.NoError(t, os.Remove(filler))
	require.NoError(t, s.Probe(t.Context()))
	assert.Empty(t, names(t, s), "nothing is left")
}

// On a full disk nothing is left half.
func TestReject_FullFileSystem(t *testing.T) {
	dir := smalldisk.Mount(t, "size=1m")
	s := openIn(t, dir)
	d, err := s.Create()
	require.NoError(t, err)
	_, err = d.Write(pngBytes(t)[:60])
	require.NoError(t, err)
	fill(t, filepath.Join(dir, "filler"))
	assert.ErrorIs(t, s.Reject(picture.Rejected{}, make([]byte, 64<<10)), syscall.ENOSPC)
	assert.Empty(t, rejectedFiles(t, s))
	// A draft gives back what it has reserved, and takes its place.
	require.NoError(t, d.Reject(picture.Rejected{TaskID: "t"}, nil))
	r, _ := readRejected(t, s)
	assert.Equal(t, "t", r.TaskID)
	assert.Empty(t, names(t, s)) // no draft
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }
