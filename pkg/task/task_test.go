package task_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"imagetasks/pkg/task"
)

func TestBackoff_BoundsAndRetryAfter(t *testing.T) {
	for attempt, full := range map[int]time.Duration{
		0: 3 * time.Second, 1: 3 * time.Second, 2: 6 * time.Second, 3: 12 * time.Second,
		7: 192 * time.Second, 8: 5 * time.Minute, 1 << 30: 5 * time.Minute,
	} {
		for range 200 {
			wait := task.Backoff(attempt, 0)
			assert.LessOrEqual(t, wait, full, "attempt %d", attempt)
			assert.Greater(t, wait, full*3/4-1, "attempt %d", attempt)
		}
	}
	for range 200 {
		assert.GreaterOrEqual(t, task.Backoff(1, 90*time.Second), 90*time.Second)
		assert.Less(t, task.Backoff(1, 90*time.Second), 91*time.Second)
	}
}

func TestAsError_OtherTypes(t *testing.T) {
	known := &task.Error{Code: task.CodeModeration, Message: "refused"}
	assert.Same(t, known, task.AsError(fmt.Errorf("attempt 1: %w", known)))

	other := errors.New("disk failure")
	got := task.AsError(other)
	assert.Equal(t, task.Retry, got.Disposition)
	assert.Equal(t, task.CodeInternal, got.Code)
	assert.ErrorIs(t, got, other)
}
