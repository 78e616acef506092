package processor_test

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/imageapi"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/task"
)

func TestShutdown_FinishesWithinGrace(t *testing.T) {
	f := newFixture(t)
	release := f.api.BlockResponses()
	stop := f.run(f.config(), f.client())
	ids := f.enqueue("a", "b", "c", "d", "e")
	f.seen(processor.EventClaimed, 3)
	stopped := make(chan struct{})
	go func() { defer close(stopped); stop() }()
	f.stopping()
	release()
	<-stopped
	assert.Equal(t, 3, f.count(processor.EventCompleted))
	assert.Equal(t, 3, f.count(processor.EventClaimed), "nothing was claimed after the stop")
	for _, id := range ids[3:] {
		assert.Zero(t, f.row(id).Attempts)
	}
	f.requireAudit()
}

// stopping waits until a processor with tasks in flight has noticed its stop.
func (f *fixture) stopping() {
	f.t.Helper()
	require.Eventually(f.t, func() bool { return strings.Contains(f.log.String(), "stopping: no more tasks are claimed") }, time.Minute, time.Millisecond)
}

func TestShutdown_ReleasesAfterGrace(t *testing.T) {
	f := newFixture(t)
	release := f.api.BlockResponses()
	defer release()
	stop := f.run(f.config(func(c *processor.Config) { c.ShutdownGrace = time.Millisecond }), f.client())
	ids := f.enqueue("a", "b", "c", "d", "e")
	f.seen(processor.EventClaimed, 3)
	stop()
	for _, id := range ids {
		r := f.row(id)
		assert.Equal(t, task.Pending, r.State)
		assert.Zero(t, r.Attempts)
		assert.Zero(t, r.Refunded)
	}
	assert.Empty(t, f.files(), "no draft is left")
	f.requireAudit()
}

func TestStopNow_EndsGrace(t *testing.T) {
	f := newFixture(t)
	defer f.api.BlockResponses()()
	p := f.processor(f.config(func(c *processor.Config) { c.ShutdownGrace = time.Hour }), f.client())
	stop := f.start(p)
	id := f.enqueue("a")[0]
	f.seen(processor.EventClaimed, 1)
	stopped := make(chan struct{})
	go func() { defer close(stopped); stop() }()
	f.stopping()
	p.StopNow()
	p.StopNow()
	<-stopped
	assert.Equal(t, task.Pending, f.row(id).State)
}

// A stop while the engine waits whether other attempts fail, too, uses no attempt.
func TestShutdown_DuringSharedFailureCheck(t *testing.T) {
	f := newFixture(t)
	broke := make(chan struct{})
	client := generatorFunc(func(ctx context.Context, r imageapi.Request, _ io.Writer) error {
		if r.Prompt == "breaks" {
			close(broke)
			return &task.Error{Code: task.CodeNetwork, Disposition: task.Retry, Message: "broken"}
		}
		<-ctx.Done()
		return &task.Error{Code: task.CodeShutdown, Disposition: task.Release, Message: "the attempt was cancelled"}
	})
	ids := f.enqueue("holds", "holds", "breaks")
	stop := f.run(f.config(func(c *processor.Config) { c.ShutdownGrace = time.Millisecond }), client)
	<-broke
	f.seen(processor.EventClaimed, 3)
	stop()
	for _, id := range ids {
		assert.Equal(t, task.Pending, f.row(id).State)
		assert.Zero(t, f.row(id).Attempts)
	}
	f.requireAudit()
}
