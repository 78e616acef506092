package processor_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/pgfault"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/task"
)

// newFaultFixture is a fixture whose processors reach the database through a proxy.
func newFaultFixture(t *testing.T) (*fixture, *pgfault.Proxy) {
	t.Helper()
	proxy, url, err := pgfault.StartFor(server.Database(t))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, proxy.Close()) })
	return newFixtureOn(t, url), proxy
}

// Statements of the processor, by a part of their text.
const (
	renewStatement     = "set lease_expires_at = now() + $5"
	heartbeatStatement = "processors as p ("
	claimStatement     = ".claim($1"
	completeStatement  = ".complete($1"
	listenStatement    = "listen "
)

// A task of three leases' length is worked once, although connections fall silent under each statement of the processor.
func TestSilence_TaskWorkedOnce(t *testing.T) {
	t.Parallel()
	f, proxy := newFaultFixture(t)
	injections := map[string]*pgfault.Injection{}
	for _, rule := range []pgfault.Rule{
		{Contains: claimStatement, Skip: 2}, {Contains: renewStatement, Skip: 1}, {Contains: heartbeatStatement, Skip: 1},
		{Contains: completeStatement}, {Contains: listenStatement},
	} {
		rule.Fault, rule.Times = pgfault.LostSilence, 1
		injections[rule.Contains] = proxy.Add(rule)
	}
	release := f.api.BlockResponses()
	conf := f.config(func(c *processor.Config) { c.HeartbeatInterval = 300 * time.Millisecond })
	stop := f.run(conf, f.client())
	id := f.enqueue("slow")[0]
	f.seen(processor.EventClaimed, 1)
	proxy.Add(pgfault.Rule{Fault: pgfault.LostSilence, Contains: renewStatement, Skip: 2, Times: 1})
	f.seen(processor.EventLeasesRenewed, 9)
	release()
	f.seen(processor.EventCompleted, 1)
	stop()
	row := f.row(id)
	assert.Equal(t, task.Completed, row.State)
	assert.EqualValues(t, 1, row.Epoch)
	assert.Len(t, f.api.Calls(), 1)
	assert.Len(t, f.files(), 1)
	for name, injection := range injections {
		assert.Equal(t, 1, injection.Hits(), name)
	}
	// While one is known, others are not news.
	assert.Contains(t, f.log.String(), "the database did not respond for ")
	for _, line := range []string{"(renew leases)", "(record a heartbeat)", "(claim tasks)", "(complete a task)"} {
		assert.LessOrEqual(t, strings.Count(f.log.String(), line), 1, "%s\n%s", line, f.log)
	}
	f.requireAudit()
}

// An error with which the database answers is not called an outage, and is logged once while it lasts.
func TestRefusal_LoggedOnce(t *testing.T) {
	f, proxy := newFaultFixture(t)
	refused := proxy.Add(pgfault.Rule{Fault: pgfault.Error, SQLState: "40001", Contains: claimStatement, Times: 5})
	f.enqueue("x")
	f.run(f.config(), f.client())
	f.seen(processor.EventCompleted, 1)
	assert.Equal(t, 5, refused.Hits())
	assert.Equal(t, 1, strings.Count(f.log.String(), "the database refused to claim tasks"), f.log)
	assert.NotContains(t, f.log.String(), "unavailable")
	assert.Zero(t, f.count(processor.EventDatabaseLost))
}
