package bridgesync

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"imagetasks/pkg/store"
)

const (
	// applyBatch is how many ends are read from the outbox at a time, in addition to those that wait for a lock.
	applyBatch = 100
	// maxBatch bounds that where very many wait.
	maxBatch = 10_000
	// busyTries is how often a locked row is tried soon. After that the others go first, and it is tried about each busyWait.
	busyTries = 5
	busyWait  = time.Second
	// applyStep names the step in the log.
	applyStep = "write the ends of tasks to the application's tables"
)

// applier writes the ends of tasks to the application's tables, several at a time, each by one call at a time.
type applier struct {
	conf    Config
	reports *reporter
	wakeups chan struct{}
	slots   chan struct{}  // one for each call that is running
	running sync.WaitGroup // the goroutines of these calls

	mu       sync.Mutex
	inFlight map[string]bool
	delayed  map[string]*delay // those whose rows were locked, or whose call failed
	outage   retries
	resumeAt time.Time // after a call that the database did not answer
	totals   totals
}

// totals is what was written.
type totals struct {
	applied, superseded, waiting int
	refunded                     int64
}

// delay is when a task is tried again.
type delay struct {
	tries int
	until time.Time
}

func newApplier(conf Config, reports *reporter) *applier {
	return &applier{conf: conf, reports: reports, wakeups: make(chan struct{}, 1), slots: make(chan struct{}, conf.Workers),
		inFlight: map[string]bool{}, delayed: map[string]*delay{}, outage: retries{shortest: conf.Interval}}
}

// wake makes run look at the outbox at once.
func (a *applier) wake() {
	select {
	case a.wakeups <- struct{}{}:
	default:
	}
}

// run writes until ctx ends. A call that has begun ends with writes.
func (a *applier) run(ctx, writes context.Context, active func() bool) {
	timer := time.NewTimer(a.conf.Interval)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.wakeups:
		case <-timer.C:
		}
		wait := a.conf.Interval
		if active() {
			wait = a.writeDue(ctx, writes)
		}
		timer.Reset(wait)
	}
}

// writeDue begins to write what is due, and returns how long to wait until it is called again.
func (a *applier) writeDue(ctx, writes context.Context) time.Duration {
	if wait := a.outageWait(); wait > 0 {
		return wait
	}
	due, more, err := a.due(ctx)
	if err != nil {
		return a.outageWait()
	}
	ready := a.choose(due)
	for _, id := range ready {
		if !a.start(ctx, writes, id) {
			return a.outageWait()
		}
	}
	if more && len(ready) > 0 {
		return 0
	}
	return a.untilNext()
}

// due reads the outbox. more: there may be others.
func (a *applier) due(ctx context.Context) (ids []string, more bool, err error) {
	const step = "read the outbox of the bridge"
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	a.mu.Lock()
	limit := min(applyBatch+len(a.delayed)+len(a.inFlight), maxBatch)
	a.mu.Unlock()
	ids, err = a.conf.Store.BridgeDue(ctx, limit)
	if err != nil {
		a.reports.failed(step, err)
		a.unanswered()
		a.conf.Observe(Event{Kind: EventFailed})
		return nil, false, err
	}
	a.reports.worked(step)
	more = len(ids) == limit
	if !more {
		a.forgetOthers(ids)
	}
	return ids, more, nil
}

// forgetOthers removes the delays of tasks that are not due any more, because another process has written them, or because they wait in the outbox.
func (a *applier) forgetOthers(due []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.delayed) == 0 {
		return
	}
	still := make(map[string]bool, len(due))
	for _, id := range due {
		still[id] = true
	}
	for id := range a.delayed {
		if !still[id] && !a.inFlight[id] {
			delete(a.delayed, id)
		}
	}
}

// choose returns what may be tried now: first what was not tried yet, then what has waited for its time. Other processors read the same list,
// so that its order is left to chance.
func (a *applier) choose(due []string) []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	var fresh, again []string
	for _, id := range due {
		switch d := a.delayed[id]; {
		case a.inFlight[id]:
		case d == nil:
			fresh = append(fresh, id)
		case !now.Before(d.until):
			again = append(again, id)
		}
	}
	rand.Shuffle(len(fresh), func(i, j int) { fresh[i], fresh[j] = fresh[j], fresh[i] })
	slices.SortFunc(again, func(x, y string) int { return a.delayed[x].until.Compare(a.delayed[y].until) })
	return append(fresh, again...)
}

// start writes the end of a task in a goroutine that a.running waits for, when a slot is free. It reports false if it did not begin, because ctx ended or
// the database does not answer.
func (a *applier) start(ctx, writes context.Context, id string) bool {
	select {
	case <-ctx.Done():
		return false
	case a.slots <- struct{}{}:
	}
	if ctx.Err() != nil || a.outageWait() > 0 {
		<-a.slots
		return false
	}
	a.mu.Lock()
	a.inFlight[id] = true
	a.mu.Unlock()
	a.running.Go(func() {
		defer func() { <-a.slots }()
		a.apply(writes, id)
	})
	return true
}

// apply writes the end of one task.
func (a *applier) apply(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(ctx, applyTimeout)
	defer cancel()
	done, err := a.conf.Store.ApplyToBridge(ctx, id)
	a.mu.Lock()
	delete(a.inFlight, id)
	switch {
	case err != nil || done.Result == store.BridgeBusy:
		a.delay(id, err)
	default:
		delete(a.delayed, id)
		a.outage.worked()
		a.totals.add(done)
	}
	a.mu.Unlock()
	if err != nil {
		a.reports.failed(applyStep, err)
		if store.IsUnavailable(err) {
			a.unanswered()
		}
		a.conf.Observe(Event{Kind: EventFailed, Task: id})
		return
	}
	a.log(id, done)
	a.conf.Observe(Event{Kind: EventKind(done.Result), Task: id})
}

// delay sets when a task is tried again. The caller holds a.mu.
func (a *applier) delay(id string, err error) {
	d := a.delayed[id]
	if d == nil {
		d = &delay{}
		a.delayed[id] = d
	}
	d.tries++
	wait := 50*time.Millisecond + rand.N(100*time.Millisecond)
	if err != nil || d.tries > busyTries {
		d.tries = max(d.tries, busyTries+1)
		wait = busyWait<<min(d.tries-busyTries-1, 3) + rand.N(busyWait)
	}
	if err == nil {
		wait = min(wait, 2*busyWait) // the lock may end at any time
	}
	d.until = time.Now().Add(wait)
}

func (t *totals) add(done store.BridgeApply) {
	switch done.Result {
	case store.BridgeApplied:
		t.applied++
	case store.BridgeSuperseded:
		t.superseded++
	case store.BridgeWaiting:
		t.waiting++
	}
	t.refunded += done.Refunded
}

func (a *applier) log(id string, done store.BridgeApply) {
	entry := a.conf.Log.WithField("task", id)
	if done.Refunded > 0 {
		entry.WithField("refund", done.Refunded).Info("refunded in the application's table")
	}
	switch done.Result {
	case store.BridgeApplied:
		a.reports.worked(applyStep)
		entry.Debug("its end is written to the application's table")
	case store.BridgeSuperseded:
		entry.Infof("its end is not written: %s", done.Reason)
	case store.BridgeWaiting:
		a.reports.seldom("apply: "+done.Reason, entry.WithFields(logrus.Fields{"reason": done.Reason}),
			"its end can't be written to the application's tables, and is tried again; to see all of them run: task-processor adopt --check")
	}
}

// unanswered pauses all calls for a while.
func (a *applier) unanswered() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if now := time.Now(); !now.Before(a.resumeAt) { // calls that fail at the same time count once
		a.resumeAt = now.Add(a.outage.failed())
	}
}

func (a *applier) outageWait() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return max(time.Until(a.resumeAt), 0)
}

// untilNext returns the time until writeDue is called again.
func (a *applier) untilNext() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	wait := a.conf.Interval
	for _, d := range a.delayed {
		wait = min(wait, time.Until(d.until))
	}
	return max(wait, time.Millisecond)
}

// drain writes all that is due, tries locked rows a few times, and returns when nothing is left that could be written soon, or with the first error of the
// database. It is not called while run runs.
func (a *applier) drain(ctx context.Context) error {
	a.running.Wait()
	a.mu.Lock()
	a.delayed = map[string]*delay{}
	a.mu.Unlock()
	for {
		due, more, err := a.due(ctx)
		if err != nil {
			return err
		}
		ready := slices.DeleteFunc(a.choose(due), a.givenUp)
		for _, id := range ready {
			if !a.start(ctx, ctx, id) {
				break
			}
		}
		a.running.Wait()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if a.outageWait() > 0 {
			return errUnanswered
		}
		if !more && slices.IndexFunc(due, a.triedSoon) < 0 || more && len(ready) == 0 {
			return nil
		}
		if len(ready) == 0 && !pause(ctx, a.untilNext()) {
			return ctx.Err()
		}
	}
}

// givenUp reports whether drain does not try a task again.
func (a *applier) givenUp(id string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	d := a.delayed[id]
	return d != nil && d.tries > busyTries
}

// triedSoon reports whether a task's row was locked and is tried again in a moment.
func (a *applier) triedSoon(id string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	d := a.delayed[id]
	return d != nil && d.tries <= busyTries
}
