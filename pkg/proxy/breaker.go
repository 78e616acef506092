package proxy

import (
	"errors"
	"net"
	"sync"
	"time"

	"imagetasks/pkg/task"
)

// errNoOutcome is the outcome of a request that shows nothing about its upstream.
var errNoOutcome = errors.New("no outcome")

// maxBroken is how many requests in a row may break after they were sent before their upstream is ejected: the API breaks
// connections too. One connection that can't be made is enough.
const maxBroken = 3

// UpstreamState is the state of one upstream.
type UpstreamState struct {
	Proxy   string    `json:"proxy"` // without its login; empty: a direct connection
	Served  int       `json:"served"`
	Ejected bool      `json:"ejected"`
	Since   time.Time `json:"since,omitzero"`    // when it was ejected
	RetryAt time.Time `json:"retry_at,omitzero"` // when it may be tried again
	Code    task.Code `json:"code,omitempty"`    // why
	Reason  string    `json:"reason,omitempty"`
}

// breaker is the circuit breaker of an upstream. Closed, it lets every request pass. After failures it ejects the upstream
// (open) until RetryAt. Then it lets one request pass that costs nothing (half-open). If that fails, the next wait is longer.
// It is safe for concurrent use.
type breaker struct {
	mu         sync.Mutex
	onChange   func(UpstreamState) // optional; called under the lock
	state      UpstreamState
	failures   int  // consecutive, while closed
	ejections  int  // consecutive, without a success in between
	trying     bool // a request is trying the ejected upstream
	generation int  // changes with state.Ejected and with each ejection: outcomes of earlier requests don't count
}

// setOnChange sets a function that is called when the upstream is ejected and when it serves again.
func (b *breaker) setOnChange(f func(UpstreamState)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.onChange = f
}

// allow reports whether a request may use the upstream, and returns a function to call once with the request's outcome.
// A request that is free of charge may be the one that tries an ejected upstream.
func (b *breaker) allow(free bool) (done func(error), ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.state.Ejected {
		return b.recorder(false), true
	}
	if !free || b.trying || time.Now().Before(b.state.RetryAt) {
		return nil, false
	}
	b.trying = true
	return b.recorder(true), true
}

// lastResort is allow for when every upstream is ejected. Its failure does not extend the wait.
func (b *breaker) lastResort() (done func(error)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.recorder(false)
}

// recorder returns a function that records the outcome of a request that begins now.
func (b *breaker) recorder(trial bool) func(error) {
	generation := b.generation
	return func(err error) {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.generation == generation {
			b.record(err, trial)
		}
	}
}

func (b *breaker) record(err error, trial bool) {
	if trial {
		b.trying = false
	}
	failed, ok := errors.AsType[*Error](err)
	unsent := ok && !failed.Sent
	switch {
	case err == nil:
		b.succeed()
	case errors.Is(err, errNoOutcome):
	case b.state.Ejected && !trial:
		b.state.Code, b.state.Reason = reasonOf(err)
	default:
		b.failures++
		if unsent || trial || b.failures >= maxBroken {
			code, reason := reasonOf(err)
			b.eject(code, reason)
		}
	}
}

func (b *breaker) succeed() {
	returned := b.state.Ejected
	b.state = UpstreamState{Served: b.state.Served + 1}
	b.failures = 0
	if returned {
		b.ejections = 0
		b.changed(true)
	}
}

// ejectFor ejects the upstream because of a response that came through it.
func (b *breaker) ejectFor(code task.Code, reason string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.eject(code, reason)
}

func (b *breaker) eject(code task.Code, reason string) {
	now := time.Now()
	first := !b.state.Ejected
	if first {
		b.state.Since = now
	}
	b.ejections++
	b.state.Ejected, b.state.RetryAt = true, now.Add(task.Backoff(b.ejections, 0))
	b.state.Code, b.state.Reason = code, reason
	b.changed(first)
}

// changed begins a new generation, and reports it if asked to.
func (b *breaker) changed(report bool) {
	b.failures, b.trying = 0, false
	b.generation++
	if report && b.onChange != nil {
		b.onChange(b.state)
	}
}

func reasonOf(err error) (task.Code, string) {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code(), e.Error()
	}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		return task.CodeTimeout, err.Error()
	}
	return task.CodeNetwork, err.Error()
}

func (b *breaker) snapshot() UpstreamState {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state
}
