package processor

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// attemptsOn returns attempts on n tasks.
func attemptsOn(n int) []*attempt {
	attempts := make([]*attempt, n)
	for i, t := range newMemoryQueue(n).pending {
		attempts[i] = newAttempt(t, time.Now(), nil)
	}
	return attempts
}

// While tasks that were claimed ahead are given back, as many as may be are still being worked: the end of a release starts no other.
func TestInFlight_ReleaseStartsNothing(t *testing.T) {
	const limit = 2
	f := newInFlight()
	worked, ahead, later := attemptsOn(limit), attemptsOn(3), attemptsOn(1)
	require.Equal(t, limit, f.add(worked, limit))
	require.Zero(t, f.add(ahead, limit))
	require.Equal(t, ahead, f.takeBack())
	require.Zero(t, f.add(later, limit))
	for _, a := range ahead {
		next, _ := f.next(a, true, limit, 0)
		assert.Nil(t, next, "all workers are busy")
	}
	next, _ := f.next(worked[0], true, limit, 0)
	assert.Equal(t, later[0], next)
}

// heldRequests is a queue in which requests are recorded when proceed is closed.
type heldRequests struct {
	*memoryQueue
	proceed chan struct{}

	mu    sync.Mutex
	calls [][]store.RequestStart
}

func (q *heldRequests) BeginRequests(ctx context.Context, starts ...store.RequestStart) ([]store.RequestStarted, error) {
	q.mu.Lock()
	q.calls = append(q.calls, starts)
	q.mu.Unlock()
	<-q.proceed
	return q.memoryQueue.BeginRequests(ctx, starts...)
}

// requestsAtOnce is a Worker that makes several requests for each task at the same time.
type requestsAtOnce struct{ requests int }

func (w requestsAtOnce) Work(ctx context.Context, _ task.Task, c Call) (Result, error) {
	errs := make(chan error)
	for range w.requests {
		go func() {
			_, err := c.BeforeRequest(ctx)
			errs <- err
		}()
	}
	var last error
	for range w.requests {
		if err := <-errs; err != nil {
			last = err
		}
	}
	return Result{URL: "x"}, last
}

// A statement that has a task twice would record one request of two.
func TestBeforeRequest_OneOfATaskInAGroup(t *testing.T) {
	q := &heldRequests{memoryQueue: newMemoryQueue(20), proceed: make(chan struct{})}
	p := New(Config{Worker: "w", Concurrency: 20}, q, requestsAtOnce{requests: 3})
	stop := runUntilStop(t, p)
	require.Eventually(t, func() bool { return p.inFlight.count() == 20 }, 30*time.Second, time.Millisecond)
	close(q.proceed)
	require.Eventually(t, func() bool { return q.done.Load() == 20 }, 30*time.Second, time.Millisecond)
	stop()
	total := 0
	for _, starts := range q.calls {
		seen := map[task.Lease]bool{}
		for _, s := range starts {
			assert.False(t, seen[s.Lease], "a task is in one statement twice")
			seen[s.Lease] = true
			total++
		}
	}
	assert.Equal(t, 60, total)
}
