package processor

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"imagetasks/pkg/store"
)

// loopWatch tracks whether the claim loop makes progress. It is safe for concurrent use.
type loopWatch struct {
	timeout time.Duration // without progress, after which the loop counts as stalled

	mu         sync.Mutex
	progressAt time.Time
	ended      bool
}

// progress records that the loop made progress.
func (w *loopWatch) progress() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.progressAt = time.Now()
}

// end records that the loop ended as intended. From then on it is not stalled.
func (w *loopWatch) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
}

// stalled reports whether the loop made no progress for too long.
func (w *loopWatch) stalled() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.ended && time.Since(w.progressAt) >= w.timeout
}

// heartbeats records in the database that this processor is running, as long as its claim loop makes progress.
type heartbeats struct {
	queue     Queue
	processor store.Processor // without its report
	report    func() any
	interval  time.Duration
	loop      *loopWatch
	database  *databaseState
	events    *eventRecorder
	log       logrus.FieldLogger

	mu     sync.Mutex
	lastAt time.Time
}

// run records heartbeats until ctx ends.
func (h *heartbeats) run(ctx context.Context) {
	every(ctx, h.interval, func() { h.record(ctx) })
}

func (h *heartbeats) record(ctx context.Context) {
	if h.loop.stalled() {
		h.log.Error("the claim loop is stalled; no heartbeat is recorded")
		return
	}
	err := h.write(ctx)
	if err != nil && store.IsUnavailable(err) && ctx.Err() == nil {
		h.database.failed(ctx, "record a heartbeat", err)
		err = h.write(ctx) // at once, on a new connection
	}
	if err != nil {
		h.database.failed(ctx, "record a heartbeat", err)
		return
	}
	h.database.succeeded()
	h.mu.Lock()
	h.lastAt = time.Now()
	h.mu.Unlock()
	h.events.record(Event{Kind: EventHeartbeat})
}

// One try to record a heartbeat may take as long as the interval, within these bounds.
const minHeartbeatTimeout, maxHeartbeatTimeout = time.Second, 10 * time.Second

func (h *heartbeats) write(ctx context.Context) error {
	p := h.processor
	p.TaskDuration = h.events.taskDuration()
	var err error
	if p.Report, err = json.Marshal(h.report()); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, min(max(h.interval, minHeartbeatTimeout), maxHeartbeatTimeout))
	defer cancel()
	return h.queue.RecordHeartbeat(ctx, p)
}

// last returns when the last heartbeat was recorded, or the zero time.
func (h *heartbeats) last() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.lastAt
}

// deregister records that this processor stopped as intended.
func (h *heartbeats) deregister(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Second) // a stop must not wait long for it
	defer cancel()
	if err := h.queue.Deregister(ctx, h.processor.Worker); err != nil {
		h.log.WithError(err).Warn("could not record in the database that this processor stops")
	}
}

// every calls f at once and then at each interval, until ctx ends.
func every(ctx context.Context, interval time.Duration, f func()) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for ctx.Err() == nil {
		f()
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}
