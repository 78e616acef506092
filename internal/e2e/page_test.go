package e2e_test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/browser"
)

// statusToken is a secret of the tests of the page.
const statusToken = "status-token-4e1b77a9c2"

// operatorPage is the page of the real programs in a browser.
type operatorPage struct {
	*browser.Browser
	t *testing.T
	w *fixture
}

// waitTiles waits until the numbers of tasks by state are those of the database.
func (p operatorPage) waitTiles() {
	p.t.Helper()
	const counted = `select count(*) from imagetasks.tasks where `
	for tile, condition := range map[string]string{
		"due": `status = 'pending' and waits_for is null`, "later": `status = 'pending' and waits_for is not null`,
		"processing": `status = 'processing' and processing_started_at >= now() - interval '20 minutes'`,
		"stuck":      `status = 'processing' and processing_started_at < now() - interval '20 minutes'`,
		"completed":  `status = 'completed'`, "failed": `status = 'failed'`, "cancelled": `status = 'cancelled'`,
	} {
		p.w.waitFor("the number of tasks: "+tile, func() bool {
			return strings.TrimSpace(p.Text("#tile-"+tile+" .value")) == fmt.Sprint(p.w.number(counted+condition))
		})
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
	w.env["STATUS_TOKEN"], w.env["STATUS_PICTURES"] = statusToken, "on"
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
	assert.Zero(t, w.number(`select count(*) from imagetasks.operations`))
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

	for _, scope := range []string{"endpoint", "model"} {
		p.Wait("a "+scope, `document.querySelector(arguments[0])`, `[data-key="do-`+scope+`-0"]`)
		p.do(`[data-key="do-`+scope+`-0"]`, "reason", "price change")
		const paused = `select count(*) from imagetasks.control, jsonb_array_elements(pauses) p where p->>'scope' = $1 and p->>'reason' = 'price change'`
		assert.Equal(t, 1, w.number(paused, scope))
		p.WaitText("#verdict", "price change")
		p.Wait("the button to resume", `document.querySelector(arguments[0]).textContent === "Resume"`, `[data-key="do-`+scope+`-0"]`)
		p.do(`[data-key="do-` + scope + `-0"]`)
		assert.Zero(t, w.number(paused, scope))
		p.Wait("the button to pause", `document.querySelector(arguments[0]).textContent === "Pause"`, `[data-key="do-`+scope+`-0"]`)
	}
	w.insertStuck(2, 30)
	p.do(`#actions [data-key="do-fix"]`)
	w.waitFor("the stuck tasks to fail", func() bool {
		return w.number(`select count(*) from imagetasks.tasks where task_id like 'stuck-%' and status = 'failed'`) == 2
	})
	p.waitTiles()

	p.Type("#search", "stuck-")
	p.Press(browser.Enter)
	p.Wait("the search", `document.querySelectorAll("main tbody tr").length === 2`)
	p.Type("#search", w.user)
	p.Press(browser.Enter)
	p.Wait("the search", `document.querySelectorAll("main tbody tr").length === arguments[0]`, w.number(`select count(*) from imagetasks.tasks where user_id = $1`, w.user))
	p.Click(`[data-key="nav-operations"]`)
	p.Wait("the operations", `document.querySelectorAll("main tbody tr").length === arguments[0]`, w.number(`select count(*) from imagetasks.operations`))
	assert.Equal(t, 10, w.number(`select count(*) from imagetasks.operations`), "each action, once")
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
