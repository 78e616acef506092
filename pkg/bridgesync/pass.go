package bridgesync

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sirupsen/logrus"

	"imagetasks/pkg/store"
)

// errUnanswered means that the database did not answer a call.
var errUnanswered = errors.New("the database did not answer")

// Report is the result of a pass.
type Report struct {
	Active     bool  `json:"active"`
	Taken      int   `json:"taken"`               // tasks that were taken over
	Superseded int   `json:"superseded"`          // tasks whose row the application had closed or deleted
	Applied    int   `json:"applied"`             // tasks whose end was written
	Refunded   int64 `json:"credits_refunded"`    // in the application's tables
	Owed       int   `json:"still_to_be_written"` // tasks whose end is still to be written
}

// PassTimeout bounds a pass.
const PassTimeout = 30 * time.Second

// Pass reads the whole inbox, writes all ends that are due, and compares both sides, once. Each step is done whatever became of the one before. Without a
// bridge it does nothing. It is safe beside running processors, and may be interrupted anywhere.
func Pass(ctx context.Context, st Store, log logrus.FieldLogger) (Report, error) {
	return pass(ctx, Config{Store: st, Log: log}, true)
}

// Drain is Pass without the comparison of both sides, which reads all live rows of the application.
func Drain(ctx context.Context, st Store, log logrus.FieldLogger) (Report, error) {
	return pass(ctx, Config{Store: st, Log: log}, false)
}

func pass(ctx context.Context, conf Config, reconcile bool) (Report, error) {
	ctx, cancel := context.WithTimeout(ctx, PassTimeout)
	defer cancel()
	s, err := New(conf)
	if err != nil {
		return Report{}, err
	}
	state, err := conf.Store.Bridge(ctx)
	if err != nil || !state.Active {
		return Report{}, err
	}
	r := Report{Active: true}
	var errs []error
	step := func(name string, do func() error) {
		if err := do(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	// A step that hangs leaves time for the others.
	within := func(share time.Duration, do func(context.Context) error) error {
		ctx, cancel := context.WithTimeout(ctx, PassTimeout/share)
		defer cancel()
		return do(ctx)
	}
	readInbox := func(ctx context.Context) error { return s.readInbox(ctx, &r) }
	step("read the application's changes", func() error { return within(4, readInbox) })
	step("write to the application's tables", func() error { return within(3, s.applier.drain) })
	if reconcile {
		var noted int
		step("compare both sides", func() error {
			return within(3, func(ctx context.Context) (err error) {
				noted, err = s.reconcile(ctx)
				return err
			})
		})
		if noted > 0 {
			step("read the application's changes", func() error { return within(4, readInbox) })
			step("write to the application's tables", func() error { return within(3, s.applier.drain) })
		}
	}
	r.Applied, r.Refunded = s.applier.totals.applied, s.applier.totals.refunded
	r.Superseded += s.applier.totals.superseded
	if state, err = conf.Store.Bridge(ctx); err != nil {
		errs = append(errs, err)
	}
	r.Owed = state.Owed
	return r, errors.Join(errs...)
}

// readInbox reads the inbox until it is empty, or another process reads it.
func (s *Service) readInbox(ctx context.Context, r *Report) error {
	for {
		done, err := s.sync(ctx)
		r.Taken += done.Taken
		r.Superseded += done.Superseded
		if err != nil || !done.More {
			return err
		}
	}
}

// Prepare takes over what the application has inserted before a run that ends by itself, so that the run does not end before it sees it. It waits for
// another process that reads the inbox, for a few seconds.
func Prepare(ctx context.Context, st Store, log logrus.FieldLogger) error {
	ctx, cancel := context.WithTimeout(ctx, PassTimeout)
	defer cancel()
	s, err := New(Config{Store: st, Log: log})
	if err != nil {
		return err
	}
	for began := time.Now(); ; {
		if err := s.readInbox(ctx, &Report{}); err != nil {
			return err
		}
		state, err := st.Bridge(ctx)
		// Changes of balances are read two seconds later.
		if err != nil || !state.Active || state.Inbox == 0 || time.Since(began) > prepareWait {
			return err
		}
		if !pause(ctx, s.conf.Interval) {
			return ctx.Err()
		}
	}
}

// prepareWait is how long Prepare waits for an inbox that does not become empty.
const prepareWait = 4 * time.Second

var _ Store = (*store.Store)(nil)
