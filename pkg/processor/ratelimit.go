package processor

import (
	"time"

	"golang.org/x/time/rate"
)

// newPace returns a limiter for so many attempts a minute, spread over it: APIs that allow 60 a minute may refuse
// the second within a second.
func newPace(perMinute int) *rate.Limiter {
	if perMinute <= 0 {
		return rate.NewLimiter(rate.Inf, 0)
	}
	const turnsPerMinute = 600 // what falls into a tenth of a second may come at once
	return rate.NewLimiter(rate.Limit(float64(perMinute)/60), max(1, perMinute/turnsPerMinute))
}

// paced returns how many of the tasks that there is room for may be claimed now, and how long to wait before the next.
func (p *Processor) paced(free int) (allowed int, wait time.Duration) {
	if p.rateLimiter.Limit() == rate.Inf {
		return free, p.conf.PollInterval
	}
	now := time.Now()
	allowed = min(free, int(p.rateLimiter.TokensAt(now)))
	missing := 1 + float64(allowed) - p.rateLimiter.TokensAt(now)
	if allowed == free {
		return allowed, p.conf.PollInterval
	}
	wait = time.Duration(missing / float64(p.rateLimiter.Limit()) * float64(time.Second))
	return allowed, min(max(wait, time.Millisecond), p.conf.PollInterval)
}
