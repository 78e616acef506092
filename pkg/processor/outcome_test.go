package processor_test

import (
	"context"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/imageapi"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/task"
)

func TestOutcome_FailsAfterLastAttempt(t *testing.T) {
	f := newFixture(t)
	id := f.enqueue("[500] x")[0]
	f.run(f.config(), f.client())
	for n := range 2 {
		f.seen(processor.EventRetried, n+1)
		f.exec(`update imagetasks.tasks set run_after = now()`) // sooner than the backoff
	}
	f.seen(processor.EventFailed, 1)
	r := f.row(id)
	assert.Equal(t, 3, r.Attempts)
	assert.EqualValues(t, 1, r.Refunded)
	assert.Equal(t, task.CodeServer, r.ErrorCode)
	assert.Len(t, f.api.Calls(), 3, "only the queue retries")
	f.requireAudit()
}

// No text in an error may keep the database from recording the outcome.
func TestOutcome_SanitizesMessage(t *testing.T) {
	f := newFixture(t)
	id := f.enqueue("x")[0]
	require.NoError(t, f.once(f.config(), generatorFunc(func(context.Context, imageapi.Request, io.Writer) error {
		return &task.Error{Code: task.CodeBadAnswer, Message: "a\x00b\xff" + strings.Repeat("ü", 5000)}
	})))
	r := f.row(id)
	assert.Equal(t, task.Failed, r.State)
	assert.True(t, strings.HasPrefix(r.Error, "a?b?üü"))
	assert.Less(t, len(r.Error), 2100)
}
