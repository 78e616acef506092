package e2e_test

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// jsonPage is docs/json.md: for each document its keys, with whether a document may lack them.
type jsonPage map[string]map[string]bool

var jsonRow = regexp.MustCompile("^\\| `([^`]+)` \\| (.*) \\|$")

// readJSONPage reads docs/json.md. A row that ends in "as in NAME" stands for the keys of that section below its own.
func readJSONPage(t *testing.T) jsonPage {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "docs", "json.md"))
	require.NoError(t, err)
	type row struct {
		key, as  string
		optional bool
	}
	sections, title := map[string][]row{}, ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "## "); ok {
			title = name
		}
		if m := jsonRow.FindStringSubmatch(line); m != nil {
			r := row{key: m[1], optional: strings.HasPrefix(m[2], "Optional")}
			if _, name, ok := strings.Cut(m[2], "as in ["); ok {
				r.as, _, _ = strings.Cut(name, "]")
			}
			sections[title] = append(sections[title], r)
		}
	}
	page := jsonPage{}
	var add func(keys map[string]bool, prefix, section string, optional bool)
	add = func(keys map[string]bool, prefix, section string, optional bool) {
		require.NotEmpty(t, sections[section], section)
		for _, r := range sections[section] {
			keys[prefix+r.key] = optional || r.optional
			if r.as != "" {
				add(keys, prefix+r.key+".", r.as, optional || r.optional)
			}
		}
	}
	for section := range sections {
		page[section] = map[string]bool{}
		add(page[section], "", section, false)
	}
	return page
}

// addKeys adds the keys of a value that is at path, as the page writes them: list[].key, map.* for each key of a map, and key.** for all that is below a key.
func (p jsonPage) addKeys(section, path string, value any, to map[string]bool) {
	if _, elsewhere := p[section][path+".**"]; elsewhere {
		to[path+".**"] = true
		return
	}
	switch v := value.(type) {
	case map[string]any:
		for key, below := range v {
			at := strings.TrimPrefix(path+"."+key, ".")
			if _, anyName := p[section][path+".*"]; anyName {
				at = path + ".*"
			}
			to[at] = true
			p.addKeys(section, at, below, to)
		}
	case []any:
		for _, below := range v {
			list := path + "[]"
			if _, objects := below.(map[string]any); objects {
				to[list] = true
			}
			p.addKeys(section, list, below, to)
		}
	}
}

// Each document of --json has the keys that docs/json.md describes, and no others.
func TestJSON_Keys(t *testing.T) {
	t.Parallel()
	page := readJSONPage(t)
	seen := map[string]map[string]bool{}
	record := func(section string, r result) {
		t.Helper()
		var document map[string]any
		r.json(&document)
		if section != "errors" {
			assert.NotContains(t, document, "error", "%s: %s", r.line, r.stderr)
		}
		if seen[section] == nil {
			seen[section] = map[string]bool{}
		}
		page.addKeys(section, "", document, seen[section])
	}
	w := newFixture(t)
	withDaemon(w)
	runs := func(section string, code int, line ...string) {
		t.Helper()
		r := w.run(line[0], append(line[1:], "--json")...)
		assert.Equal(t, code, r.code, "%s\n%s%s", r.line, r.stdout, r.stderr)
		record(section, r)
	}
	hooks := newHookReceiver(t)
	w.withWebhooks(hooks)
	require.NoError(t, os.WriteFile(filepath.Join(w.dir, ".env"), []byte("# settings\n"), 0o600)) // for reload
	const tp = "task-processor"

	runs("help", 0, tp, "help")
	runs("version", 0, tp, "version")
	runs("completion", 0, tp, "completion", "bash")
	runs("errors", 2, tp, "dance")
	runs("errors", 2, "monitor-tasks", "--interval", "soon")
	runs("task-processor migrate", 0, tp, "migrate")
	runs("task-processor migrate --plan", 0, tp, "migrate", "--plan", "--app-role", "postgres")
	runs("task-processor credits grant", 0, tp, "credits", "grant", "--user", w.user, "--credits", "50")
	runs("task-processor pause", 0, tp, "pause", "--reason", "a test")
	runs("task-processor resume", 0, tp, "resume")
	runs("task-processor operations list", 0, tp, "operations", "list")
	runs("task-processor webhooks test", 0, tp, "webhooks", "test")

	enqueued := w.enqueue("a lantern", "--count", "2")
	w.enqueue("[moderation] x")
	runs("task-processor enqueue", 0, tp, "enqueue", "--user", w.user, "--prompt", "a lantern")
	runs("message", 0, tp, "start")
	w.waitFor("all tasks are closed", func() bool { return w.count("completed") == 3 && w.count("failed") == 1 })
	runs("message", 0, tp, "reload")
	w.insertStuck(2, 30)
	status := w.run(tp, "status", "--json")
	status.is(3)
	record("task-processor status", status)
	runs("task-processor tasks list", 0, tp, "tasks", "list")
	runs("task-processor tasks show", 0, tp, "tasks", "show", enqueued[0], "--prompt")
	runs("fix-stuck-tasks", 3, "fix-stuck-tasks", "--limit", "1")
	monitored := w.run("monitor-tasks", "--json")
	record("monitor-tasks", monitored)
	runs("message", 0, tp, "restart")
	runs("message", 0, tp, "stop")
	var failed string
	require.NoError(t, w.db.QueryRow(`select task_id from imagetasks.tasks where status = 'failed' and task_id not like 'stuck-%'`).Scan(&failed))
	runs("task-processor redrive", 0, tp, "redrive", "--task", failed)
	runs("task-processor cancel", 0, tp, "cancel", "--task", failed)
	runs("task-processor credits show", 0, tp, "credits", "show", "--user", w.user)
	runs("task-processor credits report", 0, tp, "credits", "report", "--from", "2020-01-01", "--to", "2100-01-01")
	w.exec(`update imagetasks.events set state = 'undelivered', reason = 'the receiver responded 500' where state = 'delivered'`)
	runs("task-processor webhooks list", 0, tp, "webhooks", "list")
	runs("task-processor webhooks redeliver and discard", 0, tp, "webhooks", "redeliver", "--all")
	runs("task-processor webhooks redeliver and discard", 0, tp, "webhooks", "discard", "--all")
	w.exec(`delete from imagetasks.tasks where task_id = $1`, enqueued[1])
	runs("task-processor pictures orphans", 0, tp, "pictures", "orphans")
	runs("task-processor pictures move", 0, tp, "pictures", "move", "--to", "other-images")
	runs("task-processor users forget", 0, tp, "users", "forget", "--user", w.user)
	w.exec(`update imagetasks.credits set credits = credits + 1 where user_id = $1`, w.user)
	runs("fix-stuck-tasks audit", 3, "fix-stuck-tasks", "audit", "--repair")
	runs("simple-test", 0, "simple-test")
	w.env["ALERT_WEBHOOK_URL"] = newAlertReceiver(t).URL + "/alerts"
	runs("monitor-tasks --test-alert", 0, "monitor-tasks", "--test-alert")
	w.env["ALERT_WEBHOOK_URL"] = "http://127.0.0.1:1/alerts"
	runs("monitor-tasks --test-alert", 3, "monitor-tasks", "--test-alert")
	delete(w.env, "ALERT_WEBHOOK_URL")
	delete(w.env, "OPENAI_API_KEY")
	runs("simple-test", 2, "simple-test")

	application := withApplication(t, "profiles")
	application.fakeCrontab("")
	w = application
	runs("task-processor adopt", 0, tp, "adopt")
	runs("task-processor adopt --plan", 0, tp, "adopt", "--plan")
	runs("task-processor adopt --apply", 0, tp, "adopt", "--apply")
	w.exec(`insert into imagetasks.lost_updates (user_id, at, before, after, ours, note) values ('ann', now(), 10, 8, '[]', 'a note')`)
	runs("task-processor adopt --check", 3, tp, "adopt", "--check")
	bridged := w.run(tp, "status", "--json")
	record("task-processor status", bridged)
	w.run(tp, "pause").ok()
	runs("task-processor adopt --remove", 0, tp, "adopt", "--remove")

	for _, section := range slices.Sorted(maps.Keys(seen)) {
		for _, key := range slices.Sorted(maps.Keys(seen[section])) {
			_, documented := page[section][key]
			assert.True(t, documented, "docs/json.md, %s: %s is not described", section, key)
		}
	}
	for section, keys := range page {
		if strings.HasPrefix(section, "Part: ") {
			continue
		}
		require.NotEmpty(t, seen[section], "docs/json.md describes a document that no run showed: %s", section)
		for key, optional := range keys {
			assert.True(t, optional || seen[section][key], "docs/json.md, %s: no run showed %s", section, key)
		}
	}
	if path := os.Getenv("JSON_KEYS"); path != "" {
		text, err := json.MarshalIndent(seen, "", " ")
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, text, 0o644))
	}
}
