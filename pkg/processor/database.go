package processor

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"imagetasks/pkg/store"
)

// The waits between two tries while the database is unavailable or refuses a call: a quarter of the time this has lasted so far, within these
// bounds, and a sixth of a lease at most.
const (
	minDatabaseWait = 200 * time.Millisecond
	maxDatabaseWait = 10 * time.Second
)

// databaseLogInterval is the least time between two lines about the same kind of call.
const databaseLogInterval = time.Minute

// databaseState tracks whether the database is available, and logs each change once. It is safe for concurrent use.
type databaseState struct {
	log          logrus.FieldLogger
	events       *eventRecorder
	pollInterval time.Duration // the wait after an error that is not an outage, at most
	lease        time.Duration

	mu         sync.Mutex
	lostAt     time.Time // zero: available
	restoredAt time.Time // after the last outage in which leases may have expired; zero: there was none
	reported   bool      // that it is unavailable
	outages    logLimiter
	refusals   logLimiter
	refused    map[string]refusal // by the call
	deaf       bool               // no notification arrives
}

// deafPoll is how long the claim loop waits at most while no notification arrives because the connection for them is broken.
const deafPoll = time.Second

// poll returns how long the claim loop waits where nothing wakes it.
func (d *databaseState) poll() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.deaf {
		return min(d.pollInterval, deafPoll)
	}
	return d.pollInterval
}

// heard records that notifications arrive.
func (d *databaseState) heard() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.deaf = false
}

// refusal is a series of errors with which the database answered a kind of call.
type refusal struct{ since, last time.Time }

// failed records that a call failed, and returns how long to wait before the next.
func (d *databaseState) failed(ctx context.Context, call string, err error) time.Duration {
	if ctx.Err() != nil {
		return d.pollInterval
	}
	if !store.IsUnavailable(err) {
		return d.callRefused(call, err)
	}
	now := time.Now()
	d.mu.Lock()
	first, report, repeated := d.lostAt.IsZero(), false, 0
	if first {
		d.lostAt = now
		report, repeated = d.outages.allow(call, now)
		d.reported = report
	}
	lostFor := now.Sub(d.lostAt)
	d.mu.Unlock()
	if report {
		d.logRepeated(err, repeated).Warn(outageMessage(call, err))
	}
	if first {
		d.events.record(Event{Kind: EventDatabaseLost})
	}
	return d.wait(lostFor)
}

// outageMessage describes why a call failed that the database did not answer.
func outageMessage(call string, err error) string {
	if lost, ok := errors.AsType[*store.LostAnswerError](err); ok && lost.Silence > 0 {
		return fmt.Sprintf("the database did not respond for %s (%s); trying again on a new connection", lost.Silence, call)
	}
	return "the database is unavailable; waiting for it"
}

// callRefused records that the database answered a call with an error, and returns how long to wait before the next.
func (d *databaseState) callRefused(call string, err error) time.Duration {
	now := time.Now()
	d.mu.Lock()
	r, known := d.refused[call]
	if !known || now.Sub(r.last) > 2*maxDatabaseWait {
		r.since = now
	}
	r.last = now
	if d.refused == nil {
		d.refused = map[string]refusal{}
	}
	d.refused[call] = r
	report, repeated := d.refusals.allow(call, now)
	d.mu.Unlock()
	if report {
		d.logRepeated(err, repeated).Errorf("the database refused to %s", call)
	}
	return min(d.wait(now.Sub(r.since)), d.pollInterval)
}

func (d *databaseState) logRepeated(err error, repeated int) logrus.FieldLogger {
	log := d.log.WithError(err)
	if repeated > 0 {
		return log.WithField("repeated", repeated)
	}
	return log
}

func (d *databaseState) wait(lasted time.Duration) time.Duration {
	longest := maxDatabaseWait
	if d.lease > 0 {
		longest = min(longest, max(d.lease/6, time.Millisecond))
	}
	return min(max(lasted/4, minDatabaseWait), longest)
}

// succeeded records that a call succeeded.
func (d *databaseState) succeeded() {
	d.mu.Lock()
	lostAt, reported := d.lostAt, d.reported
	d.lostAt, d.reported = time.Time{}, false
	// A shorter outage lets no lease expire, because they are renewed every third of it.
	if !lostAt.IsZero() && time.Since(lostAt) > d.lease/3 {
		d.restoredAt = time.Now()
	}
	d.mu.Unlock()
	if lostAt.IsZero() {
		return
	}
	if reported {
		d.log.WithField("after", time.Since(lostAt).Round(time.Second)).Info("the database is available again")
	}
	d.events.record(Event{Kind: EventDatabaseRestored})
}

// listenerLost logs that notifications do not arrive for the time being. The claim loop polls more often meanwhile.
func (d *databaseState) listenerLost(err error) {
	d.mu.Lock()
	d.deaf = true
	report, repeated := d.outages.allow("listen", time.Now())
	d.mu.Unlock()
	if report {
		d.logRepeated(err, repeated).Warn("the connection for notifications broke; new tasks are found at the next poll until it is made again")
	}
}

// settled reports whether the database is available, and was for the time of a lease since the last long outage: until then the owners of leases that expired
// during an outage may come back.
func (d *databaseState) settled(lease time.Duration) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return (d.lostAt.IsZero() || time.Since(d.lostAt) <= d.lease/3) && (d.restoredAt.IsZero() || time.Since(d.restoredAt) >= lease)
}

// unavailableSince returns the zero time while the database is available.
func (d *databaseState) unavailableSince() time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.lostAt
}

// logLimiter allows one line about a subject in databaseLogInterval. It is not safe for concurrent use.
type logLimiter struct{ lines map[string]*limitedLine }

type limitedLine struct {
	at         time.Time
	suppressed int
}

// allow reports whether a line may be written, and how many were not since the last.
func (l *logLimiter) allow(subject string, now time.Time) (allowed bool, suppressed int) {
	line := l.lines[subject]
	if line != nil && now.Sub(line.at) < databaseLogInterval {
		line.suppressed++
		return false, 0
	}
	if l.lines == nil {
		l.lines = map[string]*limitedLine{}
	}
	if line != nil {
		suppressed = line.suppressed
	}
	l.lines[subject] = &limitedLine{at: now}
	return true, suppressed
}

// callTimeout bounds one call of the database. A longer one means that the connection is broken without an error.
const callTimeout = 30 * time.Second

// bounded makes one call of the database within callTimeout.
func bounded[T any](ctx context.Context, call func(context.Context) (T, error)) (T, error) {
	return boundedBy(ctx, callTimeout, call)
}

// boundedBy makes one call of the database within limit.
func boundedBy[T any](ctx context.Context, limit time.Duration, call func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return call(ctx)
}
