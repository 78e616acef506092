package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"

	"imagetasks/pkg/task"
)

// Violation is one row that violates a money rule.
type Violation struct {
	UserID string `json:"user_id,omitempty"`
	TaskID string `json:"task_id,omitempty"`
	Detail string `json:"detail"` // in English
}

// Rule is the audit's result for one money rule.
type Rule struct {
	Code       string      `json:"rule"`       // stable, as in sql/audit.sql
	Count      int         `json:"broken"`     // number of rows that violate the rule
	Violations []Violation `json:"violations"` // the first 100 of them
}

// auditTimeout bounds an audit.
const auditTimeout = 10 * time.Minute

// Audit checks every money rule over the whole database, in one read-only snapshot. It reads whole tables.
func (s *Store) Audit(ctx context.Context) (rules []Rule, err error) {
	ctx, cancel := context.WithTimeout(ctx, auditTimeout)
	defer cancel()
	err = s.read(ctx, func(ctx context.Context) (err error) {
		rules, err = s.audit(ctx)
		return err
	})
	return rules, err
}

func (s *Store) audit(ctx context.Context) ([]Rule, error) {
	tx, err := s.db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true})
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(ctx, endWhenIdle); err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	var rules []Rule
	for _, st := range s.sql.audits {
		rule, err := audit(ctx, tx, st)
		if err != nil {
			return nil, fmt.Errorf("audit: %s: %w", st.name, err)
		}
		rules = append(rules, rule)
	}
	return rules, nil
}

func audit(ctx context.Context, tx *sql.Tx, st statement) (Rule, error) {
	rule := Rule{Code: st.name, Violations: []Violation{}}
	rows, err := tx.QueryContext(ctx, st.text())
	if err != nil {
		return rule, err
	}
	defer rows.Close()
	for rows.Next() {
		var v Violation
		if err := rows.Scan(&v.UserID, &v.TaskID, &v.Detail, &rule.Count); err != nil {
			return rule, err
		}
		rule.Violations = append(rule.Violations, v)
	}
	rule.Count = max(rule.Count, len(rule.Violations))
	return rule, rows.Err()
}

// CountViolations returns the number of violations of all rules.
func CountViolations(rules []Rule) int {
	n := 0
	for _, r := range rules {
		n += r.Count
	}
	return n
}

// repairTries bounds how often RepairRefunds is repeated because of concurrent calls.
const repairTries = 20

// RepairRefunds pays up to limit refunds that are owed (rule missing_refund), and returns them. A repeat with the same call id
// returns the first result.
func (s *Store) RepairRefunds(ctx context.Context, limit int, call uuid.UUID) ([]task.Refund, error) {
	identified := newIdentifiedCall(call)
	for try := 1; ; try++ {
		paid, _, err := s.queryRecorded(ctx, identified, s.sql.repairRefunds, limit)
		// Another call has paid one of them since the snapshot of the statement, which was rolled back.
		if pqErr := pq.As(err, pqerror.UniqueViolation); pqErr == nil || pqErr.Constraint != "ledger_once" || try == repairTries {
			return paid, err
		}
	}
}

// OweRefunds puts up to limit refunds of the application's users that are owed (rule missing_refund) and stand in no outbox into the outbox, and
// returns them. The bridge gives them. A repeat finds nothing more.
func (s *Store) OweRefunds(ctx context.Context, limit int) ([]task.Refund, error) {
	owed, _, err := s.queryRefunds(ctx, s.sql.oweRefunds, limit)
	return owed, err
}

// Resolve settles a task that says it was charged and has no charge in the ledger (rule missing_charge): it gives the user credits,
// 0 or more, with an "adjust" entry, and the task no longer says that it was charged. A repeat returns the first result. It returns
// task.ErrWrongState if the task is not such a task.
func (s *Store) Resolve(ctx context.Context, taskID string, credits int64, reason string) (userID string, balance int64, err error) {
	err = s.queryRow(ctx, s.sql.resolve, []any{taskID, credits, reason}, &userID, &balance)
	if errors.Is(err, sql.ErrNoRows) {
		err = s.queryRow(ctx, s.sql.resolved, []any{taskID, credits, reason}, &userID, &balance)
	}
	if errors.Is(err, sql.ErrNoRows) {
		return "", 0, fmt.Errorf("task %q has no missing charge: %w", taskID, task.ErrWrongState)
	}
	return userID, balance, err
}
