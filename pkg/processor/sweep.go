package processor

import (
	"context"
	"time"

	"github.com/google/uuid"
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
	maxLost        int           // MaxLostClaims
	pendingTimeout time.Duration // 0: none is due for too long
	users          *userLimit
	loop           *loopWatch
	database       *databaseState
	events         *eventRecorder
	log            logrus.FieldLogger
	lastAt         time.Time
	suspect        bool                    // a task waits until nothing else is in flight
	noSuspectUntil time.Time               // nothing waits for such tasks, because one could not be claimed
	unanswered     map[EventKind]uuid.UUID // ids of calls without an answer, which are repeated under the same id
}

// sweep closes such tasks if it is time to.
func (s *sweeper) sweep(ctx context.Context) {
	if time.Since(s.lastAt) < s.lease/3 {
		return
	}
	s.lastAt = time.Now()
	if s.database.settled(s.lease) {
		s.closeAll(ctx, EventAbandoned, task.CodeWorkerLost, "its processor ended again and again while it had the task", func(ctx context.Context, call uuid.UUID) ([]task.Refund, error) {
			return s.queue.FailAbandoned(ctx, s.maxLost, s.lease, sweepBatch, call)
		})
		s.lookForSuspects(ctx)
	}
	if s.pendingTimeout > 0 {
		s.closeAll(ctx, EventOverdue, task.CodePendingTimeout, "it was due for longer than PENDING_TIMEOUT", func(ctx context.Context, call uuid.UUID) ([]task.Refund, error) {
			return s.queue.FailOverdue(ctx, s.pendingTimeout, sweepBatch, call)
		})
	}
	s.users.refresh(ctx)
}

// lookForSuspects finds out whether a task waits for a processor that works on nothing else.
func (s *sweeper) lookForSuspects(ctx context.Context) {
	found, err := bounded(ctx, func(ctx context.Context) (bool, error) { return s.queue.HasSuspect(ctx, s.maxLost) })
	if err != nil {
		s.database.failed(ctx, "look for tasks whose processor ended", err)
		return
	}
	found = found && !time.Now().Before(s.noSuspectUntil)
	if found && !s.suspect {
		s.log.Warn("a task whose processor ended twice is worked next, with nothing else in flight; claiming waits for that")
	}
	s.suspect = found
}

// suspectLeases is for how many leases nothing waits for a suspect task after one could not be claimed.
const suspectLeases = 5

// triedSuspect records a claim with nothing else in flight, and whether it took a suspect task. One that it did not take was claimed by another
// processor, or can't be claimed while a circuit is open: waiting for it again and again would slow down all others.
func (s *sweeper) triedSuspect(claimed bool) {
	if s.suspect && !claimed {
		s.noSuspectUntil = time.Now().Add(suspectLeases * s.lease)
	}
	s.suspect = false // the next sweep finds out whether there is another
}

// closeAll closes tasks batch by batch and logs each.
func (s *sweeper) closeAll(ctx context.Context, kind EventKind, code task.Code, reason string, batch func(context.Context, uuid.UUID) ([]task.Refund, error)) {
	// A batch may be smaller than its limit because rows are locked: only an empty one is the last.
	for closed := 1; closed > 0 && ctx.Err() == nil; {
		refunds, err := bounded(ctx, func(ctx context.Context) ([]task.Refund, error) { return batch(ctx, s.callID(kind)) })
		if err != nil {
			s.database.failed(ctx, "close tasks", err)
			return
		}
		delete(s.unanswered, kind)
		for _, r := range refunds {
			outcome := "failed"
			if r.Credits > 0 { // a task that was not charged is not refunded
				outcome = "failed and refunded"
			}
			entry := s.log.WithFields(logrus.Fields{"task": r.TaskID, "user": r.UserID, "refund": r.Credits, "age": r.Age.Round(time.Second)})
			entry.Warn(outcome + ": " + reason)
			warnMissingCharge(entry, r)
			s.events.record(Event{Kind: kind, Task: r.TaskID, Code: code, Credits: r.Credits})
		}
		closed = len(refunds)
		s.loop.progress()
	}
}

// callID returns the id of a call, the same until it was answered.
func (s *sweeper) callID(kind EventKind) uuid.UUID {
	if s.unanswered == nil {
		s.unanswered = map[EventKind]uuid.UUID{}
	}
	if s.unanswered[kind] == uuid.Nil {
		s.unanswered[kind] = uuid.New()
	}
	return s.unanswered[kind]
}

// warnMissingCharge names a task that was closed and says it was charged, while the ledger has no charge to refund.
func warnMissingCharge(log logrus.FieldLogger, r task.Refund) {
	if r.MissingCharge {
		log.Error(task.ErrMissingCharge)
	}
}
