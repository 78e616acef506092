package processor

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// Why an attempt was cancelled.
var (
	errStopping  = errors.New("the processor is stopping")
	errLeaseLost = task.ErrLeaseLost
)

// attempt is the work on one claimed task.
type attempt struct {
	task      task.Task
	claimedAt time.Time
	abort     context.CancelCauseFunc
	log       logrus.FieldLogger

	mu       sync.Mutex
	progress int
	stage    string
	// savedStage is the one that was written last apart from renewals.
	savedStage string
	requested  bool                // a paid request was recorded
	worked     bool                // Work has returned
	saved      *task.PendingResult // by SavePending, in this claim
	recorded   bool                // saved is in the database
	closing    bool                // its outcome is being recorded: a lease that is gone is expected
}

// setProgress reports whether the stage has changed.
func (a *attempt) setProgress(percent int, stage string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	changed := a.stage != stage
	a.progress, a.stage = percent, stage
	return changed
}

// changedProgress returns how far the attempt is, and whether its stage has changed since the last call.
func (a *attempt) changedProgress() (r store.LeaseRenewal, changed bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	changed = a.stage != a.savedStage
	a.savedStage = a.stage
	return store.LeaseRenewal{Lease: a.task.Lease(), Progress: a.progress, Stage: a.stage}, changed
}

func (a *attempt) renewal() store.LeaseRenewal {
	a.mu.Lock()
	defer a.mu.Unlock()
	return store.LeaseRenewal{Lease: a.task.Lease(), Progress: a.progress, Stage: a.stage}
}

func (a *attempt) setClosing() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closing = true
}

func (a *attempt) isClosing() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.closing
}

// setRequested records that a paid request leaves now.
func (a *attempt) setRequested() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.requested = true
}

// hasRequested reports whether a paid request was recorded in this claim.
func (a *attempt) hasRequested() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.requested
}

func (a *attempt) setPending(p task.PendingResult) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.saved = &p
}

// isRecorded reports whether the next claim knows what is still to be fetched.
func (a *attempt) isRecorded() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.recorded || a.saved == nil && a.task.Pending != nil
}

func (a *attempt) setRecorded() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.recorded = true
}

// pending returns the result that is still to be fetched, if there is one.
func (a *attempt) pending() (task.PendingResult, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.saved != nil:
		return *a.saved, true
	case a.task.Pending != nil:
		return *a.task.Pending, true
	}
	return task.PendingResult{}, false
}

func (a *attempt) setWorked() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.worked = true
}

// awaitsRequest reports whether Work is in progress and would lose what a paid request brings if it was cut off: what is recorded as still to be
// fetched can be fetched later.
func (a *attempt) awaitsRequest() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.requested && !a.worked && !a.recorded
}

// inFlight is the set of attempts that are being worked. It is safe for concurrent use.
type inFlight struct {
	mu       sync.Mutex
	attempts map[task.Lease]*attempt
	running  sync.WaitGroup // the goroutines of the attempts
}

func newInFlight() *inFlight { return &inFlight{attempts: map[task.Lease]*attempt{}} }

func (f *inFlight) add(a *attempt) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.attempts[a.task.Lease()] = a
}

func (f *inFlight) remove(a *attempt) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.attempts, a.task.Lease())
}

func (f *inFlight) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.attempts)
}

// alone reports whether a suspect task is in flight, with which nothing else may be.
func (f *inFlight) alone() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for l := range f.attempts {
		if store.Suspect(f.attempts[l].task) {
			return true
		}
	}
	return false
}

// of returns how many attempts are for an endpoint.
func (f *inFlight) of(endpoint string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, a := range f.attempts {
		if a.task.Endpoint == endpoint {
			n++
		}
	}
	return n
}

// lost returns how many attempts began within that time on tasks whose last claim was lost.
func (f *inFlight) lost(within time.Duration) int {
	n := 0
	for _, a := range f.list() {
		if a.task.LostClaims > 0 && time.Since(a.claimedAt) < within {
			n++
		}
	}
	return n
}

// awaitRequests returns how many attempts wait for the answer to a paid request.
func (f *inFlight) awaitRequests() int {
	n := 0
	for _, a := range f.list() {
		if a.awaitsRequest() {
			n++
		}
	}
	return n
}

// abortOthers cancels the attempts that do not wait for the answer to a paid request.
func (f *inFlight) abortOthers() {
	for _, a := range f.list() {
		if !a.awaitsRequest() {
			a.abort(errStopping)
		}
	}
}

func (f *inFlight) list() []*attempt {
	f.mu.Lock()
	defer f.mu.Unlock()
	attempts := make([]*attempt, 0, len(f.attempts))
	for _, a := range f.attempts {
		attempts = append(attempts, a)
	}
	return attempts
}

// attemptRunner works claimed tasks with a Worker.
type attemptRunner struct {
	worker        Worker
	progress      *progressSaver
	queue         Queue
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

// start works a claimed task in a goroutine that inFlight.running waits for. The work is cancelled with work; its outcome is
// written until writes ends.
func (r *attemptRunner) start(work, writes context.Context, t task.Task) {
	ctx, abort := context.WithCancelCause(work)
	a := &attempt{task: t, claimedAt: time.Now(), abort: abort, stage: "claimed", savedStage: "claimed",
		log: r.log.WithFields(logrus.Fields{"task": t.ID, "user": t.UserID, "attempt": t.Attempt})}
	r.inFlight.add(a)
	r.events.record(Event{Kind: EventClaimed, Task: t.ID})
	a.log.Debug("claimed")
	r.inFlight.running.Go(func() {
		defer abort(nil)
		result, err := r.work(ctx, a)
		a.setWorked()
		if err == nil {
			r.outcomes.complete(writes, a, result)
		} else {
			a.setClosing()
			r.outcomes.record(work, writes, a, context.Cause(ctx), err)
		}
		r.outcomes.circuits.of(a).ended(a)
		r.inFlight.remove(a)
		r.wake()
	})
}

// panicError is a panic of a Worker. Its text may hold anything, so it is not shown.
type panicError struct{ stack string }

// Error implements error.
func (e *panicError) Error() string { return "the program panicked while it worked on the task" }

func (r *attemptRunner) work(ctx context.Context, a *attempt) (_ Result, err error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
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
	if err := r.outcomes.circuits.of(c.attempt).refuse(c.attempt); err != nil {
		return "", err
	}
	id := uuid.New()
	for {
		var wait time.Duration
		key, err := bounded(ctx, func(ctx context.Context) (key string, err error) {
			key, wait, err = r.queue.BeginRequest(ctx, t.Lease(), id, t.Endpoint, r.outcomes.circuits.of(c.attempt).conf.Rate)
			return key, err
		})
		if err != nil {
			return "", databaseError(err)
		}
		if wait == 0 {
			idempotencyKey = key
			break
		}
		// What comes before a request, such as loading inputs, took longer than the permit of the claim holds.
		select {
		case <-ctx.Done():
			return "", refusedRequest(task.CodeTimeout, task.Release, "the attempt ended while it waited for the rate of its endpoint")
		case <-time.After(wait):
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
	return fmt.Sprintf("%d requests for its picture were sent whose outcome is unknown, and RETRY_UNKNOWN allows no other", unknown)
}
