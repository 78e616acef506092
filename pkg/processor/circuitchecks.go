package processor

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"imagetasks/pkg/task"
)

// checkEndpoint asks the endpoint at no cost and returns what is wrong with it, or nil. An answer about the model is none about the endpoint, and a
// refusal says nothing where requests have succeeded in spite of it.
func (s *circuits) checkEndpoint(ctx context.Context) (cause *task.Error, uncheckable bool) {
	cause, uncheckable = s.ask(ctx, "")
	if cause != nil && (cause.Scope == task.ScopeModel || cause.Disposition == task.Fail && cause.Scope == task.ScopeTask) {
		cause = nil
	}
	if cause == nil || uncheckable {
		s.noteResponse()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if cause == nil && !uncheckable {
		s.endpoint.misleading = false
	}
	return cause, uncheckable || cause != nil && s.endpoint.misleading && !cause.NotSent
}

// ask makes a check. uncheckable: the result, or cause, may be the same whether a paid request would succeed or not.
func (s *circuits) ask(ctx context.Context, model string) (cause *task.Error, uncheckable bool) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	err := s.conf.Check(ctx, model)
	switch {
	case err == nil:
		return nil, false
	case errors.Is(err, task.ErrUncheckable):
		uncheckable = true
		if _, ok := errors.AsType[*task.Error](err); !ok {
			return nil, true
		}
	}
	cause = s.sanitizer.sanitize(err)
	if cause.Code == task.CodeTimeout && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		cause.Message = fmt.Sprintf("the API did not answer a check within %s", checkTimeout)
	}
	return cause, uncheckable
}

// sharedCheck asks the endpoint once for all callers at the same time. They must pass the same ctx. It returns what is surely wrong with it, or
// nil.
func (s *circuits) sharedCheck(ctx context.Context) *task.Error {
	result, _, _ := s.shared.Do("", func() (any, error) {
		cause := s.surelyFails(ctx)
		if cause != nil && cause.Disposition == task.Release {
			cause = s.surelyFails(ctx) // another proxy may serve now
		}
		return cause, nil
	})
	return result.(*task.Error)
}

func (s *circuits) surelyFails(ctx context.Context) *task.Error {
	cause, uncheckable := s.checkEndpoint(ctx)
	if uncheckable || cause != nil && cause.Code == task.CodeRateLimited {
		return nil
	}
	return cause
}

// startChecks starts the checks that are due and returns the time until the next.
func (s *circuits) startChecks(ctx context.Context, checks *sync.WaitGroup) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := longestCheckSleep
	running := 0
	for _, m := range s.models {
		running += m.running
	}
	if s.confirm.wanted {
		s.confirm = confirmation{running: true}
		checks.Go(func() { s.runConfirmation(ctx) })
	}
	next = min(next, s.startCheck(ctx, checks, &s.endpoint, s.endpoint.running < endpointChecks, s.checkEndpoint))
	if s.endpoint.isOpen() {
		return next // its answers would say nothing about a model
	}
	for _, m := range s.models {
		before := m.running
		next = min(next, s.startCheck(ctx, checks, m, running < modelChecks && m.running == 0, func(ctx context.Context) (*task.Error, bool) {
			cause, uncheckable := s.ask(ctx, m.name)
			if cause != nil && cause.Scope != task.ScopeModel {
				return nil, true // about something else
			}
			return cause, uncheckable
		}))
		running += m.running - before
	}
	return next
}

// startCheck starts a check of an open circuit if it is due and may run, and returns the time until the next. s.mu is held.
func (s *circuits) startCheck(ctx context.Context, checks *sync.WaitGroup, c *circuit, may bool, check func(context.Context) (*task.Error, bool)) time.Duration {
	if !c.isOpen() {
		return longestCheckSleep
	}
	now := time.Now()
	if may && !now.Before(c.nextCheck) {
		c.checkStarted(now)
		opening := c.opening
		checks.Go(func() { s.runCheck(ctx, c, opening, check) })
	}
	return max(c.nextCheck.Sub(now), time.Millisecond)
}

func (s *circuits) runCheck(ctx context.Context, c *circuit, opening int, check func(context.Context) (*task.Error, bool)) {
	cause, uncheckable := check(ctx)
	now := time.Now()
	s.mu.Lock()
	c.running--
	changed := ctx.Err() == nil && c.checked(now, opening, cause, uncheckable)
	closed := c.isClosed()
	s.mu.Unlock()
	switch {
	case changed && closed:
		s.noteClosed(c)
	case changed:
		s.log.Infof("a check shows that %s responds; one task is tried", s.words.api)
		s.wake()
	}
	s.checkSoon()
}

// quietTime is how long an answer of the API shows that it works: after that no more requests are risked than may fail before the circuit opens,
// until it is asked at no cost.
const quietTime = time.Minute

// confirmation is a check of an endpoint that has not answered for some time.
type confirmation struct {
	wanted, running bool
	next            time.Time // not before
}

// askToConfirm makes run check the endpoint, so that more tasks than plan allows may be claimed.
func (s *circuits) askToConfirm() {
	s.mu.Lock()
	ask := !s.confirm.wanted && !s.confirm.running && !time.Now().Before(s.confirm.next)
	if ask {
		s.confirm.wanted = true
	}
	s.mu.Unlock()
	if ask {
		s.checkSoon()
	}
}

// runConfirmation checks the endpoint.
func (s *circuits) runConfirmation(ctx context.Context) {
	cause, uncheckable := s.checkEndpoint(ctx)
	s.mu.Lock()
	s.confirm = confirmation{next: time.Now().Add(s.times.maxCheck)}
	s.mu.Unlock()
	switch {
	case ctx.Err() != nil:
	case cause == nil || uncheckable:
		s.wake()
	case cause.Disposition == task.Pause:
		s.open(&s.endpoint, cause)
	}
}
