package supervise

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Each lookup finds the holder, because the other may be closed to this user.
func TestLockHolder_BothLookups(t *testing.T) {
	d := Dir(t.TempDir())
	lock, err := d.Lock(nil)
	require.NoError(t, err)
	file, err := os.Stat(d.PidFile())
	require.NoError(t, err)
	lookups := map[string]func(int, os.FileInfo) bool{"hasOpen": hasOpen, "hasLock": hasLock}
	for name, lookup := range lookups {
		assert.True(t, lookup(os.Getpid(), file), name)
		assert.False(t, lookup(os.Getppid(), file), name)
	}
	assert.Equal(t, os.Getpid(), systemKernel{}.holder(file))
	require.NoError(t, lock.Release())
	assert.Zero(t, systemKernel{}.holder(file))
	for name, lookup := range lookups {
		assert.False(t, lookup(os.Getpid(), file), name)
	}
}

func TestProcessAge_OfThisProcess(t *testing.T) {
	age, known := ProcessAge(os.Getpid())
	require.True(t, known)
	assert.Positive(t, age)
	assert.Less(t, age, time.Hour)
	parent, known := ProcessAge(os.Getppid())
	require.True(t, known)
	assert.GreaterOrEqual(t, parent, age)
	_, known = ProcessAge(1 << 30)
	assert.False(t, known)
	assert.True(t, RunsProgram(os.Getpid(), filepath.Base(os.Args[0])))
	assert.False(t, RunsProgram(os.Getpid(), "task-processor"))
}
