package processor_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/simapi"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/task"
)

func TestRunOnce_CompletesAndRefunds(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var prompts []string
	for i := range 10 {
		prompts = append(prompts, fmt.Sprintf("picture %d", i))
	}
	ids := f.enqueue(append(prompts, "[moderation] x", "[500 once] x", "[429 once] x", "[html] x", "[text] x")...)
	require.NoError(t, f.once(f.config(), f.client()))

	states, err := f.CountByState(t.Context())
	require.NoError(t, err)
	assert.Equal(t, map[task.State]int{task.Completed: 12, task.Failed: 3, task.Pending: 0, task.Processing: 0, task.Cancelled: 0}, states)
	balance, err := f.Balance(t.Context(), f.user)
	require.NoError(t, err)
	assert.EqualValues(t, 10000-12, balance)
	assert.Len(t, f.files(), 12)
	for _, call := range f.api.Calls() {
		assert.True(t, f.proxy.Carried(call.Remote))
	}
	for i, id := range ids[:10] {
		r := f.row(id)
		kept, err := os.ReadFile(filepath.Join(filepath.Dir(f.pictures.Dir()), r.ImageURL))
		require.NoError(t, err)
		assert.Equal(t, simapi.Draw(prompts[i]), kept)
		assert.Zero(t, r.Attempts)
		assert.Equal(t, 1, r.RequestsSent)
		assert.NotEmpty(t, r.RequestID)
	}
	for i, want := range []struct {
		state              task.State
		code               task.Code
		attempts, requests int
	}{
		{task.Failed, task.CodeModeration, 1, 1}, {task.Completed, "", 1, 2}, {task.Completed, "", 0, 2},
		{task.Failed, task.CodeOutcomeUnknown, 0, 2}, {task.Failed, task.CodeNotAPicture, 1, 1},
	} {
		r := f.row(ids[10+i])
		assert.Equal(t, want.state, r.State, "%+v", r)
		assert.Equal(t, want.code, r.ErrorCode, "%+v", r)
		assert.Equal(t, want.attempts, r.Attempts, "%+v", r)
		assert.Equal(t, want.requests, r.RequestsSent, "%+v", r)
	}
	f.requireAudit()
}

func TestRunOnce_APIUnavailable(t *testing.T) {
	f := newFixture(t)
	f.api.Refuse(&simapi.Refusal{Status: 401})
	ids := f.enqueue("a", "b", "c", "d")
	err := f.once(f.config(), f.client())
	assert.ErrorIs(t, err, processor.ErrAPIUnavailable)
	var cause *task.Error
	require.ErrorAs(t, err, &cause)
	assert.Equal(t, task.CodeUnauthorized, cause.Code)
	for _, id := range ids {
		assert.Equal(t, task.Pending, f.row(id).State)
		assert.Zero(t, f.row(id).Attempts)
	}
}
