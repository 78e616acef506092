package processor

import (
	"slices"
	"time"

	"imagetasks/pkg/health"
	"imagetasks/pkg/store"
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

	// Endpoints are in the order of the settings. APIUnreachableSince and RateLimited are set where they hold for all of them.
	Endpoints []EndpointStatus `json:"endpoints"`

	// PicturesFailingSince is set while pictures can't be stored, with the reason.
	PicturesFailingSince time.Time `json:"pictures_failing_since,omitzero"`
	PicturesError        string    `json:"pictures_error,omitempty"`
	// Circuits are those of the endpoint and the picture store, and of at most 20 models that do not work. MoreModels is how many others there
	// are of these.
	Circuits   []Circuit `json:"circuits"`
	MoreModels int       `json:"more_models,omitempty"`

	RateLimited time.Time `json:"rate_limited_until,omitzero"`

	Checks []health.Check `json:"health_checks"` // the latest first
}

// EndpointStatus is the state of an endpoint.
type EndpointStatus struct {
	Name        string    `json:"name"`
	InFlight    int       `json:"in_flight"`
	Rate        int       `json:"rate,omitempty"`        // paid requests a minute, over all processors; 0: no limit
	Concurrency int       `json:"concurrency,omitempty"` // tasks at a time, over all processors; 0: no limit
	RateLimited time.Time `json:"rate_limited_until,omitzero"`
	// FailingSince is set while no task is claimed for it because it is unreachable or refuses all requests, with the reason.
	FailingSince time.Time `json:"failing_since,omitzero"`
	ErrorCode    task.Code `json:"error_code,omitempty"`
	Error        string    `json:"error,omitempty"`
}

// Circuit is the state of a circuit breaker. Since, Code and Reason are set while it is not closed.
type Circuit struct {
	Scope     string       `json:"scope"`              // endpoint, picture_store, or model
	Name      string       `json:"name,omitempty"`     // of the endpoint or the model
	Endpoint  string       `json:"endpoint,omitempty"` // of a model, where there are several
	State     CircuitState `json:"state"`
	Since     time.Time    `json:"since,omitzero"`
	Code      task.Code    `json:"code,omitempty"`
	Reason    string       `json:"reason,omitempty"`
	NextTrial time.Time    `json:"next_trial,omitzero"` // when a task is tried, if no check shows before that it works
}

// Status returns the current state. It is safe for concurrent use.
func (p *Processor) Status() Status {
	startedAt, heartbeat := p.startTime(), p.heartbeats.last()
	working, _ := p.inFlight.counts()
	s := Status{Worker: p.conf.Worker, PID: p.conf.PID, StartedAt: startedAt, InFlight: working,
		Concurrency: p.conf.Concurrency, Counts: p.events.snapshot(), LastHeartbeat: heartbeat,
		PaidRequests: p.inFlight.awaitRequests(), DatabaseLostAt: p.database.unavailableSince(),
		APIRespondedAt: p.circuits.lastResponse(), Stalled: p.loop.stalled(), Checks: p.checks.history.Recent()}
	if p.leases.failing() {
		s.LeasesFailingSince = p.leases.failingSince()
	}
	if !startedAt.IsZero() {
		s.SilentSeconds = time.Since(latest(startedAt, heartbeat)).Seconds()
	}
	p.circuits.report(&s, time.Now(), p.inFlight.of)
	return s
}

// Progress returns how far the tasks in flight are, in any order. It is safe for concurrent use.
func (p *Processor) Progress() []store.BridgeProgress {
	attempts := p.inFlight.list()
	out := make([]store.BridgeProgress, len(attempts))
	for i, a := range attempts {
		r := a.renewal()
		out[i] = store.BridgeProgress{TaskID: r.Lease.TaskID, Epoch: r.Lease.Epoch, Percent: r.Progress, Stage: r.Stage}
	}
	return out
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// report sets what a Status says about circuits.
func (s *circuitSet) report(to *Status, now time.Time, inFlight func(endpoint string) int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.store.isOpen() {
		to.PicturesFailingSince, to.PicturesError = s.store.since, s.store.cause.Message
	}
	var models []Circuit
	failing, paused := 0, 0
	for _, e := range s.endpoints {
		c := &e.endpoint
		of := EndpointStatus{Name: e.conf.Name, InFlight: inFlight(e.conf.Name), Rate: e.conf.Rate, Concurrency: e.conf.Concurrency}
		if c.isPaused(now) {
			of.RateLimited = c.pausedUntil
			paused++
			if to.RateLimited.IsZero() || c.pausedUntil.Before(to.RateLimited) {
				to.RateLimited = c.pausedUntil
			}
		}
		// A check that succeeds is a sign that the API works, a trial is none.
		if c.isOpen() || c.state == CircuitHalfOpen && !c.afterCheck {
			of.FailingSince, of.ErrorCode, of.Error = c.since, c.cause.Code, c.cause.Message
			if failing++; failing == 1 {
				to.APIUnreachableSince, to.APIErrorCode, to.APIError = c.since, c.cause.Code, c.cause.Message
			}
			to.APIUnreachableSince = latest(to.APIUnreachableSince, c.since)
		}
		to.Endpoints = append(to.Endpoints, of)
		to.Circuits = append(to.Circuits, c.report())
		for _, m := range e.models {
			if !m.isClosed() {
				of := m.report()
				if len(s.endpoints) > 1 {
					of.Endpoint = e.conf.Name
				}
				models = append(models, of)
			}
		}
	}
	if failing < len(s.endpoints) {
		to.APIUnreachableSince, to.APIErrorCode, to.APIError = time.Time{}, "", ""
	}
	if paused < len(s.endpoints) {
		to.RateLimited = time.Time{}
	}
	to.Circuits = append(to.Circuits, s.store.report())
	slices.SortFunc(models, func(a, b Circuit) int { return a.Since.Compare(b.Since) })
	shown := min(len(models), shownModels)
	to.Circuits = append(to.Circuits, models[:shown]...)
	to.MoreModels = len(models) - shown
}

// The scopes of Circuit.
const (
	CircuitEndpoint     = "endpoint"
	CircuitPictureStore = "picture_store"
	CircuitModel        = "model"
)

func (c *circuit) report() Circuit {
	out := Circuit{Scope: CircuitEndpoint, Name: c.name, State: CircuitClosed}
	switch c.scope {
	case task.ScopeAll:
		out.Scope = CircuitPictureStore
	case task.ScopeModel:
		out.Scope = CircuitModel
	}
	if !c.isClosed() {
		out.State, out.Since, out.Code, out.Reason, out.NextTrial = c.state, c.since, c.cause.Code, c.cause.Message, c.trialAt()
	}
	return out
}
