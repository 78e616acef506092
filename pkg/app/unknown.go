package app

import (
	"context"
	"errors"
	"fmt"

	"imagetasks/pkg/store"
)

// UnknownOutcome adds to an error after which it is unknown whether a command took effect how to repeat the command safely. It returns
// other errors as they are.
func UnknownOutcome(ctx context.Context, err error, repeat string, args ...any) error {
	lost, ok := errors.AsType[*store.LostAnswerError](err)
	if !ok || lost.Reads {
		return err
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("%w while it waited for the database; whether it took effect is unknown", ErrInterrupted)
	}
	return fmt.Errorf("%w; "+repeat, append([]any{err}, args...)...)
}
