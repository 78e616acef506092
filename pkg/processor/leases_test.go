package processor_test

import (
	"context"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/simapi"
	"imagetasks/pkg/imageapi"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/task"
)

// A processor that did not renew its lease in time completes a task that another one claimed and completed meanwhile: its
// completion is refused. The other's picture is that of the run, and stays.
func TestLeases_LateResultDiscarded(t *testing.T) {
	f := newFixture(t)
	proceed := make(chan struct{})
	var calls sync.Map
	client := generatorFunc(func(_ context.Context, _ imageapi.Request, w io.Writer) error {
		if _, second := calls.LoadOrStore("first", true); !second {
			<-proceed // ignores ctx, as a suspended process does
		}
		_, err := w.Write(simapi.Draw("x"))
		return err
	})
	// With a lease of an hour this processor renews nothing meanwhile. It has no room to claim the task again itself.
	f.run(f.config(func(c *processor.Config) { c.Lease, c.Concurrency = time.Hour, 1 }), client)
	resume := sync.OnceFunc(func() { close(proceed) })
	t.Cleanup(resume)
	id := f.enqueue("x")[0]
	f.seen(processor.EventClaimed, 1)
	f.exec(`update imagetasks.tasks set lease_expires_at = now() - interval '1 second'`)
	other := newFixtureBeside(f)
	require.NoError(t, f.processor(other.config(func(c *processor.Config) { c.Worker = "other" }), client).
		RunOnce(stopWhenCompleted(other)))
	before := f.row(id)
	require.Equal(t, task.Completed, before.State)
	resume()
	f.seen(processor.EventLeaseLost, 1)
	assert.Equal(t, before, f.row(id))
	assert.Equal(t, []string{before.ImageURL}, f.files())
	f.requireAudit()
}

// newFixtureBeside returns a fixture with its own events; the rest is shared with f.
func newFixtureBeside(f *fixture) *fixture {
	other := &fixture{Store: f.Store, t: f.t, raw: f.raw, log: f.log, logger: f.logger, pictures: f.pictures, events: map[processor.EventKind]int{}}
	other.cond = sync.NewCond(&other.mu)
	return other
}

// stopWhenCompleted returns a context that ends when a task was completed.
func stopWhenCompleted(f *fixture) context.Context {
	ctx, cancel := context.WithCancel(f.t.Context())
	go func() { defer cancel(); f.seen(processor.EventCompleted, 1) }()
	return ctx
}

func TestLeases_CancelledTaskAborted(t *testing.T) {
	f := newFixture(t)
	id := f.enqueue("[hang]")[0]
	f.run(f.config(func(c *processor.Config) { c.Lease = 300 * time.Millisecond }), f.client())
	f.seen(processor.EventClaimed, 1)
	_, err := f.Cancel(t.Context(), id, "")
	require.NoError(t, err)
	f.seen(processor.EventLeaseLost, 1)
	assert.Equal(t, task.Cancelled, f.row(id).State)
	assert.Empty(t, f.files())
	f.requireAudit()
}

func TestLeases_RenewedForLongTask(t *testing.T) {
	f := newFixture(t)
	release := f.api.BlockResponses()
	id := f.enqueue("slow")[0]
	f.run(f.config(func(c *processor.Config) { c.Lease = time.Second }), f.client())
	f.run(f.config(func(c *processor.Config) { c.Lease = time.Second }), f.client())
	f.seen(processor.EventLeasesRenewed, 20) // by both; 3 to 4 renewals are the time of a lease
	assert.Equal(t, "waiting for the API", f.row(id).Stage)
	release()
	f.seen(processor.EventCompleted, 1)
	assert.EqualValues(t, 1, f.row(id).Epoch)
}
