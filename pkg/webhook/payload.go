package webhook

import (
	"encoding/json"
	"fmt"
	"time"

	"imagetasks/pkg/store"
)

// TypeTest is the type of the event that Test sends.
const TypeTest = "webhook.test"

// Message is the body of a webhook.
type Message struct {
	Type      string    `json:"type"`
	Timestamp time.Time `json:"timestamp"` // when the task was closed
	Data      Data      `json:"data"`
}

// Data describes a task as it was closed. It has no prompt.
type Data struct {
	TaskID          string     `json:"task_id"`
	Run             int        `json:"run"`
	UserID          string     `json:"user_id"`
	Status          string     `json:"status"` // completed, failed or cancelled
	Model           *string    `json:"model"`  // null: the default model
	ImageURL        *string    `json:"image_url"`
	ErrorCode       *string    `json:"error_code"`
	ErrorMessage    *string    `json:"error_message"`
	Attempts        int        `json:"attempts"` // that failed
	CreditsCost     int64      `json:"credits_cost"`
	CreditsRefunded int64      `json:"credits_refunded"`
	CreatedAt       *time.Time `json:"created_at"`
	CompletedAt     *time.Time `json:"completed_at"` // when the task was closed, whatever its status
}

// newMessage returns the message of an event.
func newMessage(e store.Event) (Message, error) {
	m := Message{Type: e.Type, Timestamp: e.CreatedAt.UTC()}
	if err := json.Unmarshal(e.Data, &m.Data); err != nil {
		return m, fmt.Errorf("the data of the event can't be read: %w", err)
	}
	m.Data.TaskID, m.Data.Run = e.TaskID, e.Run
	for _, at := range []*time.Time{m.Data.CreatedAt, m.Data.CompletedAt} {
		if at != nil {
			*at = at.UTC()
		}
	}
	return m, nil
}

// testMessage returns the message of a test.
func testMessage(at time.Time) Message {
	at = at.UTC().Truncate(time.Millisecond)
	image := "https://pictures.example/test.png"
	return Message{Type: TypeTest, Timestamp: at, Data: Data{TaskID: "webhook-test", Run: 1, UserID: "webhook-test", Status: "completed", ImageURL: &image,
		CreatedAt: &at, CompletedAt: &at}}
}
