package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"github.com/lib/pq"

	"imagetasks/pkg/task"
)

const (
	// figuresSettle is how long after its end a minute is recorded: transactions that are in progress then have this long to commit.
	figuresSettle = 10 * time.Second
	// keepFigures is how long the figures of a minute are kept.
	keepFigures = 15 * 24 * time.Hour
	// shownExamples is how many ids of tasks are returned for each cause of a failure.
	shownExamples = 3
)

// RecordFigures records the figures of the minutes that have ended and are not recorded yet, at most of the time back, and deletes old ones. Whoever
// comes first records a minute. It returns the end of the last one that is recorded.
func (s *Store) RecordFigures(ctx context.Context, back time.Duration) (time.Time, error) {
	var from, to time.Time
	err := s.queryRow(ctx, s.sql.figuresBounds, []any{figuresSettle.Milliseconds(), back.Milliseconds()}, &from, &to)
	if err != nil || !from.Before(to) {
		return from, err
	}
	_, err = s.queryTexts(ctx, s.sql.recordFigures, from, to, keepFigures.Milliseconds())
	return to, err
}

// Figures are those of a minute, or of several. nil: not known.
type Figures struct {
	At                time.Time // when it began
	Arrived           int64
	Completed         int64
	Failed            int64
	Cancelled         int64
	Charged, Refunded int64 // credits
	P50, P95          *time.Duration
	// At the end: tasks that were due, tasks that were processing, and how long the oldest of the due ones had been.
	Due, Processing *int64
	OldestDue       *time.Duration
}

// Figures returns the figures of the last window, in steps of whole minutes. Steps of which nothing was recorded are missing.
func (s *Store) Figures(ctx context.Context, window, step time.Duration) ([]Figures, error) {
	var out []Figures
	err := s.query(ctx, s.sql.figures, func(rows *sql.Rows) error {
		var f Figures
		var p50, p95, due, processing, oldest sql.NullInt64
		err := rows.Scan(&f.At, &f.Arrived, &f.Completed, &f.Failed, &f.Cancelled, &f.Charged, &f.Refunded, &p50, &p95, &due, &processing, &oldest)
		f.P50, f.P95, f.OldestDue = optionalTime(p50), optionalTime(p95), optionalTime(oldest)
		if due.Valid {
			f.Due, f.Processing = &due.Int64, &processing.Int64
		}
		out = append(out, f)
		return err
	}, window.Milliseconds(), step.Milliseconds())
	return out, err
}

// optionalTime returns a time in ms.
func optionalTime(ms sql.NullInt64) *time.Duration {
	if !ms.Valid {
		return nil
	}
	d := time.Duration(ms.Int64) * time.Millisecond
	return &d
}

// ClosedFigures are the figures of tasks that were closed, as far as they are recorded.
type ClosedFigures struct {
	Minutes                      int // that are recorded
	Completed, Failed, Cancelled int
	From, To                     time.Time // To is the end of the last minute that is recorded; From where none is
	// LastFrom is a time from which on a number of tasks were closed.
	LastFrom time.Time
	Now      time.Time // by the database's clock
}

// Complete reports whether every minute is recorded.
func (c ClosedFigures) Complete() bool { return c.Minutes == int(c.To.Sub(c.From)/time.Minute) }

// ClosedFigures returns the figures of the last window. Of all time since LastFrom, at least last tasks were closed, if there are so many.
func (s *Store) ClosedFigures(ctx context.Context, window time.Duration, last int) (ClosedFigures, error) {
	return s.closedFigures(ctx, nil, window, last, nil)
}

// ClosedFiguresBetween is ClosedFigures for the time between two times; a zero to is now.
func (s *Store) ClosedFiguresBetween(ctx context.Context, from, to time.Time) (ClosedFigures, error) {
	return s.closedFigures(ctx, from, 0, 0, nullableTime(to))
}

func (s *Store) closedFigures(ctx context.Context, from any, window time.Duration, last int, to any) (ClosedFigures, error) {
	var c ClosedFigures
	err := s.queryRow(ctx, s.sql.closedFigures, []any{from, window.Milliseconds(), last, to}, &c.Minutes, &c.Completed, &c.Failed, &c.Cancelled, &c.To, &c.LastFrom, &c.From, &c.Now)
	return c, err
}

// FailureGroup is what tasks failed for.
type FailureGroup struct {
	Code  task.Code
	Count int
	Tasks []string // the last ones, the latest first; at most 3 of one minute or of the rest
}

// FailureFigures returns the tasks that failed since then, as far as they are recorded, by cause.
func (s *Store) FailureFigures(ctx context.Context, since time.Time) ([]FailureGroup, error) {
	var out []FailureGroup
	err := s.query(ctx, s.sql.failureFigures, func(rows *sql.Rows) error {
		var g FailureGroup
		var text []byte
		var minutes [][]string
		if err := rows.Scan(&g.Code, &g.Count, &text); err != nil {
			return err
		}
		if err := json.Unmarshal(text, &minutes); err != nil {
			return fmt.Errorf("tasks %q: %w", text, err)
		}
		for _, ids := range minutes {
			g.Tasks = append(g.Tasks, ids...)
		}
		g.Tasks = g.Tasks[:min(len(g.Tasks), shownExamples)]
		out = append(out, g)
		return nil
	}, since)
	return out, err
}

// ClosedGroup are tasks that were closed in one state.
type ClosedGroup struct {
	State task.State
	FailureGroup
}

// ClosedSince returns the tasks that were closed since then, by state and cause. Its cost is that of their number.
func (s *Store) ClosedSince(ctx context.Context, since time.Time) ([]ClosedGroup, error) {
	var out []ClosedGroup
	err := s.query(ctx, s.sql.closedSince, func(rows *sql.Rows) error {
		var g ClosedGroup
		var ids []byte
		if err := rows.Scan(&g.State, &g.Code, &g.Count, &ids); err != nil {
			return err
		}
		out = append(out, g)
		return json.Unmarshal(ids, &out[len(out)-1].Tasks)
	}, since, shownExamples)
	return out, err
}

// ClosedBetween counts the tasks that completed, failed and were cancelled from then on, and before to. Its cost is that of their number.
func (s *Store) ClosedBetween(ctx context.Context, from, to time.Time) (completed, failed, cancelled int, err error) {
	err = s.queryRow(ctx, s.sql.closedBetween, []any{from, to}, &completed, &failed, &cancelled)
	return completed, failed, cancelled, err
}

// Booked is what was charged, refunded and paid.
type Booked struct {
	Charged, Refunded int64 // credits
	Costs             []Cost
}

// BookedBetween returns what was booked from then on, and before to. Its cost is that of the number of tasks.
func (s *Store) BookedBetween(ctx context.Context, from, to time.Time) (Booked, error) {
	var b Booked
	var costs []byte
	err := s.queryRow(ctx, s.sql.bookedBetween, []any{from, to}, &b.Charged, &b.Refunded, &costs)
	if err == nil {
		b.Costs, err = costsOf(costs)
	}
	return b, err
}

// ClosedTask is a task that was closed.
type ClosedTask struct {
	ID, UserID string
	State      task.State
	Model      string
	ErrorCode  task.Code
	Took       time.Duration // since the last claim; 0: it was not claimed
	At         time.Time
	HasPicture bool
}

// RecentlyClosed returns the last tasks that were closed since then, the latest first. Its cost is that of the number of all that were.
func (s *Store) RecentlyClosed(ctx context.Context, since time.Time, limit int) ([]ClosedTask, error) {
	var out []ClosedTask
	err := s.query(ctx, s.sql.recentClosed, func(rows *sql.Rows) error {
		var t ClosedTask
		var took int64
		err := rows.Scan(&t.ID, &t.UserID, &t.State, &t.Model, &t.ErrorCode, &took, &t.At, &t.HasPicture)
		t.Took = time.Duration(took) * time.Millisecond
		out = append(out, t)
		return err
	}, since, limit)
	return out, err
}

// FoundTask is a task that was searched for.
type FoundTask struct {
	ID, UserID         string
	State              task.State
	Run                int
	Model, Endpoint    string
	CreatedAt          time.Time
	ClosedAt           time.Time // zero: it is not closed
	ErrorCode          task.Code
	Error              string
	Cost, RefundedCost int64
}

// FindTasks returns tasks by their ids, those that exist, the newest first.
func (s *Store) FindTasks(ctx context.Context, ids []string) ([]FoundTask, error) {
	return s.findTasks(ctx, s.sql.findIDs, pq.Array(ids))
}

// FindTasksByPrefix returns tasks whose id is a UUID that begins so, the newest first.
func (s *Store) FindTasksByPrefix(ctx context.Context, prefix string, limit int) ([]FoundTask, error) {
	const first, last = "00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"
	if len(prefix) > len(first) {
		return nil, nil
	}
	return s.findTasks(ctx, s.sql.findPrefix, prefix+first[len(prefix):], prefix+last[len(prefix):], prefix, limit)
}

// FindTasksByUser returns the tasks of a user, the newest first.
func (s *Store) FindTasksByUser(ctx context.Context, user string, limit int) ([]FoundTask, error) {
	return s.findTasks(ctx, s.sql.findUser, user, limit)
}

// FailedTasks returns the ids of tasks that failed with an error code, the latest first, as far as they are recorded: at most 10 of each minute.
func (s *Store) FailedTasks(ctx context.Context, code string, limit int) ([]string, error) {
	return s.queryTexts(ctx, s.sql.failedIDs, code, limit)
}

func (s *Store) findTasks(ctx context.Context, st statement, args ...any) ([]FoundTask, error) {
	var out []FoundTask
	err := s.query(ctx, st, func(rows *sql.Rows) error {
		var t FoundTask
		var closed sql.NullTime
		err := rows.Scan(&t.ID, &t.UserID, &t.State, &t.Run, &t.Model, &t.Endpoint, &t.CreatedAt, &closed, &t.ErrorCode, &t.Error, &t.Cost, &t.RefundedCost)
		t.ClosedAt = closed.Time
		out = append(out, t)
		return err
	}, args...)
	return out, err
}
