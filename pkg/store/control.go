package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/lib/pq"
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
	// Scopes are the pauses of endpoints and models.
	Scopes []Pause `json:"pauses,omitempty"`
}

// Scope is what a pause holds for.
type Scope string

// The scopes of pauses.
const (
	ScopeQueue    Scope = "queue"
	ScopeEndpoint Scope = "endpoint"
	ScopeModel    Scope = "model"
)

// Pause is a pause of claiming that an operator began.
type Pause struct {
	Scope  Scope     `json:"scope"`
	Name   string    `json:"name"` // of the endpoint or model; empty: the queue
	Since  time.Time `json:"since"`
	By     string    `json:"by"`
	Reason string    `json:"reason"`
}

// Pauses returns all pauses, that of the queue first.
func (c Control) Pauses() []Pause {
	var all []Pause
	if !c.PausedAt.IsZero() {
		all = append(all, Pause{Scope: ScopeQueue, Since: c.PausedAt, By: c.PausedBy, Reason: c.PausedReason})
	}
	return append(all, c.Scopes...)
}

// Paused reports whether claiming is paused, by an operator or because the database is a copy.
func (c Control) Paused() bool { return !c.PausedAt.IsZero() || c.Copied }

// Control returns what holds for all processors.
func (s *Store) Control(ctx context.Context) (Control, error) {
	return s.queryControl(ctx, s.sql.control)
}

// HoldBack returns the pauses that may be why a pending task is not claimed: that of the queue, that of its model, and those of endpoints, of which
// others may have the model. model is that of the task, or the default.
func (c Control) HoldBack(model string) []Pause {
	return slices.DeleteFunc(c.Pauses(), func(p Pause) bool { return p.Scope == ScopeModel && p.Name != model })
}

// Pauses returns all pauses that are in force, that of the queue first.
func (s *Store) Pauses(ctx context.Context) ([]Pause, error) {
	c, err := s.Control(ctx)
	return c.Pauses(), err
}

// Pause pauses claiming for all processors, until Resume. Tasks that are processing go on. A pause that is in force stays as it is.
func (s *Store) Pause(ctx context.Context, by, reason string) (Control, error) {
	return s.PauseBy(ctx, By(by), reason)
}

// PauseBy is Pause for an operation that may be repeated.
func (s *Store) PauseBy(ctx context.Context, o Operation, reason string) (Control, error) {
	return s.queryControl(ctx, s.sql.pause, o.Who, reason, false, o.id())
}

// PauseRestored is Pause for a database that was restored from a backup in its place: as in a copy, nothing is closed or removed either, until
// Resume.
func (s *Store) PauseRestored(ctx context.Context, by, reason string) (Control, error) {
	return s.queryControl(ctx, s.sql.pause, by, reason, true, By(by).id())
}

// PauseScope pauses claiming for an endpoint or a model, over all processors, until ResumeScope. Tasks that are processing go on, and what is paid for is
// fetched. A task whose model or whose endpoints are all paused waits. The name need not be known here: endpoints are those of the processors'
// settings. There may be 100 pauses.
func (s *Store) PauseScope(ctx context.Context, o Operation, scope Scope, name, reason string) (Control, error) {
	c, err := s.queryControl(ctx, s.sql.pauseScope, string(scope), name, o.Who, reason, o.id())
	if refused, ok := errors.AsType[*pq.Error](err); ok && refused.Constraint == "control_pauses_check" {
		err = errors.New("there are as many pauses of endpoints and models as there may be, 100; end those that are over: task-processor status shows them")
	}
	return c, err
}

// Resume ends the pause of the queue, and accepts a copied database as the installation's. From then on its tasks have the same time as new ones before
// they count as stuck or overdue. Pauses of endpoints and models stay.
func (s *Store) Resume(ctx context.Context) error { return s.ResumeBy(ctx, Operation{}) }

// ResumeBy is Resume for an operator.
func (s *Store) ResumeBy(ctx context.Context, o Operation) error {
	var n int
	return s.queryRow(ctx, s.sql.resume, []any{o.id(), o.Who}, &n)
}

// ResumeScope ends the pause of an endpoint or a model; with an empty scope, all of both. It reports whether one was in force.
func (s *Store) ResumeScope(ctx context.Context, o Operation, scope Scope, name string) (bool, error) {
	var paused bool
	var notified sql.NullString
	err := s.queryRow(ctx, s.sql.resumeScope, []any{nullable(string(scope)), name, o.id(), o.Who}, &paused, &notified)
	return paused, err
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
	var scopes []byte
	err := s.queryRow(ctx, st, args, &c.UserConcurrency, &c.UserMaxWaiting, &pausedAt, &c.PausedBy, &c.PausedReason, &c.Copied, &scopes)
	c.PausedAt = pausedAt.Time
	if err == nil {
		err = json.Unmarshal(scopes, &c.Scopes)
	}
	return c, err
}
