package processor

import (
	"context"
	"time"

	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// aheadPatience is how long a task that was claimed ahead waits for a worker: then it is given back, because another processor may have one.
const aheadPatience = 20 * aheadTime

// untilGivenBack returns how long the claim loop may wait before what was claimed ahead is to be given back.
func (c *claimLoop) untilGivenBack(now time.Time) time.Duration {
	first := c.inFlight.first()
	if first == nil {
		return c.database.poll()
	}
	return max(first.claimedAt.Add(aheadPatience).Sub(now), time.Millisecond)
}

// giveBack releases the tasks that were claimed ahead if they have waited for too long, or may not be started now. It returns how long to wait where
// that was not possible; 0: it was.
func (c *claimLoop) giveBack(ctx context.Context) time.Duration {
	first := c.inFlight.first()
	if first == nil || time.Since(first.claimedAt) < aheadPatience && c.mayStart(first) {
		return 0
	}
	taken := c.inFlight.takeBack()
	if len(taken) == 0 {
		return 0
	}
	if err := c.releaseUnstarted(ctx, taken); err != nil {
		c.inFlight.putBack(taken)
		return c.database.failed(ctx, "give back tasks that were not started", err)
	}
	return 0
}

// giveBackAll releases at a stop what was claimed ahead, until ctx ends.
func (c *claimLoop) giveBackAll(ctx context.Context) {
	for {
		taken := c.inFlight.takeBack()
		if len(taken) == 0 {
			return
		}
		err := c.releaseUnstarted(ctx, taken)
		if err == nil {
			continue
		}
		c.inFlight.putBack(taken)
		select {
		case <-ctx.Done():
			return
		case <-time.After(c.database.failed(ctx, "give back tasks that were not started", err)):
		}
	}
}

// releaseUnstarted releases tasks that were not started: no attempt is used. A lease that is not held any more is dropped.
func (c *claimLoop) releaseUnstarted(ctx context.Context, attempts []*attempt) error {
	requests := make([]store.ReleaseRequest, len(attempts))
	for i, a := range attempts {
		requests[i] = store.ReleaseRequest{Lease: a.task.Lease(), Cause: &task.Error{Code: task.CodeShutdown, NotSent: true,
			Message: "it was claimed ahead, and no worker was free"}}
	}
	releasing, cancel := lingering(ctx)
	defer cancel()
	held, err := boundedBy(releasing, writeTimeout, func(ctx context.Context) ([]task.Lease, error) { return c.queue.Release(ctx, requests...) })
	if err != nil {
		return err
	}
	c.database.succeeded()
	c.inFlight.removeAll(attempts)
	for _, l := range held {
		c.events.record(Event{Kind: EventReleased, Task: l.TaskID})
	}
	return nil
}
