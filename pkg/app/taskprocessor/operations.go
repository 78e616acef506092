package taskprocessor

import (
	"context"
	"strings"

	"github.com/urfave/cli/v2"

	"imagetasks/pkg/app"
	"imagetasks/pkg/app/render"
	"imagetasks/pkg/settings"
	"imagetasks/pkg/store"
)

func operationsCommand(a program) *cli.Command {
	return &cli.Command{
		Name: "operations", Usage: "show what operators did, by commands and on the status page",
		Action: missingSubcommand("operations list"),
		Subcommands: []*cli.Command{{Name: "list", Usage: "list what was done, the newest first", Action: a.listOperations, Flags: append([]cli.Flag{
			&cli.IntFlag{Name: "limit", Usage: "at most `N` entries", Value: 50}, app.JSONFlag()}, app.CommonFlags()...)}},
	}
}

func (a program) listOperations(c *cli.Context) error {
	limit := c.Int("limit")
	if limit < 1 || limit > 100_000 {
		return app.Usagef("--limit must be from 1 to 100000")
	}
	return a.WithStore(c, func(ctx context.Context, _ settings.Settings, st *store.Store) error {
		entries, err := st.Operations(ctx, limit)
		if err != nil {
			return err
		}
		if c.Bool("json") {
			return a.PrintJSON(map[string]any{"operations": entries})
		}
		if len(entries) == 0 {
			return a.Print(c, textNoOperations)
		}
		for _, e := range entries {
			a.Printf("%s\n", strings.Join(strings.Fields(strings.Join([]string{render.DateTime(e.At), e.Who + ":", e.What, e.Subject, "→", e.Result, parenthesized(e.Detail)}, " ")), " "))
		}
		return nil
	})
}

func parenthesized(text string) string {
	if text == "" {
		return ""
	}
	return "(" + text + ")"
}
