package store

import (
	"context"
	"database/sql"
	"time"

	"github.com/google/uuid"
)

// Operation is an act of an operator. The zero value is none: what an application or a program does by itself is not noted.
type Operation struct {
	ID  uuid.UUID // of this call, the same for its repeats; zero: a new one
	Who string    // empty: it is not noted
}

// By returns a new operation.
func By(who string) Operation { return Operation{uuid.New(), who} }

// id returns the operation's id as a parameter of a statement; null: nothing is noted.
func (o Operation) id() any {
	if o.Who == "" {
		return nil
	}
	return callID(o.ID)
}

// OperationEntry is one row of the log of what operators did.
type OperationEntry struct {
	At      time.Time `json:"at"`
	Who     string    `json:"who"`
	What    string    `json:"what"`
	Subject string    `json:"subject"` // the task, user, endpoint or model; empty: the whole queue
	Detail  string    `json:"detail"`
	Result  string    `json:"result"`
}

// NoteOperation adds an entry about an act that no single statement does. Its time is the database's.
func (s *Store) NoteOperation(ctx context.Context, o Operation, e OperationEntry) error {
	var n int
	return s.queryRow(ctx, s.sql.noteOperation, []any{o.id(), o.Who, e.What, e.Subject, e.Detail, e.Result}, &n)
}

// Operations returns up to limit entries of the log of what operators did, the newest first.
func (s *Store) Operations(ctx context.Context, limit int) ([]OperationEntry, error) {
	out := []OperationEntry{}
	err := s.query(ctx, s.sql.operations, func(rows *sql.Rows) error {
		var e OperationEntry
		err := rows.Scan(&e.At, &e.Who, &e.What, &e.Subject, &e.Detail, &e.Result)
		out = append(out, e)
		return err
	}, limit)
	return out, err
}
