package processor_test

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"

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
