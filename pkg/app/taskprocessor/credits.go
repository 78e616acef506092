package taskprocessor

import (
	"context"
	"time"

	"github.com/urfave/cli/v2"

	"imagetasks/pkg/app"
	"imagetasks/pkg/settings"
	"imagetasks/pkg/store"
)

func creditsCommand(a program) *cli.Command {
	user := &cli.StringFlag{Name: "user", Usage: "the user's `ID`"}
	return &cli.Command{
		Name: "credits", Usage: "grant credits to a user, show them, or report what was made, charged and paid",
		Action: missingSubcommand("credits grant", "credits show", "credits report"),
		Subcommands: []*cli.Command{
			{Name: "grant", Usage: "grant credits", Action: a.grant, Flags: append([]cli.Flag{user,
				&cli.Int64Flag{Name: "credits", Usage: "number of credits"},
				&cli.StringFlag{Name: "reason", Usage: "reason, for the ledger", Value: "granted by an operator"}, keyFlag(), app.JSONFlag()}, app.CommonFlags()...)},
			{Name: "show", Usage: "show the balance and the latest ledger entries", Action: a.show, Flags: append([]cli.Flag{user,
				&cli.IntFlag{Name: "limit", Usage: "number of ledger entries", Value: 20}, app.JSONFlag()}, app.CommonFlags()...)},
			reportCommand(a),
		},
	}
}

func (a program) grant(c *cli.Context) error {
	user, err := app.UserID(c.String("user"))
	if err != nil {
		return err
	}
	credits := c.Int64("credits")
	if credits < 1 || credits > store.MaxCost {
		return app.Usagef("--credits must be from 1 to %d", store.MaxCost)
	}
	return a.WithStore(c, func(ctx context.Context, _ settings.Settings, st *store.Store) error {
		key, err := a.key(c)
		if err != nil {
			return err
		}
		balance, err := st.GrantCreditsBy(ctx, store.By(a.Operator()), user, credits, c.String("reason"), key)
		if err != nil {
			return app.UnknownOutcome(ctx, err, repeatWithKey, key)
		}
		if c.Bool("json") {
			return a.PrintJSON(map[string]any{"user_id": user, "granted": credits, "credits": balance, "idempotency_key": key})
		}
		return a.Print(c, textGranted, credits, user, balance)
	})
}

func (a program) show(c *cli.Context) error {
	user, err := app.UserID(c.String("user"))
	if err != nil {
		return err
	}
	limit := c.Int("limit")
	if limit < 0 || limit > 1000 {
		return app.Usagef("--limit must be from 0 to 1000")
	}
	return a.WithStore(c, func(ctx context.Context, _ settings.Settings, st *store.Store) error {
		balance, err := st.Balance(ctx, user)
		if err != nil {
			return err
		}
		entries, err := st.Ledger(ctx, user, limit)
		if err != nil {
			return err
		}
		if c.Bool("json") {
			return a.PrintJSON(struct {
				UserID  string              `json:"user_id"`
				Credits int64               `json:"credits"`
				Ledger  []store.LedgerEntry `json:"ledger"`
			}{user, balance, append([]store.LedgerEntry{}, entries...)})
		}
		if err := a.Print(c, textBalance, user, balance); err != nil {
			return err
		}
		for _, m := range entries {
			a.Printf("%s  %-6s %+6d  = %-6d %s %s\n", m.CreatedAt.Local().Format(time.DateTime), m.Kind, m.Amount, m.BalanceAfter, m.TaskID, m.Reason)
		}
		return nil
	})
}
