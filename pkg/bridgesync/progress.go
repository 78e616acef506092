package bridgesync

import (
	"context"
	"slices"
	"strings"

	"imagetasks/pkg/store"
)

// progressBatch is how many rows of the application are locked together.
const progressBatch = 20

// written names a claim whose progress was written.
type written struct {
	task  string
	epoch int64
}

// progressWriter writes the progress of the tasks in flight to the application's rows: when a task is new, and when its stage changes. It is used by
// one goroutine.
type progressWriter struct {
	conf    Config
	reports *reporter
	written map[written]string // the stages
	retries retries
}

func (w *progressWriter) run(ctx context.Context, active func() bool) {
	w.retries.shortest = w.conf.ProgressInterval
	for wait := w.conf.ProgressInterval; pause(ctx, wait); {
		wait = w.conf.ProgressInterval
		if !active() {
			clear(w.written)
			continue
		}
		if err := w.write(ctx); err != nil {
			wait = max(wait, w.retries.failed())
		} else {
			w.retries.worked()
		}
	}
}

// write writes what has changed.
func (w *progressWriter) write(ctx context.Context) error {
	const step = "write the progress of tasks to the application's tables"
	for batch := range slices.Chunk(w.changed(w.conf.Progress()), progressBatch) {
		later, err := w.writeBatch(ctx, batch)
		if err != nil {
			w.reports.failed(step, err)
			w.conf.Observe(Event{Kind: EventFailed})
			return err
		}
		w.reports.worked(step)
		for _, p := range batch {
			if slices.Contains(later, p.TaskID) {
				continue
			}
			w.written[written{p.TaskID, p.Epoch}] = p.Stage
			w.conf.Observe(Event{Kind: EventProgress, Task: p.TaskID})
		}
	}
	return nil
}

func (w *progressWriter) writeBatch(ctx context.Context, batch []store.BridgeProgress) (later []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return w.conf.Store.WriteBridgeProgress(ctx, batch...)
}

// changed returns what is to be written, in the order of the tasks' ids, and removes what is not in flight any more.
func (w *progressWriter) changed(inFlight []store.BridgeProgress) []store.BridgeProgress {
	current := make(map[written]bool, len(inFlight))
	var out []store.BridgeProgress
	for _, p := range inFlight {
		claim := written{p.TaskID, p.Epoch}
		current[claim] = true
		if stage, known := w.written[claim]; !known || stage != p.Stage {
			out = append(out, p)
		}
	}
	for claim := range w.written {
		if !current[claim] {
			delete(w.written, claim)
		}
	}
	slices.SortFunc(out, func(a, b store.BridgeProgress) int { return strings.Compare(a.TaskID, b.TaskID) })
	return out
}
