package supervise

import (
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Either way tells the holder, where the other is closed to this user.
func TestBothWaysTellTheHolder(t *testing.T) {
	d := Dir(t.TempDir())
	hold, err := d.Lock()
	require.NoError(t, err)
	file, err := os.Stat(d.PidFile())
	require.NoError(t, err)
	for name, tells := range map[string]func(int, os.FileInfo) bool{"opened": opened, "locks": locks} {
		assert.True(t, tells(os.Getpid(), file), name)
		assert.False(t, tells(os.Getppid(), file), name)
	}
	require.NoError(t, hold.Release())
	for name, tells := range map[string]func(int, os.FileInfo) bool{"opened": opened, "locks": locks} {
		assert.False(t, tells(os.Getpid(), file), name)
	}
}
