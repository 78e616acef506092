package processor

import (
	"context"
	"fmt"
	"time"

	"imagetasks/pkg/health"
	"imagetasks/pkg/task"
)

// What a health check reports as being done about a failure.
const (
	actionWaiting        = "waiting for it"
	actionPaused         = "claiming is paused"
	actionPausedEndpoint = "claiming for this endpoint is paused"
)

// healthChecks checks the database and the API at intervals and keeps the last results.
type healthChecks struct {
	queue         Queue
	circuits      *circuitSet
	database      *databaseState
	events        *eventRecorder
	sanitizer     sanitizer
	interval      time.Duration
	probeInterval time.Duration // the API is asked when it did not respond for so long
	history       health.History
}

// run checks until ctx ends, and calls checked after each round.
func (h *healthChecks) run(ctx context.Context, checked func()) {
	every(ctx, h.interval, func() {
		h.record("database", func() (string, string, bool) { return h.checkDatabase(ctx) })
		for _, e := range h.circuits.endpoints {
			name := "api"
			if len(h.circuits.endpoints) > 1 {
				name += " " + e.conf.Name
			}
			h.record(name, func() (string, string, bool) { return h.checkAPI(ctx, e) })
		}
		checked()
	})
}

func (h *healthChecks) record(name string, check func() (result, action string, ok bool)) {
	began := time.Now()
	result, action, ok := check()
	h.history.Add(health.Check{At: began, Name: name, OK: ok, Millis: time.Since(began).Milliseconds(), Result: result, Action: action})
	h.events.record(Event{Kind: EventHealthChecked})
}

func (h *healthChecks) checkDatabase(ctx context.Context) (result, action string, ok bool) {
	if _, err := bounded(ctx, h.queue.HasPending); err != nil {
		h.database.failed(ctx, "check the queue", err)
		return h.sanitizer.sanitize(err).Message, actionWaiting, false
	}
	h.database.succeeded()
	return "responds", "", true
}

// checkAPI asks an endpoint, unless it responded recently or is known to be unreachable.
func (h *healthChecks) checkAPI(ctx context.Context, of *circuits) (result, action string, ok bool) {
	if cause := of.endpointCause(); cause != nil {
		return cause.Message, h.paused(), false
	}
	last := of.responded()
	if !last.IsZero() && time.Since(last) < h.probeInterval {
		return fmt.Sprintf("responded %s ago", time.Since(last).Round(time.Second)), "", true
	}
	e, uncheckable := of.checkEndpoint(ctx)
	switch {
	case uncheckable && e == nil:
		return "can be asked only with a paid request", "", true
	case e == nil:
		return "responds", "", true
	case ctx.Err() == nil && e.Disposition == task.Pause && !uncheckable:
		of.open(&of.endpoint, e)
		return e.Message, h.paused(), false
	}
	return e.Message, "", false
}

// paused says what the failure of one endpoint pauses.
func (h *healthChecks) paused() string {
	if len(h.circuits.endpoints) > 1 {
		return actionPausedEndpoint
	}
	return actionPaused
}
