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

// Admit lets the next tasks of a user start, as far as USER_CONCURRENCY allows, and returns how many. It is called after a task of the
// user left the state processing. It waits a second at most for a transaction that has locked the user.
func (s *Store) Admit(ctx context.Context, user string) (int, error) {
	return s.admit(ctx, []string{user}, true)
}

func (s *Store) admit(ctx context.Context, users []string, wait bool) (int, error) {
	var n int
	err := s.queryRow(ctx, s.sql.admit, []any{pq.Array(users), wait}, &n)
	return n, err
}

// The sizes of AdmitAll's calls.
const (
	admitUsers = 200
	admitTasks = 1000 // the function returns this many or more when it may find more
)

// AdmitAll is Admit for all users, and returns how many tasks may start now: it makes up for calls of Admit that were missed, and admits
// all tasks after USER_CONCURRENCY was switched off. Users that are locked are left out.
func (s *Store) AdmitAll(ctx context.Context) (int, error) {
	total, after := 0, ""
	for {
		users, err := s.queryTexts(ctx, s.sql.heldUsers, after, admitUsers)
		if err != nil || len(users) == 0 {
			return total, err
		}
		for n := admitTasks; n >= admitTasks; {
			if n, err = s.admit(ctx, users, false); err != nil {
				return total, err
			}
			total += n
		}
		after = users[len(users)-1]
	}
}

// Inputs returns the input pictures of a leased task, the mask included. It returns task.ErrLeaseLost if the lease is not held, and a
// *task.Error if the task has lost its pictures.
func (s *Store) Inputs(ctx context.Context, l task.Lease) ([]task.Input, error) {
	var out []task.Input
	held := false
	err := s.query(ctx, s.sql.inputs, func(rows *sql.Rows) error {
		var in task.Input
		var stored bool
		err := rows.Scan(&in.Mask, &in.Content, &in.URL, &stored)
		held = true
		if stored {
			out = append(out, in)
		}
		return err
	}, l.TaskID, l.Epoch)
	switch {
	case err != nil:
		return nil, err
	case !held:
		return nil, task.ErrLeaseLost
	case len(out) == 0:
		return nil, &task.Error{Code: task.CodeInputUnavailable, Disposition: task.Fail, NotSent: true, Message: "the input pictures of the task were deleted"}
	}
	return out, nil
}

// LeaseRenewal renews the lease of one task and reports its progress.
type LeaseRenewal struct {
	Lease    task.Lease
	Progress int // percent; values outside 0 to 100 are clamped
	Stage    string
}

// RenewLeases extends the leases by the given time from now, in one statement, and returns those that are still held, and how many of
// them were not extended because somebody else has locked their rows: call it again soon. A lease missing from the result is lost: the
// task was claimed again, released or closed.
func (s *Store) RenewLeases(ctx context.Context, lease time.Duration, renewals []LeaseRenewal) (held []task.Lease, locked int, err error) {
	if len(renewals) == 0 {
		return nil, 0, nil
	}
	leases := make([]task.Lease, len(renewals))
	progress, stages := make([]int64, len(renewals)), make([]string, len(renewals))
	for i, r := range renewals {
		leases[i], progress[i], stages[i] = r.Lease, int64(min(max(r.Progress, 0), 100)), r.Stage
	}
	ids, epochs := leaseColumns(leases)
	err = s.queryOn(ctx, s.heartbeats, s.sql.renewLeases, func(rows *sql.Rows) error {
		var l task.Lease
		var renewed bool
		err := rows.Scan(&l.TaskID, &l.Epoch, &renewed)
		held = append(held, l)
		if !renewed {
			locked++
		}
		return err
	}, ids, epochs, pq.Array(progress), pq.Array(stages), lease.Milliseconds())
	return held, locked, err
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
