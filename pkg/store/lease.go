package store

import (
	"context"
	"database/sql"
	"time"

	"github.com/google/uuid"
	"github.com/lib/pq"

	"imagetasks/pkg/task"
)

// ClaimRequest describes the tasks to claim.
type ClaimRequest struct {
	Worker      string        // the claiming processor, stored in leased_by
	Limit       int           // maximum number of tasks
	Lease       time.Duration // time until the leases expire unless renewed
	MaxAttempts int           // for tasks without their own
	CallID      uuid.UUID     // of this call, the same for its repeats; zero: a new one
}

// Claim claims up to r.Limit tasks and raises their lease_epoch: tasks with an expired lease first, then tasks that
// may start, by priority and turn. It returns no error when there are none, or while claiming is paused. A repeat with the same
// CallID returns the same leases, as far as they still hold.
func (s *Store) Claim(ctx context.Context, r ClaimRequest) ([]task.Task, error) {
	var tasks []task.Task
	err := s.query(ctx, s.sql.claim, func(rows *sql.Rows) error {
		var t task.Task
		err := rows.Scan(&t.ID, &t.Run, &t.UserID, &t.Prompt, &t.Options, &t.Model, &t.Inputs, &t.Attempt, &t.MaxAttempts, &t.Epoch)
		tasks = append(tasks, t)
		return err
	}, callID(r.CallID), r.Worker, r.Limit, r.Lease.Milliseconds(), r.MaxAttempts)
	return tasks, err
}

// callID returns the id of a call.
func callID(given uuid.UUID) string {
	if given == uuid.Nil {
		given = uuid.New()
	}
	return given.String()
}

// Admit lets the next tasks of these users start, as far as USER_CONCURRENCY allows, and returns how many; nil: of all users. It is
// called after tasks of a user left the state processing.
func (s *Store) Admit(ctx context.Context, users []string) (int, error) {
	var arg any
	if users != nil {
		arg = pq.Array(users)
	}
	var n int
	err := s.queryRow(ctx, s.sql.admit, []any{arg}, &n)
	return n, err
}

// Inputs returns the input pictures of a leased task, the mask included. It returns task.ErrLeaseLost if there are none, because
// only a task that is not held any more has lost its inputs.
func (s *Store) Inputs(ctx context.Context, l task.Lease) ([]task.Input, error) {
	var out []task.Input
	err := s.query(ctx, s.sql.inputs, func(rows *sql.Rows) error {
		var in task.Input
		err := rows.Scan(&in.Mask, &in.Content, &in.URL)
		out = append(out, in)
		return err
	}, l.TaskID, l.Epoch)
	if err == nil && len(out) == 0 {
		err = task.ErrLeaseLost
	}
	return out, err
}

// LeaseRenewal renews the lease of one task and reports its progress.
type LeaseRenewal struct {
	Lease    task.Lease
	Progress int // percent; values outside 0 to 100 are clamped
	Stage    string
}

// RenewLeases extends the leases by the given time from now, in one statement, and returns those that are still held.
// A lease missing from the result is lost: the task was claimed again, released or closed.
func (s *Store) RenewLeases(ctx context.Context, lease time.Duration, renewals []LeaseRenewal) ([]task.Lease, error) {
	if len(renewals) == 0 {
		return nil, nil
	}
	leases := make([]task.Lease, len(renewals))
	progress, stages := make([]int64, len(renewals)), make([]string, len(renewals))
	for i, r := range renewals {
		leases[i], progress[i], stages[i] = r.Lease, int64(min(max(r.Progress, 0), 100)), r.Stage
	}
	ids, epochs := leaseColumns(leases)
	return s.queryLeases(ctx, s.sql.renewLeases, ids, epochs, pq.Array(progress), pq.Array(stages), lease.Milliseconds())
}

// Retry returns a task to the queue, due after wait. The attempt is used. It returns task.ErrLeaseLost if the lease is
// not held.
func (s *Store) Retry(ctx context.Context, l task.Lease, wait time.Duration, cause *task.Error) error {
	ids, err := s.queryTexts(ctx, s.sql.retry, l.TaskID, l.Epoch, wait.Milliseconds(),
		string(cause.Code), cause.Error(), cause.RequestID, cause.Endpoint)
	if err == nil && len(ids) == 0 {
		return task.ErrLeaseLost
	}
	return err
}

// ReleaseRequest describes one task to release.
type ReleaseRequest struct {
	Lease task.Lease
	Wait  time.Duration // time until the task may be claimed again
	Cause *task.Error   // optional
}

// Release returns tasks to the queue without using an attempt, and returns the leases that were released.
func (s *Store) Release(ctx context.Context, requests ...ReleaseRequest) ([]task.Lease, error) {
	if len(requests) == 0 {
		return nil, nil
	}
	n := len(requests)
	leases, waits := make([]task.Lease, n), make([]int64, n)
	codes, messages := make([]string, n), make([]string, n)
	requestIDs, endpoints := make([]string, n), make([]string, n)
	for i, r := range requests {
		leases[i], waits[i] = r.Lease, r.Wait.Milliseconds()
		if r.Cause != nil {
			codes[i], messages[i] = string(r.Cause.Code), r.Cause.Error()
			requestIDs[i], endpoints[i] = r.Cause.RequestID, r.Cause.Endpoint
		}
	}
	ids, epochs := leaseColumns(leases)
	return s.queryLeases(ctx, s.sql.release, ids, epochs, pq.Array(waits), pq.Array(codes), pq.Array(messages),
		pq.Array(requestIDs), pq.Array(endpoints))
}

// leaseColumns returns the leases as two array parameters.
func leaseColumns(leases []task.Lease) (ids, epochs any) {
	id, epoch := make([]string, len(leases)), make([]int64, len(leases))
	for i, l := range leases {
		id[i], epoch[i] = l.TaskID, l.Epoch
	}
	return pq.Array(id), pq.Array(epoch)
}

// queryLeases runs a statement that returns task ids and epochs. The epoch is part of the result because a call may
// name several leases on the same task, of which at most one is held.
func (s *Store) queryLeases(ctx context.Context, st statement, args ...any) ([]task.Lease, error) {
	var out []task.Lease
	err := s.query(ctx, st, func(rows *sql.Rows) error {
		var l task.Lease
		err := rows.Scan(&l.TaskID, &l.Epoch)
		out = append(out, l)
		return err
	}, args...)
	return out, err
}
