package taskprocessor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"imagetasks/pkg/app"
	"imagetasks/pkg/app/picturestore"
	"imagetasks/pkg/app/render"
	"imagetasks/pkg/lang"
	"imagetasks/pkg/settings"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

func cancelCommand(a program) *cli.Command {
	return &cli.Command{Name: "cancel", Usage: "cancel a task and refund it; exits 3 if the task says it was charged and the ledger has no charge", Action: a.cancel,
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "task", Usage: "the task's `ID`"},
			&cli.StringFlag{Name: "user", Usage: "only if the task belongs to the user with this `ID`"},
			app.JSONFlag()}, app.CommonFlags()...)}
}

func (a program) cancel(c *cli.Context) error {
	id, err := taskID(c.String("task"))
	if err != nil {
		return err
	}
	return a.WithStore(c, func(ctx context.Context, _ settings.Settings, st *store.Store) error {
		done, err := st.CancelBy(ctx, store.By(a.Operator()), id, c.String("user"))
		if errors.Is(err, task.ErrNotFound) {
			return fmt.Errorf("task %q: %w", id, err)
		}
		if err != nil {
			return app.UnknownOutcome(ctx, err, "repeat the command: the task is refunded once")
		}
		if done.State != task.Cancelled {
			return fmt.Errorf("task %q is %s already; it can't be cancelled", id, done.State)
		}
		switch {
		case c.Bool("json"):
			err = a.PrintJSON(done)
		case done.MissingCharge:
			err = a.Print(c, textCancelledMissing, done.TaskID, render.MissingCharge(done.TaskID))
		case done.Refunded == 0:
			err = a.Print(c, textUncharged, done.TaskID)
		default:
			err = a.Print(c, textCancelled, done.TaskID, lang.NewMessage(textRefunded, done.Refunded), done.Balance)
		}
		if err == nil && done.MissingCharge {
			err = app.ErrUnhealthy
		}
		return err
	})
}

func taskID(text string) (string, error) {
	if text == "" {
		return "", app.Usagef("--task is missing; it takes the task's id")
	}
	return text, nil
}

func redriveCommand(a program) *cli.Command {
	return &cli.Command{Name: "redrive", Usage: "charge failed tasks again and process them once more; exits 3 if one could not be", Action: a.redrive,
		Flags: append([]cli.Flag{
			&cli.StringSliceFlag{Name: "task", Usage: "the task's `ID`; may be repeated"},
			&cli.IntFlag{Name: "run", Usage: "number of the run that failed, with one --task: a repeat with the same number charges nothing", DefaultText: "the current one"},
			&cli.StringFlag{Name: "error-code", Usage: "instead of --task: the failed tasks with this error `CODE`"},
			&cli.DurationFlag{Name: "newer-than", Usage: "with --error-code: only tasks enqueued within this `TIME`"},
			&cli.IntFlag{Name: "limit", Usage: "with --error-code: at most `N` tasks", Value: 1000},
			&cli.BoolFlag{Name: "dry-run", Usage: "show what would be done and change nothing"},
			app.JSONFlag()}, app.CommonFlags()...)}
}

// redriveResult is what became of one task.
type redriveResult struct {
	store.Redriven
	Error string `json:"error,omitempty"`
}

func (a program) redrive(c *cli.Context) error {
	ids, code := c.StringSlice("task"), c.String("error-code")
	switch {
	case len(ids) == 0 && code == "":
		return app.Usagef("--task or --error-code is missing")
	case len(ids) > 0 && code != "":
		return app.Usagef("--task and --error-code exclude each other")
	case c.IsSet("run") && (len(ids) != 1 || c.Int("run") < 1):
		return app.Usagef("--run takes the number of a run, and needs exactly one --task")
	case c.Int("limit") < 1 || c.Duration("newer-than") < 0:
		return app.Usagef("--limit must be 1 or more, and --newer-than can't be negative")
	}
	return a.WithStore(c, func(ctx context.Context, _ settings.Settings, st *store.Store) error {
		due, err := redriveDue(ctx, c, st)
		if err != nil {
			return err
		}
		results, stopped := a.redriveAll(ctx, st, due, c.Bool("dry-run"))
		if stopped != nil && len(results) == 0 {
			return stopped
		}
		failed := 0
		for _, r := range results {
			if r.Error != "" {
				failed++
			}
		}
		err = a.printRedriven(c, results, failed, stopped)
		switch {
		case err != nil || stopped != nil:
			return errors.Join(err, stopped)
		case failed > 0:
			return app.ErrUnhealthy
		}
		return nil
	})
}

// redriveAll redrives tasks, or with dryRun says what it would do. An error means that it did not get to the end.
func (a program) redriveAll(ctx context.Context, st *store.Store, due []store.TaskRow, dryRun bool) ([]redriveResult, error) {
	results := []redriveResult{}
	for _, t := range due {
		r := redriveResult{Redriven: store.Redriven{TaskID: t.ID, Run: t.Run + 1}}
		if !dryRun {
			// The number of the run makes a repeat after a lost answer harmless.
			done, err := st.RedriveBy(ctx, store.By(a.Operator()), t.ID, t.Run)
			switch {
			case err == nil:
				r.Redriven = done
			case ctx.Err() != nil || store.IsUnavailable(err):
				err = fmt.Errorf("task %s: %w", t.ID, err)
				return results, app.UnknownOutcome(ctx, err, "so that it is charged once, repeat with --task %s --run %d", t.ID, t.Run)
			default:
				r.Run, r.Error = t.Run, a.Redact.String(err.Error())
			}
		}
		results = append(results, r)
	}
	return results, nil
}

// redriveDue returns the tasks to redrive, with their run.
func redriveDue(ctx context.Context, c *cli.Context, st *store.Store) ([]store.TaskRow, error) {
	if code := c.String("error-code"); code != "" {
		rows, err := st.ListTasks(ctx, store.TaskFilter{States: []task.State{task.Failed}, ErrorCode: code,
			NewerThan: c.Duration("newer-than"), Limit: c.Int("limit")})
		slices.Reverse(rows) // those that waited the longest come first
		return rows, err
	}
	var out []store.TaskRow
	for _, id := range c.StringSlice("task") {
		row, err := st.Task(ctx, id)
		if err != nil {
			return nil, err
		}
		if c.IsSet("run") {
			row.Run = c.Int("run")
		}
		out = append(out, row)
	}
	return out, nil
}

// printRedriven prints what became of the tasks. stopped is why the others were not tried, nil: there are no others.
func (a program) printRedriven(c *cli.Context, results []redriveResult, failed int, stopped error) error {
	if c.Bool("json") {
		document := map[string]any{"tasks": results, "failed": failed, "dry_run": c.Bool("dry-run")}
		if stopped != nil {
			document["error"] = a.ErrorDetail(stopped)
		}
		return a.PrintJSON(document)
	}
	for _, r := range results {
		var err error
		switch {
		case r.Error != "":
			err = a.Print(c, textNotRedriven, r.TaskID, a.Message(r.Error))
		case c.Bool("dry-run"):
			err = a.Print(c, textWouldRedrive, r.TaskID, r.Run)
		default:
			err = a.Print(c, textRedriven, r.TaskID, r.Run, r.Balance)
		}
		if err != nil {
			return err
		}
	}
	if len(results) == 0 {
		return a.Print(c, textNothingToRedrive)
	}
	return nil
}

func tasksCommand(a program) *cli.Command {
	return &cli.Command{
		Name: "tasks", Usage: "list tasks, or show one",
		Action: missingSubcommand("tasks list", "tasks show"),
		Subcommands: []*cli.Command{
			{Name: "list", Usage: "list tasks, the newest first; exits 3 if one says it was charged and the ledger has no charge", Action: a.listTasks, Flags: append([]cli.Flag{
				&cli.StringSliceFlag{Name: "state", Usage: "only tasks in this `STATE`: pending, processing, completed, failed or cancelled; may be repeated"},
				&cli.StringFlag{Name: "user", Usage: "only tasks of the user with this `ID`"},
				&cli.StringFlag{Name: "error-code", Usage: "only tasks with this error `CODE`"},
				&cli.DurationFlag{Name: "older-than", Usage: "only tasks enqueued at least this `TIME` ago"},
				&cli.DurationFlag{Name: "newer-than", Usage: "only tasks enqueued at most this `TIME` ago"},
				&cli.IntFlag{Name: "limit", Usage: "at most `N` tasks", Value: 50},
				app.JSONFlag()}, app.CommonFlags()...)},
			{Name: "show", Usage: "show everything about a task: attempts, ledger, files", ArgsUsage: "ID", Action: a.showTask, Flags: append([]cli.Flag{
				&cli.BoolFlag{Name: "prompt", Usage: "show the prompt, too"},
				app.JSONFlag()}, app.CommonFlags()...)},
		},
	}
}

// missingSubcommand says which subcommands there are.
func missingSubcommand(commands ...string) cli.ActionFunc {
	return func(c *cli.Context) error {
		if c.NArg() > 0 {
			return app.UnknownCommand(c)
		}
		return app.Usagef("a command is missing: %s", strings.Join(commands, ", "))
	}
}

func (a program) listTasks(c *cli.Context) error {
	f := store.TaskFilter{UserID: c.String("user"), ErrorCode: c.String("error-code"), OlderThan: c.Duration("older-than"),
		NewerThan: c.Duration("newer-than"), Limit: c.Int("limit")}
	if f.OlderThan < 0 || f.NewerThan < 0 || f.Limit < 1 || f.Limit > 100_000 {
		return app.Usagef("--older-than and --newer-than can't be negative, and --limit must be from 1 to 100000")
	}
	for _, name := range c.StringSlice("state") {
		state := task.State(name)
		if _, known := stateNames[state]; !known {
			return app.Usagef("--state must be pending, processing, completed, failed or cancelled, not %q", name)
		}
		f.States = append(f.States, state)
	}
	l, err := a.Lang(c)
	if err != nil {
		return err
	}
	return a.WithStore(c, func(ctx context.Context, _ settings.Settings, st *store.Store) error {
		rows, err := st.ListTasks(ctx, f)
		if err != nil {
			return err
		}
		missing := false
		for _, r := range rows {
			missing = missing || r.MissingCharge
		}
		if c.Bool("json") {
			err = a.PrintJSON(map[string]any{"tasks": append([]store.TaskRow{}, rows...)})
		} else {
			a.printTasks(rows, l)
		}
		if err == nil && missing {
			err = app.ErrUnhealthy
		}
		return err
	})
}

func (a program) printTasks(rows []store.TaskRow, l lang.Lang) {
	if len(rows) > 0 {
		a.Printf("%s\n", textTaskColumns.In(l))
	}
	for _, r := range rows {
		note := string(r.ErrorCode)
		if r.MissingCharge {
			note = strings.TrimSpace(note + " " + textNoCharge.In(l))
		}
		a.Printf("%s\n", strings.TrimRight(fmt.Sprintf("%s  %s  %-10s %d/%-3d %s  %s", r.CreatedAt.Local().Format(time.DateTime), r.ID, r.State, r.Run, r.Attempts, r.UserID, note), " "))
	}
	if len(rows) == 0 {
		a.Printf("%s\n", textNoTasks.In(l))
	}
}

// pictureFilesTimeout bounds the search for a task's pictures.
const pictureFilesTimeout = 10 * time.Second

func (a program) showTask(c *cli.Context) error {
	if c.NArg() != 1 {
		return app.Usagef("tasks show takes one task's id")
	}
	id := c.Args().First()
	l, err := a.Lang(c)
	if err != nil {
		return err
	}
	return a.WithStoreAndArguments(c, func(ctx context.Context, s settings.Settings, st *store.Store) error {
		details, err := st.TaskDetails(ctx, id)
		if err != nil {
			return err
		}
		if !c.Bool("prompt") {
			details.Prompt = ""
		}
		var pauses []store.Pause
		if details.State == task.Pending {
			control, err := st.Control(ctx)
			if err != nil {
				return err
			}
			pauses = control.HoldBack(cmp.Or(details.Model, s.Model))
		}
		// The task is shown also while the picture store is unavailable: then somebody wants to know about it.
		filesCtx, cancel := context.WithTimeout(ctx, pictureFilesTimeout)
		defer cancel()
		files, filesErr := picturestore.Files(filesCtx, s, st, details.TaskRow)
		if filesErr != nil {
			files = []string{}
			a.Warn("the task's pictures are not listed: " + filesErr.Error())
		}
		if c.Bool("json") {
			err = a.PrintJSON(struct {
				store.TaskDetails
				Files  []string      `json:"files"`
				Pauses []store.Pause `json:"pauses,omitempty"` // that may hold it back
			}{details, files, pauses})
		} else {
			render.Task(a.Stdout, details, files, l)
			for _, p := range pauses {
				if err == nil {
					err = a.printPause(c, p)
				}
			}
		}
		if err == nil && details.MissingCharge {
			err = app.ErrUnhealthy
		}
		return err
	})
}
