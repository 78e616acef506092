package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/lib/pq"

	"imagetasks/pkg/task"
)

// ClaimRequest is what a worker asks for.
type ClaimRequest struct {
	Worker      string        // who asks; shown in leased_by
	Limit       int           // how many tasks at most
	Lease       time.Duration // how long it may stay silent about them
	MaxAttempts int           // for tasks that don't say
}

// Claim takes up to c.Limit tasks that are due, those whose worker fell silent first, and raises
// their lease_epoch. None being due is no error.
func (s *Store) Claim(ctx context.Context, c ClaimRequest) ([]task.Task, error) {
	var tasks []task.Task
	err := s.query(ctx, "claim", func(rows *sql.Rows) error {
		var t task.Task
		err := rows.Scan(&t.ID, &t.UserID, &t.Prompt, &t.Style, &t.AspectRatio, &t.Model,
			&t.HasInput, &t.Attempt, &t.MaxAttempts, &t.Epoch)
		tasks = append(tasks, t)
		return err
	}, c.Worker, c.Limit, c.Lease.Milliseconds(), c.MaxAttempts)
	return tasks, err
}

// Input returns the input picture of a task in hand, as base64. It returns task.ErrLeaseLost when
// the lease is gone, and an *task.Error when the picture has more than limit bytes.
func (s *Store) Input(ctx context.Context, l task.Lease, limit int) (string, error) {
	var size int
	var picture sql.NullString
	err := s.db.QueryRowContext(ctx, s.sql.byName["input"], l.TaskID, l.Epoch, limit).Scan(&size, &picture)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return "", task.ErrLeaseLost
	case err != nil:
		return "", fmt.Errorf("input: %w", err)
	case !picture.Valid:
		return "", &task.Error{Code: task.CodeInputTooLarge, Disposition: task.Fail,
			Message: fmt.Sprintf("the input picture has %d bytes of base64, more than the %d allowed", size, limit)}
	}
	return picture.String, nil
}

// LeaseRenewal is a sign of life for one task in hand.
type LeaseRenewal struct {
	Lease    task.Lease
	Progress int // percent
	Stage    string
}

// RenewLeases renews the leases in one statement and returns those that are still held. A lease that is
// missing from the answer was taken over, or its task was closed.
func (s *Store) RenewLeases(ctx context.Context, lease time.Duration, beats []LeaseRenewal) ([]task.Lease, error) {
	if len(beats) == 0 {
		return nil, nil
	}
	leases := make([]task.Lease, len(beats))
	progress, stages := make([]int64, len(beats)), make([]string, len(beats))
	for i, b := range beats {
		leases[i], progress[i], stages[i] = b.Lease, int64(min(max(b.Progress, 0), 100)), b.Stage
	}
	ids, epochs := columns(leases)
	return s.leases(ctx, "heartbeat", ids, epochs, pq.Array(progress), pq.Array(stages), lease.Milliseconds())
}

// Completion is a picture made.
type Completion struct {
	Lease     task.Lease
	ImageURL  string
	RequestID string
}

// Complete closes tasks whose pictures are made and returns those it accepted: the others were
// taken over, and their pictures must be discarded. Asking again after a lost answer is safe:
// a task completed under the same epoch counts as accepted.
func (s *Store) Complete(ctx context.Context, completions ...Completion) ([]task.Lease, error) {
	if len(completions) == 0 {
		return nil, nil
	}
	leases := make([]task.Lease, len(completions))
	urls, requests := make([]string, len(completions)), make([]string, len(completions))
	for i, c := range completions {
		leases[i], urls[i], requests[i] = c.Lease, c.ImageURL, c.RequestID
	}
	ids, epochs := columns(leases)
	accepted, err := s.leases(ctx, "complete", ids, epochs, pq.Array(urls), pq.Array(requests))
	if err != nil {
		return nil, err
	}
	if len(accepted) < len(leases) {
		// Those just completed are among them: this statement sees its predecessor's work.
		return s.leases(ctx, "completed", ids, epochs)
	}
	return accepted, nil
}

// Retry sends a task back to be tried again after wait; the attempt is used. It returns
// task.ErrLeaseLost when the lease is gone.
func (s *Store) Retry(ctx context.Context, l task.Lease, wait time.Duration, cause *task.Error) error {
	return oneHeld(s.texts(ctx, "retry", l.TaskID, l.Epoch, wait.Milliseconds(),
		string(cause.Code), cause.Error(), cause.RequestID))
}

// ReleaseRequest is a task handed back.
type ReleaseRequest struct {
	Lease task.Lease
	Wait  time.Duration // until it may be claimed again
	Cause *task.Error   // nil: none worth noting
}

// Release hands tasks back with no attempt used and returns those that were still held.
func (s *Store) Release(ctx context.Context, released ...ReleaseRequest) ([]task.Lease, error) {
	if len(released) == 0 {
		return nil, nil
	}
	n := len(released)
	leases, waits := make([]task.Lease, n), make([]int64, n)
	codes, messages := make([]string, n), make([]string, n)
	for i, r := range released {
		leases[i], waits[i] = r.Lease, r.Wait.Milliseconds()
		if r.Cause != nil {
			codes[i], messages[i] = string(r.Cause.Code), r.Cause.Error()
		}
	}
	ids, epochs := columns(leases)
	return s.leases(ctx, "release", ids, epochs, pq.Array(waits), pq.Array(codes), pq.Array(messages))
}

// NextDue returns the time until a task may become claimable: 0 or less when one may be now, and false
// when none waits.
func (s *Store) NextDue(ctx context.Context) (time.Duration, bool, error) {
	var ms sql.NullInt64
	if err := s.db.QueryRowContext(ctx, s.sql.byName["next"]).Scan(&ms); err != nil {
		return 0, false, fmt.Errorf("next: %w", err)
	}
	return time.Duration(ms.Int64) * time.Millisecond, ms.Valid, nil
}

// HasPending reports whether any task is pending, those that wait for a retry included.
func (s *Store) HasPending(ctx context.Context) (bool, error) {
	var some bool
	if err := s.db.QueryRowContext(ctx, s.sql.byName["outstanding"]).Scan(&some); err != nil {
		return false, fmt.Errorf("outstanding: %w", err)
	}
	return some, nil
}

// TaskRow is a task as it stands in the database, without its prompt and input picture.
type TaskRow struct {
	ID        string     `json:"task_id"`
	UserID    string     `json:"user_id"`
	State     task.State `json:"status"`
	Cost      int        `json:"credits_cost"`
	Deducted  int        `json:"credits_deducted"`
	Refunded  int        `json:"credits_refunded"`
	Attempts  int        `json:"attempt_count"`
	Epoch     int64      `json:"lease_epoch"`
	LeasedBy  string     `json:"leased_by,omitempty"`
	Progress  int        `json:"progress_percentage"`
	Stage     string     `json:"current_stage,omitempty"`
	ImageURL  string     `json:"image_url,omitempty"`
	ErrorCode task.Code  `json:"error_code,omitempty"`
	Error     string     `json:"error_message,omitempty"`
	RequestID string     `json:"request_id,omitempty"`
}

// Task returns one task, or task.ErrNotFound.
func (s *Store) Task(ctx context.Context, id string) (TaskRow, error) {
	var r TaskRow
	err := s.db.QueryRowContext(ctx, s.sql.byName["task"], id).Scan(&r.ID, &r.UserID, &r.State, &r.Cost, &r.Deducted,
		&r.Refunded, &r.Attempts, &r.Epoch, &r.LeasedBy, &r.Progress, &r.Stage, &r.ImageURL, &r.ErrorCode, &r.Error, &r.RequestID)
	if errors.Is(err, sql.ErrNoRows) {
		return r, fmt.Errorf("task %q: %w", id, task.ErrNotFound)
	}
	if err != nil {
		return r, fmt.Errorf("task: %w", err)
	}
	return r, nil
}

// CountByState counts the tasks in each state; states without tasks are there with 0.
func (s *Store) CountByState(ctx context.Context) (map[task.State]int, error) {
	counts := map[task.State]int{}
	for _, state := range task.States() {
		counts[state] = 0
	}
	err := s.query(ctx, "states", func(rows *sql.Rows) error {
		var state task.State
		var n int
		err := rows.Scan(&state, &n)
		counts[state] = n
		return err
	})
	return counts, err
}

// QueueStats is how the living part of the table stands.
type QueueStats struct {
	Pending    int           `json:"pending"`
	Due        int           `json:"due"` // of them, not waiting for a retry
	OldestDue  time.Duration `json:"-"`
	Processing int           `json:"processing"`
	Stuck      int           `json:"stuck"`
}

// QueueStats returns how the queue stands; a task in processing for longer than stuckAfter is stuck.
func (s *Store) QueueStats(ctx context.Context, stuckAfter time.Duration) (QueueStats, error) {
	var q QueueStats
	var oldest int64
	err := s.db.QueryRowContext(ctx, s.sql.byName["queue"], stuckAfter.Milliseconds()).
		Scan(&q.Pending, &q.Due, &oldest, &q.Processing, &q.Stuck)
	if err != nil {
		return q, fmt.Errorf("queue: %w", err)
	}
	q.OldestDue = time.Duration(oldest) * time.Millisecond
	return q, nil
}

func columns(leases []task.Lease) (ids, epochs any) {
	id, epoch := make([]string, len(leases)), make([]int64, len(leases))
	for i, l := range leases {
		id[i], epoch[i] = l.TaskID, l.Epoch
	}
	return pq.Array(id), pq.Array(epoch)
}

// leases runs a statement whose rows are a task and its epoch: of one task there may be several leases in hand,
// of which one is good.
func (s *Store) leases(ctx context.Context, name string, args ...any) ([]task.Lease, error) {
	var out []task.Lease
	err := s.query(ctx, name, func(rows *sql.Rows) error {
		var l task.Lease
		err := rows.Scan(&l.TaskID, &l.Epoch)
		out = append(out, l)
		return err
	}, args...)
	return out, err
}

func oneHeld(ids []string, err error) error {
	if err == nil && len(ids) == 0 {
		return task.ErrLeaseLost
	}
	return err
}
