package e2e_test

import (
	"maps"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

// englishSentence matches five English words in a row. Commands and names are shorter.
var englishSentence = regexp.MustCompile(`[A-Za-z']+( [a-z']+){4,}`)

// With --lang zh, no sentence of an error or a hint is in English. The causes that Go and the driver report are, at the end.
func TestChinese_Mistakes(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.grant(10)
	task := w.enqueue("a lantern")[0]
	w.run("task-processor", "cancel", "--task", task).ok()
	w.run("task-processor", "credits", "grant", "--user", "x", "--credits", "1", "--key", "k1").ok()
	empty := server.Empty(t)
	env := func(pairs ...string) map[string]string {
		all := map[string]string{}
		for i := 0; i < len(pairs); i += 2 {
			all[pairs[i]] = pairs[i+1]
		}
		return all
	}
	const tp = "task-processor"
	for _, c := range []struct {
		env  map[string]string
		line string
	}{
		{nil, tp + " dance"},
		{nil, tp + " run --nonsense"},
		{nil, tp + " tasks show"},
		{nil, tp + " tasks show no-such-task"},
		{nil, tp + " cancel --task no-such-task"},
		{nil, tp + " redrive --task " + task},
		{nil, tp + " redrive --task no-such-task"},
		{nil, tp + " enqueue --user poor --prompt x"},
		{nil, tp + " enqueue --user x --prompt x --size huge"},
		{nil, tp + " enqueue --user x --prompt x --image nowhere.png"},
		{nil, tp + " enqueue --user x --prompt x --options {}x"},
		{nil, tp + " credits grant --user x --credits 5 --key k1 --reason other"},
		{nil, tp + " webhooks test"},
		{nil, tp + " webhooks discard evt_none"},
		{nil, tp + " webhooks redeliver"},
		{nil, tp + " reload"},
		{nil, tp + " adopt --check"},
		{nil, tp + " adopt --plan"},
		{nil, tp + " top"},
		{nil, tp + " migrate --app-role nobody-has-this-name"},
		{nil, tp + " pictures move --to images"},
		{nil, "fix-stuck-tasks audit --resolve no-such-task --credits 1 --reason x"},
		{nil, "fix-stuck-tasks --limit 0"},
		{nil, "monitor-tasks --interval 0s"},
		{nil, "monitor-tasks --watch --json-lines"},
		{nil, "monitor-tasks --test-alert"},
		{env("ALERT_WEBHOOK_URL", "ftp://x"), "monitor-tasks --test-alert"},
		{env("ALERT_WEBHOOK_URL", "https://hooks.slack.com/services/x", "ALERT_WEBHOOK_SECRET", "x"), "monitor-tasks --test-alert"},
		{env("ALERT_PROXY", "foo://x", "ALERT_WEBHOOK_URL", "http://127.0.0.1:1/x"), "monitor-tasks --test-alert"},
		{env("ALERT_WAIT", "99h", "ALERT_DISK_FREE", "x"), tp + " status"},
		{nil, "simple-test --endpoint none"},
		{env("DATABASE_URL", ""), "fix-stuck-tasks"},
		{env("DATABASE_URL", "mysql://u:x@h/d"), "fix-stuck-tasks"},
		{env("DATABASE_URL", "postgres://u:x@127.0.0.1:1/d"), "fix-stuck-tasks"},
		{env("DATABASE_URL", "postgres://u:x@127.0.0.1:port/d"), "fix-stuck-tasks"},
		{env("DATABASE_URL", empty), "fix-stuck-tasks"},
		{env("DATABASE_SCHEMA", "public"), tp + " migrate"},
		{env("OPENAI_API_KEY", ""), tp + " run"},
		{env("OPENAI_API_KEY", "two words"), tp + " run"},
		{env("OPENAI_PROXY", "ftp://127.0.0.1:1"), tp + " run"},
		{env("OPENAI_PROXY", "http://:7890"), tp + " run"},
		{env("OPENAI_BASE_URL", "api.example.com"), tp + " run"},
		{env("OPENAI_API_MODE", "smoke"), tp + " run"},
		{env("OPENAI_STREAM", "yes"), tp + " run"},
		{env("STUCK_AFTER", "20"), "monitor-tasks"},
		{env("STUCK_AFTER", "0s"), "monitor-tasks"},
		{env("RETENTION", "long"), "monitor-tasks"},
		{env("TASK_LEASE", "1ms", "HUNG_AFTER", "1ms"), "monitor-tasks"},
		{env("LOG_LEVEL", "loud", "LOG_FORMAT", "xml"), "monitor-tasks"},
		{env("STATUS_ADDR", "here", "STATUS_HOSTS", "a/b"), "monitor-tasks"},
		{env("IMAGE_STORE", "s3://b"), tp + " run"},
		{env("IMAGE_MAX_BYTES", "1"), tp + " run"},
		{env("COMPLETION_WEBHOOK_URL", "http://127.0.0.1:1/", "COMPLETION_WEBHOOK_SECRET", "short"), tp + " webhooks test"},
		{env("COMPLETION_WEBHOOK_URL", "http://127.0.0.1:1/"), tp + " webhooks test"},
		{nil, tp + " run --task-timeout 20m"},
		{nil, tp + " run --concurrency 0"},
		{nil, tp + " run --env-file nowhere.env"},
	} {
		t.Run(c.line, func(t *testing.T) {
			other := &fixture{t: t, dir: w.dir, db: w.db, env: maps.Clone(w.env)}
			maps.Copy(other.env, c.env)
			words := strings.Fields(c.line)
			r := other.run(words[0], append(words[1:], "--lang", "zh")...)
			assert.NotZero(t, r.code, r.line)
			assert.NotContains(t, r.stderr, "error:")
			assert.NotContains(t, r.stderr, "warning:")
			for line := range strings.Lines(r.stderr + r.stdout) {
				if strings.HasPrefix(line, "time=") { // the log
					continue
				}
				assert.Empty(t, englishSentence.FindString(line), line)
			}
		})
	}
}
