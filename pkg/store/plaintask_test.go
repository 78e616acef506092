package store_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/lib/pq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What a name of a task may hold, in JSON, most of it odd.
var oddValues = map[string][]string{
	"prompt": {`"a cat"`, `"x"`, `""`, `" "`, `null`, `1`, `[]`, `{}`, `"\u0001\u007f"`, `"\ud83d\ude00"`, `"\n"`, `true`,
		`"` + strings.Repeat("x", 32000) + `"`, `"` + strings.Repeat("é", 32000) + `"`, `"` + strings.Repeat("x", 32001) + `"`},
	"options": {`{}`, `null`, `[]`, `"{}"`, `1`, `false`, `{"model": "m"}`, `{"model": ""}`, `{"model": null}`, `{"model": 1}`, `{"model": ["m"]}`, `{"Model": "m"}`,
		`{"model": "m", "model": ""}`, `{"model": "", "model": "m"}`, `{"model": "\u0001"}`, `{"model": " "}`, `{"model": "m", "size": "x"}`, `{"model": "m", "max_attempts": 0}`,
		`{"model": "` + strings.Repeat("m", 200) + `"}`, `{"model": "` + strings.Repeat(`\u0001`, 200) + `"}`, `{"model": "` + strings.Repeat("m", 201) + `"}`,
		`{"": 1}`, `{"model": "m", "": null}`, `{"max_attempts": 3}`, `{"extra": {}}`},
	"cost": {`1`, `0`, `-0`, `0.0`, `1.0`, `1.5`, `1e3`, `1E+3`, `1e-1`, `10e-1`, `-1`, `999999999999`, `1000000000000`, `1000000000001`, `1e12`, `1e11`, `1e13`, `1e200`, `null`,
		`"1"`, `true`, `[1]`, `{}`, `1.00000000000000000000001`, `123456789012345678901234567890`},
	"priority": {`0`, `9`, `10`, `-1`, `1.0`, `1e0`, `0.9e1`, `9.5`, `null`, `"1"`, `[]`, `false`, `1e1`, `-0`, `90e-1`},
	"run_at":   {`null`, `"2026-01-01"`, `"now"`, `"infinity"`, `""`, `1`, `"tomorrow"`, `[]`, `"2200-01-01"`, `{}`},
	"inputs":   {`null`, `[]`, `{}`, `"[]"`, `[null]`, `[{}]`, `[{"url": "https://example.com/a.png"}]`, `1`, `[{"url": "x"}]`, `[[]]`, `""`},
}

// oddTask returns a task in JSON, with names twice now and then.
func oddTask(r *rand.Rand) string {
	names := []string{"prompt", "options", "cost", "priority", "run_at", "inputs"}
	var parts []string
	for _, name := range names {
		switch values := oddValues[name]; {
		case r.IntN(3) > 0 && name != "prompt":
		case r.IntN(3) > 0:
			parts = append(parts, fmt.Sprintf(`%q: %s`, name, values[0]))
		default:
			parts = append(parts, fmt.Sprintf(`%q: %s`, name, values[r.IntN(len(values))]))
			if r.IntN(10) == 0 {
				parts = append(parts, fmt.Sprintf(`%q: %s`, name, values[r.IntN(len(values))]))
			}
		}
	}
	if r.IntN(20) == 0 {
		parts = append(parts, []string{`"": 1`, `"Prompt": "x"`, `"user_id": "u"`, `"prompt ": "x"`, `"cost\u0000x": 1`}[r.IntN(4)])
	}
	r.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
	return "{" + strings.Join(parts, ", ") + "}"
}

// A task that is not checked one by one, because it is plain, is one that the check accepts; and what is accepted can be enqueued.
func TestEnqueueMany_PlainTasksAreAccepted(t *testing.T) {
	b := fresh(t)
	user := b.user(1_000_000_000_000)
	b.exec(`create function refusal(task jsonb) returns text language plpgsql as $$
		begin
			perform imagetasks.check_task(task);
			return '';
		exception when others then
			return sqlstate || ' ' || sqlerrm;
		end $$`)
	b.exec(`create function refusal_of_enqueue(user_id text, task jsonb) returns text language plpgsql as $$
		begin
			begin
				perform imagetasks.enqueue_many(user_id, jsonb_build_array(task));
			exception when others then
				return sqlstate || ' ' || sqlerrm;
			end;
			return '';
		end $$`)
	r := rand.New(rand.NewPCG(1, 2))
	tasks := []string{"null", "1", `"x"`, "[]", "[1]", "{}", "true"}
	for range 600 {
		tasks = append(tasks, oddTask(r))
	}
	rows, err := b.raw.Query(`select t.task, imagetasks.is_plain_task(t.task::jsonb) is true, refusal(t.task::jsonb), refusal_of_enqueue($2, t.task::jsonb)
		from unnest($1::text[]) as t (task)`, pq.Array(tasks), user)
	require.NoError(t, err)
	defer rows.Close()
	plainOnes, accepted := 0, 0
	for rows.Next() {
		var text, refusal, enqueued string
		var plain bool
		require.NoError(t, rows.Scan(&text, &plain, &refusal, &enqueued))
		if plain {
			plainOnes++
			assert.Empty(t, refusal, "%.200s", text)
		}
		if refusal != "" {
			assert.Equal(t, refusal, enqueued, "%.200s", text)
			continue
		}
		accepted++
		if enqueued != "" {
			assert.Contains(t, []string{"IT001", "IT006"}, enqueued[:5], "%.200s: %s", text, enqueued)
		}
	}
	require.NoError(t, rows.Err())
	assert.Greater(t, plainOnes, 100)
	assert.Greater(t, accepted, plainOnes)
}
