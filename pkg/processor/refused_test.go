package processor_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/processor"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// refusingQueue refuses to record the first paid requests.
type refusingQueue struct {
	*store.Store
	refuse atomic.Int64
}

func (q *refusingQueue) BeginRequests(ctx context.Context, starts ...store.RequestStart) ([]store.RequestStarted, error) {
	if q.refuse.Add(-1) >= 0 {
		return nil, errors.New("the disk is full")
	}
	return q.Store.BeginRequests(ctx, starts...)
}

// A task whose request could not be recorded waits: else it would be claimed and released many times a second.
func TestBeforeRequest_RefusedWaits(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id := f.enqueue("a cat")[0]
	q := &refusingQueue{Store: f.Store}
	q.refuse.Store(2)
	began := time.Now()
	require.NoError(t, f.processorOn(q, f.config(), f.client()).RunOnce(t.Context()))
	assert.GreaterOrEqual(t, time.Since(began), 2*time.Second)
	assert.Equal(t, task.Completed, f.row(id).State)
	assert.Equal(t, 3, f.count(processor.EventClaimed))
	assert.Len(t, f.api.Calls(), 1)
}
