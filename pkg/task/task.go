// Package task defines the domain types: tasks and their states, leases, refunds, error codes, and the error type that
// decides what happens to a task after a failed attempt. It imports no other package of the project.
package task

import (
	"encoding/json"
	"time"
)

// State is a task's state, as in the column status.
type State string

// The states of a task. Completed, Failed and Cancelled are final.
const (
	Pending    State = "pending"
	Processing State = "processing"
	Completed  State = "completed"
	Failed     State = "failed"
	Cancelled  State = "cancelled"
)

// States returns every state, in the order in which they are shown.
func States() []State { return []State{Pending, Processing, Completed, Failed, Cancelled} }

// Task is a claimed task, with what a worker needs.
type Task struct {
	ID          string
	UserID      string
	Run         int             // what one charge pays for, from 1
	Prompt      string          // may be empty when there are input pictures
	Options     json.RawMessage // the API's own options, an object
	Model       string          // empty: the processor's default
	Inputs      int             // number of input pictures, the mask included
	Attempt     int             // the number of the next attempt that is used, from 1
	MaxAttempts int             // the task's own, or else the processor's
	Epoch       int64           // the lease_epoch of this claim
	Waited      time.Duration   // how long it had been due when it was claimed, lost claims included
	Charged     int64           // credits that were charged for the run
	// Endpoint is the name of the endpoint that the claim chose for a paid request. It is empty where there is none to choose from, where only a
	// pending result is to be fetched, and where no endpoint has the model.
	Endpoint string
	// SentTo is the name of the endpoint that the last paid request of the task was sent to; empty: none was sent.
	SentTo string

	RequestsSent    int // paid requests of this run that were recorded
	UnknownOutcomes int // of them, those without an answer of the API that was read whole
	LostClaims      int // claims in a row that ended without a recorded outcome

	Pending *PendingResult // what an earlier claim of this run left behind; optional
}

// PendingResult is a result that is paid for and still has to be fetched. While a run has one, no paid request is made for it.
type PendingResult struct {
	Ref       string        // what the Worker needs to fetch it, such as a URL; it may hold a secret, so it is never shown
	RequestID string        // the API's id of the request that made it; may be empty
	Endpoint  string        // the API that made it; may be empty
	Age       time.Duration // since it was saved, by the database's clock
	Gone      int           // claims that ended with an Error with Gone
	GoneFor   time.Duration // since the first of them
	Usage     Usage         // of the request that made it
}

// Usage is what a paid request that was answered with a result used: for the record of the task and for reports. The zero value means that
// nothing is known.
type Usage struct {
	Endpoint string          `json:"endpoint,omitempty"` // its name
	Model    string          `json:"model,omitempty"`    // as it was sent
	Took     time.Duration   `json:"took,omitempty"`     // from sending the request to the whole answer
	Counts   json.RawMessage `json:"counts,omitempty"`   // what the API says it used, an object of at most 4 KiB
	// Cost is the price of the result in millionths of Currency. Currency is empty where no price is set.
	Cost     int64  `json:"cost,omitempty"`
	Currency string `json:"currency,omitempty"`
}

// Input is an input picture of a task: its content, or a URL.
type Input struct {
	Content []byte
	URL     string
	Mask    bool // it marks what to change in the other pictures
}

// Lease returns the lease that every later statement about the task names.
func (t Task) Lease() Lease { return Lease{TaskID: t.ID, Epoch: t.Epoch} }

// LastAttempt reports whether no further attempt may follow this one.
func (t Task) LastAttempt() bool { return t.Attempt >= t.MaxAttempts }

// Lease is a claim on a task. It is valid as long as the task's lease_epoch is Epoch and its state is Processing. Every
// transition refuses a lease that is no longer valid (fencing).
type Lease struct {
	TaskID string
	Epoch  int64
}

// Refund is the result of closing a task.
type Refund struct {
	TaskID  string        `json:"task_id"`
	UserID  string        `json:"user_id"`
	Credits int64         `json:"credits"`           // 0: nothing had been charged; of a task of the bridge, what the bridge gives back
	Balance *int64        `json:"balance,omitempty"` // the user's credits after it; nil without a refund
	Age     time.Duration `json:"-"`                 // since processing began, by the database's clock
	// MissingCharge means that the task says it was charged, and the ledger has no such charge: nothing was refunded, and
	// "fix-stuck-tasks audit --resolve" settles it.
	MissingCharge bool `json:"missing_charge,omitempty"`
}

// MarshalJSON adds the age in seconds.
func (r Refund) MarshalJSON() ([]byte, error) {
	type plain Refund
	return json.Marshal(struct {
		plain
		Age float64 `json:"age_seconds"`
	}{plain(r), r.Age.Seconds()})
}
