package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/lib/pq"

	"imagetasks/pkg/task"
)

// EventReceiver is who is to hear that a task was closed.
type EventReceiver string

// The receivers.
const (
	ReceiverWebhook EventReceiver = "webhook" // COMPLETION_WEBHOOK_URL
	ReceiverTask    EventReceiver = "task"    // options.webhook_url of the task
	ReceiverNotify  EventReceiver = "notify"  // the channel of NOTIFY
)

// EventState is how far the delivery of an event to one receiver is.
type EventState string

// The states.
const (
	EventDue         EventState = "due"         // to be delivered now or later
	EventDelivered   EventState = "delivered"   // the receiver answered with a status of success
	EventUndelivered EventState = "undelivered" // given up
	EventDiscarded   EventState = "discarded"   // by an operator
)

// SetCompletionEvents sets for whom an event is written when a task is closed, for all processors; none: nothing is written.
func (s *Store) SetCompletionEvents(ctx context.Context, receivers ...EventReceiver) error {
	names := make([]string, len(receivers))
	for i, r := range receivers {
		names[i] = string(r)
	}
	var n int // changed by this try
	return s.queryRow(ctx, s.sql.setCompletionEvents, []any{pq.Array(names)}, &n)
}

// Event is a completion event for one receiver, leased to a call of ClaimEvents.
type Event struct {
	ID        string // the same for all receivers of the event
	Receiver  EventReceiver
	Type      string // task.completed, task.failed or task.cancelled
	TaskID    string
	Run       int
	Data      json.RawMessage // the task as it was closed
	URL       string          // of the task; empty: the address is a setting
	Host      string          // of URL, with its port
	CreatedAt time.Time
	Attempts  int // that failed
	Lease     uuid.UUID
}

// EventClaim is what ClaimEvents leases.
type EventClaim struct {
	CallID  uuid.UUID // of this call, the same for its repeats; zero: a new one
	Limit   int
	PerHost int
	Hosts   map[string]int // limits of hosts that differ from PerHost
	Lease   time.Duration
}

// ClaimEvents leases events that are due, the oldest first. Whoever does not record what became of one in time loses it to another call.
func (s *Store) ClaimEvents(ctx context.Context, c EventClaim) ([]Event, error) {
	if c.CallID == uuid.Nil {
		c.CallID = uuid.New()
	}
	hosts, limits := make([]string, 0, len(c.Hosts)), make([]int64, 0, len(c.Hosts))
	for host, limit := range c.Hosts {
		hosts, limits = append(hosts, host), append(limits, int64(limit))
	}
	var out []Event
	err := s.query(ctx, s.sql.claimEvents, func(rows *sql.Rows) error {
		e := Event{Lease: c.CallID}
		var data []byte
		err := rows.Scan(&e.ID, &e.Receiver, &e.Type, &e.TaskID, &e.Run, &data, &e.URL, &e.Host, &e.CreatedAt, &e.Attempts)
		e.Data = data
		out = append(out, e)
		return err
	}, callID(c.CallID), c.Limit, c.PerHost, c.Lease.Milliseconds(), pq.Array(hosts), pq.Array(limits))
	return out, err
}

// EventResult is what became of one attempt.
type EventResult string

// The results.
const (
	ResultDelivered   EventResult = "delivered"
	ResultRetry       EventResult = "retry"       // another attempt follows, unless the first one is too long ago
	ResultUndelivered EventResult = "undelivered" // there is no other attempt
	ResultReleased    EventResult = "released"    // there was no attempt
)

// EventOutcome is the result of one attempt to deliver an event.
type EventOutcome struct {
	Event  Event
	Result EventResult
	Wait   time.Duration // before the next attempt
	Asked  bool          // the receiver asked for Wait
	Status int           // of the response; 0: there was none
	Reason string        // without secrets
}

// RecordEvents records results. Events whose lease has gone to another call stay as they are. retryFor is the time after the first attempt in which
// there may be others.
func (s *Store) RecordEvents(ctx context.Context, retryFor time.Duration, outcomes ...EventOutcome) error {
	if len(outcomes) == 0 {
		return nil
	}
	n := len(outcomes)
	ids, receivers, leases, results, reasons := make([]string, n), make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	waits, statuses := make([]int64, n), make([]int64, n)
	for i, o := range outcomes {
		ids[i], receivers[i], leases[i], results[i], reasons[i] = o.Event.ID, string(o.Event.Receiver), o.Event.Lease.String(), string(o.Result), o.Reason
		waits[i], statuses[i] = o.Wait.Milliseconds(), int64(o.Status)
	}
	var recorded int // by this try
	return s.queryRow(ctx, s.sql.recordEvents, []any{pq.Array(ids), pq.Array(receivers), pq.Array(leases), pq.Array(results), pq.Array(waits),
		pq.Array(statuses), pq.Array(reasons), retryFor.Milliseconds()}, &recorded)
}

// NotifyEvents sends the ids of up to limit closed tasks on the channel of events, and returns their number. call is the id of the call, the same
// for its repeats; zero: a new one.
func (s *Store) NotifyEvents(ctx context.Context, limit int, call uuid.UUID) (int, error) {
	return s.recordedCall(ctx, s.sql.notifyEvents, newIdentifiedCall(call), limit)
}

// EventChannel returns the name of the channel that NotifyEvents sends on.
func (s *Store) EventChannel() string { return s.names.EventChannel }

// EventCounts says how many events wait, for webhooks.
type EventCounts struct {
	Waiting     int           // to be delivered now or later
	Held        int           // until the bridge has written the end of their task
	Failing     int           // of Waiting: an attempt has failed
	Undelivered int           // given up
	Oldest      time.Duration // since the oldest waiting one was written
}

// EventCounts returns how many events wait.
func (s *Store) EventCounts(ctx context.Context) (EventCounts, error) {
	var c EventCounts
	var oldest int64
	err := s.queryRow(ctx, s.sql.eventCounts, nil, &c.Waiting, &c.Held, &c.Failing, &c.Undelivered, &oldest)
	c.Oldest = time.Duration(oldest) * time.Millisecond
	return c, err
}

// FailingReceiver is a host with events that failed and are tried again.
type FailingReceiver struct {
	Host   string    `json:"host"` // empty: that of COMPLETION_WEBHOOK_URL
	Events int       `json:"events"`
	Since  time.Time `json:"since"` // the first attempt
	Status int       `json:"http_status,omitempty"`
	Reason string    `json:"reason"`
}

// FailingReceivers returns up to limit hosts, the one that has failed for longest first.
func (s *Store) FailingReceivers(ctx context.Context, limit int) ([]FailingReceiver, error) {
	var out []FailingReceiver
	err := s.query(ctx, s.sql.failingReceivers, func(rows *sql.Rows) error {
		var f FailingReceiver
		err := rows.Scan(&f.Host, &f.Events, &f.Since, &f.Status, &f.Reason)
		out = append(out, f)
		return err
	}, limit)
	return out, err
}

// EventRow describes an event and its delivery to one receiver.
type EventRow struct {
	ID        string        `json:"id"`
	Receiver  EventReceiver `json:"receiver"`
	Type      string        `json:"type"`
	TaskID    string        `json:"task_id"`
	Run       int           `json:"run"`
	Host      string        `json:"host,omitempty"` // of the task's URL
	State     EventState    `json:"state"`
	Held      bool          `json:"held,omitempty"` // until the bridge has written the end of the task
	Attempts  int           `json:"attempts"`
	CreatedAt time.Time     `json:"created_at"`
	FirstAt   time.Time     `json:"first_attempt_at,omitzero"`
	NextAt    time.Time     `json:"next_attempt_at,omitzero"`
	EndedAt   time.Time     `json:"ended_at,omitzero"` // delivered or given up
	Status    int           `json:"http_status,omitempty"`
	Reason    string        `json:"reason,omitempty"`
}

// Events returns up to limit events of a state, empty for all, the latest first.
func (s *Store) Events(ctx context.Context, state EventState, limit int) ([]EventRow, error) {
	var out []EventRow
	err := s.query(ctx, s.sql.listEvents, func(rows *sql.Rows) error {
		var e EventRow
		var first, ended sql.NullTime
		err := rows.Scan(&e.ID, &e.Receiver, &e.Type, &e.TaskID, &e.Run, &e.Host, &e.State, &e.Held, &e.Attempts, &e.CreatedAt, &first, &e.NextAt,
			&ended, &e.Status, &e.Reason)
		e.FirstAt, e.EndedAt = first.Time, ended.Time
		if e.State != EventDue {
			e.NextAt = time.Time{}
		}
		out = append(out, e)
		return err
	}, sql.NullString{String: string(state), Valid: state != ""}, limit)
	return out, err
}

// RedeliverEvents makes events due again, as if there had been no attempt: those of these ids, whatever their state, or all that were given up if
// ids is nil. It returns their number. If there is none with one of the ids, the error wraps task.ErrNotFound.
func (s *Store) RedeliverEvents(ctx context.Context, ids []string, call uuid.UUID) (int, error) {
	return s.setEvents(ctx, ids, EventDue, call)
}

// DiscardEvents is RedeliverEvents, except that nothing is delivered any more.
func (s *Store) DiscardEvents(ctx context.Context, ids []string, call uuid.UUID) (int, error) {
	return s.setEvents(ctx, ids, EventDiscarded, call)
}

func (s *Store) setEvents(ctx context.Context, ids []string, state EventState, call uuid.UUID) (int, error) {
	var selected any // all
	if ids != nil {
		selected = pq.Array(ids)
	}
	n, err := s.recordedCall(ctx, s.sql.setEvents, newIdentifiedCall(call), selected, string(state))
	if err == nil && n == 0 && ids != nil {
		err = fmt.Errorf("there is no such event: %w", task.ErrNotFound)
	}
	return n, err
}
