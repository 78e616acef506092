package dashboard

import (
	"slices"
	"time"

	"imagetasks/pkg/finding"
	"imagetasks/pkg/health"
	"imagetasks/pkg/lang"
	"imagetasks/pkg/overview"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// document makes a document of what was read. Lists are empty, not null.
func (c Config) document(p contents, now time.Time) Document {
	zone, offset := now.In(c.Zone).Zone()
	d := Document{TimeZone: TimeZone{Name: zone, OffsetMinutes: offset / 60}, Version: c.Version, Host: c.Host, ServedBy: c.ServedBy,
		Database: Database{OK: p.failingSince.IsZero(), Since: p.failingSince, Error: p.failure},
		Tasks:    p.tasks(), OldestDue: p.queue.OldestDue.Seconds(), Paused: p.pauses(), Processors: listProcessors(p.found),
		HealthChecks: append([]health.Check{}, c.Checks()...), Recent: p.recentlyClosed(), Days: append([]Day{}, p.days...), Bridge: p.bridge, Webhooks: p.webhooks}
	if !p.readAt.IsZero() {
		d.AsOf = p.closed.Now.In(c.Zone)
	}
	if len(d.HealthChecks) > health.Kept {
		d.HealthChecks = d.HealthChecks[:health.Kept]
	}
	d.addCircuits(p.found)
	d.markPaused()
	d.Problems = c.problems(p, now)
	d.Well = d.Database.OK && len(d.Problems) == 0
	d.Failures = c.failures(p)
	return d
}

func (p contents) tasks() Tasks {
	q, f := p.queue, p.closed
	t := Tasks{Due: q.Due, Later: q.Pending - q.Due, Processing: max(0, q.Processing-q.Stuck), Stuck: q.Stuck,
		Completed: f.Completed, Failed: f.Failed, Cancelled: f.Cancelled, ClosedWindow: "24h"}
	for _, g := range p.tail {
		switch g.State {
		case task.Completed:
			t.Completed += g.Count
		case task.Failed:
			t.Failed += g.Count
		case task.Cancelled:
			t.Cancelled += g.Count
		}
	}
	return t
}

func (p contents) pauses() []Pause {
	out := []Pause{}
	if p.control.Copied && p.control.PausedAt.IsZero() {
		out = append(out, Pause{Scope: string(store.ScopeQueue)})
	}
	for _, of := range p.control.Pauses() {
		out = append(out, Pause{Scope: string(of.Scope), Name: of.Name, Since: of.Since, By: of.By, Reason: of.Reason})
	}
	return out
}

func (p contents) recentlyClosed() []Recent {
	out := []Recent{}
	for _, t := range p.recent {
		out = append(out, Recent{TaskID: t.ID, UserID: t.UserID, Status: t.State, Model: t.Model, ErrorCode: string(t.ErrorCode), Seconds: t.Took.Seconds(), At: t.At,
			HasPicture: t.HasPicture})
	}
	return out
}

func listProcessors(found []overview.Processor) []Processor {
	out := []Processor{}
	for _, p := range found {
		r := p.Report
		listed := Processor{Worker: p.Worker, Host: p.Host, PID: p.PID, Version: p.Version, Alive: p.Alive, Started: p.StartedAt, SilentSeconds: p.SilentSeconds,
			Concurrency: r.Concurrency, Completed: r.Counts[processor.EventCompleted], Failed: r.Counts[processor.EventFailed], LeasesFailing: r.LeasesFailingSince}
		if p.Alive {
			listed.InFlight, listed.PaidRequests = r.InFlight, r.PaidRequests
		}
		out = append(out, listed)
	}
	slices.SortStableFunc(out, func(a, b Processor) int {
		switch {
		case a.Alive == b.Alive:
			return 0
		case a.Alive:
			return -1
		}
		return 1
	})
	return out
}

// problems are those of overview.Assess, as every other place shows them.
func (c Config) problems(p contents, now time.Time) []Problem {
	var found []finding.Finding
	if !p.failingSince.IsZero() {
		found = append(found, finding.Finding{Code: finding.DatabaseUnavailable, Since: p.failingSince, Reason: p.failure})
	}
	s := overview.Snapshot{Now: now, Host: c.Host, Local: p.local, Processors: p.found, Queue: p.queue, Control: p.control, Unsettled: p.unsettled, SetAside: p.aside,
		Bridge: p.bridge, Webhooks: p.webhooks, EndpointsFault: c.EndpointsFault, BacklogAfter: c.BacklogAfter, Disks: p.disks}
	if c.APICheck != nil {
		s.APICheck = c.APICheck()
	}
	s.Closed = p.hour.Completed + p.hour.Failed
	for _, g := range p.tail {
		if g.State != task.Cancelled {
			s.Closed += g.Count
		}
	}
	for _, f := range mergeFailures(p.hourFailures, p.tail, shownFailures) {
		s.Failures = append(s.Failures, store.FailureCount{Code: f.Code, Count: f.Count})
	}
	found = append(found, overview.Assess(s)...)
	out := []Problem{}
	for _, f := range found {
		problem := Problem{Code: string(f.Code), Severity: severity(f.Code), Subject: f.Subject, Since: f.Since,
			What: Text{f.Text(lang.EN), f.Text(lang.ZH)}, Hint: hint(f.Cause)}
		if next := f.Next(); !next.IsZero() {
			problem.Do = c.CommandLine(next)
		}
		out = append(out, problem)
	}
	return out
}

// severity returns how urgent a problem is.
func severity(code finding.Code) Severity {
	if code.Severity() == finding.Error {
		return SeverityError
	}
	return SeverityWarning
}

// hint returns how to fix the cause of a failure; nil: there is no hint.
func hint(code task.Code) *Text {
	h, ok := finding.HintFor(code)
	if !ok {
		return nil
	}
	t := NewText(h.Fix)
	return &t
}

func (c Config) failures(p contents) []Failure {
	out := []Failure{}
	for _, g := range p.allFailures() {
		f := Failure{Code: string(g.Code), Count: g.Count, Hint: hint(g.Code), Examples: []Example{}}
		if h, ok := finding.HintFor(g.Code); ok {
			what := NewText(h.Cause)
			f.What = &what
		}
		if next := finding.NextForCause(g.Code); !next.IsZero() {
			f.Do = c.CommandLine(next)
		}
		for _, id := range g.Tasks {
			// It may have been redriven or deleted since.
			if t, ok := p.examples[id]; ok && t.State == task.Failed {
				f.Examples = append(f.Examples, Example{TaskID: id, At: t.ClosedAt, Message: t.Error})
			}
		}
		out = append(out, f)
	}
	return out
}

func sortFailures(all []store.FailureGroup) {
	slices.SortStableFunc(all, func(a, b store.FailureGroup) int { return b.Count - a.Count })
}
