package status

import (
	"net/netip"
	"strings"
	"sync"
	"time"
)

// Wrong tokens are counted in windows of signInWindow, for each client and in total. Of a client that gave the right one since goodFor the total is
// not asked, so that others can't keep a scraper out.
const (
	signInWindow   = time.Minute
	triesOfClient  = 5
	triesTotal     = 50
	goodFor        = 24 * time.Hour
	maxSignInState = 1000 // clients
)

// tries are what a client has tried.
type tries struct {
	window time.Time // of the wrong ones
	wrong  int
	good   time.Time // of the last right one
	seen   time.Time
}

// signInGuard bounds how often a token may be guessed.
type signInGuard struct {
	mu      sync.Mutex
	total   tries
	clients map[string]*tries
}

func newSignInGuard() *signInGuard { return &signInGuard{clients: map[string]*tries{}} }

// clientKey is what is counted as one client: for IPv6 a network of 64 bits, which is what a subscriber gets.
func clientKey(client string) string {
	first, through, _ := strings.Cut(client, " ")
	ip, err := netip.ParseAddr(first)
	if err == nil && ip.Is6() {
		if network, err := ip.Prefix(64); err == nil {
			return network.String() + " " + through
		}
	}
	return client
}

func (t *tries) count(now time.Time) int {
	if now.Sub(t.window) >= signInWindow {
		return 0
	}
	return t.wrong
}

func (t *tries) add(now time.Time) {
	if t.count(now) == 0 {
		t.window, t.wrong = now, 0
	}
	t.wrong++
}

// may reports whether a token of the client may be compared.
func (g *signInGuard) may(client string, now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := g.clients[clientKey(client)]
	if c != nil && c.count(now) >= triesOfClient {
		return false
	}
	return c != nil && now.Sub(c.good) < goodFor || g.total.count(now) < triesTotal
}

// failed counts a wrong token, and reports whether it is the client's first or last one of the window.
func (g *signInGuard) failed(client string, now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := g.of(client, now)
	c.add(now)
	g.total.add(now)
	return c.wrong == 1 || c.wrong == triesOfClient
}

func (g *signInGuard) succeeded(client string, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := g.of(client, now)
	c.good = now
}

// of returns what is kept of a client. The one that was seen longest ago is forgotten for another, a client with a right token last.
func (g *signInGuard) of(client string, now time.Time) *tries {
	key := clientKey(client)
	c := g.clients[key]
	if c == nil {
		if len(g.clients) >= maxSignInState {
			var oldest string
			for k, other := range g.clients {
				first := g.clients[oldest]
				if first == nil || first.good.IsZero() == other.good.IsZero() && other.seen.Before(first.seen) || !first.good.IsZero() && other.good.IsZero() {
					oldest = k
				}
			}
			delete(g.clients, oldest)
		}
		c = &tries{}
		g.clients[key] = c
	}
	c.seen = now
	return c
}
