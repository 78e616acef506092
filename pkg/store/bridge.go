package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/lib/pq"
)

// BridgeSync is what one call of SyncBridge did.
type BridgeSync struct {
	Active     bool `json:"active"`     // there is a bridge
	Taken      int  `json:"taken"`      // tasks that were taken over
	Superseded int  `json:"superseded"` // tasks that were closed because the application had closed or deleted their row
	Balances   int  `json:"balances"`   // changes of balances
	Failed     int  `json:"failed"`
	More       bool `json:"more"`   // more is waiting
	Missed     bool `json:"missed"` // something was not noted: ReconcileBridge is due
}

// SyncBridge takes up to limit changes of balances and limit rows that the application has inserted or changed. Of concurrent calls one
// works, and the others return at once. A call may be repeated.
func (s *Store) SyncBridge(ctx context.Context, limit int) (BridgeSync, error) {
	var done BridgeSync
	var text []byte
	if err := s.queryRow(ctx, s.sql.bridgeSync, []any{limit}, &text); err != nil {
		return done, err
	}
	if err := json.Unmarshal(text, &done); err != nil {
		return done, fmt.Errorf("bridge sync: %w", err)
	}
	return done, nil
}

// BridgeDue returns up to limit tasks whose end is to be written to the application's tables now. Without a bridge there are none.
func (s *Store) BridgeDue(ctx context.Context, limit int) ([]string, error) {
	return s.queryTexts(ctx, s.sql.bridgeDue, limit)
}

// Results of ApplyToBridge.
const (
	BridgeApplied    = "applied"
	BridgeSuperseded = "superseded" // the application had closed or deleted the row; it stays as it is
	BridgeWaiting    = "waiting"    // a part failed, and is tried again later
	BridgeBusy       = "busy"       // a row is locked; nothing was changed
	BridgeNone       = "none"       // there is nothing to write
)

// BridgeApply is the result of one call of ApplyToBridge.
type BridgeApply struct {
	Result   string
	Reason   string // without values of the row
	Refunded int64  // credits that this call gave back
}

// ApplyToBridge writes the end of a task to the application's tables, with its refund, at most once. A call may be repeated.
func (s *Store) ApplyToBridge(ctx context.Context, taskID string) (BridgeApply, error) {
	var a BridgeApply
	err := s.queryRow(ctx, s.sql.bridgeApply, []any{taskID}, &a.Result, &a.Reason, &a.Refunded)
	return a, err
}

// BridgeProgress is the progress of one leased task.
type BridgeProgress struct {
	TaskID  string
	Epoch   int64
	Percent int
	Stage   string
}

// WriteBridgeProgress writes progress to the application's rows and returns the tasks for which that is to be tried again: the application holds their rows.
// Tasks that are not of the application or not leased any more are left out. The rows stay locked until the call ends: pass at most about 20.
func (s *Store) WriteBridgeProgress(ctx context.Context, progress ...BridgeProgress) ([]string, error) {
	ids, epochs := make([]string, len(progress)), make([]int64, len(progress))
	percents, stages := make([]int64, len(progress)), make([]string, len(progress))
	for i, p := range progress {
		ids[i], epochs[i], percents[i], stages[i] = p.TaskID, p.Epoch, int64(p.Percent), p.Stage
	}
	var later []string
	err := s.queryRow(ctx, s.sql.bridgeProgress, []any{pq.Array(ids), pq.Array(epochs), pq.Array(percents), pq.Array(stages)}, pq.Array(&later))
	return later, err
}

// ReconcileBridge compares the live tasks of both sides, notes in the inbox what differs, and returns how much that is. It reads all live rows of the
// application.
func (s *Store) ReconcileBridge(ctx context.Context) (int, error) {
	var noted int
	err := s.queryRow(ctx, s.sql.bridgeReconcile, nil, &noted)
	return noted, err
}

// BridgeState says what waits in the bridge. Exists is false where there is none.
type BridgeState struct {
	Exists      bool
	Active      bool
	AppliedAt   time.Time
	CheckedAt   time.Time // of the last ReconcileBridge; zero: never
	Inbox       int       // changes that were not read yet
	InboxAge    time.Duration
	Owed        int           // tasks whose end is not written to the application's tables yet
	Failing     int           // of Owed
	OwedAge     time.Duration // of the oldest that does not fail
	Failures    int           // rows that could not be taken over, and other failures
	LostUpdates int           // suspected within a week
}

// Bridge returns the state of the bridge.
func (s *Store) Bridge(ctx context.Context) (BridgeState, error) {
	var b BridgeState
	var checked sql.NullTime
	var inboxAge, owedAge int64
	err := s.queryRow(ctx, s.sql.bridgeState, nil, &b.Active, &b.AppliedAt, &checked, &b.Inbox, &inboxAge, &b.Owed, &b.Failing, &owedAge, &b.Failures, &b.LostUpdates)
	if errors.Is(err, sql.ErrNoRows) {
		return BridgeState{}, nil
	}
	b.Exists, b.CheckedAt = err == nil, checked.Time
	b.InboxAge, b.OwedAge = time.Duration(inboxAge)*time.Millisecond, time.Duration(owedAge)*time.Millisecond
	return b, err
}

// BridgeProblem is something that the bridge could not do and tries again.
type BridgeProblem struct {
	Part      string    `json:"part"` // take, balance, progress, triggers, bridge (all of it), close, refund or history
	Key       string    `json:"key"`  // of the task or user; may be empty
	Code      string    `json:"code"` // SQLSTATE
	Reason    string    `json:"reason"`
	Tries     int       `json:"tries"`
	Since     time.Time `json:"since"`
	NextTryAt time.Time `json:"next_try_at"`
}

// BridgeProblems returns up to limit problems, the oldest first.
func (s *Store) BridgeProblems(ctx context.Context, limit int) ([]BridgeProblem, error) {
	var out []BridgeProblem
	err := s.query(ctx, s.sql.bridgeProblems, func(rows *sql.Rows) error {
		var p BridgeProblem
		err := rows.Scan(&p.Part, &p.Key, &p.Code, &p.Reason, &p.Tries, &p.Since, &p.NextTryAt)
		out = append(out, p)
		return err
	}, limit)
	return out, err
}

// BridgeDifference is something that differs between the application's tables and ours.
type BridgeDifference struct {
	Code    string `json:"code"`    // incomplete, not_applied, failing, not_read, not_taken, not_live, balance_differs, state_differs, refund_not_shown, lost_update
	Subject string `json:"subject"` // the task or user
	Detail  string `json:"detail"`
	ID      int64  `json:"id,omitempty"` // of a lost update, for AcknowledgeLostUpdates
}

// CheckBridge compares both sides. It reads all live rows of the application, and the latest closed ones.
func (s *Store) CheckBridge(ctx context.Context) ([]BridgeDifference, error) {
	var out []BridgeDifference
	err := s.query(ctx, s.sql.bridgeCheck, func(rows *sql.Rows) error {
		var d BridgeDifference
		err := rows.Scan(&d.Code, &d.Subject, &d.Detail, &d.ID)
		out = append(out, d)
		return err
	})
	return out, err
}

// AcknowledgeLostUpdates marks suspected lost updates as seen by an operator: they are not reported any more. A call may be repeated.
func (s *Store) AcknowledgeLostUpdates(ctx context.Context, ids ...int64) error {
	_, err := s.queryTexts(ctx, s.sql.acknowledgeLostUpdates, pq.Array(ids))
	return err
}
