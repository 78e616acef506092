package processor

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// attemptRunner works claimed tasks with a Worker.
type attemptRunner struct {
	worker        Worker
	progress      *progressSaver
	queue         Queue
	requests      requestGroup
	concurrency   int
	timeout       time.Duration
	retryUnknown  int // repeats of requests of unknown outcome in one run
	maxLostClaims int
	leases        *leaseRenewer
	stopping      *atomic.Bool // no paid request may be started any more
	inFlight      *inFlight
	outcomes      *outcomes
	events        *eventRecorder
	log           logrus.FieldLogger
	wake          func() // the claim loop, when another task may start
}

// start works tasks that were just claimed in goroutines that inFlight.running waits for. With ahead, those beyond the number that may be worked at
// the same time wait until one of these ends. After work has ended, inFlight.cancelAll cancels what is in flight, and what begins then is cancelled at once; outcomes are
// written until writes ends.
func (r *attemptRunner) start(work, writes context.Context, claimed []task.Task, ahead bool) {
	now := time.Now()
	debug := logs(r.log, logrus.DebugLevel)
	attempts := make([]*attempt, len(claimed))
	for i, t := range claimed {
		attempts[i] = newAttempt(t, now, r.log)
		claimed := Event{Kind: EventClaimed, Task: t.ID}
		if t.LostClaims == 0 {
			claimed.Duration = t.Waited
		}
		r.events.record(claimed)
		if debug {
			attempts[i].log().Debug("claimed")
		}
	}
	limit := math.MaxInt
	if ahead {
		limit = r.concurrency
	}
	starting := r.inFlight.add(attempts, limit)
	for _, a := range attempts[:starting] {
		r.begin(work, writes, a)
	}
}

// begin works an attempt in a goroutine.
func (r *attemptRunner) begin(work, writes context.Context, a *attempt) {
	r.inFlight.running.Add(1)
	// Made here, because the stack of a new goroutine would have to grow for it.
	ctx, abort := context.WithTimeout(context.WithoutCancel(work), r.timeout)
	a.begin(abort)
	if work.Err() != nil { // its other attempts were cancelled before this one could be
		a.cancel(errStopping)
	}
	go r.attempt(ctx, work, writes, a)
}

// ended makes another task begin in the place of an attempt that has ended.
func (r *attemptRunner) ended(work, writes context.Context, a *attempt) {
	defer r.inFlight.running.Done()
	r.outcomes.circuits.of(a).ended(a)
	now := time.Now()
	if !a.unstarted {
		r.inFlight.endings.add(now, 1)
	}
	first := r.inFlight.first()
	next, few := r.inFlight.next(a, first == nil || r.mayStart(first), r.concurrency, min(r.inFlight.endings.expected(now), r.concurrency))
	if next != nil {
		r.begin(work, writes, next)
	}
	if few {
		r.wake()
	}
}

// mayStart reports whether a task that was claimed ahead may be started: it has not waited for too long, and nothing has happened since for which it
// would not be claimed now.
func (r *attemptRunner) mayStart(a *attempt) bool {
	return time.Since(a.claimedAt) < aheadPatience && !r.stopping.Load() && !r.leases.failing() && r.outcomes.circuits.of(a).mayStart(a)
}

// attempt works an attempt and records its outcome.
func (r *attemptRunner) attempt(ctx, work, writes context.Context, a *attempt) {
	defer a.abort()
	ended := func() { r.ended(work, writes, a) }
	if errors.Is(a.cause(), errLeaseLost) {
		r.outcomes.lost(a)
		ended()
		return
	}
	if a.unstarted {
		a.setClosing()
		r.outcomes.releaseAs(writes, a, store.ReleaseRequest{Lease: a.task.Lease(), Cause: errUnstarted(), Unstarted: true})
		ended()
		return
	}
	result, err := r.work(ctx, a)
	a.setWorked()
	if err == nil {
		r.outcomes.complete(writes, a, result, ended)
		return
	}
	a.setClosing()
	r.outcomes.record(work, writes, a, a.cause(), err)
	ended()
}

// panicError is a panic of a Worker. Its text may hold anything, so it is not shown.
type panicError struct{ stack string }

// Error implements error.
func (e *panicError) Error() string { return "the program panicked while it worked on the task" }

func (r *attemptRunner) work(ctx context.Context, a *attempt) (_ Result, err error) {
	defer func() {
		// The other tasks in flight are not to blame.
		if recovered := recover(); recovered != nil {
			err = &panicError{stack: string(debug.Stack())}
		}
	}()
	return r.worker.Work(ctx, a.task, &call{attempt: a, runner: r})
}

// call is the engine's side of one claim.
type call struct {
	attempt *attempt
	runner  *attemptRunner
	// requesting is held while a request is recorded: each is recorded by itself, also where a Worker makes several at the same time.
	requesting sync.Mutex
}

// Progress implements Call.
func (c *call) Progress(percent int, stage string) {
	if c.attempt.setProgress(percent, stage) {
		c.runner.progress.note()
	}
}

// Inputs implements Call.
func (c *call) Inputs(ctx context.Context) ([]task.Input, error) {
	// They are for a request. Where none may follow, reading them would only end a processor once more that has no memory for them.
	if err := c.requestLimit(); err != nil {
		return nil, err
	}
	inputs, err := c.runner.queue.Inputs(ctx, c.attempt.task.Lease())
	return inputs, databaseError(err)
}

// refusedRequest returns the error of a call before which nothing was sent.
func refusedRequest(code task.Code, do task.Disposition, message string) error {
	return &task.Error{Code: code, Disposition: do, NotSent: true, Message: message}
}

// requestLimit returns an error if no other paid request may be sent for the task's run.
func (c *call) requestLimit() error {
	if _, paid := c.attempt.pending(); paid {
		return refusedRequest(task.CodeInternal, task.Release, "a result of the run is paid for and still to be fetched")
	}
	switch r, t := c.runner, c.attempt.task; {
	case t.LostClaims >= r.maxLostClaims:
		return refusedRequest(task.CodeWorkerLost, task.Fail,
			fmt.Sprintf("its processor ended or lost the database in %d claims in a row (MAX_LOST_CLAIMS)", t.LostClaims))
	case t.Endpoint == "" && t.UnknownOutcomes > 0:
		return refusedRequest(task.CodeOutcomeUnknown, task.Fail, fmt.Sprintf(
			"the outcome of a request to %s is unknown, and that endpoint is not configured any more: it is not repeated elsewhere", t.SentTo))
	case t.Endpoint == "":
		return refusedRequest(task.CodeModelRefused, task.Fail, fmt.Sprintf("no endpoint has the model %q", r.outcomes.circuits.modelName(t.Model)))
	case t.UnknownOutcomes > r.retryUnknown:
		return refusedRequest(task.CodeOutcomeUnknown, task.Fail, unknownLimit(t.UnknownOutcomes))
	}
	return nil
}

// unaskedWait is how long a task waits for which the database could not be asked. Without it the task would be claimed again at once.
const unaskedWait = time.Second

// databaseError returns the error of a call of the database as one that uses no attempt.
func databaseError(err error) error {
	if _, ok := errors.AsType[*task.Error](err); err == nil || ok || errors.Is(err, task.ErrLeaseLost) {
		return err
	}
	if store.IsRowError(err) {
		return &task.Error{Code: task.CodeBadRow, Disposition: task.Fail, NotSent: true, Message: "the database refused to change the task: " + err.Error(), Err: err}
	}
	return &task.Error{Code: task.CodeInternal, Disposition: task.Release, NotSent: true, RetryAfter: unaskedWait,
		Message: "the database could not be asked: " + err.Error(), Err: err}
}

// recordRequest records a paid request with those of others. Where the database does not respond, it tries once more with this one alone: somebody else
// may have locked the row of another task.
func (r *attemptRunner) recordRequest(ctx context.Context, start store.RequestStart) (store.RequestStarted, error) {
	started, err := r.requests.Do(ctx, start)
	if err == nil || ctx.Err() != nil || !store.IsUnavailable(err) {
		return started, err
	}
	return bounded(ctx, func(ctx context.Context) (store.RequestStarted, error) {
		results, err := r.requests.Run(ctx, []store.RequestStart{start})
		if err != nil {
			return store.RequestStarted{}, err
		}
		return results[0].Out, results[0].Err
	})
}

// BeforeRequest implements Call.
func (c *call) BeforeRequest(ctx context.Context) (idempotencyKey string, err error) {
	r, t := c.runner, c.attempt.task
	switch {
	case r.stopping.Load():
		return "", refusedRequest(task.CodeShutdown, task.Release, "the processor is stopping")
	case r.leases.failing():
		return "", refusedRequest(task.CodeInternal, task.Release, "the lease can't be renewed, so no request is sent")
	}
	if err := c.requestLimit(); err != nil {
		return "", err
	}
	of := r.outcomes.circuits.of(c.attempt)
	if err := of.refuse(c.attempt); err != nil {
		return "", err
	}
	c.requesting.Lock()
	defer c.requesting.Unlock()
	start := store.RequestStart{Lease: t.Lease(), Call: uuid.New(), Endpoint: t.Endpoint, Rate: of.conf.Rate}
	for {
		started, err := r.recordRequest(ctx, start)
		if err != nil {
			return "", databaseError(err)
		}
		if started.Wait == 0 {
			idempotencyKey = started.Key
			break
		}
		// What comes before a request, such as loading inputs, took longer than the permit of the claim holds.
		select {
		case <-ctx.Done():
			return "", refusedRequest(task.CodeTimeout, task.Release, "the attempt ended while it waited for the rate of its endpoint")
		case <-time.After(started.Wait):
		}
		if r.stopping.Load() {
			return "", refusedRequest(task.CodeShutdown, task.Release, "the processor is stopping")
		}
	}
	c.attempt.setRequested()
	if r.stopping.Load() { // it may have been too late to count as in flight
		return "", refusedRequest(task.CodeShutdown, task.Release, "the processor is stopping")
	}
	return idempotencyKey, nil
}

// SavePending implements Call.
func (c *call) SavePending(ctx context.Context, p task.PendingResult) error {
	c.attempt.setPending(p)
	c.runner.outcomes.answered(c.attempt)
	return c.runner.outcomes.savePending(ctx, c.attempt)
}

// Pending implements Call.
func (c *call) Pending() (task.PendingResult, bool) { return c.attempt.pending() }

func unknownLimit(unknown int) string {
	return fmt.Sprintf("%d requests for its result were sent whose outcome is unknown, and RETRY_UNKNOWN allows no other", unknown)
}
