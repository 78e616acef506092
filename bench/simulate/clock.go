package main

// clock runs events in the order of their times, in seconds since the beginning of the day. Events of the same time run in the order in which they
// were planned, so that a simulation is the same each time.
type clock struct {
	now     float64
	planned int
	events  heap[event]
}

type event struct {
	at    float64
	order int
	run   func()
}

// Before orders events in a heap.
func (e event) Before(other event) bool {
	return e.at < other.at || e.at == other.at && e.order < other.order
}

// after plans an event.
func (c *clock) after(seconds float64, run func()) {
	c.planned++
	c.events.push(event{c.now + seconds, c.planned, run})
}

// run runs all events, and those that they plan.
func (c *clock) run() {
	for len(c.events) > 0 {
		next := c.events.pop()
		c.now = next.at
		next.run()
	}
}
