package processor

import (
	"time"

	"imagetasks/pkg/health"
	"imagetasks/pkg/imageapi"
	"imagetasks/pkg/proxy"
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

// Event is one step.
type Event struct {
	Kind     EventKind
	Task     string        // empty where it is about none
	Duration time.Duration // of a completed task, from its claim
}

// Counts is how often each step was taken since the start.
type Counts map[EventKind]int

func (p *Processor) note(e Event) {
	p.mu.Lock()
	if p.counts == nil {
		p.counts = Counts{}
	}
	p.counts[e.Kind]++
	p.mu.Unlock()
	p.conf.Observe(e)
}

// Status is how a processor stands.
type Status struct {
	Worker              string    `json:"worker"`
	PID                 int       `json:"pid"`
	StartedAt           time.Time `json:"started"`
	InFlight            int       `json:"in_flight"`
	Concurrency         int       `json:"concurrency"`
	Counts              Counts    `json:"counts"`
	LastHeartbeat       time.Time `json:"last_heartbeat,omitzero"` // that the database took
	SilentSeconds       float64   `json:"silent_seconds"`          // since then, or since the start
	DatabaseLostAt      time.Time `json:"database_lost_at,omitzero"`
	APIUnreachableSince time.Time `json:"api_unreachable_since,omitzero"`
	APIErrorCode        task.Code `json:"api_error_code,omitempty"`
	APIError            string    `json:"api_error,omitempty"`
	APIRespondedAt      time.Time `json:"api_responded_at,omitzero"`

	RateLimit     int                   `json:"api_rate,omitempty"` // a minute; 0: no limit of ours
	RateLimited   time.Time             `json:"rate_limited_until,omitzero"`
	APIRateLimits imageapi.RateLimits   `json:"api_rate_limits,omitzero"`
	Upstreams     []proxy.UpstreamState `json:"upstreams,omitempty"` // to the API, in order of preference

	Checks []health.Check `json:"health_checks"` // the latest first
}

// Status returns how the processor stands.
func (p *Processor) Status() Status {
	p.mu.Lock()
	s := Status{Worker: p.conf.Worker, PID: p.conf.PID, StartedAt: p.started, InFlight: len(p.inFlight), Concurrency: p.conf.Concurrency,
		Counts: Counts{}, LastHeartbeat: p.beat, DatabaseLostAt: p.away, APIRespondedAt: p.apiSaid, Checks: p.checks.Recent()}
	if !p.started.IsZero() {
		s.SilentSeconds = time.Since(later(p.started, p.beat)).Seconds()
	}
	for k, n := range p.counts {
		s.Counts[k] = n
	}
	p.mu.Unlock()
	s.RateLimit, s.APIRateLimits, s.Upstreams = p.conf.RateLimit, p.conf.APIRateLimits(), p.conf.Upstreams()
	for i := range s.Upstreams {
		s.Upstreams[i].Reason = p.conf.Redact(s.Upstreams[i].Reason)
	}
	p.breaker.mu.Lock()
	defer p.breaker.mu.Unlock()
	if time.Now().Before(p.breaker.paused) {
		s.RateLimited = p.breaker.paused
	}
	if p.breaker.cause != nil {
		s.APIUnreachableSince, s.APIErrorCode, s.APIError = p.breaker.since, p.breaker.cause.Code, p.breaker.cause.Message
	}
	return s
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
