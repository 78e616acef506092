// Package processor is the queue engine. It claims as many tasks as may be in flight, runs a Worker on each, renews their
// leases, and records the outcome. What does not work (the API, one of its models, the store of results) stops
// only the tasks that need it, and it waits while the database is unavailable. At a stop, an attempt that waits for the answer to a paid request may take its whole time, and everything else
// a grace period; what is left is released without using an attempt.
package processor

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// Queue is what the engine needs of the store.
type Queue interface {
	Claim(ctx context.Context, c store.ClaimRequest) ([]task.Task, error)
	Inputs(ctx context.Context, l task.Lease) ([]task.Input, error)
	RenewLeases(ctx context.Context, lease time.Duration, renewals []store.LeaseRenewal) (held []task.Lease, locked int, err error)
	PingLeases(ctx context.Context) error
	Complete(ctx context.Context, completions ...store.Completion) ([]task.Lease, error)
	Retry(ctx context.Context, l task.Lease, wait time.Duration, cause *task.Error) error
	Release(ctx context.Context, released ...store.ReleaseRequest) ([]task.Lease, error)
	Fail(ctx context.Context, l task.Lease, cause *task.Error, usesAttempt bool) (task.Refund, error)
	BeginRequests(ctx context.Context, starts ...store.RequestStart) ([]store.RequestStarted, error)
	PermitWait(ctx context.Context, endpoints []string) (time.Duration, error)
	SaveProgress(ctx context.Context, progress []store.LeaseRenewal) error
	SavePending(ctx context.Context, l task.Lease, p task.PendingResult) error
	RecordModel(ctx context.Context, m store.Model) error
	WorkedModels(ctx context.Context) ([]store.Model, error)
	FailAbandoned(ctx context.Context, maxLostClaims int, afterStart time.Duration, limit int, call uuid.UUID) ([]task.Refund, error)
	HasSuspect(ctx context.Context, maxLostClaims int) (bool, error)
	SetAside(ctx context.Context, taskID, operation string, cause error) error
	TasksAside(ctx context.Context, limit int) ([]store.AsideTask, error)
	FailOverdue(ctx context.Context, after time.Duration, limit int, call uuid.UUID) ([]task.Refund, error)
	Admit(ctx context.Context, user string) error
	AdmitAll(ctx context.Context) error
	Control(ctx context.Context) (store.Control, error)
	NextDue(ctx context.Context, takeExpired bool) (time.Duration, bool, error)
	HasPending(ctx context.Context) (bool, error)
	HasPendingFor(ctx context.Context, endpoints []store.ClaimEndpoint) (bool, error)
	Listen(ctx context.Context, wake func(), lost func(error))
	RecordHeartbeat(ctx context.Context, p store.Processor) error
	Deregister(ctx context.Context, worker string) error
}

// Config configures a Processor. Zero values mean the documented defaults.
type Config struct {
	Worker            string        // this processor's name in leased_by
	Host              string        // its host's name
	PID               int           // its process id
	Version           string        // of the program
	Concurrency       int           // tasks in flight at most; 3
	MaxAttempts       int           // for tasks that set none; 3
	RetryUnknown      int           // repeats of requests of unknown outcome in one run
	MaxLostClaims     int           // claims of a task that may be lost in a row; 5
	PollInterval      time.Duration // between claims, when no NOTIFY arrives; 5s
	Lease             time.Duration // renewed every third of it; 60s
	TaskTimeout       time.Duration // of one attempt; 10m
	ShutdownGrace     time.Duration // for tasks in flight at a stop, except those that wait for an answer to a paid request; 30s
	HeartbeatInterval time.Duration // 15s
	CheckInterval     time.Duration // between health checks; 5m
	StallTimeout      time.Duration // no heartbeat is recorded when the claim loop makes no progress for so long; 2m
	ProbeInterval     time.Duration // the API is asked when it did not respond for so long; 30m
	PendingTimeout    time.Duration // a task that is due for longer fails; 0: never

	Endpoints    []Endpoint // none: one without limits and checks, named default
	DefaultModel string     // of tasks without a model
	// CheckStore checks whether results can be stored. nil: they can.
	CheckStore func(context.Context) error
	// API and Results are what they are called in texts for people; "the API" and "results".
	API, Results string
	// Details returns the document that a heartbeat stores in the database, as JSON; nil: the Status itself.
	Details func(Status) any

	Log     logrus.FieldLogger  // nil: no log
	Redact  func(string) string // for texts that are stored in the database; nil: no change
	Observe func(Event)         // called at each step, from many goroutines; optional

	times circuitTimes // zero: defaultCircuitTimes
}

// Endpoint is an API that results can be requested from.
type Endpoint struct {
	Name    string   // of Task.Endpoint, and in the record of a task
	Address string   // under which requests may have been recorded before it had its name; may be empty
	Models  []string // of tasks that it can work; nil: any
	// Of the endpoints that can work a task, one with the lowest Preference is chosen, among these by Weight (0: 1).
	Preference, Weight int
	// Rate is how many paid requests a minute it may get, and Concurrency how many at a time, from all processors. 0: any number.
	Rate, Concurrency int
	// Check asks the endpoint, at no cost, whether it works with a model ("": the default). It returns nil, an error
	// that is task.ErrUncheckable, or a *task.Error. It is used by health checks, while a circuit is open, and to find out
	// whether failures have a common cause. nil: nothing can be found out.
	Check func(ctx context.Context, model string) error
}

func (c *Config) setDefaults() {
	setDefault(&c.Concurrency, 3)
	setDefault(&c.MaxAttempts, 3)
	setDefault(&c.MaxLostClaims, 5)
	setDefault(&c.PollInterval, 5*time.Second)
	setDefault(&c.Lease, time.Minute)
	setDefault(&c.TaskTimeout, 10*time.Minute)
	setDefault(&c.ShutdownGrace, 30*time.Second)
	setDefault(&c.HeartbeatInterval, 15*time.Second)
	setDefault(&c.CheckInterval, 5*time.Minute)
	setDefault(&c.ProbeInterval, 30*time.Minute)
	setDefault(&c.StallTimeout, 2*time.Minute)
	setDefault(&c.API, "the API")
	setDefault(&c.Results, "results")
	if c.Log == nil {
		discard := logrus.New()
		discard.SetOutput(io.Discard)
		discard.SetLevel(logrus.PanicLevel)
		c.Log = discard
	}
	if c.Redact == nil {
		c.Redact = func(s string) string { return s }
	}
	c.Endpoints = slices.Clone(c.Endpoints)
	if len(c.Endpoints) == 0 {
		c.Endpoints = []Endpoint{{Name: "default"}}
	}
	for i := range c.Endpoints {
		if c.Endpoints[i].Check == nil {
			c.Endpoints[i].Check = func(context.Context, string) error { return task.ErrUncheckable }
		}
	}
	if c.CheckStore == nil {
		c.CheckStore = func(context.Context) error { return nil }
	}
	if c.times == (circuitTimes{}) {
		c.times = defaultCircuitTimes()
	}
	if c.Details == nil {
		c.Details = func(s Status) any { return s }
	}
}

func setDefault[T int | time.Duration | string](field *T, value T) {
	var none T
	if *field <= none {
		*field = value
	}
}

// ErrAPIUnavailable means that RunOnce ended because every task would fail: the API is unreachable or refuses all requests, or
// results can't be stored. The error that RunOnce returns says which, and wraps the cause, too.
var ErrAPIUnavailable = errors.New("the API is unreachable")

// ErrPaused means that RunOnce ended because claiming is paused while tasks are pending.
var ErrPaused = errors.New("claiming is paused; to resume run: task-processor resume")

// ErrSetAside means that RunOnce ended although tasks are left, which are set aside because the database refused to change them.
var ErrSetAside = errors.New("tasks are left that the database refuses to change; to see them run: task-processor status")

// ErrScheduled means that RunOnce ended because the tasks that are left are scheduled for more than an hour later.
var ErrScheduled = errors.New("the tasks that are left are scheduled for later")

// FinalWriteTimeout bounds the last writes to the database after the grace period of a stop.
const FinalWriteTimeout = 10 * time.Second

// Processor works tasks. It is made by New and runs once.
type Processor struct {
	conf       Config
	queue      Queue
	inFlight   *inFlight
	circuits   *circuitSet
	models     *workedModels
	database   *databaseState
	events     *eventRecorder
	loop       *loopWatch
	claims     *claimLoop
	attempts   *attemptRunner
	groups     []group
	leases     *leaseRenewer
	progress   *progressSaver
	heartbeats *heartbeats
	checks     *healthChecks
	stopping   atomic.Bool   // no paid request may be started any more
	stopNow    chan struct{} // closed by StopNow
	closeStop  func()

	mu        sync.Mutex
	startedAt time.Time
}

// New returns a processor that runs worker on the tasks of queue.
func New(conf Config, queue Queue, worker Worker) *Processor {
	conf.setDefaults()
	log, redact := conf.Log, sanitizer(conf.Redact)
	events := &eventRecorder{observe: conf.Observe}
	attempts := newInFlight()
	database := &databaseState{log: log, events: events, pollInterval: conf.PollInterval, lease: conf.Lease}
	loop := &loopWatch{timeout: conf.PollInterval + conf.StallTimeout}
	breakers, models := newCircuitSet(&conf, redact, events), newWorkedModels(&conf, queue)
	users := &userLimit{queue: queue, database: database}
	leases := &leaseRenewer{queue: queue, lease: conf.Lease, inFlight: attempts, database: database, events: events}
	claims := &claimLoop{queue: queue, worker: conf.Worker, concurrency: conf.Concurrency, lease: conf.Lease,
		maxAttempts: conf.MaxAttempts, maxLost: conf.MaxLostClaims, events: events, wakeups: make(chan struct{}, 1), inFlight: attempts,
		leases: leases, circuits: breakers, watch: loop, database: database,
		sweeper: &sweeper{queue: queue, lease: conf.Lease, maxLost: conf.MaxLostClaims, pendingTimeout: conf.PendingTimeout,
			users: users, loop: loop, database: database, events: events, log: log}}
	breakers.wake = claims.wake
	stopNow := make(chan struct{})
	completions, releases, requests := newCompletionGroup(queue), newReleaseGroup(queue), newRequestGroup(queue)
	p := &Processor{conf: conf, queue: queue, inFlight: attempts, circuits: breakers, models: models, database: database, events: events, loop: loop,
		claims: claims, leases: leases, groups: []group{completions, releases, requests}, stopNow: stopNow, closeStop: sync.OnceFunc(func() { close(stopNow) }),
		checks: &healthChecks{queue: queue, circuits: breakers, database: database, events: events, sanitizer: redact,
			interval: conf.CheckInterval, probeInterval: conf.ProbeInterval},
	}
	p.progress = &progressSaver{queue: queue, inFlight: attempts, changed: make(chan struct{}, 1), log: log}
	p.attempts = &attemptRunner{worker: worker, progress: p.progress, queue: queue, requests: requests, concurrency: conf.Concurrency, timeout: conf.TaskTimeout, retryUnknown: conf.RetryUnknown,
		maxLostClaims: conf.MaxLostClaims, leases: leases, stopping: &p.stopping,
		inFlight: attempts, events: events, log: log, wake: claims.wake,
		outcomes: &outcomes{queue: queue, completions: completions, releases: releases, users: users, circuits: breakers, models: models, database: database, events: events,
			retryUnknown: conf.RetryUnknown, maxLostClaims: conf.MaxLostClaims, giveUp: conf.TaskTimeout, sanitizer: redact, wake: claims.wake}}
	claims.mayStart = p.attempts.mayStart
	p.heartbeats = &heartbeats{queue: queue, interval: conf.HeartbeatInterval, loop: loop, database: database, events: events, log: log,
		processor: store.Processor{Worker: conf.Worker, Host: conf.Host, PID: conf.PID, Version: conf.Version, Capacity: conf.Concurrency},
		report:    func() any { return conf.Details(p.Status()) }}
	return p
}

// Run works tasks until ctx ends, and then stops gracefully. It returns nil after a graceful stop.
func (p *Processor) Run(ctx context.Context) error { return p.run(ctx, false) }

// RunOnce works tasks until none is pending, waiting for retries too. It returns ErrAPIUnavailable when every task would fail for the
// same reason, ErrPaused while claiming is paused, ErrSetAside when only tasks are left that the database refuses to change, and
// ErrScheduled when only tasks of a later time are left.
func (p *Processor) RunOnce(ctx context.Context) error { return p.run(ctx, true) }

// StopNow ends the waits of a stop: tasks in flight are released at once. Paid requests that are cut off so count as requests of unknown
// outcome. It is safe for concurrent use and may be called more than once, also before a stop.
func (p *Processor) StopNow() { p.closeStop() }

func (p *Processor) startTime() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.startedAt
}

func (p *Processor) run(ctx context.Context, once bool) error {
	detached := context.WithoutCancel(ctx)
	stopped := context.AfterFunc(ctx, func() { p.stopping.Store(true) })
	defer stopped()
	// Attempts run until drain ends them, and their outcomes are written a little longer.
	work, endWork := context.WithCancel(detached)
	stopWork := func() {
		endWork()
		p.inFlight.cancelAll(errStopping)
	}
	defer endWork()
	writes, stopWrites := context.WithCancel(detached)
	defer stopWrites()
	for _, g := range p.groups {
		defer context.AfterFunc(writes, g.Abort)()
	}

	p.loop.progress()
	p.mu.Lock()
	p.startedAt = time.Now()
	p.mu.Unlock()

	var helpers sync.WaitGroup
	helping, stopHelpers := context.WithCancel(detached)
	helpers.Go(func() {
		p.queue.Listen(helping, func() { p.database.heard(); p.claims.wake() }, p.database.listenerLost)
	})
	helpers.Go(func() { p.leases.run(helping) })
	helpers.Go(func() { p.circuits.run(helping) })
	helpers.Go(func() { p.progress.run(helping) })
	p.models.load(ctx)
	helpers.Go(func() { p.models.run(helping) })
	if !once {
		helpers.Go(func() { p.heartbeats.run(helping) })
		// A heartbeat stores the result of the checks.
		helpers.Go(func() { p.checks.run(helping, func() { p.heartbeats.record(helping) }) })
		defer p.heartbeats.deregister(detached)
	}
	defer helpers.Wait()
	defer stopHelpers()

	err := p.claims.run(ctx, once, func(claimed []task.Task, ahead bool) { p.attempts.start(work, writes, claimed, ahead) },
		func(unstarted []*attempt) { p.attempts.giveBack(work, writes, unstarted) })
	p.loop.end()
	p.attempts.giveBack(work, writes, p.inFlight.takeBack())
	p.drain(stopWork, stopWrites)
	for _, g := range p.groups {
		g.Wait()
	}
	return err
}

// drain lets the attempts in flight finish: those that wait for the answer to a paid request within their own time, all others
// within the grace period. What is left is cancelled and released.
func (p *Processor) drain(stopWork, stopWrites func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.inFlight.running.Wait()
	}()
	if n, _ := p.inFlight.counts(); n > 0 {
		p.conf.Log.WithFields(logrus.Fields{"in_flight": n, "paid_requests": p.inFlight.awaitRequests(), "grace": p.conf.ShutdownGrace}).
			Info("stopping: no more tasks are claimed; paid requests may finish")
	}
	grace := time.Now().Add(p.conf.ShutdownGrace)
	stopNow := p.stopNow
	tick := time.NewTicker(drainInterval)
	defer tick.Stop()
	deadline := grace.Add(FinalWriteTimeout) // of the last writes
	for {
		select {
		case <-done:
			return
		case <-stopNow:
			stopNow = nil
			stopWork()
			grace = time.Now()
			deadline = grace.Add(FinalWriteTimeout)
		case now := <-tick.C:
			switch {
			case p.inFlight.awaitRequests() > 0 && stopNow != nil:
				// What came back last may be recorded after the grace.
				deadline = latest(grace, now.Add(FinalWriteTimeout))
				if now.After(grace) {
					p.inFlight.abortOthers()
				}
			case now.After(deadline):
				stopWrites()
				<-done
				return
			case now.After(grace):
				stopWork()
			}
		}
	}
}

// drainInterval is how often a stop looks at what is still in flight.
const drainInterval = 50 * time.Millisecond
