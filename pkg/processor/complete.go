package processor

import (
	"context"
	"errors"
	"time"

	"github.com/sirupsen/logrus"

	"imagetasks/pkg/batch"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// writeTimeout bounds one try to record an outcome. It leaves time for another within FinalWriteTimeout.
const writeTimeout = FinalWriteTimeout / 2

// outcomes records what became of an attempt: completed, retried, released or failed. A write is repeated until its context ends while the database
// is unavailable, and for the time of giveUp while it refuses it.
type outcomes struct {
	queue         Queue
	completions   completionGroup
	releases      releaseGroup
	users         *userLimit
	circuits      *circuitSet
	models        *workedModels
	database      *databaseState
	events        *eventRecorder
	retryUnknown  int           // repeats of requests of unknown outcome in one run
	maxLostClaims int           // claims of a task that may be lost in a row
	giveUp        time.Duration // after which an outcome that the database refuses is given up
	sanitizer     sanitizer
	wake          func() // the claim loop, when more may be claimed
}

// refusedWait is how long a task waits whose completion the database refuses.
const refusedWait = 10 * time.Second

// complete closes the task as completed, and calls ended when that is done. When the lease is gone, nothing is changed. When the database refuses it for
// the time of giveUp, the task is released: its result is there, and the next claim tries to complete it again.
func (o *outcomes) complete(writes context.Context, a *attempt, r Result, ended func()) {
	if !r.Recovered && a.hasRequested() {
		o.answered(a)
	}
	o.circuits.of(a).stored(a)
	a.setClosing()
	began := time.Now()
	completion := store.Completion{Lease: a.task.Lease(), ImageURL: r.URL, RequestID: r.RequestID, Endpoint: r.Endpoint, Note: r.Note, Usage: r.Usage}
	o.completions.Go(writes, completion, func(_ struct{}, err error) {
		if err == nil && !o.users.on.Load() {
			o.database.succeeded()
			o.noteCompleted(a, r, began)
			ended()
			return
		}
		go func() { // inFlight.running waits for it
			defer ended()
			o.completed(writes, a, r, began, o.persistAfter(writes, a, "complete a task", err, func(ctx context.Context) error {
				return writeAlone(ctx, o.completions, completion)
			}))
		}()
	})
}

// completed ends a task whose completion was recorded, or could not be.
func (o *outcomes) completed(writes context.Context, a *attempt, r Result, began time.Time, err error) {
	switch {
	case !o.handleWriteError(a, err, "complete"):
		o.users.left(writes, a.task.UserID)
		o.noteCompleted(a, r, began)
	case !errors.Is(err, errLeaseLost) && writes.Err() == nil:
		o.release(writes, a, refusedWait, o.sanitizer.sanitize(&task.Error{Code: task.CodeInternal, Disposition: task.Release,
			Message:   "the result is stored, and the database refused to complete the task: " + err.Error(),
			RequestID: r.RequestID, Endpoint: r.Endpoint, Err: err}))
	}
}

// noteCompleted logs and counts a completed task. began is when recording that began.
func (o *outcomes) noteCompleted(a *attempt, r Result, began time.Time) {
	took, write := time.Since(a.claimedAt), time.Since(began)
	if logs(a.out, logrus.InfoLevel) {
		f := logrus.Fields{"took": took.Round(time.Millisecond)}
		addPending(f, task.PendingResult{RequestID: r.RequestID, Endpoint: r.Endpoint})
		a.log().WithFields(r.Fields).WithFields(f).Info("completed")
	}
	o.events.record(Event{Kind: EventCompleted, Task: a.task.ID, Credits: a.task.Charged, Duration: took, Write: write})
}

// handleWriteError logs that an outcome could not be recorded, and reports whether that is so. The task is not lost: it is
// claimed again when its lease has expired.
func (o *outcomes) handleWriteError(a *attempt, err error, outcome string) bool {
	switch {
	case err == nil:
		return false
	case errors.Is(err, task.ErrLeaseLost):
		o.lost(a)
	default:
		a.log().WithError(err).Errorf("could not %s the task; it is claimed again when its lease has expired", outcome)
	}
	return true
}

// writeAlone writes one outcome without those of others: a row of another task that somebody else has locked does not delay it.
func writeAlone[In any](ctx context.Context, group *batch.Group[In, struct{}], in In) error {
	return boundedWrite(ctx, func(ctx context.Context) error {
		results, err := group.Run(ctx, []In{in})
		if err != nil {
			return err
		}
		return results[0].Err
	})
}

// boundedWrite makes one try to record an outcome.
func boundedWrite(ctx context.Context, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	return try(ctx)
}

// persist calls write until it succeeds or the lease is lost, until ctx ends, or until the database has refused it for the time of giveUp. If it
// refuses it because of what the row holds, the task is set aside, so that it is not claimed again at once.
func (o *outcomes) persist(ctx context.Context, a *attempt, what string, write func(context.Context) error) error {
	return o.persistAfter(ctx, a, what, boundedWrite(ctx, write), write)
}

// persistAfter is persist after a first try that ended with err.
func (o *outcomes) persistAfter(ctx context.Context, a *attempt, what string, err error, write func(context.Context) error) error {
	var refusedFrom time.Time
	for wait := minDatabaseWait; ; wait = min(2*wait, maxRefusedWait) {
		if err == nil {
			o.database.succeeded()
			return nil
		}
		if errors.Is(err, task.ErrLeaseLost) || ctx.Err() != nil {
			return err
		}
		pause := o.database.failed(ctx, what, err)
		switch {
		case store.IsUnavailable(err):
			refusedFrom, wait = time.Time{}, minDatabaseWait
		case refusedFrom.IsZero():
			refusedFrom, pause = time.Now(), wait
		case time.Since(refusedFrom) > o.giveUp || what != "complete a task" && store.IsRowError(err):
			if store.IsRowError(err) {
				err = errors.Join(err, o.setAside(ctx, a, what, err))
			}
			return err
		default:
			pause = wait
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
		err = boundedWrite(ctx, write)
	}
}

// maxRefusedWait bounds the wait before an outcome is written again that the database has refused.
const maxRefusedWait = 5 * time.Second

func (o *outcomes) setAside(ctx context.Context, a *attempt, what string, cause error) error {
	return boundedWrite(ctx, func(ctx context.Context) error { return o.queue.SetAside(ctx, a.task.ID, what, cause) })
}
