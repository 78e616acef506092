package taskprocessor

import (
	"context"
	"errors"

	"github.com/urfave/cli/v2"

	"imagetasks/pkg/app"
	"imagetasks/pkg/settings"
	"imagetasks/pkg/store"
	"imagetasks/pkg/supervise"
)

// withDaemon does something with this host's background processor.
func (a program) withDaemon(c *cli.Context, do func(context.Context, *supervise.Daemon) error) error {
	return a.WithStore(c, func(ctx context.Context, s settings.Settings, st *store.Store) error {
		d, err := a.Daemon(c, s, st)
		if err != nil {
			return err
		}
		return do(ctx, d)
	})
}

func (a program) start(c *cli.Context) error {
	return a.withDaemon(c, func(ctx context.Context, d *supervise.Daemon) error {
		if c.Bool("unless-stopped") {
			state, err := d.Dir.Look()
			if err != nil {
				return err
			}
			if state.Stopped != nil {
				a.Printf("left alone: stopped by an operator (%s) at %s\n", state.Stopped.By, local(state.Stopped.At))
				return nil
			}
		}
		pid, already, err := d.Start(ctx)
		if err != nil {
			return err
		}
		if already {
			a.Printf("the processor runs already, as pid %d\n", pid)
			return nil
		}
		a.Printf("the processor runs as pid %d; its log: %s\n", pid, d.Dir.Log())
		return nil
	})
}

// stop needs no database: it must work while that is away.
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
	d, err := a.Daemon(c, s, nil)
	if err != nil {
		return err
	}
	stopped, err := d.Stop(ctx, a.Operator())
	switch {
	case errors.Is(err, context.Canceled):
		return errors.New("broken off; the processor was told to stop and may still be at it")
	case err != nil:
		return err
	case !stopped.WasRunning:
		a.Printf("the processor was not running; the monitor will not start it\n")
	case stopped.Killed:
		a.Printf("the processor (pid %d) did not end in time and was killed; its tasks are claimed again when their leases have run out\n", stopped.PID)
	default:
		a.Printf("the processor (pid %d) has stopped; the monitor will not start it\n", stopped.PID)
	}
	return nil
}

func (a program) restart(c *cli.Context) error {
	return a.withDaemon(c, func(ctx context.Context, d *supervise.Daemon) error {
		if c.Bool("if-running") {
			state, err := d.Dir.Look()
			if err != nil {
				return err
			}
			if !state.Running || !state.Wanted {
				a.Printf("left alone: no background processor runs here\n")
				return nil
			}
		}
		pid, err := d.Restart(ctx)
		if err != nil {
			return err
		}
		a.Printf("the processor runs as pid %d; its log: %s\n", pid, d.Dir.Log())
		return nil
	})
}
