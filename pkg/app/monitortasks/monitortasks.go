// Package monitortasks is the command line of monitor-tasks.
package monitortasks

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/urfave/cli/v2"

	"imagetasks/pkg/app"
	"imagetasks/pkg/app/apiclient"
	"imagetasks/pkg/app/daemon"
	"imagetasks/pkg/lang"
	"imagetasks/pkg/monitor"
	"imagetasks/pkg/settings"
	"imagetasks/pkg/status"
	"imagetasks/pkg/store"
)

// program is the application with this program's commands.
type program struct{ *app.App }

// New builds the program monitor-tasks.
func New(core *app.App) *cli.App {
	a := program{core}
	return &cli.App{
		Name: "monitor-tasks",
		Usage: "one round for cron: fails and refunds stuck tasks, looks after database, queue, processor and API, and " +
			"brings back a processor that is down",
		Description: "Exit codes: 0 all is well; 1 it could not do its work; 2 wrong usage or settings; 3 something is still wrong.\n" +
			"A processor that an operator stopped (task-processor stop) is left alone, as is one never started here.",
		Flags: append([]cli.Flag{
			&cli.BoolFlag{Name: "watch", Usage: "stay, and make a round at each interval"},
			&cli.DurationFlag{Name: "interval", Usage: "`TIME` between two rounds of --watch", Value: 5 * time.Minute},
			&cli.StringFlag{Name: "watch-addr", Usage: "`ADDRESS` of --watch's own /healthz, /readyz and /status.json; off: none", Value: "off"},
			&cli.DurationFlag{Name: "stuck-after", Usage: "`TIME` in processing that counts as stuck; default: STUCK_AFTER", DefaultText: "20m"},
			&cli.BoolFlag{Name: "no-restart", Usage: "leave the processor alone"},
			&cli.BoolFlag{Name: "dry-run", Usage: "show what would be done and change nothing"},
			&cli.BoolFlag{Name: "quiet", Usage: "write nothing but the log file while all is well; for cron, which mails the rest"},
			app.JSONFlag(),
		}, app.CommonFlags()...),
		Action: a.monitor,
	}
}

func (a program) monitor(c *cli.Context) (err error) {
	if err := app.NoArguments(c); err != nil {
		return err
	}
	if c.Duration("stuck-after") < 0 || c.Duration("interval") <= 0 {
		return app.Usagef("--stuck-after and --interval must be more than 0")
	}
	if c.Bool("watch") && c.Bool("json") {
		return app.Usagef("--json prints one document; --watch has none. Ask --watch-addr for /status.json")
	}
	s, err := a.Load(c)
	if err != nil {
		return err
	}
	l, err := a.Lang(c)
	if err != nil {
		return err
	}
	if stuckAfter := c.Duration("stuck-after"); stuckAfter > 0 {
		s.StuckAfter = stuckAfter
	}
	ask, closeAPI := apiclient.Prober(s)
	defer closeAPI()
	ctx, stop := a.UntilSignal(c.Context, nil)
	defer stop()

	release, err := monitor.Lock(s.LogDir)
	if errors.Is(err, monitor.ErrPassRunning) && !c.Bool("watch") {
		return a.Print(c, lang.Text{EN: "%v; nothing to do", ZH: "另一轮监控正在本机运行，无事可做（%v）"}, err)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()

	log, closeLog, err := a.logger(c, s)
	if err != nil {
		return err
	}
	defer closeLog()
	st, err := a.open(ctx, s, c.Bool("watch"))
	if err != nil {
		log.WithError(err).Error("round: broken off")
		return err
	}
	defer st.Close()
	d, err := daemon.New(a.App, c, s, st)
	if err != nil {
		return err
	}
	m := monitor.New(monitor.Config{
		Store: st, Supervisor: d, Host: app.Hostname(), Probe: ask, SilentFor: apiclient.SilentFor(ctx, s.StatusAddr),
		Dir: s.LogDir, StuckAfter: s.StuckAfter, PendingTimeout: s.PendingTimeout, HungAfter: s.HungAfter, NoRestart: c.Bool("no-restart"), DryRun: c.Bool("dry-run"),
		Log: log, Redact: a.Redact.String,
	})
	if c.Bool("watch") {
		return a.watch(ctx, c, s, m, log)
	}
	report, err := m.Pass(ctx)
	if err != nil {
		return err
	}
	return a.report(c, report, l)
}

// logger is the monitor's: nothing but the file with --quiet, and where a person reads the summary on a terminal.
func (a program) logger(c *cli.Context, s settings.Settings) (log *logrus.Logger, closeLog func() error, err error) {
	stderr := a.Stderr
	if c.Bool("quiet") || app.IsTerminal(stderr) && !c.Bool("watch") {
		a.Stderr = nil
	}
	log, closer, err := a.Logger(s, "task-monitor.log")
	a.Stderr = stderr
	if err != nil {
		return nil, nil, err
	}
	return log, closer.Close, nil
}

// open connects to the database. A monitor that stays goes on without it, and finds it away in its rounds.
func (a program) open(ctx context.Context, s settings.Settings, stay bool) (*store.Store, error) {
	st, err := a.OpenStore(ctx, s)
	if err != nil && stay && store.IsUnavailable(err) {
		return a.NewStore(ctx, s)
	}
	return st, err
}

// report prints a round.
func (a program) report(c *cli.Context, r monitor.Report, l lang.Lang) error {
	switch {
	case c.Bool("json"):
		if err := a.PrintJSON(r); err != nil {
			return err
		}
	case len(r.Problems) > 0 || !c.Bool("quiet"):
		a.Printf("%s\n", r.Summary.In(l))
		for _, p := range r.Problems {
			a.Printf("! %s\n", p.In(l))
		}
	}
	if len(r.Problems) > 0 {
		return app.ErrUnhealthy
	}
	return nil
}

// watch makes rounds until a signal comes. A round that was begun is ended.
func (a program) watch(ctx context.Context, c *cli.Context, s settings.Settings, m *monitor.Monitor, log *logrus.Logger) (err error) {
	var mu sync.Mutex
	var last monitor.Report
	if addr := c.String("watch-addr"); addr != "off" {
		server, err := status.Serve(addr, status.WatchHandler(status.Watch{Version: app.BuildVersion(), Checks: m.Checks,
			Last: func() monitor.Report { mu.Lock(); defer mu.Unlock(); return last }}), s.StatusHosts)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, server.Close()) }()
		log.WithField("address", "http://"+server.Addr()).Info("status of the monitor")
	}
	interval := c.Duration("interval")
	log.Infof("monitor-tasks %s stays; a round every %s", app.BuildVersion(), interval)
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		report, err := m.Pass(ctx)
		if err != nil {
			report.Problems = append(report.Problems, lang.NewMessage(lang.Text{EN: "%s"}, a.Redact.String(err.Error())))
		}
		mu.Lock()
		last = report
		mu.Unlock()
		select {
		case <-ctx.Done():
			log.Info("monitor-tasks ends")
			return nil
		case <-tick.C:
		}
	}
}
