package processor

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"

	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// minClaimWait keeps the loop from spinning when a task that is due can't be claimed.
const minClaimWait = 100 * time.Millisecond

// minClaimTimeout is the least time that a claim gets.
const minClaimTimeout = time.Second

// claimLoop claims as many tasks as may be in flight.
type claimLoop struct {
	queue        Queue
	worker       string
	concurrency  int
	lease        time.Duration
	maxAttempts  int
	maxLost      int // MaxLostClaims
	pollInterval time.Duration
	leases       *leaseRenewer
	wakeups      chan struct{} // holds one
	inFlight     *inFlight
	api          *apiState
	rate         *rateLimiter
	sweeper      *sweeper
	watch        *loopWatch
	database     *databaseState
	callID       uuid.UUID // of the next claim; a claim whose answer was lost is repeated under the same id
}

// wake makes the loop claim without waiting for the next poll.
func (c *claimLoop) wake() {
	select {
	case c.wakeups <- struct{}{}:
	default:
	}
}

// run claims until ctx ends, or with once until nothing is pending or the API is unreachable. It calls start for each task.
func (c *claimLoop) run(ctx context.Context, once bool, start func(task.Task)) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.wakeups:
		case <-timer.C:
		}
		c.watch.progress()
		wait := c.claim(ctx, start)
		c.watch.progress()
		if once {
			if cause := c.api.breaker.reason(); cause != nil && c.inFlight.count() == 0 {
				return fmt.Errorf("%w: %w", &pausedError{whatFails(cause.Code), ErrAPIUnavailable}, cause)
			}
			if done, err := c.finished(ctx); done {
				return err
			}
		}
		timer.Reset(wait)
	}
}

// pausedError is one of the errors of RunOnce with a text that names what is wrong.
type pausedError struct {
	text string
	kind error
}

// Error implements error.
func (e *pausedError) Error() string { return e.text }

// Unwrap returns the error that callers compare with.
func (e *pausedError) Unwrap() error { return e.kind }

// claim claims as many tasks as may be started, and returns how long to wait before the next claim.
func (c *claimLoop) claim(ctx context.Context, start func(task.Task)) time.Duration {
	c.sweeper.sweep(ctx)
	if wait := c.api.tryReopen(ctx); wait > 0 {
		return wait
	}
	inFlight := c.inFlight.count()
	free := c.api.breaker.limit(c.concurrency) - inFlight
	if free <= 0 || c.leases.failing() || inFlight > 0 && (c.sweeper.suspect || c.inFlight.alone()) {
		return c.pollInterval
	}
	limit, wait := c.rate.allow(time.Now(), free)
	if limit == 0 {
		return wait
	}
	if c.callID == uuid.Nil {
		c.callID = uuid.New()
	}
	// A claim that a stop cut off would leave tasks waiting for their leases to expire.
	claiming, cancel := lingering(ctx)
	defer cancel()
	// Where the answer is lost, the same claim is repeated while its leases hold.
	timeout := min(callTimeout, max(c.lease/2, minClaimTimeout))
	tasks, err := boundedBy(claiming, timeout, func(ctx context.Context) ([]task.Task, error) {
		return c.queue.Claim(ctx, store.ClaimRequest{Worker: c.worker, Limit: limit, Lease: c.lease,
			MaxAttempts: c.maxAttempts, MaxLostClaims: c.maxLost, Expired: c.expiredLimit(), AfterStart: c.lease,
			Alone: inFlight == 0, CallID: c.callID})
	})
	if err != nil {
		return c.database.failed(ctx, "claim tasks", err)
	}
	c.callID = uuid.Nil
	c.database.succeeded()
	if inFlight == 0 {
		c.sweeper.suspect = false // claimed now, or by another processor; the next sweep looks again
	}
	c.rate.use(time.Now(), len(tasks))
	for _, t := range tasks {
		start(t)
	}
	if len(tasks) == limit {
		return wait
	}
	return c.untilNextDue(ctx)
}

// lingerTime is how much longer a claim may take when the processor stops.
const lingerTime = time.Second

// lingering returns a context that ends a little later than ctx.
func lingering(ctx context.Context) (context.Context, context.CancelFunc) {
	lingering, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var timer *time.Timer
	var mu sync.Mutex
	stop := context.AfterFunc(ctx, func() {
		mu.Lock()
		defer mu.Unlock()
		timer = time.AfterFunc(lingerTime, cancel)
	})
	return lingering, func() {
		stop()
		cancel()
		mu.Lock()
		defer mu.Unlock()
		if timer != nil {
			timer.Stop()
		}
	}
}

// expiredPerProcessor divides the concurrency into the number of tasks that may be claimed in the time of a lease after one of their claims was lost.
const expiredPerProcessor = 8

// expiredLimit returns how many tasks with an expired lease may be claimed now. One of them may be why a processor ended: most of those that were in
// flight with it must not be so again soon, because they would have two requests of unknown outcome. All of them must be claimed
// well within STUCK_AFTER nevertheless, however long each takes: within about expiredPerProcessor leases.
func (c *claimLoop) expiredLimit() int {
	if !c.database.settled(c.lease) {
		return 0
	}
	return max(1+c.concurrency/expiredPerProcessor-c.inFlight.lost(c.lease), 0)
}

func (c *claimLoop) untilNextDue(ctx context.Context) time.Duration {
	var found bool
	next, err := bounded(ctx, func(ctx context.Context) (next time.Duration, err error) {
		next, found, err = c.queue.NextDue(ctx, c.expiredLimit() > 0)
		return next, err
	})
	if err != nil {
		return c.database.failed(ctx, "look for the next task", err)
	}
	if !found {
		return c.pollInterval
	}
	return min(max(next, minClaimWait), c.pollInterval)
}

// scheduledLater is the time to the next task from which on a run with once does not wait for it. Retries wait for less.
const scheduledLater = time.Hour

// finished reports whether a run with once is done, and why it ends although tasks are left.
func (c *claimLoop) finished(ctx context.Context) (bool, error) {
	if c.inFlight.count() > 0 || c.api.breaker.reason() != nil {
		return false, nil
	}
	pending, err := bounded(ctx, c.queue.HasPending)
	if err != nil {
		c.database.failed(ctx, "look for tasks", err)
		return false, nil
	}
	if c.inFlight.count() > 0 {
		return false, nil
	}
	if !pending {
		aside, err := bounded(ctx, func(ctx context.Context) ([]store.AsideTask, error) { return c.queue.TasksAside(ctx, 1) })
		switch {
		case err != nil:
			c.database.failed(ctx, "look for tasks that are set aside", err)
			return false, nil
		case len(aside) > 0:
			return true, ErrSetAside
		}
		return true, nil
	}
	control, err := bounded(ctx, c.queue.Control)
	if err != nil {
		c.database.failed(ctx, "look whether claiming is paused", err)
		return false, nil
	}
	switch {
	case control.Copied:
		return true, &pausedError{"the database is a copy or a restored backup of another one, so no tasks are claimed; " +
			"to see what to do run: task-processor status", ErrPaused}
	case control.Paused():
		return true, ErrPaused
	}
	var found bool
	next, err := bounded(ctx, func(ctx context.Context) (next time.Duration, err error) {
		next, found, err = c.queue.NextDue(ctx, c.expiredLimit() > 0)
		return next, err
	})
	if err != nil {
		c.database.failed(ctx, "look for the next task", err)
		return false, nil
	}
	if found && next > scheduledLater {
		return true, ErrScheduled
	}
	return false, nil
}
