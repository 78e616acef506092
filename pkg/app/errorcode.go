package app

import (
	"errors"

	"imagetasks/pkg/settings"
	"imagetasks/pkg/store"
	"imagetasks/pkg/supervise"
	"imagetasks/pkg/task"
)

// errorCode returns the code of an error in documents, and the exit code.
func (a *App) errorCode(err error) (code string, exit int) {
	if _, ok := errors.AsType[*usageError](err); ok {
		return "usage", exitUsage
	}
	if _, ok := errors.AsType[*settings.Error](err); ok || errors.Is(err, ErrBadSettings) {
		return "settings", exitUsage
	}
	if errors.Is(err, ErrUnhealthy) {
		return "unhealthy", exitWrong
	}
	if a.isInterrupt(err) {
		return "interrupted", exitFault
	}
	if lost, ok := errors.AsType[*store.LostAnswerError](err); ok && !lost.Reads {
		return "unknown_outcome", exitFault
	}
	for _, known := range []struct {
		err  error
		code string
	}{
		{store.ErrSchema, "schema"}, {task.ErrNotFound, "not_found"}, {task.ErrWrongState, "wrong_state"}, {task.ErrInsufficientCredits, "insufficient_credits"},
		{task.ErrKeyReused, "key_reused"}, {task.ErrTooManyWaiting, "too_many_waiting"}, {task.ErrBalanceLimit, "balance_limit"}, {task.ErrInvalid, "invalid"},
	} {
		if errors.Is(err, known.err) {
			return known.code, exitFault
		}
	}
	if store.IsUnavailable(err) {
		return "database_unavailable", exitFault
	}
	return "failed", exitFault
}

// ErrorDetail describes an error in a document.
func (a *App) ErrorDetail(err error) ErrorDetail {
	code, exit := a.errorCode(err)
	return ErrorDetail{Code: code, Message: a.Redact.String(err.Error()), ExitCode: exit}
}

// isInterrupt reports whether an error means that a signal ended the program, or is a consequence of that.
func (a *App) isInterrupt(err error) bool {
	_, failedStart := errors.AsType[*supervise.StartError](err)
	return errors.Is(err, ErrInterrupted) || a.interrupted.Load() && !failedStart
}
