package processor

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/task"
)

// slowLater is a Worker whose tasks take no time at first, and do not end after that until they are cancelled.
type slowLater struct {
	fast    int64
	worked  atomic.Int64
	proceed chan struct{} // ends the others, too; nil: nothing does
}

func (w *slowLater) Work(ctx context.Context, _ task.Task, _ Call) (Result, error) {
	if w.worked.Add(1) > w.fast {
		select {
		case <-w.proceed:
			return Result{URL: "x"}, nil
		case <-ctx.Done():
			return Result{}, ctx.Err()
		}
	}
	time.Sleep(time.Millisecond)
	return Result{URL: "x"}, nil
}

// runUntilStop runs a processor. The function that is returned stops it at once, and waits.
func runUntilStop(t *testing.T, p *Processor) (stop func()) {
	p.circuits.endpoints[0].noteResponse() // else few tasks are claimed until a check
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		assert.NoError(t, p.claims.run(ctx, false, func(claimed []task.Task, ahead bool) { p.attempts.start(ctx, t.Context(), claimed, ahead) },
			func(unstarted []*attempt) { p.attempts.giveBack(ctx, t.Context(), unstarted) }))
	}()
	stop = sync.OnceFunc(func() {
		p.stopping.Store(true)
		cancel()
		<-done
		p.attempts.giveBack(ctx, t.Context(), p.inFlight.takeBack())
		p.inFlight.cancelAll(errStopping)
		p.inFlight.running.Wait()
		for _, g := range p.groups {
			g.Abort()
			g.Wait()
		}
	})
	t.Cleanup(stop)
	return stop
}

// Tasks are claimed ahead while they are fast. When they have become slow, what waits is given back, so that another processor can work it, and
// nothing is claimed ahead any more.
func TestAhead_GivenBackWhenTasksBecomeSlow(t *testing.T) {
	const concurrency, fast = 10, 2000
	q := newMemoryQueue(fast + 100)
	w := &slowLater{fast: fast}
	p := New(Config{Worker: "w", Concurrency: concurrency}, q, w)
	var most atomic.Int64
	p.events.observe = func(e Event) {
		if e.Kind == EventClaimed {
			most.Store(max(most.Load(), int64(p.inFlight.count())))
		}
	}
	stop := runUntilStop(t, p)
	require.Eventually(t, func() bool { return w.worked.Load() == fast+concurrency }, 30*time.Second, time.Millisecond)
	require.Eventually(t, func() bool { return p.inFlight.count() == concurrency }, 30*time.Second, time.Millisecond)
	assert.Greater(t, most.Load(), int64(concurrency), "some were claimed ahead")
	assert.LessOrEqual(t, most.Load(), int64(2*concurrency))
	q.mu.Lock()
	assert.Len(t, q.pending, 100-concurrency)
	q.mu.Unlock()
	stop()
	assert.Zero(t, p.inFlight.count())
	assert.EqualValues(t, fast+concurrency, w.worked.Load())
}

// What waits at a stop is released, and was not worked.
func TestAhead_ReleasedAtStop(t *testing.T) {
	q := newMemoryQueue(8)
	w := &slowLater{}
	p := New(Config{Worker: "w", Concurrency: 2}, q, w)
	p.inFlight.endings.add(time.Now(), 1000)
	stop := runUntilStop(t, p)
	require.Eventually(t, func() bool { _, waiting := p.inFlight.counts(); return waiting == 2 }, 30*time.Second, time.Millisecond)
	stop()
	assert.EqualValues(t, 2, w.worked.Load())
	assert.Zero(t, p.inFlight.count())
	q.mu.Lock()
	defer q.mu.Unlock()
	assert.Len(t, q.pending, 8, "all are pending again")
	assert.Equal(t, 2, q.unstarted)
}

// A task whose lease is lost while it waits is not worked.
func TestAhead_LeaseLostWhileWaiting(t *testing.T) {
	q := newMemoryQueue(8)
	w := &slowLater{proceed: make(chan struct{})}
	p := New(Config{Worker: "w", Concurrency: 2}, q, w)
	p.inFlight.endings.add(time.Now(), 1000)
	stop := runUntilStop(t, p)
	require.Eventually(t, func() bool { _, waiting := p.inFlight.counts(); return waiting == 2 }, 30*time.Second, time.Millisecond)
	p.inFlight.first().cancel(errLeaseLost)
	close(w.proceed)
	require.Eventually(t, func() bool { return q.done.Load() == 7 && p.inFlight.count() == 0 }, 30*time.Second, time.Millisecond)
	assert.Equal(t, 1, p.events.snapshot()[EventLeaseLost])
	assert.EqualValues(t, 7, w.worked.Load())
	stop()
}
