package task

import (
	"errors"
	"fmt"
	"time"
)

// Disposition says what becomes of a task after a failed attempt.
type Disposition int

const (
	// Fail ends the task and refunds it: another attempt would end the same way.
	Fail Disposition = iota
	// Retry sends the task back with backoff; the attempt is used.
	Retry
	// Release sends the task back with no attempt used; others may go on.
	Release
	// Pause is Release for a cause that holds for every task: the processor stops claiming until
	// the way to the API is open again.
	Pause
)

// String returns the disposition's name in lower case.
func (d Disposition) String() string {
	switch d {
	case Fail:
		return "fail"
	case Retry:
		return "retry"
	case Release:
		return "release"
	case Pause:
		return "pause"
	}
	return fmt.Sprintf("disposition(%d)", int(d))
}

// Error is the failure of an attempt: Code for programs, Message for people, Err for the log.
type Error struct {
	Code        Code
	Message     string
	Disposition Disposition
	// RetryAfter is the wait that the API asked for; zero when it asked for none.
	RetryAfter time.Duration
	// RequestID is the API's own name for the call, where it gave one.
	RequestID string
	Err       error
}

// Error returns the message for people.
func (e *Error) Error() string {
	if e.Message == "" && e.Err != nil {
		return e.Err.Error()
	}
	return e.Message
}

// Unwrap returns the underlying error.
func (e *Error) Unwrap() error { return e.Err }

// AsError returns err as an *Error. One that is something else is a fault of ours or of the
// machine: it is retried, because the task is not to blame.
func AsError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return &Error{Code: CodeInternal, Message: err.Error(), Disposition: Retry, Err: err}
}

// The refusals that callers of the store decide on.
var (
	// ErrLeaseLost means that the task is no longer held under the lease that was named.
	ErrLeaseLost = errors.New("the task's lease was taken over")
	// ErrNotFound means that there is no such task or user.
	ErrNotFound = errors.New("not found")
	// ErrFinished means that the task is in a final state already.
	ErrFinished = errors.New("the task is finished already")
	// ErrInsufficientCredits means that the balance doesn't cover the charge; nothing was changed.
	ErrInsufficientCredits = errors.New("not enough credits")
)
