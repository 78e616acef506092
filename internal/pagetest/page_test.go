package pagetest_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/browser"
	"imagetasks/pkg/dashboard"
)

// page is the page of a site in a browser.
type page struct {
	*browser.Browser
	t *testing.T
	s *site
}

// open loads the page as somebody sees it who was never there.
func (p page) open(path, languages, scheme string, width int) {
	p.t.Helper()
	p.Resize(width, 900)
	p.Prefer(scheme)
	p.Languages(languages)
	p.Open(p.s.url + "/healthz") // pages of the same address can delete what is stored; 404 here
	p.Clear()
	p.Console()
	p.Open(p.s.url + "/" + path)
}

// waitDrawn waits until the first page shows everything.
func (p page) waitDrawn() {
	p.t.Helper()
	p.Wait("the charts", `document.querySelectorAll("#charts canvas").length === 5 && document.querySelector("#state h1").textContent !== ""`)
}

func (p page) requireNoConsole() {
	p.t.Helper()
	for _, l := range p.Console() {
		assert.Fail(p.t, "the console is not empty", "%s %s: %s", l.Level, l.Source, l.Message)
	}
}

func (p page) requireFits(what string) {
	p.t.Helper()
	var wide []string
	p.Eval(&wide, `const width = document.documentElement.clientWidth;
		if (document.documentElement.scrollWidth <= width) return [];
		return [...document.querySelectorAll("body *")].filter((e) => e.getBoundingClientRect().right > width + 1 && !e.closest(".scroll")).slice(0, 5).map((e) => e.outerHTML.slice(0, 200))`)
	assert.Empty(p.t, wide, "%s: it is wider than the page", what)
}

func (p page) signIn(token string) {
	p.t.Helper()
	p.Click("#session")
	p.Wait("the focus in the dialog", `document.activeElement.id === "field-token"`)
	p.Write(token)
	p.Press(browser.Enter)
}

// clean replaces a document by one without problems.
func clean(d dashboard.Document) dashboard.Document {
	d.Well, d.Problems, d.Paused, d.Failures = true, nil, nil, nil
	d.Problems, d.Paused, d.Failures = []dashboard.Problem{}, []dashboard.Pause{}, []dashboard.Failure{}
	d.Tasks.Stuck = 0
	return d
}

func TestPage(t *testing.T) {
	t.Parallel()
	axe := axeSource(t)
	p := page{Browser: browser.Start(t), t: t, s: newSite(t)}
	type step struct {
		name string
		run  func(*testing.T, page, string)
	}
	steps := []step{{"look", testLook}, {"live", testLive}, {"hostile", testHostile}, {"actions", testActions}, {"keyboard", testKeyboard}, {"search", testSearch}}
	if os.Getenv("IMAGETASKS_SCREENSHOTS") != "" {
		steps = append(steps, step{"screenshots", testScreenshots})
	}
	for _, step := range steps {
		if !t.Run(step.name, func(t *testing.T) {
			p := page{Browser: p.With(t), t: t, s: p.s}
			step.run(t, p, axe)
			p.requireNoConsole()
		}) {
			break // the next ones would begin in a state that nobody expects
		}
	}
}

// testLook loads the page in both languages, themes and widths.
func testLook(t *testing.T, p page, axe string) {
	for i, look := range []struct{ languages, headline, scheme string }{{"en-US,en", "3 problems", "light"}, {"zh-CN,zh", "3 个问题", "dark"}} {
		p.open("", look.languages, look.scheme, 1440)
		p.waitDrawn()
		assert.Equal(t, look.headline, p.Text("h1"))
		for _, width := range []int{1440, 360} {
			p.Resize(width, 900)
			p.Wait("the width of the charts", `[...document.querySelectorAll(".plot .uplot")].every((e) => e.offsetWidth <= e.parentElement.clientWidth + 1)`)
			what := fmt.Sprintf("%s, %s, %d px", look.languages, look.scheme, width)
			p.requireFits(what)
		}
		requireAccessible(t, p.Browser, axe, look.languages+", "+look.scheme)
		// The other language, and the other theme, by the switches; they are remembered.
		p.Click("#language")
		p.Eval(nil, `const s = document.getElementById("theme"); s.value = arguments[0]; s.dispatchEvent(new Event("change", {bubbles: true}))`, []string{"dark", "light"}[i])
		p.Open(p.s.url + "/")
		p.waitDrawn()
		assert.Equal(t, []string{"3 个问题", "3 problems"}[i], p.Text("h1"))
		requireAccessible(t, p.Browser, axe, "the other of "+look.languages+" and "+look.scheme)
	}
	p.open("", "de-DE,de", "light", 1440)
	p.waitDrawn()
	assert.Equal(t, "3 problems", p.Text("h1"), "a language without texts")

	d := p.s.document()
	for name, n := range map[string]string{"due": "37", "later": "12", "processing": "9", "stuck": "2", "completed": "18,240", "failed": "131", "cancelled": "17"} {
		assert.Equal(t, n, p.Text("#tile-"+name+" .value"))
	}
	assert.Contains(t, p.Text("#verdict"), d.Problems[0].What.EN)
	assert.Contains(t, p.Text("#verdict"), d.Problems[0].Hint.EN)
	assert.Contains(t, p.Text("#verdict"), d.Problems[0].Do)
	assert.Contains(t, p.Text("#as-of"), "14:03:21", "as of, in the server's time zone")
	assert.Contains(t, p.Text("footer"), "CST (UTC+8)")
	var arrived int64
	for _, n := range p.s.series.Arrived {
		if n != nil {
			arrived += *n
		}
	}
	slowest := *p.s.series.P95[len(p.s.series.P95)-1]
	for section, texts := range map[string][]string{
		"#processors": {"web-1", "6 of 10", "old-3", "silent", "2026-11-20 03:00:01"},
		"#routes":     {"relay", "out of order", "2026-11-27 13:41:02", "being tried", "rate limited until 14:03:40", "gpt-image-1", "paused", "http://10.0.0.7:7890", "170,311"},
		"#checks":     {"database", "1,204 ms", "claiming for it is paused"},
		"#failures":   {"96 failed", "moderation_blocked", "Use another prompt."},
		"#recent":     {"user-1842", "用户-9", "Sign in to see pictures."},
		"#days":       {"2026-11-27", "51,204", "410", "50,794", "312.40 CNY", "404.48 USD"},
		"#links":      {"active", "2 failing", "hooks.example"},
		"#chart-flow": {fmt.Sprintf("Arrived: %d,%03d in all", arrived/1000, arrived%1000)}, "#chart-duration": {fmt.Sprint("p95: now ", slowest)},
	} {
		for _, text := range texts {
			assert.Contains(t, p.Text(section), text, section)
		}
	}
	// A chart's table has the same values.
	p.Click("#chart-flow summary")
	p.Wait("the table", `document.querySelectorAll("#chart-flow .scroll tbody tr").length >= 24`)
	var sum int64
	p.Eval(&sum, `return [...document.querySelectorAll("#chart-flow .scroll tbody tr")].map((r) => Number(r.cells[1].textContent.replaceAll(",", ""))).reduce((a, b) => a + b)`)
	assert.Equal(t, arrived, sum)
	assert.Zero(t, p.Count("[style*=expression], script:not([src]), style"), "no inline script or style")
}

// testLive changes the document, and takes the server away.
func testLive(t *testing.T, p page, _ string) {
	p.open("", "en", "light", 1440)
	p.waitDrawn()
	p.Eval(nil, `window.loaded = "once"`)
	p.Click("#failures details summary")
	before := p.s.document()
	defer p.s.change(func() { p.s.doc = before })
	p.s.change(func() {
		p.s.doc.Failures = slices.Clone(p.s.doc.Failures)
		p.s.doc.Tasks.Due, p.s.doc.Failures[0].Count = 41, 97
	})
	p.WaitText("#tile-due .value", "41")
	p.WaitText("#failures", "97 failed")
	assert.Equal(t, 1, p.Count("#failures details[open]"), "what is open stays open")
	var focused string
	p.Eval(&focused, `return document.activeElement.dataset.key ?? ""`)
	assert.Equal(t, "failure-open-moderation_blocked", focused, "the focus stays")
	p.s.change(func() { p.s.doc = clean(p.s.doc) })
	p.WaitText("h1", "All is well")
	p.Wait("the title", `document.title.startsWith("All is well")`)

	p.s.change(func() {
		p.s.doc.Database, p.s.doc.Well = dashboard.Database{Since: before.AsOf.Add(-time.Minute), Error: "connection refused"}, false
	})
	p.WaitText("#verdict", "The database does not respond since 2026-11-27 14:02:21: connection refused")
	assert.NotContains(t, p.Text("#as-of"), "Live")
	p.s.change(func() {
		p.s.doc = dashboard.Document{TimeZone: before.TimeZone, Database: p.s.doc.Database, HealthChecks: before.HealthChecks}
	})
	p.WaitText("#verdict", "has not responded since 2026-11-27 14:02:21: connection refused. Nothing is known of the queue yet.")
	var shown []string
	p.Eval(&shown, `return [...document.querySelectorAll(".overview > section")].filter((e) => e.getClientRects().length > 0).map((e) => e.id)`)
	assert.Equal(t, []string{"verdict", "actions", "charts", "checks"}, shown, "what was never read is not shown as none")
	p.s.change(func() { p.s.doc = clean(before) })
	p.WaitText("h1", "All is well")
	p.WaitText("#tile-due", "Due")
	p.requireNoConsole()

	p.s.mu.Lock()
	p.s.cut = true
	p.s.mu.Unlock()
	p.s.endStreams()
	p.WaitText("#connection", "Connection lost. This is the state as of 2026-11-27 14:03:21")
	p.Wait("the age", `/\(\d+(\.\d)? s\)/.test(document.getElementById("as-of").textContent)`)
	p.s.mu.Lock()
	p.s.cut = false
	p.s.mu.Unlock()
	p.Wait("the connection to return", `document.getElementById("connection").textContent === ""`)
	var once string
	p.Eval(&once, `return window.loaded`)
	assert.Equal(t, "once", once, "all of that without loading the page again")
	p.Console() // the failed requests
}

// hostile is a text that must be shown as it is.
const hostile = `<img src=x onerror="window.hacked=1">`

// testHostile shows texts of users in every place.
func testHostile(t *testing.T, p page, axe string) {
	long := strings.Repeat("x1", 100)
	reversed := "abc\u202egnp.exe"
	before := p.s.document()
	found, task := p.s.found, p.s.task
	defer p.s.change(func() { p.s.doc, p.s.found, p.s.task = before, found, task })
	p.s.change(func() {
		d := &p.s.doc
		d.Host, d.Version = hostile, hostile
		d.Problems = append([]dashboard.Problem{}, d.Problems...)
		d.Problems[0].What, d.Problems[0].Do = dashboard.Text{EN: hostile, ZH: hostile}, "./bin/x '"+hostile+"'"
		d.Problems[0].Hint = &dashboard.Text{EN: hostile, ZH: hostile}
		d.Paused = []dashboard.Pause{{Scope: "endpoint", Name: hostile, By: hostile, Reason: long}}
		d.Endpoints = append([]dashboard.Endpoint{}, d.Endpoints...)
		d.Endpoints[0].Name, d.Endpoints[1].Reason = hostile, hostile+long
		d.Failures = []dashboard.Failure{{Code: hostile, Count: 1, Do: hostile, Examples: []dashboard.Example{{TaskID: hostile, At: d.AsOf, Message: long}}}}
		d.Recent = []dashboard.Recent{{TaskID: hostile, UserID: reversed, Status: "failed", Model: long, ErrorCode: hostile, At: d.AsOf},
			{TaskID: long, UserID: hostile, Status: "completed", At: d.AsOf, HasPicture: true}, {TaskID: "../../x?y#z", UserID: "שלום", Status: "failed", At: d.AsOf},
			{TaskID: "hidden", UserID: " us\u00ader\u3164-\u034f7\U000e0041 ", Status: "failed", Model: "❤️ a b", At: d.AsOf}}
		p.s.found = dashboard.Found{Tasks: []dashboard.FoundTask{{TaskID: long, UserID: hostile, Status: "failed", ErrorCode: "server", Error: hostile + long, Created: d.AsOf}}}
		p.s.task = map[string]any{"task_id": "../../x?y#z", "user_id": reversed, "status": "failed", "run": 1, "created_at": d.AsOf, "credits_cost": 5, "credits_deducted": 5, "credits_refunded": 5,
			"error_code": "server", "error_message": hostile + long, "options": map[string]string{hostile: hostile}, "image_url": "javascript:window.hacked=1", "inputs": []any{}, "results": []any{},
			"attempts": []any{map[string]any{"run": 1, "attempt": 1, "outcome": hostile, "at": d.AsOf, "seconds": 3, "message": hostile + long, "request_id": long}},
			"ledger":   []any{map[string]any{"kind": "grant", "amount": 5, "balance_after": 5, "reason": hostile, "created_at": d.AsOf}}, "files": []string{hostile}}
	})
	p.open("", "en", "light", 360)
	p.waitDrawn()
	p.requireFits("hostile texts, 360 px")
	requireAccessible(t, p.Browser, axe, "hostile texts")
	assert.Contains(t, p.Text("#verdict"), hostile)
	assert.Contains(t, p.Text("#recent"), "abc[U+202E]gnp.exe")
	assert.Contains(t, p.Text("#recent"), "[U+0020]us[U+00AD]er[U+3164]-[U+034F]7[U+E0041][U+0020]", "another user than user-7")
	assert.Contains(t, p.Text("#recent"), "❤️ a b")
	p.Click(`#recent a[href="#/tasks/..%2F..%2Fx%3Fy%23z"]`)
	p.WaitText("#task-attempts", hostile)
	p.requireFits("a task, 360 px")
	requireAccessible(t, p.Browser, axe, "a task")
	assert.Zero(t, p.Count(`a[href^="javascript"]`))
	assert.Contains(t, p.Text("main"), "javascript:window.hacked=1", "shown, and no link")
	p.Open(p.s.url + "/#/search/x")
	p.WaitText("main", hostile)
	p.requireFits("a search, 360 px")
	var hacked any
	p.Eval(&hacked, `return window.hacked ?? null`)
	assert.Nil(t, hacked)
	assert.Zero(t, p.Count(`main img[src="x"]`))
}

// testActions signs in, and does each action.
func testActions(t *testing.T, p page, axe string) {
	p.s.change(func() {
		p.s.task = map[string]any{"task_id": "t-failed", "user_id": "u1", "status": "failed", "run": 1, "created_at": p.s.doc.AsOf, "credits_cost": 5, "credits_deducted": 5, "credits_refunded": 5,
			"error_code": "server", "error_message": "the API responded with 500", "options": map[string]string{}, "inputs": []any{}, "results": []any{}, "attempts": []any{}, "ledger": []any{}, "files": []string{}}
	})
	p.open("", "en", "light", 1440)
	p.waitDrawn()
	assert.Zero(t, p.Count(`[data-key^="do-"]`), "no action without the token")
	p.signIn("wrong")
	p.WaitText("dialog .result", "Not done: the token is wrong")
	p.Type("#field-token", testToken)
	p.Press(browser.Enter)
	p.Wait("the actions", `document.querySelectorAll('[data-key="do-grant"]').length === 1 && !document.querySelector("dialog")`)
	p.Console() // the refused request
	p.waitDrawn()
	requireAccessible(t, p.Browser, axe, "with actions")
	p.Wait("a thumbnail", `document.querySelector("#recent img")?.naturalWidth > 0`)

	confirm := func(button, want string, fields map[string]string) {
		t.Helper()
		p.Click(button)
		p.Wait("the dialog", `document.querySelector("dialog[open]")?.contains(document.activeElement)`)
		for field, text := range fields {
			p.Type("#field-"+field, text)
		}
		assert.Empty(t, p.s.actions(), "it asks before it acts")
		p.Click("dialog button[type=submit]")
		p.WaitText("dialog .result", "Done: the work is done")
		p.Wait("the focus on the button", `document.activeElement.textContent === "Close"`)
		p.Press(browser.Enter)
		p.Wait("the dialog to close", `!document.querySelector("dialog")`)
		acted := p.s.actions()
		require.Len(t, acted, 1, button)
		if strings.HasPrefix(want, "grant") {
			assert.Regexp(t, want, acted[0])
			return
		}
		assert.Equal(t, want, acted[0])
	}
	confirm(`#actions [data-key="do-queue"]`, `resume {"scope":"queue","name":""}`, nil)
	confirm(`[data-key="do-problem-1"]`, `fix-stuck {}`, nil)
	confirm(`[data-key="do-endpoint-1"]`, `pause {"scope":"endpoint","name":"relay","reason":"price change"}`, map[string]string{"reason": "price change"})
	confirm(`[data-key="do-model-1"]`, `pause {"scope":"model","name":"flux-pro","reason":""}`, nil)
	confirm(`[data-key="do-resume-1"]`, `resume {"scope":"model","name":"gpt-image-1"}`, nil)
	confirm(`[data-key="do-grant"]`, `grant \{"user_id":"u7","credits":12,"reason":"sorry","idempotency_key":"page-[0-9a-f]{32}"\}`, map[string]string{"user": "u7", "credits": "12", "reason": "sorry"})
	before := p.s.document()
	p.s.change(func() { p.s.doc.Paused = []dashboard.Pause{} })
	p.WaitText("#actions", "Pause the queue")
	confirm(`#actions [data-key="do-queue"]`, `pause {"scope":"queue","name":"","reason":"backup"}`, map[string]string{"reason": "backup"})
	p.s.change(func() { p.s.doc = before })

	p.Open(p.s.url + "/#/tasks/t-failed")
	confirm(`[data-key="do-redrive"]`, `redrive {"task_id":"t-failed","run":1}`, nil)
	p.s.change(func() { p.s.task["status"] = "processing" })
	p.Click(`[data-key="nav-overview"]`)
	p.waitDrawn()
	p.Open(p.s.url + "/#/tasks/t-failed")
	confirm(`[data-key="do-cancel"]`, `cancel {"task_id":"t-failed"}`, nil)

	// What is refused is said, in the reader's language.
	p.s.change(func() { p.s.fault = "the task is closed <b>" })
	p.Click(`[data-key="do-cancel"]`)
	p.Click("dialog button[type=submit]")
	p.WaitText("dialog .result", "Not done: the task is closed <b>")
	p.Press(browser.Escape)
	p.Wait("the dialog to close", `!document.querySelector("dialog")`)
	require.Len(t, p.s.actions(), 1)
	p.Console()

	p.Click(`[data-key="nav-operations"]`)
	p.WaitText("main table", "endpoint relay")
	requireAccessible(t, p.Browser, axe, "operations")
	p.Click("#session")
	p.WaitText("main", "Sign in to see the operations.")
	p.Click(`[data-key="nav-overview"]`)
	p.waitDrawn()
	assert.Zero(t, p.Count(`[data-key^="do-"]`), "no action after signing out")
	p.s.change(func() { p.s.tokenSet = false })
	p.Open(p.s.url + "/")
	p.waitDrawn()
	assert.Contains(t, p.Text("#actions"), "Actions are off. Set STATUS_TOKEN")
	assert.Zero(t, p.Count("#session"))
	p.s.change(func() { p.s.tokenSet = true })
}

// testKeyboard pauses the queue with the keyboard alone.
func testKeyboard(t *testing.T, p page, axe string) {
	before := p.s.document()
	p.s.change(func() { p.s.doc = clean(p.s.doc) })
	defer p.s.change(func() { p.s.doc = before })
	p.open("", "en", "light", 1440)
	p.waitDrawn()
	reach := func(key string) {
		t.Helper()
		for range 60 {
			p.Press(browser.Tab)
			var at string
			p.Eval(&at, `return document.activeElement.dataset.key ?? document.activeElement.id`)
			if at == key {
				return
			}
		}
		t.Fatalf("%s is not reached by Tab", key)
	}
	p.Press(browser.Tab)
	p.Wait("the first link skips to the content", `document.activeElement.id === "skip"`)
	p.Press(browser.Enter)
	p.Wait("the content", `document.activeElement.id === "main"`)
	p.Press(browser.Shift, browser.Tab)
	p.Wait("the header", `document.activeElement.id === "session"`)
	p.Press(browser.Enter)
	p.Wait("the dialog", `document.activeElement.id === "field-token"`)
	requireAccessible(t, p.Browser, axe, "a dialog")
	p.Write(testToken)
	p.Press(browser.Enter)
	p.Wait("the actions", `document.querySelector('[data-key="do-queue"]') && !document.querySelector("dialog")`)
	reach("do-queue")
	p.Press(browser.Enter)
	p.Wait("the field", `document.activeElement.id === "field-reason"`)
	p.Press(browser.Escape)
	p.Wait("the dialog to close, and the focus to return", `!document.querySelector("dialog") && document.activeElement.dataset.key === "do-queue"`)
	assert.Empty(t, p.s.actions())
	p.Press(browser.Space)
	p.Write("backup")
	p.Press(browser.Tab)
	p.Wait("the button that cancels", `document.activeElement.textContent === "Cancel"`)
	p.Press(browser.Tab, browser.Enter)
	p.WaitText("dialog .result", "Done")
	p.Press(browser.Enter)
	p.Wait("the focus to return", `document.activeElement.dataset.key === "do-queue"`)
	assert.Equal(t, []string{`pause {"scope":"queue","name":"","reason":"backup"}`}, p.s.actions())
}

func testSearch(t *testing.T, p page, axe string) {
	p.open("", "en", "light", 360)
	p.Type("#search", "moderation_blocked")
	p.Press(browser.Enter)
	p.WaitText("main table", "user-77")
	p.requireFits("a search")
	requireAccessible(t, p.Browser, axe, "a search")
	p.Type("#search", "nothing")
	p.Press(browser.Enter)
	p.WaitText("main", "Nothing found.")
	p.Open(p.s.url + "/#/tasks/unknown")
	p.WaitText("main", "There is no task unknown.")
	p.Console() // 404
	p.Eval(nil, `history.back()`)
	p.WaitText("main", "Nothing found.")
}
