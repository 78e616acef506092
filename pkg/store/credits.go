package store

import (
	"context"
	"database/sql"
	"time"
)

// GrantCredits adds credits, 1 to MaxCost, to a user's balance and returns it. The key is required and kept for ever: a repeat
// returns the first result. Its errors wrap task.ErrInvalid, task.ErrKeyReused or task.ErrBalanceLimit.
func (s *Store) GrantCredits(ctx context.Context, userID string, credits int64, reason, key string) (int64, error) {
	return s.GrantCreditsBy(ctx, Operation{}, userID, credits, reason, key)
}

// GrantCreditsBy is GrantCredits for an operator.
func (s *Store) GrantCreditsBy(ctx context.Context, o Operation, userID string, credits int64, reason, key string) (int64, error) {
	var balance int64
	err := s.queryRow(ctx, s.sql.grantCredits, []any{userID, credits, reason, nullable(key), o.id(), o.Who}, &balance)
	return balance, err
}

// Balance returns a user's credits, 0 for a user who never had any.
func (s *Store) Balance(ctx context.Context, userID string) (int64, error) {
	var credits int64
	err := s.queryRow(ctx, s.sql.balance, []any{userID}, &credits)
	return credits, err
}

// LedgerEntry is one row of the ledger.
type LedgerEntry struct {
	Kind         string    `json:"kind"`   // grant, charge, refund or adjust
	Amount       int64     `json:"amount"` // signed: the change of the balance
	BalanceAfter int64     `json:"balance_after"`
	TaskID       string    `json:"task_id,omitempty"`
	Run          int       `json:"run,omitempty"`
	Reason       string    `json:"reason"`
	CreatedAt    time.Time `json:"created_at"`
}

// Ledger returns up to limit ledger entries of a user, the newest first.
func (s *Store) Ledger(ctx context.Context, userID string, limit int) ([]LedgerEntry, error) {
	return s.queryLedger(ctx, s.sql.ledger, userID, limit)
}

func (s *Store) queryLedger(ctx context.Context, st statement, args ...any) ([]LedgerEntry, error) {
	var out []LedgerEntry
	err := s.query(ctx, st, func(rows *sql.Rows) error {
		var e LedgerEntry
		err := rows.Scan(&e.Kind, &e.Amount, &e.BalanceAfter, &e.TaskID, &e.Run, &e.Reason, &e.CreatedAt)
		out = append(out, e)
		return err
	}, args...)
	return out, err
}
