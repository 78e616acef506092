package taskprocessor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"imagetasks/pkg/app"
	"imagetasks/pkg/bridge"
	"imagetasks/pkg/finding"
	"imagetasks/pkg/lang"
	"imagetasks/pkg/oldscripts"
	"imagetasks/pkg/settings"
	"imagetasks/pkg/store"
	"imagetasks/pkg/supervise"
)

// adoptSteps are the flags of adopt that do something else than to inspect and propose.
var adoptSteps = []string{"plan", "apply", "check", "remove"}

func adoptCommand(a program) *cli.Command {
	return &cli.Command{
		Name: "adopt", Usage: "bridge an application's own tables of tasks and credits", Action: a.adopt,
		Description: "Without a flag it looks at the tables of the database, and writes what it proposes to the part [bridge] of " + app.TablesName + ", with " +
			"questions where it could not decide. Answer them in the file, then: adopt --plan, adopt --apply, adopt --check.",
		Flags: append([]cli.Flag{
			&cli.BoolFlag{Name: "plan", Usage: "print the SQL that --apply would run in this database, and change nothing"},
			&cli.BoolFlag{Name: "apply", Usage: "put the bridge in place as the file describes it; may be repeated, and interrupted anywhere"},
			&cli.BoolFlag{Name: "check", Usage: "compare both sides; exits 3 if something differs"},
			&cli.BoolFlag{Name: "acknowledge", Usage: "with --check: report the lost updates that it shows no more"},
			&cli.BoolFlag{Name: "remove", Usage: "take the bridge out; the application's schema is as it was before"},
			&cli.StringFlag{Name: "file", Usage: "`FILE` with the part [bridge]", DefaultText: app.TablesName + " beside the env file"},
			&cli.StringFlag{Name: "tasks", Usage: "`SCHEMA.TABLE` of tasks, where adopt does not find it or takes another one"},
			&cli.StringFlag{Name: "balances", Usage: "`SCHEMA.TABLE` of the users' credits, likewise"},
			&cli.BoolFlag{Name: "force", Usage: "replace a part [bridge] that was edited; with --apply: although old scripts run, or IMAGE_BASE_URL is not set; with --remove: give up what is still owed"},
			app.JSONFlag(),
		}, app.CommonFlags()...),
	}
}

func (a program) adopt(c *cli.Context) error {
	var steps []string
	for _, step := range adoptSteps {
		if c.Bool(step) {
			steps = append(steps, step)
		}
	}
	if len(steps) > 1 {
		return app.Usagef("--%s can't be combined", strings.Join(steps, " and --"))
	}
	if c.Bool("acknowledge") && !c.Bool("check") {
		return app.Usagef("--acknowledge needs --check")
	}
	if len(steps) == 1 && (c.IsSet("tasks") || c.IsSet("balances")) {
		return app.Usagef("--tasks and --balances are for adopt without --%s", steps[0])
	}
	switch {
	case c.Bool("plan"):
		return a.planAdoption(c)
	case c.Bool("apply"):
		return a.applyAdoption(c)
	case c.Bool("check"):
		return a.WithStore(c, func(ctx context.Context, _ settings.Settings, st *store.Store) error {
			return a.checkBridge(ctx, c, st)
		})
	case c.Bool("remove"):
		return a.removeBridge(c)
	}
	return a.propose(c)
}

// bridgePath returns the path of the file with the part [bridge].
func bridgePath(c *cli.Context) string {
	if file := c.String("file"); file != "" {
		return file
	}
	return app.TablesFile(c)
}

// proposal is the document of adopt.
type proposal struct {
	File       string                 `json:"file"`
	Written    bool                   `json:"written"` // whether the file has the proposal; without a table of tasks nothing is written
	Bridge     map[string]any         `json:"bridge"`  // the part [bridge]
	Lines      map[string]bridge.Line `json:"lines"`
	Questions  []string               `json:"questions"`
	Notes      []string               `json:"notes"`
	OldScripts oldscripts.Found       `json:"old_scripts"`
}

// propose inspects the database and writes the proposal to the file.
func (a program) propose(c *cli.Context) error {
	var chosen bridge.Settings
	for name, table := range map[string]*bridge.Table{"tasks": &chosen.Tasks, "balances": &chosen.Balance} {
		if err := table.UnmarshalText([]byte(c.String(name))); err != nil {
			return app.Usagef("--%s: %v", name, err)
		}
	}
	return a.WithAnySchema(c, func(ctx context.Context, _ settings.Settings, st *store.Store) error {
		catalog, err := st.Catalog(ctx)
		if err != nil {
			return err
		}
		p := bridge.Propose(catalog, chosen)
		done := proposal{File: bridgePath(c), Lines: p.Lines, Notes: p.Notes, Questions: append([]string{}, p.Description.Questions...), OldScripts: oldscripts.Find(ctx)}
		if done.Bridge, err = p.Description.Keys(); err != nil {
			return err
		}
		if !p.Description.Tasks.IsZero() {
			if err := writeBridge(done.File, p.File(), c.Bool("force")); err != nil {
				return err
			}
			done.Written = true
		}
		return a.printProposal(c, done)
	})
}

// writeBridge replaces the part [bridge] of a file, and keeps everything else of it.
func writeBridge(path string, part []byte, force bool) error {
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	text, err := bridge.ReplaceBridge(old, part, force)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if string(text) == string(old) {
		return nil
	}
	if err := supervise.WriteFileAtomic(path, string(text)); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func (a program) printProposal(c *cli.Context, p proposal) error {
	unfinished := len(p.Questions) > 0 || p.OldScripts.Any()
	if c.Bool("json") {
		if err := a.PrintJSON(p); err != nil || !unfinished {
			return err
		}
		return app.ErrUnhealthy
	}
	l, err := a.Lang(c)
	if err != nil {
		return err
	}
	printLine := func(text lang.Text, args ...any) { a.Printf("%s\n", text.In(l, args...)) }
	for _, note := range p.Notes {
		a.Printf("%s\n", note)
	}
	if p.Written {
		count := map[bridge.Sureness]int{}
		for _, line := range p.Lines {
			count[line.Sure]++
		}
		printLine(textBridgeWritten, p.File, count[bridge.Certain], count[bridge.Likely], count[bridge.Guess])
	} else {
		printLine(textBridgeNotWritten)
	}
	if len(p.Questions) > 0 {
		if p.Written {
			printLine(textBridgeQuestions, len(p.Questions))
		}
		for _, q := range p.Questions {
			a.Printf("  - %s\n", q)
		}
	}
	a.printOldScripts(l, p.OldScripts)
	if p.Written {
		printLine(textNext, a.CommandLine(c)(adoptStep(c, "plan")))
	}
	if unfinished {
		return app.ErrUnhealthy
	}
	return nil
}

// adoptStep returns the command of a step for the same file.
func adoptStep(c *cli.Context, step string) finding.Command {
	args := []string{"adopt", "--" + step}
	if file := c.String("file"); file != "" {
		args = append(args, "--file", file)
	}
	return finding.Command{Program: "task-processor", Args: args}
}

func (a program) printOldScripts(l lang.Lang, found oldscripts.Found) {
	for _, line := range found.Lines {
		a.Printf("%s\n", textOldLine.In(l, line.File, line.Number, line.Text))
	}
	for _, p := range found.Processes {
		a.Printf("%s\n", textOldProcess.In(l, p.Script, p.PID))
	}
}

// readBridge reads the part [bridge] and compares it with the database. It prints what does not fit, with its line.
func (a program) readBridge(ctx context.Context, c *cli.Context, st *store.Store) (bridge.Description, error) {
	path := bridgePath(c)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return bridge.Description{}, app.Usagef("there is no file %s; write one with: task-processor adopt", path)
	}
	if err != nil {
		return bridge.Description{}, err
	}
	d, err := bridge.Parse(text)
	if err != nil {
		return d, app.Usagef("%s: %w", path, err)
	}
	catalog, err := st.Catalog(ctx)
	if err != nil {
		return d, err
	}
	problems := bridge.Validate(d, catalog)
	if len(problems) == 0 {
		return d, nil
	}
	type located struct {
		Line int `json:"line"`
		bridge.Problem
	}
	var found []located
	for _, p := range problems {
		found = append(found, located{bridge.LineOf(text, p.Key), p})
	}
	slices.SortStableFunc(found, func(a, b located) int { return a.Line - b.Line })
	if c.Bool("json") {
		err = a.PrintJSON(map[string]any{"file": path, "problems": found, "error": app.ErrorDetail{
			Code: "settings", Message: fmt.Sprintf("%s does not fit the database (problems: %d)", path, len(found)), ExitCode: 2}})
		return d, errors.Join(err, app.ErrBadSettings)
	}
	for _, p := range found {
		fmt.Fprintf(a.Stderr, "%s:%d: %v\n", path, p.Line, p.Problem)
	}
	return d, app.ErrBadSettings
}

// bridgeReport is the document of adopt --check.
type bridgeReport struct {
	Healthy     bool                     `json:"healthy"`
	Problems    []store.BridgeProblem    `json:"problems"`
	Differences []store.BridgeDifference `json:"differences"`
	OldScripts  oldscripts.Found         `json:"old_scripts"`
}

// checkBridge compares both sides, and shows what the bridge could not do.
func (a program) checkBridge(ctx context.Context, c *cli.Context, st *store.Store) error {
	state, err := st.Bridge(ctx)
	if err != nil {
		return err
	}
	if !state.Exists {
		return errors.New("this database has no bridge; to put one in place: task-processor adopt, then task-processor adopt --apply")
	}
	report := bridgeReport{OldScripts: oldscripts.Find(ctx)}
	if report.Problems, err = st.BridgeProblems(ctx, maxBridgeProblems); err != nil {
		return err
	}
	if report.Differences, err = st.CheckWholeBridge(ctx); err != nil {
		return err
	}
	report.Problems, report.Differences = append([]store.BridgeProblem{}, report.Problems...), append([]store.BridgeDifference{}, report.Differences...)
	report.Healthy = len(report.Problems) == 0 && len(report.Differences) == 0 && !report.OldScripts.Any()
	if c.Bool("json") {
		err = a.PrintJSON(report)
	} else {
		err = a.printBridgeReport(c, report)
	}
	if err == nil && c.Bool("acknowledge") {
		err = st.AcknowledgeLostUpdates(ctx, report.lostUpdates()...)
	}
	if err == nil && !report.Healthy {
		err = app.ErrUnhealthy
	}
	return err
}

// lostUpdates returns the ids of the suspected lost updates in a report.
func (r bridgeReport) lostUpdates() (ids []int64) {
	for _, d := range r.Differences {
		if d.ID > 0 {
			ids = append(ids, d.ID)
		}
	}
	return ids
}

// maxBridgeProblems bounds the list of what the bridge could not do.
const maxBridgeProblems = 100

func (a program) printBridgeReport(c *cli.Context, report bridgeReport) error {
	l, err := a.Lang(c)
	if err != nil {
		return err
	}
	for _, p := range report.Problems {
		a.Printf("%s\n", textBridgeProblem.In(l, p.Part, p.Key, p.Reason, p.Tries))
	}
	for _, d := range report.Differences {
		if d.Code != "failing" { // it is among the problems
			a.Printf("%s  %s  %s\n", d.Code, d.Subject, d.Detail)
		}
	}
	a.printOldScripts(l, report.OldScripts)
	if report.Healthy {
		a.Printf("%s\n", textBridgeAgrees.In(l))
	}
	return nil
}
