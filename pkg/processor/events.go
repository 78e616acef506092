package processor

import (
	"maps"
	"sync"
	"time"

	"imagetasks/pkg/task"
)

// EventKind is what happened.
type EventKind string

// The steps of a task and of the processor.
const (
	EventClaimed          EventKind = "claimed"
	EventCompleted        EventKind = "completed"
	EventRetried          EventKind = "retried"
	EventReleased         EventKind = "released"
	EventFailed           EventKind = "failed"
	EventLeaseLost        EventKind = "lease_lost"
	EventOutcomeUnknown   EventKind = "outcome_unknown" // of a paid request
	EventAbandoned        EventKind = "abandoned"
	EventOverdue          EventKind = "overdue"
	EventLeasesRenewed    EventKind = "leases_renewed"
	EventHeartbeat        EventKind = "heartbeat"
	EventHealthChecked    EventKind = "health_check"
	EventCircuitOpened    EventKind = "circuit_opened"
	EventCircuitClosed    EventKind = "circuit_closed"
	EventDatabaseLost     EventKind = "database_lost"
	EventDatabaseRestored EventKind = "database_restored"
)

// EventClaimCall is one call of Queue.Claim that was answered. It is not counted.
const EventClaimCall EventKind = "claim_call"

// Event is one step.
type Event struct {
	Kind     EventKind
	Task     string        // empty when the event is not about a task
	Code     task.Code     // why a task was retried, released or failed
	Credits  int64         // that were charged for the run of a completed task, or refunded for one that failed
	Duration time.Duration // of a completed task, since its claim; of a claimed one, since it was due (0 after a lost claim); of a call
	Write    time.Duration // of a completed task: how long recording that took
}

// Counts is the number of events of each kind since the start.
type Counts map[EventKind]int

// eventRecorder counts events and passes them on. It is safe for concurrent use.
type eventRecorder struct {
	observe func(Event) // optional

	mu     sync.Mutex
	counts Counts
	took   time.Duration // of a completed task, a moving average; 0: none yet
}

func (r *eventRecorder) record(e Event) {
	r.mu.Lock()
	if r.counts == nil {
		r.counts = Counts{}
	}
	r.counts[e.Kind]++
	switch {
	case e.Kind != EventCompleted:
	case r.took == 0:
		r.took = e.Duration
	default:
		r.took += (e.Duration - r.took) / 10
	}
	r.mu.Unlock()
	r.pass(e)
}

// pass passes an event on without counting it.
func (r *eventRecorder) pass(e Event) {
	if r.observe != nil {
		r.observe(e)
	}
}

// taskDuration returns the moving average of the time that a completed task took, 0 before the first.
func (r *eventRecorder) taskDuration() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.took
}

// snapshot returns a copy of the counts.
func (r *eventRecorder) snapshot() Counts {
	r.mu.Lock()
	defer r.mu.Unlock()
	counts := Counts{}
	maps.Copy(counts, r.counts)
	return counts
}
