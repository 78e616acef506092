package monitortasks

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/urfave/cli/v2"

	"imagetasks/pkg/app"
	"imagetasks/pkg/app/summary"
	"imagetasks/pkg/lang"
	"imagetasks/pkg/monitor"
	"imagetasks/pkg/settings"
	"imagetasks/pkg/status"
)

// newAccess returns who may use the pages of --watch; nil: there are none.
func newAccess(c *cli.Context, s settings.Settings, log logrus.FieldLogger) (*status.Access, error) {
	addr := c.String("watch-addr")
	if addr == "off" || !c.Bool("watch") {
		return nil, nil
	}
	return status.NewAccess(status.AccessConfig{Addr: addr, Hosts: s.StatusHosts, Token: s.StatusToken, Pictures: s.StatusPictures, Log: log})
}

// watch runs passes until a signal arrives. A pass that is running then is completed.
func (w watcher) watch(ctx context.Context, c *cli.Context) (err error) {
	var last atomic.Pointer[monitor.Report]
	if addr := c.String("watch-addr"); addr != "off" {
		server, err := status.Serve(status.WatchHandler(status.Watch{Version: app.BuildVersion(), Checks: w.monitor.Checks, Operator: w.operator, Thumbnails: w.thumbnails,
			Last: func() status.WatchedPass {
				r := last.Load()
				if r == nil {
					return status.WatchedPass{}
				}
				return status.WatchedPass{Done: true, Healthy: len(r.Findings) == 0, Summary: summary.Pass(r.Summary).In(lang.EN), Document: w.document(*r)}
			}}), w.access)
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
		last.Store(&report)
		select {
		case <-ctx.Done():
			w.log.Info("monitor-tasks stopped")
			return nil
		case <-tick.C:
		}
	}
}
