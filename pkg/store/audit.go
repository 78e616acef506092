package store

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
)

// Finding is one row that breaks a money rule.
type Finding struct {
	UserID string `json:"user_id,omitempty"`
	TaskID string `json:"task_id,omitempty"`
	Detail string `json:"detail"`
}

// Rule is the audit's verdict on one rule.
type Rule struct {
	Name     string    `json:"rule"`
	Broken   int       `json:"broken"`   // how many rows break it
	Findings []Finding `json:"findings"` // the first 100 of them
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
	rule := Rule{Name: name, Findings: []Finding{}}
	rows, err := tx.QueryContext(ctx, statement)
	if err != nil {
		return rule, err
	}
	defer rows.Close()
	for rows.Next() {
		var f Finding
		if err := rows.Scan(&f.UserID, &f.TaskID, &f.Detail, &rule.Broken); err != nil {
			return rule, err
		}
		rule.Findings = append(rule.Findings, f)
	}
	rule.Broken = max(rule.Broken, len(rule.Findings))
	return rule, rows.Err()
}

// Broken returns how many rows break any of the rules.
func Broken(rules []Rule) int {
	n := 0
	for _, r := range rules {
		n += r.Broken
	}
	return n
}
