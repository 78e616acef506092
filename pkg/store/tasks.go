package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/lib/pq"

	"imagetasks/pkg/task"
)

// TaskRow is a task as stored in the database, without its prompt and input pictures.
type TaskRow struct {
	ID            string     `json:"task_id"`
	Run           int        `json:"run"`
	UserID        string     `json:"user_id"`
	State         task.State `json:"status"`
	Priority      int        `json:"priority"`
	Cost          int64      `json:"credits_cost"`
	Deducted      int64      `json:"credits_deducted"` // of this run
	Refunded      int64      `json:"credits_refunded"` // of this run
	Attempts      int        `json:"attempt_count"`
	RequestsSent  int        `json:"requests_sent"`    // paid requests of this run
	Unknown       int        `json:"unknown_outcomes"` // of them, those without a whole answer of the API
	LostClaims    int        `json:"lost_claims"`      // in a row
	Epoch         int64      `json:"lease_epoch"`
	LeasedBy      string     `json:"leased_by,omitempty"`
	Progress      int        `json:"progress_percentage"`
	Stage         string     `json:"current_stage,omitempty"`
	ImageURL      string     `json:"image_url,omitempty"`
	ErrorCode     task.Code  `json:"error_code,omitempty"`
	Error         string     `json:"error_message,omitempty"`
	RequestID     string     `json:"request_id,omitempty"`
	WaitsFor      string     `json:"waits_for,omitempty"` // of a pending task: time, user, model, or empty: it may be claimed
	CreatedAt     time.Time  `json:"created_at"`
	RunAfter      time.Time  `json:"run_after"`
	StartedAt     time.Time  `json:"processing_started_at,omitzero"`
	ClosedAt      time.Time  `json:"completed_at,omitzero"`
	MissingCharge bool       `json:"missing_charge,omitempty"` // it says that it was charged, and the ledger has no charge
	// BridgeState is how far a task of an application follows its row in the application's table: live, owed, applied or superseded. Empty: it is a
	// task of ours alone.
	BridgeState string `json:"bridge_state,omitempty"`
}

func (r *TaskRow) scan(scan func(...any) error) error {
	var started, closed sql.NullTime
	err := scan(&r.ID, &r.Run, &r.UserID, &r.State, &r.Priority, &r.Cost, &r.Deducted, &r.Refunded, &r.Attempts, &r.RequestsSent,
		&r.Unknown, &r.LostClaims, &r.Epoch, &r.LeasedBy, &r.Progress, &r.Stage, &r.ImageURL, &r.ErrorCode, &r.Error, &r.RequestID, &r.WaitsFor,
		&r.CreatedAt, &r.RunAfter, &started, &closed, &r.MissingCharge, &r.BridgeState)
	r.StartedAt, r.ClosedAt = started.Time, closed.Time
	return err
}

// Task returns one task, or task.ErrNotFound.
func (s *Store) Task(ctx context.Context, id string) (TaskRow, error) {
	var r TaskRow
	err := r.scan(func(dest ...any) error { return s.queryRow(ctx, s.sql.task, []any{id}, dest...) })
	if errors.Is(err, sql.ErrNoRows) {
		return r, fmt.Errorf("task %q: %w", id, task.ErrNotFound)
	}
	return r, err
}

// TaskFilter selects tasks. Zero values select all.
type TaskFilter struct {
	States    []task.State
	UserID    string
	ErrorCode string
	OlderThan time.Duration // created at least so long ago
	NewerThan time.Duration // created at most so long ago
	Limit     int
}

// ListTasks returns up to f.Limit tasks, the newest first.
func (s *Store) ListTasks(ctx context.Context, f TaskFilter) ([]TaskRow, error) {
	var states any
	if f.States != nil {
		names := make([]string, len(f.States))
		for i, state := range f.States {
			names[i] = string(state)
		}
		states = pq.Array(names)
	}
	age := func(d time.Duration) any {
		if d == 0 {
			return nil
		}
		return d.Milliseconds()
	}
	var out []TaskRow
	err := s.query(ctx, s.sql.listTasks, func(rows *sql.Rows) error {
		var r TaskRow
		err := r.scan(rows.Scan)
		out = append(out, r)
		return err
	}, states, nullable(f.UserID), nullable(f.ErrorCode), age(f.OlderThan), age(f.NewerThan), f.Limit)
	return out, err
}

// Outcome is how one claim of a task ended.
type Outcome struct {
	Run       int       `json:"run"`
	Attempt   int       `json:"attempt"`
	Outcome   string    `json:"outcome"` // completed, retry, release, failed, requeued
	At        time.Time `json:"at"`
	Seconds   float64   `json:"seconds"` // since the claim
	Code      string    `json:"code,omitempty"`
	Message   string    `json:"message,omitempty"`
	RequestID string    `json:"request_id,omitempty"`
	Endpoint  string    `json:"endpoint,omitempty"`
	Note      string    `json:"note,omitempty"` // what differs from what was asked for
}

// StoredInput is an input picture without its content.
type StoredInput struct {
	Position int    `json:"position"`
	Mask     bool   `json:"mask"`
	Bytes    int    `json:"bytes,omitempty"`
	URL      string `json:"url,omitempty"`
}

// TaskDetails is all that is known of a task.
type TaskDetails struct {
	TaskRow
	Prompt              string          `json:"prompt,omitempty"`
	Options             json.RawMessage `json:"options"`
	Model               string          `json:"model,omitempty"`
	Endpoint            string          `json:"endpoint,omitempty"`     // that the last claim chose
	MaxAttempts         int             `json:"max_attempts,omitempty"` // 0: the processor's
	Outcomes            []Outcome       `json:"attempts"`               // the oldest first
	Inputs              []StoredInput   `json:"inputs"`                 // those that are still stored
	InputCount          int             `json:"input_count"`
	Forgotten           bool            `json:"forgotten,omitempty"`
	PendingSince        time.Time       `json:"pending_since,omitzero"` // the picture is made and still has to be fetched
	Gone                int             `json:"gone,omitempty"`         // how often its host responded that it does not have it
	SetAside            string          `json:"set_aside,omitempty"`    // why the database refuses to change it
	QueuePosition       int             `json:"queue_position,omitempty"`
	ExpectedWaitSeconds float64         `json:"expected_wait_seconds,omitempty"`
	Results             []TaskResult    `json:"results"` // what the API made, by run
	Ledger              []LedgerEntry   `json:"ledger"`  // the oldest first
}

// TaskDetails returns all that is known of a task, or task.ErrNotFound.
func (s *Store) TaskDetails(ctx context.Context, id string) (TaskDetails, error) {
	row, err := s.Task(ctx, id)
	if err != nil {
		return TaskDetails{}, err
	}
	t := TaskDetails{TaskRow: row, Outcomes: []Outcome{}, Inputs: []StoredInput{}, Ledger: []LedgerEntry{}}
	var outcomes, inputs []byte
	var position sql.NullInt64
	var wait sql.NullFloat64
	var saved sql.NullTime
	err = s.queryRow(ctx, s.sql.taskDetails, []any{id}, &t.Prompt, &t.Options, &t.Model, &t.Endpoint, &t.MaxAttempts, &outcomes, &t.InputCount,
		&t.Forgotten, &inputs, &position, &wait, &t.SetAside, &saved, &t.Gone)
	if err != nil {
		return t, err
	}
	t.PendingSince = saved.Time
	t.QueuePosition, t.ExpectedWaitSeconds = int(position.Int64), wait.Float64
	var each []json.RawMessage
	if err := errors.Join(json.Unmarshal(outcomes, &each), json.Unmarshal(inputs, &t.Inputs)); err != nil {
		return t, fmt.Errorf("task %q: %w", id, err)
	}
	for _, text := range each {
		var o Outcome
		if json.Unmarshal(text, &o) != nil { // somebody else wrote it
			o = Outcome{Outcome: "unknown", Message: string(text)}
		}
		t.Outcomes = append(t.Outcomes, o)
	}
	ledger, err := s.queryLedger(ctx, s.sql.taskLedger, id)
	if err != nil {
		return t, err
	}
	t.Ledger = append(t.Ledger, ledger...)
	t.Results, err = s.taskResults(ctx, id)
	return t, err
}

// DeleteUserContent deletes the prompts, options and input pictures of a user's tasks, and cancels and refunds those that are not closed. It
// returns all tasks of the user that were forgotten, now or by an earlier call, so that a repeat can delete their pictures, too.
// The ledger stays.
func (s *Store) DeleteUserContent(ctx context.Context, userID string) (cancelled []Cancelled, forgotten []string, err error) {
	live, err := s.queryTexts(ctx, s.sql.liveTasksOf, userID)
	if err != nil {
		return nil, nil, err
	}
	for _, id := range live {
		c, err := s.Cancel(ctx, id, "")
		if err != nil {
			return cancelled, nil, err
		}
		cancelled = append(cancelled, c)
	}
	if _, err := s.queryTexts(ctx, s.sql.forget, userID); err != nil {
		return cancelled, nil, err
	}
	forgotten, err = s.queryTexts(ctx, s.sql.forgotten, userID)
	return cancelled, forgotten, err
}

// Unsettled are failed and cancelled tasks that say they were charged and not refunded.
type Unsettled struct {
	MissingCharges []string // the ledger has no charge (Resolve)
	OwedRefunds    []string // the ledger has one, and no refund (RepairRefunds)
}

// Unsettled returns such tasks that were closed within the last window, at most limit of them.
func (s *Store) Unsettled(ctx context.Context, window time.Duration, limit int) (Unsettled, error) {
	var u Unsettled
	err := s.query(ctx, s.sql.unsettled, func(rows *sql.Rows) error {
		var id string
		var charged bool
		err := rows.Scan(&id, &charged)
		if charged {
			u.OwedRefunds = append(u.OwedRefunds, id)
		} else {
			u.MissingCharges = append(u.MissingCharges, id)
		}
		return err
	}, window.Milliseconds(), limit)
	return u, err
}
