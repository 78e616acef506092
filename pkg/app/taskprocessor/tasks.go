package taskprocessor

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"imagetasks/pkg/app"
	"imagetasks/pkg/lang"
	"imagetasks/pkg/settings"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

func enqueueCommand(a program) *cli.Command {
	return &cli.Command{
		Name: "enqueue", Usage: "charge a user, enqueue tasks and print their ids", Action: a.enqueue,
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "user", Usage: "the user's `UUID`"},
			&cli.StringFlag{Name: "prompt", Usage: "description of the picture; - reads it from stdin"},
			&cli.IntFlag{Name: "count", Usage: "number of tasks", Value: 1},
			&cli.IntFlag{Name: "cost", Usage: "credits per task", Value: 1},
			&cli.StringFlag{Name: "image", Usage: "`FILE` with an input picture (PNG, JPEG or WebP) to edit"},
			&cli.StringFlag{Name: "style", Usage: "style of the picture"},
			&cli.StringFlag{Name: "aspect-ratio", Usage: "for example 16:9, 1:1, portrait, or a size such as 1536x1024"},
			&cli.StringFlag{Name: "model", Usage: "model for these tasks; default: the processor's"},
			&cli.IntFlag{Name: "max-attempts", Usage: "maximum attempts for these tasks; default: the processor's"},
			app.JSONFlag(),
		}, app.CommonFlags()...),
	}
}

// Limits of one enqueue command.
const (
	maxCount     = 10000
	maxInputFile = 20 << 20
	maxPrompt    = 32000 // runes; the limit of the API
)

func (a program) enqueue(c *cli.Context) error {
	n, err := a.newTask(c)
	if err != nil {
		return err
	}
	return a.WithStore(c, func(ctx context.Context, _ settings.Settings, st *store.Store) error {
		ids, err := st.Enqueue(ctx, n)
		if errors.Is(err, task.ErrInsufficientCredits) {
			return fmt.Errorf("nothing was enqueued or charged: %w; to grant credits run: task-processor credits grant --user %s --credits N", err, n.UserID)
		}
		if err != nil {
			return err
		}
		if c.Bool("json") {
			return a.PrintJSON(map[string]any{"task_ids": ids})
		}
		for _, id := range ids {
			a.Printf("%s\n", id)
		}
		return nil
	})
}

// newTask reads the flags of enqueue.
func (a program) newTask(c *cli.Context) (store.EnqueueRequest, error) {
	user, err := app.UserID(c.String("user"))
	if err != nil {
		return store.EnqueueRequest{}, err
	}
	n := store.EnqueueRequest{UserID: user, Prompt: c.String("prompt"), Style: c.String("style"), AspectRatio: c.String("aspect-ratio"),
		Model: c.String("model"), Cost: c.Int("cost"), Count: c.Int("count"), MaxAttempts: c.Int("max-attempts")}
	if n.Prompt == "-" {
		text, err := a.ReadStdin(c.Context, 4*maxPrompt+1)
		if err != nil {
			return n, fmt.Errorf("read the prompt: %w", err)
		}
		n.Prompt = strings.TrimSpace(string(text))
	}
	switch {
	case n.Prompt == "":
		return n, app.Usagef("--prompt is missing; it describes the picture")
	case len([]rune(n.Prompt)) > maxPrompt || strings.ContainsRune(n.Prompt, 0):
		return n, app.Usagef("--prompt must be text of at most %d characters", maxPrompt)
	case n.Count < 1 || n.Count > maxCount:
		return n, app.Usagef("--count must be from 1 to %d", maxCount)
	case n.Cost < 1 || n.Cost > 1_000_000:
		return n, app.Usagef("--cost must be from 1 to 1000000")
	case n.MaxAttempts < 0 || n.MaxAttempts > 100:
		return n, app.Usagef("--max-attempts must be from 1 to 100")
	}
	if path := c.String("image"); path != "" {
		n.Input, err = readInput(path)
	}
	return n, err
}

// readInput returns the content of a picture file in base64.
func readInput(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", app.Usagef("--image: %w", err)
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxInputFile+1))
	if err != nil {
		return "", app.Usagef("--image: %w", err)
	}
	switch http.DetectContentType(content) {
	case "image/png", "image/jpeg", "image/webp":
	default:
		return "", app.Usagef("--image %s is not a PNG, JPEG or WebP", path)
	}
	if len(content) > maxInputFile {
		return "", app.Usagef("--image %s is larger than %d bytes", path, maxInputFile)
	}
	return base64.StdEncoding.EncodeToString(content), nil
}

func (a program) cancel(c *cli.Context) error {
	id := c.String("task")
	if id == "" {
		return app.Usagef("--task is missing; it takes the task's id")
	}
	return a.WithStore(c, func(ctx context.Context, _ settings.Settings, st *store.Store) error {
		refund, err := st.Cancel(ctx, id, a.Redact.String(c.String("reason")))
		if err != nil {
			return err
		}
		if refund.Credits == 0 {
			return a.Print(c, textUncharged, refund.TaskID)
		}
		return a.Print(c, textCancelled, refund.TaskID, lang.NewMessage(textRefunded, refund.Credits), refund.UserID)
	})
}

func creditsCommand(a program) *cli.Command {
	user := &cli.StringFlag{Name: "user", Usage: "the user's `UUID`"}
	return &cli.Command{
		Name: "credits", Usage: "grant credits to a user, or show them",
		Action: func(c *cli.Context) error {
			if c.NArg() > 0 {
				return app.Usagef("unknown command %q; the commands are: credits grant, credits show", c.Args().First())
			}
			return app.Usagef("a command is missing: credits grant, or credits show")
		},
		Subcommands: []*cli.Command{
			{Name: "grant", Usage: "grant credits", Action: a.grant, Flags: append([]cli.Flag{user,
				&cli.IntFlag{Name: "credits", Usage: "number of credits"},
				&cli.StringFlag{Name: "reason", Usage: "reason, for the ledger", Value: "granted by an operator"}, app.JSONFlag()}, app.CommonFlags()...)},
			{Name: "show", Usage: "show the balance and the latest ledger entries", Action: a.show, Flags: append([]cli.Flag{user,
				&cli.IntFlag{Name: "limit", Usage: "number of ledger entries", Value: 20}, app.JSONFlag()}, app.CommonFlags()...)},
		},
	}
}

func (a program) grant(c *cli.Context) error {
	user, err := app.UserID(c.String("user"))
	if err != nil {
		return err
	}
	credits := c.Int("credits")
	if credits < 1 || credits > 1_000_000_000 {
		return app.Usagef("--credits must be from 1 to 1000000000")
	}
	return a.WithStore(c, func(ctx context.Context, _ settings.Settings, st *store.Store) error {
		balance, err := st.GrantCredits(ctx, user, credits, c.String("reason"))
		if err != nil {
			return err
		}
		if c.Bool("json") {
			return a.PrintJSON(map[string]any{"user_id": user, "granted": credits, "credits": balance})
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
				Credits int                 `json:"credits"`
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
