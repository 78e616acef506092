package main

import "math/rand/v2"

// config is what is simulated.
type config struct {
	Tasks          float64 `json:"tasks_a_day"`
	Peak           float64 `json:"peak"` // the highest rate of the day, in means
	Day            float64 `json:"day_seconds"`
	Seed           uint64  `json:"seed"`
	Processors     int     `json:"processors"`
	Concurrency    int     `json:"concurrency"` // TASK_CONCURRENCY of each processor
	Seconds        float64 `json:"seconds"`     // that the API takes for a task
	Spread         float64 `json:"spread"`      // its coefficient of variation
	Answer         float64 `json:"answer_mib"`
	Upload         float64 `json:"upload_mib"`
	Bandwidth      float64 `json:"bandwidth_mbit"` // in each direction; 0: no limit
	PostgresCores  int     `json:"postgres_cores"`
	ProcessorCores int     `json:"processor_cores"`
	Memory         float64 `json:"memory_mib"` // of a processor's host
	Files          float64 `json:"files"`      // open files that a processor may have
	Costs          costs   `json:"costs"`
}

const (
	mib = 1 << 20
	// overhead is what TCP, IP and TLS add to the bytes of an answer.
	overhead = 1.03
)

// wire returns the bytes that so many MiB take on the network.
func wire(size float64) float64 { return size * mib * overhead }

// bytesPerSecond returns the rate of each direction of the proxy.
func (c config) bytesPerSecond() float64 { return c.Bandwidth * 1e6 / 8 }

// The bounds of the engine: pkg/processor, claimBatch, groupSize and groupsAtOnce.
const (
	claimBatch   = 1000
	groupSize    = 500
	groupsAtOnce = 2
)

// hours are the parts of a day for which the use of resources is counted.
const hours = 24

// queue is the simulated system.
type queue struct {
	clock
	conf     config
	random   *rand.Rand // of the times of the API
	arrivals *arrivals
	postgres cores
	down, up line
	hosts    []*host
	slots    gauge
	pending  fifo[float64] // the times at which the tasks were enqueued
	waiting  gauge

	arrived       int
	waits         histogram
	completed     int
	lastCompleted float64
	leftAtEnd     int // pending at the end of the day
	mostInFlight  int // in one processor
}

// host is the host of one task-processor.
type host struct {
	*queue
	cpu         cores
	inFlight    int
	claiming    bool
	again       bool // something happened during the claim
	requests    grouped
	completions grouped
}

// simulate simulates a day, and the time until all of its tasks are completed.
func simulate(c config) *queue {
	q := &queue{conf: c, random: rand.New(rand.NewPCG(c.Seed, 2)), arrivals: newArrivals(c)}
	newGauge := func() gauge { return gauge{clock: &q.clock, window: c.Day / hours} }
	q.slots, q.waiting = newGauge(), newGauge()
	q.postgres = cores{clock: &q.clock, number: c.PostgresCores, busy: newGauge()}
	q.down = line{clock: &q.clock, rate: c.bytesPerSecond(), busy: newGauge()}
	q.up = line{clock: &q.clock, rate: c.bytesPerSecond(), busy: newGauge()}
	for range c.Processors {
		h := &host{queue: q, cpu: cores{clock: &q.clock, number: c.ProcessorCores, busy: newGauge()}}
		h.requests = grouped{queue: q, perTask: c.Costs.Request}
		h.completions = grouped{queue: q, perTask: c.Costs.Complete}
		q.hosts = append(q.hosts, h)
	}
	q.after(c.Day, func() { q.leftAtEnd = q.pending.len() })
	q.arrive()
	q.clock.run()
	return q
}

// arrive plans the next task of the day.
func (q *queue) arrive() {
	at, ok := q.arrivals.next()
	if !ok {
		return
	}
	q.after(at-q.now, func() {
		q.arrived++
		q.postgres.run(q.conf.Costs.Enqueue, q.enqueued)
		q.arrive()
	})
}

// enqueued notifies all processors of a task.
func (q *queue) enqueued() {
	q.pending.push(q.now)
	q.waiting.set(float64(q.pending.len()))
	first := q.arrived // so that no processor is always the first
	for i := range q.hosts {
		q.hosts[(first+i)%len(q.hosts)].claim()
	}
}

// claim claims as many tasks as there are free slots for, unless a claim is under way.
func (h *host) claim() {
	if h.claiming {
		h.again = true
		return
	}
	if h.inFlight == h.conf.Concurrency {
		return
	}
	h.claiming, h.again = true, false
	var enqueued []float64
	h.postgres.start(job{begin: func() float64 {
		enqueued = make([]float64, min(h.conf.Concurrency-h.inFlight, h.pending.len(), claimBatch))
		for i := range enqueued {
			enqueued[i] = h.pending.pop()
		}
		h.waiting.set(float64(h.pending.len()))
		return h.conf.Costs.Statement + h.conf.Costs.Claim*float64(len(enqueued))
	}, done: func() {
		h.claiming = false
		for _, at := range enqueued {
			h.waits.add(h.now - at)
			h.begin()
		}
		if h.again || len(enqueued) == claimBatch {
			h.claim()
		}
	}})
}

// begin works a task: it records the paid request, sends it, reads the answer, stores the picture, and completes the task.
func (h *host) begin() {
	c := h.conf
	h.inFlight++
	h.mostInFlight = max(h.mostInFlight, h.inFlight)
	h.slots.set(h.slots.level + 1)
	completed := func() {
		h.completed++
		h.lastCompleted = h.now
		h.inFlight--
		h.slots.set(h.slots.level - 1)
		h.claim()
	}
	decoded := func() { h.completions.add(completed) }
	answered := func() {
		h.down.send(wire(c.Answer), func() { h.cpu.run(c.Costs.Task+c.Costs.Picture*c.Answer, decoded) })
	}
	recorded := func() {
		h.up.send(wire(c.Upload), func() { h.after(gamma(h.random, c.Seconds, c.Spread), answered) })
	}
	h.requests.add(recorded)
}

// grouped writes about many tasks at a time, as the engine does: the first at once, and those that come meanwhile together.
type grouped struct {
	queue   *queue
	perTask float64
	tasks   fifo[func()]
	writing int
}

func (g *grouped) add(done func()) {
	g.tasks.push(done)
	g.write()
}

func (g *grouped) write() {
	if g.writing == groupsAtOnce || g.tasks.len() == 0 {
		return
	}
	g.writing++
	group := make([]func(), min(g.tasks.len(), groupSize))
	for i := range group {
		group[i] = g.tasks.pop()
	}
	g.queue.postgres.run(g.queue.conf.Costs.Statement+g.perTask*float64(len(group)), func() {
		g.writing--
		for _, done := range group {
			done()
		}
		g.write()
	})
}
