package store

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/lib/pq"

	"imagetasks/pkg/task"
)

// EnqueueRequest describes the tasks to enqueue. The database checks it (task.ErrInvalid).
type EnqueueRequest struct {
	UserID   string
	Prompt   string
	Options  json.RawMessage // an object, model included; nil: none
	Inputs   []task.Input
	Cost     int64     // credits per task; 0: the tasks are not charged
	Priority int       // 0 to 9, higher first
	RunAt    time.Time // zero: now
	Count    int       // number of tasks, at most MaxTasks; 0 means 1
	Key      string    // idempotency key; empty: a new one, so that a statement that is repeated charges once
}

// Enqueued is the result of Enqueue.
type Enqueued struct {
	TaskIDs []string `json:"task_ids"`
	Balance int64    `json:"balance"` // the user's credits after it
}

// Enqueue charges the user and inserts the tasks, all or none. Its errors wrap task.ErrInsufficientCredits, task.ErrInvalid,
// task.ErrKeyReused or task.ErrTooManyWaiting; none of them changes anything. A repeat with the same key returns the first result.
func (s *Store) Enqueue(ctx context.Context, r EnqueueRequest) (Enqueued, error) {
	tasks, err := r.tasks()
	if err != nil {
		return Enqueued{}, err
	}
	if r.Key == "" {
		r.Key = uuid.NewString()
	}
	// Pictures may take long on a slow network.
	ctx, cancel := context.WithTimeout(ctx, s.connector.limit+time.Duration(len(tasks)/minUpload)*time.Second)
	defer cancel()
	var out Enqueued
	err = s.queryRow(ctx, s.sql.enqueue, []any{r.UserID, tasks, r.Key}, pq.Array(&out.TaskIDs), &out.Balance)
	return out, err
}

// minUpload is how many bytes a second the timeout of Enqueue expects.
const minUpload = 64 << 10

// tasks returns the tasks as the argument of enqueue_many.
func (r EnqueueRequest) tasks() (string, error) {
	type input struct {
		Base64 string `json:"base64,omitempty"`
		URL    string `json:"url,omitempty"`
		Mask   bool   `json:"mask,omitempty"`
	}
	one := struct {
		Prompt   string          `json:"prompt"`
		Options  json.RawMessage `json:"options,omitempty"`
		Cost     int64           `json:"cost"`
		Priority int             `json:"priority,omitempty"`
		RunAt    *time.Time      `json:"run_at,omitempty"`
		Inputs   []input         `json:"inputs,omitempty"`
	}{Prompt: r.Prompt, Options: r.Options, Cost: r.Cost, Priority: r.Priority}
	if !r.RunAt.IsZero() {
		one.RunAt = &r.RunAt
	}
	for _, in := range r.Inputs {
		one.Inputs = append(one.Inputs, input{Base64: base64.StdEncoding.EncodeToString(in.Content), URL: in.URL, Mask: in.Mask})
	}
	count := max(r.Count, 1)
	if count > MaxTasks {
		return "", fmt.Errorf("enqueue %d tasks: at most %d at once: %w", count, MaxTasks, task.ErrInvalid)
	}
	all := make([]any, count)
	for i := range all {
		all[i] = one
	}
	text, err := json.Marshal(all)
	if err != nil {
		return "", fmt.Errorf("enqueue: the options are not valid JSON: %w", task.ErrInvalid)
	}
	return string(text), nil
}

// nullable returns nil for an empty text.
func nullable(text string) any {
	if text == "" {
		return nil
	}
	return text
}
