package overview

import (
	"cmp"
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
	// Endpoints are the results of each of several endpoints. OK means that one of them works.
	Endpoints []EndpointCheck `json:"endpoints,omitempty"`
}

// EndpointCheck is the check of one endpoint of several.
type EndpointCheck struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Millis int64  `json:"ms"`
	Error  string `json:"error,omitempty"`
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
	// EndpointsFault says why this host's endpoints can't be used; empty: they can, or the caller does not know them. It must be redacted.
	EndpointsFault string
	// RestartFailure replaces the finding about a dead or hung processor after a restart that failed.
	RestartFailure *finding.Finding
	Supervision    *Supervision // nil: the monitor itself asks
	// BacklogAfter is how long a task may be due; 0: for any time.
	BacklogAfter time.Duration
	Disks        []Disk // of this host, that the programs write to
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
	if s.EndpointsFault != "" {
		add(&finding.Finding{Code: finding.EndpointsInvalid, Reason: s.EndpointsFault})
	}
	add(s.api())
	out = append(out, s.unstorable()...)
	out = append(out, s.endpoints()...)
	out = append(out, s.models()...)
	add(s.unfetched())
	out = append(out, s.proxies()...)
	add(s.processor())
	add(s.pictureStores())
	add(s.endpointSets())
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
	for _, p := range s.Control.Pauses() {
		f := finding.Finding{Code: finding.ClaimingPaused, Since: p.Since, Subject: p.By, Reason: p.Reason}
		if p.Scope != store.ScopeQueue {
			f.Scope, f.Name = string(p.Scope), p.Name
		}
		add(&f)
	}
	out = append(out, s.bridge()...)
	out = append(out, s.webhooks()...)
	add(s.failing())
	add(s.backlog())
	out = append(out, s.disks()...)
	add(s.supervision())
	slices.SortStableFunc(out, func(a, b finding.Finding) int { return cmp.Compare(urgency(a), urgency(b)) })
	return out
}

// urgency orders findings: lower is more urgent.
func urgency(f finding.Finding) int {
	if f.Code.Severity() == finding.Error {
		return 0
	}
	return 1
}

// backlog reports that a task has been due for long. In a copy of a database nothing is claimed.
func (s Snapshot) backlog() *finding.Finding {
	if s.BacklogAfter <= 0 || s.Queue.Due == 0 || s.Queue.OldestDue <= s.BacklogAfter || s.Control.Copied {
		return nil
	}
	return &finding.Finding{Code: finding.BacklogOld, Count: s.Queue.Due, Seconds: s.Queue.OldestDue.Seconds()}
}

func (s Snapshot) disks() []finding.Finding {
	var out []finding.Finding
	for _, d := range s.Disks {
		if d.Free < d.Least {
			out = append(out, finding.Finding{Code: finding.DiskNearlyFull, Subject: d.Dir, Count: int(d.Free >> 20)})
		}
	}
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
	if c := s.APICheck; !c.OK && !c.At.IsZero() && responded.Before(c.At) && s.EndpointsFault == "" {
		return &finding.Finding{Code: finding.APIUnreachable, Since: c.At, Reason: c.Error}
	}
	return nil
}

// endpoints reports each endpoint of several that does not work. If none works, api reports it. A running processor knows better than an earlier
// check of the monitor.
func (s Snapshot) endpoints() []finding.Finding {
	var out []finding.Finding
	several := false
	for _, p := range s.Processors {
		if !p.Alive {
			continue
		}
		if !p.Report.APIUnreachableSince.IsZero() {
			return nil
		}
		several = several || len(p.Report.Endpoints) > 1
		for _, e := range p.Report.Endpoints {
			known := slices.ContainsFunc(out, func(f finding.Finding) bool { return f.Subject == e.Name })
			if len(p.Report.Endpoints) > 1 && !e.FailingSince.IsZero() && !known {
				out = append(out, finding.Finding{Code: finding.EndpointFailing, Subject: e.Name, Since: e.FailingSince, Cause: e.ErrorCode, Reason: e.Error})
			}
		}
	}
	if several || !s.APICheck.OK {
		return out
	}
	for _, e := range s.APICheck.Endpoints {
		if !e.OK {
			out = append(out, finding.Finding{Code: finding.EndpointFailing, Subject: e.Name, Since: s.APICheck.At, Reason: e.Error})
		}
	}
	return out
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

// models reports models that no endpoint makes pictures with: their tasks wait, and all others go on. Those that another endpoint makes pictures with
// are a finding of their own.
func (s Snapshot) models() []finding.Finding {
	var none, some refusals
	more := 0
	for _, p := range s.Processors {
		if !p.Alive {
			continue
		}
		more = max(more, p.Report.MoreModels)
		for _, c := range p.Report.Circuits {
			if c.Scope != processor.CircuitModel || c.State == processor.CircuitClosed {
				continue
			}
			if c.Endpoint != "" && p.Report.isServed(c.Name) {
				some.add(c.Endpoint+": "+c.Name, c)
			} else {
				none.add(c.Name, c)
			}
		}
	}
	if len(none.names) == 0 {
		return append(none.finding(finding.ModelsRefused, 0), some.finding(finding.EndpointRefusesModels, more)...)
	}
	return append(none.finding(finding.ModelsRefused, more), some.finding(finding.EndpointRefusesModels, 0)...)
}

// isServed reports whether one of several endpoints makes pictures with a model.
func (r ProcessorReport) isServed(model string) bool {
	return slices.ContainsFunc(r.APIEndpoints, func(e EndpointReport) bool {
		if len(e.Models) > 0 && !slices.Contains(e.Models, model) {
			return false
		}
		fails := slices.ContainsFunc(r.Endpoints, func(s processor.EndpointStatus) bool { return s.Name == e.Name && !s.FailingSince.IsZero() })
		return !fails && !slices.ContainsFunc(r.Circuits, func(c processor.Circuit) bool {
			return c.Scope == processor.CircuitModel && c.Endpoint == e.Name && c.Name == model && c.State != processor.CircuitClosed
		})
	})
}

// refusals are the circuits of models that are not closed, each once.
type refusals struct {
	names []string
	first processor.Circuit
}

func (r *refusals) add(name string, c processor.Circuit) {
	if slices.Contains(r.names, name) {
		return
	}
	if len(r.names) == 0 || c.Since.Before(r.first.Since) {
		r.first = c
	}
	r.names = append(r.names, name)
}

// finding returns the finding about them; none if there are none.
func (r *refusals) finding(code finding.Code, more int) []finding.Finding {
	if len(r.names) == 0 {
		return nil
	}
	return []finding.Finding{{Code: code, Count: len(r.names) + more, Subject: firstFew(r.names), Since: r.first.Since, Cause: r.first.Code, Reason: r.first.Reason}}
}

// unfetched reports pictures that were paid for and can't be fetched. They open no circuit, because the API works; if the cause is a
// setting, every further picture is paid for and lost as well.
func (s Snapshot) unfetched() *finding.Finding {
	q := s.Queue
	tried := s.Running() > 0 && s.Control.PausedAt.IsZero() && !s.Control.Copied && q.UnfetchedReason != ""
	if q.Unfetched == 0 || q.UnfetchedFor <= fetchGrace || !tried {
		return nil
	}
	cause := task.CodeDownload
	if q.UnfetchedCode == task.CodePictureStore {
		cause = task.CodePictureStore
	}
	return &finding.Finding{Code: finding.PicturesNotFetched, Count: q.Unfetched, Seconds: q.UnfetchedFor.Seconds(),
		Cause: cause, Reason: q.UnfetchedReason}
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
		for _, u := range p.Report.AllUpstreams() {
			if u.Ejected && s.Now.Sub(u.Since) > proxyGrace && !slices.ContainsFunc(out, func(f finding.Finding) bool { return f.Subject == u.Proxy }) {
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
	return s.differing(finding.PictureStoresDiffer, func(r ProcessorReport) string { return r.PictureStore })
}

// endpointSets reports that processors have different endpoints: then a task can wait for one that only some of them have, and the limits of an
// endpoint are not the same everywhere.
func (s Snapshot) endpointSets() *finding.Finding {
	return s.differing(finding.EndpointsDiffer, func(r ProcessorReport) string { return r.EndpointsDigest })
}

// differing reports that the live processors do not have the same of something. Those that do not say what they have don't count.
func (s Snapshot) differing(code finding.Code, of func(ProcessorReport) string) *finding.Finding {
	hosts := map[string][]string{} // by what they have
	var found []string
	for _, p := range s.Processors {
		id := of(p.Report)
		if !p.Alive || id == "" {
			continue
		}
		if hosts[id] == nil {
			found = append(found, id)
		}
		if !slices.Contains(hosts[id], p.Host) {
			hosts[id] = append(hosts[id], p.Host)
		}
	}
	if len(found) < 2 {
		return nil
	}
	var groups []string
	for _, id := range found {
		slices.Sort(hosts[id])
		groups = append(groups, strings.Join(hosts[id], ", "))
	}
	slices.Sort(groups)
	return &finding.Finding{Code: code, Count: len(found), Subject: strings.Join(groups, " | ")}
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
