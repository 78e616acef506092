package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"net"
	"syscall"

	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"
)

// IsUnavailable reports whether err means that the database could not be asked, or that its answer was lost: it is down, starting,
// unreachable, silent, or out of connections. The same call may succeed later. A database that answers with an error is not unavailable,
// see IsTransient; one that refuses the login isn't, either.
func IsUnavailable(err error) bool {
	if isLostAnswer(err) {
		return true
	}
	if pqErr, ok := errors.AsType[*pq.Error](err); ok {
		switch pqErr.Code {
		case pqerror.AdminShutdown, pqerror.CrashShutdown, pqerror.CannotConnectNow, pqerror.IdleSessionTimeout, pqerror.TooManyConnections:
			return true
		}
		return pqErr.Code.Class() == pqerror.ClassConnectionException
	}
	if _, ok := errors.AsType[net.Error](err); ok {
		return true
	}
	for _, sign := range []error{driver.ErrBadConn, sql.ErrConnDone, io.EOF, io.ErrUnexpectedEOF, net.ErrClosed,
		context.DeadlineExceeded, syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EPIPE, syscall.ENOENT} {
		if errors.Is(err, sign) {
			return true
		}
	}
	return false
}

// IsTransient reports whether err is an error with which the database answered and that may pass: a conflict with another transaction, a lock
// that was not free, a statement that was cancelled, a full disk or memory, an internal error. The statement had no effect.
func IsTransient(err error) bool {
	pqErr, ok := errors.AsType[*pq.Error](err)
	if !ok || IsUnavailable(err) {
		return false
	}
	switch pqErr.Code.Class() {
	case pqerror.ClassTransactionRollback, pqerror.ClassInsufficientResources, pqerror.ClassSystemError:
		return true
	}
	switch pqErr.Code {
	case pqerror.LockNotAvailable, pqerror.ObjectInUse, pqerror.QueryCanceled, pqerror.InternalError,
		// A standby until it is promoted, or a former primary: its connections are closed, so that the next one may find the new primary.
		pqerror.ReadOnlySQLTransaction:
		return true
	}
	return false
}

// IsLockTimeout reports whether err means that another transaction held a lock for too long.
func IsLockTimeout(err error) bool { return pq.As(err, pqerror.LockNotAvailable) != nil }
