// Package bridgesync keeps the bridge to an application's tables going: it reads what has happened there, writes the ends and the progress
// of tasks, and compares both sides now and then. What it can't do it tries again; nothing of it stops the queue.
package bridgesync

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"imagetasks/pkg/store"
)

// Store is what this package needs of the store.
type Store interface {
	SyncBridge(ctx context.Context, limit int) (store.BridgeSync, error)
	BridgeDue(ctx context.Context, limit int) ([]string, error)
	ApplyToBridge(ctx context.Context, taskID string) (store.BridgeApply, error)
	WriteBridgeProgress(ctx context.Context, progress ...store.BridgeProgress) (later []string, err error)
	ReconcileBridge(ctx context.Context) (int, error)
	Bridge(ctx context.Context) (store.BridgeState, error)
}

// Config configures a Service. Zero values mean the documented defaults.
type Config struct {
	Store    Store
	Progress func() []store.BridgeProgress // of the tasks in flight; optional
	Workers  int                           // ends that are written at a time; 4

	LookInterval      time.Duration // between two looks for a bridge, while there is none; 5s
	Interval          time.Duration // between two reads of the inbox, and of the outbox; 250ms
	ProgressInterval  time.Duration // 1s
	ReconcileInterval time.Duration // 5m
	StopGrace         time.Duration // for the last writes at a stop; 5s

	Log     logrus.FieldLogger // nil: no log
	Observe func(Event)        // called at each step, from many goroutines; optional
}

func (c *Config) setDefaults() error {
	if c.Store == nil {
		return errors.New("bridgesync: Config.Store is missing")
	}
	setDefault(&c.Workers, 4)
	setDefault(&c.LookInterval, 5*time.Second)
	setDefault(&c.Interval, 250*time.Millisecond)
	setDefault(&c.ProgressInterval, time.Second)
	setDefault(&c.ReconcileInterval, 5*time.Minute)
	setDefault(&c.StopGrace, 5*time.Second)
	if c.Log == nil {
		discard := logrus.New()
		discard.SetOutput(io.Discard)
		c.Log = discard
	}
	if c.Observe == nil {
		c.Observe = func(Event) {}
	}
	return nil
}

func setDefault[T int | time.Duration](field *T, value T) {
	if *field <= 0 {
		*field = value
	}
}

// EventKind is a step of the service.
type EventKind string

// The steps. Those of a task are the results of store.ApplyToBridge.
const (
	EventSynced     EventKind = "synced"     // the inbox was read
	EventReconciled EventKind = "reconciled" // both sides were compared
	EventProgress   EventKind = "progress"   // the progress of a task was passed on
	EventFailed     EventKind = "failed"     // the database did not do what it was asked
	EventApplied    EventKind = store.BridgeApplied
	EventSuperseded EventKind = store.BridgeSuperseded
	EventWaiting    EventKind = store.BridgeWaiting
	EventBusy       EventKind = store.BridgeBusy
)

// Event is one step.
type Event struct {
	Kind EventKind
	Task string // empty when the step is not about one task
	Sync store.BridgeSync
}

// The bounds of calls of the database.
const (
	syncTimeout      = 30 * time.Second
	applyTimeout     = 5 * time.Second
	callTimeout      = 10 * time.Second
	reconcileTimeout = time.Minute
)

// syncLimit is how many rows one call takes over. For that time the application cannot change the definition of its tables, and its statements wait behind
// one that wants to.
const syncLimit = 100

// Service runs the bridge beside a processor. It is made by New and runs once.
type Service struct {
	conf     Config
	reports  *reporter
	active   atomic.Bool
	applier  *applier
	progress *progressWriter
	running  atomic.Bool
}

// New returns a service, or an error if conf can't be used.
func New(conf Config) (*Service, error) {
	if err := conf.setDefaults(); err != nil {
		return nil, err
	}
	reports := &reporter{log: conf.Log}
	s := &Service{conf: conf, reports: reports, applier: newApplier(conf, reports)}
	s.progress = &progressWriter{conf: conf, reports: reports, written: map[written]string{}}
	return s, nil
}

// Closed says that a task has ended, so that its end is written at once. It never blocks, and is safe for concurrent use.
func (s *Service) Closed() {
	if s.active.Load() {
		s.applier.wake()
	}
}

// Running reports whether Run has not returned yet. It is safe for concurrent use.
func (s *Service) Running() bool { return s.running.Load() }

// Run works until ctx ends. Then it writes what is still to be written to the application's tables, for a few seconds at most.
func (s *Service) Run(ctx context.Context) {
	s.running.Store(true)
	defer s.running.Store(false)
	// Ends that are being written at the stop may finish.
	writes, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var loops sync.WaitGroup
	loops.Go(func() { s.syncInbox(ctx) })
	loops.Go(func() { s.applier.run(ctx, writes, s.active.Load) })
	if s.conf.Progress != nil {
		loops.Go(func() { s.progress.run(ctx, s.active.Load) })
	}
	loops.Wait()
	grace := time.AfterFunc(s.conf.StopGrace, cancel)
	defer grace.Stop()
	if s.active.Load() {
		if err := s.applier.drain(writes); err != nil {
			s.reports.failed("write the last ends of tasks to the application's tables", err)
		}
	}
	s.applier.running.Wait()
}

// syncInbox reads the inbox again and again, and compares both sides now and then.
func (s *Service) syncInbox(ctx context.Context) {
	sync := retries{shortest: s.conf.Interval}
	reconcile := retries{shortest: 10 * s.conf.Interval}
	var reconciledAt, reconcileAt time.Time
	for {
		done, err := s.sync(ctx)
		var wait time.Duration
		switch {
		case err != nil:
			wait = sync.failed()
		case !done.Active:
			wait, reconcileAt = s.conf.LookInterval, time.Time{}
		case done.More:
			wait = 0
		default:
			wait = s.conf.Interval
		}
		if err == nil {
			sync.worked()
		}
		now := time.Now()
		due := !now.Before(reconcileAt) || done.Missed && now.Sub(reconciledAt) > 10*s.conf.Interval
		if err == nil && done.Active && !done.More && due {
			noted, err := s.reconcile(ctx)
			reconciledAt, reconcileAt = now, now.Add(s.conf.ReconcileInterval)
			if err != nil {
				reconcileAt = now.Add(reconcile.failed())
			} else {
				reconcile.worked()
			}
			if noted > 0 {
				wait = 0 // it is read at once
			}
		}
		if !pause(ctx, wait) {
			return
		}
	}
}

// sync reads the inbox once.
func (s *Service) sync(ctx context.Context) (store.BridgeSync, error) {
	const step = "read the inbox of the bridge"
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	done, err := s.conf.Store.SyncBridge(ctx, syncLimit)
	if err != nil {
		s.reports.failed(step, err)
		s.conf.Observe(Event{Kind: EventFailed})
		return done, err
	}
	s.reports.worked(step)
	if s.active.Swap(done.Active) != done.Active {
		if done.Active {
			s.conf.Log.Info("the bridge to the application's tables is active")
		} else {
			s.conf.Log.Info("the bridge to the application's tables is not active any more")
		}
	}
	if done.Taken > 0 {
		s.conf.Log.WithField("tasks", done.Taken).Debug("taken over from the application")
		s.applier.wake() // a row that can't be worked is closed at once
	}
	if done.Superseded > 0 {
		s.conf.Log.WithField("tasks", done.Superseded).Info("closed, because the application has closed or deleted their rows")
	}
	if done.Failed > 0 {
		s.reports.seldom("rows of the application can't be taken over",
			s.conf.Log.WithField("rows", done.Failed), "rows of the application can't be taken over, and are tried again; to see them run: task-processor adopt --check")
	}
	s.conf.Observe(Event{Kind: EventSynced, Sync: done})
	return done, nil
}

// reconcile compares both sides once.
func (s *Service) reconcile(ctx context.Context) (noted int, err error) {
	const step = "compare the tasks with the application's rows"
	ctx, cancel := context.WithTimeout(ctx, reconcileTimeout)
	defer cancel()
	if noted, err = s.conf.Store.ReconcileBridge(ctx); err != nil {
		s.reports.failed(step, err)
		s.conf.Observe(Event{Kind: EventFailed})
		return 0, err
	}
	s.reports.worked(step)
	if noted > 0 {
		s.conf.Log.WithField("rows", noted).Info("rows of the application differ from the tasks and were not noted by its triggers; they are read now")
	}
	s.conf.Observe(Event{Kind: EventReconciled})
	return noted, nil
}

// pause waits, and reports false if ctx ends before.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return ctx.Err() == nil
	}
}
