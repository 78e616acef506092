package processor

import (
	"context"
	"time"

	"github.com/sirupsen/logrus"

	"imagetasks/pkg/store"
)

// progressSaver writes how far tasks are to their rows soon after their stage has changed: the renewal of the leases is too seldom for people who
// watch. It writes what has changed in one statement.
type progressSaver struct {
	queue    Queue
	inFlight *inFlight
	changed  chan struct{} // holds one
	log      logrus.FieldLogger
}

const (
	progressDelay   = 500 * time.Millisecond // between a change and its write, and between two writes
	progressTimeout = 5 * time.Second
)

// note makes run write the progress of the attempts whose stage has changed.
func (s *progressSaver) note() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// run writes changes until ctx ends.
func (s *progressSaver) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.changed:
		}
		timer.Reset(progressDelay)
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		s.save(ctx)
	}
}

// save writes the progress of attempts whose stage has changed. What can't be written is left to the next renewal of the leases.
func (s *progressSaver) save(ctx context.Context) {
	var progress []store.LeaseRenewal
	for _, a := range s.inFlight.list() {
		if r, changed := a.changedProgress(); changed {
			progress = append(progress, r)
		}
	}
	if len(progress) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, progressTimeout)
	defer cancel()
	if err := s.queue.SaveProgress(ctx, progress); err != nil && ctx.Err() == nil {
		s.log.WithError(err).Debug("the progress of tasks was not written")
	}
}
