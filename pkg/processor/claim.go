package processor

import (
	"context"
	"errors"
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
	pollInterval time.Duration
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
				return errors.Join(ErrAPIUnavailable, cause)
			}
			if done, err := c.finished(ctx); done {
				return err
			}
		}
		timer.Reset(wait)
	}
}

// claim claims as many tasks as may be started, and returns how long to wait before the next claim.
func (c *claimLoop) claim(ctx context.Context, start func(task.Task)) time.Duration {
	c.sweeper.sweep(ctx)
	if wait := c.api.tryReopen(ctx); wait > 0 {
		return wait
	}
	free := c.api.breaker.limit(c.concurrency) - c.inFlight.count()
	if free <= 0 {
		return c.pollInterval
	}
	limit, wait := c.rate.allow(time.Now(), free)
	if limit == 0 {
		return wait
	}
	if c.callID == uuid.Nil {
		c.callID = uuid.New()
	}
	// Where the answer is lost, the same claim is repeated while its leases hold.
	timeout := min(callTimeout, max(c.lease/2, minClaimTimeout))
	tasks, err := boundedBy(ctx, timeout, func(ctx context.Context) ([]task.Task, error) {
		return c.queue.Claim(ctx, store.ClaimRequest{Worker: c.worker, Limit: limit, Lease: c.lease,
			MaxAttempts: c.maxAttempts, CallID: c.callID})
	})
	if err != nil {
		return c.database.failed(ctx, "claim tasks", err)
	}
	c.callID = uuid.Nil
	c.database.succeeded()
	c.rate.use(time.Now(), len(tasks))
	for _, t := range tasks {
		start(t)
	}
	if len(tasks) == limit {
		return wait
	}
	return c.untilNextDue(ctx)
}

func (c *claimLoop) untilNextDue(ctx context.Context) time.Duration {
	var found bool
	next, err := bounded(ctx, func(ctx context.Context) (next time.Duration, err error) {
		next, found, err = c.queue.NextDue(ctx)
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
	if !pending || c.inFlight.count() > 0 {
		return !pending && c.inFlight.count() == 0, nil
	}
	control, err := bounded(ctx, c.queue.Control)
	if err != nil {
		c.database.failed(ctx, "look whether claiming is paused", err)
		return false, nil
	}
	if control.Paused() {
		return true, ErrPaused
	}
	var found bool
	next, err := bounded(ctx, func(ctx context.Context) (next time.Duration, err error) {
		next, found, err = c.queue.NextDue(ctx)
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
