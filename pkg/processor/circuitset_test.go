package processor

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/task"
)

func newTestCircuits(check func(context.Context, string) error) (*circuits, *bytes.Buffer) {
	var log bytes.Buffer
	logger := logrus.New()
	logger.SetOutput(&log)
	conf := Config{Log: logger, API: "the image API", Results: "pictures", Endpoints: []Endpoint{{Name: "e", Check: check}}, DefaultModel: "default"}
	conf.setDefaults()
	s := newCircuitSet(&conf, func(text string) string { return strings.ReplaceAll(text, "secret", "[redacted]") }, &eventRecorder{})
	return s.endpoints[0], &log
}

func attemptOf(id, model string) *attempt {
	return &attempt{task: task.Task{ID: id, Epoch: 1, Model: model, Endpoint: "e"}, claimedAt: time.Now()}
}

// running runs the checks until the end of f.
func (s *circuits) running(t *testing.T, f func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); s.run(ctx) }()
	f()
	cancel()
	<-done
}

// An outage is logged once, with what is wrong, and the reason shown is that of the last check, without secrets.
func TestCircuits_OutageLoggedOnce(t *testing.T) {
	for code, want := range map[task.Code]string{
		task.CodeProxyRefused: "the image API is unreachable; claiming is paused: why",
		task.CodeUnauthorized: "the image API refuses all requests; claiming is paused: why",
	} {
		synctest.Test(t, func(t *testing.T) {
			var failure atomic.Pointer[task.Error]
			failure.Store(&task.Error{Code: task.CodeForbidden, Disposition: task.Pause, Message: "a secret"})
			s, log := newTestCircuits(func(context.Context, string) error {
				if e := failure.Load(); e != nil {
					return e
				}
				return nil
			})
			s.running(t, func() {
				cause := &task.Error{Code: code, Disposition: task.Pause, Message: "why"}
				for range 3 {
					s.failed(&s.endpoint, attemptOf("a", ""), cause, &opening{})
				}
				time.Sleep(time.Minute)
				assert.Equal(t, "a [redacted]", s.endpointCause().Message)
				assert.True(t, s.lastResponse().IsZero())
				failure.Store(nil)
				time.Sleep(5 * time.Second)
				plan := s.plan(time.Now())
				require.NotNil(t, plan.trial, "half-open within 5 s")
				a := attemptOf("a", "")
				s.claimed(plan.trial, a.task)
				assert.True(t, s.plan(time.Now()).pendingOnly, "one task at a time")
				s.answered(a)
				assert.False(t, s.plan(time.Now()).pendingOnly)
			})
			assert.Equal(t, Counts{EventCircuitOpened: 1, EventCircuitClosed: 1}, s.events.snapshot())
			assert.Equal(t, 1, strings.Count(log.String(), want))
			assert.Equal(t, 1, strings.Count(log.String(), "the image API is reachable again; claiming resumes"))
		})
	}
}

func TestCircuits_SharedCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		s, _ := newTestCircuits(func(context.Context, string) error {
			calls++
			time.Sleep(time.Second)
			return refused
		})
		for range 5 {
			go func() { assert.Equal(t, refused.Code, s.sharedCheck(t.Context()).Code) }()
		}
		synctest.Wait()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		assert.Equal(t, 1, calls, "one check for all callers")
	})
}

// A check that gets no answer does not delay the next, and it ends.
func TestCircuits_SilentCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var silent atomic.Bool
		var running, most atomic.Int64
		silent.Store(true)
		s, _ := newTestCircuits(func(ctx context.Context, _ string) error {
			most.Store(max(most.Load(), running.Add(1)))
			defer running.Add(-1)
			if silent.Load() {
				<-ctx.Done()
				return &task.Error{Code: task.CodeTimeout, Disposition: task.Release, Scope: task.ScopeEndpoint, Message: "the attempt exceeded TASK_TIMEOUT"}
			}
			return nil
		})
		s.running(t, func() {
			s.failed(&s.endpoint, attemptOf("a", ""), unsent, &opening{checkFailed: true})
			time.Sleep(time.Hour)
			assert.LessOrEqual(t, most.Load(), int64(endpointChecks))
			assert.Equal(t, "the API did not answer a check within 20s", s.endpointCause().Message)
			silent.Store(false)
			time.Sleep(6 * time.Second)
			assert.Nil(t, s.endpointCause())
		})
		assert.Zero(t, running.Load())
	})
}

// The check of a circuit that has closed and opened again in the meantime is not used, and one that a stop cut off is no failure.
func TestCircuits_StoppedCheckIsNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newTestCircuits(func(ctx context.Context, _ string) error { <-ctx.Done(); return ctx.Err() })
		s.running(t, func() {
			s.failed(&s.endpoint, attemptOf("a", ""), refused, &opening{})
			time.Sleep(time.Second)
		})
		assert.Same(t, refused, s.endpointCause())
	})
}

// However many models are refused, their circuits, checks and what is shown of them are bounded.
func TestCircuits_ManyModels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running, most atomic.Int64
		s, _ := newTestCircuits(func(context.Context, string) error {
			most.Store(max(most.Load(), running.Add(1)))
			defer running.Add(-1)
			time.Sleep(time.Second)
			return &task.Error{Code: task.CodeModelRefused, Disposition: task.Pause, Scope: task.ScopeModel}
		})
		s.running(t, func() {
			for i := range 3 * maxModelCircuits {
				model := fmt.Sprintf("model %d", i)
				if c := s.forModel(model); c != nil {
					s.failed(c, attemptOf("a", model), &task.Error{Code: task.CodeModelRefused}, &opening{})
				}
			}
			time.Sleep(time.Minute)
			assert.Len(t, s.models, maxModelCircuits)
			assert.LessOrEqual(t, most.Load(), int64(modelChecks))
			var status Status
			s.report(&status, time.Now(), func(string) int { return 0 })
			assert.Len(t, status.Circuits, 2+shownModels)
			assert.Equal(t, maxModelCircuits-shownModels, status.MoreModels)
			assert.Len(t, s.plan(time.Now()).skip, maxModelCircuits)
			assert.False(t, s.plan(time.Now()).pendingOnly, "all other models go on")
		})
	})
}

// The log does not say that claiming is paused where only one model's tasks wait.
func TestCircuits_RefusedModelLogged(t *testing.T) {
	s, log := newTestCircuits(nil)
	s.failed(s.forModel("m"), attemptOf("a", "m"), &task.Error{Code: task.CodeModelRefused, Message: "why"}, &opening{})
	assert.Contains(t, log.String(), "the image API makes no pictures with the model of some tasks, which wait; all others go on: why")
	assert.NotContains(t, log.String(), "claiming is paused")
}

// The default model has two names: that of tasks without a model, too.
func TestCircuits_DefaultModel(t *testing.T) {
	s, _ := newTestCircuits(nil)
	s.failed(s.forModel(""), attemptOf("a", ""), &task.Error{Code: task.CodeModelRefused}, &opening{})
	assert.Equal(t, []string{"", "default"}, s.plan(time.Now()).skip)
	require.Error(t, s.refuse(attemptOf("b", "default")))
	require.NoError(t, s.refuse(attemptOf("b", "other")))
	s.pause(&task.Error{Code: task.CodeRateLimited, Scope: task.ScopeModel, RetryAfter: time.Hour}, "other")
	plan := s.plan(time.Now())
	assert.Equal(t, []string{"", "default", "other"}, plan.skip, "a rate limit of a model pauses that model")
	assert.False(t, plan.pendingOnly)
}

// A trial that shows nothing makes way for another task.
func TestCircuits_TrialWithoutResult(t *testing.T) {
	s, _ := newTestCircuits(nil)
	now := time.Now()
	s.endpoint.open(now, refused, opening{})
	s.endpoint.halve(now, true)
	a := attemptOf("a", "")
	fetches := a.task
	fetches.Pending = &task.PendingResult{}
	s.claimed(&s.endpoint, fetches)
	require.NotNil(t, s.plan(now).trial, "what only fetches tries nothing")
	elsewhere := a.task
	elsewhere.Endpoint = "other"
	s.claimed(&s.endpoint, elsewhere)
	require.NotNil(t, s.plan(now).trial, "a task of another endpoint tries nothing, and its end would not be noticed here")
	s.claimed(&s.endpoint, a.task)
	require.Nil(t, s.plan(now).trial)
	require.NoError(t, s.refuse(a))
	require.Error(t, s.refuse(attemptOf("b", "")), "another request is refused")
	s.ended(a)
	require.NotNil(t, s.plan(now).trial)
}
