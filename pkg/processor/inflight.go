package processor

import (
	"sync"
	"time"

	"imagetasks/pkg/store"
)

// inFlight is the set of attempts: those that are being worked, and those that were claimed ahead and wait for one of these to end. It is safe for
// concurrent use.
type inFlight struct {
	running sync.WaitGroup // the goroutines of the attempts
	endings endings

	mu        sync.Mutex
	attempts  []*attempt     // all, in no order: attempt.index is the place of each
	waiting   []*attempt     // the first is started next
	working   int            // of attempts
	suspects  int            // of attempts
	endpoints map[string]int // how many of attempts are for each
	lostOnes  []*attempt     // of attempts: their task's last claim was lost
}

func newInFlight() *inFlight { return &inFlight{endpoints: map[string]int{}} }

// add adds the attempts on tasks that were just claimed. It returns how many of them start now, the first ones, so that at most limit are being
// worked. The others wait.
func (f *inFlight) add(attempts []*attempt, limit int) (starting int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, a := range attempts {
		a.index = len(f.attempts)
		f.attempts = append(f.attempts, a)
		f.endpoints[a.task.Endpoint]++
		if store.Suspect(a.task) {
			f.suspects++
		}
		if a.task.LostClaims > 0 {
			f.lostOnes = append(f.lostOnes, a)
		}
	}
	starting = min(len(attempts), max(limit-f.working, 0))
	f.working += starting
	f.waiting = append(f.waiting, attempts[starting:]...)
	return starting
}

// next removes an attempt that has ended. Where another may start, it returns the one to work in its place: the first that waits, or nil if none does or
// limit are being worked without it. few reports that the claim loop should look again: nothing is started, or less than half of target waits.
func (f *inFlight) next(ended *attempt, mayStart bool, limit, target int) (next *attempt, few bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.remove(ended)
	if len(f.waiting) == 0 || !mayStart || f.working > limit {
		f.working--
		return nil, true
	}
	next = f.waiting[0]
	f.waiting[0] = nil
	f.waiting = f.waiting[1:]
	return next, len(f.waiting) < (target+1)/2
}

// remove removes an attempt. f.mu is held.
func (f *inFlight) remove(a *attempt) {
	last := len(f.attempts) - 1
	f.attempts[a.index] = f.attempts[last]
	f.attempts[a.index].index = a.index
	f.attempts[last] = nil
	f.attempts = f.attempts[:last]
	if f.endpoints[a.task.Endpoint]--; f.endpoints[a.task.Endpoint] == 0 {
		delete(f.endpoints, a.task.Endpoint)
	}
	if store.Suspect(a.task) {
		f.suspects--
	}
	if a.task.LostClaims > 0 {
		for i, other := range f.lostOnes {
			if other == a {
				f.lostOnes = append(f.lostOnes[:i], f.lostOnes[i+1:]...)
				break
			}
		}
	}
}

// first returns the attempt that is started next; nil: none waits.
func (f *inFlight) first() *attempt {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.waiting) == 0 {
		return nil
	}
	return f.waiting[0]
}

// takeBack returns the attempts that wait. The caller releases them; until then they count as being worked.
func (f *inFlight) takeBack() []*attempt {
	f.mu.Lock()
	defer f.mu.Unlock()
	taken := f.waiting
	f.waiting = nil
	f.working += len(taken)
	return taken
}

// count returns how many leases are held.
func (f *inFlight) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.attempts)
}

// counts returns how many attempts are being worked and how many wait.
func (f *inFlight) counts() (working, waiting int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.working, len(f.waiting)
}

// alone reports whether a suspect task is in flight, with which nothing else may be.
func (f *inFlight) alone() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.suspects > 0
}

// of returns how many attempts are for an endpoint.
func (f *inFlight) of(endpoint string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.endpoints[endpoint]
}

// lost returns how many attempts began within that time on tasks whose last claim was lost.
func (f *inFlight) lost(within time.Duration) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, a := range f.lostOnes {
		if time.Since(a.claimedAt) < within {
			n++
		}
	}
	return n
}

// awaitRequests returns how many attempts wait for the answer to a paid request.
func (f *inFlight) awaitRequests() int {
	n := 0
	for _, a := range f.list() {
		if a.awaitsRequest() {
			n++
		}
	}
	return n
}

// abortOthers cancels the attempts that do not wait for the answer to a paid request.
func (f *inFlight) abortOthers() {
	for _, a := range f.list() {
		if !a.awaitsRequest() {
			a.cancel(errStopping)
		}
	}
}

// cancelAll cancels all attempts.
func (f *inFlight) cancelAll(cause error) {
	for _, a := range f.list() {
		a.cancel(cause)
	}
}

func (f *inFlight) list() []*attempt {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]*attempt(nil), f.attempts...)
}
