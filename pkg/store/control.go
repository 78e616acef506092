package store

import (
	"context"
	"database/sql"
	"time"
)

// Control is what holds for all processors of the installation.
type Control struct {
	UserConcurrency int       `json:"user_concurrency"` // tasks of one user at a time; 0: any number
	UserMaxWaiting  int       `json:"user_max_waiting"` // pending tasks of one user; 0: any number
	PausedAt        time.Time `json:"paused_at,omitzero"`
	PausedBy        string    `json:"paused_by,omitempty"`
	PausedReason    string    `json:"paused_reason,omitempty"`
	// Copied: this database is not the one in which the installation was resumed or migrated last, but a copy or a restored backup.
	// Nothing is claimed or closed until Resume, because its tasks may have been paid for elsewhere.
	Copied bool `json:"copied,omitempty"`
}

// Paused reports whether claiming is paused, by an operator or because the database is a copy.
func (c Control) Paused() bool { return !c.PausedAt.IsZero() || c.Copied }

// Control returns what holds for all processors.
func (s *Store) Control(ctx context.Context) (Control, error) {
	return s.queryControl(ctx, s.sql.control)
}

// Pause pauses claiming for all processors, until Resume. Tasks that are processing go on. A pause that is in force stays as it is.
func (s *Store) Pause(ctx context.Context, by, reason string) (Control, error) {
	return s.queryControl(ctx, s.sql.pause, by, reason, false)
}

// PauseRestored is Pause for a database that was restored from a backup in its place: as in a copy, nothing is closed or removed either, until
// Resume.
func (s *Store) PauseRestored(ctx context.Context, by, reason string) (Control, error) {
	return s.queryControl(ctx, s.sql.pause, by, reason, true)
}

// Resume ends a pause, and accepts a copied database as the installation's. From then on its tasks have the same time as new ones before they count
// as stuck or overdue.
func (s *Store) Resume(ctx context.Context) error {
	var n int
	return s.queryRow(ctx, s.sql.resume, nil, &n)
}

// SetLimits sets the limits for the tasks of one user, 0 for none. Tasks beyond a new
// UserConcurrency wait again; those that are processing go on.
func (s *Store) SetLimits(ctx context.Context, userConcurrency, userMaxWaiting int) error {
	var changed bool // by this try; after a lost answer it says nothing about the call
	return s.queryRow(ctx, s.sql.setLimits, []any{userConcurrency, userMaxWaiting}, &changed)
}

func (s *Store) queryControl(ctx context.Context, st statement, args ...any) (Control, error) {
	var c Control
	var pausedAt sql.NullTime
	err := s.queryRow(ctx, st, args, &c.UserConcurrency, &c.UserMaxWaiting, &pausedAt, &c.PausedBy, &c.PausedReason, &c.Copied)
	c.PausedAt = pausedAt.Time
	return c, err
}
