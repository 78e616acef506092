package processor_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The engine must not depend on what its Worker does.
func TestImports_NoPicturesProxiesOrHTTP(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	require.NoError(t, err)
	deps := strings.Fields(string(out))
	for _, pkg := range []string{"net/http", "imagetasks/pkg/imageapi", "imagetasks/pkg/picture", "imagetasks/pkg/proxy"} {
		assert.NotContains(t, deps, pkg)
	}
}
