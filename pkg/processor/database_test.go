package processor

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/assert"

	"imagetasks/pkg/store"
)

func newDatabaseState() (*databaseState, *bytes.Buffer) {
	var log bytes.Buffer
	logger := logrus.New()
	logger.SetOutput(&log)
	return &databaseState{log: logger, events: &eventRecorder{}, pollInterval: 7 * time.Second}, &log
}

func TestDatabaseState_OutageLoggedOnce(t *testing.T) {
	d, log := newDatabaseState()
	d.succeeded()
	assert.Empty(t, log.String())
	for range 3 {
		assert.Equal(t, minDatabaseWait, d.failed(t.Context(), "claim tasks", io.EOF))
	}
	assert.False(t, d.unavailableSince().IsZero())
	d.succeeded()
	d.succeeded()
	assert.True(t, d.unavailableSince().IsZero())
	assert.Equal(t, Counts{EventDatabaseLost: 1, EventDatabaseRestored: 1}, d.events.snapshot())
	assert.Equal(t, 1, strings.Count(log.String(), "the database is unavailable; waiting for it"))
	assert.Equal(t, 1, strings.Count(log.String(), "the database is available again"))
}

func TestDatabaseState_WaitGrows(t *testing.T) {
	d, _ := newDatabaseState()
	d.lostAt = time.Now().Add(-20 * time.Second)
	assert.InDelta(t, 5*time.Second, d.failed(t.Context(), "claim tasks", io.EOF), float64(time.Second))
	d.lostAt = time.Now().Add(-time.Hour)
	assert.Equal(t, maxDatabaseWait, d.failed(t.Context(), "claim tasks", io.EOF))
}

func TestDatabaseState_Refusals(t *testing.T) {
	d, log := newDatabaseState()
	d.lease = 3 * time.Second
	for range 5 {
		assert.Equal(t, minDatabaseWait, d.failed(t.Context(), "claim tasks", errors.New("permission denied")))
	}
	d.failed(t.Context(), "renew leases", errors.New("permission denied"))
	assert.Equal(t, 1, strings.Count(log.String(), "the database refused to claim tasks"), "a repeated refusal is logged once")
	assert.Contains(t, log.String(), "the database refused to renew leases")
	assert.NotContains(t, log.String(), "unavailable")
	assert.True(t, d.unavailableSince().IsZero())

	d.refused["claim tasks"] = refusal{since: time.Now().Add(-time.Hour), last: time.Now()}
	assert.Equal(t, 500*time.Millisecond, d.failed(t.Context(), "claim tasks", errors.New("permission denied")), "at most a sixth of a lease")
	d.refusals.lines["claim tasks"].at = time.Now().Add(-2 * time.Minute)
	d.failed(t.Context(), "claim tasks", errors.New("permission denied"))
	assert.Contains(t, log.String(), "repeated=5")

	log.Reset()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	assert.Equal(t, d.pollInterval, d.failed(ctx, "claim tasks", io.EOF))
	assert.Empty(t, log.String(), "a cancelled call is not an outage")
	assert.True(t, d.unavailableSince().IsZero())
}

// A connection that keeps falling silent while others work is one line a minute, and not one at each change.
func TestDatabaseState_SilenceLoggedOnce(t *testing.T) {
	d, log := newDatabaseState()
	silent := &store.LostAnswerError{Err: os.ErrDeadlineExceeded, Silence: 10 * time.Second}
	for range 3 {
		d.failed(t.Context(), "renew leases", silent)
		d.succeeded()
	}
	assert.Equal(t, 1, strings.Count(log.String(), "the database did not respond for 10s (renew leases)"), log)
	assert.Equal(t, 1, strings.Count(log.String(), "the database is available again"), log)
	for range 3 {
		d.listenerLost(io.EOF)
	}
	assert.Equal(t, 1, strings.Count(log.String(), "the connection for notifications broke"), log)
}
