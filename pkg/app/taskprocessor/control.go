package taskprocessor

import (
	"context"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"imagetasks/pkg/app"
	"imagetasks/pkg/app/operator"
	"imagetasks/pkg/app/render"
	"imagetasks/pkg/finding"
	"imagetasks/pkg/lang"
	"imagetasks/pkg/settings"
	"imagetasks/pkg/store"
)

// repeatCommand says that a command whose outcome is unknown may simply be repeated.
const repeatCommand = "repeat the command, which is safe"

func scopeFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "endpoint", Usage: "only the endpoint with this `NAME`, which imagetasks.toml or its URL gives it; with several, its tasks go to the others"},
		&cli.StringFlag{Name: "model", Usage: "only tasks of the model with this `NAME`; those without a model are of OPENAI_MODEL"},
	}
}

// scopeOf returns what --endpoint and --model name.
func scopeOf(c *cli.Context) (scope store.Scope, name string, err error) {
	endpoint, model := c.String("endpoint"), c.String("model")
	for _, flag := range []string{"endpoint", "model"} {
		if c.IsSet(flag) && c.String(flag) == "" {
			return "", "", app.Usagef("--%s is empty; it takes a name", flag)
		}
	}
	switch {
	case endpoint != "" && model != "":
		return "", "", app.Usagef("--endpoint and --model exclude each other; run the command once for each")
	case endpoint != "":
		return store.ScopeEndpoint, endpoint, nil
	case model != "":
		return store.ScopeModel, model, nil
	}
	return store.ScopeQueue, "", nil
}

func pauseCommand(a program) *cli.Command {
	return &cli.Command{Name: "pause", Usage: "pause claiming for all processors; tasks that are processing go on", Action: a.pause,
		Flags: slices.Concat(scopeFlags(), []cli.Flag{&cli.StringFlag{Name: "reason", Usage: "reason, shown by status", Value: "no reason given"},
			&cli.BoolFlag{Name: "restored", Usage: "the database was restored from a backup: nothing is closed or removed either, until resume"},
			app.JSONFlag()}, app.CommonFlags())}
}

func (a program) pause(c *cli.Context) error {
	scope, name, err := scopeOf(c)
	if err != nil {
		return err
	}
	if scope != store.ScopeQueue && c.Bool("restored") {
		return app.Usagef("--restored is about the whole database; leave out --%s", scope)
	}
	return a.WithStore(c, func(ctx context.Context, s settings.Settings, st *store.Store) error {
		reason := a.Redact.String(c.String("reason"))
		if scope == store.ScopeEndpoint {
			known, err := operator.Endpoints(ctx, s, st)
			if err != nil {
				return err
			}
			if !slices.Contains(known, name) {
				return app.Usagef("no endpoint is called %q; there are: %s", name, strings.Join(known, ", "))
			}
		}
		var control store.Control
		var err error
		switch {
		case scope != store.ScopeQueue:
			control, err = st.PauseScope(ctx, store.By(a.Operator()), scope, name, reason)
		case c.Bool("restored"):
			control, err = st.PauseRestored(ctx, a.Operator(), reason)
		default:
			control, err = st.Pause(ctx, a.Operator(), reason)
		}
		if err != nil {
			return app.UnknownOutcome(ctx, err, repeatCommand)
		}
		if c.Bool("json") {
			return a.PrintJSON(control)
		}
		for _, p := range control.Pauses() {
			if p.Scope == scope && p.Name == name {
				return a.printPause(c, p)
			}
		}
		return nil
	})
}

// printPause prints a pause and how to end it.
func (a program) printPause(c *cli.Context, p store.Pause) error {
	next := a.CommandLine(c)(resumeCommandLine(p))
	switch p.Scope {
	case store.ScopeEndpoint:
		return a.Print(c, textPausedEndpoint, p.Name, render.DateTime(p.Since), p.By, p.Reason, next)
	case store.ScopeModel:
		return a.Print(c, textPausedModel, p.Name, render.DateTime(p.Since), p.By, p.Reason, next)
	}
	return a.Print(c, textPaused, render.DateTime(p.Since), p.By, p.Reason, next)
}

func resumeCommand(a program) *cli.Command {
	return &cli.Command{Name: "resume", Usage: "end a pause of claiming", Action: a.resume, Flags: slices.Concat(scopeFlags(), []cli.Flag{
		&cli.BoolFlag{Name: "all", Usage: "end the pause of the queue, and those of all endpoints and models"}, app.JSONFlag()}, app.CommonFlags())}
}

func (a program) resume(c *cli.Context) error {
	scope, name, err := scopeOf(c)
	if err != nil {
		return err
	}
	all := c.Bool("all")
	if all && scope != store.ScopeQueue {
		return app.Usagef("--all and --%s exclude each other", scope)
	}
	return a.WithStore(c, func(ctx context.Context, _ settings.Settings, st *store.Store) error {
		resumed := true
		var err error
		if scope == store.ScopeQueue {
			err = st.ResumeBy(ctx, store.By(a.Operator()))
		}
		if err == nil && (all || scope != store.ScopeQueue) {
			named := scope
			if all {
				named = ""
			}
			resumed, err = st.ResumeScope(ctx, store.By(a.Operator()), named, name)
			resumed = resumed || all
		}
		if err != nil {
			return app.UnknownOutcome(ctx, err, repeatCommand)
		}
		left, err := st.Pauses(ctx)
		if err != nil {
			return err
		}
		message := lang.NewMessage(textResumed)
		switch {
		case !resumed:
			message = lang.NewMessage(textNotPaused, scopeMessage(scope, name))
		case scope != store.ScopeQueue:
			message = lang.NewMessage(textResumedScope, scopeMessage(scope, name))
		}
		if c.Bool("json") {
			return a.PrintJSON(map[string]any{"message": message, "resumed": resumed, "pauses": append([]store.Pause{}, left...)})
		}
		err = a.Print(c, textMessage, message)
		for _, p := range left {
			if err == nil {
				err = a.printPause(c, p)
			}
		}
		return err
	})
}

// scopeMessage names an endpoint or a model.
func scopeMessage(scope store.Scope, name string) lang.Message {
	if scope == store.ScopeEndpoint {
		return lang.NewMessage(textScopeEndpoint, name)
	}
	return lang.NewMessage(textScopeModel, name)
}

// resumeCommandLine returns the command that ends a pause.
func resumeCommandLine(p store.Pause) finding.Command {
	command := finding.Command{Program: "task-processor", Args: []string{"resume"}}
	if p.Scope != store.ScopeQueue {
		command.Args = append(command.Args, "--"+string(p.Scope), p.Name)
	}
	return command
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
		if err := st.NoteOperation(ctx, store.By(a.Operator()), store.OperationEntry{What: "forget", Subject: user, Result: "begun"}); err != nil {
			return err
		}
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
