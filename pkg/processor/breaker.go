package processor

import (
	"errors"
	"sync"
	"time"

	"imagetasks/pkg/proxy"
	"imagetasks/pkg/task"
)

// The waits of the gate.
const (
	firstProbe  = time.Second
	longestWait = 5 * time.Second // between probes: they are cheap
	longestFlap = 5 * time.Minute // before a gate is opened that shut again at once each time
)

// apiBreaker says whether tasks may be claimed. It is shut by a failure that holds for every task, and
// opened by a probe. A probe proves that there is a connection; whether the API works, a single task
// shows that goes first. It pauses for rate limits. The zero value is open. It is safe for concurrent use.
type apiBreaker struct {
	mu     sync.Mutex
	cause  *task.Error // nil: open
	since  time.Time
	next   time.Time // of the next probe
	probes int       // that failed, in a row
	flaps  int       // times it shut again with nothing passed in between
	trial  bool      // open for one task, to see
	proved bool      // something passed since it was opened
	opened time.Time // zero: it was never shut

	paused time.Time // until then, for a rate limit
	limits int       // rate limits met in a row
}

// shut shuts the gate and reports whether it was open.
func (g *apiBreaker) shut(now time.Time, cause *task.Error) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.cause != nil {
		return false
	}
	if !g.opened.IsZero() && !g.proved {
		g.flaps++
	}
	g.cause, g.since, g.probes, g.trial = cause, now, 0, false
	g.next = now.Add(max(firstProbe, cause.RetryAfter))
	return true
}

// reason returns why the gate is shut, nil when it is open.
func (g *apiBreaker) reason() *task.Error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.cause
}

// wait returns how long nothing may be claimed, and whether it is time to probe.
func (g *apiBreaker) wait(now time.Time) (wait time.Duration, probe bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.cause == nil {
		return max(g.paused.Sub(now), 0), false
	}
	if wait := g.next.Sub(now); wait > 0 {
		return wait, false
	}
	return 0, true
}

// stillShut notes a probe that failed, and returns the wait until the next.
func (g *apiBreaker) stillShut(now time.Time, cause *task.Error) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.probes++
	wait := min(firstProbe<<min(g.probes, 10), longestWait)
	if cause.RetryAfter > 0 {
		wait = cause.RetryAfter
	}
	g.cause, g.next = cause, now.Add(wait)
	return wait
}

// open opens the gate after a probe that passed: for all where no connection could be made before, unless that keeps
// happening, else for one task. Where tasks kept failing behind such a probe, it first waits longer each time, and returns that wait.
func (g *apiBreaker) open(now time.Time) (wait, shutFor time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.flaps > 0 {
		held := min(5*time.Second<<min(g.flaps-1, 10), longestFlap)
		if wait := g.since.Add(held).Sub(now); wait > 0 {
			g.next = now.Add(wait)
			return wait, 0
		}
	}
	_, unreached := errors.AsType[*proxy.Error](g.cause)
	g.cause, g.trial, g.proved, g.opened = nil, !unreached || g.flaps > 1, false, now
	return 0, now.Sub(g.since)
}

// passed notes that an attempt which began then got an answer from the API. It reports whether that
// ended a trial.
func (g *apiBreaker) passed(began time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.cause != nil || began.Before(g.opened) {
		return false
	}
	ended := g.trial
	g.trial, g.proved, g.flaps, g.limits = false, true, 0, 0
	return ended
}

// limit returns how many tasks may be in hand.
func (g *apiBreaker) limit(concurrency int) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.trial {
		return 1
	}
	return concurrency
}

// pause keeps everyone from claiming for as long as the API asked, or for a growing while where it
// didn't say, and returns that time.
func (g *apiBreaker) pause(now time.Time, retryAfter time.Duration) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	if now.After(g.paused) {
		g.limits++ // one for all the tasks that met the same limit
	}
	wait := task.Backoff(g.limits, retryAfter)
	if until := now.Add(wait); until.After(g.paused) {
		g.paused = until
	}
	return wait
}
