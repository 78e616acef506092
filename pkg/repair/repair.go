// Package repair closes stuck tasks batch by batch, and tells what an audit found.
package repair

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/sirupsen/logrus"

	"imagetasks/pkg/lang"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// batch is how many tasks one statement closes.
const batch = 1000

// batchBound is how long a batch may take: more is a connection that died unnoticed, or an app that sits on
// its users' rows.
const batchBound = time.Minute

// Store is what a repair needs of the store.
type Store interface {
	Sweep(ctx context.Context, w store.Sweep) ([]task.Refund, error)
	Stuck(ctx context.Context, w store.Sweep) ([]task.Refund, error)
	CountStuck(ctx context.Context, w store.Sweep) (int, error)
	FailOverdue(ctx context.Context, after time.Duration, limit int) ([]task.Refund, error)
	CountOverdue(ctx context.Context, after time.Duration) (int, error)
}

// Options say what to repair, and how.
type Options struct {
	store.Sweep      // Limit 0: all
	DryRun      bool // change nothing
	Progress    func(done, total int)
}

// Report is what a repair did, or would do.
type Report struct {
	DryRun    bool          `json:"dry_run"`
	Requeued  bool          `json:"requeued"` // back into the queue, instead of failed and refunded
	Tasks     []task.Refund `json:"tasks"`
	Credits   int           `json:"credits_refunded"`
	Remaining int           `json:"stuck_left"`
	Duration  time.Duration `json:"-"`
}

// Rate returns how many tasks a second were repaired.
func (r Report) Rate() float64 {
	if r.Duration <= 0 {
		return 0
	}
	return float64(len(r.Tasks)) / r.Duration.Seconds()
}

// Sweep closes stuck tasks batch by batch, each in one statement, and logs each task. Where ctx ends it stops
// between two batches and returns what was done, with ctx's error; running it again goes on from there.
func Sweep(ctx context.Context, st Store, o Options, log logrus.FieldLogger) (Report, error) {
	began := time.Now()
	done := Report{DryRun: o.DryRun, Requeued: o.Requeue, Tasks: []task.Refund{}}
	total, err := st.CountStuck(ctx, o.Sweep)
	if err != nil {
		return done, err
	}
	most := total
	if o.Limit > 0 {
		most = min(o.Limit, total)
	}
	if o.DryRun {
		o.Limit = most
		stuck, err := st.Stuck(ctx, o.Sweep)
		done.add(stuck)
		done.Remaining = total
		return done, err
	}
	for len(done.Tasks) < most && ctx.Err() == nil {
		o.Limit = min(batch, most-len(done.Tasks))
		// A batch that was begun is waited for, so that what it did is told.
		closed, err := bounded(context.WithoutCancel(ctx), func(ctx context.Context) ([]task.Refund, error) {
			return st.Sweep(ctx, o.Sweep)
		})
		if err != nil {
			return done, err
		}
		if len(closed) == 0 {
			break // others hold or have closed the rest
		}
		done.add(closed)
		for _, r := range closed {
			tell(log, r, o.Requeue)
		}
		done.Duration = time.Since(began)
		if o.Progress != nil {
			o.Progress(len(done.Tasks), most)
		}
	}
	counting, cancel := context.WithTimeout(context.WithoutCancel(ctx), batchBound)
	defer cancel()
	if done.Remaining, err = st.CountStuck(counting, o.Sweep); err != nil {
		return done, err
	}
	return done, ctx.Err()
}

// OverdueResult is what became of tasks that waited for too long.
type OverdueResult struct {
	Count   int `json:"count"` // failed, or would be in a dry run
	Credits int `json:"credits_refunded"`
}

// FailOverdue fails and refunds the tasks that were due for longer than after, batch by batch, and logs each task. Where ctx
// ends it stops between two batches, as Sweep does.
func FailOverdue(ctx context.Context, st Store, after time.Duration, dryRun bool, log logrus.FieldLogger) (OverdueResult, error) {
	var done OverdueResult
	if dryRun {
		var err error
		done.Count, err = st.CountOverdue(ctx, after)
		return done, err
	}
	for ctx.Err() == nil {
		closed, err := bounded(context.WithoutCancel(ctx), func(ctx context.Context) ([]task.Refund, error) {
			return st.FailOverdue(ctx, after, batch)
		})
		if err != nil {
			return done, err
		}
		for _, r := range closed {
			done.Count++
			done.Credits += r.Credits
			closing(log, r).Info("due for longer than PENDING_TIMEOUT: failed and refunded")
		}
		if len(closed) < batch {
			return done, nil
		}
	}
	return done, ctx.Err()
}

func bounded(ctx context.Context, close func(context.Context) ([]task.Refund, error)) ([]task.Refund, error) {
	ctx, cancel := context.WithTimeout(ctx, batchBound)
	defer cancel()
	return close(ctx)
}

func tell(log logrus.FieldLogger, r task.Refund, requeued bool) {
	if requeued {
		entry(log, r).Info("stuck: put back into the queue")
		return
	}
	closing(log, r).Info("stuck: failed and refunded")
}

func entry(log logrus.FieldLogger, r task.Refund) *logrus.Entry {
	return log.WithFields(logrus.Fields{"task": r.TaskID, "user": r.UserID, "age": r.Age.Round(time.Second)})
}

// closing is entry with what closing the task gave back.
func closing(log logrus.FieldLogger, r task.Refund) *logrus.Entry {
	e := entry(log, r).WithField("refund", r.Credits)
	if r.Balance != nil {
		e = e.WithField("balance", *r.Balance)
	}
	return e
}

func (r *Report) add(refunds []task.Refund) {
	r.Tasks = append(r.Tasks, refunds...)
	for _, refund := range refunds {
		r.Credits += refund.Credits
	}
}

// PrintAudit writes the verdict for people.
func PrintAudit(w io.Writer, rules []store.Rule, l lang.Lang) {
	say := func(text lang.Text, args ...any) { fmt.Fprintln(w, text.In(l, args...)) }
	for _, r := range rules {
		mark := "✓"
		if r.Count > 0 {
			mark = "✗"
		}
		fmt.Fprintf(w, "%s %s\n", mark, ruleTitle(r.Code).In(l))
		for _, f := range r.Violations {
			say(textFinding, orDash(f.UserID), orDash(f.TaskID), f.Detail)
		}
		if more := r.Count - len(r.Violations); more > 0 {
			say(textMore, more)
		}
	}
	if broken := store.CountViolations(rules); broken > 0 {
		say(textFaults, broken)
		return
	}
	say(textPasses)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
