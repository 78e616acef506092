package e2e_test

import (
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/simapi"
	"imagetasks/internal/simproxy"
)

// Six tasks of the default model, which is refused, wait ahead of twelve of another: these finish as fast as alone, and neither of two proxies
// is ejected. Status, metrics and the monitor name the model. When it works again, its tasks are done.
func TestCircuits_RefusedModel(t *testing.T) {
	t.Parallel()
	w := newFixture(t, slow(300*time.Millisecond))
	second, err := simproxy.Start(simproxy.Config{User: "operator", Password: proxyPassword})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, second.Close()) })
	w.env["OPENAI_PROXY"] += "," + second.URL()
	w.env["OPENAI_MODEL"] = "gpt-image-1"
	w.env["HUNG_AFTER"] = "16s" // a heartbeat every 2 seconds
	w.api.RefuseModel("gpt-image-1", simapi.Failure("not verified"))
	w.grant(18)
	w.enqueue("a lantern", "--count", "6")
	w.enqueue("a boat", "--count", "12", "--model", "gpt-image-2")
	began := time.Now()
	p := w.start("task-processor", "run", "--concurrency", "3", "--status-addr", "127.0.0.1:0")
	w.waitFor("the other model", func() bool { return w.count("completed") == 12 })
	assert.Less(t, time.Since(began), 12*time.Second, "alone it takes 1.2 s")
	assert.Equal(t, 6, w.number(`select count(*) from imagetasks.tasks where status <> 'completed' and attempt_count = 0 and credits_refunded = 0`))
	w.waitFor("a heartbeat", func() bool {
		return w.number(`select count(*) from imagetasks.processors where report -> 'circuits' @> '[{"scope": "model", "name": "gpt-image-1"}]'`) == 1
	})
	screen := w.run("task-processor", "status").is(3)
	assert.Contains(t, screen, "makes no pictures with 1 model (gpt-image-1)")
	assert.Contains(t, screen, "model gpt-image-1: ")
	assert.NotContains(t, screen, "ejected since")
	assert.NotContains(t, screen, "unreachable")

	w.api.RefuseModel("gpt-image-1", nil)
	w.waitFor("the refused model", func() bool { return w.count("completed") == 18 })
	p.stop(syscall.SIGTERM).ok()
	w.audit()
}

// Another model that never made a picture fails and refunds at once.
func TestCircuits_ModelThatNeverWorked(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.api.RefuseModel("gpt-image-99", simapi.Failure("no channel zh"))
	w.grant(3)
	w.enqueue("a lantern", "--count", "3", "--model", "gpt-image-99")
	w.run("task-processor", "run", "--once").ok()
	assert.Equal(t, 3, w.number(`select count(*) from imagetasks.tasks where status = 'failed' and error_code = 'api_model_refused' and credits_refunded = 1`))
	w.audit()
}

// A web page with status 200 answers every request for half a minute under 100 tasks: no task fails, few requests are sent, and work goes on within
// seconds of its end.
func TestCircuits_WebPage(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.grant(100)
	w.enqueue("a lantern", "--count", "100")
	w.api.Refuse(simapi.Failure("portal"))
	p := w.start("task-processor", "run", "--concurrency", "3", "--status-addr", "127.0.0.1:0")
	time.Sleep(30 * time.Second) // the outage
	assert.LessOrEqual(t, len(w.api.Calls()), 10)
	assert.Zero(t, w.count("failed"))
	calls := len(w.api.Calls())
	w.api.Refuse(nil)
	back := time.Now()
	w.waitFor("a request", func() bool { return len(w.api.Calls()) > calls })
	assert.Less(t, time.Since(back), 7*time.Second)
	w.waitFor("all pictures", func() bool { return w.count("completed") == 100 })
	p.stop(syscall.SIGTERM).ok()
	assert.Zero(t, w.number(`select count(*) from imagetasks.tasks where credits_refunded > 0 or attempt_count > 0`))
	w.audit()
}

// A key that may not list models does not keep the queue stopped after the proxy was restarted under 50 tasks.
func TestCircuits_ProxyRestartWithoutList(t *testing.T) {
	t.Parallel()
	w := newFixture(t, slow(time.Second))
	w.api.RefuseList(simapi.Failure("no access"))
	w.grant(50)
	w.enqueue("a lantern", "--count", "50")
	p := w.start("task-processor", "run", "--concurrency", "10", "--status-addr", "127.0.0.1:0")
	w.waitFor("tasks in flight", func() bool { return w.count("completed") >= 10 && w.api.Busy() >= 5 })
	require.NoError(t, w.proxy.Close())
	time.Sleep(5 * time.Second) // the proxy is down
	calls := len(w.api.Calls())
	again, err := simproxy.StartAt(simproxy.Config{User: "operator", Password: proxyPassword}, w.proxy.Addr())
	require.NoError(t, err)
	w.proxy = again
	back := time.Now()
	w.waitFor("a request", func() bool { return len(w.api.Calls()) > calls })
	assert.Less(t, time.Since(back), 6*time.Second, "a check every 5 s")
	w.waitFor("all pictures", func() bool { return w.count("completed") == 50 })
	p.stop(syscall.SIGTERM).ok()
	assert.Zero(t, w.number(`select count(*) from imagetasks.tasks where requests_sent > 2 or credits_refunded > 0`))
	w.audit()
}
