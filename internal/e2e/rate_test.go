package e2e_test

import (
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/simapi"
)

// The rate of an endpoint holds over two processors, is used up while work waits, and all of it is the second's after the first is killed. In the
// long form any 60 s hold at most 30 requests of the 30 that a minute may have, and at least 27.
func TestRate_HoldsOverProcessors(t *testing.T) {
	t.Parallel()
	rate, window, slack := 300, 5*time.Second, 11 // what a second has left may be taken up, and a request may leave a second late: that does not scale
	long := os.Getenv("IMAGETASKS_LONG") != ""
	if long {
		rate, window, slack = 30, time.Minute, 0
	}
	limit := rate * int(window) / int(time.Minute)
	w := newFixture(t)
	w.tables(fmt.Sprintf("[[endpoint]]\nname = \"relay\"\nbase_url = %q\nkey_env = \"OPENAI_API_KEY\"\nrate = %d\n", w.api.URL(), rate))
	n := 6 * limit
	w.grant(n)
	w.enqueue("a boat", "--count", fmt.Sprint(n))
	first := w.start("task-processor", "run", "--concurrency", "4")
	second := w.start("task-processor", "run", "--concurrency", "4")
	began := time.Now()
	w.waitFor("the first requests", func() bool { return len(w.api.Calls()) > 0 })
	calls := func() []simapi.Call { return w.api.Calls() }
	until := func(d time.Duration) {
		time.Sleep(time.Until(began.Add(d))) // the rate is counted over this time
	}
	until(2*window + window/2)
	first.stop(syscall.SIGKILL)
	killed := time.Now()
	until(5 * window)
	if !long {
		// Other tests may keep both CPUs busy for seconds, so this is no bound on the time.
		w.waitFor("requests of the second processor alone", func() bool {
			after := 0
			for _, c := range calls() {
				if c.At.After(killed) {
					after++
				}
			}
			return len(calls()) > limit*5/2 && after > limit
		})
	}
	all := calls()
	second.stop(syscall.SIGTERM).ok()
	last := all[len(all)-1].At

	in := func(from time.Time) (n int) {
		for _, c := range all {
			if !c.At.Before(from) && c.At.Before(from.Add(window)) {
				n++
			}
		}
		return n
	}
	fewest, most := limit, 0
	for _, c := range all {
		n := in(c.At)
		most = max(most, n)
		// Each processor has started by then; what the killed one had permits for is lost.
		started := c.At.After(all[0].At.Add(window/5)) && c.At.Add(window).Before(last)
		if started && (c.At.Add(window).Before(killed) || c.At.After(killed.Add(window))) {
			fewest = min(fewest, n)
		}
	}
	t.Logf("%d requests; in any %s %d to %d of %d", len(all), window, fewest, most, limit)
	assert.LessOrEqual(t, most, limit+slack)
	if long {
		assert.GreaterOrEqual(t, fewest, limit*9/10)
	}
	assert.Zero(t, w.number(`select count(*) from imagetasks.tasks where endpoint <> 'relay'`))
	assert.Zero(t, w.number(`select count(*) from imagetasks.tasks where status = 'failed'`))
	require.Less(t, len(all), n, "work was waiting at the end")
}
