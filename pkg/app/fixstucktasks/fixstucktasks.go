// Package fixstucktasks is the command line of fix-stuck-tasks.
package fixstucktasks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/urfave/cli/v2"

	"imagetasks/pkg/alert"
	"imagetasks/pkg/app"
	"imagetasks/pkg/app/render"
	"imagetasks/pkg/finding"
	"imagetasks/pkg/lang"
	"imagetasks/pkg/operate"
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
		&cli.DurationFlag{Name: "older-than", Usage: "tasks processing for longer than this `TIME` are stuck; default: STUCK_AFTER", DefaultText: "20m"},
		&cli.StringSliceFlag{Name: "task", Usage: "only the task with this `ID`; may be repeated"},
		&cli.StringFlag{Name: "user", Usage: "only the tasks of the user with this `ID`"},
		&cli.BoolFlag{Name: "requeue", Usage: "requeue them instead of failing and refunding them"},
		&cli.IntFlag{Name: "limit", Usage: "at most `N` tasks", DefaultText: "all"},
		&cli.BoolFlag{Name: "dry-run", Usage: "show what would be done and change nothing"},
		app.JSONFlag(),
	}, app.CommonFlags()...)
	return &cli.App{
		Name:  "fix-stuck-tasks",
		Usage: "fails and refunds stuck tasks, and audits the credits",
		Description: "Exit codes: 0 done; 1 could not do its work; 2 wrong usage or settings; 3 stuck tasks remain, a task " +
			"named by --task was not repaired, or a task says it was charged while the ledger has no charge. Ctrl-C stops after the current batch; run it again to continue.",
		Flags:  flags,
		Action: a.fix,
		Commands: []*cli.Command{{
			Name: "audit", Usage: "check the credit rules over the whole database; exits 3 and lists the rows that violate one",
			Flags: append([]cli.Flag{
				&cli.BoolFlag{Name: "repair", Usage: "first pay the refunds that are owed; nothing else can be repaired without doubt"},
				&cli.StringFlag{Name: "resolve", Usage: "first settle the task with this `ID`, which says that it was charged while the ledger has no charge"},
				&cli.Int64Flag{Name: "credits", Usage: "with --resolve: credits to give to the task's user; 0 if nothing was paid", Value: -1, DefaultText: "none"},
				&cli.StringFlag{Name: "reason", Usage: "with --resolve: reason, for the ledger"},
				app.JSONFlag()}, app.CommonFlags()...), Action: a.audit,
		}},
	}
}

// readOptions reads the tasks to repair from the flags.
func readOptions(c *cli.Context) (repair.Options, error) {
	o := repair.Options{DryRun: c.Bool("dry-run"), Sweep: store.Sweep{
		OlderThan: c.Duration("older-than"), Limit: c.Int("limit"), Requeue: c.Bool("requeue")}}
	if o.OlderThan < 0 || o.Limit < 0 {
		return o, app.Usagef("--older-than and --limit can't be negative")
	}
	if c.IsSet("limit") && o.Limit == 0 {
		return o, app.Usagef("--limit 0 would repair nothing; omit it to repair all")
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
	o, err := readOptions(c)
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
		o.AfterStart = s.Lease
		terminal := app.IsTerminal(a.Stderr)
		stderr := a.Stderr
		newLogger := a.Logger
		if terminal {
			newLogger = a.FileLogger // the progress bar uses the terminal
		}
		log, closer, err := newLogger(s, "fix-stuck-tasks.log")
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
		if !o.DryRun {
			if err := operate.NoteFix(ctx, st, a.Operator(), o.OlderThan, "begun"); err != nil {
				return err
			}
		}
		done, err := repair.Sweep(ctx, st, o, log)
		if !o.DryRun && (err == nil || len(done.Tasks) > 0) {
			if noteErr := operate.NoteFix(context.WithoutCancel(ctx), st, a.Operator(), o.OlderThan, operate.FixResult(done)); noteErr != nil {
				log.WithError(noteErr).Warn("the result is not in the log of operations")
			}
		}
		if err != nil && !errors.Is(err, context.Canceled) {
			return app.UnknownOutcome(ctx, err, repeatCommand)
		}
		interrupted := err != nil
		unrepaired, err := findUnrepaired(context.WithoutCancel(ctx), st, o, done)
		if err != nil {
			return err
		}
		why, err := whyNothing(context.WithoutCancel(ctx), st, o, done)
		if err != nil {
			return err
		}
		bridge := bridgeWork{Owed: []task.Refund{}}
		if !o.DryRun && !interrupted {
			if bridge, err = a.giveBack(ctx, st, log); err != nil {
				return app.UnknownOutcome(ctx, err, repeatCommand)
			}
		}
		return a.report(c, done, unrepaired, why, bridge, interrupted, l)
	})
}

// whyNothing returns why nothing was repaired although tasks are stuck; the zero Message if something was.
func whyNothing(ctx context.Context, st *store.Store, o repair.Options, done repair.Report) (lang.Message, error) {
	if o.DryRun || len(done.Tasks) > 0 || done.Remaining == 0 {
		return lang.Message{}, nil
	}
	control, err := st.Control(ctx)
	switch {
	case err != nil:
		return lang.Message{}, err
	case control.Copied:
		return lang.NewMessage(textCopied), nil
	}
	return lang.NewMessage(textNothingYet, o.AfterStart, o.OlderThan), nil
}

// unrepairedTask is a task that was named by --task and not repaired.
type unrepairedTask struct {
	TaskID string       `json:"task_id"`
	State  task.State   `json:"status"` // empty: the task does not exist
	Reason lang.Message `json:"why"`
}

// findUnrepaired returns the tasks named by --task that were not repaired, each with the reason.
func findUnrepaired(ctx context.Context, st *store.Store, o repair.Options, done repair.Report) ([]unrepairedTask, error) {
	var out []unrepairedTask
	for _, id := range o.Tasks {
		if slices.ContainsFunc(done.Tasks, func(r task.Refund) bool { return r.TaskID == id }) {
			continue
		}
		row, err := st.Task(ctx, id)
		u := unrepairedTask{TaskID: id, State: row.State}
		switch {
		case errors.Is(err, task.ErrNotFound):
			u.Reason = lang.NewMessage(textNoSuchTask)
		case err != nil:
			return nil, err
		case row.State != task.Processing:
			u.Reason = lang.NewMessage(textNotStuck, string(row.State))
		case o.UserID != "" && row.UserID != o.UserID:
			u.Reason = lang.NewMessage(textOtherUser)
		default:
			u.Reason = lang.NewMessage(textTooRecent, o.OlderThan)
		}
		out = append(out, u)
	}
	return out, nil
}

func (a program) report(c *cli.Context, done repair.Report, unrepaired []unrepairedTask, why lang.Message, bridge bridgeWork, interrupted bool, l lang.Lang) error {
	if c.Bool("json") {
		err := a.PrintJSON(struct {
			repair.Report
			Seconds     float64          `json:"seconds"`
			PerSecond   float64          `json:"tasks_per_second"`
			NotRepaired []unrepairedTask `json:"not_repaired,omitempty"`
			Why         string           `json:"why,omitempty"` // nothing was repaired although tasks are stuck
			Bridge      bridgeWork       `json:"bridge"`
			Interrupted bool             `json:"interrupted,omitempty"`
		}{done, done.Duration.Seconds(), done.Rate(), unrepaired, why.In(lang.EN), bridge, interrupted})
		if err != nil {
			return err
		}
	} else {
		a.print(done, unrepaired, l)
		if !why.IsZero() {
			a.Printf("%s\n", why.In(l))
		}
		a.printBridge(bridge, l)
	}
	switch {
	case interrupted:
		return fmt.Errorf("%w between two batches; %s; run it again to continue", app.ErrInterrupted, textRemaining.In(lang.EN, done.Remaining))
	case done.Remaining > 0 || len(unrepaired) > 0 || len(done.MissingCharges) > 0 || bridge.failed():
		return app.ErrUnhealthy
	}
	return nil
}

func (a program) print(done repair.Report, unrepaired []unrepairedTask, l lang.Lang) {
	line := func(text lang.Text, args ...any) { a.Printf("%s\n", text.In(l, args...)) }
	if done.DryRun {
		for _, r := range done.Tasks {
			line(textWould, r.TaskID, r.UserID, r.Age.Round(time.Second), lang.NewMessage(textCredits, r.Credits))
		}
	}
	n := len(done.Tasks)
	switch {
	case done.DryRun && done.Requeued:
		line(textWouldRequeue, n)
	case done.DryRun:
		line(textWouldFail, n, lang.NewMessage(textCredits, done.Credits))
	case done.Requeued:
		line(textRequeued, n, done.Remaining)
	default:
		line(textFailed, n, lang.NewMessage(textCredits, done.Credits), done.Remaining)
	}
	if n > 0 && !done.DryRun {
		line(textRate, done.Duration, done.Rate())
	}
	for _, id := range done.MissingCharges {
		line(textNotRefunded, id, render.MissingCharge(id))
	}
	for _, u := range unrepaired {
		line(textNotRepaired, u.TaskID, u.Reason)
	}
}

func (a program) audit(c *cli.Context) error {
	l, err := a.Lang(c)
	if err != nil {
		return err
	}
	resolve := resolution{task: c.String("resolve"), credits: c.Int64("credits"), reason: strings.TrimSpace(c.String("reason"))}
	if err := resolve.check(c); err != nil {
		return err
	}
	return a.WithStore(c, func(ctx context.Context, _ settings.Settings, st *store.Store) error {
		changes := auditChanges{Repaired: []task.Refund{}, Bridge: bridgeWork{Owed: []task.Refund{}}}
		if resolve.task != "" {
			if err := a.resolve(ctx, st, resolve, &changes); err != nil {
				return app.UnknownOutcome(ctx, err, repeatCommand)
			}
		}
		if c.Bool("repair") {
			if changes.Repaired, err = repairRefunds(ctx, st); err != nil {
				return app.UnknownOutcome(ctx, err, repeatCommand)
			}
			if changes.Bridge, err = a.giveBack(ctx, st, nil); err != nil {
				return app.UnknownOutcome(ctx, err, repeatCommand)
			}
		}
		rules, err := st.Audit(ctx)
		if err != nil {
			return err
		}
		violations := store.CountViolations(rules)
		if violations > 0 {
			a.noteFault(ctx, st, rules, violations)
		}
		if c.Bool("json") {
			err = a.PrintJSON(map[string]any{"ok": violations == 0, "broken": violations, "rules": rules,
				"repaired": changes.Repaired, "resolved": changes.Resolved, "bridge": changes.Bridge})
		} else {
			a.printChanges(c.Bool("repair"), changes, l)
			render.Audit(a.Stdout, rules, l)
		}
		if err == nil && (violations > 0 || changes.Bridge.failed()) {
			err = app.ErrUnhealthy
		}
		return err
	})
}

// noteTimeout bounds noteFault.
const noteTimeout = 10 * time.Second

// noteFault notes for a processor or the monitor that the receivers of alerts are to be told.
func (a program) noteFault(ctx context.Context, st *store.Store, rules []store.Rule, violations int) {
	ctx, cancel := context.WithTimeout(ctx, noteTimeout)
	defer cancel()
	var broken []string
	for _, r := range rules {
		if r.Count > 0 {
			broken = append(broken, r.Code)
		}
	}
	f := finding.Finding{Code: finding.AuditFault, Count: violations, Subject: strings.Join(broken, ", ")}
	if err := alert.Observe(ctx, st, alert.View{Host: app.Hostname(), Findings: []finding.Finding{f}, Quiet: time.Minute}); err != nil {
		fmt.Fprintf(a.Stderr, "warning: no alert will be sent about this: %s\n", a.Redact.String(err.Error()))
	}
}

// resolution is what --resolve, --credits and --reason say.
type resolution struct {
	task    string
	credits int64
	reason  string
}

func (r resolution) check(c *cli.Context) error {
	switch {
	case c.IsSet("resolve") && r.task == "":
		return app.Usagef("--resolve is empty; it takes a task's id")
	case r.task == "" && (c.IsSet("credits") || c.IsSet("reason")):
		return app.Usagef("--credits and --reason need --resolve")
	case r.task != "" && (r.credits < 0 || r.credits > store.MaxCost):
		return app.Usagef("--resolve needs --credits, from 0 to %d: what the task's user is to get", store.MaxCost)
	case r.task != "" && r.reason == "":
		return app.Usagef("--resolve needs --reason, which is kept in the ledger")
	}
	return nil
}

// auditChanges is what was corrected before an audit.
type auditChanges struct {
	Repaired []task.Refund
	Resolved *resolved
	Bridge   bridgeWork
}

type resolved struct {
	TaskID  string `json:"task_id"`
	UserID  string `json:"user_id"`
	Credits int64  `json:"credits"`
	Balance int64  `json:"balance"`
}

func (a program) resolve(ctx context.Context, st *store.Store, r resolution, changes *auditChanges) error {
	user, balance, err := st.Resolve(ctx, r.task, r.credits, a.Redact.String(r.reason))
	if err != nil {
		return err
	}
	changes.Resolved = &resolved{TaskID: r.task, UserID: user, Credits: r.credits, Balance: balance}
	return nil
}

// repeatCommand says that a command whose outcome is unknown may simply be repeated.
const repeatCommand = "repeat the command, which is safe: no refund is paid twice"

// repairBatch is how many refunds one statement pays.
const repairBatch = 1000

// repairRefunds pays the refunds that are owed, batch by batch.
func repairRefunds(ctx context.Context, st *store.Store) ([]task.Refund, error) {
	all := []task.Refund{}
	for {
		paid, err := st.RepairRefunds(ctx, repairBatch, uuid.New())
		all = append(all, paid...)
		if err != nil || len(paid) < repairBatch {
			return all, err
		}
	}
}

func (a program) printChanges(repair bool, changes auditChanges, l lang.Lang) {
	if r := changes.Resolved; r != nil {
		a.Printf("%s\n", textResolved.In(l, r.TaskID, r.UserID, lang.NewMessage(textCredits, r.Credits), r.Balance))
	}
	for _, r := range changes.Repaired {
		a.Printf("%s\n", textPaid.In(l, r.TaskID, r.UserID, lang.NewMessage(textCredits, r.Credits)))
	}
	a.printBridge(changes.Bridge, l)
	if repair && len(changes.Repaired) == 0 && len(changes.Bridge.Owed) == 0 {
		a.Printf("%s\n", textNothingOwed.In(l))
	}
}
