// Package repair closes stuck and overdue tasks, batch by batch.
package repair

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// batch is how many tasks one statement closes. While it runs, an application that charges one of its users waits.
const batch = 2000

// page is how many stuck tasks are listed at once.
const page = 50_000

// batchTimeout bounds a batch. A batch that takes longer waits for a dead connection, or for an application that holds
// locks on its users' rows.
const batchTimeout = time.Minute

// Store is what this package needs of the store.
type Store interface {
	Sweep(ctx context.Context, w store.Sweep) ([]task.Refund, error)
	Stuck(ctx context.Context, w store.Sweep) ([]task.Refund, error)
	StuckIDs(ctx context.Context, w store.Sweep) ([]string, error)
	CountStuck(ctx context.Context, w store.Sweep) (int, error)
	FailOverdue(ctx context.Context, after time.Duration, limit int, call uuid.UUID) ([]task.Refund, error)
	FailSetAside(ctx context.Context, after time.Duration, limit int, call uuid.UUID) ([]task.Refund, error)
	CountOverdue(ctx context.Context, after time.Duration) (int, error)
}

// Options select the tasks and the action.
type Options struct {
	store.Sweep      // Limit 0: all
	DryRun      bool // change nothing
	Progress    func(done, total int)
}

// Report is what a sweep did, or would do.
type Report struct {
	DryRun    bool          `json:"dry_run"`
	Requeued  bool          `json:"requeued"` // back into the queue, instead of failed and refunded
	Tasks     []task.Refund `json:"tasks"`
	Credits   int64         `json:"credits_refunded"`
	Remaining int           `json:"stuck_remaining"`
	// MissingCharges are tasks that say they were charged, while the ledger has no charge to refund.
	MissingCharges []string      `json:"missing_charges,omitempty"`
	Duration       time.Duration `json:"-"`
}

// Rate returns how many tasks were closed per second.
func (r *Report) Rate() float64 {
	if r.Duration <= 0 {
		return 0
	}
	return float64(len(r.Tasks)) / r.Duration.Seconds()
}

// Sweep closes stuck tasks, one statement for each batch, and logs each task. When ctx ends it begins no other batch
// and returns what was done together with ctx's error; another call continues from there.
func Sweep(ctx context.Context, st Store, o Options, log logrus.FieldLogger) (Report, error) {
	began := time.Now()
	done := Report{DryRun: o.DryRun, Requeued: o.Requeue, Tasks: []task.Refund{}}
	total, err := st.CountStuck(ctx, o.Sweep)
	if err != nil {
		return done, err
	}
	if total == 0 && !o.DryRun {
		return done, ctx.Err()
	}
	limit := total
	if o.Limit > 0 {
		limit = min(o.Limit, total)
	}
	if o.DryRun {
		o.Limit = limit
		stuck, err := st.Stuck(ctx, o.Sweep)
		done.add(stuck)
		done.Remaining = total
		return done, err
	}
	record := func(closed []task.Refund) {
		done.add(closed)
		done.Duration = time.Since(began)
		if o.Progress != nil && len(closed) > 0 {
			o.Progress(len(done.Tasks), limit)
		}
		for _, r := range closed {
			logRepair(log, r, o.Requeue)
		}
	}
	for len(done.Tasks) < limit && ctx.Err() == nil {
		before := len(done.Tasks)
		if err := closeSome(ctx, st, o.Sweep, limit-before, record); err != nil {
			return done, err
		}
		if len(done.Tasks) == before {
			break // the rest is locked, or was closed by other processes
		}
	}
	countCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), batchTimeout)
	defer cancel()
	if done.Remaining, err = st.CountStuck(countCtx, o.Sweep); err != nil {
		if ctx.Err() == nil {
			return done, err
		}
		done.Remaining = max(total-len(done.Tasks), 0) // an interrupt may leave no time to count again
	}
	return done, ctx.Err()
}

// closeSome closes up to limit stuck tasks, and passes those of each batch to record. If ctx ends, it returns after the batches that have begun, so that
// their refunds are recorded.
func closeSome(ctx context.Context, st Store, w store.Sweep, limit int, record func([]task.Refund)) error {
	bounded := context.WithoutCancel(ctx)
	if w.Limit = min(limit, batch); limit <= batch {
		closed, err := withTimeout(bounded, func(ctx context.Context) ([]task.Refund, error) { return st.Sweep(ctx, w) })
		record(closed)
		return err
	}
	// No index has the tasks in the order of their start: they are listed once for many batches.
	listed := w
	listed.Limit = min(limit, page)
	ids, err := withTimeout(bounded, func(ctx context.Context) ([]string, error) { return st.StuckIDs(ctx, listed) })
	if err != nil {
		return err
	}
	return closeListed(ctx, ids, record, func(ids []string) ([]task.Refund, error) {
		w := w
		w.Tasks = ids
		return withTimeout(bounded, func(ctx context.Context) ([]task.Refund, error) { return st.Sweep(ctx, w) })
	})
}

// closeListed closes tasks that are listed user by user, with two batches at a time: one from the front and one from the back, so that they share no user
// whose row one of them would have locked. The batches that have ended are recorded meanwhile.
func closeListed(ctx context.Context, ids []string, record func([]task.Refund), closeBatch func([]string) ([]task.Refund, error)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var mu sync.Mutex
	cut := func(front bool) (next []string) {
		mu.Lock()
		defer mu.Unlock()
		n := min(batch, len(ids))
		if front {
			next, ids = ids[:n], ids[n:]
		} else {
			ids, next = ids[:len(ids)-n], ids[len(ids)-n:]
		}
		return next
	}
	type result struct {
		closed []task.Refund
		err    error
	}
	results := make(chan result)
	var closing sync.WaitGroup
	for _, front := range []bool{true, false} {
		closing.Go(func() {
			for ctx.Err() == nil {
				next := cut(front)
				if len(next) == 0 {
					return
				}
				closed, err := closeBatch(next)
				results <- result{closed, err}
			}
		})
	}
	go func() {
		closing.Wait()
		close(results)
	}()
	var errs []error
	for r := range results {
		record(r.closed)
		if r.err != nil {
			errs = append(errs, r.err)
			cancel()
		}
	}
	return errors.Join(errs...)
}

// OverdueResult is what FailOverdue did.
type OverdueResult struct {
	Count   int   `json:"count"` // tasks that failed, or would fail in a dry run
	Credits int64 `json:"credits_refunded"`
	// MissingCharges are tasks that say they were charged, while the ledger has no charge to refund.
	MissingCharges []string `json:"missing_charges,omitempty"`
}

// FailOverdue fails and refunds the tasks that are due for longer than after, batch by batch, and logs each task. When ctx
// ends it stops between two batches, as Sweep does.
func FailOverdue(ctx context.Context, st Store, after time.Duration, dryRun bool, log logrus.FieldLogger) (OverdueResult, error) {
	// Counting is cheap. Where it fails because of one task, the others are closed nevertheless.
	due, err := st.CountOverdue(ctx, after)
	if dryRun {
		return OverdueResult{Count: due}, err
	}
	if err == nil && due == 0 {
		return OverdueResult{}, nil
	}
	return closeAll(ctx, log, "failed: it was due for longer than PENDING_TIMEOUT", func(ctx context.Context, call uuid.UUID) ([]task.Refund, error) {
		return st.FailOverdue(ctx, after, batch, call)
	})
}

// FailSetAside fails and refunds the tasks that have been set aside for longer than after, batch by batch, and logs each task.
func FailSetAside(ctx context.Context, st Store, after time.Duration, log logrus.FieldLogger) (OverdueResult, error) {
	return closeAll(ctx, log, "set aside for too long: failed", func(ctx context.Context, call uuid.UUID) ([]task.Refund, error) {
		return st.FailSetAside(ctx, after, batch, call)
	})
}

// closeAll closes tasks batch by batch until there are none.
func closeAll(ctx context.Context, log logrus.FieldLogger, what string, next func(context.Context, uuid.UUID) ([]task.Refund, error)) (OverdueResult, error) {
	var done OverdueResult
	for ctx.Err() == nil {
		closed, err := withTimeout(context.WithoutCancel(ctx), func(ctx context.Context) ([]task.Refund, error) { return next(ctx, uuid.Nil) })
		if err != nil {
			return done, err
		}
		for _, r := range closed {
			done.Count++
			done.Credits += r.Credits
			if r.MissingCharge {
				done.MissingCharges = append(done.MissingCharges, r.TaskID)
			}
			logClosed(log, r, what)
		}
		if len(closed) == 0 { // a batch may be smaller than its limit because rows are locked
			return done, nil
		}
	}
	return done, ctx.Err()
}

func withTimeout[T any](ctx context.Context, run func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, batchTimeout)
	defer cancel()
	return run(ctx)
}

func logRepair(log logrus.FieldLogger, r task.Refund, requeued bool) {
	if requeued {
		entry(log, r).Info("stuck: requeued")
		return
	}
	logClosed(log, r, "stuck: failed")
}

// logClosed logs a closed task. It says "refunded" only if credits were given back.
func logClosed(log logrus.FieldLogger, r task.Refund, what string) {
	e := entry(log, r).WithField("refund", r.Credits)
	if r.Balance != nil {
		e = e.WithField("balance", *r.Balance)
	}
	if r.Credits > 0 {
		what += " and refunded"
	}
	e.Info(what)
	if r.MissingCharge {
		e.Error(task.ErrMissingCharge)
	}
}

func entry(log logrus.FieldLogger, r task.Refund) *logrus.Entry {
	return log.WithFields(logrus.Fields{"task": r.TaskID, "user": r.UserID, "age": r.Age.Round(time.Second)})
}

func (r *Report) add(refunds []task.Refund) {
	r.Tasks = append(r.Tasks, refunds...)
	for _, refund := range refunds {
		r.Credits += refund.Credits
		if refund.MissingCharge {
			r.MissingCharges = append(r.MissingCharges, refund.TaskID)
		}
	}
}
