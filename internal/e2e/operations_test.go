package e2e_test

import (
	"encoding/json"
	"io"
	"net/http"
	"os/user"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const statusToken = "status-token-41c0ffee"

// act does an action of a status page, as a program does that has the token.
func (w *fixture) act(p *process, name, body string) (code int, answer string) {
	w.t.Helper()
	w.waitFor("the status page", func() bool { return statusAddress.MatchString(p.stderr.String()) })
	method, path := http.MethodPost, "/api/actions/"+name
	if body == "" {
		method, path = http.MethodGet, "/api/"+name
	}
	r, err := http.NewRequestWithContext(w.t.Context(), method, statusAddress.FindString(p.stderr.String())+path, strings.NewReader(body))
	require.NoError(w.t, err)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+w.env["STATUS_TOKEN"])
	got, err := http.DefaultClient.Do(r)
	require.NoError(w.t, err)
	defer got.Body.Close()
	text, err := io.ReadAll(got.Body)
	require.NoError(w.t, err)
	return got.StatusCode, string(text)
}

// A pause of an endpoint or a model holds for all processors at once; what does not need it goes on.
func TestPause_EndpointAndModel(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	spare := w.withSpare()
	w.grant(50)
	w.env["POLL_INTERVAL"] = "1m" // a notification wakes them
	w.run("task-processor", "pause", "--endpoint", "main", "--reason", "its bill").ok()
	first, second := w.start("task-processor", "run", "--status-addr", "off"), w.start("task-processor", "run", "--status-addr", "off")
	w.enqueue("not at the first endpoint", "--count", "4")
	w.waitFor("the pictures", func() bool { return w.count("completed") == 4 })
	assert.Empty(t, w.api.Calls())
	assert.Len(t, spare.Calls(), 4)

	assert.Contains(t, w.run("task-processor", "pause", "--model", "gpt-image-2").ok(), "claiming of tasks of the model gpt-image-2 is paused since")
	waits := w.enqueue("of the default model, which waits")[0]
	w.enqueue("of the same model by its name", "--model", "gpt-image-2")
	w.enqueue("of another model", "--model", "gpt-image-1-mini")
	w.waitFor("the picture of the other model", func() bool { return w.count("completed") == 5 })
	assert.Equal(t, 2, w.count("pending"))
	assert.Contains(t, w.run("task-processor", "tasks", "show", waits).ok(), "claiming of tasks of the model gpt-image-2 is paused since")
	status := w.run("task-processor", "status").is(3)
	assert.Contains(t, status, "the endpoint main was paused by")
	assert.Contains(t, status, "(its bill)")
	assert.Regexp(t, `next: \S*task-processor resume --model gpt-image-2\n`, status)
	assert.Contains(t, w.run("task-processor", "status", "--lang", "zh").is(3), "模型 gpt-image-2 已由")

	w.run("monitor-tasks").ok() // who paused it knows
	first.stop(syscall.SIGTERM).ok()
	second.stop(syscall.SIGTERM).ok()
	r := w.run("task-processor", "run", "--once")
	r.is(3)
	assert.Contains(t, r.stderr, "claiming is paused for what the tasks that are left need")
	assert.Contains(t, r.stderr, "task-processor resume --model gpt-image-2")
	assert.Contains(t, w.run("task-processor", "resume", "--model", "gpt-image-2").ok(), "claiming for the endpoint main is paused since", "what is still paused")
	w.run("task-processor", "run", "--once").ok()
	assert.Equal(t, 7, w.count("completed"))
	assert.Empty(t, w.api.Calls())
	var resumed struct {
		Resumed bool
		Pauses  []any
	}
	w.run("task-processor", "resume", "--all", "--json").json(&resumed)
	assert.True(t, resumed.Resumed)
	assert.NotNil(t, resumed.Pauses)
	assert.Empty(t, resumed.Pauses)
	assert.Contains(t, w.run("task-processor", "resume", "--endpoint", "main").ok(), "nothing is paused for the endpoint main")
	assert.Contains(t, w.refused("task-processor", "pause", "--endpoint", "mian"), `no endpoint is called "mian"; there are: main, spare`)
	w.refused("task-processor", "pause", "--endpoint", "main", "--model", "m")
	w.refused("task-processor", "pause", "--model", "")
	w.refused("task-processor", "resume", "--all", "--model", "m")
	w.audit()
}

// The page of the processor and that of the monitor act alike, also while no processor runs. The commands and the page write to one log.
func TestStatusPage_ActionsOfBothPrograms(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.env["STATUS_TOKEN"] = statusToken
	w.grant(10)
	failing := w.enqueue("[moderation]")[0]
	w.run("task-processor", "run", "--once").ok()
	waiting := w.enqueue("nobody works on this")[0]
	w.insertStuck(1, 30)
	w.run("task-processor", "pause", "--reason", "by a command").ok()
	watch := w.start("monitor-tasks", "--watch", "--interval", "1h", "--watch-addr", "127.0.0.1:0")
	w.waitFor("the first pass", func() bool { return strings.Contains(watch.stderr.String(), "pass: 1 stuck task failed") })
	w.insertStuck(1, 30)

	for name, body := range map[string]string{"cancel": `{"task_id":"` + waiting + `"}`, "redrive": `{"task_id":"` + failing + `"}`, "fix-stuck": `{}`,
		"grant": `{"user_id":"` + w.user + `","credits":3,"reason":"gift","idempotency_key":"one"}`, "resume": `{"scope":"queue"}`} {
		code, answer := w.act(watch, name, body)
		assert.Equal(t, 200, code, "%s: %s", name, answer)
	}
	watch.stop(syscall.SIGTERM).ok()
	assert.Equal(t, 1, w.count("cancelled"))
	assert.Equal(t, 2, w.number(`select count(*) from imagetasks.tasks where status = 'failed' and error_code = 'stuck'`))

	p := w.start("task-processor", "run", "--status-addr", "127.0.0.1:0")
	w.waitFor("the run", func() bool {
		return w.number(`select count(*) from imagetasks.tasks where task_id = $1 and run = 2 and status = 'failed'`, failing) == 1
	})
	code, answer := w.act(p, "pause", `{"scope":"model","name":"gpt-image-2","reason":"on the page"}`)
	assert.Equal(t, 200, code, answer)
	code, answer = w.act(p, "operations", "")
	require.Equal(t, 200, code, answer)
	var log struct {
		Operations []struct{ Who, What, Subject, Detail, Result string }
	}
	require.NoError(t, json.Unmarshal([]byte(answer), &log))
	self, err := user.Current()
	require.NoError(t, err)
	by := map[string][]string{}
	for _, o := range log.Operations {
		by[o.Who] = append(by[o.Who], o.What)
	}
	assert.ElementsMatch(t, []string{"cancel", "redrive", "fix-stuck", "fix-stuck", "grant", "resume", "pause model"}, by["page: token, from 127.0.0.1"])
	assert.ElementsMatch(t, []string{"grant", "pause"}, by[self.Username])
	assert.Equal(t, "pause model", log.Operations[0].What, "the newest first")
	p.stop(syscall.SIGTERM).ok()

	w.run("task-processor", "resume", "--all").ok()
	w.run("fix-stuck-tasks").ok()
	list := w.run("task-processor", "operations", "list").ok()
	assert.Contains(t, list, "page: token, from 127.0.0.1: pause model gpt-image-2 → paused (on the page)")
	assert.Contains(t, list, self.Username+": fix-stuck → 0 failed, 0 credits refunded, 0 left")
	w.run("task-processor", "operations", "list", "--limit", "1", "--json").json(&log)
	assert.Len(t, log.Operations, 1)
	assert.NotContains(t, w.outputs.String(), statusToken)
	w.audit()
}

// Pictures are shown on the page only where that is switched on, and only to those who have signed in.
func TestStatusPage_Thumbnails(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.env["STATUS_TOKEN"] = statusToken
	w.grant(1)
	id := w.enqueue("a picture of somebody")[0]
	w.run("task-processor", "run", "--once").ok()
	watch := []string{"--watch", "--interval", "1h", "--watch-addr", "127.0.0.1:0", "--no-restart"}
	for program, args := range map[string][]string{"task-processor": {"run", "--status-addr", "127.0.0.1:0"}, "monitor-tasks": watch} {
		w.env["STATUS_PICTURES"] = "on"
		p := w.start(program, args...)
		code, content := w.act(p, "thumbnails/"+id, "")
		assert.Equal(t, 200, code, "%s: %s", program, content)
		assert.Equal(t, "image/jpeg", http.DetectContentType([]byte(content)))
		_, code = w.get(p, "/api/thumbnails/"+id)
		assert.Equal(t, 401, code)
		code, _ = w.act(p, "thumbnails/unknown", "")
		assert.Equal(t, 404, code)
		p.stop(syscall.SIGTERM).ok()
		w.env["STATUS_PICTURES"] = "off"
		p = w.start(program, args...)
		code, _ = w.act(p, "thumbnails/"+id, "")
		assert.Equal(t, 404, code)
		p.stop(syscall.SIGTERM).ok()
	}
}

// An address that other hosts reach needs a token: without one nothing starts, and the error says what to set.
func TestStatusPage_OffLoopbackNeedsToken(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	assert.Contains(t, w.refused("task-processor", "run", "--status-addr", "0.0.0.0:0"), "STATUS_TOKEN: not set")
	assert.Contains(t, w.refused("monitor-tasks", "--watch", "--watch-addr", ":0"), "STATUS_TOKEN: not set")
	w.env["STATUS_TOKEN"] = "short"
	r := w.refused("task-processor", "run", "--status-addr", "127.0.0.1:0")
	assert.Contains(t, r, "STATUS_TOKEN: must be 16 or more")
}
