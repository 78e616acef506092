package taskprocessor

import (
	"context"

	"github.com/urfave/cli/v2"

	"imagetasks/pkg/app"
	"imagetasks/pkg/app/render"
	"imagetasks/pkg/finding"
	"imagetasks/pkg/lang"
	"imagetasks/pkg/settings"
	"imagetasks/pkg/store"
)

// repeatCommand says that a command whose outcome is unknown may simply be repeated.
const repeatCommand = "repeat the command, which is safe"

func pauseCommand(a program) *cli.Command {
	return &cli.Command{Name: "pause", Usage: "pause claiming for all processors; tasks that are processing go on", Action: a.pause,
		Flags: append([]cli.Flag{&cli.StringFlag{Name: "reason", Usage: "reason, shown by status", Value: "no reason given"},
			&cli.BoolFlag{Name: "restored", Usage: "the database was restored from a backup: nothing is closed or removed either, until resume"},
			app.JSONFlag()}, app.CommonFlags()...)}
}

func (a program) pause(c *cli.Context) error {
	return a.WithStore(c, func(ctx context.Context, _ settings.Settings, st *store.Store) error {
		pause := st.Pause
		if c.Bool("restored") {
			pause = st.PauseRestored
		}
		control, err := pause(ctx, a.Operator(), a.Redact.String(c.String("reason")))
		if err != nil {
			return app.UnknownOutcome(ctx, err, repeatCommand)
		}
		if c.Bool("json") {
			return a.PrintJSON(control)
		}
		return a.Print(c, textPaused, render.DateTime(control.PausedAt), control.PausedBy, control.PausedReason,
			a.CommandLine(c)(resumeCommandLine()))
	})
}

func resumeCommand(a program) *cli.Command {
	return &cli.Command{Name: "resume", Usage: "end a pause of claiming", Action: a.resume, Flags: append([]cli.Flag{app.JSONFlag()}, app.CommonFlags()...)}
}

func (a program) resume(c *cli.Context) error {
	return a.WithStore(c, func(ctx context.Context, _ settings.Settings, st *store.Store) error {
		if err := st.Resume(ctx); err != nil {
			return app.UnknownOutcome(ctx, err, repeatCommand)
		}
		return a.Print(c, textResumed)
	})
}

func resumeCommandLine() finding.Command {
	return finding.Command{Program: "task-processor", Args: []string{"resume"}}
}

func supabaseCommand() finding.Command {
	return finding.Command{Program: "task-processor", Args: []string{"migrate", "--app-role", "service_role"}}
}

func usersCommand(a program) *cli.Command {
	return &cli.Command{
		Name: "users", Usage: "delete a user's prompts and pictures",
		Action: missingSubcommand("users forget"),
		Subcommands: []*cli.Command{{
			Name: "forget", Usage: "cancel and refund a user's tasks that are not closed, and delete prompts, input pictures and pictures of all; the ledger stays",
			Action: a.deleteUserContent, Flags: append([]cli.Flag{&cli.StringFlag{Name: "user", Usage: "the user's `ID`"}, app.JSONFlag()}, app.WorkerFlags()...)}},
	}
}

func (a program) deleteUserContent(c *cli.Context) error {
	user, err := app.UserID(c.String("user"))
	if err != nil {
		return err
	}
	return a.WithStore(c, func(ctx context.Context, s settings.Settings, st *store.Store) error {
		cancelled, forgotten, err := st.DeleteUserContent(ctx, user)
		if err != nil {
			return app.UnknownOutcome(ctx, err, repeatCommand)
		}
		removed, kept, err := removePictures(ctx, s, st, forgotten)
		if err != nil {
			return err
		}
		unfinished := kept > 0
		for _, t := range cancelled {
			unfinished = unfinished || t.MissingCharge
		}
		if c.Bool("json") {
			err = a.PrintJSON(map[string]any{"user_id": user, "cancelled": append([]store.Cancelled{}, cancelled...), "tasks": len(forgotten),
				"pictures": removed, "pictures_kept": kept})
		} else {
			err = a.Print(c, textForgotten, user, lang.NewMessage(textTaskCount, len(forgotten)),
				lang.NewMessage(textTaskCount, len(cancelled)), lang.NewMessage(textPictureCount, removed))
			if err == nil && kept > 0 {
				err = a.Print(c, textPicturesKept, kept)
			}
		}
		if err == nil && unfinished {
			err = app.ErrUnhealthy
		}
		return err
	})
}
