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
)

func TestClaim_WokenByNotify(t *testing.T) {
	f := newFixture(t)
	f.run(f.config(func(c *processor.Config) { c.PollInterval = time.Hour }), f.client())
	f.enqueue("one")
	f.seen(processor.EventCompleted, 1)
	f.enqueue("two", "three")
	f.seen(processor.EventCompleted, 3)
}

func TestClaim_PollsWithoutNotify(t *testing.T) {
	f := newFixtureOn(t, server.Pooled(t))
	f.run(f.config(), f.client())
	f.enqueue("one", "two", "three")
	f.seen(processor.EventCompleted, 3)
	f.requireAudit()
}

func TestClaim_ConcurrencyLimit(t *testing.T) {
	f := newFixture(t)
	release := f.api.BlockResponses()
	f.run(f.config(func(c *processor.Config) { c.Concurrency = 4 }), f.client())
	var prompts []string
	for i := range 12 {
		prompts = append(prompts, fmt.Sprint("p", i))
	}
	f.enqueue(prompts...)
	f.seen(processor.EventClaimed, 4)
	require.Eventually(t, func() bool { return f.api.Busiest() == 4 }, time.Minute, time.Millisecond)
	f.seen(processor.EventLeasesRenewed, 2)
	assert.Equal(t, 4, f.count(processor.EventClaimed))
	release()
	f.seen(processor.EventCompleted, 12)
	assert.Equal(t, 4, f.api.Busiest())
}

func TestClaim_FourProcessorsWorkEachTaskOnce(t *testing.T) {
	f := newFixture(t)
	_, err := f.Enqueue(t.Context(), store.EnqueueRequest{UserID: f.user, Prompt: "x", Cost: 1, Count: 1000})
	require.NoError(t, err)
	content := simapi.Draw("x")
	client := generatorFunc(func(_ context.Context, _ imageapi.Request, w io.Writer) error {
		_, err := w.Write(content)
		return err
	})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			assert.NoError(t, f.once(f.config(func(c *processor.Config) {
				c.Concurrency, c.Log, c.Lease = 8, nil, time.Minute
			}), client))
		})
	}
	wg.Wait()
	claimed := f.count(processor.EventClaimed)
	assert.Equal(t, 1000, claimed-f.count(processor.EventReleased), "but for tasks that waited too long for a worker and were given back")
	assert.Equal(t, 1000, f.count(processor.EventCompleted))
	var unexpected, epochs int
	require.NoError(t, f.raw.QueryRow(`select count(*) filter (where status <> 'completed' or attempt_count <> 0 or requests_sent <> 1), sum(lease_epoch)
		from imagetasks.tasks`).Scan(&unexpected, &epochs))
	assert.Zero(t, unexpected)
	assert.Equal(t, claimed, epochs)
	assert.Len(t, f.files(), 1000)
	f.requireAudit()
}

func TestClaim_RateLimit(t *testing.T) {
	f := newFixture(t)
	f.enqueue("a", "b", "c", "d", "e", "f")
	stop := f.run(f.config(func(c *processor.Config) {
		c.Endpoints, c.Concurrency, c.Lease = []processor.Endpoint{{Rate: 1}}, 5, 300*time.Millisecond
	}), f.client())
	f.seen(processor.EventCompleted, 1)
	f.seen(processor.EventLeasesRenewed, f.count(processor.EventLeasesRenewed)+10)
	assert.Equal(t, 1, f.count(processor.EventClaimed), "the next comes in a minute")
	stop()
	f.run(f.config(func(c *processor.Config) { c.Endpoints, c.Concurrency = []processor.Endpoint{{Rate: 60_000}}, 5 }), f.client())
	f.seen(processor.EventCompleted, 6)
}

// What a processor left behind that ended is claimed within a few leases, however long its tasks take: else they would be stuck before.
func TestClaim_ExpiredTasksWhileOthersTakeLong(t *testing.T) {
	f := newFixture(t)
	f.enqueue("a", "b", "c")
	claimed, err := f.Claim(t.Context(), store.ClaimRequest{Worker: "dead", Limit: 3, Lease: time.Millisecond, MaxAttempts: 3})
	require.NoError(t, err)
	require.Len(t, claimed, 3)
	release := f.api.BlockResponses()
	defer release()
	f.run(f.config(func(c *processor.Config) { c.Concurrency, c.Lease = 3, time.Second }), f.client())
	require.Eventually(t, func() bool { return f.api.Busy() == 3 }, 30*time.Second, 10*time.Millisecond)
	for _, task := range claimed {
		assert.EqualValues(t, 2, f.row(task.ID).Epoch)
	}
}
