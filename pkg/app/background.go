package app

import (
	"context"
	"sync"
)

// Background runs do until stop is called, which ends its context and waits for it.
func Background(ctx context.Context, do func(ctx context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { do(ctx) })
	return func() {
		cancel()
		running.Wait()
	}
}
