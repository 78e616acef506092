package processor

import (
	"context"
	"errors"
	"io"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"imagetasks/pkg/imageapi"
	"imagetasks/pkg/picture"
	"imagetasks/pkg/proxy"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// attempt is a task in hand.
type attempt struct {
	task  task.Task
	ctx   context.Context
	abort context.CancelCauseFunc
	log   logrus.FieldLogger
	began time.Time

	mu       sync.Mutex
	progress int
	stage    string
	closing  bool // its last word is being said; a lease that is gone is no news
}

func (a *attempt) at(progress int, stage string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.progress, a.stage = progress, stage
}

func (a *attempt) beat() store.LeaseRenewal {
	a.mu.Lock()
	defer a.mu.Unlock()
	return store.LeaseRenewal{Lease: a.task.Lease(), Progress: a.progress, Stage: a.stage}
}

func (a *attempt) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closing = true
}

func (a *attempt) isClosing() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.closing
}

func (p *Processor) inFlightCount() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.inFlight)
}

func (p *Processor) idle() bool { return p.inFlightCount() == 0 }

// start works a claimed task in a goroutine that drain waits for.
func (p *Processor) start(t task.Task) {
	ctx, abort := context.WithCancelCause(p.work)
	a := &attempt{task: t, ctx: ctx, abort: abort, began: time.Now(), stage: "claimed",
		log: p.conf.Log.WithFields(logrus.Fields{"task": t.ID, "user": t.UserID, "attempt": t.Attempt})}
	p.mu.Lock()
	p.inFlight[t.Lease()] = a
	p.mu.Unlock()
	p.note(Event{Kind: EventClaimed, Task: t.ID})
	a.log.Debug("claimed")
	p.attempts.Go(func() {
		defer abort(nil)
		p.recordOutcome(a, p.attempt(a))
		p.mu.Lock()
		delete(p.inFlight, t.Lease())
		p.mu.Unlock()
		p.wake()
	})
}

// attempt makes the picture and completes the task.
func (p *Processor) attempt(a *attempt) error {
	ctx, cancel := context.WithTimeout(a.ctx, p.conf.TaskTimeout)
	defer cancel()
	request := imageapi.Request{Prompt: a.task.Prompt, Style: a.task.Style,
		AspectRatio: a.task.AspectRatio, Model: a.task.Model}
	if a.task.HasInput {
		a.at(5, "reading the input picture")
		input, err := p.queue.Input(ctx, a.task.Lease(), p.conf.MaxInput)
		if err != nil {
			return p.inputError(err)
		}
		request.Input = input
	}
	draft, err := p.pictures.Create()
	if err != nil {
		return err
	}
	defer func() {
		if err := draft.Discard(); err != nil {
			a.log.WithError(err).Warn("a draft could not be removed")
		}
	}()
	a.at(10, "asking the API")
	result, err := p.maker.Generate(ctx, request, &received{w: draft, a: a})
	if err != nil {
		return err
	}
	p.passed(a)
	a.at(90, "keeping the picture")
	made, err := draft.Publish(a.task.Lease())
	if err != nil {
		e := *task.AsError(err)
		e.RequestID = result.RequestID
		return &e
	}
	return p.complete(a, made, result.RequestID)
}

// inputError says what becomes of a task whose input picture could not be read.
func (p *Processor) inputError(err error) error {
	if store.IsUnavailable(err) {
		return &task.Error{Code: task.CodeInternal, Disposition: task.Release, Message: "the database is away", Err: err}
	}
	return err
}

// received moves the progress when the picture begins to arrive.
type received struct {
	w     io.Writer
	a     *attempt
	begun bool
}

func (r *received) Write(b []byte) (int, error) {
	if !r.begun {
		r.begun = true
		r.a.at(60, "receiving the picture")
	}
	return r.w.Write(b)
}

// complete closes the task as completed. Where the lease is gone the picture goes too.
func (p *Processor) complete(a *attempt, made picture.Picture, requestID string) error {
	a.close()
	var accepted []task.Lease
	err := p.persist("complete a task", func(ctx context.Context) (err error) {
		accepted, err = p.queue.Complete(ctx, store.Completion{Lease: a.task.Lease(), ImageURL: made.URL, RequestID: requestID})
		return err
	})
	if err != nil {
		// The task may be completed all the same, so the picture stays; the next claim, if there is
		// one, removes it.
		return err
	}
	if len(accepted) == 0 {
		if err := p.pictures.Remove(made); err != nil {
			a.log.WithError(err).Warn("the picture of a lost task could not be removed")
		}
		return errLeaseLost
	}
	if err := p.pictures.RemoveEarlier(a.task.Lease()); err != nil {
		a.log.WithError(err).Warn("pictures of earlier claims could not be removed")
	}
	took := time.Since(a.began)
	a.log.WithFields(logrus.Fields{"picture": made.Name, "bytes": made.Bytes, "took": took.Round(time.Millisecond),
		"request": requestID}).Info("completed")
	p.note(Event{Kind: EventCompleted, Task: a.task.ID, Duration: took})
	return nil
}

// recordOutcome says the last word about an attempt that made no picture.
func (p *Processor) recordOutcome(a *attempt, err error) {
	if err == nil {
		return
	}
	a.close()
	cause := context.Cause(a.ctx)
	if errors.Is(err, errLeaseLost) || errors.Is(cause, errLeaseLost) {
		p.lost(a)
		return
	}
	e := *p.sanitize(err)
	if errors.Is(cause, errStopping) && e.Disposition != task.Fail {
		e = task.Error{Code: task.CodeShutdown, Disposition: task.Release, Message: "the processor stopped", Err: err}
	}
	if e.Disposition != task.Release && e.Disposition != task.Pause && p.isSharedFailure(a, &e) {
		p.release(a, 0, &e)
		return
	}
	switch e.Disposition {
	case task.Pause:
		if p.isolatedDialFailure(&e) {
			p.release(a, unluckyWait, &e)
			return
		}
		p.shut(&e)
		p.release(a, 0, &e)
	case task.Release:
		wait := time.Duration(0)
		if e.Code == task.CodeRateLimited {
			wait = p.breaker.pause(time.Now(), e.RetryAfter)
		}
		p.release(a, wait, &e)
	case task.Retry:
		p.passed(a)
		if a.task.LastAttempt() {
			p.fail(a, &e)
			return
		}
		p.retry(a, task.Backoff(a.task.Attempt, e.RetryAfter), &e)
	default:
		p.passed(a)
		p.fail(a, &e)
	}
}

// mostReleases is how often a task may be handed back with no attempt used before a connection that breaks under
// it uses one up all the same: each time its picture may have been paid for.
const mostReleases = 20

// mostMended is mostReleases where the API answers again at once: a proxy that cuts every long request off looks the same.
const mostMended = 3

// isSharedFailure reports whether an attempt failed because of the way to the API, or of the API as a whole, and not because
// of something about the task. It asks the API, once for all that fail together.
func (p *Processor) isSharedFailure(a *attempt, e *task.Error) bool {
	switch e.Code {
	case task.CodeNetwork, task.CodeCutOff, task.CodeTimeout, task.CodeServer, task.CodeWebPage:
	default:
		return false
	}
	broke := e.Code == task.CodeNetwork || e.Code == task.CodeCutOff
	if broke {
		p.failures.note(a.task.Lease(), time.Now())
	}
	releases := a.task.Epoch - int64(a.task.Attempt)
	if releases >= mostReleases {
		return false
	}
	if p.breaker.reason() != nil {
		return true
	}
	cause := p.askOnce()
	if cause != nil && cause.Disposition != task.Release && p.work.Err() == nil {
		p.shut(cause)
		return true
	}
	mended := broke && releases < mostMended && p.failures.together(p.work, a.task.Lease(), p.inFlightCount)
	return mended || p.work.Err() != nil // at a stop nobody will know
}

// unluckyWait is how long a task waits whose connection could not be made while others can.
const unluckyWait = time.Second

// isolatedDialFailure reports whether a connection that could not be made is no sign of a shut way: on a bad line one fails, and
// the next is made.
func (p *Processor) isolatedDialFailure(e *task.Error) bool {
	if _, ok := errors.AsType[*proxy.Error](e.Err); !ok || p.breaker.reason() != nil {
		return false
	}
	return p.askOnce() == nil
}

// askOnce asks the API for its health, once for all who want to know at the same time, and returns what is wrong.
func (p *Processor) askOnce() *task.Error {
	_, err, _ := p.probes.Do("", func() (any, error) { return nil, p.probe(p.work) })
	if err == nil {
		return nil
	}
	return p.sanitize(err)
}

// together is how close in time connections break that break for the same reason.
const together = 2 * time.Second

// failureWindow remembers the attempts whose connections broke lately. Where most of those in hand break at once it is
// the way that broke, even where it is mended already: a proxy that was restarted, say. The zero value is ready. It is
// safe for concurrent use.
type failureWindow struct {
	mu   sync.Mutex
	at   map[task.Lease]time.Time
	news chan struct{} // closed at the next note
}

func (b *failureWindow) note(l task.Lease, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.at == nil {
		b.at = map[task.Lease]time.Time{}
	}
	maps.DeleteFunc(b.at, func(_ task.Lease, at time.Time) bool { return now.Sub(at) > time.Minute })
	b.at[l] = now
	if b.news != nil {
		close(b.news)
		b.news = nil
	}
}

// together reports whether others broke when l did, and with it make up half of those in hand or more. It waits for them
// a little: connections that break for one reason don't break in one instant.
func (b *failureWindow) together(ctx context.Context, l task.Lease, inHand func() int) bool {
	ctx, cancel := context.WithTimeout(ctx, together)
	defer cancel()
	for {
		n, news := b.with(l)
		if most := inHand(); most < 2 || n > 1 && 2*n >= most {
			return most > 1
		}
		select {
		case <-news:
		case <-ctx.Done():
			return false
		}
	}
}

// with returns how many broke when l did, l included, and what is closed when that may have changed.
func (b *failureWindow) with(l task.Lease) (n int, news <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, at := range b.at {
		if at.Sub(b.at[l]).Abs() < together {
			n++
		}
	}
	if b.news == nil {
		b.news = make(chan struct{})
	}
	return n, b.news
}

// maxMessage bounds a failure's text in the database and the log, in runes.
const maxMessage = 1000

// sanitize returns err with a message that holds no secret and that the database takes.
func (p *Processor) sanitize(err error) *task.Error {
	e := *task.AsError(err)
	text := strings.ReplaceAll(strings.ToValidUTF8(p.conf.Redact(e.Error()), "?"), "\x00", "?")
	if runes := []rune(text); len(runes) > maxMessage {
		text = string(runes[:maxMessage]) + "…"
	}
	e.Message = text
	return &e
}

// passed notes that the API answered, whatever it said.
func (p *Processor) passed(a *attempt) {
	p.apiAnswered()
	if p.breaker.passed(a.began) {
		p.wake()
	}
}

func (p *Processor) shut(e *task.Error) {
	if p.breaker.shut(time.Now(), e) {
		p.conf.Log.WithField("code", string(e.Code)).Warnf("the way to the API is shut; no task is claimed until it opens: %s", e.Message)
		p.note(Event{Kind: EventCircuitOpened})
	}
}

func (p *Processor) lost(a *attempt) {
	a.log.Warn("the task was taken over or closed by others; what was made for it is discarded")
	p.note(Event{Kind: EventLeaseLost, Task: a.task.ID})
}

func (p *Processor) release(a *attempt, wait time.Duration, e *task.Error) {
	var held []task.Lease
	err := p.persist("release a task", func(ctx context.Context) (err error) {
		held, err = p.queue.Release(ctx, store.ReleaseRequest{Lease: a.task.Lease(), Wait: wait, Cause: e})
		return err
	})
	if p.handleWriteError(a, err, "release") {
		return
	}
	if len(held) == 0 {
		p.lost(a)
		return
	}
	a.log.WithFields(logrus.Fields{"code": string(e.Code), "wait": wait}).Infof("released, no attempt used: %s", e.Message)
	p.note(Event{Kind: EventReleased, Task: a.task.ID})
}

func (p *Processor) retry(a *attempt, wait time.Duration, e *task.Error) {
	err := p.persist("retry a task", func(ctx context.Context) error {
		return p.queue.Retry(ctx, a.task.Lease(), wait, e)
	})
	if p.handleWriteError(a, err, "retry") {
		return
	}
	a.log.WithFields(logrus.Fields{"code": string(e.Code), "wait": wait.Round(time.Millisecond), "request": e.RequestID}).
		Warnf("to be tried again: %s", e.Message)
	p.note(Event{Kind: EventRetried, Task: a.task.ID})
}

func (p *Processor) fail(a *attempt, e *task.Error) {
	var refund task.Refund
	err := p.persist("fail a task", func(ctx context.Context) (err error) {
		refund, err = p.queue.Fail(ctx, a.task.Lease(), e)
		return err
	})
	if p.handleWriteError(a, err, "fail") {
		return
	}
	a.log.WithFields(logrus.Fields{"code": string(e.Code), "refund": refund.Credits, "request": e.RequestID}).
		Warnf("failed: %s", e.Message)
	p.note(Event{Kind: EventFailed, Task: a.task.ID})
}

// handleWriteError handles a last word that the database didn't take. The task is not lost: its lease runs
// out, and it is claimed again.
func (p *Processor) handleWriteError(a *attempt, err error, word string) bool {
	switch {
	case err == nil:
		return false
	case errors.Is(err, task.ErrLeaseLost):
		p.lost(a)
	default:
		a.log.WithError(err).Errorf("could not %s the task; it is picked up again when its lease has run out", word)
	}
	return true
}

// persist says a word to the database, again and again while that is away.
func (p *Processor) persist(what string, say func(context.Context) error) error {
	for {
		bounded, cancel := context.WithTimeout(p.last, time.Minute)
		err := say(bounded)
		cancel()
		if err == nil {
			p.answered()
			return nil
		}
		if !store.IsUnavailable(err) || p.last.Err() != nil {
			return err
		}
		select {
		case <-p.last.Done():
			return err
		case <-time.After(p.troubled(p.last, what, err)):
		}
	}
}
