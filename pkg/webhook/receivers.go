package webhook

import (
	"math/rand/v2"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"imagetasks/pkg/store"
)

const (
	// failuresToPause is how often in a row a receiver fails before events to it wait, and only one at a time is tried. One event that it
	// refuses does not hold up the others.
	failuresToPause = 3
	// Pauses are parts of the wait before the first retry of an event: 1s, then twice the time, up to 30s.
	firstPause, longestPause = 1.0 / 5, 6
	// longestAsked bounds a pause that the receiver asked for with Retry-After.
	longestAsked = time.Hour
)

// receiver is a host that events are sent to. It is of the loop alone.
type receiver struct {
	inFlight int
	failures int // in a row
	until    time.Time
}

func (s *Service) receiver(host string) *receiver {
	r := s.receivers[host]
	if r == nil {
		r = &receiver{}
		s.receivers[host] = r
	}
	return r
}

// limits returns how many events of each known host may be claimed now. Others are unlimited.
func (s *Service) limits(now time.Time) map[string]int {
	limits := map[string]int{}
	if s.url == nil {
		limits[""] = 0
	}
	for host, r := range s.receivers {
		switch {
		case now.Before(r.until):
			limits[host] = 0
		case r.failures >= failuresToPause:
			limits[host] = max(0, 1-r.inFlight)
		default:
			limits[host] = max(0, s.conf.PerHost-r.inFlight)
		}
	}
	return limits
}

// worked notes a success, and reports whether the receiver had been failing.
func (r *receiver) worked() bool {
	failing := r.failures >= failuresToPause
	r.failures, r.until = 0, time.Time{}
	return failing
}

// failed notes a failure, and reports whether the receiver counts as failing from now on.
func (r *receiver) failed(now time.Time, o store.EventOutcome, firstRetry time.Duration) bool {
	r.failures++
	if o.Status == 0 { // there was no response: others would have none either
		begins := r.failures < failuresToPause
		r.failures = max(r.failures, failuresToPause)
		r.pause(now, o, firstRetry)
		return begins
	}
	r.pause(now, o, firstRetry)
	return r.failures == failuresToPause
}

func (r *receiver) pause(now time.Time, o store.EventOutcome, firstRetry time.Duration) {
	if n := r.failures - failuresToPause; n >= 0 {
		unit := float64(firstRetry)
		r.until = now.Add(jitter(time.Duration(min(firstPause*unit*float64(int(1)<<min(n, 10)), longestPause*unit))))
	}
	if o.Status == statusTooManyRequests || o.Status == statusUnavailable {
		if asked := now.Add(min(o.Wait, longestAsked)); o.Asked && asked.After(r.until) {
			r.until = asked
		}
	}
}

// idle reports whether nothing has to be kept about the receiver.
func (r *receiver) idle() bool { return r.inFlight == 0 && r.failures == 0 && r.until.IsZero() }

// jitter returns d with up to a fifth more or less.
func jitter(d time.Duration) time.Duration {
	return d + time.Duration((rand.Float64()-0.5)*0.4*float64(d))
}

// reporter logs a call of the database that fails, when it begins and when it works again.
type reporter struct {
	log logrus.FieldLogger

	mu      sync.Mutex
	failing map[string]bool
}

func (r *reporter) result(step string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if (err != nil) == r.failing[step] {
		return
	}
	if r.failing == nil {
		r.failing = map[string]bool{}
	}
	r.failing[step] = err != nil
	if err == nil {
		r.log.Infof("%s: works again", step)
		return
	}
	text := err.Error()
	if store.IsUnavailable(err) {
		text = "the database is unavailable"
	}
	r.log.Warnf("%s: %s; it is tried again", step, text)
}
