package processor

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"imagetasks/pkg/task"
)

var (
	start   = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	refused = &task.Error{Code: task.CodeUnauthorized, Disposition: task.Pause}
	unsent  = &task.Error{Code: task.CodeProxyRefused, Disposition: task.Pause, NotSent: true}
	noQuota = &task.Error{Code: task.CodeNoQuota, Disposition: task.Pause, RetryAfter: time.Minute}
)

func TestBreaker_ProbeWaits(t *testing.T) {
	var b apiBreaker
	wait, probe := b.wait(start)
	assert.Zero(t, wait)
	assert.False(t, probe, "closed")
	assert.True(t, b.open(start, refused))
	assert.False(t, b.open(start, noQuota), "already open")
	assert.Same(t, refused, b.reason())
	wait, probe = b.wait(start)
	assert.Equal(t, firstProbeWait, wait)
	assert.False(t, probe)
	now := start.Add(wait)
	for _, want := range []time.Duration{2 * time.Second, 4 * time.Second, maxProbeWait, maxProbeWait} {
		wait, probe = b.wait(now)
		assert.Zero(t, wait)
		assert.True(t, probe)
		assert.Equal(t, want, b.probeFailed(now, refused))
		now = now.Add(want)
	}
	assert.Equal(t, time.Minute, b.probeFailed(now, noQuota), "Retry-After wins")
}

func TestBreaker_RetryAfterDelaysFirstProbe(t *testing.T) {
	var b apiBreaker
	b.open(start, noQuota)
	wait, _ := b.wait(start)
	assert.Equal(t, time.Minute, wait)
}

func TestBreaker_HalfOpenUntilResponse(t *testing.T) {
	var b apiBreaker
	b.open(start, refused)
	now := start.Add(time.Second)
	wait, openFor := b.probeSucceeded(now)
	assert.Zero(t, wait)
	assert.Equal(t, time.Second, openFor)
	assert.Nil(t, b.reason())
	assert.Equal(t, 1, b.limit(8), "half-open")
	assert.False(t, b.responded(start), "an attempt from before it opened proves nothing")
	assert.Equal(t, 1, b.limit(8))
	assert.True(t, b.responded(now))
	assert.Equal(t, 8, b.limit(8))
	assert.False(t, b.responded(now), "closed already")
}

func TestBreaker_ClosesAtOnceWhenNothingWasSent(t *testing.T) {
	var b apiBreaker
	b.open(start, unsent)
	b.probeSucceeded(start.Add(time.Second))
	assert.Equal(t, 8, b.limit(8))
}

func TestBreaker_FlappingWaitsLonger(t *testing.T) {
	var b apiBreaker
	now := start
	for i, want := range []time.Duration{0, 5 * time.Second, 10 * time.Second, 20 * time.Second, 40 * time.Second, 80 * time.Second,
		160 * time.Second, 5 * time.Minute, 5 * time.Minute} {
		assert.True(t, b.open(now, unsent))
		wait, _ := b.probeSucceeded(now)
		assert.Equal(t, want, wait, i)
		if wait > 0 {
			assert.NotNil(t, b.reason(), "still open")
			now = now.Add(wait)
			wait, _ = b.probeSucceeded(now)
			assert.Zero(t, wait)
		}
		assert.Equal(t, map[bool]int{false: 8, true: 1}[i > 1], b.limit(8), i)
	}
	b.responded(now)
	b.open(now, unsent)
	wait, _ := b.probeSucceeded(now)
	assert.Zero(t, wait, "a response ends the flapping")
}

func TestBreaker_PauseGrowsOncePerLimit(t *testing.T) {
	var b apiBreaker
	first := b.pause(start, 0)
	assert.LessOrEqual(t, first, task.BackoffBase)
	assert.LessOrEqual(t, b.pause(start, 0), task.BackoffBase, "the same limit")
	until, cause, _ := b.snapshot(start)
	assert.Nil(t, cause)
	wait, probe := b.wait(start)
	assert.Equal(t, until.Sub(start), wait)
	assert.False(t, probe)
	now := start.Add(time.Minute)
	until, _, _ = b.snapshot(now)
	assert.Zero(t, until)
	assert.Greater(t, b.pause(now, 0), task.BackoffBase, "the second limit in a row")
	now = now.Add(time.Minute)
	b.responded(now)
	assert.LessOrEqual(t, b.pause(now, 0), task.BackoffBase)
	assert.GreaterOrEqual(t, b.pause(now, time.Hour), time.Hour)
}

func TestBreaker_Snapshot(t *testing.T) {
	var b apiBreaker
	b.open(start, refused)
	_, cause, since := b.snapshot(start)
	assert.Same(t, refused, cause)
	assert.Equal(t, start, since)
	b.probeSucceeded(start)
	_, cause, since = b.snapshot(start)
	assert.Nil(t, cause)
	assert.Zero(t, since)
}
