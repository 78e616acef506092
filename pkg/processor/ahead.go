package processor

import (
	"context"
	"time"

	"imagetasks/pkg/task"
)

// aheadPatience is how long a task that was claimed ahead may wait for a worker. Then it is given back, because another processor may have one, and
// because it counts as processing.
const aheadPatience = 4 * aheadTime

// untilGivenBack returns how long the claim loop may wait before what was claimed ahead is to be given back.
func (c *claimLoop) untilGivenBack(now time.Time) time.Duration {
	first := c.inFlight.first()
	if first == nil {
		return c.database.poll()
	}
	return max(first.claimedAt.Add(aheadPatience).Sub(now), time.Millisecond)
}

// giveBack releases the tasks that were claimed ahead if the first of them may not be started any more.
func (c *claimLoop) giveBack(release releaseFunc) {
	if first := c.inFlight.first(); first != nil && !c.mayStart(first) {
		release(c.inFlight.takeBack())
	}
}

// giveBack releases attempts that were not started, in goroutines that inFlight.running waits for.
func (r *attemptRunner) giveBack(work, writes context.Context, attempts []*attempt) {
	for _, a := range attempts {
		a.unstarted = true
		r.begin(work, writes, a)
	}
}

// errUnstarted is why a task that was not started is released.
func errUnstarted() *task.Error {
	return &task.Error{Code: task.CodeShutdown, NotSent: true, Message: "it was claimed ahead, and no worker was free"}
}
