package processor

import (
	"cmp"
	"errors"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/singleflight"

	"imagetasks/pkg/task"
)

// The bounds of checks.
const (
	checkTimeout      = 20 * time.Second // of one check
	endpointChecks    = 4                // at the same time: one that gets no answer must not delay the next
	modelChecks       = 4                // at the same time, of different models
	maxModelCircuits  = 100
	shownModels       = 20 // in Status
	longestCheckSleep = time.Minute
)

// circuits are the circuit breakers of one endpoint: its own, and one of each of its models that does not work. They decide what may be claimed
// for it, check what is open, and log each change once. They are safe for concurrent use.
type circuits struct {
	*circuitSet
	conf   Endpoint
	shared singleflight.Group // of checks

	// circuitSet.mu is held for these.
	endpoint    circuit
	models      map[string]*circuit // by the name of the tasks
	respondedAt time.Time
	confirm     confirmation
}

// modelName returns the name of a task's model as it is sent.
func (s *circuitSet) modelName(model string) string { return cmp.Or(model, s.defaultModel) }

// namesOf returns the names that tasks with a model have.
func (s *circuitSet) namesOf(model string) []string {
	if model != s.defaultModel || model == "" {
		return []string{model}
	}
	return []string{"", model}
}

// claimPlan says what may be claimed for an endpoint.
type claimPlan struct {
	pendingOnly bool       // only what is to be fetched
	trial       *circuit   // a task may be claimed to try it
	limit       int        // of tasks in flight
	quiet       bool       // the limit is there because the API has not answered for some time: see confirm
	skip        []string   // models
	models      []*circuit // a task of each may be claimed to try it
	next        time.Duration
}

// plan returns what may be claimed now. next is the time until that may change without an event.
func (s *circuits) plan(now time.Time) claimPlan {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := claimPlan{next: longestCheckSleep, limit: math.MaxInt}
	until := func(t time.Time) {
		if wait := t.Sub(now); wait > 0 {
			p.next = min(p.next, wait)
		}
	}
	e := &s.endpoint
	e.tryDue(now)
	until(e.trialAt())
	until(e.pausedUntil)
	switch {
	case e.isPaused(now), e.isOpen(), e.state == CircuitHalfOpen && e.trial != nil:
		p.pendingOnly = true
	case e.state == CircuitHalfOpen:
		p.trial = e
	case e.unknown.n > 0:
		// Each may have been billed: no more are risked than may fail before the circuit opens.
		p.limit = max(1, unknownRow-e.unknown.n)
	case now.Sub(s.respondedAt) > quietTime:
		p.limit, p.quiet = unknownRow, true
	}
	for name, m := range s.models {
		m.tryDue(now)
		until(m.trialAt())
		until(m.pausedUntil)
		if m.isClosed() && !m.isPaused(now) {
			continue
		}
		p.skip = append(p.skip, s.namesOf(name)...)
		if m.state == CircuitHalfOpen && m.trial == nil && !m.isPaused(now) && e.isClosed() {
			p.models = append(p.models, m)
		}
	}
	slices.Sort(p.skip)
	return p
}

// claimed records that a task was claimed to try a circuit, unless it only has something to fetch, or has another model or endpoint: a claim whose
// answer was lost returns the tasks of its first call.
func (s *circuits) claimed(c *circuit, t task.Task) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.Pending != nil || t.Endpoint != s.conf.Name || c.state != CircuitHalfOpen || c.trial != nil || c.scope == task.ScopeModel && s.modelName(t.Model) != c.name {
		return
	}
	l := t.Lease()
	c.trial = &l
}

// ended records that an attempt is over: a trial that showed nothing makes way for another.
func (s *circuits) ended(a *attempt) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.needed(a.task.Model) {
		if c.isTrial(a.task.Lease()) {
			c.trial = nil
		}
	}
}

// needed returns the circuits that a task with that model needs.
func (s *circuits) needed(model string) []*circuit {
	all := []*circuit{&s.store, &s.endpoint}
	if m := s.models[s.modelName(model)]; m != nil {
		all = append(all, m)
	}
	return all
}

// errNotTried means that no request was sent because a circuit is open.
var errNotTried = errors.New("a circuit is open")

// notTriedWait is how long a task waits whose circuit opened after it was claimed.
const notTriedWait = time.Second

// refuse returns an error if a circuit that the attempt needs does not let its request pass.
func (s *circuits) refuse(a *attempt) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.needed(a.task.Model) {
		cause := c.cause
		switch {
		case cause == nil, c.isClosed(), c.isTrial(a.task.Lease()):
			continue
		}
		return &task.Error{Code: cause.Code, Disposition: task.Release, NotSent: true, RetryAfter: notTriedWait,
			Message: "no request was sent: " + cause.Message, Err: errNotTried}
	}
	return nil
}

// mayStart reports whether nothing is known for which a task like that of the attempt would not be claimed now. It was claimed ahead.
func (s *circuits) mayStart(a *attempt) bool {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.models[s.modelName(a.task.Model)]
	return s.store.isClosed() && s.endpoint.isClosed() && s.endpoint.unknown.n == 0 && !s.endpoint.isPaused(now) &&
		(m == nil || m.isClosed() && !m.isPaused(now))
}

// answered records that the API answered an attempt: with a result, or with an error about its task. It reports whether a circuit closed.
func (s *circuits) answered(a *attempt) {
	now := time.Now()
	s.mu.Lock()
	s.respondedAt = now
	var closed []*circuit
	for _, c := range s.needed(a.task.Model) {
		if c.scope != task.ScopeAll && c.answered(now, a.task.Lease(), a.claimedAt) {
			closed = append(closed, c)
		}
	}
	s.forgetModels(now)
	s.mu.Unlock()
	for _, c := range closed {
		s.noteClosed(c)
	}
}

// stored records that a result was stored.
func (s *circuits) stored(a *attempt) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.store.isClosed() && !a.claimedAt.Before(s.store.closedAt) {
		s.store.confirmed = true
	}
}

// endpointAnswered records that the API answered an attempt with an error about its model.
func (s *circuits) endpointAnswered(a *attempt) {
	now := time.Now()
	s.mu.Lock()
	s.respondedAt = now
	closed := s.endpoint.answered(now, a.task.Lease(), a.claimedAt)
	s.mu.Unlock()
	if closed {
		s.noteClosed(&s.endpoint)
	}
}

// forgetModels removes circuits of models that work. s.mu is held.
func (s *circuits) forgetModels(now time.Time) {
	for name, m := range s.models {
		if m.isClosed() && m.confirmed && !m.isPaused(now) {
			delete(s.models, name)
		}
	}
}

// noteResponse records that the API responded.
func (s *circuits) noteResponse() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.respondedAt = time.Now()
}

// responded returns when the endpoint last responded, or the zero time.
func (s *circuits) responded() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.respondedAt
}

// endpointCause returns why the endpoint's circuit is open, or nil.
func (s *circuits) endpointCause() *task.Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.endpoint.openCause()
}

// openCause returns why the circuit is open, or nil.
func (c *circuit) openCause() *task.Error {
	if !c.isOpen() {
		return nil
	}
	return c.cause
}

// failure is what follows from the failure of an attempt.
type failure struct {
	opened bool          // the circuit is open: the task is not to blame
	trial  bool          // the task tried it
	wait   time.Duration // so that another task tries next
}

// failed records that a request of an attempt failed for a cause of the scope of c, and opens the circuit, or leaves it open, if o is not nil.
func (s *circuits) failed(c *circuit, a *attempt, cause *task.Error, o *opening) failure {
	now := time.Now()
	lease := a.task.Lease()
	newlyOpen := false
	defer func() {
		if newlyOpen {
			s.events.record(Event{Kind: EventCircuitOpened})
			s.checkSoon()
		}
	}()
	s.mu.Lock()
	defer s.mu.Unlock()
	trial := c.isTrial(lease)
	switch {
	case trial:
		c.tryFailed(now, cause, opening{paid: cause.Unknown})
		s.log.WithFields(s.fields(c)).Warnf("%s; the next try is made %s: %s", s.stillFails(c), s.nextTry(c, now), cause.Message)
		s.checkSoon()
	case c.isOpen(), c.state == CircuitHalfOpen:
		// It was sent before: there is no news.
	case o != nil && !(o.byRow && c.fromBefore(lease, a.claimedAt)):
		if newlyOpen = c.open(now, cause, *o); newlyOpen {
			s.logOpened(c)
		}
	default:
		return failure{}
	}
	return failure{opened: !c.isClosed(), trial: trial, wait: c.releaseWait(now)}
}

// failedInARow counts an unknown outcome, or a definite failure of the endpoint that its task is not known to be the cause of. It returns
// how the circuit opens; nil: it does not.
func (s *circuits) failedInARow(c *circuit, a *attempt, cause *task.Error) *opening {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !c.isClosed() || c.fromBefore(a.task.Lease(), a.claimedAt) {
		return nil
	}
	if cause.Unknown {
		c.unknown.add(a.task.ID)
		if c.unknown.n < unknownRow || !c.unknown.mixed {
			return nil
		}
		// Where the connection broke, a check tells whether another can be made. It says nothing about answers that are not the API's.
		broke := cause.Code == task.CodeNetwork || cause.Code == task.CodeCutOff || cause.Code == task.CodeTimeout
		return &opening{byRow: true, believe: broke, paid: true}
	}
	if c.definite.code != cause.Code {
		c.definite = failureRow{code: cause.Code}
	}
	c.definite.add(a.task.ID)
	if c.definite.n < definiteRow || !c.definite.mixed {
		return nil
	}
	return &opening{byRow: true, believe: true, paid: cause.Disposition == task.Fail}
}

// forModel returns the circuit of a model; nil: there are too many.
func (s *circuits) forModel(model string) *circuit {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := s.modelName(model)
	m := s.models[name]
	if m == nil && len(s.models) >= maxModelCircuits {
		now := time.Now()
		maps.DeleteFunc(s.models, func(_ string, m *circuit) bool { return m.isClosed() && !m.isPaused(now) })
	}
	if m == nil && len(s.models) < maxModelCircuits {
		m = &circuit{scope: task.ScopeModel, name: name, times: s.times}
		s.models[name] = m
	}
	return m
}

// scopeOf returns the scope of a failure. One that pauses claims without naming a scope affects the endpoint.
func scopeOf(e *task.Error) task.Scope {
	switch {
	case e.Code == task.CodePictureStore:
		return task.ScopeAll
	case e.Scope == task.ScopeProxy, e.Scope == task.ScopeTask && e.Disposition == task.Pause:
		return task.ScopeEndpoint
	}
	return e.Scope
}

// pause stops claims of a scope for a rate limit and returns for how long.
func (s *circuits) pause(cause *task.Error, model string) time.Duration {
	c := &s.endpoint
	if cause.Scope == task.ScopeModel {
		c = s.forModel(model)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c == nil {
		return task.Backoff(1, cause.RetryAfter)
	}
	return c.pause(time.Now(), cause.RetryAfter)
}

// open opens a circuit because a check failed.
func (s *circuits) open(c *circuit, cause *task.Error) {
	s.mu.Lock()
	opened := c.open(time.Now(), cause, opening{checkFailed: true})
	if opened {
		s.logOpened(c)
	}
	s.mu.Unlock()
	if opened {
		s.events.record(Event{Kind: EventCircuitOpened})
		s.checkSoon()
	}
}

// logOpened logs that a circuit opened. s.mu is held.
func (s *circuits) logOpened(c *circuit) {
	paused := "claiming is paused"
	switch {
	case c.scope == task.ScopeModel:
		paused = "all others go on"
	case c.scope == task.ScopeEndpoint && len(s.endpoints) > 1:
		paused = "claiming for this endpoint is paused"
	}
	s.log.WithFields(s.fields(c)).Warnf("%s; %s: %s", s.whatFails(c), paused, c.cause.Message)
}

func (s *circuits) fields(c *circuit) logrus.Fields {
	f := s.about(c)
	f["code"] = string(c.cause.Code)
	return f
}

// about returns the fields of a log entry that say which circuit it is about.
func (s *circuits) about(c *circuit) logrus.Fields {
	f := logrus.Fields{}
	if c.scope == task.ScopeModel {
		f["model"] = c.name
	}
	if c.scope != task.ScopeAll && len(s.endpoints) > 1 {
		f["endpoint"] = s.conf.Name
	}
	return f
}

// noteClosed logs that a circuit closed.
func (s *circuits) noteClosed(c *circuit) {
	s.mu.Lock()
	log := s.log.WithFields(s.about(c)).WithField("after", c.closedAt.Sub(c.since).Round(time.Second))
	s.mu.Unlock()
	switch c.scope {
	case task.ScopeAll:
		log.Infof("%s can be stored again; claiming resumes", s.words.results)
	case task.ScopeModel:
		log.Infof("%s makes %s with the model again; claiming its tasks resumes", s.words.api, s.words.results)
	default:
		log.Infof("%s is reachable again; claiming resumes", s.words.api)
	}
	s.events.record(Event{Kind: EventCircuitClosed})
	s.wake()
}

// whatFails says what is wrong while a circuit is open for its cause.
func (s *circuits) whatFails(c *circuit) string {
	if c.scope == task.ScopeModel {
		return s.words.whatFails(task.CodeModelRefused) + " of some tasks, which wait"
	}
	return s.words.whatFails(c.cause.Code)
}

func (s *circuits) stillFails(c *circuit) string {
	return "a task was tried, and " + s.whatFails(c)
}

// nextTry says when the next trial is made.
func (s *circuits) nextTry(c *circuit, now time.Time) string {
	if at := c.trialAt(); !at.IsZero() {
		return "in " + at.Sub(now).Round(time.Second).String() + " at the latest"
	}
	return "after a successful check"
}

// wording is the words for what differs from one kind of work to another, in texts for people.
type wording struct{ api, results string }

// whatFails says what is wrong for a cause.
func (w wording) whatFails(code task.Code) string {
	switch code {
	case task.CodePictureStore:
		return w.results + " can't be stored"
	case task.CodeUnauthorized, task.CodeForbidden, task.CodeWrongCountry, task.CodeWrongAddress, task.CodeNoQuota:
		return w.api + " refuses all requests"
	case task.CodeModelRefused:
		return w.api + " makes no " + w.results + " with the model"
	}
	return w.api + " is unreachable"
}
