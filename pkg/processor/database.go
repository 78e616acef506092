package processor

import (
	"context"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"imagetasks/pkg/store"
)

// The waits between two tries while the database is unavailable: a quarter of the time it has been unavailable so far,
// within these bounds.
const (
	minDatabaseWait = 200 * time.Millisecond
	maxDatabaseWait = 10 * time.Second
)

// databaseState tracks whether the database is available, and logs each change once. It is safe for concurrent use.
type databaseState struct {
	log          logrus.FieldLogger
	events       *eventRecorder
	pollInterval time.Duration // the wait after an error that is not an outage

	mu         sync.Mutex
	lostAt     time.Time // zero: available
	restoredAt time.Time // after the last outage; zero: there was none
}

// failed records that a call failed, and returns how long to wait before the next.
func (d *databaseState) failed(ctx context.Context, call string, err error) time.Duration {
	if ctx.Err() != nil {
		return d.pollInterval
	}
	if !store.IsUnavailable(err) {
		d.log.WithError(err).Errorf("the database refused to %s", call)
		return d.pollInterval
	}
	d.mu.Lock()
	first := d.lostAt.IsZero()
	if first {
		d.lostAt = time.Now()
	}
	lostFor := time.Since(d.lostAt)
	d.mu.Unlock()
	if first {
		d.log.WithError(err).Warn("the database is unavailable; waiting for it")
		d.events.record(Event{Kind: EventDatabaseLost})
	}
	return min(max(lostFor/4, minDatabaseWait), maxDatabaseWait)
}

// succeeded records that a call succeeded.
func (d *databaseState) succeeded() {
	d.mu.Lock()
	lostAt := d.lostAt
	d.lostAt = time.Time{}
	if !lostAt.IsZero() {
		d.restoredAt = time.Now()
	}
	d.mu.Unlock()
	if !lostAt.IsZero() {
		d.log.WithField("after", time.Since(lostAt).Round(time.Second)).Info("the database is available again")
		d.events.record(Event{Kind: EventDatabaseRestored})
	}
}

// settled reports whether the database is available, and was for the time of a lease: until then the owners of leases that expired
// during an outage may come back.
func (d *databaseState) settled(lease time.Duration) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.lostAt.IsZero() && (d.restoredAt.IsZero() || time.Since(d.restoredAt) >= lease)
}

// unavailableSince returns the zero time while the database is available.
func (d *databaseState) unavailableSince() time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.lostAt
}

// callTimeout bounds one call of the database. A longer one means that the connection is broken without an error.
const callTimeout = 30 * time.Second

// bounded makes one call of the database within callTimeout.
func bounded[T any](ctx context.Context, call func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return call(ctx)
}
