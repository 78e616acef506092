package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/lib/pq"

	"imagetasks/pkg/task"
)

// GrantCredits gives a user credits and returns the new balance.
func (s *Store) GrantCredits(ctx context.Context, userID string, credits int, reason string) (int, error) {
	if credits < 1 {
		return 0, fmt.Errorf("grant %d credits: must be 1 or more", credits)
	}
	var balance int
	if err := s.db.QueryRowContext(ctx, s.sql.byName["grant"], userID, credits, reason).Scan(&balance); err != nil {
		return 0, fmt.Errorf("grant: %w", err)
	}
	return balance, nil
}

// Balance returns a user's credits, or task.ErrNotFound for one who never had any.
func (s *Store) Balance(ctx context.Context, userID string) (int, error) {
	var credits int
	err := s.db.QueryRowContext(ctx, s.sql.byName["balance"], userID).Scan(&credits)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, fmt.Errorf("user %s: %w", userID, task.ErrNotFound)
	}
	if err != nil {
		return 0, fmt.Errorf("balance: %w", err)
	}
	return credits, nil
}

// LedgerEntry is one row of the ledger.
type LedgerEntry struct {
	Kind         string    `json:"kind"`
	Amount       int       `json:"amount"` // signed: what it did to the balance
	BalanceAfter int       `json:"balance_after"`
	TaskID       string    `json:"task_id,omitempty"`
	Reason       string    `json:"reason"`
	CreatedAt    time.Time `json:"created_at"`
}

// Ledger returns a user's latest movements, the newest first.
func (s *Store) Ledger(ctx context.Context, userID string, limit int) ([]LedgerEntry, error) {
	var out []LedgerEntry
	err := s.query(ctx, "ledger", func(rows *sql.Rows) error {
		var m LedgerEntry
		err := rows.Scan(&m.Kind, &m.Amount, &m.BalanceAfter, &m.TaskID, &m.Reason, &m.CreatedAt)
		out = append(out, m)
		return err
	}, userID, limit)
	return out, err
}

// NewTask is what to enqueue.
type NewTask struct {
	UserID      string
	Prompt      string
	Style       string
	AspectRatio string
	Model       string
	Input       string // an input picture in base64
	Cost        int    // credits for each task, 1 or more
	Count       int    // tasks to make; 0 means 1
	MaxAttempts int    // 0: as the processor is set
}

// Enqueue charges the user and inserts the tasks in one statement, and returns their ids. Where the
// balance doesn't cover all of them it changes nothing and returns task.ErrInsufficientCredits.
func (s *Store) Enqueue(ctx context.Context, n NewTask) ([]string, error) {
	n.Count = max(n.Count, 1)
	if n.Cost < 1 {
		return nil, fmt.Errorf("enqueue: a task's cost must be 1 credit or more, not %d", n.Cost)
	}
	if n.Prompt == "" {
		return nil, errors.New("enqueue: the prompt is empty")
	}
	ids := make([]string, n.Count)
	for i := range ids {
		id, err := uuid.NewV7()
		if err != nil {
			return nil, fmt.Errorf("enqueue: %w", err)
		}
		ids[i] = id.String()
	}
	made, err := s.texts(ctx, "enqueue", n.UserID, pq.Array(ids), n.Cost, n.Prompt, n.Style, n.AspectRatio,
		n.Model, n.Input, n.MaxAttempts)
	if err != nil {
		return nil, err
	}
	if len(made) == 0 {
		have, err := s.Balance(ctx, n.UserID)
		if err != nil && !errors.Is(err, task.ErrNotFound) {
			return nil, err
		}
		return nil, fmt.Errorf("enqueue %d tasks at %d: the user has %d: %w", n.Count, n.Cost, have, task.ErrInsufficientCredits)
	}
	return made, nil
}

// Fail closes a task in hand as failed and refunds it. It returns task.ErrLeaseLost when the lease
// is gone. Whether a lost answer was a success shows in the task: it is failed under that epoch.
func (s *Store) Fail(ctx context.Context, l task.Lease, cause *task.Error) (task.Refund, error) {
	closed, err := s.close(ctx, "fail", l.TaskID, l.Epoch, string(cause.Code), cause.Error(), cause.RequestID)
	if err != nil {
		return task.Refund{}, err
	}
	if len(closed) == 0 {
		return task.Refund{}, task.ErrLeaseLost
	}
	return closed[0], nil
}

// Cancel closes a task that is pending or in hand and refunds it; a worker that has it finds its
// lease gone. It returns task.ErrNotFound or task.ErrFinished where there is nothing to cancel.
func (s *Store) Cancel(ctx context.Context, taskID, reason string) (task.Refund, error) {
	closed, err := s.close(ctx, "cancel", taskID, string(task.CodeCancelled), reason)
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

// FailAbandoned fails and refunds up to limit tasks whose worker fell silent in their last attempt.
func (s *Store) FailAbandoned(ctx context.Context, maxAttempts, limit int) ([]task.Refund, error) {
	return s.close(ctx, "reap", maxAttempts, limit, string(task.CodeLeaseExpired),
		"the worker fell silent in the task's last attempt")
}

// FailOverdue fails and refunds up to limit tasks that were due for longer than after and that nobody began, the oldest
// first, and returns them; a Refund's Age is how long they were due. Any number of callers may work at once.
func (s *Store) FailOverdue(ctx context.Context, after time.Duration, limit int) ([]task.Refund, error) {
	return s.close(ctx, "expire", after.Milliseconds(), limit, string(task.CodePendingTimeout),
		fmt.Sprintf("nobody began it within %s (PENDING_TIMEOUT)", after))
}

// CountOverdue returns how many tasks Expire would take, whatever its limit.
func (s *Store) CountOverdue(ctx context.Context, after time.Duration) (int, error) {
	var n int
	if err := s.db.QueryRowContext(ctx, s.sql.byName["count expired"], after.Milliseconds()).Scan(&n); err != nil {
		return 0, fmt.Errorf("count expired: %w", err)
	}
	return n, nil
}

// Sweep says which stuck tasks a sweep takes.
type Sweep struct {
	OlderThan time.Duration // in processing for longer than this
	Limit     int           // how many at most
	Tasks     []string      // only these; nil: all
	UserID    string        // only this user's; empty: all
	Requeue   bool          // back into the queue instead of failed and refunded
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

// Sweep fails and refunds stuck tasks, or requeues them, the oldest first, and returns them. Any number
// of sweepers may work at once: each takes what no other holds.
func (s *Store) Sweep(ctx context.Context, w Sweep) ([]task.Refund, error) {
	name := "sweep"
	if w.Requeue {
		name = "requeue"
	}
	tasks, user := w.filters()
	return s.close(ctx, name, w.OlderThan.Milliseconds(), w.Limit, string(task.CodeStuck),
		fmt.Sprintf("in processing for longer than %s", w.OlderThan), tasks, user)
}

// Stuck returns what Sweep would take, and changes nothing.
func (s *Store) Stuck(ctx context.Context, w Sweep) ([]task.Refund, error) {
	tasks, user := w.filters()
	return s.close(ctx, "stuck", w.OlderThan.Milliseconds(), w.Limit, tasks, user)
}

// CountStuck returns how many tasks Sweep would take, whatever its limit.
func (s *Store) CountStuck(ctx context.Context, w Sweep) (int, error) {
	var n int
	tasks, user := w.filters()
	err := s.db.QueryRowContext(ctx, s.sql.byName["count stuck"], w.OlderThan.Milliseconds(), tasks, user).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("count stuck: %w", err)
	}
	return n, nil
}

func (s *Store) close(ctx context.Context, name string, args ...any) ([]task.Refund, error) {
	var out []task.Refund
	err := s.query(ctx, name, func(rows *sql.Rows) error {
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
