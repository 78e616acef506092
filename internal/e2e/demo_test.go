package e2e_test

import (
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// withoutOperator is a machine where nothing is set.
func (w *world) withoutOperator() {
	for _, name := range []string{"DATABASE_URL", "OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_PROXY", "SSL_CERT_FILE", "STATUS_ADDR"} {
		delete(w.env, name)
	}
}

// nothingRuns requires that no process knows the world's directory.
func (w *world) nothingRuns() {
	w.t.Helper()
	var last string
	w.until("nothing runs on", func() bool {
		last = ""
		for _, line := range commandLines(w.t) {
			if strings.Contains(line, w.dir) {
				last = line
			}
		}
		return last == ""
	})
}

func TestTheDemo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.withoutOperator()
	said := w.run("task-processor", "demo").ok()
	for _, part := range []string{"24 tasks charged", "24 of 24", "completed     20", "failed         4", "30 before, 10 after",
		"the audit passes", "0 of them without the proxy", "contact sheet", "less "} {
		assert.Contains(t, said, part)
	}
	sheet, err := os.Open(filepath.Join(w.dir, "var", "demo", "contact-sheet.png"))
	require.NoError(t, err)
	defer sheet.Close()
	_, err = png.Decode(sheet)
	require.NoError(t, err)
	pictures, err := filepath.Glob(filepath.Join(w.dir, "var", "demo", "pictures", "*.png"))
	require.NoError(t, err)
	assert.Len(t, pictures, 20)
	different := map[string]bool{}
	for _, path := range pictures {
		content, err := os.ReadFile(path)
		require.NoError(t, err)
		different[string(content)] = true
	}
	assert.Len(t, different, 20)
	w.nothingRuns()
}

func TestCtrlCInTheDemoLeavesNothingRunning(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.withoutOperator()
	p := w.start("task-processor", "demo")
	w.until("work", func() bool { return strings.Contains(p.stdout.String(), "24 tasks charged") })
	assert.Contains(t, w.run("task-processor", "demo").stderr, "another demo is running")
	r := p.stop(syscall.SIGINT)
	r.is(1)
	assert.Contains(t, r.stderr, "none of its processes is running")
	w.nothingRuns()
}

// With a key the demo uses the operator's own API, through the operator's own proxy.
func TestTheDemoWithAKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	delete(w.env, "DATABASE_URL")
	said := w.run("task-processor", "demo").ok()
	assert.Contains(t, said, "OPENAI_API_KEY is set")
	assert.Contains(t, said, "the audit passes")
	assert.Len(t, w.api.Calls(), 3)
	assert.Zero(t, w.direct())
	w.env["LANG"] = "zh_CN.UTF-8"
	said = w.run("task-processor", "demo").ok()
	for _, part := range []string{"演示将使用真实的 API", "审计通过", "总览图", "用时"} {
		assert.Contains(t, said, part)
	}
}
