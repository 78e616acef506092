package task

import (
	"math/rand/v2"
	"time"
)

// The bounds of a retry's backoff.
const (
	BackoffBase = 3 * time.Second
	BackoffMax  = 5 * time.Minute
)

// Backoff returns the wait after failed attempt number attempt (from 1): 3s, doubled each time, at most 5m, less up to a
// quarter at random, so that tasks that failed together are not retried together. retryAfter, if the API sent one, is the
// minimum instead.
func Backoff(attempt int, retryAfter time.Duration) time.Duration {
	wait := BackoffMax
	if attempt = max(attempt, 1); attempt < 8 {
		wait = min(BackoffBase<<(attempt-1), BackoffMax)
	}
	jitter := time.Duration(rand.Int64N(int64(wait / 4)))
	if retryAfter > 0 {
		return retryAfter + jitter/4
	}
	return wait - jitter
}
