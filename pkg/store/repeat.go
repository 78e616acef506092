package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"time"

	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"
)

// repeat calls run, and calls it again while an answer is lost, within ctx and, where that has no deadline, within the Store's timeout. What run
// does must be safe to repeat. Once an answer was lost, only another answer tells what became of the statement: an error that says nothing
// about it, for example that no connection can be made, is repeated too, and returned as a *LostAnswerError.
func (s *Store) repeat(ctx context.Context, run func(context.Context) error) error {
	_, err := s.repeated(ctx, run)
	return err
}

// repeated is repeat. It reports whether an answer was lost, so that run may have taken effect more than once.
func (s *Store) repeated(ctx context.Context, run func(context.Context) error) (bool, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.connector.limit)
		defer cancel()
	}
	var lost *LostAnswerError
	for try := 0; ; try++ {
		err := run(ctx)
		if err == nil {
			return lost != nil, nil
		}
		last, ok := errors.AsType[*LostAnswerError](err)
		switch {
		case ok:
			lost = last
		case lost != nil && !tells(err):
			err = lost.afterRepeat(err)
		case lost == nil && errors.Is(err, driver.ErrBadConn):
			// database/sql found no connection on which the statement could be sent.
		default:
			return lost != nil, err
		}
		if try == len(s.waits) || !sleep(ctx, s.waits[try]) {
			return lost != nil, err
		}
	}
}

// tells reports whether the error of a repeat is the statement's own answer. Others, such as that no connection could be made or that a lock
// was not free, leave open whether an earlier try took effect.
func tells(err error) bool {
	if pqErr, ok := errors.AsType[*pq.Error](err); ok {
		class := pqErr.Code.Class()
		return refusals[string(pqErr.Code)] != nil || class == pqerror.ClassIntegrityConstraintViolation || class == pqerror.ClassDataException
	}
	return errors.Is(err, sql.ErrNoRows)
}

// sleep waits, and reports false if ctx ends before.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return ctx.Err() == nil
	}
}

// read is repeat for what changes nothing.
func (s *Store) read(ctx context.Context, run func(context.Context) error) error {
	err := s.repeat(ctx, run)
	if lost, ok := errors.AsType[*LostAnswerError](err); ok {
		return lost.ofRead()
	}
	return err
}

func isLostAnswer(err error) bool {
	_, ok := errors.AsType[*LostAnswerError](err)
	return ok
}
