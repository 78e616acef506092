package postgres

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestRemoveAbandoned_KeepsWhatIsUsedOrNew(t *testing.T) {
	base := t.TempDir()
	create := func(name string, age time.Duration) string {
		dir := filepath.Join(base, name)
		require.NoError(t, os.MkdirAll(filepath.Join(dir, "data"), 0o755))
		require.NoError(t, os.Chtimes(dir, time.Time{}, time.Now().Add(-age)))
		return dir
	}
	used, abandoned := create(tempPrefix+"1", time.Hour), create(tempPrefix+"2", time.Hour)
	created, other := create(tempPrefix+"3", 0), create("other", time.Hour)
	lock, err := lockDir(used)
	require.NoError(t, err)

	removeAbandoned(base)
	assert.DirExists(t, used)
	assert.DirExists(t, created)
	assert.DirExists(t, other)
	assert.NoDirExists(t, abandoned)

	require.NoError(t, lock.Close())
	removeAbandoned(base)
	assert.NoDirExists(t, used)
}
