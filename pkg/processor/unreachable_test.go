package processor_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/postgres"
	"imagetasks/pkg/processor"
)

func TestDatabase_Outage(t *testing.T) {
	t.Parallel()
	cluster, err := postgres.Start(t.Context(), postgres.Config{})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, cluster.Stop()) })
	require.NoError(t, migrate(t.Context(), cluster.URL("postgres")))
	f := newFixtureOn(t, cluster.URL("postgres"))
	release := f.api.BlockResponses()
	ids := f.enqueue("a", "b", "c", "d", "e", "f", "g")
	f.run(f.config(func(c *processor.Config) { c.Lease = time.Minute }), f.client())
	require.Eventually(t, func() bool { return f.api.Busy() == 3 }, time.Minute, time.Millisecond)

	require.NoError(t, cluster.Halt()) // a crash, with pictures in flight
	release()
	f.seen(processor.EventDatabaseLost, 1)
	require.Eventually(t, func() bool { return len(f.files()) == 3 }, time.Minute, time.Millisecond, "the pictures are kept")
	require.NoError(t, cluster.Launch(t.Context()))
	f.seen(processor.EventCompleted, 7)
	assert.Equal(t, 1, strings.Count(f.log.String(), "the database is unavailable; waiting for it"), "logged once:\n%s", f.log)
	for _, id := range ids {
		assert.Zero(t, f.row(id).Attempts, "no attempt was used")
	}
	f.requireAudit()
}
