package e2e_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/dashboard"
	"imagetasks/pkg/finding"
)

// overviewOf reads the state that a page shows.
func overviewOf(t *testing.T, addr string) (d dashboard.Document) {
	t.Helper()
	response, err := http.Get(addr + "/api/overview")
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, response.StatusCode, string(body))
	require.NoError(t, json.Unmarshal(body, &d))
	return d
}

// The page of monitor-tasks --watch stands while no processor runs, and while the database is silent: then it says so, and has what it knew last. It records
// the figures for the charts, as a processor does, and a pass of cron.
func TestStatusPage_WithoutProcessorAndDatabase(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	database := w.lossy()
	w.enqueue("one that waits", "--cost", "0", "--count", "3")
	watch := w.start("monitor-tasks", "--watch", "--interval", "1h", "--watch-addr", "127.0.0.1:0", "--no-restart")
	var addr string
	w.waitFor("the page", func() bool { addr = statusAddress.FindString(watch.stderr.String()); return addr != "" })
	w.waitFor("figures", func() bool { return w.number(`select count(*) from imagetasks.figures`) > 1400 })

	d := overviewOf(t, addr)
	assert.Equal(t, dashboard.MonitorTasks, d.ServedBy)
	assert.True(t, d.Database.OK)
	assert.Equal(t, 3, d.Tasks.Due)
	assert.Empty(t, d.Processors)
	require.Len(t, d.Problems, 1)
	assert.Equal(t, string(finding.NoProcessor), d.Problems[0].Code)
	assert.Contains(t, d.Problems[0].Do, "start")

	database.Silence(true)
	w.waitFor("the outage is shown", func() bool { return !overviewOf(t, addr).Database.OK })
	down := overviewOf(t, addr)
	assert.Equal(t, 3, down.Tasks.Due)
	assert.False(t, down.AsOf.Before(d.AsOf))
	assert.Equal(t, string(finding.DatabaseUnavailable), down.Problems[0].Code)
	response, err := http.Get(addr + "/")
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	assert.Equal(t, http.StatusOK, response.StatusCode)
	database.Silence(false)
	w.waitFor("the database is back", func() bool { return overviewOf(t, addr).Database.OK })
	watch.stop(syscall.SIGTERM).ok()

	_, err = w.db.ExecContext(t.Context(), `delete from imagetasks.figures`)
	require.NoError(t, err)
	w.run("monitor-tasks", "--no-restart").is(3) // no processor runs
	assert.Greater(t, w.number(`select count(*) from imagetasks.figures`), 1400)
	_, err = w.db.ExecContext(t.Context(), `delete from imagetasks.figures`)
	require.NoError(t, err)

	w.env["STATUS_ADDR"] = freeAddress(t)
	p := w.start("task-processor", "run")
	w.waitFor("figures of the processor", func() bool { return w.number(`select count(*) from imagetasks.figures`) > 1400 })
	w.waitFor("pictures", func() bool { return w.count("completed") == 3 })
	w.waitFor("the page has them", func() bool {
		d := overviewOf(t, "http://"+w.env["STATUS_ADDR"])
		return d.Tasks.Completed == 3 && d.ServedBy == dashboard.TaskProcessor && len(d.Processors) == 1 && len(d.Recent) == 3
	})
	assert.True(t, strings.HasPrefix(overviewOf(t, "http://"+w.env["STATUS_ADDR"]).Endpoints[0].Address, w.api.URL()[:8]))
	p.stop(syscall.SIGTERM).ok()
}
