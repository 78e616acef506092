package processor

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/assert"
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

func TestDatabaseState_OtherErrors(t *testing.T) {
	d, log := newDatabaseState()
	assert.Equal(t, d.pollInterval, d.failed(t.Context(), "claim tasks", errors.New("permission denied")))
	assert.Contains(t, log.String(), "the database refused to claim tasks")
	assert.True(t, d.unavailableSince().IsZero())
	log.Reset()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	assert.Equal(t, d.pollInterval, d.failed(ctx, "claim tasks", io.EOF))
	assert.Empty(t, log.String(), "a cancelled call is not an outage")
	assert.True(t, d.unavailableSince().IsZero())
}
