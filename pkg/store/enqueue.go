package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/lib/pq"

	"imagetasks/pkg/task"
)

// EnqueueRequest describes the tasks to enqueue.
type EnqueueRequest struct {
	UserID      string
	Prompt      string
	Style       string
	AspectRatio string
	Model       string // empty: the processor's default
	Input       string // an input picture in base64
	Cost        int    // credits per task, 1 or more
	Count       int    // number of tasks; 0 means 1
	MaxAttempts int    // 0: the processor's MAX_ATTEMPTS
}

// Enqueue charges the user and inserts the tasks in one statement, and returns the task ids. If the balance does not
// cover all tasks, Enqueue changes nothing and returns task.ErrInsufficientCredits.
func (s *Store) Enqueue(ctx context.Context, r EnqueueRequest) ([]string, error) {
	r.Count = max(r.Count, 1)
	if r.Cost < 1 {
		return nil, fmt.Errorf("enqueue: the cost of a task must be 1 credit or more, not %d", r.Cost)
	}
	if r.Prompt == "" {
		return nil, errors.New("enqueue: the prompt is empty")
	}
	ids := make([]string, r.Count)
	for i := range ids {
		id, err := uuid.NewV7()
		if err != nil {
			return nil, fmt.Errorf("enqueue: %w", err)
		}
		ids[i] = id.String()
	}
	inserted, err := s.queryTexts(ctx, s.sql.enqueue, r.UserID, pq.Array(ids), r.Cost, r.Prompt, r.Style, r.AspectRatio,
		r.Model, r.Input, r.MaxAttempts)
	if err != nil {
		return nil, err
	}
	if len(inserted) == 0 {
		balance, err := s.Balance(ctx, r.UserID)
		if err != nil && !errors.Is(err, task.ErrNotFound) {
			return nil, err
		}
		return nil, fmt.Errorf("enqueue %d tasks at %d: the user has %d: %w", r.Count, r.Cost, balance, task.ErrInsufficientCredits)
	}
	return inserted, nil
}
