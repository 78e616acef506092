package processor

import (
	"context"
	"errors"
	"sync"
	"time"

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
	closing  bool // its outcome is being recorded: a lease that is gone is expected
}

func (a *attempt) setProgress(percent int, stage string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.progress, a.stage = percent, stage
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
	worker   Worker
	queue    Queue
	timeout  time.Duration
	inFlight *inFlight
	outcomes *outcomes
	events   *eventRecorder
	log      logrus.FieldLogger
	wake     func() // the claim loop, when another task may start
}

// start works a claimed task in a goroutine that inFlight.running waits for. The work is cancelled with work; its outcome is
// written until writes ends.
func (r *attemptRunner) start(work, writes context.Context, t task.Task) {
	ctx, abort := context.WithCancelCause(work)
	a := &attempt{task: t, claimedAt: time.Now(), abort: abort, stage: "claimed",
		log: r.log.WithFields(logrus.Fields{"task": t.ID, "user": t.UserID, "attempt": t.Attempt})}
	r.inFlight.add(a)
	r.events.record(Event{Kind: EventClaimed, Task: t.ID})
	a.log.Debug("claimed")
	r.inFlight.running.Go(func() {
		defer abort(nil)
		if err := r.attempt(ctx, writes, a); err != nil {
			a.setClosing()
			r.outcomes.record(work, writes, a, context.Cause(ctx), err)
		}
		r.inFlight.remove(a)
		r.wake()
	})
}

// attempt does the work of a task and completes it.
func (r *attemptRunner) attempt(ctx, writes context.Context, a *attempt) error {
	result, err := r.work(ctx, a)
	if err != nil {
		return err
	}
	return r.outcomes.complete(writes, a, result)
}

func (r *attemptRunner) work(ctx context.Context, a *attempt) (Result, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	return r.worker.Work(ctx, a.task, &call{attempt: a, queue: r.queue})
}

// call is the engine's side of one claim.
type call struct {
	attempt *attempt
	queue   Queue
}

// Progress implements Call.
func (c *call) Progress(percent int, stage string) { c.attempt.setProgress(percent, stage) }

// Inputs implements Call.
func (c *call) Inputs(ctx context.Context) ([]task.Input, error) {
	inputs, err := c.queue.Inputs(ctx, c.attempt.task.Lease())
	switch {
	case err == nil:
	case store.IsUnavailable(err):
		return nil, &task.Error{Code: task.CodeInternal, Disposition: task.Release, Message: "the database is unavailable", Err: err}
	case store.IsTransient(err):
		return nil, &task.Error{Code: task.CodeInternal, Disposition: task.Release, Message: "the database refused to return the input pictures", Err: err}
	}
	return inputs, err
}
