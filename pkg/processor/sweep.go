package processor

import (
	"context"
	"time"

	"github.com/sirupsen/logrus"

	"imagetasks/pkg/task"
)

// sweepBatch is how many tasks one statement closes.
const sweepBatch = 1000

// sweeper closes, every third of a lease, tasks that may not be claimed again, and tasks that are due for too long. It is
// used by the claim loop alone.
type sweeper struct {
	queue          Queue
	lease          time.Duration
	maxAttempts    int
	pendingTimeout time.Duration // 0: none is due for too long
	loop           *loopWatch
	database       *databaseState
	events         *eventRecorder
	log            logrus.FieldLogger
	lastAt         time.Time
}

// sweep closes such tasks if it is time to.
func (s *sweeper) sweep(ctx context.Context) {
	if time.Since(s.lastAt) < s.lease/3 {
		return
	}
	s.lastAt = time.Now()
	s.closeAll(ctx, EventAbandoned, "its processor stopped responding in the last attempt", func(ctx context.Context) ([]task.Refund, error) {
		return s.queue.FailAbandoned(ctx, s.maxAttempts, sweepBatch)
	})
	if s.pendingTimeout > 0 {
		s.closeAll(ctx, EventOverdue, "it was due for longer than PENDING_TIMEOUT", func(ctx context.Context) ([]task.Refund, error) {
			return s.queue.FailOverdue(ctx, s.pendingTimeout, sweepBatch)
		})
	}
}

// closeAll closes tasks batch by batch and logs each.
func (s *sweeper) closeAll(ctx context.Context, kind EventKind, reason string, batch func(context.Context) ([]task.Refund, error)) {
	for closed := sweepBatch; closed == sweepBatch && ctx.Err() == nil; {
		refunds, err := bounded(ctx, batch)
		if err != nil {
			s.database.failed(ctx, "close tasks", err)
			return
		}
		for _, r := range refunds {
			outcome := "failed"
			if r.Credits > 0 { // a task that was not charged is not refunded
				outcome = "failed and refunded"
			}
			s.log.WithFields(logrus.Fields{"task": r.TaskID, "user": r.UserID, "refund": r.Credits, "age": r.Age.Round(time.Second)}).
				Warn(outcome + ": " + reason)
			s.events.record(Event{Kind: kind, Task: r.TaskID})
		}
		closed = len(refunds)
		s.loop.progress()
	}
}
