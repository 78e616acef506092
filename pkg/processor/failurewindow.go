package processor

import (
	"context"
	"maps"
	"sync"
	"time"

	"imagetasks/pkg/task"
)

// failureSpan is how close in time connections fail that fail for the same reason.
const failureSpan = 2 * time.Second

// failureMemory is how long a failure is kept.
const failureMemory = time.Minute

// failureWindow keeps the attempts whose connections broke recently. When most attempts in flight break at once, the
// connection to the API as a whole broke, even when it works again by now: a proxy that was restarted, for example. The
// zero value is ready. It is safe for concurrent use.
type failureWindow struct {
	mu      sync.Mutex
	at      map[task.Lease]time.Time
	changed chan struct{} // closed at the next record; nil: no caller waits for it
}

func (w *failureWindow) record(l task.Lease, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.at == nil {
		w.at = map[task.Lease]time.Time{}
	}
	maps.DeleteFunc(w.at, func(_ task.Lease, at time.Time) bool { return now.Sub(at) > failureMemory })
	w.at[l] = now
	if w.changed != nil {
		close(w.changed)
		w.changed = nil
	}
}

// isShared reports whether others failed together with l, and with it are at least half of those in flight. It waits up to
// failureSpan for them: connections that break for one reason don't break at the same instant.
func (w *failureWindow) isShared(ctx context.Context, l task.Lease, inFlightCount func() int) bool {
	ctx, cancel := context.WithTimeout(ctx, failureSpan)
	defer cancel()
	for {
		n, changed := w.countNear(l)
		if all := inFlightCount(); all < 2 || n > 1 && 2*n >= all {
			return all > 1
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// countNear returns how many failed within failureSpan of l, l included, and a channel that is closed when that may have
// changed.
func (w *failureWindow) countNear(l task.Lease) (n int, changed <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, at := range w.at {
		if at.Sub(w.at[l]).Abs() < failureSpan {
			n++
		}
	}
	if w.changed == nil {
		w.changed = make(chan struct{})
	}
	return n, w.changed
}
