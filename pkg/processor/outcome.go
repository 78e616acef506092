package processor

import (
	"context"
	"errors"
	"time"

	"github.com/sirupsen/logrus"

	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// writeTimeout bounds one try to record an outcome.
const writeTimeout = time.Minute

// outcomes records what became of an attempt: completed, retried, released or failed. A write is repeated while the database
// is unavailable, until its context ends.
type outcomes struct {
	queue     Queue
	users     *userLimit
	api       *apiState
	failures  failureWindow
	inFlight  *inFlight
	database  *databaseState
	events    *eventRecorder
	sanitizer sanitizer
	wake      func() // the claim loop, when more may be claimed
}

// complete closes the task as completed. When the lease is gone, nothing is changed.
func (o *outcomes) complete(writes context.Context, a *attempt, r Result) error {
	if !r.Recovered {
		o.responded(a)
	}
	a.setClosing()
	var accepted []task.Lease
	err := o.persist(writes, "complete a task", func(ctx context.Context) (err error) {
		accepted, err = o.queue.Complete(ctx, store.Completion{Lease: a.task.Lease(), ImageURL: r.URL, RequestID: r.RequestID, Endpoint: r.Endpoint})
		return err
	})
	if err != nil {
		// The task may be completed nevertheless. If it is not, a later claim finds the result.
		return err
	}
	if len(accepted) == 0 {
		return errLeaseLost
	}
	o.users.left(writes, a.task.UserID)
	took := time.Since(a.claimedAt)
	a.log.WithFields(r.Fields).WithFields(logrus.Fields{"took": took.Round(time.Millisecond), "request": r.RequestID}).Info("completed")
	o.events.record(Event{Kind: EventCompleted, Task: a.task.ID, Duration: took})
	return nil
}

// record records the outcome of an attempt that failed with err. cause is why its context ended, nil when it did not.
func (o *outcomes) record(work, writes context.Context, a *attempt, cause, err error) {
	if errors.Is(err, errLeaseLost) || errors.Is(cause, errLeaseLost) {
		o.lost(a)
		return
	}
	e := o.sanitizer.sanitize(err)
	if errors.Is(cause, errStopping) && e.Disposition != task.Fail {
		e = &task.Error{Code: task.CodeShutdown, Disposition: task.Release, Message: "the processor stopped", Err: err}
	}
	if e.Disposition != task.Release && e.Disposition != task.Pause && o.isSharedFailure(work, a, e) {
		o.release(writes, a, 0, e)
		return
	}
	switch e.Disposition {
	case task.Pause:
		if o.isolatedDialFailure(work, e) {
			o.release(writes, a, isolatedFailureWait, e)
			return
		}
		o.api.open(e)
		o.release(writes, a, 0, e)
	case task.Release:
		wait := time.Duration(0)
		if e.Code == task.CodeRateLimited {
			wait = o.api.breaker.pause(time.Now(), e.RetryAfter)
		}
		o.release(writes, a, wait, e)
	case task.Retry:
		if !e.NotSent {
			o.responded(a)
		}
		if a.task.LastAttempt() {
			o.fail(writes, a, e)
			return
		}
		o.retry(writes, a, task.Backoff(a.task.Attempt, e.RetryAfter), e)
	default:
		if !e.NotSent {
			o.responded(a)
		}
		o.fail(writes, a, e)
	}
}

// responded records that the API responded, whatever the response was.
func (o *outcomes) responded(a *attempt) {
	if o.api.responded(a.claimedAt) {
		o.wake()
	}
}

// maxReleases is how often a task may be released before a failure that is shared uses an attempt nevertheless: each time
// its picture may have been paid for.
const maxReleases = 20

// maxReleasesAPIWorks is maxReleases when the API responds again at once: a proxy that cuts off every long request looks the
// same as one that was restarted.
const maxReleasesAPIWorks = 3

// isSharedFailure reports whether an attempt failed because of the connection to the API, or of the API as a whole, and not
// because of its task. It probes the API, once for all attempts that fail together.
func (o *outcomes) isSharedFailure(work context.Context, a *attempt, e *task.Error) bool {
	switch e.Code {
	case task.CodeNetwork, task.CodeCutOff, task.CodeTimeout, task.CodeServer, task.CodeWebPage:
	default:
		return false
	}
	connectionBroke := e.Code == task.CodeNetwork || e.Code == task.CodeCutOff
	if connectionBroke {
		o.failures.record(a.task.Lease(), time.Now())
	}
	releases := a.task.Epoch - int64(a.task.Attempt)
	if releases >= maxReleases {
		return false
	}
	if o.api.breaker.reason() != nil {
		return true
	}
	cause := o.api.sharedProbe(work)
	if cause != nil && cause.Disposition != task.Release && work.Err() == nil {
		o.api.open(cause)
		return true
	}
	if connectionBroke && releases < maxReleasesAPIWorks && o.failures.isShared(work, a.task.Lease(), o.inFlight.count) {
		return true
	}
	return work.Err() != nil // at a stop the reason can't be found any more
}

// isolatedFailureWait is how long a task waits whose connection could not be made while others can.
const isolatedFailureWait = time.Second

// isolatedDialFailure reports whether a connection could not be made although the API is reachable: on a bad network one
// fails, and the next succeeds.
func (o *outcomes) isolatedDialFailure(work context.Context, e *task.Error) bool {
	return e.NotSent && o.api.breaker.reason() == nil && o.api.sharedProbe(work) == nil
}

func (o *outcomes) lost(a *attempt) {
	a.log.Warn("the lease was lost: the task was claimed or closed by another process; its result is discarded")
	o.events.record(Event{Kind: EventLeaseLost, Task: a.task.ID})
}

func (o *outcomes) release(writes context.Context, a *attempt, wait time.Duration, e *task.Error) {
	var held []task.Lease
	err := o.persist(writes, "release a task", func(ctx context.Context) (err error) {
		held, err = o.queue.Release(ctx, store.ReleaseRequest{Lease: a.task.Lease(), Wait: wait, Cause: e})
		return err
	})
	if o.handleWriteError(a, err, "release") {
		return
	}
	if len(held) == 0 {
		o.lost(a)
		return
	}
	o.users.left(writes, a.task.UserID)
	a.log.WithFields(logrus.Fields{"code": string(e.Code), "wait": wait}).Infof("released without using an attempt: %s", e.Message)
	o.events.record(Event{Kind: EventReleased, Task: a.task.ID})
}

func (o *outcomes) retry(writes context.Context, a *attempt, wait time.Duration, e *task.Error) {
	err := o.persist(writes, "retry a task", func(ctx context.Context) error {
		return o.queue.Retry(ctx, a.task.Lease(), wait, e)
	})
	if o.handleWriteError(a, err, "retry") {
		return
	}
	o.users.left(writes, a.task.UserID)
	a.log.WithFields(logrus.Fields{"code": string(e.Code), "request": e.RequestID}).
		Warnf("retrying in %s: %s", wait.Round(time.Millisecond), e.Message)
	o.events.record(Event{Kind: EventRetried, Task: a.task.ID})
}

func (o *outcomes) fail(writes context.Context, a *attempt, e *task.Error) {
	var refund task.Refund
	err := o.persist(writes, "fail a task", func(ctx context.Context) (err error) {
		refund, err = o.queue.Fail(ctx, a.task.Lease(), e)
		return err
	})
	if o.handleWriteError(a, err, "fail") {
		return
	}
	o.users.left(writes, a.task.UserID)
	a.log.WithFields(logrus.Fields{"code": string(e.Code), "refund": refund.Credits, "request": e.RequestID}).
		Warnf("failed: %s", e.Message)
	warnMissingCharge(a.log, refund)
	o.events.record(Event{Kind: EventFailed, Task: a.task.ID})
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
		a.log.WithError(err).Errorf("could not %s the task; it is claimed again when its lease has expired", outcome)
	}
	return true
}

// persist calls write until it succeeds or fails for another reason than an unavailable database, or until ctx ends.
func (o *outcomes) persist(ctx context.Context, what string, write func(context.Context) error) error {
	for {
		bounded, cancel := context.WithTimeout(ctx, writeTimeout)
		err := write(bounded)
		cancel()
		if err == nil {
			o.database.succeeded()
			return nil
		}
		if !store.IsUnavailable(err) || ctx.Err() != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(o.database.failed(ctx, what, err)):
		}
	}
}
