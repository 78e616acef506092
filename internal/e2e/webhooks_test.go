package e2e_test

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	webhookSecret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
	bearerKey     = "bearer-key-55f01e"
)

// hookReceiver receives webhooks at an address that it can leave and come back to.
type hookReceiver struct {
	t       testing.TB
	address string
	server  *httptest.Server

	mu     sync.Mutex
	ids    map[string]int      // of events
	types  map[string][]string // by task
	bodies []string
	auth   string
}

func newHookReceiver(t testing.TB) *hookReceiver {
	t.Helper()
	r := &hookReceiver{t: t, address: "127.0.0.1:0", ids: map[string]int{}, types: map[string][]string{}}
	r.up()
	t.Cleanup(func() { r.server.Close() })
	return r
}

func (r *hookReceiver) up() {
	r.t.Helper()
	listener, err := net.Listen("tcp", r.address)
	require.NoError(r.t, err)
	r.address = listener.Addr().String()
	r.server = &httptest.Server{Listener: listener, Config: &http.Server{Handler: r}}
	r.server.Start()
}

func (r *hookReceiver) ServeHTTP(_ http.ResponseWriter, request *http.Request) {
	body, _ := io.ReadAll(request.Body)
	var m struct {
		Type string
		Data struct {
			ID string `json:"task_id"`
		}
	}
	_ = json.Unmarshal(body, &m)
	r.mu.Lock()
	defer r.mu.Unlock()
	id := request.Header.Get("webhook-id")
	if r.ids[id]++; r.ids[id] == 1 {
		r.types[m.Data.ID] = append(r.types[m.Data.ID], m.Type)
	}
	r.bodies, r.auth = append(r.bodies, string(body)), request.Header.Get("Authorization")
}

func (r *hookReceiver) events() map[string][]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[string][]string{}
	for id, types := range r.types {
		out[id] = append([]string{}, types...)
	}
	return out
}

func (w *fixture) withWebhooks(r *hookReceiver) {
	w.env["COMPLETION_WEBHOOK_URL"] = "http://" + r.address + "/hooks"
	w.env["COMPLETION_WEBHOOK_SECRET"] = webhookSecret
	w.env["COMPLETION_WEBHOOK_ALLOW_PRIVATE"] = "on"
}

// A receiver that is down while tasks end, and processors that are killed while they deliver: every task's end arrives.
func TestWebhooks_NoneIsLost(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	r := newHookReceiver(t)
	w.withWebhooks(r)
	w.env["TASK_LEASE"] = "2s"
	w.grant(100)
	r.server.Close()
	want := map[string][]string{}
	for _, id := range w.enqueue("a lantern", "--count", "8") {
		want[id] = []string{"task.completed"}
	}
	for _, id := range w.enqueue("[moderation] a lantern", "--count", "2") {
		want[id] = []string{"task.failed"}
	}
	p := w.start("task-processor", "run", "--concurrency", "4")
	w.waitFor("the first ends", func() bool { return w.count("completed") >= 3 })
	p.stop(syscall.SIGKILL)
	// The leases of the killed processor's deliveries end after less than a minute; the test does not wait for that.
	w.exec(`update imagetasks.events set next_at = now() where state = 'due'`)
	p = w.start("task-processor", "run", "--concurrency", "4")
	w.waitFor("all ends", func() bool { return w.count("completed") == 8 && w.count("failed") == 2 })
	w.waitFor("an attempt that failed", func() bool { return w.number(`select count(*) from imagetasks.events where attempts > 0`) > 0 })
	r.up()
	w.waitFor("some events", func() bool { return len(r.events()) > 0 })
	p.stop(syscall.SIGKILL)
	w.exec(`update imagetasks.events set next_at = now() where state = 'due'`)

	// While no processor runs, the monitor delivers. The killed one counts as running for HUNG_AFTER.
	w.exec(`update imagetasks.processors set beat_at = now() - interval '1 hour'`)
	var pass struct {
		Webhooks struct{ Delivered int }
	}
	w.run("monitor-tasks", "--json").json(&pass)
	assert.Equal(t, want, r.events())
	assert.Zero(t, w.number(`select count(*) from imagetasks.events where state <> 'delivered'`))
	for _, body := range r.bodies {
		assert.NotContains(t, body, "lantern")
	}
	assert.NotContains(t, p.stderr.String(), webhookSecret)
	w.audit()
}

func TestWebhooks_Commands(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	r := newHookReceiver(t)
	w.withWebhooks(r)
	w.grant(10)
	assert.Contains(t, w.run("task-processor", "webhooks", "test").ok(), "the receiver accepted the test event evt_")
	assert.Equal(t, []string{"webhook.test"}, r.events()["webhook-test"])
	assert.Contains(t, w.run("task-processor", "webhooks", "list").ok(), "there are no completion events")
	w.enqueue("a lantern")
	w.run("task-processor", "run", "--once").ok()
	assert.Len(t, r.events(), 2)
	list := w.run("task-processor", "webhooks", "list").ok()
	assert.Regexp(t, `evt_[0-9a-f]{32}  task\.completed +delivered`, list)

	w.exec(`update imagetasks.events set state = 'undelivered', reason = 'the receiver responded 500'`)
	status := w.run("task-processor", "status", "--json")
	status.is(3)
	var document struct {
		Webhooks struct{ Undelivered int }
		Problems []struct {
			Code string
			Do   string
		}
	}
	status.json(&document)
	assert.Equal(t, 1, document.Webhooks.Undelivered)
	codes := map[string]string{}
	for _, p := range document.Problems {
		codes[p.Code] = p.Do
	}
	assert.Contains(t, codes["webhooks_undelivered"], "webhooks list --undelivered")
	assert.Contains(t, w.run("monitor-tasks", "--lang", "zh").is(3), "1 个完成事件未能送达")
	var listed struct {
		Events []struct{ ID, State, Reason string }
	}
	w.run("task-processor", "webhooks", "list", "--undelivered", "--json").json(&listed)
	require.Len(t, listed.Events, 1)
	assert.Equal(t, "the receiver responded 500", listed.Events[0].Reason)
	assert.Contains(t, w.run("task-processor", "webhooks", "redeliver", listed.Events[0].ID).ok(), "1 event is delivered again")
	w.run("monitor-tasks")
	assert.Equal(t, 1, w.number(`select count(*) from imagetasks.events where state = 'delivered'`))
	assert.Equal(t, 2, r.ids[listed.Events[0].ID])
	assert.Contains(t, w.run("task-processor", "webhooks", "redeliver", "--all").ok(), "0 events")
	w.run("task-processor", "webhooks", "redeliver").is(2)
	w.run("task-processor", "webhooks", "discard", "evt_none").is(1)

	// Settings that can't be used.
	for name, value := range map[string]string{"COMPLETION_WEBHOOK_SECRET": "secret-of-a-short-form", "COMPLETION_WEBHOOK_HOSTS": "https://x", "COMPLETION_WEBHOOK_PROXY": "ftp://x",
		"COMPLETION_WEBHOOK_TEMPLATE": "missing.tmpl", "COMPLETION_WEBHOOK_ALLOW_PRIVATE": "off"} {
		before, had := w.env[name]
		w.env[name] = value
		result := w.run("task-processor", "webhooks", "test")
		result.is(2)
		assert.Contains(t, result.stderr, "COMPLETION_WEBHOOK_")
		assert.NotContains(t, result.stderr, "secret-of-a-short-form")
		if delete(w.env, name); had {
			w.env[name] = before
		}
	}
	r.server.Close()
	failed := w.run("task-processor", "webhooks", "test")
	failed.is(1)
	assert.Contains(t, failed.stderr, "connection refused")
}

// The template for the original application, with the key from the env file, and its own body from a file.
func TestWebhooks_OriginalApplication(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	r := newHookReceiver(t)
	w.withWebhooks(r)
	delete(w.env, "COMPLETION_WEBHOOK_SECRET")
	result := w.run("task-processor", "webhooks", "test")
	result.is(2)
	assert.Contains(t, result.stderr, "COMPLETION_WEBHOOK_SECRET: is missing")
	w.env["COMPLETION_WEBHOOK_TEMPLATE"] = "builtin:taskid"
	require.NoError(t, os.WriteFile(filepath.Join(w.dir, ".env"), []byte("TASK_PROCESS_SECRET_KEY="+bearerKey+"\n"), 0o600))
	w.grant(1)
	id := w.enqueue("a lantern")[0]
	w.run("task-processor", "run", "--once").ok()
	var image string
	require.NoError(t, w.db.QueryRow(`select image_url from imagetasks.tasks`).Scan(&image))
	require.Len(t, r.bodies, 1)
	assert.JSONEq(t, `{"taskId": "`+id+`", "status": "completed", "imageUrl": "`+image+`", "error": null}`, r.bodies[0])
	assert.Equal(t, "Bearer "+bearerKey, r.auth)

	w.env["COMPLETION_WEBHOOK_TEMPLATE"] = "hook.tmpl"
	require.NoError(t, os.WriteFile(filepath.Join(w.dir, "hook.tmpl"), []byte(`{{define "body"}}{"job": {{json .Data.TaskID}}}{{end}}{{define "authorization"}}Key {{env "TASK_PROCESS_SECRET_KEY"}}{{end}}`), 0o600))
	w.run("task-processor", "webhooks", "test").ok()
	assert.JSONEq(t, `{"job": "webhook-test"}`, r.bodies[1])
	assert.Equal(t, "Key "+bearerKey, r.auth)
	w.mu.Lock()
	defer w.mu.Unlock()
	assert.False(t, strings.Contains(w.outputs.String(), bearerKey))
}
