package overview

import (
	"slices"
	"strings"
	"time"

	"imagetasks/pkg/crontab"
	"imagetasks/pkg/finding"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/store"
	"imagetasks/pkg/supervise"
	"imagetasks/pkg/task"
)

// APICheck is the monitor's last check of the image API.
type APICheck struct {
	At     time.Time `json:"at,omitzero"` // zero: never checked
	OK     bool      `json:"ok"`
	Millis int64     `json:"ms"`
	Error  string    `json:"error,omitempty"`
}

// Supervision is what keeps this host's processor running.
type Supervision struct {
	Crontab  crontab.State
	LastPass time.Time // of the monitor; zero: none
}

// Snapshot is the state of an installation at one time, seen from one host. Parts that the caller does not know stay at
// their zero value and are not assessed.
type Snapshot struct {
	Now        time.Time
	Host       string
	Local      LocalProcessor
	Processors []Processor
	Queue      store.QueueStats
	Control    store.Control
	Unsettled  store.Unsettled   // of the last day
	SetAside   []store.AsideTask // tasks that the database refuses to change
	Bridge     *Bridge           // nil: there is none
	Webhooks   *Webhooks
	Closed     int                  // tasks that completed or failed within the last hour
	Failures   []store.FailureCount // of them, by cause
	APICheck   APICheck
	// RestartFailure replaces the finding about a dead or hung processor after a restart that failed.
	RestartFailure *finding.Finding
	Supervision    *Supervision // nil: the monitor itself asks
}

const (
	// proxyGrace is how long one proxy of several may be ejected before that is reported.
	proxyGrace = time.Minute
	// minFailures is how many tasks must fail for one cause before that is reported: fewer may be chance.
	minFailures = 5
	// fetchGrace is how long the first of the pictures that are paid for may wait to be fetched before that is reported: relays answer with
	// URLs before they have the picture, but not that long before.
	fetchGrace = 2 * time.Minute
)

// Assess returns what is wrong, the most urgent first. Each problem is reported once.
func Assess(s Snapshot) []finding.Finding {
	out := []finding.Finding{}
	add := func(f *finding.Finding) {
		if f != nil {
			out = append(out, *f)
		}
	}
	add(s.api())
	out = append(out, s.unstorable()...)
	add(s.models())
	add(s.unfetched())
	out = append(out, s.proxies()...)
	add(s.processor())
	add(s.pictureStores())
	if s.Queue.Stuck > 0 && !s.Control.Copied { // in a copy nothing is closed
		add(&finding.Finding{Code: finding.TasksStuck, Count: s.Queue.Stuck})
	}
	if n := len(s.Unsettled.MissingCharges); n > 0 {
		add(&finding.Finding{Code: finding.MissingCharge, Count: n, Subject: firstFew(s.Unsettled.MissingCharges)})
	}
	if n := len(s.Unsettled.OwedRefunds); n > 0 {
		add(&finding.Finding{Code: finding.RefundOwed, Count: n, Subject: firstFew(s.Unsettled.OwedRefunds)})
	}
	if n := len(s.SetAside); n > 0 {
		var ids []string
		for _, t := range s.SetAside {
			ids = append(ids, t.TaskID)
		}
		add(&finding.Finding{Code: finding.TasksSetAside, Count: n, Subject: firstFew(ids), Reason: s.SetAside[0].Operation + ": " + s.SetAside[0].Reason,
			Since: s.SetAside[0].Since})
	}
	add(s.leases())
	if s.Control.Copied {
		add(&finding.Finding{Code: finding.DatabaseCopied})
	}
	if !s.Control.PausedAt.IsZero() {
		add(&finding.Finding{Code: finding.ClaimingPaused, Since: s.Control.PausedAt, Subject: s.Control.PausedBy, Reason: s.Control.PausedReason})
	}
	out = append(out, s.bridge()...)
	out = append(out, s.webhooks()...)
	add(s.failing())
	add(s.supervision())
	return out
}

// The bounds of Snapshot.Unsettled.
const (
	UnsettledWindow = 24 * time.Hour
	UnsettledLimit  = 100
)

// firstFew joins the first of several ids.
func firstFew(ids []string) string {
	if len(ids) > 5 {
		return strings.Join(ids[:5], ", ") + ", …"
	}
	return strings.Join(ids, ", ")
}

// Running returns how many processors are alive, on all hosts.
func (s Snapshot) Running() int {
	n := 0
	for _, p := range s.Processors {
		if p.Alive {
			n++
		}
	}
	return n
}

// api reports an unreachable API once. A running processor knows better than an earlier check of the monitor.
func (s Snapshot) api() *finding.Finding {
	responded := time.Time{}
	for _, p := range s.Processors {
		if !p.Alive {
			continue
		}
		if !p.Report.APIUnreachableSince.IsZero() {
			return &finding.Finding{Code: finding.APIUnreachable, Since: p.Report.APIUnreachableSince, Subject: p.Host,
				Cause: p.Report.APIErrorCode, Reason: p.Report.APIError}
		}
		if p.Report.APIRespondedAt.After(responded) {
			responded = p.Report.APIRespondedAt
		}
	}
	if c := s.APICheck; !c.OK && !c.At.IsZero() && responded.Before(c.At) {
		return &finding.Finding{Code: finding.APIUnreachable, Since: c.At, Reason: c.Error}
	}
	return nil
}

// unstorable reports hosts on which no pictures can be stored.
func (s Snapshot) unstorable() []finding.Finding {
	var out []finding.Finding
	for _, p := range s.Processors {
		if p.Alive && !p.Report.PicturesFailingSince.IsZero() {
			out = append(out, finding.Finding{Code: finding.PicturesUnstorable, Subject: p.Host, Since: p.Report.PicturesFailingSince,
				Cause: task.CodePictureStore, Reason: p.Report.PicturesError})
		}
	}
	return out
}

// models reports models that the API makes no pictures with: their tasks wait, and all others go on.
func (s Snapshot) models() *finding.Finding {
	var names []string
	var f finding.Finding
	more := 0
	for _, p := range s.Processors {
		if !p.Alive {
			continue
		}
		more = max(more, p.Report.MoreModels)
		for _, c := range p.Report.Circuits {
			if c.Scope != processor.CircuitModel || c.State == processor.CircuitClosed || slices.Contains(names, c.Name) {
				continue
			}
			names = append(names, c.Name)
			if f.Since.IsZero() || c.Since.Before(f.Since) {
				f.Since, f.Cause, f.Reason = c.Since, c.Code, c.Reason
			}
		}
	}
	if len(names) == 0 {
		return nil
	}
	f.Code, f.Count, f.Subject = finding.ModelsRefused, len(names)+more, firstFew(names)
	return &f
}

// unfetched reports pictures that were paid for and can't be fetched. They open no circuit, because the API works; if the cause is a
// setting, every further picture is paid for and lost as well.
func (s Snapshot) unfetched() *finding.Finding {
	q := s.Queue
	tried := s.Running() > 0 && s.Control.PausedAt.IsZero() && !s.Control.Copied && q.UnfetchedReason != ""
	if q.Unfetched == 0 || q.UnfetchedFor <= fetchGrace || !tried {
		return nil
	}
	return &finding.Finding{Code: finding.PicturesNotFetched, Count: q.Unfetched, Seconds: q.UnfetchedFor.Seconds(),
		Cause: task.CodeDownload, Reason: q.UnfetchedReason}
}

// leases reports a processor that can't renew its leases.
func (s Snapshot) leases() *finding.Finding {
	for _, p := range s.Processors {
		if p.Alive && !p.Report.LeasesFailingSince.IsZero() {
			return &finding.Finding{Code: finding.LeasesFailing, Subject: p.Host, Since: p.Report.LeasesFailingSince}
		}
	}
	return nil
}

func (s Snapshot) proxies() []finding.Finding {
	var out []finding.Finding
	for _, p := range s.Processors {
		if !p.Alive || !p.Report.APIUnreachableSince.IsZero() {
			continue
		}
		for _, u := range p.Report.Upstreams {
			if u.Ejected && s.Now.Sub(u.Since) > proxyGrace {
				out = append(out, finding.Finding{Code: finding.ProxyEjected, Subject: u.Proxy, Since: u.Since, Cause: u.Code, Reason: u.Reason})
			}
		}
	}
	return out
}

func (s Snapshot) processor() *finding.Finding {
	if s.RestartFailure != nil {
		return s.RestartFailure
	}
	l := s.Local
	switch l.Verdict {
	case supervise.Dead:
		return &finding.Finding{Code: finding.ProcessorNotRunning}
	case supervise.Hung:
		code := finding.ProcessorHung
		if !l.Wanted {
			code = finding.ForegroundHung
		}
		return &finding.Finding{Code: code, PID: l.PID, Seconds: l.SilentSeconds}
	}
	if s.Running() > 0 || s.Queue.Due == 0 {
		return nil
	}
	switch l.Verdict {
	case supervise.StoppedByOperator:
		return &finding.Finding{Code: finding.StoppedWithDueTasks, Count: s.Queue.Due, Subject: l.Stopped.By}
	case supervise.NeverStarted:
		return &finding.Finding{Code: finding.NoProcessor, Count: s.Queue.Due}
	}
	return nil
}

// pictureStores reports that processors keep their pictures in different stores: then none of them finds what another one has published
// and not completed, and it is paid for again.
func (s Snapshot) pictureStores() *finding.Finding {
	hosts := map[string][]string{} // by store
	var stores []string
	for _, p := range s.Processors {
		id := p.Report.PictureStore
		if !p.Alive || id == "" {
			continue
		}
		if hosts[id] == nil {
			stores = append(stores, id)
		}
		if !slices.Contains(hosts[id], p.Host) {
			hosts[id] = append(hosts[id], p.Host)
		}
	}
	if len(stores) < 2 {
		return nil
	}
	var groups []string
	for _, id := range stores {
		slices.Sort(hosts[id])
		groups = append(groups, strings.Join(hosts[id], ", "))
	}
	slices.Sort(groups)
	return &finding.Finding{Code: finding.PictureStoresDiffer, Count: len(stores), Subject: strings.Join(groups, " | ")}
}

// failing reports that most tasks of the last hour failed for one cause. Moderation refuses single prompts; it counts as
// well, because a service whose every prompt is refused has a problem too.
func (s Snapshot) failing() *finding.Finding {
	var worst store.FailureCount
	for _, f := range s.Failures {
		if f.Count > worst.Count && f.Code != task.CodeCancelled {
			worst = f
		}
	}
	if worst.Count < minFailures || 2*worst.Count <= s.Closed {
		return nil
	}
	return &finding.Finding{Code: finding.TasksFailing, Count: worst.Count, Total: s.Closed, Cause: worst.Code}
}

// supervision reports that nothing would notice a processor that stops: no cron, or cron that does not run.
func (s Snapshot) supervision() *finding.Finding {
	if s.Supervision == nil {
		return nil
	}
	installed, lastPass := s.Supervision.Crontab, s.Supervision.LastPass
	if installed.Status != crontab.Installed {
		if lastPass.IsZero() && s.Running() == 0 && s.Local.Verdict == supervise.NeverStarted {
			return &finding.Finding{Code: finding.NotSupervised}
		}
		return nil
	}
	expected := lastPass
	if installed.InstalledAt.After(expected) {
		expected = installed.InstalledAt
	}
	// Without the time of installation, a monitor that never ran may have been installed a moment ago.
	if expected.IsZero() || s.Now.Sub(expected) <= 2*crontab.Interval {
		return nil
	}
	return &finding.Finding{Code: finding.MonitorOverdue, Since: expected}
}
