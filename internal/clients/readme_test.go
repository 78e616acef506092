package clients

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const user = "3f0c6a52-user"

// picture is an input picture, as the drivers' protocol writes bytes.
var picture = map[string]string{"base64": base64.StdEncoding.EncodeToString([]byte("\x89PNG not a real picture"))}

// spelling writes a function's name as a language does.
type spelling func(name string) string

func snakeCase(name string) string { return name }

func camelCase(name string) string {
	words := strings.Split(name, "_")
	for i, word := range words[1:] {
		words[i+1] = strings.ToUpper(word[:1]) + word[1:]
	}
	return strings.Join(words, "")
}

// testSnippet runs the functions of an example: grant, enqueue, status, insufficient credits, cancel and redrive.
func testSnippet(t *testing.T, d *database, c *client, name spelling) {
	t.Helper()
	for range 2 {
		assert.EqualValues(t, 5, c.call(name("grant_credits"), user, 5, "order-1"))
	}
	first := c.row(name("enqueue"), user, "a lantern", picture, "click-1")
	assert.Equal(t, map[string]any{"task_id": first["task_id"], "balance": 3.0}, first)
	assert.Equal(t, first, c.row(name("enqueue"), user, "a lantern", picture, "click-1"), "a repeat returns the first result")
	second := c.row(name("enqueue"), user, "a lantern", picture, "click-2")
	assert.Equal(t, map[string]any{"task_id": nil, "balance": 1.0, "needed": 2.0}, c.row(name("enqueue"), user, "a lantern", picture, "click-3"))
	_, err := c.try(name("enqueue"), user, "another prompt", picture, "click-1")
	requireCode(t, "IT003")(nil, err)
	taskID, ok := first["task_id"].(string)
	require.True(t, ok)
	assert.Equal(t, "a lantern|2|1|high|"+picture["base64"], d.text(`select concat_ws('|', prompt, credits_cost, input_count, options ->> 'quality',
		(select encode(content, 'base64') from imagetasks.inputs i where i.task_id = t.task_id)) from imagetasks.tasks t where task_id = $1`, taskID))

	status := c.row(name("task_status"), user, taskID)
	assert.Equal(t, "pending", status["status"])
	assert.EqualValues(t, 1, status["queue_position"])
	assert.Nil(t, status["expected_wait_seconds"], "no processor runs")
	assert.Nil(t, status["image_url"])
	d.exec(`insert into imagetasks.processors (worker, host, pid, version, capacity, task_seconds) values ('w', 'h', 1, 'v', 2, 30)`)
	status = c.row(name("task_status"), user, second["task_id"])
	assert.EqualValues(t, 2, status["queue_position"])
	assert.EqualValues(t, 30, status["expected_wait_seconds"])
	assert.Nil(t, c.call(name("task_status"), "somebody else", taskID))

	d.failNext(taskID)
	status = c.row(name("task_status"), user, taskID)
	assert.Equal(t, "failed", status["status"])
	assert.EqualValues(t, 1, status["run"])
	assert.Equal(t, "the API responded with 500", status["error_message"])
	assert.NotEmpty(t, status["error_code"])
	assert.Nil(t, c.call(name("redrive"), "somebody else", taskID, 1))
	for range 2 {
		assert.Equal(t, map[string]any{"new_run": 2.0, "balance": 1.0}, c.row(name("redrive"), user, taskID, 1), "charged once")
	}
	requireCode(t, "IT005")(c.try(name("redrive"), user, taskID, 2))

	for range 2 {
		cancelled := c.row(name("cancel"), user, taskID)
		delete(cancelled, "missing_charge") // supabase-js returns all columns
		assert.Equal(t, map[string]any{"status": "cancelled", "refunded": 2.0, "balance": 3.0}, cancelled)
	}
	requireCode(t, "IT004")(c.try(name("cancel"), "somebody else", second["task_id"]))
	d.requireAudit()
}

func TestPsql_ReadmeSnippet(t *testing.T) {
	d := newDatabase(t)
	app := as(t, d.url, "my_app")
	script := snippet(t, "sql", `\gset`)
	d.exec(`select imagetasks.grant_credits('user-1', 3, '', 'order-1000')`)
	d.exec(`select imagetasks.enqueue('user-1', 'fails', cost => 3)`)
	failing := d.text(`select task_id from imagetasks.tasks`)
	d.failNext(failing)

	out, stderr := psql(t, app, script)
	assert.Empty(t, stderr)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	require.Len(t, lines, 5, out)
	assert.Equal(t, "33", lines[0])
	taskID := d.text(`select task_id from imagetasks.tasks where prompt like 'the lantern%'`)
	assert.Equal(t, "task "+taskID+" balance 31", lines[1])
	assert.Equal(t, "pending|1||0|||", lines[2])
	assert.Equal(t, "cancelled|2|33", lines[3])
	assert.Equal(t, failing+"|2|30", lines[4])
	assert.Equal(t, "https://example.com/lantern.png high", d.text(`select 'https://example.com/lantern.png ' || (options ->> 'quality') from imagetasks.tasks where task_id = $1`, taskID))

	again, _ := psql(t, app, script)
	assert.Contains(t, again, "task "+taskID+" balance 31", "the keys make a repeat return the first results")
	assert.Equal(t, "30", d.text(`select imagetasks.balance('user-1')`))
	d.requireAudit()
}

func TestPsql_InsufficientCredits(t *testing.T) {
	d := newDatabase(t)
	d.exec(`select imagetasks.grant_credits('user-1', 30, 'payment', 'order-1001')`)
	d.exec(`select imagetasks.enqueue('user-1', 'expensive', cost => 29)`)
	out, stderr := psql(t, as(t, d.url, "my_app"), snippet(t, "sql", `\gset`))
	assert.Contains(t, out, "IT001 insufficient credits: the balance is 1, needed are 2\n")
	assert.NotContains(t, out, "task ")
	assert.Equal(t, 1, strings.Count(stderr, "ERROR"), stderr)
}

func TestNodePostgres_ReadmeSnippet(t *testing.T) {
	d := newDatabase(t)
	c := startNode(t, snippet(t, "js", `from 'pg'`), "DATABASE_URL="+as(t, d.url, "my_app"))
	testSnippet(t, d, c, camelCase)
}

func TestSupabaseJS_ReadmeSnippet(t *testing.T) {
	d := newDatabase(t)
	api, address := startDataAPI(t, d.url, "public", "imagetasks")
	c := startNode(t, snippet(t, "js", `from '@supabase/supabase-js'`), "NEXT_PUBLIC_SUPABASE_URL="+address,
		"SUPABASE_SERVICE_ROLE_KEY="+api.key("service_role"))
	testSnippet(t, d, c, camelCase)
}

func TestPsycopg_ReadmeSnippet(t *testing.T) {
	d := newDatabase(t)
	c := startPython(t, snippet(t, "python", "import psycopg"), "DATABASE_URL="+as(t, d.url, "my_app"))
	testSnippet(t, d, c, snakeCase)
}

// Behind PgBouncer in transaction mode, which connects as a superuser here.
func TestNodePostgres_BehindTransactionPooler(t *testing.T) {
	d := openDatabase(t, server.Pooled(t))
	testSnippet(t, d, startNode(t, snippet(t, "js", `from 'pg'`), "DATABASE_URL="+d.url), camelCase)
}

func TestPsycopg_BehindTransactionPooler(t *testing.T) {
	d := openDatabase(t, server.Pooled(t))
	testSnippet(t, d, startPython(t, snippet(t, "python", "import psycopg"), "DATABASE_URL="+d.url), snakeCase)
}
