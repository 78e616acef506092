package inventory_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/inventory"
	"imagetasks/pkg/picture"
	"imagetasks/pkg/task"
)

// A store under another name, such as that of a link to its directory, is the same store: a move with the source deleted would delete the pictures.
func TestMove_ToTheSameStore(t *testing.T) {
	f := newFixture(t)
	p := f.publish("a", 1)
	f.insert("a", task.Completed, 1, p.URL)
	link := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(f.dir, link))
	same, err := picture.Open(picture.Config{Dir: link, MaxBytes: 1 << 20, Installation: f.installation.ID, Secret: f.installation.Secret})
	require.NoError(t, err)
	m := inventory.Mover{From: f.pictures, To: same, Tasks: f.Store, DeleteSource: true}
	_, err = m.Move(t.Context())
	assert.ErrorContains(t, err, "are the same store")
	_, err = m.Plan(t.Context())
	assert.ErrorContains(t, err, "are the same store")
	assert.FileExists(t, p.Path)
}
