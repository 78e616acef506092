package taskprocessor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"imagetasks/pkg/app"
	"imagetasks/pkg/app/daemon"
	"imagetasks/pkg/app/render"
	"imagetasks/pkg/finding"
	"imagetasks/pkg/lang"
	"imagetasks/pkg/overview"
	"imagetasks/pkg/settings"
	"imagetasks/pkg/store"
	"imagetasks/pkg/supervise"
)

// nowFlag returns the flag --now.
func nowFlag() cli.Flag {
	return &cli.BoolFlag{Name: "now", Usage: "cut paid requests instead of letting them finish; their outcome is unknown then"}
}

// supervisor is this host's background processor, as a command sees it.
type supervisor struct {
	*supervise.Daemon
	unmarked bool // the monitor does not know what the command did
}

// done returns the error of a command that did its work: the monitor may undo it.
func (s *supervisor) done(err error) error {
	if err == nil && s.unmarked {
		return app.ErrUnhealthy
	}
	return err
}

// newSupervisor returns this host's background processor. What a stop waits for is printed on stderr, unless the command is
// scheduled: then nobody reads it.
func (a program) newSupervisor(c *cli.Context, s settings.Settings, st *store.Store, command string) (*supervisor, error) {
	l, err := a.Lang(c)
	if err != nil {
		return nil, err
	}
	d, err := daemon.New(a.App, c, s, st)
	if err != nil {
		return nil, err
	}
	out := &supervisor{Daemon: d}
	warn := d.Warn
	d.Warn = func(w supervise.Warning) {
		warn(w)
		out.unmarked = out.unmarked || w.AboutMarker()
	}
	if c.Bool("if-running") {
		return out, nil
	}
	d.OnWait = func(atMost time.Duration) {
		now := a.CommandLine(c)(finding.Command{Program: "task-processor", Args: []string{command, "--now"}})
		fmt.Fprintln(a.Stderr, textWaiting.In(l, atMost.Round(time.Second), now))
	}
	d.OnBusy = func() { fmt.Fprintln(a.Stderr, textBusy.In(l)) }
	return out, nil
}

// withDaemon calls do with this host's background processor.
func (a program) withDaemon(c *cli.Context, command string, do func(context.Context, *supervisor) error) error {
	return a.WithStore(c, func(ctx context.Context, s settings.Settings, st *store.Store) error {
		d, err := a.newSupervisor(c, s, st, command)
		if err != nil {
			return err
		}
		return d.done(do(ctx, d))
	})
}

func (a program) start(c *cli.Context) error {
	return a.withDaemon(c, "start", func(ctx context.Context, d *supervisor) error {
		if c.Bool("unless-stopped") {
			state, err := d.Dir.Inspect()
			if err != nil {
				return err
			}
			if state.Stopped != nil {
				return a.Print(c, textLeftStopped, state.Stopped.By, render.DateTime(state.Stopped.At))
			}
		}
		pid, already, err := d.Start(ctx)
		if err != nil {
			return err
		}
		if already {
			return a.Print(c, textAlreadyRunning, pid)
		}
		return a.Print(c, textStarted, pid, d.Dir.Log())
	})
}

// withoutDatabase calls do with this host's background processor. It needs no database: it must work while the database is
// unavailable.
func (a program) withoutDatabase(c *cli.Context, command string, do func(context.Context, settings.Settings, *supervisor) error) error {
	if err := app.NoArguments(c); err != nil {
		return err
	}
	s, err := a.Load(c)
	if err != nil {
		return err
	}
	ctx, end := a.UntilSignal(c.Context, nil)
	defer end()
	d, err := a.newSupervisor(c, s, nil, command)
	if err != nil {
		return err
	}
	return d.done(do(ctx, s, d))
}

func (a program) stop(c *cli.Context) error {
	return a.withoutDatabase(c, "stop", func(ctx context.Context, _ settings.Settings, d *supervisor) error {
		stopped, err := d.Stop(ctx, a.Operator(), c.Bool("now"))
		after := lang.NewMessage(textNotStartedAgain)
		if d.unmarked {
			after = lang.NewMessage(textMayBeStarted)
		}
		switch {
		case errors.Is(err, context.Canceled):
			return fmt.Errorf("%w; the processor was asked to stop and may still be stopping", app.ErrInterrupted)
		case err != nil:
			return err
		case !stopped.WasRunning:
			return a.Print(c, textWasNotRunning, after)
		case stopped.Killed:
			return a.Print(c, textKilled, stopped.PID)
		}
		return a.Print(c, textStopped, stopped.PID, after)
	})
}

func (a program) restart(c *cli.Context) error {
	return a.withDaemon(c, "restart", func(ctx context.Context, d *supervisor) error {
		if c.Bool("if-running") {
			state, err := d.Inspect(ctx)
			if err != nil {
				return err
			}
			if !state.Running || !state.Wanted {
				return a.Print(c, textNotRestarted)
			}
		}
		pid, err := d.Restart(ctx, c.Bool("now"))
		if errors.Is(err, context.Canceled) {
			return fmt.Errorf("%w; the processor may have been asked to stop and was not started again; run: task-processor start", app.ErrInterrupted)
		}
		if err != nil {
			return err
		}
		return a.Print(c, textStarted, pid, d.Dir.Log())
	})
}

const (
	// reloadWait is how long reload waits for the processor's report of the result, which comes with a heartbeat.
	reloadWait = 30 * time.Second
	reloadPoll = 250 * time.Millisecond
)

// reload makes the processor read its env file again, and prints the result.
func (a program) reload(c *cli.Context) error {
	return a.withoutDatabase(c, "reload", func(ctx context.Context, s settings.Settings, d *supervisor) error {
		st, err := a.NewStore(ctx, s)
		if err != nil {
			return err
		}
		defer st.Close()
		lookup := a.newLookup(s, st)
		state, err := d.Inspect(ctx)
		if err != nil {
			return err
		}
		before := lastReload(ctx, lookup, state.PID)
		pid, err := d.Reload(ctx)
		if errors.Is(err, supervise.ErrNotRunning) {
			return fmt.Errorf("%w; a start reads the env file anyway: task-processor start", err)
		}
		if err != nil {
			return err
		}
		result, err := waitForReload(ctx, lookup, pid, before)
		if err != nil {
			return err
		}
		return a.printReload(c, pid, result, d.Dir.Log())
	})
}

func lastReload(ctx context.Context, lookup daemon.Lookup, pid int) time.Time {
	if report := lookup.Report(ctx, pid); report != nil && report.Reload != nil {
		return report.Reload.At
	}
	return time.Time{}
}

// waitForReload returns the result of a reload after before; nil: none was reported in time.
func waitForReload(ctx context.Context, lookup daemon.Lookup, pid int, before time.Time) (*overview.Reload, error) {
	for deadline := time.Now().Add(reloadWait); time.Now().Before(deadline); {
		if report := lookup.Report(ctx, pid); report != nil && report.Reload != nil && report.Reload.At.After(before) {
			return report.Reload, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w; the processor was asked to read its env file again", app.ErrInterrupted)
		case <-time.After(reloadPoll):
		}
	}
	return nil, nil
}

func (a program) printReload(c *cli.Context, pid int, r *overview.Reload, log string) error {
	switch {
	case r == nil:
		return errors.Join(a.Print(c, textReloadUnknown, pid, log), app.ErrUnhealthy)
	case r.Error != "":
		return fmt.Errorf("the processor (pid %d) changed nothing: %s", pid, r.Error)
	}
	result := lang.NewMessage(textNothingChanged)
	if len(r.Changed) > 0 {
		result = lang.NewMessage(textSettingsChanged, strings.Join(r.Changed, ", "))
	}
	if len(r.NeedsRestart) > 0 {
		return errors.Join(a.Print(c, textReloadedPartly, pid, result, strings.Join(r.NeedsRestart, ", ")), app.ErrUnhealthy)
	}
	return a.Print(c, textReloaded, pid, result)
}
