package app_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// It needs the database only: the HTTP stack would double its size.
func TestFixStuckTasks_LinksNoHTTP(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "imagetasks/cmd/fix-stuck-tasks").CombinedOutput()
	require.NoError(t, err, string(out))
	for pkg := range strings.FieldsSeq(string(out)) {
		assert.NotEqual(t, "net/http", pkg)
	}
}
