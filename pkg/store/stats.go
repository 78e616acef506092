package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"imagetasks/pkg/task"
)

// NextDue returns the time until the first pending task is due or, with takeExpired, the first lease expires, 0 or less if that is now.
// It returns false if there is neither, and while claiming is paused.
func (s *Store) NextDue(ctx context.Context, takeExpired bool) (time.Duration, bool, error) {
	var ms int64
	err := s.queryRow(ctx, s.sql.nextDue, []any{takeExpired}, &ms)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, false, nil
	}
	return time.Duration(ms) * time.Millisecond, err == nil, err
}

// HasPending reports whether any task is pending, including tasks that wait for a retry, or has an expired lease. Tasks that are set aside do
// not count.
func (s *Store) HasPending(ctx context.Context) (bool, error) {
	var pending bool
	err := s.queryRow(ctx, s.sql.hasPending, nil, &pending)
	return pending, err
}

// HasPendingFor is HasPending without tasks that none of the endpoints can be chosen for now: those of models that each of them that has the model
// skips, or has a Max of 0 for.
func (s *Store) HasPendingFor(ctx context.Context, endpoints []ClaimEndpoint) (bool, error) {
	type free struct {
		ClaimEndpoint
		Free int `json:"free"`
	}
	list := make([]free, len(endpoints))
	for i, e := range endpoints {
		list[i] = free{e, 1}
		if e.Max != nil {
			list[i].Free = *e.Max
		}
	}
	text, err := json.Marshal(list)
	if err != nil {
		return false, fmt.Errorf("look for pending tasks: %w", err)
	}
	var pending bool
	err = s.queryRow(ctx, s.sql.hasPendingFor, []any{string(text)}, &pending)
	return pending, err
}

// QueueStats counts the tasks that are not closed.
type QueueStats struct {
	Pending    int           `json:"pending"`
	Due        int           `json:"due"`                // of these, tasks whose time has come
	Held       int           `json:"held"`               // of these, tasks that wait for others of their user (USER_CONCURRENCY)
	OutOfOrder int           `json:"model_out_of_order"` // of these, tasks that wait because their model is out of order
	OldestDue  time.Duration `json:"-"`                  // the longest time that one of them has been due
	Processing int           `json:"processing"`
	Stuck      int           `json:"stuck"`
	// Unfetched counts the pictures that the API made more than a minute ago, and that could not be fetched yet.
	Unfetched       int           `json:"pictures_not_fetched"`
	UnfetchedFor    time.Duration `json:"-"` // since the first of them was made
	UnfetchedReason string        `json:"-"` // why it could not be fetched when that was tried last
	UnfetchedCode   task.Code     `json:"-"` // of this error; CodePictureStore: it was fetched, and can't be uploaded
}

// QueueStats returns the state of the queue. A task is stuck if it has been processing for longer than stuckAfter.
func (s *Store) QueueStats(ctx context.Context, stuckAfter time.Duration) (QueueStats, error) {
	var q QueueStats
	var oldest, unfetched int64
	err := s.queryRow(ctx, s.sql.queueStats, []any{stuckAfter.Milliseconds()},
		&q.Pending, &q.Due, &q.Held, &q.OutOfOrder, &oldest, &q.Processing, &q.Stuck, &q.Unfetched, &unfetched, &q.UnfetchedReason, &q.UnfetchedCode)
	q.OldestDue, q.UnfetchedFor = time.Duration(oldest)*time.Millisecond, time.Duration(unfetched)*time.Millisecond
	return q, err
}

// CountByState returns the number of tasks in each state. Every state is present.
func (s *Store) CountByState(ctx context.Context) (map[task.State]int, error) {
	counts := map[task.State]int{}
	for _, state := range task.States() {
		counts[state] = 0
	}
	err := s.query(ctx, s.sql.countByState, func(rows *sql.Rows) error {
		var state task.State
		var n int
		err := rows.Scan(&state, &n)
		counts[state] = n
		return err
	})
	return counts, err
}

// ClosedStats are the tasks that were closed in one state, with the time from the last claim to the close.
type ClosedStats struct {
	Count  int           `json:"count"`
	Median time.Duration `json:"-"`
	P95    time.Duration `json:"-"`
}

// ClosedWithin returns the tasks closed within the last window, by state. States without such tasks are missing.
func (s *Store) ClosedWithin(ctx context.Context, window time.Duration) (map[task.State]ClosedStats, error) {
	out := map[task.State]ClosedStats{}
	err := s.query(ctx, s.sql.closedWithin, func(rows *sql.Rows) error {
		var state task.State
		var c ClosedStats
		var median, p95 int64
		err := rows.Scan(&state, &c.Count, &median, &p95)
		c.Median, c.P95 = time.Duration(median)*time.Millisecond, time.Duration(p95)*time.Millisecond
		out[state] = c
		return err
	}, window.Milliseconds())
	return out, err
}

// FailureCount is the number of tasks that failed with one error code.
type FailureCount struct {
	Code  task.Code `json:"error_code"`
	Count int       `json:"count"`
}

// FailuresWithin returns the tasks that failed within the last window, by error code, the most frequent first; at most 20
// codes.
func (s *Store) FailuresWithin(ctx context.Context, window time.Duration) ([]FailureCount, error) {
	var out []FailureCount
	err := s.query(ctx, s.sql.failuresWithin, func(rows *sql.Rows) error {
		var f FailureCount
		err := rows.Scan(&f.Code, &f.Count)
		out = append(out, f)
		return err
	}, window.Milliseconds())
	return out, err
}

// RefundsToday returns the number of refunds since midnight in the database's time zone, and their credits.
func (s *Store) RefundsToday(ctx context.Context) (count int, credits int64, err error) {
	err = s.queryRow(ctx, s.sql.refundsToday, nil, &count, &credits)
	return count, credits, err
}
