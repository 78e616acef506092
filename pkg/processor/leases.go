package processor

import (
	"context"
	"sync"
	"time"

	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// leaseRenewer renews the leases of the attempts in flight, every third of a lease, and aborts attempts whose lease is lost.
type leaseRenewer struct {
	queue    Queue
	lease    time.Duration
	inFlight *inFlight
	database *databaseState
	events   *eventRecorder

	mu          sync.Mutex
	failingFrom time.Time // of the first failed renewal since the last one that succeeded; zero: it succeeded
}

// failing reports whether the leases could not be renewed for so long that they may be lost: nothing more may be started.
func (r *leaseRenewer) failing() bool {
	since := r.failingSince()
	return !since.IsZero() && time.Since(since) > r.lease/6
}

// failingSince returns since when the leases can't be renewed; zero: they can.
func (r *leaseRenewer) failingSince() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failingFrom
}

func (r *leaseRenewer) note(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err == nil:
		r.failingFrom = time.Time{}
	case r.failingFrom.IsZero():
		r.failingFrom = time.Now()
	}
}

// run renews until ctx ends.
func (r *leaseRenewer) run(ctx context.Context) {
	interval := max(r.lease/3, time.Millisecond)
	timer := time.NewTimer(interval)
	defer timer.Stop()
	failures := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		next := interval
		locked, err := r.renew(ctx)
		switch {
		case err != nil:
			next = r.database.failed(ctx, "renew leases", err)
			if failures++; failures == 1 {
				next = time.Millisecond // at once, on a new connection
			}
		default:
			failures = 0
			if locked > 0 {
				next = max(interval/20, time.Millisecond)
			}
		}
		timer.Reset(min(next, interval))
	}
}

// minRenewTimeout is the least time that one try to renew the leases gets.
const minRenewTimeout = 300 * time.Millisecond

// renew renews all leases. It returns how many could not be renewed because somebody else has locked their rows: until that ends, the
// leases may expire, and must be renewed before another processor claims the tasks.
func (r *leaseRenewer) renew(ctx context.Context) (locked int, err error) {
	attempts := r.inFlight.list()
	renewals := make([]store.LeaseRenewal, len(attempts))
	for i, a := range attempts {
		renewals[i] = a.renewal()
	}
	// A connection that is silent leaves the time for more tries within the lease.
	bounded, cancel := context.WithTimeout(ctx, max(r.lease/6, minRenewTimeout))
	defer cancel()
	held, locked, err := r.queue.RenewLeases(bounded, r.lease, renewals)
	if len(renewals) == 0 && !r.failingSince().IsZero() {
		err = r.queue.PingLeases(bounded) // without a lease, too, it must be known when they can be renewed again
	}
	if ctx.Err() == nil {
		r.note(err)
	}
	if err != nil {
		return 0, err
	}
	if len(renewals) > 0 {
		r.database.succeeded()
	}
	if len(held) < len(attempts) {
		stillHeld := make(map[task.Lease]bool, len(held))
		for _, l := range held {
			stillHeld[l] = true
		}
		for _, a := range attempts {
			if !stillHeld[a.task.Lease()] && !a.isClosing() {
				a.cancel(errLeaseLost)
			}
		}
	}
	r.events.record(Event{Kind: EventLeasesRenewed})
	return locked, nil
}
