package processor_test

import (
	"context"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/imageapi"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

func TestShutdown_FinishesWithinGrace(t *testing.T) {
	f := newFixture(t)
	release := f.api.BlockResponses()
	stop := f.run(f.config(), f.client())
	ids := f.enqueue("a", "b", "c", "d", "e")
	require.Eventually(t, func() bool { return f.api.Busy() == 3 }, time.Minute, time.Millisecond)
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

// A planned stop lets paid requests finish, however short the grace is; what has sent none is released.
func TestShutdown_PaidRequestsFinish(t *testing.T) {
	f := newFixture(t)
	release := f.api.BlockResponses()
	// The third task waits for its input picture.
	_, err := f.Enqueue(t.Context(), store.EnqueueRequest{UserID: f.user, Prompt: "hat", Cost: 1, Priority: 9})
	require.NoError(t, err)
	ids := f.enqueue("a", "b", "c", "d")
	f.exec(`update imagetasks.tasks set priority = 9`)
	client := generatorOf(f.client(), func(ctx context.Context, r imageapi.Request) error {
		if r.Prompt == "hat" {
			<-ctx.Done()
			return &task.Error{Code: task.CodeShutdown, Disposition: task.Release, NotSent: true, Message: "interrupted"}
		}
		return nil
	})
	stop := f.run(f.config(func(c *processor.Config) { c.ShutdownGrace, c.Lease = time.Millisecond, time.Second }), client)
	f.seen(processor.EventClaimed, 3)
	require.Eventually(t, func() bool { return f.api.Busy() == 2 }, time.Minute, time.Millisecond)
	stopped := make(chan struct{})
	go func() { defer close(stopped); stop() }()
	f.seen(processor.EventReleased, 1)
	f.seen(processor.EventLeasesRenewed, f.count(processor.EventLeasesRenewed)+4) // longer than a lease
	release()
	<-stopped
	assert.Equal(t, 2, f.count(processor.EventCompleted))
	assert.Len(t, f.api.Calls(), 2)
	assert.Zero(t, f.count(processor.EventOutcomeUnknown))
	for _, id := range ids[2:] {
		assert.Zero(t, f.row(id).RequestsSent)
	}
	f.requireAudit()
}

// A second signal cuts off paid requests; each is one of unknown outcome.
func TestStopNow_CutsPaidRequests(t *testing.T) {
	f := newFixture(t)
	release := f.api.BlockResponses()
	defer release()
	p := f.processor(f.config(func(c *processor.Config) { c.ShutdownGrace = time.Hour }), f.client())
	stop := f.start(p)
	ids := f.enqueue("a", "b", "c", "d", "e")
	require.Eventually(t, func() bool { return f.api.Busy() == 3 }, time.Minute, time.Millisecond)
	p.StopNow()
	stop()
	sent := 0
	for _, id := range ids {
		r := f.row(id)
		assert.Equal(t, task.Pending, r.State)
		assert.Zero(t, r.Attempts)
		assert.Zero(t, r.Refunded)
		sent += r.RequestsSent
	}
	assert.Equal(t, 3, sent)
	var unknown int
	require.NoError(t, f.raw.QueryRow(`select sum(unknown_outcomes) from imagetasks.tasks`).Scan(&unknown))
	assert.Equal(t, 3, unknown)
	f.requireAudit()
}

func TestStopNow_EndsGrace(t *testing.T) {
	f := newFixture(t)
	defer f.api.BlockResponses()()
	p := f.processor(f.config(func(c *processor.Config) { c.ShutdownGrace = time.Hour }), f.client())
	stop := f.start(p)
	id := f.enqueue("a")[0]
	require.Eventually(t, func() bool { return f.api.Busy() == 1 }, time.Minute, time.Millisecond)
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
	closeBroke := sync.OnceFunc(func() { close(broke) })
	client := generatorFunc(func(ctx context.Context, r imageapi.Request, _ io.Writer) error {
		if r.Prompt == "breaks" {
			closeBroke()
			return &task.Error{Code: task.CodeNetwork, Disposition: task.Retry, Unknown: true, Message: "broken"}
		}
		<-ctx.Done()
		return &task.Error{Code: task.CodeShutdown, Disposition: task.Release, Message: "the attempt was cancelled"}
	})
	ids := f.enqueue("holds", "holds", "breaks")
	p := f.processor(f.config(func(c *processor.Config) { c.ShutdownGrace = time.Millisecond }), client)
	stop := f.start(p)
	<-broke
	f.seen(processor.EventClaimed, 3)
	p.StopNow()
	stop()
	for _, id := range ids {
		assert.Equal(t, task.Pending, f.row(id).State)
		assert.Zero(t, f.row(id).Attempts)
	}
	f.requireAudit()
}
