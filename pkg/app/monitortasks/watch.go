package monitortasks

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/urfave/cli/v2"

	"imagetasks/pkg/app"
	"imagetasks/pkg/app/summary"
	"imagetasks/pkg/lang"
	"imagetasks/pkg/monitor"
	"imagetasks/pkg/status"
)

// watch runs passes until a signal arrives. A pass that is running then is completed.
func (w watcher) watch(ctx context.Context, c *cli.Context, hosts []string) (err error) {
	var last atomic.Pointer[monitor.Report]
	if addr := c.String("watch-addr"); addr != "off" {
		server, err := status.Serve(addr, status.WatchHandler(status.Watch{Version: app.BuildVersion(), Checks: w.monitor.Checks,
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
		w.ended = w.alerts.BeginPass(ctx, w.log)
		report, _ := w.pass(ctx) // its error is among its findings
		last.Store(&report)
		select {
		case <-ctx.Done():
			w.log.Info("monitor-tasks stopped")
			return nil
		case <-tick.C:
		}
	}
}
