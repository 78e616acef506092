// Package fixstucktasks is the command line of fix-stuck-tasks.
package fixstucktasks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"imagetasks/pkg/app"
	"imagetasks/pkg/lang"
	"imagetasks/pkg/progress"
	"imagetasks/pkg/repair"
	"imagetasks/pkg/settings"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// program is the application with this program's commands.
type program struct{ *app.App }

// New builds the program fix-stuck-tasks.
func New(core *app.App) *cli.App {
	a := program{core}
	flags := append([]cli.Flag{
		&cli.DurationFlag{Name: "older-than", Usage: "`TIME` in processing that counts as stuck; default: STUCK_AFTER", DefaultText: "20m"},
		&cli.StringSliceFlag{Name: "task", Usage: "only the task with this `ID`; may be given again"},
		&cli.StringFlag{Name: "user", Usage: "only the tasks of this user's `UUID`"},
		&cli.BoolFlag{Name: "requeue", Usage: "put them back into the queue, to be worked once more, instead of failing and refunding them"},
		&cli.IntFlag{Name: "limit", Usage: "`N` tasks at most", DefaultText: "all"},
		&cli.BoolFlag{Name: "dry-run", Usage: "show what would be done and change nothing"},
		app.JSONFlag(),
	}, app.CommonFlags()...)
	return &cli.App{
		Name:  "fix-stuck-tasks",
		Usage: "fails and refunds stuck tasks now, and proves that the credits add up",
		Description: "Exit codes: 0 done; 1 it could not do its work; 2 wrong usage or settings; 3 stuck tasks are left, or a task\n" +
			"named by --task was not repaired. Ctrl-C stops between two batches; run it again to go on.",
		Flags:  flags,
		Action: a.fix,
		Commands: []*cli.Command{{
			Name: "audit", Usage: "prove the money rules over the whole database: 0, or 3 with the rows that break them",
			Flags: append([]cli.Flag{app.JSONFlag()}, app.CommonFlags()...), Action: a.audit,
		}},
	}
}

// wanted reads what is to be repaired from the flags.
func wanted(c *cli.Context) (repair.Options, error) {
	o := repair.Options{DryRun: c.Bool("dry-run"), Sweep: store.Sweep{
		OlderThan: c.Duration("older-than"), Limit: c.Int("limit"), Requeue: c.Bool("requeue")}}
	if o.OlderThan < 0 || o.Limit < 0 {
		return o, app.Usagef("--older-than and --limit can't be negative")
	}
	if c.IsSet("limit") && o.Limit == 0 {
		return o, app.Usagef("--limit 0 would repair nothing; leave it out to repair all")
	}
	for _, id := range c.StringSlice("task") {
		if id == "" {
			return o, app.Usagef("--task is empty; it takes a task's id")
		}
		o.Tasks = append(o.Tasks, id)
	}
	if c.IsSet("user") {
		user, err := app.UserID(c.String("user"))
		if err != nil {
			return o, err
		}
		o.UserID = user
	}
	return o, nil
}

func (a program) fix(c *cli.Context) error {
	o, err := wanted(c)
	if err != nil {
		return err
	}
	l, err := a.Lang(c)
	if err != nil {
		return err
	}
	return a.WithStore(c, func(ctx context.Context, s settings.Settings, st *store.Store) error {
		if o.OlderThan == 0 {
			o.OlderThan = s.StuckAfter
		}
		terminal := app.IsTerminal(a.Stderr)
		stderr := a.Stderr
		if terminal {
			a.Stderr = nil // the bar has the terminal; the lines are in the file
		}
		log, closer, err := a.Logger(s, "fix-stuck-tasks.log")
		a.Stderr = stderr
		if err != nil {
			return err
		}
		defer closer.Close()
		if terminal {
			var bar *progress.Bar
			last := 0
			o.Progress = func(done, total int) {
				if bar == nil {
					bar = progress.New(stderr, true, total)
				}
				bar.Add(done - last)
				last = done
			}
			defer func() {
				if bar != nil {
					bar.Close()
				}
			}()
		}
		done, err := repair.Sweep(ctx, st, o, log)
		if err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
		broken := err != nil
		not, err := notRepaired(context.WithoutCancel(ctx), st, o, done)
		if err != nil {
			return err
		}
		return a.report(c, done, not, broken, l)
	})
}

// unrepaired is a task that was named and not repaired.
type unrepaired struct {
	TaskID string       `json:"task_id"`
	State  task.State   `json:"status"` // empty: there is no such task
	Why    lang.Message `json:"why"`
}

// notRepaired says of each task that was named why it was not repaired.
func notRepaired(ctx context.Context, st *store.Store, o repair.Options, done repair.Report) ([]unrepaired, error) {
	var out []unrepaired
	for _, id := range o.Tasks {
		if slices.ContainsFunc(done.Tasks, func(r task.Refund) bool { return r.TaskID == id }) {
			continue
		}
		row, err := st.Task(ctx, id)
		u := unrepaired{TaskID: id, State: row.State}
		switch {
		case errors.Is(err, task.ErrNotFound):
			u.Why = lang.NewMessage(textNoSuchTask)
		case err != nil:
			return nil, err
		case row.State != task.Processing:
			u.Why = lang.NewMessage(textNotStuck, row.State)
		case o.UserID != "" && row.UserID != o.UserID:
			u.Why = lang.NewMessage(textAnothers)
		default:
			u.Why = lang.NewMessage(textTooYoung, o.OlderThan)
		}
		out = append(out, u)
	}
	return out, nil
}

func (a program) report(c *cli.Context, done repair.Report, not []unrepaired, broken bool, l lang.Lang) error {
	if c.Bool("json") {
		err := a.PrintJSON(struct {
			repair.Report
			Seconds     float64      `json:"seconds"`
			PerSecond   float64      `json:"tasks_per_second"`
			NotRepaired []unrepaired `json:"not_repaired,omitempty"`
			BrokenOff   bool         `json:"broken_off,omitempty"`
		}{done, done.Duration.Seconds(), done.Rate(), not, broken})
		if err != nil {
			return err
		}
	} else {
		a.print(done, not, l)
	}
	switch {
	case broken:
		return fmt.Errorf("%w between two batches; %d stuck tasks are left; run it again to continue", app.ErrInterrupted, done.Remaining)
	case done.Remaining > 0 || len(not) > 0:
		return app.ErrUnhealthy
	}
	return nil
}

func (a program) print(done repair.Report, not []unrepaired, l lang.Lang) {
	say := func(text lang.Text, args ...any) { a.Printf("%s\n", text.In(l, args...)) }
	if done.DryRun {
		for _, r := range done.Tasks {
			say(textWould, r.TaskID, r.UserID, r.Age.Round(time.Second), r.Credits)
		}
	}
	n := len(done.Tasks)
	switch {
	case done.DryRun && done.Requeued:
		say(textWouldRequeue, n)
	case done.DryRun:
		say(textWouldFail, n, done.Credits)
	case done.Requeued:
		say(textRequeued, n, done.Remaining)
	default:
		say(textFailed, n, done.Credits, done.Remaining)
	}
	if n > 0 && !done.DryRun {
		say(textRate, done.Duration.Round(time.Millisecond), done.Rate())
	}
	for _, u := range not {
		say(textNotRepaired, u.TaskID, u.Why.In(l))
	}
}

func (a program) audit(c *cli.Context) error {
	l, err := a.Lang(c)
	if err != nil {
		return err
	}
	return a.WithStore(c, func(ctx context.Context, _ settings.Settings, st *store.Store) error {
		rules, err := st.Audit(ctx)
		if err != nil {
			return err
		}
		broken := store.CountViolations(rules)
		if c.Bool("json") {
			err = a.PrintJSON(map[string]any{"ok": broken == 0, "broken": broken, "rules": rules})
		} else {
			repair.PrintAudit(a.Stdout, rules, l)
		}
		if err == nil && broken > 0 {
			err = app.ErrUnhealthy
		}
		return err
	})
}
