package processor

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// circuitSet is all circuit breakers of a processor: those of each endpoint, and that of the store of results. It is safe for concurrent use.
type circuitSet struct {
	checkStore   func(context.Context) error // Config.CheckStore
	defaultModel string
	words        wording
	sanitizer    sanitizer
	log          logrus.FieldLogger
	events       *eventRecorder
	times        circuitTimes
	wake         func()        // the claim loop
	changed      chan struct{} // holds one: run finds out again what is due

	endpoints []*circuits // at least one

	mu    sync.Mutex // of all circuits
	store circuit
}

func newCircuitSet(conf *Config, redact sanitizer, events *eventRecorder) *circuitSet {
	s := &circuitSet{checkStore: conf.CheckStore, defaultModel: conf.DefaultModel, words: wording{conf.API, conf.Results}, sanitizer: redact, log: conf.Log,
		events: events, times: conf.times, wake: func() {}, changed: make(chan struct{}, 1)}
	s.store = circuit{scope: task.ScopeAll, times: conf.times}
	for _, e := range conf.Endpoints {
		s.endpoints = append(s.endpoints, &circuits{circuitSet: s, conf: e, models: map[string]*circuit{},
			endpoint: circuit{scope: task.ScopeEndpoint, name: e.Name, times: conf.times}})
	}
	return s
}

// of returns the circuits of the endpoint that an attempt is for; of one that is for none, those of the first.
func (s *circuitSet) of(a *attempt) *circuits { return s.named(a.task.Endpoint) }

func (s *circuitSet) named(endpoint string) *circuits {
	for _, e := range s.endpoints {
		if e.conf.Name == endpoint {
			return e
		}
	}
	return s.endpoints[0]
}

// haveModel reports whether the model of an attempt, which its endpoint has just refused, may work: it is not known to be refused by another endpoint
// that has it, or mayWork says so of one of them.
func (s *circuitSet) haveModel(a *attempt, mayWork func(endpoint, model string) bool) bool {
	model := s.modelName(a.task.Model)
	refusing := s.of(a)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.endpoints {
		if e.conf.Models != nil && !slices.Contains(e.conf.Models, model) {
			continue
		}
		m := e.models[model]
		if mayWork(e.conf.Name, model) || e != refusing && (m == nil || m.isClosed()) {
			return true
		}
	}
	return false
}

// trial is a claim of a task that tries a circuit.
type trial struct {
	of      *circuits
	circuit *circuit
}

// plan says what may be claimed.
type plan struct {
	none        bool // nothing: the circuit of the store is open
	pendingOnly bool // only what is to be fetched
	endpoints   []store.ClaimEndpoint
	trials      []trial     // first those of endpoints, then those of models
	quiet       []*circuits // have a limit because the API has not answered for some time: see confirm
	next        time.Duration
}

// plan returns what may be claimed now. inFlight returns how many tasks are in flight for an endpoint, and free how many more there may be.
func (s *circuitSet) plan(now time.Time, inFlight func(endpoint string) int, free int) plan {
	p := plan{pendingOnly: true, next: longestCheckSleep}
	var models []trial
	for _, e := range s.endpoints {
		of := e.plan(now)
		p.next = min(p.next, of.next)
		claim := store.ClaimEndpoint{Name: e.conf.Name, Address: e.conf.Address, Models: e.names(e.conf.Models), Skip: of.skip, Default: s.defaultModel,
			Rate: e.conf.Rate, Concurrent: e.conf.Concurrency, Preference: e.conf.Preference, Weight: e.conf.Weight}
		most := of.limit - inFlight(e.conf.Name)
		if of.quiet && most < free {
			p.quiet = append(p.quiet, e)
		}
		if of.pendingOnly || of.trial != nil {
			most = 0
		}
		if most < free {
			most = max(most, 0)
			claim.Max = &most
		}
		p.pendingOnly = p.pendingOnly && claim.Max != nil && most == 0
		if of.trial != nil {
			p.trials = append(p.trials, trial{e, of.trial})
		}
		for _, m := range of.models {
			models = append(models, trial{e, m})
		}
		p.endpoints = append(p.endpoints, claim)
	}
	p.trials = append(p.trials, models...)
	s.mu.Lock()
	defer s.mu.Unlock()
	p.none = s.store.isOpen()
	return p
}

// restricted reports whether not all tasks that are due may be claimed.
func (p plan) restricted() bool {
	return p.pendingOnly || len(p.trials) > 0 || slices.ContainsFunc(p.endpoints, func(e store.ClaimEndpoint) bool {
		return len(e.Skip) > 0 || e.Max != nil || e.Concurrent > 0 || e.Models != nil
	})
}

// open reports whether every task that is due may be claimed, without permits for a time or a number of tasks.
func (p plan) open() bool {
	return !p.none && !p.pendingOnly && len(p.trials) == 0 && !slices.ContainsFunc(p.endpoints, func(e store.ClaimEndpoint) bool {
		return len(e.Skip) > 0 || e.Max != nil || e.Concurrent > 0 || e.Rate > 0
	})
}

// only returns the endpoints of a plan for the claim of a task that tries a circuit: no other is chosen.
func (p plan) only(t trial) []store.ClaimEndpoint {
	endpoints := slices.Clone(p.endpoints)
	for i := range endpoints {
		most := 0
		if endpoints[i].Name == t.of.conf.Name {
			most = 1
			endpoints[i].Skip = slices.DeleteFunc(slices.Clone(endpoints[i].Skip), func(model string) bool {
				return t.circuit.scope == task.ScopeModel && slices.Contains(t.of.namesOf(t.circuit.name), model)
			})
		}
		endpoints[i].Max = &most
	}
	return endpoints
}

// names returns the names that tasks with these models have; nil for nil.
func (s *circuitSet) names(models []string) []string {
	var names []string
	for _, m := range models {
		names = append(names, s.namesOf(m)...)
	}
	return names
}

// blocked returns why nothing can be claimed until something is repaired, or nil.
func (s *circuitSet) blocked() *task.Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if cause := s.store.openCause(); cause != nil {
		return cause
	}
	var first *task.Error
	for _, e := range s.endpoints {
		cause := e.endpoint.openCause()
		if cause == nil || e.endpoint.believe && !e.endpoint.checkedOnce { // a check is about to let a task try it
			return nil
		}
		if first == nil {
			first = cause
		}
	}
	return first
}

// unreachable returns why no endpoint works, or nil if one does.
func (s *circuitSet) unreachable() *task.Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.endpoints {
		if !e.endpoint.isOpen() {
			return nil
		}
	}
	return s.endpoints[0].endpoint.cause
}

// waiting returns what tasks wait for: the endpoints with the models that can't be claimed for each, and why not for the first of them. The cause is
// nil if nothing is open.
func (s *circuitSet) waiting() (endpoints []store.ClaimEndpoint, cause *task.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.endpoints {
		most := 1
		claim := store.ClaimEndpoint{Name: e.conf.Name, Address: e.conf.Address, Models: e.names(e.conf.Models), Max: &most, Default: s.defaultModel}
		if e.endpoint.isOpen() {
			most = 0
			if cause == nil {
				cause = e.endpoint.cause
			}
		}
		for name, m := range e.models {
			if !m.isOpen() {
				continue
			}
			claim.Skip = append(claim.Skip, e.namesOf(name)...)
			if cause == nil {
				cause = m.cause
			}
		}
		endpoints = append(endpoints, claim)
	}
	return endpoints, cause
}

// lastResponse returns when an endpoint last responded, or the zero time.
func (s *circuitSet) lastResponse() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	var last time.Time
	for _, e := range s.endpoints {
		last = latest(last, e.respondedAt)
	}
	return last
}

// checkSoon makes run find out again what is due.
func (s *circuitSet) checkSoon() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// run checks what is open until ctx ends.
func (s *circuitSet) run(ctx context.Context) {
	var checks sync.WaitGroup
	defer checks.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.changed:
		case <-timer.C:
		}
		next := s.startStoreCheck(ctx, &checks)
		for _, e := range s.endpoints {
			next = min(next, e.startChecks(ctx, &checks))
		}
		timer.Reset(next)
	}
}

// startStoreCheck checks the store of results if that is due, and returns the time until the next check.
func (s *circuitSet) startStoreCheck(ctx context.Context, checks *sync.WaitGroup) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.endpoints[0].startCheck(ctx, checks, &s.store, s.store.running == 0, func(ctx context.Context) (*task.Error, bool) {
		ctx, cancel := context.WithTimeout(ctx, checkTimeout)
		defer cancel()
		if err := s.checkStore(ctx); err != nil {
			cause := s.sanitizer.sanitize(err)
			cause.Code = task.CodePictureStore
			return cause, false
		}
		return nil, false
	})
}
