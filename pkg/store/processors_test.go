package store_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/store"
)

func TestProcessors_HeartbeatDeregisterPrune(t *testing.T) {
	b := fresh(t)
	one := store.Processor{Worker: "h:1:a", Host: "h", PID: 1, Version: "1", Report: []byte(`{"in_flight": 2}`)}
	require.NoError(t, b.RecordHeartbeat(b.ctx, one))
	started := func() time.Time {
		known, err := b.Processors(b.ctx)
		require.NoError(t, err)
		require.Len(t, known, 1)
		assert.JSONEq(t, string(one.Report), string(known[0].Report))
		assert.Less(t, known[0].HeartbeatAge, time.Hour)
		return known[0].StartedAt
	}
	since := started()
	one.Report = []byte(`{"in_flight": 0}`)
	require.NoError(t, b.RecordHeartbeat(b.ctx, one))
	assert.Equal(t, since, started(), "a heartbeat does not change the start")

	require.NoError(t, b.RecordHeartbeat(b.ctx, store.Processor{Worker: "h:2:b", Host: "h", PID: 2}))
	b.exec(`update imagetasks.processors set beat_at = now() - interval '25 hours' where worker = 'h:2:b'`)
	started() // the old one is not listed
	pruned, err := b.Prune(b.ctx, store.PruneConfig{RedriveWindow: time.Hour, Batch: 100})
	require.NoError(t, err)
	assert.Equal(t, store.Pruned{Processors: 1}, pruned)
	assert.Equal(t, 1, b.number(`select count(*) from imagetasks.processors`))
	require.NoError(t, b.Deregister(b.ctx, "h:1:a"))
	require.NoError(t, b.Deregister(b.ctx, "h:1:a"))
	assert.Equal(t, 0, b.number(`select count(*) from imagetasks.processors`))
}
