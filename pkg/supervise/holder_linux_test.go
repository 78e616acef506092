package supervise

import (
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Each lookup finds the holder, because the other may be closed to this user.
func TestLockHolder_BothLookups(t *testing.T) {
	d := Dir(t.TempDir())
	lock, err := d.Lock()
	require.NoError(t, err)
	file, err := os.Stat(d.PidFile())
	require.NoError(t, err)
	lookups := map[string]func(int, os.FileInfo) bool{"hasOpen": hasOpen, "hasLock": hasLock}
	for name, lookup := range lookups {
		assert.True(t, lookup(os.Getpid(), file), name)
		assert.False(t, lookup(os.Getppid(), file), name)
	}
	require.NoError(t, lock.Release())
	for name, lookup := range lookups {
		assert.False(t, lookup(os.Getpid(), file), name)
	}
}
