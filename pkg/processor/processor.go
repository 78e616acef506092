// Package processor is the queue engine. It claims as many tasks as may be in flight, runs a Worker on each, renews their
// leases, and records the outcome. It stops claiming while the image API is unreachable and waits while the database is
// unavailable. At a stop, tasks in flight may finish within a grace period; the rest are released without using an attempt.
package processor

import (
	"context"
	"errors"
	"io"
	"sync"
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
	Complete(ctx context.Context, completions ...store.Completion) ([]task.Lease, error)
	Retry(ctx context.Context, l task.Lease, wait time.Duration, cause *task.Error) error
	Release(ctx context.Context, released ...store.ReleaseRequest) ([]task.Lease, error)
	Fail(ctx context.Context, l task.Lease, cause *task.Error) (task.Refund, error)
	FailAbandoned(ctx context.Context, maxAttempts, limit int, call uuid.UUID) ([]task.Refund, error)
	FailOverdue(ctx context.Context, after time.Duration, limit int, call uuid.UUID) ([]task.Refund, error)
	Admit(ctx context.Context, user string) (int, error)
	AdmitAll(ctx context.Context) (int, error)
	Control(ctx context.Context) (store.Control, error)
	NextDue(ctx context.Context) (time.Duration, bool, error)
	HasPending(ctx context.Context) (bool, error)
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
	PollInterval      time.Duration // between claims, when no NOTIFY arrives; 5s
	Lease             time.Duration // renewed every third of it; 60s
	TaskTimeout       time.Duration // of one attempt; 10m
	ShutdownGrace     time.Duration // for tasks in flight at a stop; 30s
	HeartbeatInterval time.Duration // 15s
	CheckInterval     time.Duration // between health checks; 5m
	StallTimeout      time.Duration // no heartbeat is recorded when the claim loop makes no progress for so long; 2m
	ProbeInterval     time.Duration // the API is probed when it did not respond for so long; 30m
	RateLimit         int           // attempts a minute; 0: no limit
	PendingTimeout    time.Duration // a task that is due for longer fails; 0: never

	// Probe checks whether the API works, at no cost; its error is a *task.Error. It is used by health checks, by the circuit
	// breaker, and to find out whether failures have a common cause. nil: the API always works.
	Probe func(context.Context) error
	// Details returns the document that a heartbeat stores in the database, as JSON; nil: the Status itself.
	Details func(Status) any

	Log     logrus.FieldLogger  // nil: no log
	Redact  func(string) string // for texts that are stored in the database; nil: no change
	Observe func(Event)         // called at each step, from many goroutines; optional
}

func (c *Config) setDefaults() {
	setDefault(&c.Concurrency, 3)
	setDefault(&c.MaxAttempts, 3)
	setDefault(&c.PollInterval, 5*time.Second)
	setDefault(&c.Lease, time.Minute)
	setDefault(&c.TaskTimeout, 10*time.Minute)
	setDefault(&c.ShutdownGrace, 30*time.Second)
	setDefault(&c.HeartbeatInterval, 15*time.Second)
	setDefault(&c.CheckInterval, 5*time.Minute)
	setDefault(&c.ProbeInterval, 30*time.Minute)
	setDefault(&c.StallTimeout, 2*time.Minute)
	if c.Log == nil {
		discard := logrus.New()
		discard.SetOutput(io.Discard)
		c.Log = discard
	}
	if c.Redact == nil {
		c.Redact = func(s string) string { return s }
	}
	if c.Probe == nil {
		c.Probe = func(context.Context) error { return nil }
	}
	if c.Details == nil {
		c.Details = func(s Status) any { return s }
	}
}

func setDefault[T int | time.Duration](field *T, value T) {
	if *field <= 0 {
		*field = value
	}
}

// ErrAPIUnavailable means that RunOnce ended because the image API is unreachable. The error that RunOnce returns wraps the
// cause, too.
var ErrAPIUnavailable = errors.New("the image API is unreachable")

// ErrPaused means that RunOnce ended because claiming is paused while tasks are pending.
var ErrPaused = errors.New("claiming is paused; to resume run: task-processor resume")

// ErrScheduled means that RunOnce ended because the tasks that are left are scheduled for more than an hour later.
var ErrScheduled = errors.New("the tasks that are left are scheduled for later")

// FinalWriteTimeout bounds the last writes to the database after the grace period of a stop.
const FinalWriteTimeout = 10 * time.Second

// Processor works tasks. It is made by New and runs once.
type Processor struct {
	conf       Config
	queue      Queue
	inFlight   *inFlight
	api        *apiState
	database   *databaseState
	events     *eventRecorder
	loop       *loopWatch
	claims     *claimLoop
	attempts   *attemptRunner
	leases     *leaseRenewer
	heartbeats *heartbeats
	checks     *healthChecks
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
	api := &apiState{call: conf.Probe, sanitizer: redact, log: log, events: events, pollInterval: conf.PollInterval}
	users := &userLimit{queue: queue, database: database}
	claims := &claimLoop{queue: queue, worker: conf.Worker, concurrency: conf.Concurrency, lease: conf.Lease,
		maxAttempts: conf.MaxAttempts, pollInterval: conf.PollInterval, wakeups: make(chan struct{}, 1), inFlight: attempts,
		api: api, rate: newRateLimiter(conf.RateLimit, conf.PollInterval), watch: loop, database: database,
		sweeper: &sweeper{queue: queue, lease: conf.Lease, maxAttempts: conf.MaxAttempts, pendingTimeout: conf.PendingTimeout,
			users: users, loop: loop, database: database, events: events, log: log}}
	stopNow := make(chan struct{})
	p := &Processor{conf: conf, queue: queue, inFlight: attempts, api: api, database: database, events: events, loop: loop,
		claims: claims, stopNow: stopNow, closeStop: sync.OnceFunc(func() { close(stopNow) }),
		attempts: &attemptRunner{worker: worker, queue: queue, timeout: conf.TaskTimeout,
			inFlight: attempts, events: events, log: log, wake: claims.wake,
			outcomes: &outcomes{queue: queue, users: users, api: api, inFlight: attempts, database: database, events: events,
				sanitizer: redact, wake: claims.wake}},
		leases: &leaseRenewer{queue: queue, lease: conf.Lease, inFlight: attempts, database: database, events: events},
		checks: &healthChecks{queue: queue, api: api, database: database, events: events, sanitizer: redact,
			interval: conf.CheckInterval, probeInterval: conf.ProbeInterval},
	}
	p.heartbeats = &heartbeats{queue: queue, interval: conf.HeartbeatInterval, loop: loop, database: database, events: events, log: log,
		processor: store.Processor{Worker: conf.Worker, Host: conf.Host, PID: conf.PID, Version: conf.Version, Capacity: conf.Concurrency},
		report:    func() any { return conf.Details(p.Status()) }}
	return p
}

// Run works tasks until ctx ends, and then stops gracefully. It returns nil after a graceful stop.
func (p *Processor) Run(ctx context.Context) error { return p.run(ctx, false) }

// RunOnce works tasks until none is pending, waiting for retries too. It returns ErrAPIUnavailable when the image API is
// unreachable, ErrPaused while claiming is paused, and ErrScheduled when only tasks of a later time are left.
func (p *Processor) RunOnce(ctx context.Context) error { return p.run(ctx, true) }

// StopNow ends the grace period of a stop: tasks in flight are released at once. It is safe for concurrent use and may be
// called more than once, also before a stop.
func (p *Processor) StopNow() { p.closeStop() }

func (p *Processor) startTime() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.startedAt
}

func (p *Processor) run(ctx context.Context, once bool) error {
	detached := context.WithoutCancel(ctx)
	// Attempts run until the grace period is over, and their outcomes are written a little longer.
	work, stopWork := context.WithCancelCause(detached)
	writes, stopWrites := context.WithCancel(detached)
	defer stopWrites()

	p.loop.progress()
	p.mu.Lock()
	p.startedAt = time.Now()
	p.mu.Unlock()

	var helpers sync.WaitGroup
	helping, stopHelpers := context.WithCancel(detached)
	helpers.Go(func() { p.queue.Listen(helping, p.claims.wake, p.database.listenerLost) })
	helpers.Go(func() { p.leases.run(helping) })
	if !once {
		helpers.Go(func() { p.heartbeats.run(helping) })
		// A heartbeat stores the result of the checks.
		helpers.Go(func() { p.checks.run(helping, func() { p.heartbeats.record(helping) }) })
		defer p.heartbeats.deregister(detached)
	}
	defer helpers.Wait()
	defer stopHelpers()

	err := p.claims.run(ctx, once, func(t task.Task) { p.attempts.start(work, writes, t) })
	p.loop.end()
	p.drain(stopWork, stopWrites)
	return err
}

// drain lets the attempts in flight finish within the grace period, and cancels the rest, which are released.
func (p *Processor) drain(stopWork context.CancelCauseFunc, stopWrites context.CancelFunc) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.inFlight.running.Wait()
	}()
	if n := p.inFlight.count(); n > 0 {
		p.conf.Log.WithFields(logrus.Fields{"in_flight": n, "grace": p.conf.ShutdownGrace}).Info("stopping: no more tasks are claimed")
	}
	grace := time.NewTimer(p.conf.ShutdownGrace)
	defer grace.Stop()
	select {
	case <-done:
	case <-grace.C:
	case <-p.stopNow:
	}
	stopWork(errStopping)
	final := time.NewTimer(FinalWriteTimeout)
	defer final.Stop()
	select {
	case <-done:
	case <-final.C:
		stopWrites()
		<-done
	}
}
