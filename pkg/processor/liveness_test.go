package processor_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/health"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// An idle processor checks the database and the API, records heartbeats with its details, and removes its row at the end.
func TestHeartbeats_AndHealthChecks(t *testing.T) {
	f := newFixture(t)
	p := f.processor(f.config(func(c *processor.Config) {
		c.Worker, c.Host, c.PID, c.Version = "host:7:x", "host", 7, "1.2.3"
		c.Details = func(s processor.Status) any { return map[string]any{"status": s, "more": "details"} }
		c.HeartbeatInterval, c.CheckInterval, c.ProbeInterval = 20*time.Millisecond, 20*time.Millisecond, time.Nanosecond
	}), f.client())
	stop := f.start(p)
	f.seen(processor.EventHealthChecked, 30)
	f.seen(processor.EventHeartbeat, 3)
	s := p.Status()
	assert.Len(t, s.Checks, health.Kept)
	for _, c := range s.Checks {
		assert.True(t, c.OK, "%+v", c)
	}
	assert.False(t, s.LastHeartbeat.IsZero())
	known, err := f.Processors(t.Context())
	require.NoError(t, err)
	require.Len(t, known, 1)
	assert.Equal(t, "host:7:x", known[0].Worker)
	assert.Equal(t, "1.2.3", known[0].Version)
	assert.Contains(t, string(known[0].Report), `"health_checks"`)
	assert.Contains(t, string(known[0].Report), `"details"`)

	// An outage of the proxy is noticed without a task.
	require.NoError(t, f.proxy.Close())
	f.seen(processor.EventCircuitOpened, 1)
	require.Eventually(t, func() bool {
		last := p.Status().Checks
		return !last[0].OK && last[0].Name == "api" && last[0].Action != ""
	}, time.Minute, time.Millisecond)
	stop()
	known, err = f.Processors(t.Context())
	require.NoError(t, err)
	assert.Empty(t, known)
}

// A processor whose claim loop is stalled records no heartbeats.
func TestHeartbeats_StalledLoop(t *testing.T) {
	f := newFixture(t)
	release := make(chan struct{})
	stuck := hangingQueue{Store: f.Store, hangs: make(chan struct{}), release: release}
	conf := f.config(func(c *processor.Config) {
		c.HeartbeatInterval, c.PollInterval, c.StallTimeout = 5*time.Millisecond, 5*time.Millisecond, 10*time.Millisecond
	})
	p := f.processorOn(stuck, conf, f.client())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); assert.NoError(t, p.Run(ctx)) }()
	<-stuck.hangs
	require.Eventually(t, func() bool { return strings.Contains(f.log.String(), "the claim loop is stalled") }, time.Minute, time.Millisecond)
	cancel()
	close(release)
	<-done
}

// hangingQueue is a store whose claim hangs and ignores its context.
type hangingQueue struct {
	*store.Store
	hangs   chan struct{}
	release chan struct{}
}

func (q hangingQueue) Claim(context.Context, store.ClaimRequest) ([]task.Task, error) {
	select {
	case q.hangs <- struct{}{}:
	case <-q.release:
	}
	<-q.release
	return nil, nil
}
