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

// Backoff returns the wait after the failed attempt of that number (from 1): 3s, doubled each
// time, at most 5m, less up to a quarter by chance, so that tasks that failed together don't
// come back together. The API's Retry-After, where it gave one, is the least wait.
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
