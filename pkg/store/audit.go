package store

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
)

// Violation is one row that breaks a money rule.
type Violation struct {
	UserID string `json:"user_id,omitempty"`
	TaskID string `json:"task_id,omitempty"`
	Detail string `json:"detail"`
}

// Rule is the audit's verdict on one rule.
type Rule struct {
	Name       string      `json:"rule"`
	Count      int         `json:"broken"`     // how many rows break it
	Violations []Violation `json:"violations"` // the first 100 of them
}

// Audit tests every money rule over the whole database, in one read-only snapshot.
func (s *Store) Audit(ctx context.Context) ([]Rule, error) {
	tx, err := s.db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true})
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	defer tx.Rollback()
	var rules []Rule
	for _, name := range s.sql.audits {
		rule, err := audit(ctx, tx, strings.TrimPrefix(name, "audit: "), s.sql.byName[name])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		rules = append(rules, rule)
	}
	return rules, nil
}

func audit(ctx context.Context, tx *sql.Tx, name, statement string) (Rule, error) {
	rule := Rule{Name: name, Violations: []Violation{}}
	rows, err := tx.QueryContext(ctx, statement)
	if err != nil {
		return rule, err
	}
	defer rows.Close()
	for rows.Next() {
		var f Violation
		if err := rows.Scan(&f.UserID, &f.TaskID, &f.Detail, &rule.Count); err != nil {
			return rule, err
		}
		rule.Violations = append(rule.Violations, f)
	}
	rule.Count = max(rule.Count, len(rule.Violations))
	return rule, rows.Err()
}

// CountViolations returns how many rows break any of the rules.
func CountViolations(rules []Rule) int {
	n := 0
	for _, r := range rules {
		n += r.Count
	}
	return n
}
