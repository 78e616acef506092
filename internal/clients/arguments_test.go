package clients

import (
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// testdata returns a file of testdata.
func testdata(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("testdata", name))
	require.NoError(t, err)
	return string(content)
}

// testArguments passes null, arrays, objects and large numbers through a driver.
func testArguments(t *testing.T, d *database, c *client, name spelling, bigintIsText bool) {
	t.Helper()
	number := func(text string, value float64) any {
		if bigintIsText {
			return text
		}
		return value
	}
	_, err := d.store.GrantCredits(t.Context(), user, 1_000_000_000_000, "", "order-1")
	require.NoError(t, err)
	assert.Equal(t, number("1000000000000", 1e12), c.call("balance", user))

	defaults := map[string]any{"user_id": user, "prompt": "defaults", "options": nil, "cost": 0, "idempotency_key": nil, "priority": nil,
		"run_at": nil, "inputs": nil}
	first := c.row("enqueue", defaults)
	assert.Equal(t, number("1000000000000", 1e12), first["balance"])
	assert.NotEqual(t, first["task_id"], c.row("enqueue", defaults)["task_id"], "a key of null is no key")
	assert.Equal(t, "{}|0|0|true", d.text(`select concat_ws('|', options, priority, input_count, (run_after <= now())::text)
		from imagetasks.tasks where task_id = $1`, first["task_id"]))

	given := map[string]any{"user_id": user, "prompt": `quotes ' " \ and 中文`, "options": map[string]any{"model": "m", "extra": map[string]any{"a": []any{1, nil, "x"}}},
		"cost": 999_999_999_999, "idempotency_key": "k", "priority": 9, "run_at": "2031-01-02T03:04:05+08:00",
		"inputs": []any{picture, map[string]any{"base64": picture["base64"], "mask": true}}}
	first = c.row("enqueue", given)
	assert.Equal(t, number("1", 1), first["balance"])
	assert.Equal(t, first, c.row("enqueue", given))
	assert.Equal(t, `quotes ' " \ and 中文|m|[1, null, "x"]|9|2|2031-01-01 19:04:05`, d.text(`select concat_ws('|', prompt, model, options #> '{extra,a}',
		priority, input_count, run_after at time zone 'UTC') from imagetasks.tasks where task_id = $1`, first["task_id"]))

	many := map[string]any{"user_id": user, "idempotency_key": nil, "tasks": []any{
		map[string]any{"prompt": "one", "cost": 1}, map[string]any{"prompt": "two", "cost": 0, "options": map[string]any{}, "inputs": []any{}}}}
	enqueued := c.row(name("enqueue_many"), many)
	ids, ok := enqueued["task_ids"].([]any)
	require.True(t, ok, "%v is an array", enqueued["task_ids"])
	require.Len(t, ids, 2)
	assert.Equal(t, number("0", 0), enqueued["balance"])

	for _, wrong := range []map[string]any{{"cost": nil}, {"prompt": nil}, {"options": []any{}}, {"inputs": map[string]any{"url": "x"}}} {
		args := map[string]any{}
		maps.Copy(args, defaults)
		maps.Copy(args, wrong)
		requireCode(t, "IT002")(c.try("enqueue", args))
	}
	d.requireAudit()
}

func TestNodePostgres_Arguments(t *testing.T) {
	d := newDatabase(t)
	c := startNode(t, testdata(t, "arguments-pg.mjs"), "DATABASE_URL="+as(t, d.url, "my_app"))
	testArguments(t, d, c, camelCase, true)
}

func TestSupabaseJS_Arguments(t *testing.T) {
	d := newDatabase(t)
	api, address := startDataAPI(t, d.url, "imagetasks")
	c := startNode(t, testdata(t, "arguments-supabase.mjs"), "NEXT_PUBLIC_SUPABASE_URL="+address,
		"SUPABASE_SERVICE_ROLE_KEY="+api.key("service_role"))
	testArguments(t, d, c, camelCase, false)
}

func TestPsycopg_Arguments(t *testing.T) {
	d := newDatabase(t)
	c := startPython(t, testdata(t, "arguments_psycopg.py"), "DATABASE_URL="+as(t, d.url, "my_app"))
	testArguments(t, d, c, snakeCase, false)
}
