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
	out       logrus.FieldLogger // see log
	index     int                // in inFlight.attempts
	unstarted bool               // it was claimed ahead, and is only released; set before it begins

	mu       sync.Mutex
	abort    context.CancelFunc // nil: it is not being worked yet
	aborted  error              // why it was cancelled; nil: it was not
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

// newAttempt returns the attempt on a task that was just claimed.
func newAttempt(t task.Task, now time.Time, log logrus.FieldLogger) *attempt {
	return &attempt{task: t, claimedAt: now, out: log, stage: stageClaimed, savedStage: stageClaimed}
}

// stageClaimed is the stage until the Worker names one.
const stageClaimed = "claimed"

// log returns the log for lines about the task.
func (a *attempt) log() logrus.FieldLogger {
	f := TaskFields(a.task)
	if p, ok := a.pending(); ok {
		addPending(f, p)
	}
	return a.out.WithFields(f)
}

// begin makes cancel call abort.
func (a *attempt) begin(abort context.CancelFunc) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.abort = abort
	if a.aborted != nil {
		abort()
	}
}

// cancel cancels the work on the attempt. The first cause counts.
func (a *attempt) cancel(cause error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.aborted == nil {
		a.aborted = cause
	}
	if a.abort != nil {
		a.abort()
	}
}

// cause returns why the attempt was cancelled; nil: it was not.
func (a *attempt) cause() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.aborted
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
