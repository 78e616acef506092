package store

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/lib/pq"

	"imagetasks/pkg/task"
)

// Completion is the result of one task.
type Completion struct {
	Lease     task.Lease
	ImageURL  string
	RequestID string
}

// Complete closes tasks as completed and returns the leases it accepted. The other leases were lost, and their
// pictures must be discarded. A call may be repeated after its result was lost: a task that was completed under the
// same epoch counts as accepted.
func (s *Store) Complete(ctx context.Context, completions ...Completion) ([]task.Lease, error) {
	if len(completions) == 0 {
		return nil, nil
	}
	leases := make([]task.Lease, len(completions))
	urls, requests := make([]string, len(completions)), make([]string, len(completions))
	for i, c := range completions {
		leases[i], urls[i], requests[i] = c.Lease, c.ImageURL, c.RequestID
	}
	ids, epochs := leaseColumns(leases)
	accepted, err := s.queryLeases(ctx, s.sql.complete, ids, epochs, pq.Array(urls), pq.Array(requests))
	if err != nil {
		return nil, err
	}
	if len(accepted) < len(leases) {
		// The result includes the tasks just completed, because the first statement has committed.
		return s.queryLeases(ctx, s.sql.completed, ids, epochs)
	}
	return accepted, nil
}

// Fail closes a leased task as failed and refunds it. It returns task.ErrLeaseLost if the lease is not held. If the
// result of a call was lost, the task shows whether it succeeded: it is failed under that epoch.
func (s *Store) Fail(ctx context.Context, l task.Lease, cause *task.Error) (task.Refund, error) {
	closed, err := s.queryRefunds(ctx, s.sql.fail, l.TaskID, l.Epoch, string(cause.Code), cause.Error(), cause.RequestID)
	if err != nil {
		return task.Refund{}, err
	}
	if len(closed) == 0 {
		return task.Refund{}, task.ErrLeaseLost
	}
	return closed[0], nil
}

// Cancel closes a pending or processing task as cancelled and refunds it. A worker that holds its lease loses it.
// Cancel returns task.ErrNotFound if there is no such task, and task.ErrFinished if it is already closed.
func (s *Store) Cancel(ctx context.Context, taskID, reason string) (task.Refund, error) {
	closed, err := s.queryRefunds(ctx, s.sql.cancel, taskID, string(task.CodeCancelled), reason)
	if err != nil {
		return task.Refund{}, err
	}
	if len(closed) == 0 {
		row, err := s.Task(ctx, taskID)
		if err != nil {
			return task.Refund{}, err
		}
		return task.Refund{}, fmt.Errorf("task %q is %s: %w", taskID, row.State, task.ErrFinished)
	}
	return closed[0], nil
}

// FailAbandoned fails and refunds up to limit tasks whose lease expired during their last attempt.
func (s *Store) FailAbandoned(ctx context.Context, maxAttempts, limit int) ([]task.Refund, error) {
	return s.queryRefunds(ctx, s.sql.failAbandoned, maxAttempts, limit, string(task.CodeLeaseExpired),
		"the lease expired during the last attempt")
}

// FailOverdue fails and refunds up to limit tasks that have been due for longer than after and were not started, the
// oldest first. In the result, Refund.Age is the time since the task was due. Concurrent calls share the work.
func (s *Store) FailOverdue(ctx context.Context, after time.Duration, limit int) ([]task.Refund, error) {
	return s.queryRefunds(ctx, s.sql.failOverdue, after.Milliseconds(), limit, string(task.CodePendingTimeout),
		fmt.Sprintf("not started within %s (PENDING_TIMEOUT)", after))
}

// CountOverdue returns how many tasks FailOverdue would fail without a limit.
func (s *Store) CountOverdue(ctx context.Context, after time.Duration) (int, error) {
	var n int
	err := s.queryRow(ctx, s.sql.countOverdue, []any{after.Milliseconds()}, &n)
	return n, err
}

// Sweep selects stuck tasks and what to do with them.
type Sweep struct {
	OlderThan time.Duration // processing for longer than this
	Limit     int           // maximum number of tasks
	Tasks     []string      // only these tasks; nil: all
	UserID    string        // only this user's tasks; empty: all
	Requeue   bool          // return the tasks to the queue instead of failing and refunding them
}

func (w Sweep) filters() (tasks, user any) {
	if w.Tasks != nil {
		tasks = pq.Array(w.Tasks)
	}
	if w.UserID != "" {
		user = w.UserID
	}
	return tasks, user
}

// Sweep fails and refunds stuck tasks, or requeues them, the oldest first, and returns them. Concurrent sweeps share the
// work: each skips the tasks that another one has locked.
func (s *Store) Sweep(ctx context.Context, w Sweep) ([]task.Refund, error) {
	st := s.sql.sweep
	if w.Requeue {
		st = s.sql.requeue
	}
	tasks, user := w.filters()
	return s.queryRefunds(ctx, st, w.OlderThan.Milliseconds(), w.Limit, string(task.CodeStuck),
		fmt.Sprintf("processing for longer than %s", w.OlderThan), tasks, user)
}

// Stuck returns the tasks that Sweep would take, and changes nothing.
func (s *Store) Stuck(ctx context.Context, w Sweep) ([]task.Refund, error) {
	tasks, user := w.filters()
	return s.queryRefunds(ctx, s.sql.stuck, w.OlderThan.Milliseconds(), w.Limit, tasks, user)
}

// CountStuck returns how many tasks Sweep would take without a limit.
func (s *Store) CountStuck(ctx context.Context, w Sweep) (int, error) {
	var n int
	tasks, user := w.filters()
	err := s.queryRow(ctx, s.sql.countStuck, []any{w.OlderThan.Milliseconds(), tasks, user}, &n)
	return n, err
}

// queryRefunds runs a statement that returns task, user, credits refunded, balance after it, and age in ms.
func (s *Store) queryRefunds(ctx context.Context, st statement, args ...any) ([]task.Refund, error) {
	var out []task.Refund
	err := s.query(ctx, st, func(rows *sql.Rows) error {
		var r task.Refund
		var balance sql.NullInt64
		var age int64
		if err := rows.Scan(&r.TaskID, &r.UserID, &r.Credits, &balance, &age); err != nil {
			return err
		}
		if balance.Valid {
			b := int(balance.Int64)
			r.Balance = &b
		}
		r.Age = time.Duration(age) * time.Millisecond
		out = append(out, r)
		return nil
	}, args...)
	return out, err
}
