// Package monitortasks is the command line of monitor-tasks.
package monitortasks

import (
	"context"
	"time"

	"github.com/urfave/cli/v2"

	"imagetasks/pkg/app"
	"imagetasks/pkg/repair"
	"imagetasks/pkg/settings"
	"imagetasks/pkg/store"
)

// program is the application with this program's commands.
type program struct{ *app.App }

// New builds the program monitor-tasks.
func New(core *app.App) *cli.App {
	a := program{core}
	return &cli.App{
		Name:  "monitor-tasks",
		Usage: "one round for cron: fails and refunds stuck tasks and says how the queue stands",
		Flags: append([]cli.Flag{
			&cli.DurationFlag{Name: "stuck-after", Usage: "how long in processing counts as stuck; default: STUCK_AFTER"},
			&cli.BoolFlag{Name: "dry-run", Usage: "show what would be done and change nothing"},
			app.JSONFlag(),
		}, app.CommonFlags()...),
		Action: a.monitor,
	}
}

func (a program) monitor(c *cli.Context) error {
	stuckAfter := c.Duration("stuck-after")
	if stuckAfter < 0 {
		return app.Usagef("--stuck-after can't be negative")
	}
	return a.WithStore(c, func(ctx context.Context, s settings.Settings, st *store.Store) error {
		if stuckAfter == 0 {
			stuckAfter = s.StuckAfter
		}
		log, closer, err := a.Logger(s, "task-monitor.log")
		if err != nil {
			return err
		}
		defer closer.Close()
		done, err := repair.Sweep(ctx, st, stuckAfter, 0, c.Bool("dry-run"), log)
		if err != nil {
			return err
		}
		q, err := st.Queue(ctx, stuckAfter)
		if err != nil {
			return err
		}
		log.Infof("round: %d stuck tasks, %d credits refunded; %d pending, the oldest due for %s; %d processing",
			len(done.Tasks), done.Credits, q.Pending, q.OldestDue.Round(time.Second), q.Processing)
		return a.ReportRepair(c, done)
	})
}
