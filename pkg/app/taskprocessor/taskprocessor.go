// Package taskprocessor is the command line of task-processor.
package taskprocessor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"
	"github.com/urfave/cli/v2"

	"imagetasks/pkg/app"
	"imagetasks/pkg/app/alerts"
	"imagetasks/pkg/app/apiclient"
	"imagetasks/pkg/app/daemon"
	"imagetasks/pkg/app/operator"
	"imagetasks/pkg/app/picturestore"
	"imagetasks/pkg/app/reload"
	"imagetasks/pkg/dashboard"
	"imagetasks/pkg/finding"
	"imagetasks/pkg/imageworker"
	"imagetasks/pkg/metrics"
	"imagetasks/pkg/overview"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/proxy"
	"imagetasks/pkg/settings"
	"imagetasks/pkg/status"
	"imagetasks/pkg/store"
	"imagetasks/pkg/thumbnail"
)

const processorLog = "task-processor.log"

// program is the application with this program's commands.
type program struct{ *app.App }

// New builds the program task-processor.
func New(core *app.App) *cli.App {
	a := program{core}
	worker := app.WorkerFlags()
	run := append([]cli.Flag{
		&cli.BoolFlag{Name: daemon.BackgroundFlag, Hidden: true, Usage: "run as the daemon that start starts"},
		&cli.BoolFlag{Name: "once", Usage: "process tasks until none is pending; exits 3 if the API is unreachable, claiming is paused, or tasks of a later time are left"},
	}, worker...)
	return &cli.App{
		Name:  "task-processor",
		Usage: "processes the image tasks in PostgreSQL, through a proxy",
		Description: "Without a command it processes tasks until SIGTERM or SIGINT. Then it claims nothing more, and ends when its paid requests have finished; " +
			"a second signal cuts them. SIGHUP makes it read the env file again: the API key, the proxies and the password of the database.\n" +
			"To begin: task-processor migrate. To see it without any setup: task-processor demo.",
		Flags:  run,
		Action: a.run,
		Commands: []*cli.Command{
			{Name: "run", Usage: "process tasks (the default)", Flags: run, Action: a.run},
			{Name: "start", Usage: "start the background processor and wait until it is healthy", Action: a.start, Flags: append([]cli.Flag{
				&cli.BoolFlag{Name: "unless-stopped", Usage: "do nothing if an operator stopped it; for the start at boot"}, app.JSONFlag()}, worker...)},
			{Name: "stop", Usage: "stop it when its paid requests have finished; the monitor will not start it again", Action: a.stop,
				Flags: append([]cli.Flag{nowFlag(), app.JSONFlag()}, worker...)},
			{Name: "restart", Usage: "stop it when its paid requests have finished, and start it again", Action: a.restart, Flags: append([]cli.Flag{
				&cli.BoolFlag{Name: "if-running", Usage: "do nothing if it is not running; for a scheduled restart"}, nowFlag(), app.JSONFlag()}, worker...)},
			{Name: "reload", Usage: "let it read the env file again: the API key, the proxies and the password of the database", Action: a.reload, Flags: append([]cli.Flag{app.JSONFlag()}, worker...)},
			migrateCommand(a), adoptCommand(a), enqueueCommand(a), cancelCommand(a), redriveCommand(a), pauseCommand(a), resumeCommand(a),
			tasksCommand(a), picturesCommand(a), creditsCommand(a), usersCommand(a), webhooksCommand(a), operationsCommand(a),
			{Name: "status", Usage: "show the state of processor, queue, API and monitor", Action: a.status,
				Flags: append([]cli.Flag{app.JSONFlag()}, worker...)},
			topCommand(a),
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
		// A run that ends by itself needs no status page, and the daemon may be using the address.
		s.StatusAddr = ""
	}
	if _, given := a.Env("GOGC"); !given {
		defer debug.SetGCPercent(debug.SetGCPercent(gcPercent))
	}
	told, err := alerts.New(a.App, c, s)
	if err != nil {
		return err
	}
	defer told.Close()
	return a.work(c.Context, s, once, c.Bool(daemon.BackgroundFlag), a.CommandLine(c), reload.New(a.App, c, s), told)
}

// gcPercent is how much the heap grows before it is collected, in percent. What is in use depends on the requests in flight, and the processor has
// CPU time to spare while it waits for their answers.
const gcPercent = 25

// work runs a processor with its API client, picture store, log, pid lock and status page.
func (a program) work(ctx context.Context, s settings.Settings, once, background bool, commandLine func(finding.Command) string, reloader *reload.Reloader, told *alerts.Alerts) (err error) {
	endpoints, err := apiclient.New(s)
	if err != nil {
		return err
	}
	defer endpoints.CloseIdleConnections()
	opener, err := picturestore.New(s)
	if err != nil {
		return err
	}
	defer opener.Close()
	newLogger := a.Logger
	if background {
		newLogger = a.FileLogger
	}
	log, closer, err := newLogger(s, processorLog)
	if err != nil {
		return err
	}
	defer closer.Close()
	if background {
		a.Stderr = io.Discard // the log goes to the file; a panic still reaches stderr
	}
	defer func() {
		if background && err != nil {
			log.Error(err.Error())
		}
	}()
	for _, e := range endpoints {
		e.Transport.OnChange(logProxyChanges(log))
	}
	access, err := newAccess(s, log)
	if err != nil {
		return err
	}
	pid := &pidLock{settings: s, background: background, log: log}
	if !once {
		if err := pid.acquire(); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, pid.release()) }()
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
	if err := pid.yield(ctx, a.newLookup(s, st)); err != nil {
		return err
	}
	defer reloader.Start(reload.Targets{Store: st, Processor: true, CheckAPI: apiclient.Check,
		SetAPI: endpoints.Update, Access: access}, log)()
	pictures, err := openPictures(ctx, opener, st)
	if err != nil && ctx.Err() != nil && !once {
		log.Info("interrupted before the first claim")
		return nil
	}
	if err != nil {
		return err
	}
	// A run that ends by itself does not switch off what the processors of other hosts rely on.
	if !once || s.UserConcurrency > 0 || s.UserMaxWaiting > 0 {
		err = setLimits(ctx, st, s, log)
		if err != nil && ctx.Err() != nil && !once {
			log.Info("interrupted before the first claim")
			return nil
		}
		if err != nil {
			return err
		}
	}
	observed := metrics.New(metrics.Config{Version: app.BuildVersion(), Endpoints: endpointNames(endpoints), Models: modelNames(endpoints, s.Model)})
	hooks, err := a.newHooks(ctx, s, st, once, log, observed.ObserveDelivery)
	if err != nil && ctx.Err() != nil && !once {
		log.Info("interrupted before the first claim")
		return nil
	}
	if err != nil {
		return err
	}
	defer hooks.close()
	logDir := pid.dir()
	details := func(st processor.Status) overview.ProcessorReport {
		r := overview.ProcessorReport{Status: st, APIEndpoints: a.endpointReports(endpoints), EndpointsDigest: endpoints.Digest(),
			LogDir: logDir, Reload: reloader.Last(), PictureStore: pictures.ID()}
		if len(r.APIEndpoints) == 1 {
			r.Upstreams, r.APIRateLimits = r.APIEndpoints[0].Upstreams, r.APIEndpoints[0].APIRateLimits
		}
		return r
	}
	bridge, err := newBridge(st, func() []store.BridgeProgress {
		if p := running.Load(); p != nil {
			return p.Progress()
		}
		return nil
	}, log)
	if err != nil {
		return err
	}
	p := processor.New(processor.Config{
		Worker: workerName(), Host: app.Hostname(), PID: os.Getpid(), Version: app.BuildVersion(),
		HeartbeatInterval: min(s.HungAfter/8, 15*time.Second), Concurrency: s.Concurrency, MaxAttempts: s.MaxAttempts,
		RetryUnknown: s.RetryUnknown, MaxLostClaims: s.MaxLostClaims, PollInterval: s.PollInterval,
		Lease: s.Lease, TaskTimeout: s.TaskTimeout, ShutdownGrace: s.ShutdownGrace, Log: log, Redact: a.Redact.String,
		PendingTimeout: s.PendingTimeout, DefaultModel: s.Model, API: "the image API", Results: "pictures", CheckStore: pictures.Probe, Endpoints: engineEndpoints(endpoints),
		Details: func(st processor.Status) any { return details(st) }, Observe: func(e processor.Event) { bridge.observe(e); hooks.observe(e); observed.Observe(e) },
	}, st, imageworker.New(workerEndpoints(endpoints, s.Model), pictures, log).WithDownloads(imageworker.Downloads{Window: s.DownloadWindow}).WithObserver(observed))
	running.Store(p)
	defer app.AbortWhenIdle(ctx, st, func() int { return p.Status().InFlight + bridge.busy() + hooks.busy() })()
	if s.StatusAddr != "" {
		var closePage func() error
		closePage, err = a.startPage(ctx, statusPage{settings: s, store: st, access: access, commandLine: commandLine, log: log, metrics: observed,
			operator:   operator.New(s, st, a.Redact.String, log),
			thumbnails: operator.Thumbnails(s, st, func(context.Context) (thumbnail.Pictures, error) { return pictures, nil }),
			report:     func() overview.ProcessorReport { return details(p.Status()) }})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, closePage()) }()
	}
	if !once {
		defer app.Background(ctx, func(ctx context.Context) { dashboard.Record(ctx, st, log) })()
	}
	log.WithField("concurrency", s.Concurrency).Infof("task-processor %s starts; %s", app.BuildVersion(), routes(endpoints))
	if warning := endpoints.WithoutDefault(s); warning != "" {
		log.Warn(warning)
	}
	stopRetries := retryEjected(ctx, endpoints, reloader.Settings)
	defer stopRetries()
	defer notifySystemd(ctx, p.Status, log)()
	if !once { // what a run that ends by itself finds, it prints
		defer told.Start(ctx, st, func() overview.ProcessorReport { return details(p.Status()) }, log)()
	}
	err = hooks.beside(ctx, func() error {
		if once {
			return bridge.runOnce(ctx, p)
		}
		return bridge.run(ctx, p)
	})
	counts := p.Status().Counts
	log.Infof("task-processor stopped: %d completed, %d failed, %d retried, %d released",
		counts[processor.EventCompleted], counts[processor.EventFailed], counts[processor.EventRetried], counts[processor.EventReleased])
	if errors.Is(err, processor.ErrAPIUnavailable) || errors.Is(err, processor.ErrPaused) || errors.Is(err, processor.ErrSetAside) || errors.Is(err, processor.ErrScheduled) ||
		errors.Is(err, errBridgeOwes) {
		log.Error(err.Error())
		return app.ErrUnhealthy
	}
	return err
}

// newAccess returns who may use the status page; nil: there is none.
func newAccess(s settings.Settings, log logrus.FieldLogger) (*status.Access, error) {
	if s.StatusAddr == "" {
		return nil, nil
	}
	return status.NewAccess(status.AccessConfig{Addr: s.StatusAddr, Hosts: s.StatusHosts, Token: s.StatusToken, Pictures: s.StatusPictures, Log: log})
}

// retryInterval is the time between two checks for ejected proxies that are due.
const retryInterval = time.Second

// retryEjected retries the ejected proxies that are due, every retryInterval, until stop is called; stop waits for it. It does
// not end with ctx, because tasks in flight at a stop need a proxy, too.
func retryEjected(ctx context.Context, endpoints apiclient.Set, current func() settings.Settings) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	running.Go(func() {
		tick := time.NewTicker(retryInterval)
		defer tick.Stop()
		for {
			endpoints.RetryEjected(ctx, current())
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
	return func() {
		cancel()
		running.Wait()
	}
}

// logProxyChanges logs when a proxy of several is ejected, and when it serves again.
func logProxyChanges(log logrus.FieldLogger) func(proxy.UpstreamState) {
	return func(s proxy.UpstreamState) {
		if s.Ejected {
			log.WithFields(logrus.Fields{"code": string(s.Code), "proxy": s.Proxy}).Warnf("proxy ejected; next retry at %s: %s",
				s.RetryAt.Local().Format(time.TimeOnly), s.Reason)
			return
		}
		log.WithField("proxy", s.Proxy).Info("proxy serves again")
	}
}

// setLimits tries this often, with this wait between two tries, in which the application can enqueue.
const (
	limitTries = 30
	limitWait  = time.Second
)

// setLimits sets the limits of one user's tasks. They can't change while a transaction of the application is open that enqueued tasks.
func setLimits(ctx context.Context, st *store.Store, s settings.Settings, log logrus.FieldLogger) error {
	before, err := st.Control(ctx)
	if err != nil {
		return err
	}
	for range limitTries {
		err = st.SetLimits(ctx, s.UserConcurrency, s.UserMaxWaiting)
		if err == nil && (before.UserConcurrency != s.UserConcurrency || before.UserMaxWaiting != s.UserMaxWaiting) {
			log.Infof("limits of one user's tasks, for all processors: USER_CONCURRENCY=%s, USER_MAX_WAITING=%s", limitText(s.UserConcurrency), limitText(s.UserMaxWaiting))
		}
		if !store.IsLockTimeout(err) || ctx.Err() != nil {
			return err
		}
		log.Warn("USER_CONCURRENCY and USER_MAX_WAITING can't be set yet: a transaction of the application that enqueued tasks is still open")
		select {
		case <-ctx.Done():
		case <-time.After(limitWait):
		}
	}
	return fmt.Errorf("%w: end the application's transactions that have enqueued tasks (pg_stat_activity shows them)", err)
}

// limitText returns a limit as in the env file.
func limitText(n int) string {
	if n == 0 {
		return "off"
	}
	return strconv.Itoa(n)
}

// workerName returns the name of this process in leased_by.
func workerName() string {
	return fmt.Sprintf("%s:%d:%s", app.Hostname(), os.Getpid(), uuid.NewString()[:8])
}
