// Package task holds the words everything else speaks in: what a task is, the states it passes
// through, and the one error type that says what should become of it. It imports nothing of the
// project.
package task

import (
	"encoding/json"
	"time"
)

// State is a task's place in its life, as it stands in the status column.
type State string

// The states of a task. Completed, Failed and Cancelled are final.
const (
	Pending    State = "pending"
	Processing State = "processing"
	Completed  State = "completed"
	Failed     State = "failed"
	Cancelled  State = "cancelled"
)

// States lists every state in the order a person would tell them.
func States() []State { return []State{Pending, Processing, Completed, Failed, Cancelled} }

// Task is a claimed task: what a worker needs to make its picture.
type Task struct {
	ID          string
	UserID      string
	Prompt      string
	Style       string
	AspectRatio string
	Model       string // empty: the processor's own
	HasInput    bool   // an input picture stands in image_base64
	Attempt     int    // this attempt's number, from 1
	MaxAttempts int    // as the task asks, or else as the claimer does
	Epoch       int64  // the lease_epoch of this claim
}

// Lease returns what a worker names in every later word about the task.
func (t Task) Lease() Lease { return Lease{TaskID: t.ID, Epoch: t.Epoch} }

// LastAttempt reports whether no further attempt may follow this one.
func (t Task) LastAttempt() bool { return t.Attempt >= t.MaxAttempts }

// Lease is a claim on a task. It is good for as long as the task's lease_epoch is Epoch and its
// state is Processing; a lease that was taken over is refused by every transition (fencing).
type Lease struct {
	TaskID string
	Epoch  int64
}

// Refund is what closing a task gave back.
type Refund struct {
	TaskID  string        `json:"task_id"`
	UserID  string        `json:"user_id"`
	Credits int           `json:"credits"`           // 0: nothing had been charged
	Balance *int          `json:"balance,omitempty"` // the user's credits after it; nil without a refund
	Age     time.Duration `json:"-"`                 // since processing began, by the database's clock
}

// MarshalJSON adds the age in seconds.
func (r Refund) MarshalJSON() ([]byte, error) {
	type plain Refund
	return json.Marshal(struct {
		plain
		Age float64 `json:"age_seconds"`
	}{plain(r), r.Age.Seconds()})
}
