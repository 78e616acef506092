package imageapi

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// RateLimits holds the last x-ratelimit-* headers of the API
// (https://platform.openai.com/docs/guides/rate-limits).
type RateLimits struct {
	At time.Time `json:"at,omitzero"`
	// Headers have the names without x-ratelimit-, in lower case, such as remaining-requests.
	Headers map[string]string `json:"headers,omitempty"`
}

// IsZero reports whether the API has sent none.
func (l RateLimits) IsZero() bool { return len(l.Headers) == 0 }

// String returns the headers sorted by name, such as "limit-requests 60, remaining-requests 59".
func (l RateLimits) String() string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(l.Headers)) {
		parts = append(parts, name+" "+l.Headers[name])
	}
	return strings.Join(parts, ", ")
}

// The bounds for headers from the API.
const (
	maxLimits     = 16
	maxLimitRunes = 40
)

type limits struct {
	mu   sync.Mutex
	last RateLimits
}

// update stores a response's headers. A response without any changes nothing, because only some endpoints send them.
func (l *limits) update(h http.Header, now time.Time) {
	headers := map[string]string{}
	for name, values := range h {
		short, ok := strings.CutPrefix(strings.ToLower(name), "x-ratelimit-")
		if !ok || len(headers) == maxLimits {
			continue
		}
		headers[cut(short)] = cut(values[0])
	}
	if len(headers) == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = RateLimits{At: now, Headers: headers}
}

func cut(s string) string {
	runes := []rune(oneLine(s))
	return string(runes[:min(len(runes), maxLimitRunes)])
}

// RateLimits returns the rate limits that the API sent last, or zero if it has sent none.
func (c *Client) RateLimits() RateLimits {
	c.limits.mu.Lock()
	defer c.limits.mu.Unlock()
	return RateLimits{At: c.limits.last.At, Headers: maps.Clone(c.limits.last.Headers)}
}
