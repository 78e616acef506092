package picture_test

import (
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/smalldisk"
)

// On a disk that is really full, the picture is stored when there is space again.
func TestPublish_FullFileSystem(t *testing.T) {
	dir := smalldisk.Mount(t, "size=512k")
	s := openIn(t, dir)
	content := append(pngBytes(t)[:len(pngBytes(t))-12], make([]byte, 200_000)...)
	content = append(content, pngBytes(t)[len(pngBytes(t))-12:]...)
	d, err := s.Create()
	require.NoError(t, err)
	filler := filepath.Join(dir, "filler")
	f, err := os.Create(filler)
	require.NoError(t, err)
	_, err = f.Write(make([]byte, 400<<10))
	require.NoError(t, err)
	require.NoError(t, f.Close())
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
	f, err = os.Create(filler)
	require.NoError(t, err)
	_, err = io.Copy(f, &endless{})
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.NoError(t, f.Close())
	_, err = s.Create()
	assert.ErrorIs(t, err, syscall.ENOSPC)
	_, found, err := s.Find("t", 1)
	require.NoError(t, err)
	assert.True(t, found, "what is stored is found on a full disk, too")
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }
