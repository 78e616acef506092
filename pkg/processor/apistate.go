package processor

import (
	"context"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/singleflight"

	"imagetasks/pkg/task"
)

// probeTimeout bounds one probe of the API.
const probeTimeout = time.Minute

// apiState tracks whether the image API works: it probes it, keeps its circuit breaker, and logs each change once. It is safe
// for concurrent use.
type apiState struct {
	call         func(context.Context) error // Config.Probe
	sanitizer    sanitizer
	log          logrus.FieldLogger
	events       *eventRecorder
	pollInterval time.Duration
	breaker      apiBreaker
	shared       singleflight.Group // of probes

	mu          sync.Mutex
	respondedAt time.Time
}

// probe checks once whether the API works.
func (a *apiState) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	err := a.call(ctx)
	if err == nil {
		a.noteResponse()
	}
	return err
}

// sharedProbe probes the API once for all callers at the same time. They must pass the same ctx. It returns what is wrong,
// or nil.
func (a *apiState) sharedProbe(ctx context.Context) *task.Error {
	_, err, _ := a.shared.Do("", func() (any, error) { return nil, a.probe(ctx) })
	if err == nil {
		return nil
	}
	return a.sanitizer.sanitize(err)
}

// whatFails says what is wrong while the circuit breaker is open for that cause.
func whatFails(code task.Code) string {
	switch code {
	case task.CodePictureStore:
		return "pictures can't be stored"
	case task.CodeUnauthorized, task.CodeForbidden, task.CodeWrongCountry, task.CodeWrongAddress, task.CodeNoQuota:
		return "the image API refuses all requests"
	}
	return "the image API is unreachable"
}

// open opens the circuit breaker.
func (a *apiState) open(cause *task.Error) {
	if a.breaker.open(time.Now(), cause) {
		a.log.WithField("code", string(cause.Code)).Warnf("%s; claiming is paused: %s", whatFails(cause.Code), cause.Message)
		a.events.record(Event{Kind: EventCircuitOpened})
	}
}

// tryReopen probes the API when its breaker is open and a probe is due. It returns how long to wait before the next claim;
// 0 means that tasks may be claimed.
func (a *apiState) tryReopen(ctx context.Context) time.Duration {
	wait, due := a.breaker.wait(time.Now())
	if !due {
		return wait
	}
	err := a.probe(ctx)
	if ctx.Err() != nil {
		return a.pollInterval
	}
	if err != nil {
		return a.breaker.probeFailed(time.Now(), a.sanitizer.sanitize(err))
	}
	cause := a.breaker.reason()
	wait, openFor := a.breaker.probeSucceeded(time.Now())
	if wait == 0 {
		reopened := "the image API is reachable again"
		if cause != nil && cause.Code == task.CodePictureStore {
			reopened = "trying again whether pictures can be stored" // the probe says nothing about that
		}
		a.log.WithField("after", openFor.Round(time.Second)).Infof("%s; claiming resumes", reopened)
		a.events.record(Event{Kind: EventCircuitClosed})
	}
	return wait
}

// responded records that the API responded, whatever the response was, to an attempt that was claimed then. It reports
// whether more tasks may be claimed now.
func (a *apiState) responded(claimedAt time.Time) bool {
	a.noteResponse()
	return a.breaker.responded(claimedAt)
}

func (a *apiState) noteResponse() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.respondedAt = time.Now()
}

// lastResponse returns when the API last responded, or the zero time.
func (a *apiState) lastResponse() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.respondedAt
}
