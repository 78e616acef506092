package monitortasks

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/urfave/cli/v2"

	"imagetasks/pkg/app"
	"imagetasks/pkg/app/summary"
	"imagetasks/pkg/finding"
	"imagetasks/pkg/lang"
	"imagetasks/pkg/metrics"
	"imagetasks/pkg/monitor"
	"imagetasks/pkg/status"
)

// watch runs passes until a signal arrives. A pass that is running then is completed.
func (w watcher) watch(ctx context.Context, c *cli.Context, hosts []string) (err error) {
	var last atomic.Pointer[monitor.Report]
	var totals atomic.Pointer[metrics.WatchTotals]
	totals.Store(&metrics.WatchTotals{})
	if addr := c.String("watch-addr"); addr != "off" {
		server, err := status.Serve(addr, status.WatchHandler(status.Watch{Version: app.BuildVersion(), Checks: w.monitor.Checks,
			Metrics: func() metrics.Watch { return w.metrics(last.Load(), *totals.Load()) },
			Last: func() status.WatchedPass {
				r := last.Load()
				if r == nil {
					return status.WatchedPass{}
				}
				return status.WatchedPass{Done: true, Healthy: len(r.Findings) == 0, Summary: summary.Pass(r.Summary).In(lang.EN), Document: w.document(*r)}
			}}), hosts)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, server.Close()) }()
		w.log.WithField("address", "http://"+server.Addr()).Info("status of the monitor")
	}
	interval := c.Duration("interval")
	w.log.Infof("monitor-tasks %s started; one pass every %s", app.BuildVersion(), lang.Duration(interval, lang.EN))
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
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

// metrics returns what /metrics shows after the last pass, which may be nil.
func (w watcher) metrics(last *monitor.Report, totals metrics.WatchTotals) metrics.Watch {
	out := metrics.Watch{Checks: w.monitor.Checks(), Totals: totals}
	if last != nil {
		out.At, out.Queue, out.Problems = last.At, last.QueueState(), finding.Documents(last.Findings, w.commandLine)
	}
	return out
}
