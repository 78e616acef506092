package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"

	"imagetasks/pkg/task"
)

// Completion is the result of one task.
type Completion struct {
	Lease     task.Lease
	ImageURL  string
	RequestID string
	Endpoint  string // of the API that made the picture; may be empty
	Note      string // what differs from what was asked for; may be empty
	Usage     task.Usage
}

// Complete closes tasks as completed and returns the leases it accepted. The other leases were lost, and their
// pictures must be discarded. A call may be repeated after its result was lost: a task that was completed under the
// same epoch counts as accepted.
func (s *Store) Complete(ctx context.Context, completions ...Completion) ([]task.Lease, error) {
	if len(completions) == 0 {
		return nil, nil
	}
	leases := make([]task.Lease, len(completions))
	n := len(completions)
	urls, requests, endpoints, notes, usages := make([]string, n), make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	for i, c := range completions {
		usages[i] = usageText(c.Usage)
		leases[i], urls[i], requests[i], endpoints[i], notes[i] = c.Lease, c.ImageURL, c.RequestID, c.Endpoint, c.Note
	}
	ids, epochs := leaseColumns(leases)
	accepted, err := s.queryLeases(ctx, s.sql.complete, ids, epochs, pq.Array(urls), pq.Array(requests), pq.Array(endpoints), pq.Array(notes), pq.Array(usages))
	if err != nil {
		return nil, err
	}
	if len(accepted) < len(leases) {
		// The result includes the tasks just completed, because the first statement has committed.
		return s.queryLeases(ctx, s.sql.completed, ids, epochs)
	}
	return accepted, nil
}

// usageText returns what a request used as JSON, or "" where nothing is known.
func usageText(u task.Usage) string {
	if u.Endpoint == "" && u.Model == "" && u.Took == 0 && u.Counts == nil && u.Currency == "" {
		return ""
	}
	if u.Counts != nil && !json.Valid(u.Counts) {
		u.Counts = nil
	}
	text, err := json.Marshal(u)
	if err != nil {
		return ""
	}
	return string(text)
}

func failedUsage(cause *task.Error) string {
	if !cause.Paid || cause.Usage == nil {
		return ""
	}
	return usageText(*cause.Usage)
}

// Fail closes a leased task as failed and refunds it. usesAttempt says whether the attempt counts. It returns task.ErrLeaseLost if the
// lease is not held. A repeat after a lost answer returns the first result.
func (s *Store) Fail(ctx context.Context, l task.Lease, cause *task.Error, usesAttempt bool) (task.Refund, error) {
	used := 0
	if usesAttempt {
		used = 1
	}
	closed, _, err := s.queryRefunds(ctx, s.sql.fail, l.TaskID, l.Epoch, string(cause.Code), cause.Error(), cause.RequestID, cause.Endpoint,
		answer(cause), used, failedUsage(cause))
	if err == nil && len(closed) == 0 {
		closed, _, err = s.queryRefunds(ctx, s.sql.recordedFailure, l.TaskID, l.Epoch)
	}
	if err != nil {
		return task.Refund{}, err
	}
	if len(closed) == 0 {
		return task.Refund{}, task.ErrLeaseLost
	}
	return closed[0], nil
}

// Cancelled is the result of Cancel.
type Cancelled struct {
	TaskID        string     `json:"task_id"`
	State         task.State `json:"status"`
	Refunded      int64      `json:"refunded"` // of the task's run, by this call or an earlier one
	Balance       int64      `json:"balance"`  // of the task's user
	MissingCharge bool       `json:"missing_charge,omitempty"`
}

// Cancel closes a pending or processing task as cancelled and refunds it. A worker that holds its lease loses it. A task that is
// closed already keeps its state, which the result shows: a repeat returns the same. With userID, only a task of that user. Cancel
// returns task.ErrNotFound if there is no such task.
func (s *Store) Cancel(ctx context.Context, taskID, userID string) (Cancelled, error) {
	return s.CancelBy(ctx, Operation{}, taskID, userID)
}

// CancelBy is Cancel for an operator.
func (s *Store) CancelBy(ctx context.Context, o Operation, taskID, userID string) (Cancelled, error) {
	c := Cancelled{TaskID: taskID}
	err := s.queryRow(ctx, s.sql.cancel, []any{taskID, nullable(userID), o.id(), o.Who}, &c.State, &c.Refunded, &c.Balance, &c.MissingCharge)
	return c, err
}

// Redriven is the result of Redrive.
type Redriven struct {
	TaskID  string `json:"task_id"`
	Run     int    `json:"run"`     // the new run
	Balance int64  `json:"balance"` // of the task's user, after the charge
}

// Redrive begins the next run of a failed task: the user is charged again, and the task is pending. run is the number of the run
// that failed; a repeat with the same number returns the first result. 0 means the current run. Its errors wrap task.ErrNotFound,
// task.ErrWrongState, task.ErrInsufficientCredits or task.ErrTooManyWaiting.
func (s *Store) Redrive(ctx context.Context, taskID string, run int) (Redriven, error) {
	return s.RedriveBy(ctx, Operation{}, taskID, run)
}

// RedriveBy is Redrive for an operator.
func (s *Store) RedriveBy(ctx context.Context, o Operation, taskID string, run int) (Redriven, error) {
	r := Redriven{TaskID: taskID}
	var failed any
	if run != 0 {
		failed = run
	}
	err := s.queryRow(ctx, s.sql.redrive, []any{taskID, failed, o.id(), o.Who}, &r.Run, &r.Balance)
	return r, err
}

// FailAbandoned fails and refunds up to limit tasks whose lease expired after maxLostClaims of their claims in a row had been lost
// before. For the time of afterStart after a start of the server it leaves their owners time to come back. A repeat with the same call id
// returns the first result.
func (s *Store) FailAbandoned(ctx context.Context, maxLostClaims int, afterStart time.Duration, limit int, call uuid.UUID) ([]task.Refund, error) {
	candidates := func() ([]string, error) { return s.queryTexts(ctx, s.sql.abandoned, maxLostClaims, limit) }
	return s.closeBatch(ctx, call, s.sql.failAbandoned, candidates, nil, maxLostClaims, afterStart.Milliseconds(), limit, string(task.CodeWorkerLost),
		fmt.Sprintf("its processor ended or lost the database in %d claims in a row (MAX_LOST_CLAIMS)", maxLostClaims))
}

// FailOverdue fails and refunds up to limit tasks that have been due for longer than after and were not started, the
// oldest first. In the result, Refund.Age is the time since the task was due. Concurrent calls share the work. A repeat with the
// same call id returns the first result.
func (s *Store) FailOverdue(ctx context.Context, after time.Duration, limit int, call uuid.UUID) ([]task.Refund, error) {
	candidates := func() ([]string, error) { return s.queryTexts(ctx, s.sql.overdue, after.Milliseconds(), limit) }
	return s.closeBatch(ctx, call, s.sql.failOverdue, candidates, nil, after.Milliseconds(), limit, string(task.CodePendingTimeout),
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
	// AfterStart is how long after a start of the server nothing is closed, so that the owners of leases can come back.
	AfterStart time.Duration
	Requeue    bool      // return the tasks to the queue instead of failing and refunding them
	CallID     uuid.UUID // of this call, the same for its repeats, which return the first result; zero: a new one
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
	_, user := w.filters()
	candidates := func() ([]string, error) { return s.StuckIDs(ctx, w) }
	return s.closeBatch(ctx, w.CallID, st, candidates, w.Tasks, w.OlderThan.Milliseconds(), w.Limit, string(task.CodeStuck),
		fmt.Sprintf("processing for longer than %s", w.OlderThan), user, w.AfterStart.Milliseconds())
}

// Stuck returns the tasks that Sweep would take, and changes nothing.
func (s *Store) Stuck(ctx context.Context, w Sweep) ([]task.Refund, error) {
	tasks, user := w.filters()
	stuck, _, err := s.queryRefunds(ctx, s.sql.stuck, w.OlderThan.Milliseconds(), w.Limit, tasks, user)
	return stuck, err
}

// StuckIDs returns the ids of the tasks that Sweep would take, user by user.
func (s *Store) StuckIDs(ctx context.Context, w Sweep) ([]string, error) {
	tasks, user := w.filters()
	return s.queryTexts(ctx, s.sql.stuckIDs, w.OlderThan.Milliseconds(), w.Limit, tasks, user)
}

// CountStuck returns how many tasks Sweep would take without a limit.
func (s *Store) CountStuck(ctx context.Context, w Sweep) (int, error) {
	var n int
	tasks, user := w.filters()
	err := s.queryRow(ctx, s.sql.countStuck, []any{w.OlderThan.Milliseconds(), tasks, user}, &n)
	return n, err
}

// closeBatch runs a statement that closes tasks of many users: its last arguments are the only tasks that it may close (nil: all), users to
// leave out, and the id of the call. While it closes nothing because rows of users are locked, it is repeated without these users. A task that
// makes it fail is set aside, and the other candidates are closed.
func (s *Store) closeBatch(ctx context.Context, call uuid.UUID, st statement, candidates func() ([]string, error), tasks []string,
	args ...any) ([]task.Refund, error) {
	refunds, err := s.closeTasks(ctx, newIdentifiedCall(call), st, tasks, args...)
	if err == nil || !isRowError(err) {
		return refunds, err
	}
	ids, listErr := candidates()
	if listErr != nil {
		return nil, listErr
	}
	err = s.eachByItself(ctx, st.String(), ids, err, func(id string) (bool, error) {
		closed, err := s.closeTasks(ctx, newIdentifiedCall(uuid.Nil), st, []string{id}, args...)
		refunds = append(refunds, closed...)
		return len(closed) > 0, err
	})
	if len(refunds) > 0 {
		return refunds, nil
	}
	return nil, err
}

func (s *Store) closeTasks(ctx context.Context, call identifiedCall, st statement, tasks []string, args ...any) ([]task.Refund, error) {
	locked := []string{}
	for {
		refunds, more, err := s.queryRecorded(ctx, call, st, append(slices.Clone(args), pq.Array(tasks), pq.Array(locked))...)
		if err != nil || len(refunds) > 0 || len(more) == 0 {
			return refunds, err
		}
		locked = append(locked, more...)
	}
}

// identifiedCall is a call whose result is recorded under its id.
type identifiedCall struct {
	id uuid.UUID
	// mayRepeat reports that the caller may have made the call before.
	mayRepeat bool
}

// newIdentifiedCall returns the call with that id; uuid.Nil: a new one.
func newIdentifiedCall(id uuid.UUID) identifiedCall {
	if id == uuid.Nil {
		return identifiedCall{id: uuid.New()}
	}
	return identifiedCall{id: id, mayRepeat: true}
}

// queryRecorded runs a statement that records its result under the id of the call, as its last argument. A repeat whose first
// call took effect is rolled back by the primary key of "calls", and returns the recorded result.
func (s *Store) queryRecorded(ctx context.Context, call identifiedCall, st statement, args ...any) (refunds []task.Refund, locked []string, err error) {
	id := call.id.String()
	refunds, locked, lost, err := s.queryRefundsRepeated(ctx, st, append(args, id)...)
	// Where the first call closed all there was, a repeat closes nothing.
	repeated := err == nil && len(refunds) == 0 && (call.mayRepeat || lost)
	if isRecorded(err) {
		repeated, locked = true, nil
	}
	if repeated {
		refunds, _, err = s.queryRefunds(ctx, s.sql.recordedResult, id)
	}
	return refunds, locked, err
}

// isRecorded reports whether a call was rolled back because its result is recorded already.
func isRecorded(err error) bool {
	pqErr := pq.As(err, pqerror.UniqueViolation)
	return pqErr != nil && pqErr.Table == "calls"
}

// queryRefunds runs a statement that returns task, user, credits refunded, balance after it, age in ms, whether a charge is missing, and
// instead of these a user whose row was locked.
func (s *Store) queryRefunds(ctx context.Context, st statement, args ...any) (refunds []task.Refund, locked []string, err error) {
	refunds, locked, _, err = s.queryRefundsRepeated(ctx, st, args...)
	return refunds, locked, err
}

// queryRefundsRepeated is queryRefunds. It reports whether an answer was lost, so that the statement may have taken effect before.
func (s *Store) queryRefundsRepeated(ctx context.Context, st statement, args ...any) (refunds []task.Refund, locked []string, lost bool, err error) {
	lost, err = s.queryRepeated(ctx, s.db, st, func(rows *sql.Rows) error {
		var r task.Refund
		var balance sql.NullInt64
		var lockedUser sql.NullString
		var age int64
		if err := rows.Scan(&r.TaskID, &r.UserID, &r.Credits, &balance, &age, &r.MissingCharge, &lockedUser); err != nil {
			return err
		}
		if lockedUser.Valid {
			locked = append(locked, lockedUser.String)
			return nil
		}
		if balance.Valid {
			r.Balance = &balance.Int64
		}
		r.Age = time.Duration(age) * time.Millisecond
		refunds = append(refunds, r)
		return nil
	}, args...)
	return refunds, locked, lost, err
}
