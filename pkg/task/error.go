package task

import (
	"errors"
	"fmt"
	"time"
)

// Disposition is what happens to a task after a failed attempt.
type Disposition int

const (
	// Fail fails the task and refunds it: another attempt would fail the same way.
	Fail Disposition = iota
	// Retry sends the task back to pending, with backoff. The attempt is used.
	Retry
	// Release sends the task back without using an attempt. Other tasks are not affected.
	Release
	// Pause is Release for a cause that affects every task: the processor opens its circuit breaker and claims nothing until
	// the API is reachable again.
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

// Scope is what a failure affects. A circuit breaker belongs to it: what does not need it goes on.
type Scope int

const (
	// ScopeTask is the task itself.
	ScopeTask Scope = iota
	// ScopeModel is the task's model at the endpoint: the API does not make pictures with it for this account.
	ScopeModel
	// ScopeEndpoint is the API at its base URL, with the key in use.
	ScopeEndpoint
	// ScopeProxy is the route to the API: the proxy that is configured, or the direct connection.
	ScopeProxy
	// ScopeAll is this program or this host: the picture store, the database, a stop.
	ScopeAll
)

// String returns the scope's name in lower case.
func (s Scope) String() string {
	switch s {
	case ScopeTask:
		return "task"
	case ScopeModel:
		return "model"
	case ScopeEndpoint:
		return "endpoint"
	case ScopeProxy:
		return "proxy"
	case ScopeAll:
		return "all"
	}
	return fmt.Sprintf("scope(%d)", int(s))
}

// Error is the failure of an attempt: Code is for programs, Message for people, Err for the log.
type Error struct {
	Code        Code
	Message     string
	Disposition Disposition
	Scope       Scope
	// NotSent means that no byte of the request left this host, so that it can't have been billed.
	NotSent bool
	// Unknown means that a request was sent and no answer of the API itself was read whole: it may have been billed.
	Unknown bool
	// InProgress means that the API refused a repeat because it is still working on the request that was sent before with the same key. Where no
	// such request is known, Unknown applies.
	InProgress bool
	// Paid means that the API has answered with a picture that could not be kept: no other request may be made for the run.
	Paid bool
	// Gone means that the host of a picture that is paid for responded that it does not have it (PendingResult.Gone).
	Gone bool
	// RetryAfter is the wait that the API asked for, or zero.
	RetryAfter time.Duration
	// RequestID is the API's id of the request, if it sent one.
	RequestID string
	// Endpoint is the API that the request was sent to, if there was one.
	Endpoint string
	// Usage is what a request used that is paid for and has no result that can be kept; nil: nothing is known.
	Usage *Usage
	Err   error
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

// AsError returns err as an *Error. An error of another type is a fault of this program or this machine and not of the task, so
// its disposition is Retry. err must not be nil.
func AsError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return &Error{Code: CodeInternal, Message: err.Error(), Disposition: Retry, Err: err}
}

// The errors that callers compare with.
var (
	// ErrLeaseLost means that the task is no longer held under that lease.
	ErrLeaseLost = errors.New("the task's lease was taken over")
	// ErrUncheckable means that an endpoint answers an incomplete request in a way that says nothing about a complete one.
	ErrUncheckable = errors.New("the endpoint can't be asked without a paid request")
	// ErrNotFound means that there is no such task or user.
	ErrNotFound = errors.New("not found")
	// ErrWrongState means that a call is not possible in the task's state.
	ErrWrongState = errors.New("not possible in the task's state")
	// ErrInsufficientCredits means that the balance is less than the charge. Nothing was changed.
	ErrInsufficientCredits = errors.New("not enough credits")
	// ErrInvalid means that an argument can't be used. Nothing was changed.
	ErrInvalid = errors.New("an argument can't be used")
	// ErrKeyReused means that an idempotency key was used before with other arguments. Nothing was changed.
	ErrKeyReused = errors.New("the idempotency key was used before with other arguments")
	// ErrTooManyWaiting means that the user has as many waiting tasks as USER_MAX_WAITING allows. Nothing was changed.
	ErrTooManyWaiting = errors.New("too many waiting tasks")
	// ErrMissingCharge means that a task says it was charged, and the ledger has no charge that could be refunded.
	ErrMissingCharge = errors.New("nothing can be refunded: the task says it was charged, and the ledger has no charge; " +
		"to settle it run: fix-stuck-tasks audit --resolve ID --credits N --reason TEXT")
	// ErrBalanceLimit means that a grant would make the balance too large. Nothing was changed.
	ErrBalanceLimit = errors.New("the balance would be too large")
)
