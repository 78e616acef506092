package processor

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"imagetasks/pkg/task"
)

func lease(n int) task.Lease { return task.Lease{TaskID: fmt.Sprint(n), Epoch: 1} }

func flying(n int) func() int { return func() int { return n } }

func TestFailureWindow_HalfOfThoseInFlight(t *testing.T) {
	for _, c := range []struct {
		failed, inFlight int
		shared           bool
	}{{1, 1, false}, {2, 2, true}, {2, 4, true}, {3, 6, true}} {
		var w failureWindow
		for n := range c.failed {
			w.record(lease(n), time.Now())
		}
		assert.Equal(t, c.shared, w.isShared(t.Context(), lease(0), flying(c.inFlight)), "%+v", c)
	}
}

func TestFailureWindow_TooFewFailures(t *testing.T) {
	var w failureWindow
	w.record(lease(0), time.Now())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	assert.False(t, w.isShared(ctx, lease(0), flying(2)), "alone")
	w.record(lease(1), time.Now())
	assert.False(t, w.isShared(ctx, lease(0), flying(5)), "2 of 5")
}

func TestFailureWindow_WaitsForOthers(t *testing.T) {
	var w failureWindow
	w.record(lease(0), time.Now())
	_, changed := w.countNear(lease(0))
	shared := make(chan bool)
	go func() { shared <- w.isShared(t.Context(), lease(0), flying(2)) }()
	w.record(lease(1), time.Now())
	<-changed
	assert.True(t, <-shared)
}

func TestFailureWindow_OtherTimes(t *testing.T) {
	var w failureWindow
	w.record(lease(0), start)
	w.record(lease(1), start.Add(failureSpan-time.Millisecond))
	w.record(lease(2), start.Add(failureSpan))
	n, _ := w.countNear(lease(0))
	assert.Equal(t, 2, n)
	w.record(lease(3), start.Add(time.Hour))
	assert.Len(t, w.at, 1, "old failures are removed")
}
