package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"time"

	"github.com/google/uuid"
	"github.com/lib/pq"
)

// AlertSeverity says how urgent an alert is.
type AlertSeverity string

// The severities.
const (
	SeverityError   AlertSeverity = "error"
	SeverityWarning AlertSeverity = "warning"
	SeverityInfo    AlertSeverity = "info" // of events
)

// SeenAlert is a problem that a program sees, or an event.
type SeenAlert struct {
	Fingerprint string          `json:"fingerprint"` // the same while it is the same problem
	Code        string          `json:"code"`
	Severity    AlertSeverity   `json:"severity"`
	Source      string          `json:"source"` // the host whose programs can see whether it is over; empty: those of any host
	Event       bool            `json:"event"`
	Details     json.RawMessage `json:"details"`
	Count       int64           `json:"count"`
}

// AlertView is what a program sees at one time.
type AlertView struct {
	CallID uuid.UUID // of this call, the same for its repeats; zero: a new one
	Seen   []SeenAlert
	// Codes and Sources are what it has looked for: an open alert of these that is not in Seen may be over.
	Codes   []string
	Sources []string
	// Quiet is for how long nobody must see an alert before it is over.
	Quiet time.Duration
}

// ObserveAlerts records what a program sees.
func (s *Store) ObserveAlerts(ctx context.Context, v AlertView) error {
	if v.CallID == uuid.Nil {
		v.CallID = uuid.New()
	}
	seen, err := json.Marshal(append([]SeenAlert{}, v.Seen...))
	if err != nil {
		return err
	}
	var n int // of rows
	return s.queryRow(ctx, s.sql.observeAlerts, []any{string(seen), pq.Array(v.Codes), pq.Array(v.Sources), v.Quiet.Milliseconds(), callID(v.CallID)}, &n)
}

// TakeAlertTurn reports whether a process is the one that looks for problems of the whole installation for the time of d. It keeps the turn if it calls
// again before that ends.
func (s *Store) TakeAlertTurn(ctx context.Context, process uuid.UUID, d time.Duration) (bool, error) {
	var n int
	err := s.queryRow(ctx, s.sql.takeAlertTurn, []any{process.String(), d.Milliseconds()}, &n)
	return n > 0, err
}

// AlertState is what a receiver has to be told about an alert.
type AlertState string

// The states.
const (
	AlertNew      AlertState = "new"
	AlertOpen     AlertState = "open" // it was told before
	AlertMore     AlertState = "more" // it was told before, with a smaller count
	AlertResolved AlertState = "resolved"
	AlertHappened AlertState = "happened" // an event
)

// DueAlert is an alert that a receiver has to be told.
type DueAlert struct {
	Fingerprint string
	State       AlertState
	Details     json.RawMessage
	Severity    AlertSeverity
	Source      string
	Began       time.Time
	Until       time.Time // the last time that it was seen, or the first that it was not
	Count       int64     // of an event: since it was told last
	Flaps       int       // how often it came back soon

	total int64
}

// AlertClaim is what ClaimAlerts leases.
type AlertClaim struct {
	CallID     uuid.UUID // of this call, the same for its repeats; zero: a new one
	Receiver   string
	Lease      time.Duration
	GroupWait  time.Duration // how long a new alert waits for others
	Repeat     time.Duration // after which an open one is told again
	Quiet      time.Duration // as in AlertView
	Codes      []string      // none: all
	Severities []AlertSeverity
	Limit      int
}

// ClaimedAlerts is what a receiver has to be told, leased to a call of ClaimAlerts.
type ClaimedAlerts struct {
	Receiver string
	Lease    uuid.UUID
	Failures int // of the receiver, in a row
	Alerts   []DueAlert
}

// ClaimAlerts returns what a receiver has to be told, and leases the receiver if that is anything. Until the lease ends, or RecordAlerts has recorded
// what became of it, nobody else gets anything for this receiver.
func (s *Store) ClaimAlerts(ctx context.Context, c AlertClaim) (ClaimedAlerts, error) {
	if c.CallID == uuid.Nil {
		c.CallID = uuid.New()
	}
	severities := make([]string, len(c.Severities))
	for i, severity := range c.Severities {
		severities[i] = string(severity)
	}
	out := ClaimedAlerts{Receiver: c.Receiver, Lease: c.CallID}
	err := s.query(ctx, s.sql.claimAlerts, func(rows *sql.Rows) error {
		var d DueAlert
		var details []byte
		err := rows.Scan(&d.Fingerprint, &d.State, &details, &d.Severity, &d.Source, &d.Began, &d.Until, &d.Count, &d.total, &d.Flaps, &out.Failures)
		d.Details = details
		out.Alerts = append(out.Alerts, d)
		return err
	}, c.Receiver, callID(c.CallID), c.Lease.Milliseconds(), c.GroupWait.Milliseconds(), c.Repeat.Milliseconds(), c.Quiet.Milliseconds(),
		pq.Array(append([]string{}, c.Codes...)), pq.Array(severities), c.Limit)
	return out, err
}

// AlertOutcome is what became of a message with alerts.
type AlertOutcome struct {
	Sent  bool
	Wait  time.Duration // before the next message to this receiver
	Error string        // without secrets
}

// toldAlert is an alert that a receiver was told.
type toldAlert struct {
	Fingerprint string    `json:"fingerprint"`
	Began       time.Time `json:"began_at"`
	Count       int64     `json:"count"`
	Resolved    bool      `json:"resolved"`
}

// RecordAlerts records what became of the message with what was claimed. It changes nothing if the lease has gone to another call.
func (s *Store) RecordAlerts(ctx context.Context, c ClaimedAlerts, o AlertOutcome) error {
	told := []toldAlert{}
	for _, d := range c.Alerts {
		told = append(told, toldAlert{d.Fingerprint, d.Began, d.total, d.State == AlertResolved})
	}
	items, err := json.Marshal(told)
	if err != nil {
		return err
	}
	var n int // recorded by this try
	return s.queryRow(ctx, s.sql.recordAlerts, []any{c.Receiver, callID(c.Lease), o.Sent, o.Wait.Milliseconds(), o.Error, string(items)}, &n)
}
