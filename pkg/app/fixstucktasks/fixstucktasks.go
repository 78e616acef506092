// Package fixstucktasks is the command line of fix-stuck-tasks.
package fixstucktasks

import (
	"context"

	"github.com/urfave/cli/v2"

	"imagetasks/pkg/app"
	"imagetasks/pkg/repair"
	"imagetasks/pkg/settings"
	"imagetasks/pkg/store"
)

// program is the application with this program's commands.
type program struct{ *app.App }

// New builds the program fix-stuck-tasks.
func New(core *app.App) *cli.App {
	a := program{core}
	flags := append([]cli.Flag{
		&cli.DurationFlag{Name: "older-than", Usage: "how long in processing counts as stuck; default: STUCK_AFTER"},
		&cli.IntFlag{Name: "limit", Usage: "how many tasks at most; 0: all"},
		&cli.BoolFlag{Name: "dry-run", Usage: "show what would be done and change nothing"},
		app.JSONFlag(),
	}, app.CommonFlags()...)
	return &cli.App{
		Name:   "fix-stuck-tasks",
		Usage:  "fails and refunds stuck tasks now, and proves that the credits add up",
		Flags:  flags,
		Action: a.fix,
		Commands: []*cli.Command{{
			Name: "audit", Usage: "prove the money rules over the whole database: 0, or 3 with the rows that break them",
			Flags: append([]cli.Flag{app.JSONFlag()}, app.CommonFlags()...), Action: a.audit,
		}},
	}
}

func (a program) fix(c *cli.Context) error {
	olderThan, limit := c.Duration("older-than"), c.Int("limit")
	if olderThan < 0 || limit < 0 {
		return app.Usagef("--older-than and --limit can't be negative")
	}
	return a.WithStore(c, func(ctx context.Context, s settings.Settings, st *store.Store) error {
		if olderThan == 0 {
			olderThan = s.StuckAfter
		}
		log, closer, err := a.Logger(s, "")
		if err != nil {
			return err
		}
		defer closer.Close()
		done, err := repair.Sweep(ctx, st, olderThan, limit, c.Bool("dry-run"), log)
		if err != nil {
			return err
		}
		return a.ReportRepair(c, done)
	})
}

func (a program) audit(c *cli.Context) error {
	return a.WithStore(c, func(ctx context.Context, _ settings.Settings, st *store.Store) error {
		rules, err := st.Audit(ctx)
		if err != nil {
			return err
		}
		broken := store.Broken(rules)
		if c.Bool("json") {
			err = a.PrintJSON(map[string]any{"ok": broken == 0, "broken": broken, "rules": rules})
		} else {
			repair.PrintAudit(a.Stdout, rules)
		}
		if err == nil && broken > 0 {
			err = app.ErrWrong
		}
		return err
	})
}
