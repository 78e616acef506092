package processor

import (
	"time"

	"imagetasks/pkg/health"
	"imagetasks/pkg/imageapi"
	"imagetasks/pkg/proxy"
	"imagetasks/pkg/task"
)

// Kind is what happened.
type Kind string

// The steps of a task and of the processor.
const (
	Claimed      Kind = "claimed"
	Completed    Kind = "completed"
	Retried      Kind = "retried"
	Released     Kind = "released"
	Failed       Kind = "failed"
	Lost         Kind = "lost"
	Reaped       Kind = "reaped"
	Expired      Kind = "expired"
	Beat         Kind = "heartbeat"
	Alive        Kind = "sign of life"
	Checked      Kind = "health check"
	Shut         Kind = "shut"
	Opened       Kind = "opened"
	DatabaseAway Kind = "database away"
	DatabaseBack Kind = "database back"
)

// Event is one step.
type Event struct {
	Kind Kind
	Task string        // empty where it is about none
	Took time.Duration // of a completed task, from its claim
}

// Counts is how often each step was taken since the start.
type Counts map[Kind]int

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
	Worker       string    `json:"worker"`
	PID          int       `json:"pid"`
	Started      time.Time `json:"started"`
	InHand       int       `json:"in_hand"`
	Concurrency  int       `json:"concurrency"`
	Counts       Counts    `json:"counts"`
	LastBeat     time.Time `json:"last_heartbeat,omitzero"` // that the database took
	Silent       float64   `json:"silent_seconds"`          // since then, or since the start
	DatabaseAway time.Time `json:"database_away_since,omitzero"`
	APIShut      time.Time `json:"api_shut_since,omitzero"`
	APICode      task.Code `json:"api_shut_code,omitempty"`
	APIReason    string    `json:"api_shut_reason,omitempty"`
	APIAnswered  time.Time `json:"api_answered,omitzero"`

	Rate        int             `json:"api_rate,omitempty"` // a minute; 0: no limit of ours
	RateLimited time.Time       `json:"rate_limited_until,omitzero"`
	Limits      imageapi.Limits `json:"api_rate_limits,omitzero"`
	Ways        []proxy.State   `json:"ways,omitempty"` // to the API, in order of preference

	Checks []health.Check `json:"health_checks"` // the latest first
}

// Status returns how the processor stands.
func (p *Processor) Status() Status {
	p.mu.Lock()
	s := Status{Worker: p.conf.Worker, PID: p.conf.PID, Started: p.started, InHand: len(p.inHand), Concurrency: p.conf.Concurrency,
		Counts: Counts{}, LastBeat: p.beat, DatabaseAway: p.away, APIAnswered: p.apiSaid, Checks: p.checks.Last()}
	if !p.started.IsZero() {
		s.Silent = time.Since(later(p.started, p.beat)).Seconds()
	}
	for k, n := range p.counts {
		s.Counts[k] = n
	}
	p.mu.Unlock()
	s.Rate, s.Limits, s.Ways = p.conf.Rate, p.conf.Limits(), p.conf.Ways()
	for i := range s.Ways {
		s.Ways[i].Reason = p.conf.Redact(s.Ways[i].Reason)
	}
	p.gate.mu.Lock()
	defer p.gate.mu.Unlock()
	if time.Now().Before(p.gate.paused) {
		s.RateLimited = p.gate.paused
	}
	if p.gate.cause != nil {
		s.APIShut, s.APICode, s.APIReason = p.gate.since, p.gate.cause.Code, p.gate.cause.Message
	}
	return s
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
