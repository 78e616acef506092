package taskprocessor

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/sirupsen/logrus"

	"imagetasks/pkg/bridgesync"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/store"
)

// errBridgeOwes means that a run that ends by itself could not write the ends of all tasks to the application's tables.
var errBridgeOwes = errors.New("the ends of tasks are still to be written to the application's tables; to see them run: task-processor adopt --check")

// bridgeRun runs a processor with the bridge beside it. What fails in the bridge does not stop the processor.
type bridgeRun struct {
	service *bridgesync.Service
	store   *store.Store
	log     logrus.FieldLogger
	ending  atomic.Bool // the last writes are being made
}

// newBridge returns the bridge. progress returns that of the tasks in flight.
func newBridge(st *store.Store, progress func() []store.BridgeProgress, log logrus.FieldLogger) (*bridgeRun, error) {
	service, err := bridgesync.New(bridgesync.Config{Store: st, Progress: progress, Log: log})
	if err != nil {
		return nil, err
	}
	return &bridgeRun{service: service, store: st, log: log}, nil
}

// observe lets the bridge write the end of a task at once.
func (b *bridgeRun) observe(e processor.Event) {
	switch e.Kind {
	case processor.EventCompleted, processor.EventFailed, processor.EventAbandoned, processor.EventOverdue:
		b.service.Closed()
	}
}

// busy returns 1 while the last writes are made, which need connections.
func (b *bridgeRun) busy() int {
	if b.ending.Load() {
		return 1
	}
	return 0
}

// beside runs the bridge while work runs. The end of ctx does not stop it, because work records outcomes after that.
func (b *bridgeRun) beside(ctx context.Context, work func() error) error {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		b.service.Run(ctx)
	}()
	defer func() {
		b.ending.Store(true)
		cancel()
		<-ended
		b.ending.Store(false)
	}()
	return work()
}

// run runs the processor until ctx ends.
func (b *bridgeRun) run(ctx context.Context, p *processor.Processor) error {
	return b.beside(ctx, func() error { return p.Run(ctx) })
}

// runOnce runs the processor until nothing is pending: first the bridge takes over what the application has inserted, and at last it writes the ends of
// all tasks. It returns errBridgeOwes if some are left.
func (b *bridgeRun) runOnce(ctx context.Context, p *processor.Processor) error {
	if err := bridgesync.Prepare(ctx, b.store, b.log); err != nil && ctx.Err() == nil {
		b.log.WithError(err).Warn("what the application has inserted can't be read; going on without it")
	}
	if err := b.beside(ctx, func() error { return p.RunOnce(ctx) }); err != nil || ctx.Err() != nil {
		return err
	}
	done, err := bridgesync.Drain(ctx, b.store, b.log)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", errBridgeOwes, err)
	case done.Owed > 0:
		return fmt.Errorf("%w (%d)", errBridgeOwes, done.Owed)
	}
	return nil
}
