package main

// gauge is a value over time: its mean of each window, and its maximum.
type gauge struct {
	clock       *clock
	window      float64 // seconds
	level, most float64
	since       float64
	sums        []float64 // of level × seconds, in each window
}

func (g *gauge) set(level float64) {
	for at := g.since; at < g.clock.now && g.level > 0; {
		n := int(at / g.window)
		for len(g.sums) <= n {
			g.sums = append(g.sums, 0)
		}
		until := min(float64(n+1)*g.window, g.clock.now)
		if until <= at { // the end of a window, rounded down
			until = g.clock.now
		}
		g.sums[n] += g.level * (until - at)
		at = until
	}
	g.since, g.level, g.most = g.clock.now, level, max(g.most, level)
}

// busiest returns the mean of the window in which it is greatest.
func (g *gauge) busiest() float64 {
	most := 0.0
	for _, sum := range g.sums {
		most = max(most, sum)
	}
	return most / g.window
}

// total returns the integral of the value over the first windows.
func (g *gauge) total(windows int) (sum float64) {
	for _, s := range g.sums[:min(windows, len(g.sums))] {
		sum += s
	}
	return sum
}

// cores run jobs, one job each, in the order in which they come.
type cores struct {
	clock   *clock
	number  int
	busy    gauge
	waiting fifo[job]
}

type job struct {
	begin func() (seconds float64) // called when a core is free
	done  func()
}

// run runs a job of so many seconds.
func (c *cores) run(seconds float64, done func()) {
	c.start(job{func() float64 { return seconds }, done})
}

func (c *cores) start(j job) {
	if int(c.busy.level) == c.number {
		c.waiting.push(j)
		return
	}
	c.busy.set(c.busy.level + 1)
	c.clock.after(j.begin(), func() {
		c.busy.set(c.busy.level - 1)
		if c.waiting.len() > 0 {
			c.start(c.waiting.pop())
		}
		j.done()
	})
}

// line is one direction of a network connection, whose rate all transfers at a time share equally.
type line struct {
	clock     *clock
	rate      float64 // bytes/s; 0: transfers take no time
	busy      gauge   // 1 while there are transfers
	transfers heap[transfer]
	sent      float64 // bytes that each transfer has got, had it been there from the beginning
	since     float64
	planned   int // the end of a transfer that was planned last; earlier ones are void
}

func (l *line) send(bytes float64, done func()) {
	if l.rate == 0 || bytes == 0 {
		done()
		return
	}
	l.proceed()
	l.transfers.push(transfer{l.sent + bytes, done})
	l.busy.set(1)
	l.plan()
}

func (l *line) proceed() {
	if n := len(l.transfers); n > 0 {
		l.sent += (l.clock.now - l.since) * l.rate / float64(n)
	}
	l.since = l.clock.now
}

// plan plans the end of the transfer that ends first, if none begins before.
func (l *line) plan() {
	l.planned++
	if len(l.transfers) == 0 {
		l.busy.set(0)
		return
	}
	planned := l.planned
	l.clock.after(max(0, (l.transfers[0].end-l.sent)*float64(len(l.transfers))/l.rate), func() {
		if planned != l.planned {
			return
		}
		l.proceed()
		first := l.transfers.pop()
		l.plan()
		first.done()
	})
}

type transfer struct {
	end  float64 // of line.sent
	done func()
}

// Before orders transfers in a heap.
func (t transfer) Before(other transfer) bool { return t.end < other.end }

// fifo is a queue.
type fifo[T any] struct {
	items []T
	first int
}

func (q *fifo[T]) len() int { return len(q.items) - q.first }

func (q *fifo[T]) push(x T) { q.items = append(q.items, x) }

func (q *fifo[T]) pop() T {
	x := q.items[q.first]
	var none T
	q.items[q.first] = none
	q.first++
	if q.first > 1000 && q.first > len(q.items)/2 {
		q.items = append(q.items[:0], q.items[q.first:]...)
		q.first = 0
	}
	return x
}
