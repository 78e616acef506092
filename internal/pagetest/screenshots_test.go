package pagetest_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/dashboard"
	"imagetasks/pkg/task"
)

// maxScreenshot bounds a picture of the documentation, in bytes.
const maxScreenshot = 300_000

// testScreenshots makes the pictures of the documentation in the directory IMAGETASKS_SCREENSHOTS, relative to the project. The Chinese ones need a
// font: sudo apt-get install fonts-wqy-microhei.
func testScreenshots(t *testing.T, p page, _ string) {
	dir := filepath.Join("..", "..", os.Getenv("IMAGETASKS_SCREENSHOTS"))
	require.NoError(t, os.MkdirAll(dir, 0o755))
	shot := func(name string, height int, waitFor, section string) {
		var width int
		p.Eval(&width, `return innerWidth`)
		p.Resize(width, height)
		p.Wait("the size", `innerHeight === arguments[0]`, height)
		p.Wait("the content", waitFor)
		p.Eval(nil, `document.activeElement.blur(); scrollTo(0, 0); if (arguments[0]) document.querySelector(arguments[0]).scrollIntoView()`, section)
		picture := p.Screenshot()
		assert.Less(t, len(picture), maxScreenshot, name)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name+".png"), picture, 0o644))
	}
	before := p.s.document()
	defer p.s.change(func() { p.s.doc = before })
	p.s.change(func() {
		d := clean(p.s.doc)
		d.Well, d.Problems, d.Failures = false, before.Problems[:1], before.Failures
		for i, code := range []string{"", "", "api_server_error", "", "", ""} {
			r := dashboard.Recent{TaskID: "019ac1d2-5b00-7a10-8000-0000000000" + string("bcdefg"[i]) + "4", UserID: "user-" + string("413862"[i]) + "07", Status: task.Completed,
				Model: "gpt-image-1", Seconds: 24.5 + 3*float64(i), At: d.AsOf.Add(-time.Duration(40+17*i) * time.Second), HasPicture: code == "", ErrorCode: code}
			if code != "" {
				r.Status = task.Failed
			}
			d.Recent = append(d.Recent, r)
		}
		last := len(p.s.series.Depth) - 1
		d.Tasks.Due, d.OldestDue = int(*p.s.series.Depth[last]), *p.s.series.Oldest[last]
		p.s.doc = d
		at := d.AsOf
		p.s.task = map[string]any{"task_id": "019ac1d2-7e11-7c3a-9f60-3a5d2b9c4e01", "user_id": "user-77", "status": "failed", "run": 1, "created_at": at.Add(-time.Minute), "completed_at": at.Add(-23 * time.Second),
			"credits_cost": 5, "credits_deducted": 5, "credits_refunded": 5, "error_code": "moderation_blocked", "error_message": "the API responded 400: moderation_blocked",
			"options": map[string]string{"size": "1024x1024"}, "inputs": []any{}, "requests_sent": 1, "unknown_outcomes": 0, "model": "gpt-image-1", "endpoint": "openai", "request_id": "req_8a7d6f5e4c3b2a19", "results": []any{},
			"attempts": []any{map[string]any{"run": 1, "attempt": 0, "outcome": "release", "at": at.Add(-49 * time.Second), "seconds": 0.4, "code": "proxy_refused", "message": "proxy http://10.0.0.7:7890: connection refused", "endpoint": "relay"},
				map[string]any{"run": 1, "attempt": 1, "outcome": "failed", "at": at.Add(-23 * time.Second), "seconds": 2.2, "code": "moderation_blocked", "message": "the API responded 400: moderation_blocked", "endpoint": "openai", "request_id": "req_8a7d6f5e4c3b2a19"}},
			"ledger": []any{map[string]any{"kind": "charge", "run": 1, "amount": -5, "balance_after": 20, "reason": "", "created_at": at.Add(-time.Minute)}, map[string]any{"kind": "refund", "run": 1, "amount": 5, "balance_after": 25, "reason": "failed: moderation_blocked", "created_at": at.Add(-23 * time.Second)}}, "files": []string{}}
	})
	const drawn = `document.querySelectorAll("#charts canvas").length === 5`
	for _, look := range []struct{ language, scheme, name string }{{"en", "light", "en"}, {"zh-CN,zh", "dark", "zh"}} {
		p.open("", look.language, look.scheme, 1440)
		p.waitDrawn()
		p.signIn(testToken)
		p.Wait("the pictures", `document.querySelectorAll("#recent img").length > 3 && !document.querySelector("dialog") && [...document.querySelectorAll("#recent img")].every((i) => i.naturalWidth > 0 || i.loading === "lazy")`)
		shot("page-"+look.name, 1240, drawn, "")
		p.Resize(360, 800)
		shot("page-phone-"+look.name, 800, drawn, "")
	}
	p.Languages("en")
	p.Prefer("light")
	p.Resize(1280, 800)
	p.Open(p.s.url + "/healthz") // a change of the part after # alone loads nothing
	p.Open(p.s.url + "/#/tasks/019ac1d2-7e11-7c3a-9f60-3a5d2b9c4e01")
	shot("page-task-en", 800, `document.querySelectorAll("#task-ledger tbody tr").length === 2 && document.documentElement.lang === "en"`, "")
}
