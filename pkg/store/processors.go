package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"time"
)

// Processor is a processor process as recorded in the database.
type Processor struct {
	Worker        string          `json:"worker"`
	Host          string          `json:"host"`
	PID           int             `json:"pid"`
	Version       string          `json:"version"`
	StartedAt     time.Time       `json:"started"`
	LastHeartbeat time.Time       `json:"last_heartbeat"`
	HeartbeatAge  time.Duration   `json:"-"`      // since the last heartbeat, by the database's clock
	Report        json.RawMessage `json:"report"` // the processor's own status report

	// What the expected wait of a task is computed from.
	Capacity     int           `json:"-"` // tasks at a time
	TaskDuration time.Duration `json:"-"` // of a completed task, a moving average; 0: none yet
}

// Alive reports whether the last heartbeat is recent: this defines when a processor counts as running. What is known of a
// process on this host beside that, package overview adds.
func (p Processor) Alive(hungAfter time.Duration) bool { return p.HeartbeatAge <= hungAfter }

// RecordHeartbeat records that a processor is running, with its report. It uses Worker, Host, PID, Version, Report,
// Capacity and TaskDuration.
func (s *Store) RecordHeartbeat(ctx context.Context, p Processor) error {
	if p.Report == nil {
		p.Report = json.RawMessage("{}")
	}
	var seconds any
	if p.TaskDuration > 0 {
		seconds = p.TaskDuration.Seconds()
	}
	_, err := s.queryTextsOn(ctx, s.heartbeats, s.sql.recordHeartbeat, p.Worker, p.Host, p.PID, p.Version, string(p.Report), p.Capacity, seconds, schemaVersion)
	return err
}

// Deregister deletes a processor that has stopped. It returns no error if there is no such processor.
func (s *Store) Deregister(ctx context.Context, worker string) error {
	_, err := s.queryTextsOn(ctx, s.heartbeats, s.sql.deregister, worker)
	return err
}

// Processors returns the processors with a heartbeat within the last day, the latest heartbeat first.
func (s *Store) Processors(ctx context.Context) ([]Processor, error) {
	var out []Processor
	err := s.query(ctx, s.sql.processors, func(rows *sql.Rows) error {
		var p Processor
		var age int64
		var report []byte
		err := rows.Scan(&p.Worker, &p.Host, &p.PID, &p.Version, &p.StartedAt, &p.LastHeartbeat, &age, &report)
		p.HeartbeatAge, p.Report = time.Duration(age)*time.Millisecond, report
		out = append(out, p)
		return err
	})
	return out, err
}

// PingLeases returns nil if leases could be renewed now: the connections that renew them respond.
func (s *Store) PingLeases(ctx context.Context) error { return s.ping(ctx, s.heartbeats) }
