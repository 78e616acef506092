package processor

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/assert"

	"imagetasks/pkg/task"
)

func newAPIState(call func(context.Context) error) (*apiState, *bytes.Buffer) {
	var log bytes.Buffer
	logger := logrus.New()
	logger.SetOutput(&log)
	return &apiState{call: call, sanitizer: func(s string) string { return strings.ReplaceAll(s, "secret", "[redacted]") },
		log: logger, events: &eventRecorder{}, pollInterval: 5 * time.Second}, &log
}

func TestAPIState_OutageLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var failure error = &task.Error{Code: task.CodeForbidden, Disposition: task.Pause, Message: "a secret"}
		a, log := newAPIState(func(context.Context) error { return failure })
		assert.Zero(t, a.tryReopen(t.Context()), "closed")
		a.open(refused)
		a.open(refused)
		assert.Equal(t, firstProbeWait, a.tryReopen(t.Context()), "not due yet")
		time.Sleep(firstProbeWait)
		time.Sleep(a.tryReopen(t.Context()))
		assert.Equal(t, "a [redacted]", a.breaker.reason().Message)
		assert.True(t, a.lastResponse().IsZero())
		failure = nil
		assert.Zero(t, a.tryReopen(t.Context()))
		assert.Equal(t, time.Now(), a.lastResponse())
		assert.Equal(t, Counts{EventCircuitOpened: 1, EventCircuitClosed: 1}, a.events.snapshot())
		assert.Equal(t, 1, strings.Count(log.String(), "the image API refuses all requests; claiming is paused"))
		assert.Equal(t, 1, strings.Count(log.String(), "the image API is reachable again; claiming resumes"))
	})
}

func TestAPIState_SharedProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		a, _ := newAPIState(func(context.Context) error {
			calls++
			time.Sleep(time.Second)
			return refused
		})
		for range 5 {
			go func() { assert.Equal(t, refused.Code, a.sharedProbe(t.Context()).Code) }()
		}
		synctest.Wait()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		assert.Equal(t, 1, calls, "one probe for all callers")
	})
}

func TestAPIState_CancelledProbeIsNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		a, _ := newAPIState(func(context.Context) error { cancel(); return ctx.Err() })
		a.open(refused)
		time.Sleep(firstProbeWait)
		assert.Equal(t, a.pollInterval, a.tryReopen(ctx))
		assert.Same(t, refused, a.breaker.reason())
	})
}

// What is wrong is named: a full disk is no matter of the API.
func TestAPIState_NamesWhatIsWrong(t *testing.T) {
	for code, want := range map[task.Code]string{
		task.CodeProxyRefused: "the image API is unreachable; claiming is paused: why",
		task.CodeUnauthorized: "the image API refuses all requests; claiming is paused: why",
		task.CodePictureStore: "pictures can't be stored; claiming is paused: why",
	} {
		synctest.Test(t, func(t *testing.T) {
			a, log := newAPIState(func(context.Context) error { return nil })
			a.open(&task.Error{Code: code, Disposition: task.Pause, Message: "why"})
			time.Sleep(firstProbeWait)
			assert.Zero(t, a.tryReopen(t.Context()))
			assert.Contains(t, log.String(), want)
			assert.Equal(t, code != task.CodePictureStore, strings.Contains(log.String(), "the image API is reachable again"))
		})
	}
}
