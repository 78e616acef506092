// Package health keeps the last health checks of a long-running program.
package health

import (
	"slices"
	"sync"
	"time"
)

// Kept is how many checks a History holds. It holds the last one of each name in any case: of ten endpoints each, for example.
const Kept = 10

// Check is the result of one health check.
type Check struct {
	At     time.Time `json:"at"`
	Name   string    `json:"check"` // database, queue, api, processor
	OK     bool      `json:"ok"`
	Millis int64     `json:"ms"`
	Result string    `json:"result"`
	Action string    `json:"action,omitempty"` // what was done about it
}

// History holds the last checks. The zero value is empty and ready to use. It is safe for concurrent use.
type History struct {
	mu     sync.Mutex
	checks []Check // the oldest first
}

// Add adds a check, and drops the oldest that is not the last one of its name if there are more than Kept.
func (h *History) Add(c Check) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.checks = append(h.checks, c)
	if len(h.checks) <= Kept {
		return
	}
	for i, old := range h.checks {
		if slices.ContainsFunc(h.checks[i+1:], func(later Check) bool { return later.Name == old.Name }) {
			h.checks = slices.Delete(h.checks, i, i+1)
			return
		}
	}
}

// Recent returns the checks, the latest first.
func (h *History) Recent() []Check {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := append(make([]Check, 0, len(h.checks)), h.checks...)
	slices.Reverse(out)
	return out
}
