package store_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"imagetasks/pkg/store"
)

func TestListen_WakesOnEnqueueAndRelease(t *testing.T) {
	b := fresh(t)
	user := b.user(5)
	ctx, cancel := context.WithCancel(b.ctx)
	woken := make(chan struct{}, 100)
	var wg sync.WaitGroup
	wg.Go(func() { b.Listen(ctx, func() { woken <- struct{}{} }, nil) })
	<-woken // subscribed

	b.enqueue(user, 3, 1)
	<-woken
	held := b.claim(1)
	requireHeld(t)(b.Release(b.ctx, store.ReleaseRequest{Lease: held[0].Lease(), Wait: time.Hour}))
	held = b.claim(1)
	requireHeld(t)(b.Release(b.ctx, store.ReleaseRequest{Lease: held[0].Lease()}))
	<-woken
	b.exec(`insert into imagetasks.tasks (task_id, user_id, prompt, status) values ('done', $1, 'x', 'completed')`, user)
	b.exec(`select pg_notify('imagetasks_tasks', '')`)
	<-woken
	cancel()
	wg.Wait()
	assert.Empty(t, woken, "only tasks that are due now wake")
}
