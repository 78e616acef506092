package dashboard_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/dashboard"
	"imagetasks/pkg/finding"
	"imagetasks/pkg/health"
	"imagetasks/pkg/overview"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

var update = flag.Bool("update", false, "write the examples in testdata")

// example returns a document as an installation with two processors, three endpoints and some problems shows it.
func example(t *testing.T) dashboard.Document {
	t.Helper()
	zone := time.FixedZone("CST", 8*60*60)
	at := func(day, hour, minute, second int) time.Time {
		return time.Date(2026, 11, day, hour, minute, second, 0, zone)
	}
	cause := func(code task.Code) (what, fix *dashboard.Text) {
		h, ok := finding.HintFor(code)
		require.True(t, ok, code)
		w, f := dashboard.NewText(h.Cause), dashboard.NewText(h.Fix)
		return &w, &f
	}
	refused, fixRefused := cause(task.CodeProxyRefused)
	moderated, fixModerated := cause(task.CodeModeration)
	limited, fixLimited := cause(task.CodeServer)
	_, fixModel := cause(task.CodeModelRefused)
	const refusedReason = "proxy http://10.0.0.7:7890: connection refused"
	works := dashboard.Circuit{State: dashboard.StateClosed, Hosts: []string{"web-1", "web-2"}}
	return dashboard.Document{
		AsOf: at(27, 14, 3, 21), TimeZone: dashboard.TimeZone{Name: "CST", OffsetMinutes: 480}, Version: "2.0.0", Host: "web-1", ServedBy: dashboard.TaskProcessor,
		Database: dashboard.Database{OK: true},
		Problems: []dashboard.Problem{
			{Code: string(finding.EndpointFailing), Severity: dashboard.SeverityWarning, Subject: "relay", Since: at(27, 13, 41, 2),
				What: dashboard.Text{EN: "endpoint relay has been unreachable since 2026-11-27 13:41:02; others make the pictures: " + refusedReason,
					ZH: "端点 relay 自 2026-11-27 13:41:02 起不可达，由其他端点生成图片：" + refusedReason},
				Hint: fixRefused, Do: "./bin/simple-test --endpoint relay"},
			{Code: string(finding.TasksStuck), Severity: dashboard.SeverityError, What: dashboard.Text{EN: "2 tasks are stuck", ZH: "2 个任务卡住"}, Do: "./bin/fix-stuck-tasks"},
			{Code: string(finding.ClaimingPaused), Severity: dashboard.SeverityWarning, Subject: "ops", Since: at(27, 14, 0, 0),
				What: dashboard.Text{EN: "claiming has been paused by ops since 2026-11-27 14:00:00: backup", ZH: "ops 自 2026-11-27 14:00:00 起暂停了任务领取：backup"},
				Do:   "./bin/task-processor resume"},
		},
		Tasks:     dashboard.Tasks{Due: 37, Later: 12, Processing: 9, Stuck: 2, Completed: 18240, Failed: 131, Cancelled: 17, ClosedWindow: "24h"},
		OldestDue: 84.2,
		Paused: []dashboard.Pause{{Scope: "queue", Since: at(27, 14, 0, 0), By: "ops", Reason: "backup"},
			{Scope: "model", Name: "gpt-image-1", Since: at(27, 9, 12, 0), By: "ops", Reason: "price change"}},
		Processors: []dashboard.Processor{
			{Worker: "web-1:4711:0f1e2d3c", Host: "web-1", PID: 4711, Version: "2.0.0", Alive: true, Started: at(20, 3, 0, 1), SilentSeconds: 3.1, InFlight: 6,
				Concurrency: 10, PaidRequests: 5, Completed: 90412, Failed: 512},
			{Worker: "web-2:812:aa01bb02", Host: "web-2", PID: 812, Version: "2.0.0", Alive: true, Started: at(20, 3, 0, 4), SilentSeconds: 9.8, InFlight: 5,
				Concurrency: 10, PaidRequests: 5, Completed: 88120, Failed: 498},
			{Worker: "old-3:99:cc03dd04", Host: "old-3", PID: 99, Version: "1.9.0", Started: at(18, 11, 30, 0), SilentSeconds: 5400, Concurrency: 3, Completed: 120, Failed: 4},
		},
		Endpoints: []dashboard.Endpoint{
			{Name: "openai", Address: "https://api.openai.com/v1", Circuit: works, InFlight: 9, Rate: 120},
			{Name: "relay", Address: "https://relay.example/v1", Circuit: dashboard.Circuit{State: dashboard.StateOpen, Since: at(27, 13, 41, 2), Code: task.CodeProxyRefused,
				Reason: refusedReason, Hint: fixRefused, NextTrial: at(27, 14, 4, 0), Hosts: []string{"web-1", "web-2"}}, Concurrency: 4},
			{Name: "spare", Address: "https://spare.example/v1", Circuit: dashboard.Circuit{State: dashboard.StateHalfOpen, Since: at(27, 14, 1, 0), Code: task.CodeServer,
				Reason: "the API responded 502", Hint: fixLimited, Hosts: []string{"web-2"}}, InFlight: 2, RateLimitedUntil: at(27, 14, 3, 40)},
		},
		Models: []dashboard.Model{
			{Name: "gpt-image-1", Endpoint: "openai", Circuit: works, Paused: true},
			{Name: "flux-pro", Endpoint: "relay", Circuit: dashboard.Circuit{State: dashboard.StateOpen, Since: at(27, 8, 0, 0), Code: task.CodeModelRefused,
				Reason: "the API responded 403: the organization must be verified", Hint: fixModel, NextTrial: at(27, 14, 30, 0), Hosts: []string{"web-1"}}},
		},
		Proxies: []dashboard.Proxy{
			{Address: "http://127.0.0.1:7890", Endpoint: "openai", Circuit: works, Served: 170311},
			{Address: "http://10.0.0.7:7890", Endpoint: "relay", Circuit: dashboard.Circuit{State: dashboard.StateOpen, Since: at(27, 13, 41, 0), Code: task.CodeProxyRefused,
				Reason: "connection refused", Hint: fixRefused, NextTrial: at(27, 14, 5, 0), Hosts: []string{"web-1", "web-2"}}, Served: 8221},
		},
		PictureStores: []dashboard.PictureStore{{Host: "web-1", Circuit: dashboard.Circuit{State: dashboard.StateClosed, Hosts: []string{"web-1"}}},
			{Host: "web-2", Circuit: dashboard.Circuit{State: dashboard.StateClosed, Hosts: []string{"web-2"}}}},
		HealthChecks: []health.Check{{At: at(27, 14, 3, 10), Name: "database", OK: true, Millis: 2, Result: "responds"},
			{At: at(27, 14, 3, 10), Name: "queue", OK: true, Millis: 4, Result: "37 due, 9 processing"},
			{At: at(27, 14, 2, 55), Name: "api: relay", Millis: 1204, Result: refusedReason, Action: "claiming for it is paused"}},
		Failures: []dashboard.Failure{
			{Code: string(task.CodeModeration), Count: 96, What: moderated, Hint: fixModerated, Do: "./bin/task-processor status", Examples: []dashboard.Example{
				{TaskID: "019ac1d2-7e11-7c3a-9f60-3a5d2b9c4e01", At: at(27, 14, 2, 58), Message: "the API responded 400: moderation_blocked"},
				{TaskID: "019ac1d1-0a02-7b11-8d0e-77aa21c0ffee", At: at(27, 13, 59, 3), Message: "the API responded 400: moderation_blocked"}}},
			{Code: string(task.CodeProxyRefused), Count: 31, What: refused, Hint: fixRefused, Do: "./bin/simple-test", Examples: []dashboard.Example{
				{TaskID: "019ac1c0-1111-7222-8333-444455556666", At: at(27, 13, 40, 59), Message: refusedReason}}},
			{Code: string(task.CodeServer), Count: 4, What: limited, Hint: fixLimited, Do: "./bin/simple-test", Examples: []dashboard.Example{
				{TaskID: "019ac1b0-aaaa-7bbb-8ccc-ddddeeeeffff", At: at(27, 11, 5, 7), Message: "the API responded 502"}}},
		},
		Recent: []dashboard.Recent{
			{TaskID: "019ac1d2-9b00-7a10-8000-0000000000a1", UserID: "user-1842", Status: task.Completed, Model: "gpt-image-1", Seconds: 31.4, At: at(27, 14, 3, 19), HasPicture: true},
			{TaskID: "019ac1d2-7e11-7c3a-9f60-3a5d2b9c4e01", UserID: "user-77", Status: task.Failed, Model: "gpt-image-1", ErrorCode: string(task.CodeModeration), Seconds: 2.2, At: at(27, 14, 2, 58)},
			{TaskID: "019ac1d2-6c00-7a10-8000-0000000000a2", UserID: "用户-9", Status: task.Cancelled, At: at(27, 14, 2, 40)},
		},
		Days: []dashboard.Day{
			{Day: "2026-11-27", Completed: 10112, Failed: 80, Charged: 51204, Refunded: 410, Costs: []store.Cost{{Currency: "CNY", Amount: "312.400000"}, {Currency: "USD", Amount: "404.480000"}}},
			{Day: "2026-11-26", Completed: 18711, Failed: 140, Charged: 94800, Refunded: 733, Costs: []store.Cost{{Currency: "USD", Amount: "748.440000"}}},
			{Day: "2026-11-25", Costs: []store.Cost{}},
		},
		Bridge: &overview.Bridge{Active: true, AppliedAt: at(20, 3, 0, 0), CheckedAt: at(27, 14, 3, 20), Inbox: 1, InboxSeconds: 0.4, Problems: []store.BridgeProblem{}},
		Webhooks: &overview.Webhooks{Waiting: 3, Failing: 2, Undelivered: 1, Oldest: 12.5, Receivers: []store.FailingReceiver{
			{Host: "hooks.example", Events: 2, Since: at(27, 13, 59, 0), Reason: "the receiver responded 502"}}},
	}
}

// The example is what the page is built against: it has every field that a document can have.
func TestDocument_Example(t *testing.T) {
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	require.NoError(t, e.Encode(example(t)))
	const file = "testdata/overview.json"
	if *update {
		require.NoError(t, os.WriteFile(file, text.Bytes(), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, string(want), text.String(), "run go test ./pkg/dashboard -run Example -update")
	d := json.NewDecoder(bytes.NewReader(want))
	d.DisallowUnknownFields()
	var back dashboard.Document
	require.NoError(t, d.Decode(&back))
	assert.Equal(t, dashboard.StateHalfOpen, back.Endpoints[2].State)
}
