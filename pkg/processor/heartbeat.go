package processor

import (
	"context"
	"time"

	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// heartbeats renews the leases of everything in hand, every third of a lease, until ctx ends.
func (p *Processor) heartbeats(ctx context.Context) {
	tick := time.NewTicker(max(p.conf.Lease/3, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			p.heartbeat(ctx)
		}
	}
}

func (p *Processor) heartbeat(ctx context.Context) {
	p.mu.Lock()
	attempts := make([]*attempt, 0, len(p.inFlight))
	for _, a := range p.inFlight {
		attempts = append(attempts, a)
	}
	p.mu.Unlock()
	beats := make([]store.LeaseRenewal, len(attempts))
	for i, a := range attempts {
		beats[i] = a.beat()
	}
	// An answer that comes after the next beat is due is of no use.
	bounded, cancel := context.WithTimeout(ctx, max(p.conf.Lease/3, time.Second))
	defer cancel()
	held, err := p.queue.RenewLeases(bounded, p.conf.Lease, beats)
	if err != nil {
		p.troubled(ctx, "renew leases", err)
		return
	}
	if len(beats) > 0 {
		p.answered()
	}
	still := make(map[task.Lease]bool, len(held))
	for _, l := range held {
		still[l] = true
	}
	for _, a := range attempts {
		if !still[a.task.Lease()] && !a.isClosing() {
			a.abort(errLeaseLost)
		}
	}
	p.note(Event{Kind: EventLeasesRenewed})
}
