package processor

import (
	"sync"
	"time"

	"imagetasks/pkg/task"
)

// The waits of the circuit breaker.
const (
	firstProbeWait = time.Second
	maxProbeWait   = 5 * time.Second // probes are cheap
	firstFlapWait  = 5 * time.Second
	maxFlapWait    = 5 * time.Minute
)

// apiBreaker is the circuit breaker of the image API: it decides whether tasks may be claimed. A failure that affects every
// task opens it; then the API is probed. A successful probe proves only that there is a connection. Therefore the breaker is
// half-open next: a single task is claimed, and the others follow when the API responded to it. The breaker also pauses claims
// for rate limits. The zero value is closed. It is safe for concurrent use.
type apiBreaker struct {
	mu           sync.Mutex
	cause        *task.Error // nil: closed or half-open
	openedAt     time.Time
	nextProbe    time.Time
	failedProbes int       // in a row
	flaps        int       // times it opened again with no response in between
	halfOpen     bool      // one task at a time
	confirmed    bool      // the API responded since reopenedAt
	reopenedAt   time.Time // when claiming last resumed; zero: it was never open

	pausedUntil time.Time // for a rate limit
	rateLimits  int       // met in a row
}

// open opens the breaker and reports whether it was closed or half-open before.
func (b *apiBreaker) open(now time.Time, cause *task.Error) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cause != nil {
		return false
	}
	if !b.reopenedAt.IsZero() && !b.confirmed {
		b.flaps++
	}
	b.cause, b.openedAt, b.failedProbes, b.halfOpen = cause, now, 0, false
	b.nextProbe = now.Add(max(firstProbeWait, cause.RetryAfter))
	return true
}

// reason returns why the breaker is open, or nil.
func (b *apiBreaker) reason() *task.Error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.cause
}

// wait returns how long nothing may be claimed, or that it is time to probe.
func (b *apiBreaker) wait(now time.Time) (wait time.Duration, probe bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cause == nil {
		return max(b.pausedUntil.Sub(now), 0), false
	}
	if wait := b.nextProbe.Sub(now); wait > 0 {
		return wait, false
	}
	return 0, true
}

// probeFailed records a failed probe and returns the wait until the next.
func (b *apiBreaker) probeFailed(now time.Time, cause *task.Error) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failedProbes++
	wait := min(firstProbeWait<<min(b.failedProbes, 10), maxProbeWait)
	if cause.RetryAfter > 0 {
		wait = cause.RetryAfter
	}
	b.cause, b.nextProbe = cause, now.Add(wait)
	return wait
}

// probeSucceeded closes the breaker when no request was sent before it opened, unless that keeps happening; otherwise it
// makes the breaker half-open. When tasks kept failing after such probes, the breaker stays open longer each time, and the
// wait is returned. wait 0 means that claiming resumes, after the breaker was open for openFor.
func (b *apiBreaker) probeSucceeded(now time.Time) (wait, openFor time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.flaps > 0 {
		hold := min(firstFlapWait<<min(b.flaps-1, 10), maxFlapWait)
		if wait := b.openedAt.Add(hold).Sub(now); wait > 0 {
			b.nextProbe = now.Add(wait)
			return wait, 0
		}
	}
	b.halfOpen = !b.cause.NotSent || b.flaps > 1
	b.cause, b.confirmed, b.reopenedAt = nil, false, now
	return 0, now.Sub(b.openedAt)
}

// responded records that the API responded to an attempt that was claimed then. It reports whether that ended the half-open
// state.
func (b *apiBreaker) responded(claimedAt time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cause != nil || claimedAt.Before(b.reopenedAt) {
		return false
	}
	ended := b.halfOpen
	b.halfOpen, b.confirmed, b.flaps, b.rateLimits = false, true, 0, 0
	return ended
}

// limit returns how many tasks may be in flight: one while the breaker is half-open.
func (b *apiBreaker) limit(concurrency int) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.halfOpen {
		return 1
	}
	return concurrency
}

// pause stops claims for retryAfter, or for a growing time if retryAfter is 0, and returns that time.
func (b *apiBreaker) pause(now time.Time, retryAfter time.Duration) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if now.After(b.pausedUntil) {
		b.rateLimits++ // once for all tasks that met the same limit
	}
	wait := task.Backoff(b.rateLimits, retryAfter)
	if until := now.Add(wait); until.After(b.pausedUntil) {
		b.pausedUntil = until
	}
	return wait
}

// snapshot returns the end of a pause (zero: not paused), and why and since when the breaker is open (nil: it is not).
func (b *apiBreaker) snapshot(now time.Time) (pausedUntil time.Time, cause *task.Error, since time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if now.Before(b.pausedUntil) {
		pausedUntil = b.pausedUntil
	}
	if b.cause != nil {
		since = b.openedAt
	}
	return pausedUntil, b.cause, since
}
