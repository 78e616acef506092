// Package taskprocessor is the command line of task-processor.
package taskprocessor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	sdnotify "github.com/coreos/go-systemd/v22/daemon"
	"github.com/google/uuid"
	"github.com/sirupsen/logrus"
	"github.com/urfave/cli/v2"

	"imagetasks/pkg/app"
	"imagetasks/pkg/app/apiclient"
	"imagetasks/pkg/app/daemon"
	"imagetasks/pkg/picture"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/proxy"
	"imagetasks/pkg/settings"
	"imagetasks/pkg/status"
	"imagetasks/pkg/store"
	"imagetasks/pkg/supervise"
)

const processorLog = "task-processor.log"

// program is the application with this program's commands.
type program struct{ *app.App }

// New builds the program task-processor.
func New(core *app.App) *cli.App {
	a := program{core}
	worker := app.WorkerFlags()
	run := append([]cli.Flag{
		&cli.BoolFlag{Name: daemon.BackgroundFlag, Hidden: true, Usage: "how start runs it"},
		&cli.BoolFlag{Name: "once", Usage: "work until nothing is pending, then end: 0, or 3 when the way to the API is shut"},
	}, worker...)
	return &cli.App{
		Name:  "task-processor",
		Usage: "makes pictures of the tasks in PostgreSQL, through a proxy",
		Description: "Without a command it works tasks until SIGTERM or SIGINT; a second signal ends the grace.\n" +
			"First: task-processor migrate. Try it without anything: task-processor demo.",
		Flags:  run,
		Action: a.run,
		Commands: []*cli.Command{
			{Name: "run", Usage: "work tasks (the default)", Flags: run, Action: a.run},
			{Name: "start", Usage: "bring the background processor up, and return when it is healthy", Action: a.start, Flags: append([]cli.Flag{
				&cli.BoolFlag{Name: "unless-stopped", Usage: "leave it alone where an operator stopped it; for the start at boot"}}, worker...)},
			{Name: "stop", Usage: "stop it gracefully, then firmly; the monitor will not start it again", Action: a.stop, Flags: worker},
			{Name: "restart", Usage: "stop it gracefully and bring it up again", Action: a.restart, Flags: append([]cli.Flag{
				&cli.BoolFlag{Name: "if-running", Usage: "leave it alone where it doesn't run; for a regular restart"}}, worker...)},
			{Name: "migrate", Usage: "bring the database's schema up to date", Action: a.migrate,
				Flags: append([]cli.Flag{&cli.BoolFlag{Name: "plan", Usage: "print the SQL and change nothing"}}, app.CommonFlags()...)},
			enqueueCommand(a),
			{Name: "cancel", Usage: "cancel a task and refund it", Action: a.cancel,
				Flags: append([]cli.Flag{&cli.StringFlag{Name: "task", Usage: "the task's `ID`"},
					&cli.StringFlag{Name: "reason", Usage: "for the record", Value: "cancelled by an operator"}}, app.CommonFlags()...)},
			creditsCommand(a),
			{Name: "status", Usage: "show how the processor and the queue stand", Action: a.status,
				Flags: append([]cli.Flag{app.JSONFlag()}, worker...)},
			demoCommand(a),
		},
	}
}

func (a program) run(c *cli.Context) error {
	if err := app.NoArguments(c); err != nil {
		return err
	}
	s, err := a.Load(c)
	if err != nil {
		return err
	}
	once := c.Bool("once")
	if _, given := app.FlagValue(c, "status-addr"); once && !given {
		// A run that ends by itself has nothing to show, and may stand beside the daemon.
		s.StatusAddr = ""
	}
	return a.work(c.Context, s, once, c.Bool(daemon.BackgroundFlag))
}

// work runs a processor with everything around it.
func (a program) work(ctx context.Context, s settings.Settings, once, background bool) (err error) {
	client, transport, err := apiclient.New(s)
	if err != nil {
		return err
	}
	defer transport.CloseIdleConnections()
	pictures, err := picture.Open(s.ImageDir, s.ImageBaseURL, s.ImageMaxBytes)
	if err != nil {
		return err
	}
	if background {
		a.Stderr = io.Discard // what is logged goes to the file; a panic still reaches stderr
	}
	log, closer, err := a.Logger(s, processorLog)
	if err != nil {
		return err
	}
	defer closer.Close()
	defer func() {
		if background && err != nil {
			log.Error(err.Error())
		}
	}()
	transport.OnChange(tellOfProxies(log))
	if !once {
		hold, err := supervise.Dir(s.LogDir).Lock()
		switch {
		case errors.Is(err, supervise.ErrRunning) && !background:
			log.Info("another processor holds the pid file; this one works beside it, and nobody looks after it")
		case err != nil:
			return err
		default:
			defer func() { err = errors.Join(err, hold.Release()) }()
		}
	}

	var running atomic.Pointer[processor.Processor]
	ctx, stop := a.UntilSignal(ctx, func() {
		if p := running.Load(); p != nil {
			p.StopNow()
		}
	})
	defer stop()
	st, err := a.OpenProcessorStore(ctx, s)
	if err != nil && ctx.Err() != nil && !once {
		log.Info("interrupted before the database responded")
		return nil
	}
	if err != nil {
		return err
	}
	defer st.Close()
	p := processor.New(processor.Config{
		Worker: workerName(), Host: app.Hostname(), PID: os.Getpid(), Version: app.BuildVersion(),
		HeartbeatInterval: min(s.HungAfter/8, 15*time.Second), Concurrency: s.Concurrency, MaxAttempts: s.MaxAttempts, PollInterval: s.PollInterval,
		Lease: s.Lease, TaskTimeout: s.TaskTimeout, ShutdownGrace: s.ShutdownGrace, Log: log, Redact: a.Redact.String,
		Observe: tellSystemd(log), RateLimit: s.Rate, PendingTimeout: s.PendingTimeout, APIRateLimits: client.RateLimits,
		Upstreams:    func() []proxy.UpstreamState { return apiclient.Upstreams(transport, s) },
		RetryEjected: func(ctx context.Context) { apiclient.RetryEjected(ctx, transport, s) },
	}, st, client, pictures)
	running.Store(p)
	defer app.AbortWhenIdle(ctx, st, func() int { return p.Status().InFlight })()
	if s.StatusAddr != "" {
		server, err := status.Start(s.StatusAddr, source(p, st, s), s.StatusHosts)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, server.Close()) }()
		log.WithField("address", "http://"+server.Addr()).Info("status page")
	}
	log.WithField("concurrency", s.Concurrency).Infof("task-processor %s starts; the API is reached %s", app.BuildVersion(), apiclient.Route(transport, s))
	if once {
		err = p.RunOnce(ctx)
	} else {
		err = p.Run(ctx)
	}
	counts := p.Status().Counts
	log.Infof("task-processor ends: %d completed, %d failed, %d to be tried again, %d released",
		counts[processor.EventCompleted], counts[processor.EventFailed], counts[processor.EventRetried], counts[processor.EventReleased])
	if errors.Is(err, processor.ErrAPIUnavailable) {
		log.Error(err.Error())
		return app.ErrUnhealthy
	}
	return err
}

// tellOfProxies logs which proxies of several are left out, and which serve again.
func tellOfProxies(log logrus.FieldLogger) func(proxy.UpstreamState) {
	return func(s proxy.UpstreamState) {
		if s.Ejected {
			log.WithFields(logrus.Fields{"code": string(s.Code), "proxy": s.Proxy}).Warnf("a proxy is left out, and tried again from %s: %s",
				s.RetryAt.Local().Format(time.TimeOnly), s.Reason)
			return
		}
		log.WithField("proxy", s.Proxy).Info("a proxy serves again")
	}
}

// tellSystemd gives systemd its signs of life, where it runs this program as a unit of Type=notify
// (https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html).
func tellSystemd(log logrus.FieldLogger) func(processor.Event) {
	return func(e processor.Event) {
		if e.Kind != processor.EventHeartbeat {
			return
		}
		if _, err := sdnotify.SdNotify(false, sdnotify.SdNotifyReady+"\n"+sdnotify.SdNotifyWatchdog); err != nil {
			log.WithError(err).Warn("systemd could not be told that the processor lives")
		}
	}
}

func source(p *processor.Processor, st *store.Store, s settings.Settings) status.Source {
	return status.Source{Version: app.BuildVersion(), Processor: p.Status,
		Queue: func(ctx context.Context) (store.QueueStats, error) { return st.QueueStats(ctx, s.StuckAfter) }}
}

func (a program) migrate(c *cli.Context) error {
	if err := app.NoArguments(c); err != nil {
		return err
	}
	s, err := a.Load(c)
	if err != nil {
		return err
	}
	ctx, stop := a.UntilSignal(c.Context, nil)
	defer stop()
	st, err := a.ConnectStore(ctx, s)
	if err != nil {
		return err
	}
	defer st.Close()
	if c.Bool("plan") {
		plan, err := st.Plan(ctx)
		if err != nil {
			return err
		}
		if len(plan) == 0 {
			a.Printf("-- The schema is up to date: there is nothing to do.\n")
		}
		for _, m := range plan {
			a.Printf("-- %s\n%s\n", m.Name, m.SQL)
		}
		return nil
	}
	done, err := st.Migrate(ctx)
	if err != nil {
		return err
	}
	for _, m := range done {
		a.Printf("applied %s\n", m.Name)
	}
	if err := st.CheckSchema(ctx); err != nil {
		return err
	}
	return a.Print(c, textSchema)
}

// workerName is how this process is known in leased_by.
func workerName() string {
	return fmt.Sprintf("%s:%d:%s", app.Hostname(), os.Getpid(), uuid.NewString()[:8])
}
