package taskprocessor

import (
	"context"
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"imagetasks/pkg/app"
	"imagetasks/pkg/app/daemon"
	"imagetasks/pkg/app/render"
	"imagetasks/pkg/settings"
	"imagetasks/pkg/store"
	"imagetasks/pkg/supervise"
)

// withDaemon calls do with this host's background processor.
func (a program) withDaemon(c *cli.Context, do func(context.Context, *supervise.Daemon) error) error {
	return a.WithStore(c, func(ctx context.Context, s settings.Settings, st *store.Store) error {
		d, err := daemon.New(a.App, c, s, st)
		if err != nil {
			return err
		}
		return do(ctx, d)
	})
}

func (a program) start(c *cli.Context) error {
	return a.withDaemon(c, func(ctx context.Context, d *supervise.Daemon) error {
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

// stop needs no database: it must work while the database is unavailable.
func (a program) stop(c *cli.Context) error {
	if err := app.NoArguments(c); err != nil {
		return err
	}
	s, err := a.Load(c)
	if err != nil {
		return err
	}
	ctx, end := a.UntilSignal(c.Context, nil)
	defer end()
	d, err := daemon.New(a.App, c, s, nil)
	if err != nil {
		return err
	}
	stopped, err := d.Stop(ctx, a.Operator())
	switch {
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("%w; the processor was asked to stop and may still be stopping", app.ErrInterrupted)
	case err != nil:
		return err
	case !stopped.WasRunning:
		return a.Print(c, textWasNotRunning)
	case stopped.Killed:
		return a.Print(c, textKilled, stopped.PID)
	}
	return a.Print(c, textStopped, stopped.PID)
}

func (a program) restart(c *cli.Context) error {
	return a.withDaemon(c, func(ctx context.Context, d *supervise.Daemon) error {
		if c.Bool("if-running") {
			state, err := d.Dir.Inspect()
			if err != nil {
				return err
			}
			if !state.Running || !state.Wanted {
				return a.Print(c, textNotRestarted)
			}
		}
		pid, err := d.Restart(ctx)
		if err != nil {
			return err
		}
		return a.Print(c, textStarted, pid, d.Dir.Log())
	})
}
