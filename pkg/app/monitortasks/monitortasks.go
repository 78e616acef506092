// Package monitortasks is the command line of monitor-tasks.
package monitortasks

import (
	"context"
	"errors"
	"runtime/debug"
	"slices"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/urfave/cli/v2"

	"imagetasks/pkg/app"
	"imagetasks/pkg/app/alerts"
	"imagetasks/pkg/app/apiclient"
	"imagetasks/pkg/app/daemon"
	"imagetasks/pkg/app/operator"
	"imagetasks/pkg/app/picturestore"
	"imagetasks/pkg/app/reload"
	"imagetasks/pkg/app/summary"
	"imagetasks/pkg/app/webhooks"
	"imagetasks/pkg/finding"
	"imagetasks/pkg/health"
	"imagetasks/pkg/inventory"
	"imagetasks/pkg/lang"
	"imagetasks/pkg/monitor"
	"imagetasks/pkg/picture"
	"imagetasks/pkg/repair"
	"imagetasks/pkg/settings"
	"imagetasks/pkg/status"
	"imagetasks/pkg/store"
	"imagetasks/pkg/supervise"
	"imagetasks/pkg/webhook"
)

// passGCPercent is that of one pass, whose heap mostly stays below the size at which the first collection begins then.
const passGCPercent = 400

// program is the application with the commands of this program.
type program struct{ *app.App }

// New returns the program monitor-tasks.
func New(core *app.App) *cli.App {
	a := program{core}
	return &cli.App{
		Name: "monitor-tasks",
		Usage: "runs one supervision pass: fails and refunds stuck tasks, checks database, queue, processor and API, and " +
			"restarts a processor that is dead or hung",
		Description: "Exit codes: 0 all is well; 1 could not do its work; 2 wrong usage or settings; 3 something is still wrong.\n" +
			"A processor that was stopped by an operator (task-processor stop) or never started on this host is not started.",
		Flags: append([]cli.Flag{
			&cli.BoolFlag{Name: "watch", Usage: "keep running, with one pass per interval"},
			&cli.DurationFlag{Name: "interval", Usage: "`TIME` between two passes of --watch", Value: 5 * time.Minute},
			&cli.StringFlag{Name: "watch-addr", Usage: "`ADDRESS` for /healthz, /readyz and /status.json of --watch; off: none", Value: "off"},
			&cli.DurationFlag{Name: "stuck-after", Usage: "tasks processing for longer than this `TIME` are stuck; default: STUCK_AFTER", DefaultText: "20m"},
			&cli.BoolFlag{Name: "no-restart", Usage: "never restart the processor"},
			&cli.BoolFlag{Name: "dry-run", Usage: "show what would be done and change nothing"},
			&cli.BoolFlag{Name: "test-alert", Usage: "send a test to each receiver of alerts, and do nothing else; exits 3 if one does not accept it"},
			&cli.BoolFlag{Name: "quiet", Usage: "print only problems; for cron, which mails all output"},
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
		return app.Usagef("--json prints one document, and --watch never ends; read /status.json on --watch-addr instead")
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
	told, alertFault := alerts.New(a.App, c, s)
	defer func() { told.Close() }() // never nil
	if c.Bool("test-alert") {
		if alertFault != nil {
			return alertFault
		}
		return a.testAlert(c, told, l)
	}
	if alertFault != nil && c.Bool("watch") {
		return alertFault
	}
	// A pass does its work, and reports the fault after it.
	defer func() {
		switch {
		case alertFault == nil:
		case errors.Is(err, app.ErrUnhealthy):
			a.Warn(alerts.Fault(alertFault).Error())
		default:
			err = errors.Join(err, alerts.Fault(alertFault))
		}
	}()
	if !c.Bool("watch") {
		defer debug.SetGCPercent(debug.SetGCPercent(passGCPercent))
	}
	ctx, stop := a.UntilSignal(c.Context, nil)
	defer stop()
	var early *store.Store
	var storeErr error
	if !c.Bool("watch") {
		if early, storeErr = a.NewPassStore(ctx, s); storeErr == nil {
			defer early.Close()
		}
	}
	prober := apiclient.NewProber(s)
	defer prober.Close()
	var reloader *reload.Reloader
	if c.Bool("watch") {
		reloader = reload.New(a.App, c, s)
	}

	release, err := monitor.Lock(s.LogDir)
	if errors.Is(err, monitor.ErrPassRunning) && !c.Bool("watch") {
		return a.Print(c, textPassRunning)
	}
	if errors.Is(err, monitor.ErrPassRunning) {
		return err
	}
	unlocked := err
	if unlocked == nil {
		defer func() { err = errors.Join(err, release()) }()
	}

	log, closeLog, err := a.logger(c, s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeLog()) }()
	access, err := newAccess(c, s, log)
	if err != nil {
		return err
	}
	ended := func(error, string) {}
	if !c.Bool("watch") && !c.Bool("dry-run") {
		ended = told.BeginPass(ctx, log)
	}
	conf := monitor.Config{
		BacklogAfter: s.BacklogAfter, Disks: alerts.Disks(s).Read,
		Host: app.Hostname(), Check: prober.Check, Live: status.Live(ctx, s.StatusAddr, s.StatusToken),
		Dir: s.LogDir, StuckAfter: s.StuckAfter, Lease: s.Lease, PendingTimeout: s.PendingTimeout, HungAfter: s.HungAfter,
		Retention: s.Retention, RedriveWindow: s.RedriveWindow,
		NoRestart: c.Bool("no-restart"), DryRun: c.Bool("dry-run"), Log: log, Redact: a.Redact.String,
	}
	var st, passStore *store.Store
	if err = storeErr; err == nil {
		st, passStore, err = a.openStore(ctx, s, early, conf.Questions())
	}
	if err != nil {
		log.WithError(err).Error("the monitor pass was not completed")
		if ctx.Err() == nil { // a database that refuses is as bad as one that does not respond
			told.AfterPass(ctx, nil, monitor.Report{Summary: monitor.Summary{DryRun: conf.DryRun}}, err, log)
		}
		ended(err, "")
		if store.IsUnavailable(err) {
			err = errors.Join(err, monitor.NoteOutage(s.LogDir))
		}
		return err
	}
	defer passStore.Close()
	conf.Store = passStore
	if unlocked != nil {
		log.WithError(unlocked).Warn("another pass may run on this host at the same time")
	}
	if reloader != nil {
		defer reloader.Start(reload.Targets{Store: st, CheckAPI: apiclient.Check, SetAPI: prober.Set, Access: access}, log)()
	}
	d, err := daemon.New(a.App, c, s, st)
	if err != nil {
		ended(err, "")
		return err
	}
	d.Warn = func(w supervise.Warning) { log.Warn(w.Error()) }
	if len(webhooks.Receivers(s)) > 0 {
		conf.Deliver = func(ctx context.Context) (webhook.Report, error) { return webhooks.Pass(ctx, a.App, s, passStore, log) }
	}
	if err := apiclient.Fault(s); err != nil {
		conf.EndpointsFault = a.Redact.String(err.Error())
	}
	conf.Supervisor = d
	conf.Pictures = inventory.Store{Tasks: st,
		Open: func(ctx context.Context, i store.Installation) (*picture.Store, bool, error) {
			return picturestore.Existing(ctx, s, i)
		}}
	m := monitor.New(conf)
	w := watcher{program: a, monitor: m, log: log, commandLine: a.CommandLine(c), access: access, operator: operator.New(s, st, a.Redact.String, log),
		alerts: told, store: st, ended: ended}
	if c.Bool("watch") {
		pictures, stop := operator.ExistingPictures(s, st)
		defer stop()
		w.thumbnails = operator.Thumbnails(s, st, pictures)
		return w.watch(ctx, c, s, watched{store: st, supervisor: d, live: conf.Live, endpointsFault: conf.EndpointsFault})
	}
	report, err := w.pass(ctx)
	if err != nil {
		return err
	}
	return w.print(c, report, l)
}

// logger returns the monitor's logger: to the file only with --quiet, and on a terminal, where a person reads the summary.
func (a program) logger(c *cli.Context, s settings.Settings) (log *logrus.Logger, closeLog func() error, err error) {
	newLogger := a.Logger
	if c.Bool("quiet") || app.IsTerminal(a.Stderr) && !c.Bool("watch") {
		newLogger = a.FileLogger
	}
	log, closer, err := newLogger(s, "task-monitor.log")
	if err != nil {
		return nil, nil, err
	}
	return log, closer.Close, nil
}

// openStore connects to the database. early is of NewPassStore: then what a pass asks is read ahead for passStore. With --watch, without
// early, the monitor starts without the database, too: its passes report that.
func (a program) openStore(ctx context.Context, s settings.Settings, early *store.Store, q store.PassQuestions) (st, passStore *store.Store, err error) {
	if early != nil {
		passStore, err = app.OpenPassStore(ctx, early, q)
		return early, passStore, err
	}
	st, err = a.OpenStore(ctx, s)
	if err != nil && (store.IsUnavailable(err) || ctx.Err() != nil) {
		st, err = a.NewStore(ctx, s)
	}
	return st, st, err
}

// watcher runs passes and reports them.
type watcher struct {
	program
	monitor     *monitor.Monitor
	log         *logrus.Logger
	commandLine func(finding.Command) string
	access      *status.Access // of the pages; nil: there are none
	operator    status.Operator
	thumbnails  status.Thumbnails
	alerts      *alerts.Alerts
	store       *store.Store
	ended       func(failure error, summary string) // of alerts.Alerts.BeginPass
}

// pass runs one pass and logs its result in one line.
func (w watcher) pass(ctx context.Context) (monitor.Report, error) {
	r, err := w.monitor.Pass(ctx)
	summary := summary.Pass(r.Summary).In(lang.EN)
	switch {
	case err != nil:
		w.log.WithError(err).Error("the monitor pass was not completed")
	case len(r.Findings) > 0:
		for _, f := range r.Findings {
			w.log.WithField("code", string(f.Code)).Warn(f.Text(lang.EN))
		}
		w.log.Warn(summary)
	default:
		w.log.Info(summary)
	}
	w.alerts.AfterPass(ctx, w.store, r, err, w.log)
	w.ended(err, summary)
	return r, err
}

// testAlert sends a test to each receiver of alerts.
func (a program) testAlert(c *cli.Context, told *alerts.Alerts, l lang.Lang) error {
	if told.Receivers() == 0 {
		return alerts.ErrNoReceiver()
	}
	ctx, stop := a.UntilSignal(c.Context, nil)
	defer stop()
	results := told.Test(ctx)
	ok := !slices.ContainsFunc(results, func(r alerts.Result) bool { return !r.OK })
	if c.Bool("json") {
		if err := a.PrintJSON(map[string]any{"ok": ok, "receivers": results}); err != nil {
			return err
		}
	} else {
		a.Printf("%s\n", alerts.PrintTest(results, l))
	}
	if !ok {
		return app.ErrUnhealthy
	}
	return nil
}

// passDocument is a pass as --json and /status.json show it.
type passDocument struct {
	At   time.Time    `json:"at"`
	Text lang.Message `json:"summary"`
	monitor.Summary
	Repair         repair.Report        `json:"repair"`
	Overdue        repair.OverdueResult `json:"overdue"`   // due for longer than PENDING_TIMEOUT
	SetAside       repair.OverdueResult `json:"set_aside"` // that the database had refused to change
	Queue          store.QueueStats     `json:"queue"`
	DatabaseMillis int64                `json:"database_ms"`
	Checks         []health.Check       `json:"health_checks"`
	Problems       []finding.Document   `json:"problems"`
}

func (w watcher) document(r monitor.Report) passDocument {
	return passDocument{At: r.At, Text: summary.Pass(r.Summary), Summary: r.Summary, Repair: r.Repair, Overdue: r.Overdue, SetAside: r.SetAside,
		Queue: r.Queue, DatabaseMillis: r.DatabaseMillis, Checks: r.Checks, Problems: finding.Documents(r.Findings, w.commandLine)}
}

// print prints a pass.
func (w watcher) print(c *cli.Context, r monitor.Report, l lang.Lang) error {
	switch {
	case c.Bool("json"):
		if err := w.PrintJSON(w.document(r)); err != nil {
			return err
		}
	case len(r.Findings) > 0 || !c.Bool("quiet"):
		w.Printf("%s\n", summary.Pass(r.Summary).In(l))
		for _, p := range finding.Documents(r.Findings, w.commandLine) {
			w.Printf("! %s\n", p.Finding.Text(l))
			if p.Next != "" {
				w.Printf("  %s\n", textNext.In(l, p.Next))
			}
		}
	}
	if len(r.Findings) > 0 {
		return app.ErrUnhealthy
	}
	return nil
}

var (
	textPassRunning = lang.Text{EN: "another monitor pass is running on this host; nothing to do", ZH: "本机已有监控在运行，无需处理"}
	textNext        = lang.Text{EN: "next: %s", ZH: "下一步：%s"}
)
