package processor

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// minClaimWait keeps the loop from spinning when a task that is due can't be claimed.
const minClaimWait = 100 * time.Millisecond

// claimBatch is how many tasks one claim takes at most.
const claimBatch = 1000

// minClaimTimeout is the least time that a claim gets.
const minClaimTimeout = time.Second

// startFunc starts tasks that were just claimed; with ahead, only as many as there are free workers: the others wait.
type startFunc func(claimed []task.Task, ahead bool)

// releaseFunc releases attempts that were claimed ahead and have not started.
type releaseFunc func([]*attempt)

// claimLoop claims as many tasks as may be in flight, and a few ahead where they are expected to start within aheadTime.
type claimLoop struct {
	queue       Queue
	worker      string
	concurrency int
	lease       time.Duration
	maxAttempts int
	maxLost     int // MaxLostClaims
	leases      *leaseRenewer
	wakeups     chan struct{} // holds one
	inFlight    *inFlight
	circuits    *circuitSet
	sweeper     *sweeper
	watch       *loopWatch
	events      *eventRecorder
	database    *databaseState
	mayStart    func(*attempt) bool // of one that was claimed ahead
	callID      uuid.UUID           // of the next claim; a claim whose answer was lost is repeated under the same id
}

// wake makes the loop claim without waiting for the next poll.
func (c *claimLoop) wake() {
	select {
	case c.wakeups <- struct{}{}:
	default:
	}
}

// run claims until ctx ends, or with once until nothing is pending or the API is unreachable. It calls start for each task.
func (c *claimLoop) run(ctx context.Context, once bool, start startFunc, release releaseFunc) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.wakeups:
		case <-timer.C:
		}
		c.watch.progress()
		c.giveBack(release)
		wait := c.claim(ctx, start)
		c.watch.progress()
		if once {
			if cause := c.circuits.blocked(); cause != nil && c.inFlight.count() == 0 {
				return fmt.Errorf("%w: %w", &pausedError{c.circuits.words.whatFails(cause.Code), ErrAPIUnavailable}, cause)
			}
			if done, err := c.finished(ctx); done {
				return err
			}
		}
		timer.Reset(wait)
	}
}

// pausedError is one of the errors of RunOnce with a text that names what is wrong.
type pausedError struct {
	text string
	kind error
}

// Error implements error.
func (e *pausedError) Error() string { return e.text }

// Unwrap returns the error that callers compare with.
func (e *pausedError) Unwrap() error { return e.kind }

// claim claims as many tasks as may be started, and returns how long to wait before the next claim.
func (c *claimLoop) claim(ctx context.Context, start startFunc) time.Duration {
	c.sweeper.sweep(ctx)
	now := time.Now()
	inFlight := c.inFlight.count()
	free, ahead := c.concurrency-inFlight, min(c.inFlight.endings.expected(now), c.concurrency)
	plan := c.circuits.plan(now, c.inFlight.of, free+ahead)
	if ahead > 0 && !plan.open() {
		ahead = 0
		plan = c.circuits.plan(now, c.inFlight.of, free)
	}
	free += ahead
	poll := max(min(c.database.poll(), plan.next), time.Millisecond)
	if _, waiting := c.inFlight.counts(); waiting > 0 {
		poll = min(poll, c.untilGivenBack(now))
		if waiting > ahead/2 {
			return poll
		}
	}
	if plan.none || free <= 0 || c.leases.failing() || inFlight > 0 && (c.sweeper.suspect || c.inFlight.alone()) {
		return poll
	}
	var tasks []task.Task
	left, tried := free, 0
	try := func() error {
		for _, t := range plan.trials {
			if left <= 0 || c.inFlight.alone() {
				break
			}
			claimed, err := c.claimTrial(ctx, store.ClaimRequest{Limit: 1, Endpoints: plan.only(t), Alone: c.inFlight.count() == 0, Trial: true}, t, start)
			if err != nil {
				return err
			}
			left -= len(claimed)
			tried += len(claimed)
			tasks = append(tasks, claimed...)
		}
		return nil
	}
	// Other endpoints would leave no task to one that is to be tried.
	trialsFirst := len(plan.endpoints) > 1
	if trialsFirst {
		if err := try(); err != nil {
			return c.database.failed(ctx, "claim tasks", err)
		}
	}
	full := false
	if (!plan.pendingOnly || len(plan.trials) == 0) && left > 0 && !c.inFlight.alone() {
		limit := min(left, claimBatch)
		request := store.ClaimRequest{Limit: limit, Endpoints: plan.endpoints, PendingOnly: plan.pendingOnly, Alone: c.inFlight.count() == 0}
		claimed, err := c.claimTasks(ctx, request, nil, func(claimed []task.Task, _ bool) { start(claimed, ahead > 0) })
		if err != nil {
			return c.database.failed(ctx, "claim tasks", err)
		}
		full = len(claimed) == limit
		left -= len(claimed)
		tasks = append(tasks, claimed...)
	}
	if !trialsFirst {
		if err := try(); err != nil {
			return c.database.failed(ctx, "claim tasks", err)
		}
	}
	if inFlight == 0 {
		c.sweeper.triedSuspect(slices.ContainsFunc(tasks, store.Suspect))
	}
	for _, e := range plan.quiet {
		if c.inFlight.of(e.conf.Name) >= unknownRow {
			e.askToConfirm() // there may be more
		}
	}
	switch {
	case plan.pendingOnly && tried > 0:
		return minClaimWait // what is to be fetched is claimed next
	case full && left > 0:
		return time.Nanosecond // there is more than one claim takes
	case full:
		return poll
	}
	return min(poll, c.untilNextClaim(ctx, plan))
}

// untilNextClaim returns how long to wait where a claim has found fewer tasks than there may be in flight.
func (c *claimLoop) untilNextClaim(ctx context.Context, plan plan) time.Duration {
	var rated []string
	for _, e := range plan.endpoints {
		if e.Rate > 0 && (e.Max == nil || *e.Max > 0) {
			rated = append(rated, e.Name)
		}
	}
	if len(rated) > 0 {
		wait, err := bounded(ctx, func(ctx context.Context) (time.Duration, error) { return c.queue.PermitWait(ctx, rated) })
		if err != nil {
			return c.database.failed(ctx, "look for the rate of an endpoint", err)
		}
		if wait > 0 { // meanwhile there may be something to fetch, or a task for another endpoint
			return min(wait, max(c.untilNextDue(ctx), restrictedClaimWait))
		}
	}
	if plan.restricted() {
		// The next task that is due may be one that is not claimed now.
		return max(c.untilNextDue(ctx), restrictedClaimWait)
	}
	return c.untilNextDue(ctx)
}

// restrictedClaimWait is the least time between two claims while not all tasks may be claimed.
const restrictedClaimWait = time.Second

// trialCandidates is how many tasks are looked at for a trial.
const trialCandidates = 20

// claimTrial claims a task that tries a circuit, and returns the tasks that it has started. If possible it is one without a request of unknown
// outcome, because that one fails if it has another. The candidates that are left are started, too: they may have a result already; a request of
// theirs is refused.
func (c *claimLoop) claimTrial(ctx context.Context, r store.ClaimRequest, trial trial, start startFunc) ([]task.Task, error) {
	if trial.circuit.scope == task.ScopeModel {
		r.OnlyModels = c.circuits.namesOf(trial.circuit.name)
		return c.claimTasks(ctx, r, &trial, start)
	}
	var candidates []task.Task
	chosen := -1
	collect := func(claimed []task.Task, _ bool) { candidates = append(candidates, claimed...) }
	var err error
	for len(candidates) < trialCandidates {
		var claimed []task.Task
		claimed, err = c.claimTasks(ctx, r, nil, collect)
		if err != nil || len(claimed) == 0 {
			break
		}
		r.Alone = false
		t := claimed[0]
		if t.Pending == nil && t.Endpoint == trial.of.conf.Name && (chosen < 0 || t.UnknownOutcomes == 0) {
			chosen = len(candidates) - 1
		}
		if store.Suspect(t) || t.Pending != nil || chosen >= 0 && candidates[chosen].UnknownOutcomes == 0 {
			break
		}
	}
	if chosen >= 0 {
		trial.of.claimed(trial.circuit, candidates[chosen])
	}
	start(candidates, false)
	if len(candidates) > 0 {
		return candidates, nil // an error of the call after them shows again
	}
	return nil, err
}

// claimTasks claims tasks and starts them. One of them tries the circuit that is given.
func (c *claimLoop) claimTasks(ctx context.Context, r store.ClaimRequest, trial *trial, start startFunc) ([]task.Task, error) {
	if c.callID == uuid.Nil {
		c.callID = uuid.New()
	}
	r.Worker, r.Lease, r.MaxAttempts, r.MaxLostClaims = c.worker, c.lease, c.maxAttempts, c.maxLost
	r.Expired, r.AfterStart, r.CallID = c.expiredLimit(), c.lease, c.callID
	// A claim that a stop cut off would leave tasks waiting for their leases to expire.
	claiming, cancel := lingering(ctx)
	defer cancel()
	// Where the answer is lost, the same claim is repeated while its leases hold.
	timeout := min(callTimeout, max(c.lease/2, minClaimTimeout))
	began := time.Now()
	tasks, err := boundedBy(claiming, timeout, func(ctx context.Context) ([]task.Task, error) { return c.queue.Claim(ctx, r) })
	if err != nil {
		return nil, err
	}
	c.callID = uuid.Nil
	c.events.pass(Event{Kind: EventClaimCall, Duration: time.Since(began)})
	c.database.succeeded()
	if trial != nil {
		for _, t := range tasks {
			trial.of.claimed(trial.circuit, t)
		}
	}
	start(tasks, false)
	return tasks, nil
}

// lingerTime is how much longer a claim may take when the processor stops.
const lingerTime = time.Second

// lingering returns a context that ends a little later than ctx.
func lingering(ctx context.Context) (context.Context, context.CancelFunc) {
	lingering, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var timer *time.Timer
	var mu sync.Mutex
	stop := context.AfterFunc(ctx, func() {
		mu.Lock()
		defer mu.Unlock()
		timer = time.AfterFunc(lingerTime, cancel)
	})
	return lingering, func() {
		stop()
		cancel()
		mu.Lock()
		defer mu.Unlock()
		if timer != nil {
			timer.Stop()
		}
	}
}

// expiredPerProcessor divides the concurrency into the number of tasks that may be claimed in the time of a lease after one of their claims was lost.
const expiredPerProcessor = 8

// expiredLimit returns how many tasks with an expired lease may be claimed now. One of them may be why a processor ended: most of those that were in
// flight with it must not be so again soon, because they would have two requests of unknown outcome. All of them must be claimed
// well within STUCK_AFTER nevertheless, however long each takes: within about expiredPerProcessor leases.
func (c *claimLoop) expiredLimit() int {
	if !c.database.settled(c.lease) {
		return 0
	}
	return max(1+c.concurrency/expiredPerProcessor-c.inFlight.lost(c.lease), 0)
}

func (c *claimLoop) untilNextDue(ctx context.Context) time.Duration {
	var found bool
	next, err := bounded(ctx, func(ctx context.Context) (next time.Duration, err error) {
		next, found, err = c.queue.NextDue(ctx, c.expiredLimit() > 0)
		return next, err
	})
	if err != nil {
		return c.database.failed(ctx, "look for the next task", err)
	}
	if !found {
		return c.database.poll()
	}
	return min(max(next, minClaimWait), c.database.poll())
}

// pausedScopes returns ErrPaused for pauses of endpoints and models that hold back all tasks that are left.
func pausedScopes(pauses []store.Pause) error {
	var names, options []string
	for _, p := range pauses {
		names = append(names, fmt.Sprintf("%s %s", p.Scope, p.Name))
		options = append(options, fmt.Sprintf("task-processor resume --%s %s", p.Scope, p.Name))
	}
	return &pausedError{"claiming is paused for what the tasks that are left need (" + strings.Join(names, ", ") + "); to resume run: " +
		strings.Join(options, ", or "), ErrPaused}
}

// scheduledLater is the time to the next task from which on a run with once does not wait for it. Retries wait for less.
const scheduledLater = time.Hour

// finished reports whether a run with once is done, and why it ends although tasks are left.
func (c *claimLoop) finished(ctx context.Context) (bool, error) {
	if c.inFlight.count() > 0 || c.circuits.unreachable() != nil {
		return false, nil
	}
	pending, err := bounded(ctx, c.queue.HasPending)
	if err != nil {
		c.database.failed(ctx, "look for tasks", err)
		return false, nil
	}
	if c.inFlight.count() > 0 {
		return false, nil
	}
	if !pending {
		aside, err := bounded(ctx, func(ctx context.Context) ([]store.AsideTask, error) { return c.queue.TasksAside(ctx, 1) })
		switch {
		case err != nil:
			c.database.failed(ctx, "look for tasks that are set aside", err)
			return false, nil
		case len(aside) > 0:
			return true, ErrSetAside
		}
		return true, nil
	}
	if endpoints, cause := c.circuits.waiting(); cause != nil {
		besides, err := bounded(ctx, func(ctx context.Context) (bool, error) { return c.queue.HasPendingFor(ctx, endpoints) })
		if err != nil {
			c.database.failed(ctx, "look for tasks of other models", err)
			return false, nil
		}
		if !besides {
			what := c.circuits.words.whatFails(cause.Code) + " of the tasks that are left"
			if cause.Code != task.CodeModelRefused {
				what = c.circuits.words.whatFails(cause.Code) + ", and no other endpoint has the models of the tasks that are left"
			}
			return true, fmt.Errorf("%w: %w", &pausedError{what, ErrAPIUnavailable}, cause)
		}
	}
	control, err := bounded(ctx, c.queue.Control)
	if err != nil {
		c.database.failed(ctx, "look whether claiming is paused", err)
		return false, nil
	}
	switch {
	case control.Copied:
		return true, &pausedError{"the database is a copy or a restored backup of another one, so no tasks are claimed; " +
			"to see what to do run: task-processor status", ErrPaused}
	case control.Paused():
		return true, ErrPaused
	case len(control.Scopes) > 0:
		endpoints, _ := c.circuits.waiting()
		besides, err := bounded(ctx, func(ctx context.Context) (bool, error) { return c.queue.HasPendingFor(ctx, endpoints) })
		if err != nil {
			c.database.failed(ctx, "look for tasks that are not paused", err)
			return false, nil
		}
		if !besides {
			return true, pausedScopes(control.Scopes)
		}
	}
	var found bool
	next, err := bounded(ctx, func(ctx context.Context) (next time.Duration, err error) {
		next, found, err = c.queue.NextDue(ctx, c.expiredLimit() > 0)
		return next, err
	})
	if err != nil {
		c.database.failed(ctx, "look for the next task", err)
		return false, nil
	}
	if found && next > scheduledLater {
		return true, ErrScheduled
	}
	return false, nil
}
