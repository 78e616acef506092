package overview

import (
	"path/filepath"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/finding"
)

func TestDiskWatch(t *testing.T) {
	dir := t.TempDir()
	disks, ok := NewDiskWatch(1<<62, filepath.Join(dir, "not", "there")).Read(t.Context())
	require.True(t, ok)
	require.Len(t, disks, 1)
	assert.Positive(t, disks[0].Free)
	found := Assess(Snapshot{Disks: disks})
	require.Len(t, found, 1)
	assert.Equal(t, finding.DiskNearlyFull, found[0].Code)
	assert.Equal(t, filepath.Join(dir, "not", "there"), found[0].Subject)

	disks, ok = NewDiskWatch(1, dir).Read(t.Context())
	require.True(t, ok)
	assert.Empty(t, Assess(Snapshot{Disks: disks}))
	disks, ok = NewDiskWatch(0, dir).Read(t.Context())
	assert.True(t, ok)
	assert.Empty(t, disks)
}

// A file system that hangs is asked once, however often it is read.
func TestDiskWatch_Hangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := NewDiskWatch(1, "/mnt")
		released, calls := make(chan struct{}), 0
		w.free = func(string) (int64, error) { calls++; <-released; return 5, nil }
		for range 3 {
			_, ok := w.Read(t.Context())
			require.False(t, ok)
		}
		close(released)
		synctest.Wait()
		assert.Equal(t, 1, calls)
		disks, ok := w.Read(t.Context())
		assert.True(t, ok)
		assert.Equal(t, []Disk{{Dir: "/mnt", Free: 5, Least: 1}}, disks)
	})
}
