package pagetest_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/browser"
)

// axeSource installs axe-core with npm, and returns its source.
func axeSource(t *testing.T) string {
	t.Helper()
	npm, err := exec.LookPath("npm")
	if err != nil {
		t.Fatal("npm is not installed; install it: sudo apt-get install nodejs npm (Debian, Ubuntu), brew install node (macOS)")
	}
	dir := t.TempDir()
	for _, name := range []string{"package.json", "package-lock.json"} {
		content, err := os.ReadFile(filepath.Join("testdata", name))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), content, 0o644))
	}
	// npm keeps what it has downloaded in its cache, so later runs need no network.
	cmd := exec.CommandContext(t.Context(), npm, "ci", "--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund", "--no-update-notifier")
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "npm ci: %s", out)
	source, err := os.ReadFile(filepath.Join(dir, "node_modules", "axe-core", "axe.min.js"))
	require.NoError(t, err)
	return string(source)
}

// No name of a registry's host is in the lock file: npm takes the package from the registry that it is configured for, and checks it
// against the hash in the file.
func TestPackageLock_NamesNoHost(t *testing.T) {
	content, err := os.ReadFile(filepath.Join("testdata", "package-lock.json"))
	require.NoError(t, err)
	assert.NotContains(t, string(content), "://")
	assert.Contains(t, string(content), `"integrity"`)
}

// violation is a rule of axe-core that the page breaks.
type violation struct {
	ID, Impact, Help string
	Nodes            []struct{ HTML, FailureSummary string }
}

// requireAccessible requires that axe-core finds nothing serious in what the page shows now.
func requireAccessible(t *testing.T, b *browser.Browser, axe, what string) {
	t.Helper()
	var result struct {
		Passes     int
		Violations []violation
	}
	b.Eval(&result, `if (!window.axe) (0, Function)(arguments[0])();
		return axe.run(document, {resultTypes: ["violations"]}).then((r) => ({passes: r.passes.length, violations: r.violations.map((v) =>
			({id: v.id, impact: v.impact, help: v.help, nodes: v.nodes.slice(0, 5).map((n) => ({html: n.html.slice(0, 300), failureSummary: n.failureSummary}))}))}))`, axe)
	require.Greater(t, result.Passes, 10, "axe-core has checked the page")
	for _, v := range result.Violations {
		var nodes []string
		for _, n := range v.Nodes {
			nodes = append(nodes, n.HTML+": "+n.FailureSummary)
		}
		assert.Fail(t, "not accessible", "%s: %s (%s): %s\n%s", what, v.ID, v.Impact, v.Help, strings.Join(nodes, "\n"))
	}
}
