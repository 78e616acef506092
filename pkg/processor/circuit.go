package processor

import (
	"time"

	"imagetasks/pkg/task"
)

// circuitTimes are the waits of a circuit.
type circuitTimes struct {
	firstCheck time.Duration // before the first check; later ones wait twice as long each time
	maxCheck   time.Duration // at most; checks cost nothing
	hold       time.Duration // after the first try that failed although a check had succeeded; doubles up to maxTrial
	freeTrial  time.Duration // before the first trial where a request that fails costs nothing; doubles up to maxTrial
	paidTrial  time.Duration // before the first trial where it may be billed; doubles up to maxTrial
	maxTrial   time.Duration
}

// defaultCircuitTimes keep the requests that may be billed in an hour in which all of them fail at 15, with three in flight at its start.
func defaultCircuitTimes() circuitTimes {
	return circuitTimes{firstCheck: time.Second, maxCheck: 5 * time.Second, hold: 5 * time.Second, freeTrial: 15 * time.Second,
		paidTrial: 2 * time.Minute, maxTrial: 5 * time.Minute}
}

// How many failures in a row open a circuit.
const (
	unknownRow  = 3 // requests of unknown outcome: each may have been billed
	definiteRow = 4 // answers of the API that it failed, with one code
)

// seenOutageTrials is how many times longer than maxTrial a trial waits while a check fails that has succeeded before: what the check sees
// needs no paid request, unless the check itself has stopped working.
const seenOutageTrials = 6

// CircuitState is the state of a circuit.
type CircuitState string

// The states of a circuit.
const (
	CircuitClosed   CircuitState = "closed"    // what it stands for works
	CircuitOpen     CircuitState = "open"      // claiming what needs it is paused
	CircuitHalfOpen CircuitState = "half_open" // one task tries it
)

// circuit is the circuit breaker of one scope: the endpoint, a model, or the store of results. It is not safe for concurrent use: circuits locks it.
//
// A check that succeeds ends the open state where it says something: where a check of this opening has failed before, or where no
// connection could be made. Then one task is tried, and the others follow when the API has answered it. Where the check says
// nothing, one task is tried at intervals that double. All tries until an answer are one series.
type circuit struct {
	scope task.Scope
	name  string // of the endpoint or the model
	times circuitTimes

	state    CircuitState
	cause    *task.Error // of the open state
	since    time.Time   // it is not closed
	openedAt time.Time   // the last time
	opening  int         // counts the openings, so that the result of an old check is not used

	byRow        bool // failures in a row opened it, not a refusal: an answer to a request sent before shows that it works
	believe      bool // a check that succeeds says something, although none has failed
	checkedOnce  bool // since openedAt
	failedChecks int  // since openedAt, in a row
	doubtful     bool // the last of them may fail whether the API works or not
	nextCheck    time.Time
	running      int  // checks
	checkWorks   bool // a check has succeeded before
	misleading   bool // checks fail although a request has succeeded; until one succeeds

	trialWait   time.Duration // before the next trial of the series; 0: no series
	failedTries int           // of the series, after a check had succeeded
	triedAt     time.Time     // when the last of them failed
	halfOpenAt  time.Time
	afterCheck  bool        // it is half-open because a check succeeded
	trial       *task.Lease // the task that tries it; nil: none yet
	closedAt    time.Time
	confirmed   bool // an answer came since closedAt

	unknown, definite failureRow

	pausedUntil time.Time // for a rate limit
	rateLimits  int       // met in a row
}

// failureRow counts failures in a row.
type failureRow struct {
	n     int
	code  task.Code
	first string // the task of the first failure
	mixed bool   // there are others
}

func (r *failureRow) add(taskID string) {
	if r.n == 0 {
		r.first = taskID
	}
	r.n++
	r.mixed = r.mixed || r.first != taskID
}

// opening says how a circuit opens.
type opening struct {
	byRow   bool
	believe bool // a check that succeeds says something (once in a series)
	paid    bool // a failed try may be billed
	// checkFailed: a check has just failed
	checkFailed bool
}

// open opens a closed circuit and reports whether it was closed.
func (c *circuit) open(now time.Time, cause *task.Error, o opening) bool {
	if c.isOpen() || c.state == CircuitHalfOpen {
		return false
	}
	if !c.closedAt.IsZero() && !c.confirmed {
		c.failedTries++ // it closed because of a check, and nothing was answered since
		c.triedAt = now
	} else {
		c.failedTries, c.trialWait = 0, 0
	}
	c.since = now
	c.reopen(now, cause, o)
	return true
}

func (c *circuit) isOpen() bool { return c.state == CircuitOpen }

func (c *circuit) isClosed() bool { return c.state == CircuitClosed || c.state == "" }

func (c *circuit) reopen(now time.Time, cause *task.Error, o opening) {
	c.state, c.cause, c.openedAt = CircuitOpen, cause, now
	c.opening++
	c.byRow, c.believe = o.byRow, o.believe && c.failedTries == 0
	c.checkedOnce, c.failedChecks, c.doubtful, c.trial = false, 0, false, nil
	c.unknown, c.definite = failureRow{}, failureRow{}
	first := c.times.freeTrial
	switch {
	case o.paid && c.failedTries > 0:
		first = c.times.maxTrial // a check was believed, and the request that followed may have been billed
	case o.paid:
		first = c.times.paidTrial
	}
	c.trialWait = min(max(c.trialWait, first), c.times.maxTrial)
	wait := c.times.firstCheck
	if c.scope == task.ScopeAll {
		wait = min(wait<<min(c.failedTries, 10), c.times.maxCheck)
	}
	switch {
	case o.checkFailed:
		c.checkedOnce, c.failedChecks = true, 1
	case !o.byRow && c.scope != task.ScopeAll:
		wait = 0 // it says soon whether a check sees the cause
	}
	c.nextCheck = now.Add(max(wait, c.limitedWait(cause)))
}

// limitedWait returns how long a rate limit asks to wait, within bounds, or 0.
func (c *circuit) limitedWait(cause *task.Error) time.Duration {
	if cause.Code != task.CodeRateLimited {
		return 0
	}
	return min(cause.RetryAfter, c.times.maxTrial)
}

// tryFailed reopens a half-open circuit whose trial failed.
func (c *circuit) tryFailed(now time.Time, cause *task.Error, o opening) {
	if c.afterCheck {
		c.failedTries++
		c.triedAt = now
	} else {
		c.trialWait = min(2*c.trialWait, c.times.maxTrial)
	}
	c.reopen(now, cause, o)
}

// heldUntil returns until when a check that succeeds is not followed: tries failed although checks had succeeded before them.
func (c *circuit) heldUntil() time.Time {
	if c.failedTries == 0 || c.scope == task.ScopeAll {
		return time.Time{}
	}
	return c.triedAt.Add(min(c.times.hold<<min(c.failedTries-1, 10), c.times.maxTrial))
}

// checkStarted records that a check has started. If it gets no answer, the next follows in the longest time between two.
func (c *circuit) checkStarted(now time.Time) {
	c.nextCheck = now.Add(c.times.maxCheck)
	c.running++
}

// checked records the result of a check that began in an opening: what is wrong, or nil. uncheckable: it may be the same when the API works. It reports whether
// the circuit is not open any more.
func (c *circuit) checked(now time.Time, opening int, cause *task.Error, uncheckable bool) bool {
	if cause == nil && !uncheckable {
		c.checkWorks, c.misleading = true, false
	}
	if !c.isOpen() || opening != c.opening {
		return false
	}
	c.checkedOnce = true
	if cause != nil {
		c.failedChecks++
		c.cause, c.doubtful = cause, uncheckable
		next := now.Add(min(c.times.firstCheck<<min(c.failedChecks, 10), c.times.maxCheck))
		if c.nextCheck.Before(next) {
			next = c.nextCheck // the end of a check that got no answer does not delay the next
		}
		if limited := now.Add(c.limitedWait(cause)); next.Before(limited) {
			next = limited
		}
		c.nextCheck = next
		return false
	}
	c.nextCheck = now.Add(c.times.maxCheck)
	if c.scope == task.ScopeAll {
		c.close(now, false)
		return true
	}
	says := c.cause.NotSent || !uncheckable && (c.believe || c.failedChecks > 0)
	if !says {
		return false
	}
	if held := c.heldUntil(); now.Before(held) {
		if held.Before(c.nextCheck) {
			c.nextCheck = held
		}
		return false
	}
	if c.cause.NotSent && c.failedTries == 0 {
		c.close(now, false)
		return true
	}
	c.halve(now, true)
	return true
}

// trialAt returns when a task is tried without a check that says something; the zero time: never.
func (c *circuit) trialAt() time.Time {
	switch {
	case !c.isOpen(), c.scope == task.ScopeAll:
		return time.Time{}
	case c.failedChecks == 0, c.doubtful:
		return c.openedAt.Add(c.trialWait)
	case c.cause.NotSent: // it could not be sent
		return time.Time{}
	case c.checkWorks:
		return c.openedAt.Add(seenOutageTrials * c.times.maxTrial)
	}
	return c.openedAt.Add(c.times.maxTrial)
}

// tryDue makes an open circuit half-open if its trial is due.
func (c *circuit) tryDue(now time.Time) {
	if at := c.trialAt(); !at.IsZero() && !now.Before(at) && c.checkedOnce {
		c.halve(now, false)
	}
}

// halve makes the circuit half-open.
func (c *circuit) halve(now time.Time, afterCheck bool) {
	c.state, c.halfOpenAt, c.afterCheck, c.trial = CircuitHalfOpen, now, afterCheck, nil
}

// close closes the circuit. answered: the API has answered; otherwise the next opening continues the series.
func (c *circuit) close(now time.Time, answered bool) {
	c.state, c.cause, c.trial, c.closedAt, c.confirmed = CircuitClosed, nil, nil, now, answered
	c.unknown, c.definite = failureRow{}, failureRow{}
}

// answered records an answer to an attempt that was claimed then. It reports whether it closed the circuit.
func (c *circuit) answered(now time.Time, l task.Lease, claimedAt time.Time) bool {
	c.unknown, c.definite = failureRow{}, failureRow{}
	switch {
	case c.isClosed():
		if !claimedAt.Before(c.closedAt) {
			c.confirmed, c.rateLimits = true, 0
		}
		return false
	case c.isOpen() && (!c.byRow || c.failedChecks > 0):
		return false
	case c.state == CircuitHalfOpen && !c.isTrial(l) && claimedAt.Before(c.halfOpenAt) && !c.byRow:
		return false
	}
	if c.isTrial(l) && !c.afterCheck && c.failedChecks > 0 && !c.doubtful {
		c.checkWorks, c.misleading = false, true
	}
	c.close(now, true)
	c.rateLimits = 0
	return true
}

// isTrial reports whether the task of that lease tries the circuit.
func (c *circuit) isTrial(l task.Lease) bool { return c.trial != nil && *c.trial == l }

// fromBefore reports whether an attempt was claimed before the circuit last stopped being open, so that its failure says nothing.
func (c *circuit) fromBefore(l task.Lease, claimedAt time.Time) bool {
	switch {
	case c.isClosed():
		return claimedAt.Before(c.closedAt)
	case c.state == CircuitHalfOpen:
		return !c.isTrial(l)
	}
	return false
}

// pause stops claims for retryAfter, or for a growing time if retryAfter is 0, and returns that time.
func (c *circuit) pause(now time.Time, retryAfter time.Duration) time.Duration {
	if now.After(c.pausedUntil) {
		c.rateLimits++ // once for all tasks that met the same limit
	}
	wait := task.Backoff(c.rateLimits, retryAfter)
	if until := now.Add(wait); until.After(c.pausedUntil) {
		c.pausedUntil = until
	}
	return wait
}

func (c *circuit) isPaused(now time.Time) bool { return now.Before(c.pausedUntil) }

// releaseWait returns how long a task waits whose request failed, so that the next trial takes another; 0: it need not wait.
func (c *circuit) releaseWait(now time.Time) time.Duration {
	at := c.trialAt()
	if at.IsZero() || c.believe || c.failedChecks > 0 && !c.doubtful || !at.After(now) {
		return 0
	}
	wait := at.Sub(now)
	return wait + wait/4
}
