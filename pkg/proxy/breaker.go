package proxy

import (
	"errors"
	"net"
	"sync"
	"time"

	"github.com/sony/gobreaker/v2"

	"imagetasks/pkg/task"
)

// errNoVerdict is the outcome of a request that says nothing of its way.
var errNoVerdict = errors.New("no verdict")

// brokenInARow is how many requests must break under way, one after another, before a proxy is left out for it:
// the API breaks connections too. A connection that can't be made is enough by itself.
const brokenInARow = 3

// UpstreamState is how one way to the API stands.
type UpstreamState struct {
	Proxy   string    `json:"proxy"` // without its login; empty: a direct connection
	Served  int       `json:"served"`
	Ejected bool      `json:"ejected"`
	Since   time.Time `json:"since,omitzero"`    // it is left out
	RetryAt time.Time `json:"retry_at,omitzero"` // when it may be tried again
	Code    task.Code `json:"code,omitempty"`    // why
	Reason  string    `json:"reason,omitempty"`
}

// breaker leaves a way out for a while after it failed, then lets one request that costs nothing try it, and for longer
// each time that fails as well. It is safe for concurrent use.
type breaker struct {
	mu sync.Mutex
	// cb is replaced at each trip: its wait can't be changed, and answers to requests from before the trip
	// mustn't count.
	cb      *gobreaker.TwoStepCircuitBreaker[struct{}]
	trips   int // with nothing passed in between
	says    UpstreamState
	changed func(UpstreamState) // nil: nobody wants to know
}

func newBreaker() *breaker { return &breaker{cb: newCircuit(time.Minute, brokenInARow)} }

// newCircuit returns a closed circuit that so many failures in a row open for that wait.
func newCircuit(wait time.Duration, failures uint32) *gobreaker.TwoStepCircuitBreaker[struct{}] {
	return gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		Timeout:     wait,
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= failures },
		IsExcluded:  func(err error) bool { return errors.Is(err, errNoVerdict) },
	})
}

// allow reports whether a request may go this way, and returns what is to be told how it went, once. trial: it costs
// nothing, and may be the one that tries a way that is left out.
func (b *breaker) allow(trial bool) (done func(error), ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.says.Ejected && !trial {
		return nil, false
	}
	cb := b.cb
	tell, err := cb.Allow()
	if err != nil {
		return nil, false
	}
	return func(err error) {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.cb != cb {
			return
		}
		tell(err)
		b.went(err)
	}, true
}

// anyway is allow for a way that is left out while there is no other.
func (b *breaker) anyway() (done func(error)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	cb := b.cb
	return func(err error) {
		b.mu.Lock()
		defer b.mu.Unlock()
		switch {
		case b.cb != cb:
		case err == nil:
			b.went(nil)
		case !errors.Is(err, errNoVerdict):
			b.says.Code, b.says.Reason = reasonOf(err)
		}
	}
}

// went draws the conclusion from a request's end.
func (b *breaker) went(err error) {
	_, unsent := errors.AsType[*Error](err)
	switch {
	case err == nil:
		back := b.says.Ejected
		b.says = UpstreamState{Served: b.says.Served + 1}
		if back {
			b.trips, b.cb = 0, newCircuit(time.Minute, brokenInARow)
			b.tell()
		}
	case errors.Is(err, errNoVerdict):
	case unsent || b.cb.State() == gobreaker.StateOpen:
		code, reason := reasonOf(err)
		b.trip(code, reason)
	}
}

// eject leaves the way out for a while, because of an answer that came by it.
func (b *breaker) eject(code task.Code, reason string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.trip(code, reason)
}

func (b *breaker) trip(code task.Code, reason string) {
	b.trips++
	now := time.Now()
	wait := task.Backoff(b.trips, 0)
	b.cb = newCircuit(wait, 1)
	if open, err := b.cb.Allow(); err == nil {
		open(errors.New(reason))
	}
	news := !b.says.Ejected
	if news {
		b.says.Since = now
	}
	b.says.Ejected, b.says.RetryAt, b.says.Code, b.says.Reason = true, now.Add(wait), code, reason
	if news {
		b.tell()
	}
}

func (b *breaker) tell() {
	if b.changed != nil {
		b.changed(b.says)
	}
}

func reasonOf(err error) (task.Code, string) {
	if fault, ok := errors.AsType[*Error](err); ok {
		return fault.Code(), fault.Error()
	}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		return task.CodeTimeout, err.Error()
	}
	return task.CodeNetwork, err.Error()
}

func (b *breaker) state() UpstreamState {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.says
}
