package imageapi

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// RateLimits is what the API last said of its rate limits, in its x-ratelimit-* headers
// (https://platform.openai.com/docs/guides/rate-limits).
type RateLimits struct {
	At time.Time `json:"at,omitzero"`
	// Headers are by what follows x-ratelimit-, in lower case: remaining-requests, say.
	Headers map[string]string `json:"headers,omitempty"`
}

// IsZero reports whether the API said nothing of them.
func (l RateLimits) IsZero() bool { return len(l.Headers) == 0 }

// String returns the headers in the order of their names, as "limit-requests 60, remaining-requests 59".
func (l RateLimits) String() string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(l.Headers)) {
		parts = append(parts, name+" "+l.Headers[name])
	}
	return strings.Join(parts, ", ")
}

// The bounds for what is kept of foreign headers.
const (
	maxLimits     = 16
	maxLimitRunes = 40
)

type limits struct {
	mu   sync.Mutex
	last RateLimits
}

// note keeps an answer's headers, where it has any: an answer of another kind may have none.
func (l *limits) note(h http.Header, now time.Time) {
	seen := map[string]string{}
	for name, values := range h {
		short, ok := strings.CutPrefix(strings.ToLower(name), "x-ratelimit-")
		if !ok || len(seen) == maxLimits {
			continue
		}
		seen[cut(short)] = cut(values[0])
	}
	if len(seen) == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = RateLimits{At: now, Headers: seen}
}

func cut(s string) string {
	runes := []rune(oneLine(s))
	return string(runes[:min(len(runes), maxLimitRunes)])
}

// RateLimits returns what the API last said of its rate limits; zero: nothing.
func (c *Client) RateLimits() RateLimits {
	c.limits.mu.Lock()
	defer c.limits.mu.Unlock()
	return RateLimits{At: c.limits.last.At, Headers: maps.Clone(c.limits.last.Headers)}
}
