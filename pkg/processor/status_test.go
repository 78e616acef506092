package processor_test

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/simapi"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/task"
)

func TestStatus_APIUnreachable(t *testing.T) {
	f := newFixture(t)
	p := f.processor(f.config(), f.client())
	f.enqueue("a", "[moderation]")
	f.api.Refuse(&simapi.Refusal{Status: 403})
	assert.ErrorIs(t, p.RunOnce(t.Context()), processor.ErrAPIUnavailable)
	s := p.Status()
	assert.Equal(t, task.CodeForbidden, s.APIErrorCode)
	assert.False(t, s.APIUnreachableSince.IsZero())
	assert.Positive(t, s.Counts[processor.EventReleased])
	assert.Zero(t, s.InFlight)
	assert.False(t, errors.Is(nil, processor.ErrAPIUnavailable))
}

func TestProcessor_Progress(t *testing.T) {
	f := newFixture(t)
	p := f.processor(f.config(), f.client())
	assert.Empty(t, p.Progress())
	release := sync.OnceFunc(f.api.BlockResponses())
	defer release()
	ids := f.enqueue("a", "b")
	stop := f.start(p)
	defer stop()
	require.Eventually(t, func() bool {
		progress := p.Progress()
		for _, in := range progress {
			if in.Stage != "waiting for the API" || in.Epoch != 1 || !slices.Contains(ids, in.TaskID) {
				return false
			}
		}
		return len(progress) == 2
	}, 30*time.Second, 10*time.Millisecond)
	release()
	f.seen(processor.EventCompleted, 2)
}
