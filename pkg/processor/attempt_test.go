package processor_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/simapi"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

func TestAttempt_Timeout(t *testing.T) {
	f := newFixture(t)
	id := f.enqueue("[hang once] x")[0]
	f.run(f.config(func(c *processor.Config) { c.TaskTimeout = 2 * time.Second }), f.client())
	f.seen(processor.EventOutcomeUnknown, 1)
	f.seen(processor.EventReleased, 1)
	assert.Equal(t, task.CodeTimeout, f.row(id).ErrorCode)
	f.exec(`update imagetasks.tasks set run_after = now()`)
	f.seen(processor.EventCompleted, 1)
}

func TestAttempt_InputPicture(t *testing.T) {
	f := newFixture(t)
	_, err := f.Enqueue(t.Context(), store.EnqueueRequest{UserID: f.user, Prompt: "hat", Cost: 1, Inputs: []task.Input{{Content: []byte("no picture")}}})
	require.NoError(t, err)
	_, err = f.Enqueue(t.Context(), store.EnqueueRequest{UserID: f.user, Prompt: "hat", Cost: 1,
		Inputs: []task.Input{{Content: simapi.Draw("a hat")}}})
	require.NoError(t, err)
	require.NoError(t, f.once(f.config(), f.client()))
	assert.Equal(t, 1, f.count(processor.EventCompleted))
	assert.Equal(t, 1, f.count(processor.EventFailed))
	require.Len(t, f.api.Calls(), 1)
	assert.Len(t, f.api.Calls()[0].Inputs, 1)
	f.requireAudit()
}
