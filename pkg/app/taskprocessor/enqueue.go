package taskprocessor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/urfave/cli/v2"

	"imagetasks/pkg/app"
	"imagetasks/pkg/imageapi"
	"imagetasks/pkg/settings"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// optionFlags are the API's options that have a flag of their own; --options takes every other.
var optionFlags = []struct{ flag, option, usage string }{
	{"model", "model", "model for these tasks; default: the processor's"},
	{"style", "style", "style of the picture"},
	{"aspect-ratio", "aspect_ratio", "for example 16:9, 1.91:1, 16x9, portrait, auto, or a size such as 1536x1024"},
	{"size", "size", "size of the picture, as the model names it"},
	{"quality", "quality", "quality of the picture, as the model names it"},
}

func enqueueCommand(a program) *cli.Command {
	flags := []cli.Flag{
		&cli.StringFlag{Name: "user", Usage: "the user's `ID`"},
		&cli.StringFlag{Name: "prompt", Usage: "description of the picture; - reads it from stdin"},
		&cli.IntFlag{Name: "count", Usage: "number of tasks", Value: 1},
		&cli.Int64Flag{Name: "cost", Usage: "credits per task; 0: the tasks are not charged", Value: 1},
		&cli.StringSliceFlag{Name: "image", Usage: "`FILE` or URL of an input picture (PNG, JPEG or WebP) to edit; may be repeated"},
		&cli.StringFlag{Name: "mask", Usage: "`FILE` or URL of the mask for the input pictures"},
	}
	for _, o := range optionFlags {
		flags = append(flags, &cli.StringFlag{Name: o.flag, Usage: o.usage})
	}
	return &cli.Command{
		Name: "enqueue", Usage: "charge a user, enqueue tasks and print their ids", Action: a.enqueue,
		Flags: append(append(flags,
			&cli.StringFlag{Name: "options", Usage: "further options of the API, as a `JSON` object"},
			&cli.IntFlag{Name: "max-attempts", Usage: "maximum attempts for these tasks; default: the processor's"},
			&cli.IntFlag{Name: "priority", Usage: "0 to 9; tasks of a higher priority are always started first"},
			&cli.StringFlag{Name: "run-at", Usage: "`TIME` before which the tasks are not started: RFC 3339, or from now on, such as 2h"},
			keyFlag(), app.JSONFlag(),
		), app.CommonFlags()...),
	}
}

func keyFlag() cli.Flag {
	return &cli.StringFlag{Name: "key", Usage: "idempotency `KEY`: a repeat with the same key changes nothing and prints the same; default: a new one, which is printed"}
}

// key returns the idempotency key of an invocation. A new one is printed to stderr, so that the command can be repeated with it
// when its answer was lost.
func (a program) key(c *cli.Context) (string, error) {
	if c.IsSet("key") {
		if c.String("key") == "" {
			return "", app.Usagef("--key is empty")
		}
		return c.String("key"), nil
	}
	l, err := a.Lang(c)
	if err != nil {
		return "", err
	}
	key := uuid.NewString()
	if !c.Bool("json") {
		fmt.Fprintln(a.Stderr, textKey.In(l, key))
	}
	return key, nil
}

// repeatWithKey says how to repeat a command whose outcome is unknown. Its argument is the key.
const repeatWithKey = "so that it takes effect once, repeat the command with --key %s"

const exampleTime = "2026-01-31T18:00:00+08:00"

// Limits of one enqueue command.
const (
	maxInputFile = store.MaxInput
	maxPrompt    = 32000 // runes; the limit of the API
)

func (a program) enqueue(c *cli.Context) error {
	n, err := a.newTask(c)
	if err != nil {
		return err
	}
	return a.WithStore(c, func(ctx context.Context, s settings.Settings, st *store.Store) error {
		if err := checkOptions(n, s.Model); err != nil {
			return err
		}
		if n.Key, err = a.key(c); err != nil {
			return err
		}
		done, err := st.Enqueue(ctx, n)
		if errors.Is(err, task.ErrInsufficientCredits) {
			return fmt.Errorf("nothing was enqueued or charged: %w; to grant credits run: task-processor credits grant --user %s --credits N", err, n.UserID)
		}
		if err != nil {
			repeat := repeatWithKey
			if !n.RunAt.IsZero() && !c.IsSet("key") {
				repeat += " --run-at " + n.RunAt.Format(time.RFC3339Nano)
			}
			return app.UnknownOutcome(ctx, err, repeat, n.Key)
		}
		if c.Bool("json") {
			return a.PrintJSON(struct {
				store.Enqueued
				Key string `json:"idempotency_key"`
			}{done, n.Key})
		}
		for _, id := range done.TaskIDs {
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
	n := store.EnqueueRequest{UserID: user, Prompt: c.String("prompt"), Cost: c.Int64("cost"), Count: c.Int("count"), Priority: c.Int("priority")}
	if n.Prompt == "-" {
		text, err := a.ReadStdin(c.Context, 4*maxPrompt+1)
		if err != nil {
			return n, fmt.Errorf("read the prompt: %w", err)
		}
		n.Prompt = strings.TrimSpace(string(text))
	}
	switch {
	case n.Prompt == "" && len(c.StringSlice("image")) == 0:
		return n, app.Usagef("--prompt is missing; it describes the picture")
	case len([]rune(n.Prompt)) > maxPrompt || strings.ContainsRune(n.Prompt, 0):
		return n, app.Usagef("--prompt must be text of at most %d characters", maxPrompt)
	case n.Count < 1 || n.Count > store.MaxTasks:
		return n, app.Usagef("--count must be from 1 to %d", store.MaxTasks)
	case n.Cost < 0 || n.Cost > store.MaxCost:
		return n, app.Usagef("--cost must be from 0 to %d", store.MaxCost)
	case n.Priority < 0 || n.Priority > 9:
		return n, app.Usagef("--priority must be from 0 to 9")
	}
	if n.Options, err = readOptions(c); err != nil {
		return n, err
	}
	if n.RunAt, err = readTime(c.String("run-at"), c.IsSet("key")); err != nil {
		return n, err
	}
	n.Inputs, err = readInputs(c)
	return n, err
}

// readOptions merges --options and the flags of single options.
func readOptions(c *cli.Context) (json.RawMessage, error) {
	options := map[string]any{}
	if text := c.String("options"); text != "" {
		decoder := json.NewDecoder(strings.NewReader(text))
		decoder.UseNumber() // numbers are passed through as they are
		if err := decoder.Decode(&options); err != nil || options == nil || decoder.More() {
			return nil, app.Usagef(`--options must be a JSON object, for example {"background": "transparent"}`)
		}
	}
	for _, o := range optionFlags {
		value := c.String(o.flag)
		if value == "" {
			continue
		}
		if _, twice := options[o.option]; twice {
			return nil, app.Usagef("%s is given twice, by --%s and in --options", o.option, o.flag)
		}
		options[o.option] = value
	}
	if n := c.Int("max-attempts"); c.IsSet("max-attempts") {
		if n < 1 || n > 100 {
			return nil, app.Usagef("--max-attempts must be from 1 to 100")
		}
		options["max_attempts"] = n
	}
	return json.Marshal(options)
}

// checkOptions checks the options' names and values for the model, as the processor does before anything is paid.
func checkOptions(n store.EnqueueRequest, defaultModel string) error {
	var options map[string]json.RawMessage
	if err := json.Unmarshal(n.Options, &options); err != nil {
		return err
	}
	model := defaultModel
	if given, ok := options["model"]; ok {
		if err := json.Unmarshal(given, &model); err != nil {
			return app.Usagef("the option model must be text")
		}
	}
	delete(options, "model")
	delete(options, "max_attempts")
	rest, err := json.Marshal(options)
	if err != nil {
		return err
	}
	parsed, err := imageapi.ParseOptions(rest)
	if err == nil {
		pictures, mask := 0, false
		for _, in := range n.Inputs {
			if in.Mask {
				mask = true
			} else {
				pictures++
			}
		}
		err = parsed.Check(model, pictures, mask)
	}
	if err != nil {
		return app.Usagef("nothing was enqueued or charged: %w", err)
	}
	return nil
}

// readTime reads a time in RFC 3339, or a duration from now on; empty: the zero time. A repeat with a key has the same arguments only
// with a fixed time.
func readTime(text string, fixed bool) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		if fixed {
			return time.Time{}, app.Usagef("with --key, --run-at must be a time such as %s: %s from now on is another time at each repeat", exampleTime, text)
		}
		return time.Now().Add(d), nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return at, app.Usagef("--run-at must be a time such as %s, or a duration such as 2h", exampleTime)
	}
	return at, nil
}

func readInputs(c *cli.Context) ([]task.Input, error) {
	var inputs []task.Input
	add := func(flag, from string, mask bool) error {
		in, err := readInput(flag, from)
		in.Mask = mask
		inputs = append(inputs, in)
		return err
	}
	for _, from := range c.StringSlice("image") {
		if err := add("image", from, false); err != nil {
			return nil, err
		}
	}
	if from := c.String("mask"); from != "" {
		if len(inputs) == 0 {
			return nil, app.Usagef("--mask needs --image")
		}
		if err := add("mask", from, true); err != nil {
			return nil, err
		}
	}
	return inputs, nil
}

// readInput returns an input picture: a URL as it is, or the content of a file.
func readInput(flag, from string) (task.Input, error) {
	if strings.HasPrefix(from, "http://") || strings.HasPrefix(from, "https://") {
		return task.Input{URL: from}, nil
	}
	f, err := os.Open(from)
	if err != nil {
		return task.Input{}, app.Usagef("--%s: %w", flag, err)
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxInputFile+1))
	if err != nil {
		return task.Input{}, app.Usagef("--%s: %w", flag, err)
	}
	switch http.DetectContentType(content) {
	case "image/png", "image/jpeg", "image/webp":
	default:
		return task.Input{}, app.Usagef("--%s %s is not a PNG, JPEG or WebP", flag, from)
	}
	if len(content) > maxInputFile {
		return task.Input{}, app.Usagef("--%s %s is larger than %d bytes", flag, from, maxInputFile)
	}
	return task.Input{Content: content}, nil
}
