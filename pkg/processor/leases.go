package processor

import (
	"context"
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
}

// run renews until ctx ends.
func (r *leaseRenewer) run(ctx context.Context) {
	tick := time.NewTicker(max(r.lease/3, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			r.renew(ctx)
		}
	}
}

func (r *leaseRenewer) renew(ctx context.Context) {
	attempts := r.inFlight.list()
	renewals := make([]store.LeaseRenewal, len(attempts))
	for i, a := range attempts {
		renewals[i] = a.renewal()
	}
	// A response after the next renewal is due is of no use.
	bounded, cancel := context.WithTimeout(ctx, max(r.lease/3, time.Second))
	defer cancel()
	held, err := r.queue.RenewLeases(bounded, r.lease, renewals)
	if err != nil {
		r.database.failed(ctx, "renew leases", err)
		return
	}
	if len(renewals) > 0 {
		r.database.succeeded()
	}
	stillHeld := make(map[task.Lease]bool, len(held))
	for _, l := range held {
		stillHeld[l] = true
	}
	for _, a := range attempts {
		if !stillHeld[a.task.Lease()] && !a.isClosing() {
			a.abort(errLeaseLost)
		}
	}
	r.events.record(Event{Kind: EventLeasesRenewed})
}
