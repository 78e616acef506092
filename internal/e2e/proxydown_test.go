package e2e_test

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/realproxy"
)

// The only proxy is killed for a minute while 50 of 500 tasks are in flight. All tasks complete; the outage uses no attempts and
// causes no refunds. A quick restart of the proxy costs nothing either.
func TestProxyDownForAMinute(t *testing.T) {
	t.Parallel()
	w := newFixture(t, slow(500*time.Millisecond))
	p := realproxy.StartTinyproxy(t, realproxy.Config{User: "wei", Password: "proxypass"})
	w.env["OPENAI_PROXY"] = p.URL
	w.grant(500)
	w.enqueue("a lantern in the storm", "--count", "500")
	processor := w.start("task-processor", "run", "--concurrency", "50")
	w.waitFor("tasks in flight", func() bool { return w.count("completed") >= 100 && w.api.Busy() >= 25 })

	p.Kill()
	killed := time.Now()
	w.waitFor("the outage is logged", func() bool {
		return strings.Contains(processor.stderr.String(), "the image API is unreachable; claiming is paused")
	})
	w.waitFor("all tasks are back", func() bool { return w.count("processing") == 0 })
	completed := w.count("completed")
	assert.Equal(t, 500, completed+w.number(`select count(*) from imagetasks.tasks where status = 'pending' and attempt_count = 0`))
	assert.Positive(t, w.number(`select count(*) from imagetasks.tasks where status = 'pending' and lease_epoch = 1 and error_code is not null`), "some were in flight")
	time.Sleep(time.Until(killed.Add(10 * time.Second))) // responses under way have arrived
	calls := len(w.api.Calls())
	time.Sleep(time.Until(killed.Add(time.Minute))) // the outage
	assert.Equal(t, completed, w.count("completed"))
	assert.Equal(t, calls, len(w.api.Calls()), "nothing went past the proxy")

	p.Restart()
	back := time.Now()
	w.waitFor("the first picture", func() bool { return w.count("completed") > completed })
	t.Logf("the first picture was complete %.1f s after the proxy was back", time.Since(back).Seconds())
	assert.Equal(t, 1, strings.Count(processor.stderr.String(), "the image API is unreachable; claiming is paused"), "logged once")

	// A restart breaks the requests in flight and is over before the next probe.
	w.waitFor("tasks in flight", func() bool { return w.count("completed") >= 300 && w.api.Busy() >= 25 })
	p.Restart()
	w.waitFor("all pictures", func() bool { return w.count("completed") == 500 })
	r := processor.stop(syscall.SIGTERM)
	r.ok()
	assert.NotContains(t, r.stderr, "proxypass")
	assert.Equal(t, 500, w.number(`select count(*) from imagetasks.tasks where status = 'completed' and attempt_count = 0 and credits_refunded = 0`))
	require.Len(t, w.pictures(), 500)
	assert.Zero(t, w.credits())
	w.audit()
}
