package bridgesync

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"imagetasks/pkg/store"
)

// maxWait is the longest wait between two tries of a call that fails.
const maxWait = 10 * time.Second

// retries counts failures in a row. It is not safe for concurrent use.
type retries struct {
	shortest time.Duration
	count    int
}

// failed records a failure, and returns how long to wait.
func (r *retries) failed() time.Duration {
	r.count++
	return min(r.shortest<<min(r.count-1, 10), maxWait)
}

func (r *retries) worked() { r.count = 0 }

// The least times between two lines of the log.
const (
	changeInterval = 10 * time.Second // about one step whose errors differ
	seldomInterval = 10 * time.Minute // about one cause
)

// reporter logs what fails when it begins, changes and ends. It is safe for concurrent use.
type reporter struct {
	log logrus.FieldLogger

	mu      sync.Mutex
	failing map[string]*failing  // by step
	causes  map[string]time.Time // when seldom logged them
}

// failing is a step that fails.
type failing struct {
	text string
	at   time.Time // of the last line
}

// failed logs the error of a step, once until it changes.
func (r *reporter) failed(step string, err error) {
	if errors.Is(err, context.Canceled) {
		return // a stop
	}
	text := err.Error()
	if store.IsUnavailable(err) {
		text = "the database is unavailable" // the error's own text may differ each time
	}
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	was := r.failing[step]
	if was != nil && (was.text == text || now.Sub(was.at) < changeInterval) {
		return
	}
	if r.failing == nil {
		r.failing = map[string]*failing{}
	}
	r.failing[step] = &failing{text, now}
	r.log.WithError(err).Warnf("could not %s; trying again", step)
}

// worked logs that a step that failed works again.
func (r *reporter) worked(step string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failing[step] != nil {
		delete(r.failing, step)
		r.log.Infof("works again: %s", step)
	}
}

// maxCauses bounds what seldom remembers.
const maxCauses = 1000

// seldom logs a message about a cause, unless it did so a while ago.
func (r *reporter) seldom(cause string, log logrus.FieldLogger, message string) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if at, known := r.causes[cause]; known && now.Sub(at) < seldomInterval {
		return
	}
	if r.causes == nil || len(r.causes) >= maxCauses {
		r.causes = map[string]time.Time{}
	}
	r.causes[cause] = now
	log.Warn(message)
}
