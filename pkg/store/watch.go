package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"imagetasks/pkg/task"
)

// Processor is a processor as the database knows it.
type Processor struct {
	Worker        string          `json:"worker"`
	Host          string          `json:"host"`
	PID           int             `json:"pid"`
	Version       string          `json:"version"`
	StartedAt     time.Time       `json:"started"`
	LastHeartbeat time.Time       `json:"last_heartbeat"`
	SilentFor     time.Duration   `json:"-"`      // since the last heartbeat, by the database's clock
	Report        json.RawMessage `json:"report"` // what it says of itself
}

// RecordHeartbeat is a processor's sign of life, with what it says of itself. Worker, Host, PID, Version and Report are read.
func (s *Store) RecordHeartbeat(ctx context.Context, p Processor) error {
	if p.Report == nil {
		p.Report = json.RawMessage("{}")
	}
	_, err := s.texts(ctx, "alive", p.Worker, p.Host, p.PID, p.Version, string(p.Report))
	return err
}

// Deregister notes that a processor stopped in order.
func (s *Store) Deregister(ctx context.Context, worker string) error {
	_, err := s.texts(ctx, "leave", worker)
	return err
}

// Processors returns those that live and those that fell silent within a day, the latest heartbeat first.
func (s *Store) Processors(ctx context.Context) ([]Processor, error) {
	var out []Processor
	err := s.query(ctx, "processors", func(rows *sql.Rows) error {
		var p Processor
		var silent int64
		var report []byte
		err := rows.Scan(&p.Worker, &p.Host, &p.PID, &p.Version, &p.StartedAt, &p.LastHeartbeat, &silent, &report)
		p.SilentFor, p.Report = time.Duration(silent)*time.Millisecond, report
		out = append(out, p)
		return err
	})
	return out, err
}

// Prune removes what is left of processors that fell silent more than a day ago.
func (s *Store) Prune(ctx context.Context) error {
	_, err := s.texts(ctx, "forget")
	return err
}

// ClosedStats is what was closed in one state within some time, with the time from the last claim.
type ClosedStats struct {
	Count  int           `json:"count"`
	Median time.Duration `json:"-"`
	P95    time.Duration `json:"-"`
}

// ClosedWithin returns what was closed within the window. States in which nothing was closed are missing.
func (s *Store) ClosedWithin(ctx context.Context, window time.Duration) (map[task.State]ClosedStats, error) {
	out := map[task.State]ClosedStats{}
	err := s.query(ctx, "recent", func(rows *sql.Rows) error {
		var state task.State
		var c ClosedStats
		var median, p95 int64
		err := rows.Scan(&state, &c.Count, &median, &p95)
		c.Median, c.P95 = time.Duration(median)*time.Millisecond, time.Duration(p95)*time.Millisecond
		out[state] = c
		return err
	}, window.Milliseconds())
	return out, err
}

// RefundsToday returns how many refunds there were since midnight, in the database's time zone, and their credits.
func (s *Store) RefundsToday(ctx context.Context) (count, credits int, err error) {
	if err := s.db.QueryRowContext(ctx, s.sql.byName["refunds"]).Scan(&count, &credits); err != nil {
		return 0, 0, fmt.Errorf("refunds: %w", err)
	}
	return count, credits, nil
}

// FailureCount is how many tasks failed with an error code.
type FailureCount struct {
	Code  task.Code `json:"error_code"`
	Count int       `json:"count"`
}

// FailuresWithin returns how many tasks failed within the window, by error code, the most frequent first; at most 20 codes.
func (s *Store) FailuresWithin(ctx context.Context, window time.Duration) ([]FailureCount, error) {
	var out []FailureCount
	err := s.query(ctx, "failures", func(rows *sql.Rows) error {
		var f FailureCount
		err := rows.Scan(&f.Code, &f.Count)
		out = append(out, f)
		return err
	}, window.Milliseconds())
	return out, err
}
