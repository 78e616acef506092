package store

import (
	"context"
	"database/sql/driver"
	"errors"
	"time"
)

// repeat calls run, and calls it again while an answer is lost, within ctx and, where that has no deadline, within the Store's timeout. What run
// does must be safe to repeat.
func (s *Store) repeat(ctx context.Context, run func(context.Context) error) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.connector.limit)
		defer cancel()
	}
	err := run(ctx)
	for _, wait := range s.waits {
		if !isLost(err) || ctx.Err() != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
		}
		again := run(ctx)
		if again != nil && ctx.Err() != nil && !isLost(again) && isLostAnswer(err) {
			return err // a try that found no time to be sent tells nothing about the earlier ones
		}
		err = again
	}
	return err
}

// read is repeat for what changes nothing.
func (s *Store) read(ctx context.Context, run func(context.Context) error) error {
	err := s.repeat(ctx, run)
	if lost, ok := errors.AsType[*LostAnswerError](err); ok {
		return lost.ofRead()
	}
	return err
}

// isLost reports whether a statement must be sent on another connection. database/sql passes driver.ErrBadConn on when it found no
// connection on which it could be sent.
func isLost(err error) bool { return isLostAnswer(err) || errors.Is(err, driver.ErrBadConn) }

func isLostAnswer(err error) bool {
	_, ok := errors.AsType[*LostAnswerError](err)
	return ok
}
