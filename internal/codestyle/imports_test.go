package codestyle

import (
	"os/exec"
	"path"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// layers lists the packages from the top layer down: a package may import packages of lower layers only.
var layers = [][]string{
	{"cmd/*", "examples/speech"},
	{"examples/speech/speechsim"},
	{"pkg/app/taskprocessor", "pkg/app/monitortasks", "pkg/app/fixstucktasks", "pkg/app/simpletest"},
	{"pkg/app/operator"},
	{"pkg/app/apiclient", "pkg/app/daemon", "pkg/app/reload", "pkg/app/picturestore", "pkg/app/webhooks", "pkg/app/alerts"},
	{"pkg/app"},
	{"internal/demo"},
	{"pkg/app/summary", "pkg/status"},
	{"pkg/metrics"},
	{"pkg/monitor", "pkg/diagnosis", "pkg/operate"},
	{"pkg/dashboard"},
	{"pkg/overview", "pkg/inventory", "pkg/thumbnail", "pkg/imageworker", "pkg/s3", "internal/*"},
	{"pkg/processor"},
	{"pkg/alert/receiver"},
	{"pkg/bridgesync", "pkg/webhook", "pkg/alert", "pkg/repair", "pkg/imageapi", "pkg/picture", "pkg/logging", "pkg/crontab", "pkg/oldscripts"},
	{"pkg/app/render", "pkg/app/usage"},
	{"pkg/store", "pkg/proxy", "pkg/supervise", "pkg/finding"},
	{"pkg/pgdial"},
	{"pkg/bridge"},
	{"pkg/pgurl", "pkg/settings", "pkg/redact", "pkg/task", "pkg/health", "pkg/progress", "pkg/netaddr"},
	{"pkg/endpoint"},
	{"pkg/lang", "pkg/suggest", "pkg/batch", "pkg/pattern"},
}

// layer returns the layer of a package, 0 being the top, and -1 for a package that the list lacks.
func layer(pkg string) int {
	for n, patterns := range layers {
		for _, pattern := range patterns {
			if ok, _ := path.Match(pattern, pkg); ok {
				return n
			}
		}
	}
	return -1
}

func TestImports_OneWay(t *testing.T) {
	list := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, "./...")
	list.Dir = root
	out, err := list.Output()
	require.NoError(t, err)
	importers := map[string][]string{}
	for line := range strings.Lines(string(out)) {
		pkg, imports, _ := strings.Cut(strings.TrimSpace(line), " ")
		pkg = strings.TrimPrefix(pkg, "imagetasks/")
		require.GreaterOrEqual(t, layer(pkg), 0, "%s is in no layer", pkg)
		for imported := range strings.FieldsSeq(imports) {
			importers[imported] = append(importers[imported], pkg)
			own, ok := strings.CutPrefix(imported, "imagetasks/")
			if !ok {
				continue
			}
			bothInternal := strings.HasPrefix(own, "internal/") && strings.HasPrefix(pkg, "internal/")
			assert.True(t, bothInternal || layer(pkg) < layer(own), "%s imports %s", pkg, own)
			product := strings.HasPrefix(pkg, "pkg/") && pkg != "pkg/app/taskprocessor"
			assert.False(t, product && strings.HasPrefix(own, "internal/"), "%s is part of the product and imports %s", pkg, own)
		}
	}
	for library, allowed := range map[string]string{
		"github.com/urfave/cli/v2": `^pkg/app(/|$)`,
		"database/sql":             `^(pkg/store|internal/(postgres|pgtest|chaos|appshapes))$`,
		"github.com/lib/pq":        `^(pkg/store|internal/(postgres|pgtest|chaos|appshapes))$`,
		"golang.org/x/net/proxy":   `^pkg/proxy$`,

		"github.com/prometheus/client_golang/prometheus": `^pkg/metrics$`,
	} {
		require.NotEmpty(t, importers[library], library)
		for _, pkg := range importers[library] {
			assert.Regexp(t, allowed, pkg, library)
		}
	}
}

// dependencies returns all packages that a package is built from.
func dependencies(t *testing.T, pkg string) []string {
	t.Helper()
	list := exec.Command("go", "list", "-deps", pkg)
	list.Dir = root
	out, err := list.Output()
	require.NoError(t, err)
	return strings.Fields(string(out))
}

// The queue engine runs any Worker: it knows nothing of pictures, proxies or HTTP.
func TestImports_EngineIsIndependent(t *testing.T) {
	for _, dependency := range dependencies(t, "./pkg/processor") {
		assert.NotRegexp(t, `^(imagetasks/pkg/(imageapi|imageworker|picture|proxy)|net/http|image)$`, dependency)
	}
}

// Repairing the queue and its credits needs no HTTP.
func TestImports_FixStuckTasksIsSmall(t *testing.T) {
	for _, dependency := range dependencies(t, "./cmd/fix-stuck-tasks") {
		assert.NotRegexp(t, `^(imagetasks/pkg/(imageapi|proxy|processor|status)|net/http)$`, dependency)
	}
}
