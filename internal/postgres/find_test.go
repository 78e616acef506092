package postgres

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestNewest_DebianHomebrewFreeBSD(t *testing.T) {
	root := t.TempDir()
	patterns := make([]string, len(serverPatterns))
	for i, pattern := range serverPatterns {
		patterns[i] = filepath.Join(root, pattern)
	}
	_, err := newest(patterns)
	require.ErrorIs(t, err, ErrNotInstalled)
	assert.ErrorContains(t, err, "brew install postgresql@17")

	// Each server is newer than those installed before it, in the numeric order of versions.
	for _, bin := range []string{
		"usr/local/bin", "usr/lib/postgresql/9.6/bin", "usr/lib/postgresql/15/bin",
		"usr/local/opt/postgresql@16/bin", "opt/homebrew/opt/postgresql@17/bin", "usr/lib/postgresql/100/bin",
	} {
		dir := filepath.Join(root, bin)
		require.NoError(t, os.MkdirAll(dir, 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "postgres"), nil, 0o755))
		found, err := newest(patterns)
		require.NoError(t, err)
		assert.Equal(t, dir, found)
	}
}
