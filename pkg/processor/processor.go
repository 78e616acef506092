// Package processor carries tasks from the queue to their pictures. It claims what it has room for,
// renews its leases, and closes each task by what its attempt came to. It stops claiming while the
// way to the API is shut, waits while the database is away, and at a stop finishes what the
// grace allows and hands the rest back with no attempt used.
package processor

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"

	"imagetasks/pkg/health"
	"imagetasks/pkg/imageapi"
	"imagetasks/pkg/picture"
	"imagetasks/pkg/proxy"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// Queue is what the processor needs of the store.
type Queue interface {
	Claim(ctx context.Context, c store.ClaimRequest) ([]task.Task, error)
	Input(ctx context.Context, l task.Lease, limit int) (string, error)
	RenewLeases(ctx context.Context, lease time.Duration, beats []store.LeaseRenewal) ([]task.Lease, error)
	Complete(ctx context.Context, completions ...store.Completion) ([]task.Lease, error)
	Retry(ctx context.Context, l task.Lease, wait time.Duration, cause *task.Error) error
	Release(ctx context.Context, released ...store.ReleaseRequest) ([]task.Lease, error)
	Fail(ctx context.Context, l task.Lease, cause *task.Error) (task.Refund, error)
	FailAbandoned(ctx context.Context, maxAttempts, limit int) ([]task.Refund, error)
	FailOverdue(ctx context.Context, after time.Duration, limit int) ([]task.Refund, error)
	NextDue(ctx context.Context) (time.Duration, bool, error)
	HasPending(ctx context.Context) (bool, error)
	Listen(ctx context.Context, wake func())
	RecordHeartbeat(ctx context.Context, p store.Processor) error
	Deregister(ctx context.Context, worker string) error
}

// Generator is what the processor needs of the image API.
type Generator interface {
	Generate(ctx context.Context, r imageapi.Request, w io.Writer) (imageapi.Result, error)
	Probe(ctx context.Context) error
}

// Config says how to work. Zero values are the documented defaults.
type Config struct {
	Worker            string        // this processor's name in leased_by
	Host              string        // where it runs
	PID               int           // its process
	Version           string        // of the program
	Concurrency       int           // tasks worked at once; 3
	MaxAttempts       int           // for tasks that don't say; 3
	PollInterval      time.Duration // at least this often, on top of NOTIFY; 5s
	Lease             time.Duration // renewed every third of it; 60s
	TaskTimeout       time.Duration // of one attempt; 10m
	ShutdownGrace     time.Duration // for tasks in hand; 30s
	MaxInput          int           // bytes of base64 of an input picture; 32 MiB
	HeartbeatInterval time.Duration // between signs of life; 15s
	CheckInterval     time.Duration // between health checks; 5m
	StallTimeout      time.Duration // a loop that takes longer over a turn is hung, and gives no more signs of life; 2m
	ProbeInterval     time.Duration // the API is asked for its health when it didn't answer for this long; 30m
	RateLimit         int           // attempts a minute; 0: as many as there is room for
	PendingTimeout    time.Duration // a task due for longer fails; 0: never

	RetryEjected  func(context.Context)        // tries proxies that are left out, every second; nil: nobody does
	Upstreams     func() []proxy.UpstreamState // how the ways to the API stand; nil: nobody knows
	APIRateLimits func() imageapi.RateLimits   // what the API says of its rate limits; nil: nothing

	Log     logrus.FieldLogger  // nil: silence
	Redact  func(string) string // for texts that go to the database; nil: as they are
	Observe func(Event)         // told of each step, from many goroutines; nil: nobody
}

func (c *Config) setDefaults() {
	setDefault(&c.Concurrency, 3)
	setDefault(&c.MaxAttempts, 3)
	setDefault(&c.PollInterval, 5*time.Second)
	setDefault(&c.Lease, time.Minute)
	setDefault(&c.TaskTimeout, 10*time.Minute)
	setDefault(&c.ShutdownGrace, 30*time.Second)
	setDefault(&c.MaxInput, 32<<20)
	setDefault(&c.HeartbeatInterval, 15*time.Second)
	setDefault(&c.CheckInterval, 5*time.Minute)
	setDefault(&c.ProbeInterval, 30*time.Minute)
	setDefault(&c.StallTimeout, 2*time.Minute)
	if c.Log == nil {
		silent := logrus.New()
		silent.SetOutput(io.Discard)
		c.Log = silent
	}
	if c.Redact == nil {
		c.Redact = func(s string) string { return s }
	}
	if c.Observe == nil {
		c.Observe = func(Event) {}
	}
	if c.Upstreams == nil {
		c.Upstreams = func() []proxy.UpstreamState { return nil }
	}
	if c.APIRateLimits == nil {
		c.APIRateLimits = func() imageapi.RateLimits { return imageapi.RateLimits{} }
	}
}

func setDefault[T int | time.Duration](field *T, value T) {
	if *field <= 0 {
		*field = value
	}
}

// Why an attempt was broken off.
var (
	errStopping  = errors.New("the processor stops")
	errLeaseLost = task.ErrLeaseLost
)

// ErrAPIUnavailable means that RunOnce ended because the way to the API is shut. It wraps the cause.
var ErrAPIUnavailable = errors.New("the way to the API is shut")

// FinalWriteTimeout is how long the last words to the database may take after the grace.
const FinalWriteTimeout = 10 * time.Second

// callBound is how long the database may take over one call: more is a connection that died unnoticed.
const callBound = 30 * time.Second

// Processor works tasks. It is made by New and runs once.
type Processor struct {
	conf     Config
	queue    Queue
	maker    Generator
	pictures *picture.Store

	breaker     apiBreaker
	failures    failureWindow
	rateLimiter *rate.Limiter // of claims; for the loop only
	probes      singleflight.Group
	checks      health.History
	wakes       chan struct{} // holds one wake-up
	stopNow     chan struct{} // closed: the grace is over

	stopNowOnce sync.Once
	attempts    sync.WaitGroup
	work        context.Context // of the attempts; ends when the grace is over
	stopWork    context.CancelCauseFunc
	last        context.Context // of the last words to the database
	stopLast    context.CancelFunc

	mu       sync.Mutex
	inFlight map[task.Lease]*attempt
	counts   Counts
	started  time.Time
	turned   time.Time // when the loop last turned
	draining bool
	beat     time.Time // the last sign of life that the database took
	apiSaid  time.Time // when the API last answered
	away     time.Time // since when the database is; zero: it answers
	lastReap time.Time
}

// New returns a processor over its parts.
func New(conf Config, queue Queue, maker Generator, pictures *picture.Store) *Processor {
	conf.setDefaults()
	p := &Processor{
		conf: conf, queue: queue, maker: maker, pictures: pictures, rateLimiter: newPace(conf.RateLimit),
		wakes: make(chan struct{}, 1), stopNow: make(chan struct{}),
		inFlight: map[task.Lease]*attempt{},
	}
	p.work, p.stopWork = context.WithCancelCause(context.Background())
	p.last, p.stopLast = context.WithCancel(context.Background())
	return p
}

// Run works tasks until ctx ends, and then stops gracefully. It returns nil after a graceful stop.
func (p *Processor) Run(ctx context.Context) error { return p.run(ctx, false) }

// RunOnce works tasks until none is pending, waiting retries included. It returns ErrShut when the
// way to the API is shut.
func (p *Processor) RunOnce(ctx context.Context) error { return p.run(ctx, true) }

// StopNow ends the grace of a stop: what is in hand is handed back at once.
func (p *Processor) StopNow() { p.stopNowOnce.Do(func() { close(p.stopNow) }) }

// wake makes the loop look again.
func (p *Processor) wake() {
	select {
	case p.wakes <- struct{}{}:
	default:
	}
}

func (p *Processor) run(ctx context.Context, once bool) error {
	defer p.stopLast()
	p.mu.Lock()
	p.started = time.Now()
	p.turned = p.started
	p.mu.Unlock()

	var helpers sync.WaitGroup
	helping, stopHelpers := context.WithCancel(context.WithoutCancel(ctx))
	helpers.Go(func() { p.queue.Listen(helping, p.wake) })
	helpers.Go(func() { p.heartbeats(helping) })
	if p.conf.RetryEjected != nil {
		helpers.Go(func() { every(helping, time.Second, func() { p.conf.RetryEjected(helping) }) })
	}
	if !once {
		helpers.Go(func() { p.signsOfLife(helping) })
		helpers.Go(func() { p.healthChecks(helping) })
		defer p.leave()
	}
	defer helpers.Wait()
	defer stopHelpers()

	err := p.loop(ctx, once)
	p.drain()
	return err
}

// loop claims until ctx ends, or until once is satisfied.
func (p *Processor) loop(ctx context.Context, once bool) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.wakes:
		case <-timer.C:
		}
		p.turn()
		wait := p.round(ctx)
		p.turn()
		if once {
			if shut := p.breaker.reason(); shut != nil && p.idle() {
				return errors.Join(ErrAPIUnavailable, shut)
			}
			if p.finished(ctx) {
				return nil
			}
		}
		timer.Reset(wait)
	}
}

// bounded calls the database, and gives up on it in time.
func bounded[T any](ctx context.Context, call func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, callBound)
	defer cancel()
	return call(ctx)
}

// shortestWait keeps the loop from spinning when a task that is due can't be claimed.
const shortestWait = 100 * time.Millisecond

// round claims what there is room for, and returns how long nothing needs to be done.
func (p *Processor) round(ctx context.Context) time.Duration {
	p.reap(ctx)
	if wait := p.tryReopen(ctx); wait > 0 {
		return wait
	}
	free := p.breaker.limit(p.conf.Concurrency) - p.inFlightCount()
	if free <= 0 {
		return p.conf.PollInterval
	}
	free, turn := p.paced(free)
	if free == 0 {
		return turn
	}
	tasks, err := bounded(ctx, func(ctx context.Context) ([]task.Task, error) {
		return p.queue.Claim(ctx, store.ClaimRequest{
			Worker: p.conf.Worker, Limit: free, Lease: p.conf.Lease, MaxAttempts: p.conf.MaxAttempts})
	})
	if err != nil {
		return p.troubled(ctx, "claim tasks", err)
	}
	p.answered()
	p.rateLimiter.AllowN(time.Now(), len(tasks))
	for _, t := range tasks {
		p.start(t)
	}
	if len(tasks) == free {
		return turn
	}
	var some bool
	next, err := bounded(ctx, func(ctx context.Context) (next time.Duration, err error) {
		next, some, err = p.queue.NextDue(ctx)
		return next, err
	})
	if err != nil {
		return p.troubled(ctx, "look for the next task", err)
	}
	if !some {
		return p.conf.PollInterval
	}
	return min(max(next, shortestWait), p.conf.PollInterval)
}

// reap closes the tasks that nobody may claim any more, and those that wait for too long, every third of a lease.
func (p *Processor) reap(ctx context.Context) {
	if time.Since(p.lastReap) < p.conf.Lease/3 {
		return
	}
	p.lastReap = time.Now()
	p.closeSome(ctx, EventAbandoned, "its worker fell silent in the last attempt", func(ctx context.Context) ([]task.Refund, error) {
		return p.queue.FailAbandoned(ctx, p.conf.MaxAttempts, reapBatch)
	})
	if p.conf.PendingTimeout > 0 {
		p.closeSome(ctx, EventOverdue, "it was due for longer than PENDING_TIMEOUT", func(ctx context.Context) ([]task.Refund, error) {
			return p.queue.FailOverdue(ctx, p.conf.PendingTimeout, reapBatch)
		})
	}
}

// reapBatch is how many tasks one statement of reap closes.
const reapBatch = 1000

// closeSome closes tasks batch by batch, and tells of each.
func (p *Processor) closeSome(ctx context.Context, kind EventKind, why string, batch func(context.Context) ([]task.Refund, error)) {
	for closed := reapBatch; closed == reapBatch && ctx.Err() == nil; {
		refunds, err := bounded(ctx, batch)
		if err != nil {
			p.troubled(ctx, "close tasks", err)
			return
		}
		for _, r := range refunds {
			p.conf.Log.WithFields(logrus.Fields{"task": r.TaskID, "user": r.UserID, "refund": r.Credits, "age": r.Age.Round(time.Second)}).
				Warn("failed and refunded: " + why)
			p.note(Event{Kind: kind, Task: r.TaskID})
		}
		closed = len(refunds)
		p.turn()
	}
}

// tryReopen tries the way to the API where it is shut, and returns how long to wait; 0: it is open.
func (p *Processor) tryReopen(ctx context.Context) time.Duration {
	wait, probe := p.breaker.wait(time.Now())
	if !probe {
		return wait
	}
	err := p.probe(ctx)
	if ctx.Err() != nil {
		return p.conf.PollInterval
	}
	if err != nil {
		return p.breaker.stillShut(time.Now(), p.sanitize(err))
	}
	wait, shutFor := p.breaker.open(time.Now())
	if wait == 0 {
		p.conf.Log.WithField("after", shutFor.Round(time.Second)).Info("the way to the API is open again")
		p.note(Event{Kind: EventCircuitClosed})
	}
	return wait
}

// finished reports whether once has nothing left to do.
func (p *Processor) finished(ctx context.Context) bool {
	if !p.idle() || p.breaker.reason() != nil {
		return false
	}
	some, err := bounded(ctx, p.queue.HasPending)
	if err != nil {
		p.troubled(ctx, "look for tasks", err)
		return false
	}
	return !some && p.idle()
}

// troubled notes that the database didn't do what was asked, says so once, and returns how long to
// wait before asking again.
func (p *Processor) troubled(ctx context.Context, what string, err error) time.Duration {
	if ctx.Err() != nil {
		return p.conf.PollInterval
	}
	if !store.IsUnavailable(err) {
		p.conf.Log.WithError(err).Errorf("the database refused to %s", what)
		return p.conf.PollInterval
	}
	p.mu.Lock()
	first := p.away.IsZero()
	if first {
		p.away = time.Now()
	}
	since := time.Since(p.away)
	p.mu.Unlock()
	if first {
		p.conf.Log.WithError(err).Warn("the database is away; waiting for it")
		p.note(Event{Kind: EventDatabaseLost})
	}
	return min(max(since/4, 200*time.Millisecond), 10*time.Second)
}

// answered notes that the database answers.
func (p *Processor) answered() {
	p.mu.Lock()
	since := p.away
	p.away = time.Time{}
	p.mu.Unlock()
	if !since.IsZero() {
		p.conf.Log.WithField("after", time.Since(since).Round(time.Second)).Info("the database is back")
		p.note(Event{Kind: EventDatabaseRestored})
	}
}

// drain lets the tasks in hand finish within the grace, and breaks off the rest, which are released.
func (p *Processor) drain() {
	p.mu.Lock()
	p.draining = true
	p.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.attempts.Wait()
	}()
	if n := p.inFlightCount(); n > 0 {
		p.conf.Log.WithFields(logrus.Fields{"in_flight": n, "grace": p.conf.ShutdownGrace}).Info("stopping: no new tasks")
	}
	grace := time.NewTimer(p.conf.ShutdownGrace)
	defer grace.Stop()
	select {
	case <-done:
	case <-grace.C:
	case <-p.stopNow:
	}
	p.stopWork(errStopping)
	final := time.NewTimer(FinalWriteTimeout)
	defer final.Stop()
	select {
	case <-done:
	case <-final.C:
		p.stopLast()
		<-done
	}
}
