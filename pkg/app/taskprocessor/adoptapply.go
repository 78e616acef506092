package taskprocessor

import (
	"context"
	"errors"
	"strings"

	"github.com/urfave/cli/v2"

	"imagetasks/pkg/app"
	"imagetasks/pkg/oldscripts"
	"imagetasks/pkg/settings"
	"imagetasks/pkg/store"
)

// planAdoption prints the SQL of adopt --apply. When a step would fail, it prints everything up to it.
func (a program) planAdoption(c *cli.Context) error {
	return a.WithStore(c, func(ctx context.Context, s settings.Settings, st *store.Store) error {
		d, err := a.readBridge(ctx, c, st)
		if err != nil {
			return err
		}
		plan, err := st.PlanAdoption(ctx, d)
		found := oldscripts.Find(ctx)
		if c.Bool("json") {
			if err == nil {
				err = a.PrintJSON(map[string]any{"steps": plan.Steps, "old_scripts": found})
			}
		} else {
			for _, step := range plan.Steps {
				a.Printf("-- %s\n%s;\n\n", step.What, strings.TrimSuffix(strings.TrimSpace(step.SQL), ";"))
			}
			switch {
			case err != nil && len(plan.Steps) > 0:
				a.Printf("-- The last statement above would fail.\n")
			case err == nil && len(plan.Steps) == 0:
				a.Printf("-- The bridge is as described: there is nothing to do.\n")
			}
			if !s.PicturesHaveURLs() {
				a.Printf("-- %s\n", textNoBaseURL.EN)
			}
			for _, line := range found.Lines {
				a.Printf("-- %s\n", textOldLine.In("", line.File, line.Number, line.Text))
			}
			for _, p := range found.Processes {
				a.Printf("-- %s\n", textOldProcess.In("", p.Script, p.PID))
			}
		}
		if err == nil && found.Any() {
			err = app.ErrUnhealthy
		}
		return err
	})
}

// applyAdoption puts the bridge in place. It refuses while an old script is started by cron or runs: both would work the same rows.
func (a program) applyAdoption(c *cli.Context) error {
	return a.WithStore(c, func(ctx context.Context, s settings.Settings, st *store.Store) error {
		d, err := a.readBridge(ctx, c, st)
		if err != nil {
			return err
		}
		l, err := a.Lang(c)
		if err != nil {
			return err
		}
		if !s.PicturesHaveURLs() && !c.Bool("force") {
			return app.Usagef("%s", textNoBaseURL.In(l))
		}
		found := oldscripts.Find(ctx)
		if found.Any() && !c.Bool("force") {
			return a.refuseOldScripts(c, found)
		}
		note := func(step store.Step) {
			if !c.Bool("json") {
				a.Printf("%s\n", textBridgeStep.In(l, step.What))
			}
		}
		done, err := st.Adopt(ctx, d, note)
		if err != nil {
			return err
		}
		if c.Bool("json") {
			err = a.PrintJSON(map[string]any{"steps": done.Steps, "old_scripts": found})
		} else {
			a.Printf("%s\n", textBridgeApplied.In(l, len(done.Steps)))
			a.printOldScripts(l, found)
			a.Printf("%s\n", textNext.In(l, a.CommandLine(c)(adoptStep(c, "check"))))
		}
		if err == nil && found.Any() {
			err = app.ErrUnhealthy
		}
		return err
	})
}

func (a program) refuseOldScripts(c *cli.Context, found oldscripts.Found) error {
	l, err := a.Lang(c)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		err = a.PrintJSON(map[string]any{"old_scripts": found, "error": app.ErrorDetail{Code: "unhealthy", Message: textOldScriptsRun.EN, ExitCode: 3}})
	} else {
		a.printOldScripts(l, found)
		a.Printf("%s\n", textOldScriptsRun.In(l))
	}
	return errors.Join(err, app.ErrUnhealthy)
}

// removeBridge takes the bridge out.
func (a program) removeBridge(c *cli.Context) error {
	return a.WithStore(c, func(ctx context.Context, _ settings.Settings, st *store.Store) error {
		l, err := a.Lang(c)
		if err != nil {
			return err
		}
		done, err := st.RemoveBridge(ctx, c.Bool("force"), func(step store.Step) {
			if !c.Bool("json") {
				a.Printf("%s\n", textBridgeStep.In(l, step.What))
			}
		})
		if err != nil {
			return err
		}
		if c.Bool("json") {
			err = a.PrintJSON(done)
		} else {
			a.Printf("%s\n", textBridgeRemoved.In(l, done.HandedBack, done.Reset, done.Dropped))
		}
		if err == nil && done.Dropped > 0 {
			err = app.ErrUnhealthy
		}
		return err
	})
}
