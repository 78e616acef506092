package clients

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/store"
)

const databaseDoc = "docs/database.md"

// sections returns the text of docs/database.md below each heading, up to the next one.
func sections(t *testing.T) map[string]string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, databaseDoc))
	require.NoError(t, err)
	headings := regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatchIndex(string(content), -1)
	out := map[string]string{}
	for i, h := range headings {
		end := len(content)
		if i+1 < len(headings) {
			end = headings[i+1][0]
		}
		out[string(content[h[2]:h[3]])] = string(content[h[1]:end])
	}
	return out
}

// tableRows returns the cells of the first columns of a Markdown table's rows, without backquotes, joined by spaces.
func tableRows(section string, columns int) []string {
	var out []string
	for line := range strings.Lines(section) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if !strings.HasPrefix(line, "| `") || len(cells) < columns {
			continue
		}
		row := ""
		for _, cell := range cells[:columns] {
			row += " " + strings.ReplaceAll(strings.TrimSpace(cell), "`", "")
		}
		out = append(out, strings.TrimSpace(row))
	}
	return out
}

// The document has each function with its parameters in order, their types and defaults, the columns of the view, and the tables.
func TestDatabaseDoc_MatchesSchema(t *testing.T) {
	d := newDatabase(t)
	doc := sections(t)
	for name := range calls("") {
		arguments := d.text(`select pg_get_function_arguments(p.oid) from pg_proc p where p.oid = ('imagetasks.' || $1)::regproc`, name)
		arguments, _, _ = strings.Cut(arguments, ", OUT ")
		casts := regexp.MustCompile(`::[a-z ]+`)
		arguments = strings.ReplaceAll(casts.ReplaceAllString(arguments, ""), " DEFAULT", "")
		arguments = strings.ReplaceAll(arguments, "NULL", "null")
		assert.Equal(t, strings.Split(arguments, ", "), tableRows(doc[name], 3), name)
	}
	assert.Equal(t, d.list(`select attname || ' ' || format_type(atttypid, null) from pg_attribute
		where attrelid = 'imagetasks.task_status'::regclass and attnum > 0`), sorted(tableRows(doc["The view task_status"], 2)))
	tables := strings.Split(strings.Join(tableRows(doc["The schema"], 1), ", "), ", ")
	assert.Equal(t, d.list(`select relname from pg_class where relnamespace = 'imagetasks'::regnamespace and relkind = 'r'`), sorted(tables))

	migration, err := os.ReadFile(filepath.Join(root, "pkg", "store", "migrations", "0001_schema.sql"))
	require.NoError(t, err)
	var codes []string
	for _, code := range regexp.MustCompile(`errcode = '(IT\d+)'`).FindAllStringSubmatch(string(migration), -1) {
		codes = append(codes, code[1])
	}
	assert.Equal(t, append([]string{"42501"}, sorted(codes)...), sorted(tableRows(doc["Errors"], 1)))
}

// The figures in the document are those that its script measures, within a quarter.
func TestDatabaseDoc_Sizes(t *testing.T) {
	d := newDatabase(t)
	section := sections(t)["Sizing"]
	script := fenced.FindStringSubmatch(section)
	require.NotNil(t, script)
	out, stderr := psql(t, d.url, script[3])
	require.Empty(t, stderr)
	for _, row := range tableRows(section, 2) {
		name, figure, _ := strings.Cut(row, " ")
		documented, err := strconv.ParseFloat(figure, 64)
		require.NoError(t, err)
		measured := regexp.MustCompile(`(?m)^` + name + `\|(\d+)$`).FindStringSubmatch(out)
		require.NotNil(t, measured, name)
		bytes, err := strconv.ParseFloat(measured[1], 64)
		require.NoError(t, err)
		assert.InEpsilon(t, documented, bytes, 0.25, name)
	}
}

// A dump of the schema, made by its owner, restores into another database with its privileges.
func TestDatabaseDoc_Backup(t *testing.T) {
	d := newDatabase(t)
	d.exec(`select imagetasks.grant_credits($1, 10, '', 'order-1')`, user)
	d.exec(`select imagetasks.enqueue($1, 'a lantern', inputs => '[{"base64": "AAAA"}]', idempotency_key => 'k')`, user)
	script := fenced.FindStringSubmatch(sections(t)["Backups"])
	require.NotNil(t, script)
	cmd := exec.CommandContext(t.Context(), "sh", "-c", script[3])
	cmd.Dir = t.TempDir()
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + cmd.Dir, "DATABASE_URL=" + as(t, d.url, "owner")}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	dump, err := os.ReadFile(filepath.Join(cmd.Dir, "imagetasks.sql"))
	require.NoError(t, err)

	restored := &database{t: t, url: server.Empty(t)}
	restored.raw = connect(t, restored.url)
	_, stderr := psql(t, restored.url, string(dump))
	require.Empty(t, stderr)
	restored.store, err = store.Open(store.Config{URL: as(t, restored.url, "owner")})
	require.NoError(t, err)
	defer restored.store.Close()
	require.NoError(t, restored.store.CheckAccess(t.Context()))
	restored.requireAudit()
	app := connect(t, as(t, restored.url, "my_app"))
	var balance int
	require.NoError(t, app.QueryRowContext(t.Context(), `select balance from imagetasks.enqueue($1, 'another', idempotency_key => 'k2')`, user).Scan(&balance))
	assert.Equal(t, 8, balance)
	assert.Equal(t, "1", restored.text(`select count(*) from imagetasks.inputs`))
}
