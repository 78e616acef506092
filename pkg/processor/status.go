package processor

import (
	"time"

	"imagetasks/pkg/health"
	"imagetasks/pkg/task"
)

// Status is the state of a processor.
type Status struct {
	Worker              string    `json:"worker"`
	PID                 int       `json:"pid"`
	StartedAt           time.Time `json:"started"`
	InFlight            int       `json:"in_flight"`
	Concurrency         int       `json:"concurrency"`
	Counts              Counts    `json:"counts"`
	LastHeartbeat       time.Time `json:"last_heartbeat,omitzero"` // recorded in the database
	SilentSeconds       float64   `json:"silent_seconds"`          // since the last heartbeat, or since the start
	PaidRequests        int       `json:"paid_requests"`           // tasks in flight that wait for the answer to one
	Stalled             bool      `json:"-"`                       // the claim loop makes no progress
	DatabaseLostAt      time.Time `json:"database_lost_at,omitzero"`
	LeasesFailingSince  time.Time `json:"leases_failing_since,omitzero"` // the leases can't be renewed: nothing is started
	APIUnreachableSince time.Time `json:"api_unreachable_since,omitzero"`
	APIErrorCode        task.Code `json:"api_error_code,omitempty"`
	APIError            string    `json:"api_error,omitempty"`
	APIRespondedAt      time.Time `json:"api_responded_at,omitzero"`

	RateLimit   int       `json:"api_rate,omitempty"` // attempts a minute; 0: no limit
	RateLimited time.Time `json:"rate_limited_until,omitzero"`

	Checks []health.Check `json:"health_checks"` // the latest first
}

// Status returns the current state. It is safe for concurrent use.
func (p *Processor) Status() Status {
	startedAt, heartbeat := p.startTime(), p.heartbeats.last()
	s := Status{Worker: p.conf.Worker, PID: p.conf.PID, StartedAt: startedAt, InFlight: p.inFlight.count(),
		Concurrency: p.conf.Concurrency, Counts: p.events.snapshot(), LastHeartbeat: heartbeat,
		PaidRequests: p.inFlight.awaitRequests(), DatabaseLostAt: p.database.unavailableSince(),
		APIRespondedAt: p.api.lastResponse(), Stalled: p.loop.stalled(), RateLimit: p.conf.RateLimit, Checks: p.checks.history.Recent()}
	if p.leases.failing() {
		s.LeasesFailingSince = p.leases.failingSince()
	}
	if !startedAt.IsZero() {
		s.SilentSeconds = time.Since(latest(startedAt, heartbeat)).Seconds()
	}
	pausedUntil, cause, since := p.api.breaker.snapshot(time.Now())
	s.RateLimited = pausedUntil
	if cause != nil {
		s.APIUnreachableSince, s.APIErrorCode, s.APIError = since, cause.Code, cause.Message
	}
	return s
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
