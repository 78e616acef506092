// Package health keeps the last checks that a long-running program made of the world around it.
package health

import (
	"sync"
	"time"
)

// Kept is how many checks a Record holds.
const Kept = 10

// Check is one look at one thing.
type Check struct {
	At     time.Time `json:"at"`
	Name   string    `json:"check"` // database, queue, api, processor
	OK     bool      `json:"ok"`
	Millis int64     `json:"ms"`
	Result string    `json:"result"`
	Action string    `json:"action,omitempty"` // what was done about it
}

// History holds the last checks. The zero value is empty and ready. It is safe for concurrent use.
type History struct {
	mu     sync.Mutex
	checks []Check // the oldest first
}

// Add notes a check and forgets the oldest where there are too many.
func (r *History) Add(c Check) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.checks = append(r.checks, c)
	if len(r.checks) > Kept {
		r.checks = append([]Check(nil), r.checks[len(r.checks)-Kept:]...)
	}
}

// Recent returns the checks, the latest first.
func (r *History) Recent() []Check {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]Check, 0, len(r.checks))
	for i := len(r.checks) - 1; i >= 0; i-- {
		out = append(out, r.checks[i])
	}
	return out
}
