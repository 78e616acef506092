package e2e_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var readmes = []string{"README.md", "README.zh-CN.md"}

func readDoc(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, name))
	require.NoError(t, err)
	return string(content)
}

var fenced = regexp.MustCompile("(?ms)^( *)```(\\w+)\n(.*?)^ *```$")

// blocks returns a document's code blocks of a language, without the indentation of the list around them.
func blocks(doc, language string) []string {
	var out []string
	for _, found := range fenced.FindAllStringSubmatch(doc, -1) {
		if found[2] == language {
			out = append(out, strings.ReplaceAll("\n"+found[3], "\n"+found[1], "\n")[1:])
		}
	}
	return out
}

func TestReadmes_SameContent(t *testing.T) {
	english, chinese := readDoc(t, readmes[0]), strings.ReplaceAll(readDoc(t, readmes[1]), "-zh.png)", "-en.png)") // screenshots in their language
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

func TestDocs_Links(t *testing.T) {
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

// Every command of the README runs here, in its order. Two scripts are left out, because this test is part of one of them.
func TestReadme_Commands(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.install()
	withDaemon(w)
	delete(w.env, "LOG_DIR")
	require.NoError(t, os.CopyFS(filepath.Join(w.dir, "bin"), os.DirFS(bin))) // as quickstart.sh builds them
	_, err := w.db.Exec(`drop schema imagetasks cascade`)
	require.NoError(t, err)
	spool := w.spool()
	output, trusted := map[string]string{}, w.env["SSL_CERT_FILE"]
	for _, block := range blocks(readDoc(t, "README.md"), "sh") {
		for line := range strings.Lines(block) {
			line = strings.TrimSpace(line)
			switch line {
			case "./scripts/quickstart.sh", "./scripts/test.sh":
				continue
			case "./scripts/monitoring-setup.sh":
				delete(w.env, "SSL_CERT_FILE") // only .env, like a cron job
			}
			output[line] = w.runWithCrontabs(spool, "/bin/sh", "-c", line).ok()
			if line == "chmod 600 .env" {
				w.writeEnv() // "fill in"
			}
			w.env["SSL_CERT_FILE"] = trusted
		}
	}
	assert.Contains(t, output["bin/task-processor migrate --plan"], "create table")
	assert.Contains(t, output["bin/fix-stuck-tasks audit"], "the audit passes")
	assert.Contains(t, output["./scripts/check-status.sh"], "All is well.")
	assert.Contains(t, output["./scripts/stop-processor.sh"], "has stopped")
	assert.Equal(t, 3, w.count("completed"))
	assert.Len(t, w.pictures(), 3)
	for line, out := range output {
		if strings.Contains(line, "credits show") {
			assert.Contains(t, out, "27")
		}
	}
	info, err := os.Stat(filepath.Join(w.dir, ".env"))
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode().Perm())
}
