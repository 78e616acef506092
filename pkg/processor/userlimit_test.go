package processor_test

import (
	"context"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/simapi"
	"imagetasks/pkg/imageapi"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// Eight processors never send a third request of one user at the same time, while some requests fail, and work everything.
func TestUserConcurrency_EightProcessors(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const allowed, users, each = 2, 4, 40
	err := f.SetLimits(t.Context(), allowed, 0)
	require.NoError(t, err)
	for u := range users {
		user := fmt.Sprintf("user_%d", u)
		_, err := f.GrantCredits(t.Context(), user, each, "", user)
		require.NoError(t, err)
		_, err = f.Enqueue(t.Context(), store.EnqueueRequest{UserID: user, Prompt: user, Cost: 1, Count: each})
		require.NoError(t, err)
	}
	content := simapi.Draw("x")
	var mu sync.Mutex
	now, most, calls := map[string]int{}, 0, 0
	client := generatorFunc(func(ctx context.Context, r imageapi.Request, w io.Writer) error {
		mu.Lock()
		calls++
		call := calls
		now[r.Prompt]++
		most = max(most, now[r.Prompt])
		mu.Unlock()
		defer func() {
			mu.Lock()
			now[r.Prompt]--
			mu.Unlock()
		}()
		select { // the API takes its time
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(3 * time.Millisecond):
		}
		switch call % 7 {
		case 3:
			return &task.Error{Code: task.CodeInternal, Disposition: task.Release, Message: "once more"}
		case 5:
			return &task.Error{Code: task.CodeModeration, Disposition: task.Fail, Message: "refused"}
		}
		_, err := w.Write(content)
		return err
	})
	var processors sync.WaitGroup
	for range 8 {
		processors.Go(func() {
			assert.NoError(t, f.once(f.config(func(c *processor.Config) {
				c.Concurrency, c.Lease, c.Log = 4, time.Minute, nil
			}), client))
		})
	}
	processors.Wait()
	assert.Equal(t, allowed, most)
	states, err := f.CountByState(t.Context())
	require.NoError(t, err)
	assert.Equal(t, users*each, states[task.Completed]+states[task.Failed])
	assert.Positive(t, states[task.Failed])
	f.requireAudit()
}

// A run with once ends when claiming is paused, and when only tasks of a later time are left.
func TestRunOnce_PausedOrScheduled(t *testing.T) {
	f := newFixture(t)
	f.enqueue("a")
	_, err := f.Pause(t.Context(), "operator", "maintenance")
	require.NoError(t, err)
	assert.ErrorIs(t, f.once(f.config(), f.client()), processor.ErrPaused)
	assert.Empty(t, f.api.Calls())
	require.NoError(t, f.Resume(t.Context()))
	_, err = f.Enqueue(t.Context(), store.EnqueueRequest{UserID: f.user, Prompt: "later", Cost: 1, RunAt: time.Now().Add(2 * time.Hour)})
	require.NoError(t, err)
	assert.ErrorIs(t, f.once(f.config(), f.client()), processor.ErrScheduled)
	assert.Len(t, f.api.Calls(), 1)
}

// A pause holds for processors that run already, and resume wakes them.
func TestRun_PauseAndResume(t *testing.T) {
	f := newFixture(t)
	f.run(f.config(func(c *processor.Config) { c.PollInterval = time.Minute }), f.client())
	f.enqueue("a")
	f.seen(processor.EventCompleted, 1)
	_, err := f.Pause(t.Context(), "operator", "")
	require.NoError(t, err)
	id := f.enqueue("b")[0]
	time.Sleep(100 * time.Millisecond) // a processor that ignores the pause claims within milliseconds
	assert.Equal(t, task.Pending, f.row(id).State)
	require.NoError(t, f.Resume(t.Context()))
	f.seen(processor.EventCompleted, 2)
}

// A claim whose answer was lost is repeated under the same id: its tasks are worked at once, not after their leases expire.
func TestClaim_AnswerLost(t *testing.T) {
	f := newFixture(t)
	f.enqueue("a", "b", "c")
	queue := &lossyQueue{Store: f.Store}
	p := f.processorOn(queue, f.config(func(c *processor.Config) { c.Lease = time.Hour }), f.client())
	f.start(p)
	f.seen(processor.EventCompleted, 3)
	assert.Equal(t, 1, queue.lost())
	assert.Len(t, f.api.Calls(), 3)
}

// lossyQueue loses the answer of the first claim that returns tasks.
type lossyQueue struct {
	*store.Store
	mu sync.Mutex
	n  int
}

func (q *lossyQueue) Claim(ctx context.Context, c store.ClaimRequest) ([]task.Task, error) {
	tasks, err := q.Store.Claim(ctx, c)
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(tasks) > 0 && q.n == 0 {
		q.n++
		return nil, io.ErrUnexpectedEOF
	}
	return tasks, err
}

func (q *lossyQueue) lost() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.n
}
