package processor

import (
	"context"
	"errors"
	"time"

	"github.com/sirupsen/logrus"

	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// record records the outcome of an attempt that failed with err. cause is why its context ended, nil when it did not.
func (o *outcomes) record(work, writes context.Context, a *attempt, cause, err error) {
	if errors.Is(err, errLeaseLost) || errors.Is(cause, errLeaseLost) {
		o.lost(a)
		return
	}
	if panicked, ok := errors.AsType[*panicError](err); ok {
		o.panicked(writes, a, panicked)
		return
	}
	e := o.sanitizer.sanitize(err)
	_, toFetch := a.pending()
	if toFetch && !a.isRecorded() {
		e.Paid = true
	}
	if errors.Is(cause, errStopping) && e.Disposition != task.Fail && !e.Paid {
		e = &task.Error{Code: task.CodeShutdown, Disposition: task.Release, Message: "the processor stopped", Unknown: e.Unknown, NotSent: e.NotSent, Err: err}
	}
	if !a.hasRequested() {
		e.Unknown = false
	}
	if repeats := a.task.RequestsSent - a.task.UnknownOutcomes; e.InProgress && a.task.UnknownOutcomes > 0 && repeats < maxInProgress {
		// The outcome of the request before is still open: this one says so, and is not another that may be billed.
		e.Unknown = false
		o.circuits.of(a).answered(a)
		o.release(writes, a, task.Backoff(repeats+1, e.RetryAfter), e)
		return
	}
	if e.Code == task.CodePictureStore && e.Disposition == task.Pause {
		o.circuits.of(a).failed(&o.circuits.store, a, e, &opening{})
		if !e.Paid && !e.Unknown {
			o.release(writes, a, 0, e)
			return
		}
	}
	if e.Unknown {
		o.unknown(work, writes, a, e)
		return
	}
	if e.Paid || toFetch {
		o.paid(writes, a, e)
		return
	}
	switch e.Disposition {
	case task.Pause:
		o.refused(work, writes, a, e)
	case task.Release:
		wait := e.RetryAfter
		if e.Code == task.CodeRateLimited && !errors.Is(e.Err, errNotTried) {
			wait = o.circuits.of(a).pause(e, a.task.Model)
		} else if e.Scope == task.ScopeEndpoint && !e.NotSent {
			wait = max(o.shared(work, a, e).wait, task.Backoff(1, e.RetryAfter))
		}
		o.release(writes, a, wait, e)
	case task.Retry:
		if failed := o.definite(work, a, e); failed.opened || work.Err() != nil && scopeOf(e) == task.ScopeEndpoint {
			o.release(writes, a, failed.wait, e)
			return
		}
		if a.task.LastAttempt() {
			o.fail(writes, a, e, true)
			return
		}
		o.retry(writes, a, task.Backoff(a.task.Attempt, e.RetryAfter), e)
	default:
		switch {
		case e.NotSent || !a.hasRequested():
		case e.Scope == task.ScopeEndpoint:
			o.failing(a, e)
		default:
			o.circuits.of(a).answered(a)
		}
		o.fail(writes, a, e, a.hasRequested())
	}
}

// maxInProgress bounds how often a run repeats a request that the API says it is still working on: for about an hour.
const maxInProgress = 20

// answered records that the API answered an attempt with a result, or with what is to be fetched.
func (o *outcomes) answered(a *attempt) {
	o.circuits.of(a).answered(a)
	o.models.completed(o.circuits.of(a).conf.Name, o.circuits.modelName(a.task.Model))
}

// paid records that the API has answered with a result that could not be fetched or stored. That says nothing about the API now, unless it was
// requested in this claim.
func (o *outcomes) paid(writes context.Context, a *attempt, e *task.Error) {
	if a.hasRequested() {
		o.circuits.of(a).answered(a)
	}
	if _, toFetch := a.pending(); toFetch && e.Disposition != task.Fail {
		if !a.isRecorded() {
			err := o.savePending(writes, a)
			if errors.Is(err, errLeaseLost) || writes.Err() != nil {
				o.handleWriteError(a, err, "record what is to be fetched for")
				return
			}
		}
		if a.isRecorded() {
			wait := e.RetryAfter
			if wait <= 0 && e.Code != task.CodeShutdown {
				wait = isolatedFailureWait
			}
			o.release(writes, a, wait, e)
			return
		}
		lost := *e
		lost.Code = task.CodePictureLost
		e = &lost
	}
	o.fail(writes, a, e, false)
}

// savePending records what is still to be fetched for an attempt. It is repeated while the database is unavailable, until ctx ends.
func (o *outcomes) savePending(ctx context.Context, a *attempt) error {
	p, _ := a.pending()
	err := o.persist(ctx, a, "record what is to be fetched", func(ctx context.Context) error { return o.queue.SavePending(ctx, a.task.Lease(), p) })
	if err == nil {
		a.setRecorded()
	}
	return err
}

// failing records an answer that its task is not the cause of, and that may have been billed, so that the task fails.
func (o *outcomes) failing(a *attempt, e *task.Error) {
	billed := *e
	billed.Unknown = true // for the waits of the circuit
	if c := &o.circuits.of(a).endpoint; !o.circuits.of(a).failed(c, a, &billed, nil).opened {
		o.inARow(c, a, e)
	}
}

// refused records that no request of the scope can succeed now: the tasks of it wait, without using an attempt.
func (o *outcomes) refused(work, writes context.Context, a *attempt, e *task.Error) {
	if scopeOf(e) == task.ScopeModel {
		o.refusedModel(writes, a, e)
		return
	}
	if o.isolatedDialFailure(work, a, e) {
		o.release(writes, a, isolatedFailureWait, e)
		return
	}
	failed := o.circuits.of(a).failed(&o.circuits.of(a).endpoint, a, e, &opening{})
	o.release(writes, a, o.trialWait(failed), e)
}

// refusedModel records that the endpoint makes no results with the task's model. The task waits if the model may work again or elsewhere, otherwise
// it fails.
func (o *outcomes) refusedModel(writes context.Context, a *attempt, e *task.Error) {
	o.circuits.of(a).endpointAnswered(a)
	if !o.circuits.haveModel(a, o.models.mayWork) {
		o.fail(writes, a, e, false)
		return
	}
	wait := refusedModelWait
	if c := o.circuits.of(a).forModel(a.task.Model); c != nil {
		wait = o.trialWait(o.circuits.of(a).failed(c, a, e, &opening{}))
	}
	o.release(writes, a, wait, e)
}

// refusedModelWait is how long a task waits for whose model there can be no circuit, because there are too many.
const refusedModelWait = 5 * time.Minute

// trialWait returns how long a task waits that has just shown that a circuit must stay open.
func (o *outcomes) trialWait(f failure) time.Duration {
	if !f.trial {
		return 0
	}
	return f.wait
}

// definite records that the API failed a request and says so, or that the request could not be made for another passing cause. It returns
// opened if its task is not to blame.
func (o *outcomes) definite(work context.Context, a *attempt, e *task.Error) failure {
	switch scopeOf(e) {
	case task.ScopeModel:
		o.circuits.of(a).endpointAnswered(a)
		return o.inARow(o.circuits.of(a).forModel(a.task.Model), a, e)
	case task.ScopeEndpoint:
		return o.shared(work, a, e)
	}
	if !e.NotSent && a.hasRequested() {
		o.circuits.of(a).answered(a)
	}
	return failure{}
}

// shared finds out whether a failure has a cause that other tasks share: the circuit is open, a check fails, or there were several in a row.
func (o *outcomes) shared(work context.Context, a *attempt, e *task.Error) failure {
	c := &o.circuits.of(a).endpoint
	if !e.NotSent && !e.Unknown {
		o.circuits.of(a).noteResponse()
	}
	if failed := o.circuits.of(a).failed(c, a, e, nil); failed.opened {
		return failed
	}
	cause := o.circuits.of(a).sharedCheck(work)
	if work.Err() != nil {
		return failure{} // at a stop the cause can't be found any more
	}
	if cause != nil {
		return o.circuits.of(a).failed(c, a, cause, &opening{checkFailed: true, paid: e.Unknown})
	}
	return o.inARow(c, a, e)
}

// inARow counts the failures of a circuit in a row. c may be nil.
func (o *outcomes) inARow(c *circuit, a *attempt, e *task.Error) failure {
	if c == nil {
		return failure{}
	}
	return o.circuits.of(a).failed(c, a, e, o.circuits.of(a).failedInARow(c, a, e))
}

// unknown records that a paid request was sent and that its outcome is unknown. It is repeated, or the task fails when no other request may
// be sent.
func (o *outcomes) unknown(work, writes context.Context, a *attempt, e *task.Error) {
	o.events.record(Event{Kind: EventOutcomeUnknown, Task: a.task.ID})
	unknown := a.task.UnknownOutcomes + 1
	wait := time.Duration(0)
	if e.Code != task.CodeShutdown && scopeOf(e) == task.ScopeEndpoint {
		var failed failure
		if e.Disposition == task.Pause {
			failed = o.circuits.of(a).failed(&o.circuits.of(a).endpoint, a, e, &opening{paid: true})
		} else {
			failed = o.shared(work, a, e)
		}
		// Other tasks go first, so that one task does not meet the same fault again.
		wait = max(failed.wait, task.Backoff(unknown, e.RetryAfter))
	} else if e.Code != task.CodeShutdown {
		o.circuits.of(a).answered(a)
		wait = task.Backoff(unknown, e.RetryAfter)
	}
	if unknown > o.retryUnknown {
		failed := *e
		failed.Code, failed.Message = task.CodeOutcomeUnknown, unknownLimit(unknown)+"; the last one: "+e.Message
		o.fail(writes, a, &failed, false)
		return
	}
	o.release(writes, a, wait, e)
}

// panicked records a claim in which the Worker panicked as a lost one.
func (o *outcomes) panicked(writes context.Context, a *attempt, panicked *panicError) {
	a.log().WithField("stack", panicked.stack).Error(panicked.Error())
	e := &task.Error{Code: task.CodeInternal, Message: panicked.Error(), Unknown: a.hasRequested(), NotSent: !a.hasRequested()}
	lost := a.task.LostClaims + 1
	if lost > o.maxLostClaims {
		e.Code = task.CodeWorkerLost
		o.fail(writes, a, e, false)
		return
	}
	o.releaseAs(writes, a, store.ReleaseRequest{Lease: a.task.Lease(), Wait: task.Backoff(lost, 0), Cause: e, Lost: true})
}

// isolatedFailureWait is how long a task waits whose connection could not be made while others can.
const isolatedFailureWait = time.Second

// isolatedDialFailure reports whether a connection could not be made although the API is reachable: on a bad network one
// fails, and the next succeeds.
func (o *outcomes) isolatedDialFailure(work context.Context, a *attempt, e *task.Error) bool {
	return e.NotSent && o.circuits.of(a).endpointCause() == nil && o.circuits.of(a).sharedCheck(work) == nil
}

func (o *outcomes) lost(a *attempt) {
	a.log().Warn("the lease was lost: the task was claimed or closed by another process; its result is discarded")
	o.events.record(Event{Kind: EventLeaseLost, Task: a.task.ID})
}

func (o *outcomes) release(writes context.Context, a *attempt, wait time.Duration, e *task.Error) {
	o.releaseAs(writes, a, store.ReleaseRequest{Lease: a.task.Lease(), Wait: wait, Cause: e})
}

func (o *outcomes) releaseAs(writes context.Context, a *attempt, r store.ReleaseRequest) {
	_, err := o.releases.Do(writes, r)
	err = o.persistAfter(writes, a, "release a task", err, func(ctx context.Context) error { return writeAlone(ctx, o.releases, r) })
	if o.handleWriteError(a, err, "release") {
		return
	}
	o.users.left(writes, a.task.UserID)
	a.log().WithFields(addCause(logrus.Fields{"wait": r.Wait.Round(time.Millisecond)}, r.Cause)).Infof("released without using an attempt: %s", r.Cause.Message)
	o.events.record(Event{Kind: EventReleased, Task: a.task.ID, Code: r.Cause.Code})
}

func (o *outcomes) retry(writes context.Context, a *attempt, wait time.Duration, e *task.Error) {
	err := o.persist(writes, a, "retry a task", func(ctx context.Context) error { return o.queue.Retry(ctx, a.task.Lease(), wait, e) })
	if o.handleWriteError(a, err, "retry") {
		return
	}
	o.users.left(writes, a.task.UserID)
	a.log().WithFields(addCause(logrus.Fields{"wait": wait.Round(time.Millisecond)}, e)).
		Warnf("retrying in %s: %s", wait.Round(time.Millisecond), e.Message)
	o.events.record(Event{Kind: EventRetried, Task: a.task.ID, Code: e.Code})
}

func (o *outcomes) fail(writes context.Context, a *attempt, e *task.Error, usesAttempt bool) {
	var refund task.Refund
	err := o.persist(writes, a, "fail a task", func(ctx context.Context) (err error) {
		refund, err = o.queue.Fail(ctx, a.task.Lease(), e, usesAttempt)
		return err
	})
	if o.handleWriteError(a, err, "fail") {
		return
	}
	o.users.left(writes, a.task.UserID)
	a.log().WithFields(addCause(logrus.Fields{"refund": refund.Credits}, e)).
		Warnf("failed: %s", e.Message)
	warnMissingCharge(a.log(), refund)
	o.events.record(Event{Kind: EventFailed, Task: a.task.ID, Code: e.Code, Credits: refund.Credits})
}
