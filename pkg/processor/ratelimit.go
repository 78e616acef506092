package processor

import (
	"time"

	"golang.org/x/time/rate"
)

// rateLimiter limits claims to Config.RateLimit a minute. It is used by the claim loop alone.
type rateLimiter struct {
	tokens       *rate.Limiter
	pollInterval time.Duration
}

// burstsPerMinute is how many bursts a minute is divided into: the claims of a tenth of a second may be made at once.
const burstsPerMinute = 600

// newRateLimiter returns a limiter for perMinute attempts, evenly spread: APIs that allow 60 a minute may refuse
// the second within one second. 0 or less means no limit.
func newRateLimiter(perMinute int, pollInterval time.Duration) *rateLimiter {
	if perMinute <= 0 {
		return &rateLimiter{rate.NewLimiter(rate.Inf, 0), pollInterval}
	}
	tokens := rate.NewLimiter(rate.Limit(float64(perMinute)/60), max(1, perMinute/burstsPerMinute))
	return &rateLimiter{tokens, pollInterval}
}

// allow returns how many of at most n tasks may be claimed now, and how long to wait before the next claim.
func (r *rateLimiter) allow(now time.Time, n int) (allowed int, wait time.Duration) {
	if r.tokens.Limit() == rate.Inf {
		return n, r.pollInterval
	}
	available := r.tokens.TokensAt(now)
	allowed = min(n, int(available))
	if allowed == n {
		return allowed, r.pollInterval
	}
	missing := 1 + float64(allowed) - available
	wait = time.Duration(missing / float64(r.tokens.Limit()) * float64(time.Second))
	return allowed, min(max(wait, time.Millisecond), r.pollInterval)
}

// use records n claims.
func (r *rateLimiter) use(now time.Time, n int) { r.tokens.AllowN(now, n) }
