package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"imagetasks/pkg/task"
)

// GrantCredits adds credits, 1 or more, to a user's balance and returns the new balance.
func (s *Store) GrantCredits(ctx context.Context, userID string, credits int, reason string) (int, error) {
	if credits < 1 {
		return 0, fmt.Errorf("grant %d credits: must be 1 or more", credits)
	}
	var balance int
	err := s.queryRow(ctx, s.sql.grantCredits, []any{userID, credits, reason}, &balance)
	return balance, err
}

// Balance returns a user's credits, or task.ErrNotFound for a user without a balance.
func (s *Store) Balance(ctx context.Context, userID string) (int, error) {
	var credits int
	err := s.queryRow(ctx, s.sql.balance, []any{userID}, &credits)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, fmt.Errorf("user %s: %w", userID, task.ErrNotFound)
	}
	return credits, err
}

// LedgerEntry is one row of the ledger.
type LedgerEntry struct {
	Kind         string    `json:"kind"`
	Amount       int       `json:"amount"` // signed: the change of the balance
	BalanceAfter int       `json:"balance_after"`
	TaskID       string    `json:"task_id,omitempty"`
	Reason       string    `json:"reason"`
	CreatedAt    time.Time `json:"created_at"`
}

// Ledger returns up to limit ledger entries of a user, the newest first.
func (s *Store) Ledger(ctx context.Context, userID string, limit int) ([]LedgerEntry, error) {
	var out []LedgerEntry
	err := s.query(ctx, s.sql.ledger, func(rows *sql.Rows) error {
		var e LedgerEntry
		err := rows.Scan(&e.Kind, &e.Amount, &e.BalanceAfter, &e.TaskID, &e.Reason, &e.CreatedAt)
		out = append(out, e)
		return err
	}, userID, limit)
	return out, err
}
