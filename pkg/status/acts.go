package status

import (
	"net/http"
	"sync"
	"time"
)

// actsTimeout is how long Close waits for what is being changed: an action may take actionTimeout.
const actsTimeout = actionTimeout + 5*time.Second

// acts are the requests that change something, which a stop lets finish. The zero value has none.
type acts struct {
	mu      sync.Mutex
	closed  bool
	running int
	idle    chan struct{} // closed when closed is set and nothing is running; nil before
}

func (a *acts) handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			if !a.begin() {
				refuse(w, r, refusal{http.StatusServiceUnavailable, "stopping", textStopping})
				return
			}
			defer a.end()
		}
		next.ServeHTTP(w, r)
	})
}

func (a *acts) begin() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.closed {
		a.running++
	}
	return !a.closed
}

func (a *acts) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.running--; a.closed && a.running == 0 {
		close(a.idle)
	}
}

// close lets no more begin, and waits for those that have, for actsTimeout at most. It is called once.
func (a *acts) close() {
	a.mu.Lock()
	a.closed, a.idle = true, make(chan struct{})
	if a.running == 0 {
		close(a.idle)
	}
	a.mu.Unlock()
	timeout := time.NewTimer(actsTimeout)
	defer timeout.Stop()
	select {
	case <-a.idle:
	case <-timeout.C:
	}
}
