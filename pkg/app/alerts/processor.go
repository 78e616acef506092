package alerts

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sirupsen/logrus"

	"imagetasks/pkg/alert"
	"imagetasks/pkg/app"
	"imagetasks/pkg/finding"
	"imagetasks/pkg/overview"
	"imagetasks/pkg/settings"
	"imagetasks/pkg/store"
	"imagetasks/pkg/supervise"
	"imagetasks/pkg/task"
)

// failuresInterval is the time between two looks at what has failed within an hour, which reads the tasks of that hour.
const failuresInterval = time.Minute

// Start tells receivers about problems beside a processor, until stop is called; stop waits for what is being sent. report is the processor's.
func (a *Alerts) Start(ctx context.Context, st *store.Store, report func() overview.ProcessorReport, log logrus.FieldLogger) (stop func()) {
	if len(a.receivers) == 0 {
		return func() {}
	}
	w := &watch{settings: a.settings, store: st, report: report, redact: a.redact, disks: Disks(a.settings), log: log}
	service := alert.NewService(a.config(st, log), alert.Watch{Own: w.own, Inspect: w.inspect, OnHost: w.onHost, Lost: w.lost})
	// Requests that are paid for run on after a stop.
	return app.Background(context.WithoutCancel(ctx), service.Run)
}

// watch looks for problems in a processor.
type watch struct {
	settings settings.Settings
	store    *store.Store
	report   func() overview.ProcessorReport
	redact   func(string) string
	disks    *overview.DiskWatch
	log      logrus.FieldLogger

	failuresAt time.Time // of the last look at them
}

// self returns this processor as it knows itself.
func (w *watch) self() overview.Processor {
	r := w.report()
	return overview.Processor{Processor: store.Processor{Worker: r.Worker, Host: app.Hostname(), PID: r.PID}, Alive: true, Report: r}
}

func (w *watch) own() []finding.Finding {
	return overview.Assess(overview.Snapshot{Now: time.Now(), Host: app.Hostname(), Local: overview.LocalProcessor{Verdict: supervise.Running},
		Processors: []overview.Processor{w.self()}})
}

func (w *watch) lost() (time.Time, string) {
	since := w.report().DatabaseLostAt
	if since.IsZero() {
		return since, ""
	}
	return since, fmt.Sprintf("the processor on %s can't reach it since %s", app.Hostname(), since.Local().Format(time.DateTime))
}

// inspect looks for all problems.
func (w *watch) inspect(ctx context.Context) (alert.View, bool) {
	host := app.Hostname()
	v := alert.View{Host: host, Quiet: w.settings.Alerts.ResolvedAfter, Looked: map[alert.Scope][]finding.Code{alert.Installation: alert.InstallationCodes()}}
	s := overview.Snapshot{Now: time.Now(), Host: host, Local: overview.LocalProcessor{Verdict: supervise.Running}, BacklogAfter: w.settings.BacklogAfter}
	var errs []error
	must := func(err error) { errs = append(errs, err) }
	var err error
	s.Processors, err = w.processors(ctx)
	must(err)
	s.Queue, err = w.store.QueueStats(ctx, w.settings.StuckAfter)
	must(err)
	s.Control, err = w.store.Control(ctx)
	must(err)
	s.Unsettled, err = w.store.Unsettled(ctx, overview.UnsettledWindow, overview.UnsettledLimit)
	must(err)
	s.SetAside, err = w.store.TasksAside(ctx, overview.UnsettledLimit)
	must(err)
	s.Bridge, err = overview.ReadBridge(ctx, w.store)
	must(err)
	s.Webhooks, err = overview.ReadWebhooks(ctx, w.store)
	must(err)
	if time.Since(w.failuresAt) >= failuresInterval {
		w.failuresAt = time.Now()
		must(w.readFailures(ctx, &s))
	} else {
		v.Looked[alert.Installation] = slices.DeleteFunc(v.Looked[alert.Installation], func(c finding.Code) bool { return c == finding.TasksFailing })
	}
	for _, f := range overview.Assess(s) {
		if f.Code != finding.ClaimingPaused { // the operator who paused knows
			v.Findings = append(v.Findings, f)
		}
	}
	if err := errors.Join(errs...); err != nil {
		if !store.IsUnavailable(err) && ctx.Err() == nil {
			w.log.WithError(errors.New(w.redact(err.Error()))).Debug("look for problems to tell")
		}
		return v, false
	}
	return v, true
}

// onHost looks at the disks of this host.
func (w *watch) onHost(ctx context.Context) (alert.View, bool) {
	disks, ok := w.disks.Read(ctx)
	return alert.View{Host: app.Hostname(), Quiet: w.settings.Alerts.ResolvedAfter, Findings: overview.Assess(overview.Snapshot{Disks: disks}),
		Looked: map[alert.Scope][]finding.Code{alert.Host: {finding.DiskNearlyFull}}}, ok
}

func (w *watch) readFailures(ctx context.Context, s *overview.Snapshot) error {
	closed, err := w.store.ClosedWithin(ctx, time.Hour)
	if err != nil {
		return err
	}
	s.Closed = closed[task.Completed].Count + closed[task.Failed].Count
	s.Failures, err = w.store.FailuresWithin(ctx, time.Hour)
	return err
}

// processors returns the processors of all hosts, this one as it knows itself.
func (w *watch) processors(ctx context.Context) ([]overview.Processor, error) {
	rows, err := w.store.Processors(ctx)
	if err != nil {
		return nil, err
	}
	self := w.self()
	all := []overview.Processor{self}
	for _, row := range rows {
		if row.Worker == self.Worker {
			continue
		}
		p := overview.Processor{Processor: row, SilentSeconds: row.HeartbeatAge.Seconds(), Alive: row.Alive(w.settings.HungAfter)}
		if json.Unmarshal(row.Report, &p.Report) != nil {
			p.Report = overview.ProcessorReport{} // of another version
		}
		all = append(all, p)
	}
	return all, nil
}
