package overview_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/crontab"
	"imagetasks/pkg/finding"
	"imagetasks/pkg/overview"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/proxy"
	"imagetasks/pkg/store"
	"imagetasks/pkg/supervise"
	"imagetasks/pkg/task"
)

var now = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// running returns a snapshot with one alive processor on this host.
func running() overview.Snapshot {
	return overview.Snapshot{Now: now, Host: "h", Local: overview.LocalProcessor{Verdict: supervise.Running, PID: 7, Wanted: true},
		Processors: []overview.Processor{{Processor: store.Processor{Worker: "w", Host: "h", PID: 7}, Alive: true}}}
}

// stopped returns a snapshot without any processor.
func stopped(v overview.Verdict) overview.Snapshot {
	return overview.Snapshot{Now: now, Host: "h", Local: overview.LocalProcessor{Verdict: v, Stopped: &supervise.StopMark{By: "root"}}}
}

func with(s overview.Snapshot, change func(*overview.Snapshot)) overview.Snapshot {
	change(&s)
	return s
}

func codes(found []finding.Finding) []finding.Code {
	out := []finding.Code{}
	for _, f := range found {
		out = append(out, f.Code)
	}
	return out
}

func TestAssess(t *testing.T) {
	installed := crontab.State{Status: crontab.Installed, InstalledAt: now.Add(-time.Hour)}
	for name, c := range map[string]struct {
		snapshot overview.Snapshot
		want     []finding.Code
	}{
		"healthy": {running(), nil},
		"bridge in order": {with(running(), func(s *overview.Snapshot) {
			s.Bridge = &overview.Bridge{Active: true, Inbox: 3, InboxSeconds: 59, Owed: 2, OwedSeconds: 10}
		}), nil},
		"bridge failing and lost updates": {with(running(), func(s *overview.Snapshot) {
			s.Bridge = &overview.Bridge{Active: true, Owed: 2, Failing: 2, Failures: 1, LostUpdates: 1}
		}), []finding.Code{finding.BridgeFailing, finding.LostUpdates}},
		"inbox behind": {with(running(), func(s *overview.Snapshot) {
			s.Bridge = &overview.Bridge{Active: true, Inbox: 1, InboxSeconds: 61}
		}), []finding.Code{finding.BridgeBehind}},
		"outbox behind": {with(running(), func(s *overview.Snapshot) {
			s.Bridge = &overview.Bridge{Active: true, Owed: 1, OwedSeconds: 61}
		}), []finding.Code{finding.BridgeBehind}},
		"a bridge that is not active": {with(running(), func(s *overview.Snapshot) {
			s.Bridge = &overview.Bridge{Inbox: 1, InboxSeconds: 61, Failures: 1}
		}), nil},
		"empty snapshot": {overview.Snapshot{}, nil},
		"API unreachable is reported once, whatever the monitor saw": {with(running(), func(s *overview.Snapshot) {
			s.Processors[0].Report.APIUnreachableSince = now.Add(-time.Minute)
			s.APICheck = overview.APICheck{At: now.Add(-20 * time.Minute), OK: true}
		}), []finding.Code{finding.APIUnreachable}},
		"both saw it": {with(running(), func(s *overview.Snapshot) {
			s.Processors[0].Report.APIUnreachableSince = now.Add(-time.Minute)
			s.APICheck = overview.APICheck{At: now.Add(-2 * time.Minute), Error: "down"}
		}), []finding.Code{finding.APIUnreachable}},
		"an unreachable API of a dead processor is history": {with(running(), func(s *overview.Snapshot) {
			s.Processors[0].Alive = false
			s.Processors[0].Report.APIUnreachableSince = now.Add(-time.Minute)
		}), nil},
		"check failed": {with(running(), func(s *overview.Snapshot) {
			s.APICheck = overview.APICheck{At: now.Add(-2 * time.Minute), Error: "down"}
		}), []finding.Code{finding.APIUnreachable}},
		"the API responded to the processor after the failed check": {with(running(), func(s *overview.Snapshot) {
			s.APICheck = overview.APICheck{At: now.Add(-2 * time.Minute), Error: "down"}
			s.Processors[0].Report.APIRespondedAt = now.Add(-time.Minute)
		}), nil},
		"endpoints that can't be used are reported once": {with(running(), func(s *overview.Snapshot) {
			s.EndpointsFault = "bad"
			s.APICheck = overview.APICheck{At: now.Add(-2 * time.Minute), Error: "bad"}
		}), []finding.Code{finding.EndpointsInvalid}},
		"proxy ejected": {with(running(), func(s *overview.Snapshot) {
			s.Processors[0].Report.Upstreams = []proxy.UpstreamState{{Proxy: "a", Ejected: true, Since: now.Add(-2 * time.Minute)},
				{Proxy: "b", Ejected: true, Since: now.Add(-30 * time.Second)}, {Proxy: "c"}}
		}), []finding.Code{finding.ProxyEjected}},
		"two stores of pictures": {with(running(), func(s *overview.Snapshot) {
			s.Processors[0].Report.PictureStore = "a"
			s.Processors = append(s.Processors, overview.Processor{Processor: store.Processor{Host: "h2"}, Alive: true, Report: overview.ProcessorReport{PictureStore: "b"}})
		}), []finding.Code{finding.PictureStoresDiffer}},
		"one store of pictures; that of a dead processor and one that does not name it don't count": {with(running(), func(s *overview.Snapshot) {
			s.Processors[0].Report.PictureStore = "a"
			s.Processors = append(s.Processors, overview.Processor{Alive: true, Report: overview.ProcessorReport{PictureStore: "a"}},
				overview.Processor{Report: overview.ProcessorReport{PictureStore: "b"}}, overview.Processor{Alive: true})
		}), nil},
		"two sets of endpoints": {with(running(), func(s *overview.Snapshot) {
			s.Processors[0].Report.EndpointsDigest = "a"
			s.Processors = append(s.Processors, overview.Processor{Processor: store.Processor{Host: "h2"}, Alive: true, Report: overview.ProcessorReport{EndpointsDigest: "b"}})
		}), []finding.Code{finding.EndpointsDiffer}},
		"one endpoint of several fails, on two hosts": {with(running(), func(s *overview.Snapshot) {
			s.Processors[0].Report.Endpoints = []processor.EndpointStatus{{Name: "a", FailingSince: now}, {Name: "b"}}
			s.Processors = append(s.Processors, s.Processors[0])
		}), []finding.Code{finding.EndpointFailing}},
		"all endpoints fail": {with(running(), func(s *overview.Snapshot) {
			s.Processors[0].Report.APIUnreachableSince = now.Add(-time.Minute)
			s.Processors[0].Report.Endpoints = []processor.EndpointStatus{{Name: "a", FailingSince: now}, {Name: "b", FailingSince: now}}
		}), []finding.Code{finding.APIUnreachable}},
		"the monitor found that one endpoint of several fails": {with(stopped(supervise.StoppedByOperator), func(s *overview.Snapshot) {
			s.APICheck = overview.APICheck{At: now, OK: true, Endpoints: []overview.EndpointCheck{{Name: "a"}, {Name: "b", OK: true}}}
		}), []finding.Code{finding.EndpointFailing}},
		"the monitor found so, and a processor knows better": {with(running(), func(s *overview.Snapshot) {
			s.Processors[0].Report.Endpoints = []processor.EndpointStatus{{Name: "a"}, {Name: "b"}}
			s.APICheck = overview.APICheck{At: now, OK: true, Endpoints: []overview.EndpointCheck{{Name: "a"}, {Name: "b", OK: true}}}
		}), nil},
		"a model is refused by one endpoint of several": {with(running(), func(s *overview.Snapshot) {
			s.Processors[0].Report.APIEndpoints = []overview.EndpointReport{{Name: "a"}, {Name: "b", Models: []string{"m"}}}
			s.Processors[0].Report.Circuits = []processor.Circuit{{Scope: processor.CircuitModel, Name: "m", Endpoint: "a", State: processor.CircuitOpen}}
		}), []finding.Code{finding.EndpointRefusesModels}},
		"a model is refused by the only endpoint of several that has it": {with(running(), func(s *overview.Snapshot) {
			s.Processors[0].Report.APIEndpoints = []overview.EndpointReport{{Name: "a"}, {Name: "b", Models: []string{"other"}}}
			s.Processors[0].Report.Circuits = []processor.Circuit{{Scope: processor.CircuitModel, Name: "m", Endpoint: "a", State: processor.CircuitOpen}}
		}), []finding.Code{finding.ModelsRefused}},
		"a model is refused by one endpoint, and the other one is down": {with(running(), func(s *overview.Snapshot) {
			s.Processors[0].Report.APIEndpoints = []overview.EndpointReport{{Name: "a"}, {Name: "b"}}
			s.Processors[0].Report.Circuits = []processor.Circuit{{Scope: processor.CircuitModel, Name: "m", Endpoint: "a", State: processor.CircuitOpen}}
			s.Processors[0].Report.Endpoints = []processor.EndpointStatus{{Name: "a"}, {Name: "b", FailingSince: now}}
		}), []finding.Code{finding.ModelsRefused, finding.EndpointFailing}},
		"a proxy that several endpoints use": {with(running(), func(s *overview.Snapshot) {
			ejected := []proxy.UpstreamState{{Proxy: "a", Ejected: true, Since: now.Add(-2 * time.Minute)}, {Proxy: "b"}}
			s.Processors[0].Report.APIEndpoints = []overview.EndpointReport{{Name: "a", Upstreams: ejected}, {Name: "b", Upstreams: ejected}}
		}), []finding.Code{finding.ProxyEjected}},
		"pictures can't be stored": {with(running(), func(s *overview.Snapshot) {
			s.Processors[0].Report.PicturesFailingSince = now.Add(-time.Minute)
		}), []finding.Code{finding.PicturesUnstorable}},
		"neither the API nor the picture store works": {with(running(), func(s *overview.Snapshot) {
			s.Processors[0].Report.PicturesFailingSince, s.Processors[0].Report.APIUnreachableSince = now.Add(-time.Minute), now.Add(-time.Minute)
		}), []finding.Code{finding.APIUnreachable, finding.PicturesUnstorable}},
		"a model is refused; the API works": {with(running(), func(s *overview.Snapshot) {
			s.Processors[0].Report.Circuits = []processor.Circuit{{Scope: processor.CircuitEndpoint, State: processor.CircuitClosed},
				{Scope: processor.CircuitModel, Name: "a", State: processor.CircuitHalfOpen}, {Scope: processor.CircuitModel, Name: "b", State: processor.CircuitOpen}}
			s.Processors = append(s.Processors, s.Processors[0])
		}), []finding.Code{finding.ModelsRefused}},
		"pictures that are paid for can't be fetched": {with(running(), func(s *overview.Snapshot) {
			s.Queue = store.QueueStats{Pending: 3, Unfetched: 3, UnfetchedFor: 121 * time.Second, UnfetchedReason: "its host responded 403"}
		}), []finding.Code{finding.PicturesNotFetched}},
		"a host of pictures is slow": {with(running(), func(s *overview.Snapshot) {
			s.Queue = store.QueueStats{Pending: 3, Unfetched: 3, UnfetchedFor: 119 * time.Second, UnfetchedReason: "its host responded 404"}
		}), nil},
		"pictures are not fetched while claiming is paused": {with(running(), func(s *overview.Snapshot) {
			s.Queue = store.QueueStats{Unfetched: 3, UnfetchedFor: time.Hour, UnfetchedReason: "its host responded 403"}
			s.Control.PausedAt = now
		}), []finding.Code{finding.ClaimingPaused}},
		"pictures are not fetched while no processor runs": {with(stopped(supervise.StoppedByOperator), func(s *overview.Snapshot) {
			s.Queue = store.QueueStats{Unfetched: 3, UnfetchedFor: time.Hour, UnfetchedReason: "its host responded 403"}
		}), nil},
		"a task set aside": {with(running(), func(s *overview.Snapshot) {
			s.SetAside = []store.AsideTask{{TaskID: "a", Operation: "claim", Reason: "SQLSTATE 23514"}}
		}), []finding.Code{finding.TasksSetAside}},
		"leases can't be renewed": {with(running(), func(s *overview.Snapshot) {
			s.Processors[0].Report.LeasesFailingSince = now.Add(-time.Minute)
		}), []finding.Code{finding.LeasesFailing}},
		"an endpoint and a model are paused": {with(running(), func(s *overview.Snapshot) {
			s.Control.Scopes = []store.Pause{{Scope: store.ScopeEndpoint, Name: "e"}, {Scope: store.ScopeModel, Name: "m"}}
		}), []finding.Code{finding.ClaimingPaused, finding.ClaimingPaused}},
		"a copy of the database": {with(running(), func(s *overview.Snapshot) { s.Control.Copied, s.Queue.Stuck = true, 1 }), []finding.Code{finding.DatabaseCopied}},

		"dead":            {stopped(supervise.Dead), []finding.Code{finding.ProcessorNotRunning}},
		"hung":            {with(running(), func(s *overview.Snapshot) { s.Local.Verdict = supervise.Hung }), []finding.Code{finding.ProcessorHung}},
		"hung foreground": {with(running(), func(s *overview.Snapshot) { s.Local.Verdict, s.Local.Wanted = supervise.Hung, false }), []finding.Code{finding.ForegroundHung}},
		"restart failed": {with(stopped(supervise.Dead), func(s *overview.Snapshot) {
			s.RestartFailure = &finding.Finding{Code: finding.RestartLimit, Count: 5}
		}), []finding.Code{finding.RestartLimit}},
		"stopped, nothing due":  {stopped(supervise.StoppedByOperator), nil},
		"stopped with tasks":    {with(stopped(supervise.StoppedByOperator), func(s *overview.Snapshot) { s.Queue.Due = 2 }), []finding.Code{finding.StoppedWithDueTasks}},
		"never started, tasks":  {with(stopped(supervise.NeverStarted), func(s *overview.Snapshot) { s.Queue.Due = 2 }), []finding.Code{finding.NoProcessor}},
		"another host works it": {with(running(), func(s *overview.Snapshot) { s.Local.Verdict, s.Queue.Due = supervise.NeverStarted, 9 }), nil},
		"stuck":                 {with(running(), func(s *overview.Snapshot) { s.Queue.Stuck = 1 }), []finding.Code{finding.TasksStuck}},

		"30 of 30 failed for one cause": {with(running(), func(s *overview.Snapshot) {
			s.Closed, s.Failures = 30, []store.FailureCount{{Code: task.CodeModeration, Count: 30}}
		}), []finding.Code{finding.TasksFailing}},
		"half failed for one cause": {with(running(), func(s *overview.Snapshot) {
			s.Closed, s.Failures = 60, []store.FailureCount{{Code: task.CodeModeration, Count: 30}}
		}), nil},
		"most failed, for several causes": {with(running(), func(s *overview.Snapshot) {
			s.Closed, s.Failures = 12, []store.FailureCount{{Code: task.CodeModeration, Count: 6}, {Code: task.CodeServer, Count: 6}}
		}), nil},
		"four failures are few": {with(running(), func(s *overview.Snapshot) {
			s.Closed, s.Failures = 4, []store.FailureCount{{Code: task.CodeServer, Count: 4}}
		}), nil},

		"not supervised": {with(stopped(supervise.NeverStarted), func(s *overview.Snapshot) {
			s.Supervision = &overview.Supervision{Crontab: crontab.State{Status: crontab.NoCrontab}}
		}), []finding.Code{finding.NotSupervised}},
		"no cron, but the monitor runs": {with(stopped(supervise.NeverStarted), func(s *overview.Snapshot) {
			s.Supervision = &overview.Supervision{LastPass: now.Add(-time.Minute)}
		}), nil},
		"no cron, but a processor runs": {with(running(), func(s *overview.Snapshot) { s.Supervision = &overview.Supervision{} }), nil},
		"cron installed an hour ago, no pass ever": {with(running(), func(s *overview.Snapshot) {
			s.Supervision = &overview.Supervision{Crontab: installed}
		}), []finding.Code{finding.MonitorOverdue}},
		"cron installed an hour ago, last pass before": {with(running(), func(s *overview.Snapshot) {
			s.Supervision = &overview.Supervision{Crontab: installed, LastPass: now.Add(-2 * time.Hour)}
		}), []finding.Code{finding.MonitorOverdue}},
		"cron installed just now": {with(running(), func(s *overview.Snapshot) {
			s.Supervision = &overview.Supervision{Crontab: crontab.State{Status: crontab.Installed, InstalledAt: now.Add(-9 * time.Minute)}}
		}), nil},
		"cron runs": {with(running(), func(s *overview.Snapshot) {
			s.Supervision = &overview.Supervision{Crontab: installed, LastPass: now.Add(-6 * time.Minute)}
		}), nil},
		"cron stopped": {with(running(), func(s *overview.Snapshot) {
			s.Supervision = &overview.Supervision{Crontab: installed, LastPass: now.Add(-11 * time.Minute)}
		}), []finding.Code{finding.MonitorOverdue}},
		"installed at an unknown time, no pass": {with(running(), func(s *overview.Snapshot) {
			s.Supervision = &overview.Supervision{Crontab: crontab.State{Status: crontab.Installed}}
		}), nil},
	} {
		want := c.want
		if want == nil {
			want = []finding.Code{}
		}
		assert.Equal(t, want, codes(overview.Assess(c.snapshot)), name)
	}
}

func TestAssess_FailingNamesCauseAndFigures(t *testing.T) {
	s := running()
	s.Closed, s.Failures = 31, []store.FailureCount{{Code: task.CodeNoQuota, Count: 30}}
	found := overview.Assess(s)
	require.Len(t, found, 1)
	assert.Equal(t, finding.Finding{Code: finding.TasksFailing, Count: 30, Total: 31, Cause: task.CodeNoQuota}, found[0])
	assert.Contains(t, found[0].Text("en"), "30 of the 31 tasks closed within the last hour failed with insufficient_quota.")
}

func TestAssess_NotFetchedNamesErrorAndNextCommand(t *testing.T) {
	s := running()
	s.Queue = store.QueueStats{Unfetched: 2, UnfetchedFor: 5 * time.Minute, UnfetchedReason: "away", UnfetchedCode: task.CodePictureStore}
	waiting := overview.Assess(s)
	require.Len(t, waiting, 1)
	assert.Contains(t, waiting[0].Text("en"), "can't be stored, the first for 5m; they wait on the host that made them")
	assert.Equal(t, finding.Command{Program: "task-processor", Args: []string{"pictures", "orphans"}}, waiting[0].Next(), "simple-test --image would cost a picture and show nothing")
	s.Queue = store.QueueStats{Unfetched: 2, UnfetchedFor: 5 * time.Minute, UnfetchedReason: "its URL begins with http://"}
	found := overview.Assess(s)
	require.Len(t, found, 1)
	assert.Contains(t, found[0].Text("en"), "2 pictures that are paid for can't be fetched, the first for 5m;")
	assert.Contains(t, found[0].Text("en"), "The last error: its URL begins with http://")
	assert.Equal(t, finding.Command{Program: "simple-test", Args: []string{"--image"}}, found[0].Next())
}

func TestAssess_PictureStoresNamesHosts(t *testing.T) {
	var s overview.Snapshot
	for _, p := range [][2]string{{"h3", "b"}, {"h1", "a"}, {"h2", "a"}, {"h1", "a"}} {
		s.Processors = append(s.Processors, overview.Processor{Processor: store.Processor{Host: p[0]}, Alive: true,
			Report: overview.ProcessorReport{PictureStore: p[1]}})
	}
	found := overview.Assess(s)
	require.Len(t, found, 1)
	assert.Contains(t, found[0].Text("en"), "2 different stores (h1, h2 | h3)")
	assert.Equal(t, "task-processor", found[0].Next().Program)
}
