package e2e_test

import (
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/settings"
)

var readmes = []string{"README.md", "README.zh-CN.md"}

func readDoc(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, name))
	require.NoError(t, err)
	return string(content)
}

var fenced = regexp.MustCompile("(?ms)^( *)```(\\w+)\n(.*?)^ *```$")

// blocks returns a document's code blocks of a language, without the indent of the list they stand in.
func blocks(doc, language string) []string {
	var out []string
	for _, found := range fenced.FindAllStringSubmatch(doc, -1) {
		if found[2] == language {
			out = append(out, strings.ReplaceAll("\n"+found[3], "\n"+found[1], "\n")[1:])
		}
	}
	return out
}

func code(text string) string {
	if text == "" {
		return ""
	}
	return "`" + text + "`"
}

func TestEverySettingIsDocumented(t *testing.T) {
	example := readDoc(t, ".env.example")
	for _, s := range settings.List() {
		flag := s.Flag
		if flag != "" {
			flag = "--" + flag
		}
		row := fmt.Sprintf("| `%s` | %s | %s | ", s.Env, code(flag), code(s.Default))
		assert.Contains(t, readDoc(t, "README.md"), row+s.Usage+" |\n")
		assert.Contains(t, readDoc(t, "README.zh-CN.md"), row)
		assert.Regexp(t, "(?m)^# "+regexp.QuoteMeta(s.Usage)+"\n#?"+s.Env+"="+regexp.QuoteMeta(s.Default)+"$", example)
	}
	for _, name := range readmes {
		assert.Len(t, regexp.MustCompile("(?m)^\\| `[A-Z_]+` \\|").FindAllString(readDoc(t, name), -1), len(settings.List()), name)
	}
	_, err := settings.ParseEnv([]byte(example))
	assert.NoError(t, err)
}

func TestBothReadmesSayTheSame(t *testing.T) {
	english, chinese := readDoc(t, readmes[0]), readDoc(t, readmes[1])
	for _, language := range []string{"sh", "sql", "text"} {
		assert.Equal(t, blocks(english, language), blocks(chinese, language), language)
	}
	for what, form := range map[string]string{"headings": `(?m)^#+ `, "table rows": `(?m)^\|[^|]*\|`, "links": `\]\(([^)]*)\)`} {
		count := func(doc string) []string {
			found := regexp.MustCompile(form).FindAllString(doc, -1)
			if what == "links" {
				return slices.DeleteFunc(found, func(s string) bool { return strings.HasPrefix(s, "](README") })
			}
			return make([]string, len(found))
		}
		assert.Equal(t, count(english), count(chinese), what)
	}
}

func TestLinksInTheDocsLeadSomewhere(t *testing.T) {
	docs, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	require.NoError(t, err)
	docs = append(docs, filepath.Join(root, "README.md"), filepath.Join(root, "README.zh-CN.md"), filepath.Join(root, "CONTRIBUTING.md"))
	for _, doc := range docs {
		content, err := os.ReadFile(doc)
		require.NoError(t, err)
		for _, link := range regexp.MustCompile(`\]\(([^):#]+)\)`).FindAllStringSubmatch(string(content), -1) {
			_, err := os.Stat(filepath.Join(filepath.Dir(doc), link[1]))
			assert.NoError(t, err, doc)
		}
	}
}

// What the README tells a newcomer to type is typed here, in its order, but for the two scripts that are
// run on a clone of their own: this test is part of one of them.
func TestTheReadmesCommands(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.install()
	withDaemon(w)
	delete(w.env, "LOG_DIR")
	require.NoError(t, os.CopyFS(filepath.Join(w.dir, "bin"), os.DirFS(bin))) // as quickstart.sh built them
	_, err := w.db.Exec(`drop schema public cascade; create schema public`)
	require.NoError(t, err)
	spool := w.spool()
	said, trusted := map[string]string{}, w.env["SSL_CERT_FILE"]
	for _, block := range blocks(readDoc(t, "README.md"), "sh") {
		for line := range strings.Lines(block) {
			line = strings.TrimSpace(line)
			switch line {
			case "./scripts/quickstart.sh", "./scripts/test.sh":
				continue
			case "./scripts/monitoring-setup.sh":
				delete(w.env, "SSL_CERT_FILE") // it needs nothing but .env, as cron does
			}
			said[line] = w.under(spool, "/bin/sh", "-c", line).ok()
			if line == "chmod 600 .env" {
				w.writeEnv() // "fill in"
			}
			w.env["SSL_CERT_FILE"] = trusted
		}
	}
	assert.Contains(t, said["bin/task-processor migrate --plan"], "create table")
	assert.Contains(t, said["bin/fix-stuck-tasks audit"], "the audit passes")
	assert.Contains(t, said["./scripts/check-status.sh"], "All is well.")
	assert.Contains(t, said["./scripts/stop-processor.sh"], "has stopped")
	assert.Equal(t, 3, w.count("completed"))
	assert.Len(t, w.pictures(), 3)
	for line, out := range said {
		if strings.Contains(line, "credits show") {
			assert.Contains(t, out, "27")
		}
	}
	info, err := os.Stat(filepath.Join(w.dir, ".env"))
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode().Perm())
}

// The statements that the README gives to apps keep the books.
func TestTheReadmesSQL(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	statements := blocks(readDoc(t, "README.md"), "sql")
	require.Len(t, statements, 2)
	enqueue, grant := statements[0], statements[1]
	for range 2 {
		_, err := w.db.Exec(grant, w.user, 1)
		require.NoError(t, err)
	}
	for i := range 3 {
		rows, err := w.db.Query(enqueue, w.user, "a lantern by a river")
		require.NoError(t, err)
		assert.Equal(t, i < 2, rows.Next(), "two credits are two tasks")
		require.NoError(t, rows.Err())
		require.NoError(t, rows.Close())
	}
	w.run("task-processor", "run", "--once").ok()
	assert.Equal(t, 2, w.count("completed"))
	assert.Zero(t, w.credits())
	w.audit()
}

// floor is how deep a package of ours stands: it may import what stands deeper.
func floor(pkg string) int {
	for _, rule := range []struct {
		pattern string
		floor   int
	}{
		{"cmd/*", 0},
		{"pkg/app/apiclient", 2}, {"pkg/app/daemon", 2}, {"pkg/app/*", 1}, {"pkg/app", 3},
		{"internal/demo", 4}, {"pkg/status", 4},
		{"pkg/processor", 5}, {"pkg/monitor", 5}, {"pkg/diagnosis", 5}, {"internal/*", 5},
		{"pkg/repair", 6}, {"pkg/imageapi", 6}, {"pkg/picture", 6}, {"pkg/logging", 6},
		{"pkg/store", 7}, {"pkg/proxy", 7}, {"pkg/supervise", 7},
		{"pkg/settings", 8}, {"pkg/redact", 8}, {"pkg/task", 8}, {"pkg/health", 8}, {"pkg/progress", 8}, {"pkg/lang", 9},
	} {
		if ok, _ := path.Match(rule.pattern, pkg); ok {
			return rule.floor
		}
	}
	return -1
}

func TestImportsRunOneWay(t *testing.T) {
	list := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, "./...")
	list.Dir = root
	out, err := list.Output()
	require.NoError(t, err)
	knows := map[string][]string{}
	for line := range strings.Lines(string(out)) {
		pkg, imports, _ := strings.Cut(strings.TrimSpace(line), " ")
		pkg = strings.TrimPrefix(pkg, "imagetasks/")
		require.GreaterOrEqual(t, floor(pkg), 0, "%s has no floor", pkg)
		for _, imported := range strings.Fields(imports) {
			knows[imported] = append(knows[imported], pkg)
			ours, ok := strings.CutPrefix(imported, "imagetasks/")
			if !ok {
				continue
			}
			internals := strings.HasPrefix(ours, "internal/") && strings.HasPrefix(pkg, "internal/")
			assert.True(t, internals || floor(pkg) < floor(ours), "%s imports %s", pkg, ours)
			product := strings.HasPrefix(pkg, "pkg/") && pkg != "pkg/app/taskprocessor"
			assert.False(t, product && strings.HasPrefix(ours, "internal/"), "%s is in the product and imports %s", pkg, ours)
		}
	}
	for library, rooms := range map[string]string{
		"github.com/urfave/cli/v2":       `^pkg/app(/|$)`,
		"database/sql":                   `^(pkg/store|internal/(postgres|pgtest))$`,
		"github.com/lib/pq":              `^(pkg/store|internal/(postgres|pgtest))$`,
		"golang.org/x/net/proxy":         `^pkg/proxy$`,
		"github.com/openai/openai-go/v3": `^pkg/imageapi$`,
	} {
		for _, pkg := range knows[library] {
			assert.Regexp(t, rooms, pkg, library)
		}
	}
}
