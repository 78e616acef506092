package e2e_test

import (
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// withoutAPISettings removes all settings from the environment.
func (w *fixture) withoutAPISettings() {
	for _, name := range []string{"DATABASE_URL", "OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_PROXY", "SSL_CERT_FILE", "STATUS_ADDR"} {
		delete(w.env, name)
	}
}

// requireNoProcesses requires that no process has the fixture's directory in its command line.
func (w *fixture) requireNoProcesses() {
	w.t.Helper()
	var last string
	w.waitFor("the end of all processes", func() bool {
		last = ""
		for _, line := range commandLines(w.t) {
			if strings.Contains(line, w.dir) {
				last = line
			}
		}
		return last == ""
	})
}

func TestDemo(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.withoutAPISettings()
	output := w.run("task-processor", "demo").ok()
	for _, part := range []string{"24 tasks charged", "24 of 24", "completed     20", "failed         4", "30 before, 10 after",
		"the audit passes", "0 of them without the proxy", "contact sheet", "less "} {
		assert.Contains(t, output, part)
	}
	sheet, err := os.Open(filepath.Join(w.dir, "var", "demo", "contact-sheet.png"))
	require.NoError(t, err)
	defer sheet.Close()
	_, err = png.Decode(sheet)
	require.NoError(t, err)
	pictures, err := filepath.Glob(filepath.Join(w.dir, "var", "demo", "pictures", "*", "*.png"))
	require.NoError(t, err)
	assert.Len(t, pictures, 20)
	different := map[string]bool{}
	for _, path := range pictures {
		content, err := os.ReadFile(path)
		require.NoError(t, err)
		different[string(content)] = true
	}
	assert.Len(t, different, 20)
	w.requireNoProcesses()
}

func TestDemo_Interrupted(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.withoutAPISettings()
	p := w.start("task-processor", "demo")
	w.waitFor("work", func() bool { return strings.Contains(p.stdout.String(), "24 tasks charged") })
	assert.Contains(t, w.run("task-processor", "demo").stderr, "another demo is running in")
	r := p.stop(syscall.SIGINT)
	r.is(1)
	assert.Contains(t, r.stderr, "interrupted; the demo left no processes running")
	w.requireNoProcesses()
}

// With a key the demo uses the operator's API, through the operator's proxy.
func TestDemo_OwnAPI(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	delete(w.env, "DATABASE_URL")
	output := w.run("task-processor", "demo").ok()
	assert.Contains(t, output, "OPENAI_API_KEY is set")
	assert.Contains(t, output, "the audit passes")
	assert.Len(t, w.api.Calls(), 3)
	assert.Zero(t, w.directCalls())
	w.env["LANG"] = "zh_CN.UTF-8"
	output = w.run("task-processor", "demo").ok()
	for _, part := range []string{"演示将使用真实的 API", "审计通过", "总览图", "用时"} {
		assert.Contains(t, output, part)
	}
}

// A picture of a real API takes longer than the simulated pace of the demo: each is requested, and paid for, once.
func TestDemo_SlowOwnAPI(t *testing.T) {
	t.Parallel()
	w := newFixture(t, slow(8*time.Second))
	delete(w.env, "DATABASE_URL")
	assert.Contains(t, w.run("task-processor", "demo").ok(), "the audit passes")
	assert.Len(t, w.api.Calls(), 3)
}
