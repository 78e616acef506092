package e2e_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/browser"
)

// operatorPage is the page of the real programs in a browser.
type operatorPage struct {
	*browser.Browser
	t *testing.T
	w *fixture
}

// waitTiles waits until the numbers of tasks by state are those of the database.
func (p operatorPage) waitTiles() {
	p.t.Helper()
	const counted = `select json_build_object(
		'due', count(*) filter (where status = 'pending' and waits_for is null), 'later', count(*) filter (where status = 'pending' and waits_for is not null),
		'processing', count(*) filter (where status = 'processing' and processing_started_at >= now() - interval '20 minutes'),
		'stuck', count(*) filter (where status = 'processing' and processing_started_at < now() - interval '20 minutes'),
		'completed', count(*) filter (where status = 'completed'), 'failed', count(*) filter (where status = 'failed'),
		'cancelled', count(*) filter (where status = 'cancelled'))::text, count(*) filter (where run > 1) from imagetasks.tasks`
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		var text string
		var redriven int
		require.NoError(p.t, p.w.db.QueryRow(counted).Scan(&text, &redriven))
		var want, got map[string]int
		require.NoError(p.t, json.Unmarshal([]byte(text), &want))
		p.Eval(&got, `return Object.fromEntries([...document.querySelectorAll(".tile")].map((e) => [e.id.slice(5), Number(e.querySelector(".value").textContent)]))`)
		if want["failed"] != got["failed"] {
			want["failed"] += redriven // the failures of earlier runs count, too, as soon as their minute is recorded
		}
		if maps.Equal(want, got) {
			return
		}
		if time.Now().After(deadline) {
			require.Equal(p.t, want, got, "the numbers of tasks")
		}
	}
}

// do clicks a button, fills the fields of its dialog, confirms, and closes the dialog when it shows that it was done.
func (p operatorPage) do(button string, fields ...string) {
	p.t.Helper()
	p.Click(button)
	p.Wait("the dialog", `document.querySelector("dialog[open]")`)
	for i := 0; i+1 < len(fields); i += 2 {
		p.Type("#field-"+fields[i], fields[i+1])
	}
	p.Click("dialog button[type=submit]")
	p.WaitText("dialog .result", "Done: ")
	p.Press(browser.Enter)
	p.Wait("the dialog to close", `!document.querySelector("dialog")`)
}

// requireConsole requires that the console has nothing but requests that failed with these statuses.
func (p operatorPage) requireConsole(expected ...string) {
	p.t.Helper()
	for _, l := range p.Console() {
		known := false
		for _, status := range expected {
			known = known || strings.Contains(l.Message, "status of "+status)
		}
		assert.True(p.t, known, "%s: %s", l.Level, l.Message)
	}
}

// The page of the real programs shows what the database has, while it changes, and does each action, with the token only.
func TestPage_Programs(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.secrets = append(w.secrets, statusToken)
	w.env["STATUS_TOKEN"], w.env["STATUS_PICTURES"], w.env["TASK_LEASE"] = statusToken, "on", "10s"
	w.grant(30)
	w.enqueue("a lantern", "--count", "3")
	failing := w.enqueue("[moderation]")[0]
	run := w.start("task-processor", "run", "--status-addr", "127.0.0.1:0")
	w.waitFor("all tasks to close", func() bool { return w.count("completed") == 3 && w.count("failed") == 1 })
	w.waitFor("the status page", func() bool { return statusAddress.MatchString(run.stderr.String()) })
	p := operatorPage{browser.Start(t), t, w}
	base := statusAddress.FindString(run.stderr.String())
	p.Resize(1440, 900)
	p.Open(base + "/")
	p.Wait("the charts", `document.querySelectorAll("#charts canvas").length === 5 || document.querySelector("#charts .empty")`)
	p.waitTiles()
	p.Wait("tasks without pictures", `document.querySelector("#recent li") && !document.querySelector("#recent img")`)
	p.WaitText("#failures", "1 failed moderation_blocked")
	assert.Contains(t, p.Text("#recent"), failing)
	assert.Contains(t, p.Text("#processors"), "running")
	assert.Contains(t, p.Text("#days"), fmt.Sprint(w.number(`select -sum(amount) from imagetasks.ledger where kind = 'charge'`)), "income")
	p.requireConsole()

	// It changes without a reload.
	p.Eval(nil, `window.loaded = "once"`)
	release := w.api.BlockResponses()
	w.enqueue("a harbor", "--count", "2")
	p.WaitText("#tile-processing .value", "2")
	p.waitTiles()
	release()
	p.WaitText("#tile-completed .value", "5")
	p.waitTiles()
	var once string
	p.Eval(&once, `return window.loaded ?? ""`)
	assert.Equal(t, "once", once)

	// Without the token there is no action, whatever is sent.
	assert.Zero(t, p.Count(`[data-key^="do-"]`))
	for action, body := range map[string]string{"pause": `{"scope":"queue","name":"","reason":""}`, "redrive": `{"task_id":"` + failing + `"}`, "grant": `{"user_id":"x","credits":5,"reason":"x","idempotency_key":"k"}`,
		"cancel": `{"task_id":"` + failing + `"}`, "fix-stuck": `{}`, "resume": `{"scope":"queue","name":""}`} {
		var status int
		p.Eval(&status, `return fetch("/api/actions/" + arguments[0], {method: "POST", headers: {"Content-Type": "application/json", "X-CSRF-Token": ""}, body: arguments[1]}).then((r) => r.status)`, action, body)
		assert.Contains(t, []int{401, 403}, status, action)
	}
	assert.Zero(t, w.number(`select count(*) from imagetasks.operations where who like 'page%'`))
	p.requireConsole("401", "403")

	p.Click("#session")
	p.Type("#field-token", statusToken)
	p.Press(browser.Enter)
	p.Wait("the actions", `document.querySelector('[data-key="do-grant"]') && !document.querySelector("dialog")`)

	p.Wait("a picture", `document.querySelector("#recent img")?.naturalWidth > 0`)

	p.do(`[data-key="do-grant"]`, "user", "somebody", "credits", "7", "reason", "a gift")
	assert.Equal(t, 7, w.number(`select credits from imagetasks.credits where user_id = 'somebody'`))
	p.do(`#actions [data-key="do-queue"]`, "reason", "backup")
	assert.Equal(t, 1, w.number(`select count(*) from imagetasks.control where paused_at is not null and paused_reason = 'backup'`))
	p.WaitText("#verdict", "backup")
	waiting := w.enqueue("a bridge")[0]
	p.waitTiles()

	p.Open(base + "/#/tasks/" + waiting)
	p.do(`[data-key="do-cancel"]`)
	assert.Equal(t, 1, w.number(`select count(*) from imagetasks.tasks where task_id = $1 and status = 'cancelled' and credits_refunded = credits_deducted`, waiting))
	p.WaitText("main", "Cancelled")
	p.Open(base + "/#/tasks/" + failing)
	p.do(`[data-key="do-redrive"]`)
	assert.Equal(t, 1, w.number(`select count(*) from imagetasks.tasks where task_id = $1 and status = 'pending' and run = 2`, failing))
	p.WaitText("main", "Pending")
	assert.Equal(t, w.number(`select count(*) from imagetasks.ledger where task_id = $1`, failing), p.Count("#task-ledger tbody tr"))

	p.Click(`[data-key="nav-overview"]`)
	p.WaitText("#actions", "Resume the queue")
	p.do(`#actions [data-key="do-queue"]`)
	p.Open(base + "/#/tasks/" + failing)
	p.WaitText("main", "Failed") // again, without a reload
	p.Click(`[data-key="nav-overview"]`)

	const paused = `select count(*) from imagetasks.control, jsonb_array_elements(pauses) p where p->>'scope' = $1 and p->>'name' = $2 and p->>'reason' = 'price change'`
	endpoint := w.env["OPENAI_BASE_URL"]
	for _, pause := range []struct{ scope, name, button, field string }{{"endpoint", endpoint, "endpoint-0", ""}, {"model", "gpt-image-9", "other-model", "name"}} {
		fields := []string{"reason", "price change"}
		if pause.field != "" {
			fields = append(fields, pause.field, pause.name)
		}
		p.do(`[data-key="do-`+pause.button+`"]`, fields...)
		assert.Equal(t, 1, w.number(paused, pause.scope, pause.name))
		p.WaitText("#verdict", "price change")
		button := `#routes [data-key="do-` + pause.scope + `-0"]`
		p.Wait("the button to resume", `document.querySelector(arguments[0])?.textContent === "Resume"`, button)
		p.do(button)
		assert.Zero(t, w.number(paused, pause.scope, pause.name))
		p.Wait("the pause to be gone", `!document.getElementById("verdict").innerText.includes("price change")`)
	}
	w.insertStuck(2, 30)
	p.do(`#actions [data-key="do-fix"]`)
	w.waitFor("the stuck tasks to fail", func() bool {
		return w.number(`select count(*) from imagetasks.tasks where task_id like 'stuck-%' and status = 'failed'`) == 2
	})
	p.waitTiles()

	p.Type("#search", waiting[:20])
	p.Press(browser.Enter)
	p.Wait("the search", `document.querySelectorAll("main tbody tr").length === arguments[0]`, w.number(`select count(*) from imagetasks.tasks where starts_with(task_id, $1)`, waiting[:20]))
	assert.Contains(t, p.Text("main"), waiting)
	p.Type("#search", w.user)
	p.Press(browser.Enter)
	p.Wait("the search", `document.querySelectorAll("main tbody tr").length === arguments[0]`, w.number(`select count(*) from imagetasks.tasks where user_id = $1`, w.user))
	p.Click(`[data-key="nav-operations"]`)
	p.Wait("the operations", `document.querySelectorAll("main tbody tr").length === arguments[0]`, w.number(`select count(*) from imagetasks.operations`))
	var done string
	require.NoError(t, w.db.QueryRow(`select string_agg(what, ', ' order by id) from imagetasks.operations where who like 'page%'`).Scan(&done))
	assert.Equal(t, "grant, pause, cancel, redrive, resume, pause endpoint, resume endpoint, pause model, resume model, fix-stuck, fix-stuck", done, "one entry each, and two of fix-stuck: begun, done")
	p.requireConsole()
	w.audit()

	// The monitor serves the same page while the processor is down.
	require.NoError(t, run.Process.Signal(syscall.SIGKILL))
	<-run.done
	p.WaitText("#connection", "Connection lost")
	watch := w.start("monitor-tasks", "--watch", "--watch-addr", "127.0.0.1:0")
	w.waitFor("the monitor's page", func() bool { return statusAddress.MatchString(watch.stderr.String()) })
	p.Console()
	p.Open(statusAddress.FindString(watch.stderr.String()) + "/")
	p.waitTiles()
	p.WaitText("footer", "Served by monitor-tasks")
	p.requireConsole()
	watch.stop(syscall.SIGTERM)
}
