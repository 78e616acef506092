package monitortasks

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/urfave/cli/v2"

	"imagetasks/pkg/app"
	"imagetasks/pkg/app/alerts"
	"imagetasks/pkg/app/picturestore"
	"imagetasks/pkg/app/summary"
	"imagetasks/pkg/dashboard"
	"imagetasks/pkg/finding"
	"imagetasks/pkg/lang"
	"imagetasks/pkg/metrics"
	"imagetasks/pkg/monitor"
	"imagetasks/pkg/overview"
	"imagetasks/pkg/settings"
	"imagetasks/pkg/status"
	"imagetasks/pkg/store"
	"imagetasks/pkg/supervise"
)

// newAccess returns who may use the pages of --watch; nil: there are none.
func newAccess(c *cli.Context, s settings.Settings, log logrus.FieldLogger) (*status.Access, error) {
	addr := c.String("watch-addr")
	if addr == "off" || !c.Bool("watch") {
		return nil, nil
	}
	return status.NewAccess(status.AccessConfig{Addr: addr, Hosts: s.StatusHosts, Token: s.StatusToken, Pictures: s.StatusPictures, Log: log})
}

// watched is what the page of a monitor shows besides its passes.
type watched struct {
	store          *store.Store
	supervisor     *supervise.Daemon
	live           func() *overview.ProcessorReport
	endpointsFault string
}

// watch runs passes until a signal arrives. A pass that is running then is completed.
func (w watcher) watch(ctx context.Context, c *cli.Context, s settings.Settings, of watched) (err error) {
	var last atomic.Pointer[monitor.Report]
	var totals atomic.Pointer[metrics.WatchTotals]
	totals.Store(&metrics.WatchTotals{})
	if c.String("watch-addr") != "off" {
		var closePage func() error
		closePage, err = w.startPage(ctx, s, of, &last, &totals)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, closePage()) }()
	}
	if !c.Bool("dry-run") {
		defer app.Background(ctx, func(ctx context.Context) { dashboard.Record(ctx, of.store, w.log) })()
	}
	interval := c.Duration("interval")
	w.log.Infof("monitor-tasks %s started; one pass every %s", app.BuildVersion(), lang.Duration(interval, lang.EN))
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		if !c.Bool("dry-run") {
			w.ended = w.alerts.BeginPass(ctx, w.log)
		}
		report, _ := w.pass(ctx) // its error is among its findings
		done := *totals.Load()
		done.Add(report.Summary)
		totals.Store(&done)
		last.Store(&report)
		select {
		case <-ctx.Done():
			w.log.Info("monitor-tasks stopped")
			return nil
		case <-tick.C:
		}
	}
}

// startPage serves the status page until close is called. It is there when no processor runs, and when the database does not respond.
func (w watcher) startPage(ctx context.Context, s settings.Settings, of watched, last *atomic.Pointer[monitor.Report],
	totals *atomic.Pointer[metrics.WatchTotals]) (close func() error, err error) {
	reader := dashboard.New(dashboard.Config{Store: of.store, Version: app.BuildVersion(), Host: app.Hostname(), ServedBy: dashboard.MonitorTasks,
		StuckAfter: s.StuckAfter, HungAfter: s.HungAfter, Checks: w.monitor.Checks, EndpointsFault: of.endpointsFault, BacklogAfter: s.BacklogAfter, Disks: alerts.Disks(s).Read,
		Processors: func(ctx context.Context, rows overview.ProcessorLister) ([]overview.Processor, overview.LocalProcessor, error) {
			return overview.Processors(ctx, overview.Config{Store: rows, Inspector: of.supervisor, Host: app.Hostname(), HungAfter: s.HungAfter, Live: of.live})
		},
		APICheck: func() overview.APICheck {
			if r := last.Load(); r != nil {
				return r.Summary.API
			}
			return overview.APICheck{}
		},
		Files: func(ctx context.Context, t store.TaskRow) ([]string, error) {
			return picturestore.Files(ctx, s, of.store, t)
		},
		CommandLine: w.commandLine, Redact: w.Redact.String})
	server, err := status.Serve(status.WatchHandler(status.Watch{Version: app.BuildVersion(), Checks: w.monitor.Checks, Dashboard: reader, Operator: w.operator,
		Thumbnails: w.thumbnails, Metrics: func() metrics.Watch { return w.metrics(last.Load(), *totals.Load()) },
		Last: func() status.WatchedPass {
			r := last.Load()
			if r == nil {
				return status.WatchedPass{}
			}
			return status.WatchedPass{Done: true, Healthy: len(r.Findings) == 0, Summary: summary.Pass(r.Summary).In(lang.EN), Document: w.document(*r)}
		}}), w.access)
	if err != nil {
		return nil, err
	}
	w.log.WithField("address", "http://"+server.Addr()).Info("status of the monitor")
	stop := app.Background(context.WithoutCancel(ctx), reader.Run)
	return func() error {
		err := server.Close()
		stop()
		return err
	}, nil
}

// metrics returns what /metrics shows after the last pass, which may be nil.
func (w watcher) metrics(last *monitor.Report, totals metrics.WatchTotals) metrics.Watch {
	out := metrics.Watch{Checks: w.monitor.Checks(), Totals: totals}
	if last != nil {
		out.At, out.Queue, out.Problems = last.At, last.QueueState(), finding.Documents(last.Findings, w.commandLine)
	}
	return out
}
