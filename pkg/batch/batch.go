// Package batch joins calls that come while others are in progress, so that many cost little more than one.
package batch

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Result is what became of one item of a group.
type Result[Out any] struct {
	Out Out
	Err error
}

// Group joins calls of Do and Go. The first call runs at once; those that come while it runs go together in the next run, so that an idle Group adds no
// delay. Run must be set before the first call, and nothing may be changed after it. A Group is safe for concurrent use and must not be copied.
type Group[In, Out any] struct {
	// Run handles some items and returns one result for each, in their order. An error is that of all of them. Its context ends after
	// Timeout, and when no caller waits for a result any more.
	Run func(ctx context.Context, in []In) ([]Result[Out], error)
	// Max is how many items one run gets at most. 0: 500.
	Max int
	// Parallel is how many runs there may be at the same time. 0: 1.
	Parallel int
	// Patience is how long a call waits for those in progress before another run begins beside them, if Parallel allows one: fewer and larger runs cost
	// less. 0: it does not wait.
	Patience time.Duration
	// Timeout bounds a run. 0: no bound but those of the callers.
	Timeout time.Duration
	// Split reports whether an error of Run may be the fault of single items: Run is repeated with the halves then, down to these items. nil: it
	// never is.
	Split func(error) bool

	mu      sync.Mutex
	waiting []*call[In, Out]
	running int
	current []*run
	aborted bool
	runs    sync.WaitGroup
	another *time.Timer // begins another run for what waits; nil: not needed
}

// call is one call of Do or Go.
type call[In, Out any] struct {
	in     In
	result Result[Out]
	done   chan struct{}    // of Do; holds one
	then   func(Out, error) // of Go
	of     *run             // nil: it has not begun; Group.mu is held for it
}

// end gives the call its result.
func (c *call[In, Out]) end(result Result[Out]) {
	if c.then != nil {
		c.then(result.Out, result.Err)
		return
	}
	c.result = result
	c.done <- struct{}{}
}

// run is what the calls of one run share.
type run struct {
	callers int // that wait
	cancel  context.CancelFunc
}

// DefaultMax is the value of Group.Max if that is 0.
const DefaultMax = 500

// Do handles one item together with those of other callers. When ctx ends before, it returns the error of ctx, and the item may have been
// handled or not.
func (g *Group[In, Out]) Do(ctx context.Context, in In) (Out, error) {
	c := &call[In, Out]{in: in, done: make(chan struct{}, 1)}
	if err := ctx.Err(); err != nil {
		return c.result.Out, err
	}
	g.add(ctx, c)
	select {
	case <-c.done:
		return c.result.Out, c.result.Err
	case <-ctx.Done():
		g.abandon(c)
		var none Out
		return none, ctx.Err()
	}
}

// Go is Do without waiting: then is called with the result, by the goroutine of the run, which must not be kept waiting. Only the values of ctx are
// used; Abort is what ends the call early.
func (g *Group[In, Out]) Go(ctx context.Context, in In, then func(Out, error)) {
	g.add(ctx, &call[In, Out]{in: in, then: then})
}

func (g *Group[In, Out]) add(ctx context.Context, c *call[In, Out]) {
	g.mu.Lock()
	if g.aborted {
		g.mu.Unlock()
		c.end(Result[Out]{Err: context.Canceled})
		return
	}
	g.waiting = append(g.waiting, c)
	detached := context.WithoutCancel(ctx)
	switch {
	case g.running == 0 || g.Patience <= 0:
		g.begin(detached)
	case g.running < g.Parallel && g.another == nil:
		g.another = time.AfterFunc(g.Patience, func() {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.another = nil
			if len(g.waiting) > 0 { // so that a run is in progress, and Wait waits
				g.begin(detached)
			}
		})
	}
	g.mu.Unlock()
}

// begin begins another run if there may be one. g.mu is held.
func (g *Group[In, Out]) begin(ctx context.Context) {
	if g.running < max(g.Parallel, 1) {
		g.running++
		g.runs.Go(func() { g.work(ctx) })
	}
}

// Abort ends all runs. Calls that wait, and later ones, fail with context.Canceled.
func (g *Group[In, Out]) Abort() {
	g.mu.Lock()
	g.aborted = true
	waiting := g.waiting
	g.waiting = nil
	for _, r := range g.current {
		r.cancel()
	}
	g.mu.Unlock()
	for _, c := range waiting {
		c.end(Result[Out]{Err: context.Canceled})
	}
}

// Wait returns when no run is in progress. No call of Do or Go may begin after Wait was called.
func (g *Group[In, Out]) Wait() { g.runs.Wait() }

// work runs what waits until nothing does.
func (g *Group[In, Out]) work(ctx context.Context) {
	for {
		ctx, cancel := context.WithCancel(ctx)
		calls := g.dequeue(cancel)
		if len(calls) == 0 {
			cancel()
			return
		}
		g.handle(ctx, calls)
		g.mu.Lock()
		g.current = slices.DeleteFunc(g.current, func(r *run) bool { return r == calls[0].of })
		g.mu.Unlock()
		cancel()
	}
}

// dequeue returns the calls of the next run, which cancel ends. Without any the caller must end.
func (g *Group[In, Out]) dequeue(cancel context.CancelFunc) []*call[In, Out] {
	g.mu.Lock()
	defer g.mu.Unlock()
	most := g.Max
	if most <= 0 {
		most = DefaultMax
	}
	n := min(len(g.waiting), most)
	if n == 0 {
		g.running--
		return nil
	}
	calls := g.waiting[:n:n]
	if g.waiting = g.waiting[n:]; len(g.waiting) == 0 {
		g.waiting = nil
		if g.another != nil {
			g.another.Stop()
			g.another = nil
		}
	}
	r := &run{callers: n, cancel: cancel}
	for _, c := range calls {
		c.of = r
	}
	g.current = append(g.current, r)
	return calls
}

// abandon makes a call end without its result.
func (g *Group[In, Out]) abandon(c *call[In, Out]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.of == nil {
		g.waiting = slices.DeleteFunc(g.waiting, func(other *call[In, Out]) bool { return other == c })
		return
	}
	if c.of.callers--; c.of.callers == 0 {
		c.of.cancel()
	}
}

// handle runs calls and gives each its result.
func (g *Group[In, Out]) handle(ctx context.Context, calls []*call[In, Out]) {
	items := make([]In, len(calls))
	for i, c := range calls {
		items[i] = c.in
	}
	g.handleItems(ctx, items, func(i int, result Result[Out]) { calls[i].end(result) })
}

// handleItems runs items, and calls give with the result of each.
func (g *Group[In, Out]) handleItems(ctx context.Context, items []In, give func(int, Result[Out])) {
	results, err := g.runOnce(ctx, items)
	if err != nil && len(items) > 1 && g.Split != nil && g.Split(err) {
		half := len(items) / 2
		g.handleItems(ctx, items[:half], give)
		g.handleItems(ctx, items[half:], func(i int, result Result[Out]) { give(half+i, result) })
		return
	}
	for i := range items {
		result := Result[Out]{Err: err}
		if err == nil {
			result = results[i]
		}
		give(i, result)
	}
}

func (g *Group[In, Out]) runOnce(ctx context.Context, items []In) ([]Result[Out], error) {
	if g.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, g.Timeout)
		defer cancel()
	}
	return g.Run(ctx, items)
}
