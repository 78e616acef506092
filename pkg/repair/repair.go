// Package repair closes stuck tasks batch by batch, and tells what an audit found.
package repair

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/sirupsen/logrus"

	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// batch is how many tasks one statement closes.
const batch = 1000

// Report is what a sweep did, or would do.
type Report struct {
	DryRun  bool          `json:"dry_run"`
	Tasks   []task.Refund `json:"tasks"`
	Credits int           `json:"credits_refunded"`
	Left    int           `json:"stuck_left"`
}

// Sweep closes stuck tasks batch by batch; 0 as limit means all of them.
func Sweep(ctx context.Context, st *store.Store, olderThan time.Duration, limit int, dryRun bool, log logrus.FieldLogger) (Report, error) {
	done := Report{DryRun: dryRun, Tasks: []task.Refund{}}
	most := limit
	if most == 0 {
		most = 1 << 30
	}
	if dryRun {
		stuck, err := st.Stuck(ctx, olderThan, most)
		done.add(stuck)
		done.Left = len(stuck)
		return done, err
	}
	for len(done.Tasks) < most {
		closed, err := st.Sweep(ctx, olderThan, min(batch, most-len(done.Tasks)))
		if err != nil {
			return done, err
		}
		if len(closed) == 0 {
			break
		}
		done.add(closed)
		for _, r := range closed {
			entry := log.WithFields(logrus.Fields{"task": r.TaskID, "user": r.UserID, "age": r.Age.Round(time.Second), "refund": r.Credits})
			if r.Balance != nil {
				entry = entry.WithField("balance", *r.Balance)
			}
			entry.Info("stuck: failed and refunded")
		}
	}
	q, err := st.Queue(ctx, olderThan)
	done.Left = q.Stuck
	return done, err
}

func (r *Report) add(refunds []task.Refund) {
	r.Tasks = append(r.Tasks, refunds...)
	for _, refund := range refunds {
		r.Credits += refund.Credits
	}
}

// PrintAudit writes the verdict for people.
func PrintAudit(w io.Writer, rules []store.Rule) {
	for _, r := range rules {
		mark := "✓"
		if r.Broken > 0 {
			mark = "✗"
		}
		fmt.Fprintf(w, "%s %s\n", mark, r.Name)
		for _, f := range r.Findings {
			fmt.Fprintf(w, "    user %s task %s: %s\n", orDash(f.UserID), orDash(f.TaskID), f.Detail)
		}
		if more := r.Broken - len(r.Findings); more > 0 {
			fmt.Fprintf(w, "    and %d more\n", more)
		}
	}
	if broken := store.Broken(rules); broken > 0 {
		fmt.Fprintf(w, "the audit found %d faults\n", broken)
		return
	}
	fmt.Fprintf(w, "the audit passes: no credit is lost and none was given twice\n")
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
