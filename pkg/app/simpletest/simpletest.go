// Package simpletest is the command line of simple-test.
package simpletest

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"imagetasks/pkg/app"
	"imagetasks/pkg/app/api"
	"imagetasks/pkg/imageapi"
	"imagetasks/pkg/picture"
	"imagetasks/pkg/settings"
	"imagetasks/pkg/task"
)

// program is the application with this program's commands.
type program struct{ *app.App }

// New builds the program simple-test.
func New(core *app.App) *cli.App {
	a := program{core}
	return &cli.App{
		Name:  "simple-test",
		Usage: "shows whether the image API can be reached: 0, or 3 with the step that failed",
		Flags: append([]cli.Flag{
			&cli.BoolFlag{Name: "image", Usage: "also make one real picture, into test-results/"},
			app.JSONFlag(),
		}, app.CommonFlags()...),
		Action: a.test,
	}
}

// step is one line of simple-test.
type step struct {
	Name      string    `json:"step"`
	OK        bool      `json:"ok"`
	ErrorCode task.Code `json:"error_code,omitempty"`
	Detail    string    `json:"detail"`
	Millis    int64     `json:"ms"`
}

func (a program) test(c *cli.Context) error {
	if err := app.NoArguments(c); err != nil {
		return err
	}
	s, err := a.Load(c)
	if err != nil {
		return err
	}
	client, transport, err := api.New(s)
	if err != nil {
		return err
	}
	defer transport.CloseIdleConnections()
	ctx, stop := a.UntilSignal(c.Context, nil)
	defer stop()

	steps := []step{{Name: "settings", OK: true, Detail: "the API at " + s.BaseURL + " is reached " + api.Route(transport, s)}}
	steps = append(steps, a.try("models", func() (string, error) {
		bounded, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		return "the API answers and takes the key", client.Probe(bounded)
	}))
	if c.Bool("image") && steps[1].OK {
		steps = append(steps, a.try("image", func() (string, error) { return makeOne(ctx, s, client) }))
	}
	return a.reportSteps(c, steps)
}

// try does one step and takes its time.
func (a program) try(name string, do func() (string, error)) step {
	began := time.Now()
	detail, err := do()
	s := step{Name: name, OK: err == nil, Detail: detail, Millis: time.Since(began).Milliseconds()}
	if err != nil {
		e := task.AsError(err)
		s.ErrorCode, s.Detail = e.Code, a.Redact.String(e.Error())
	}
	return s
}

func (a program) reportSteps(c *cli.Context, steps []step) error {
	failed := false
	for _, s := range steps {
		failed = failed || !s.OK
	}
	if c.Bool("json") {
		if err := a.PrintJSON(map[string]any{"ok": !failed, "steps": steps}); err != nil {
			return err
		}
	} else {
		for _, s := range steps {
			mark := "✓"
			if !s.OK {
				mark = "✗"
			}
			a.Printf("%s %-9s %6d ms  %s\n", mark, s.Name, s.Millis, s.Detail)
		}
	}
	if failed {
		return app.ErrWrong
	}
	return nil
}

// makeOne makes one picture into test-results/ and says where it is.
func makeOne(ctx context.Context, s settings.Settings, client *imageapi.Client) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, s.TaskTimeout)
	defer cancel()
	dir, err := filepath.Abs("test-results")
	if err != nil {
		return "", err
	}
	pictures, err := picture.Open(dir, "", s.ImageMaxBytes)
	if err != nil {
		return "", err
	}
	draft, err := pictures.Create()
	if err != nil {
		return "", err
	}
	if _, err := client.Make(ctx, imageapi.Request{Prompt: "A red paper lantern by a quiet river at dusk"}, draft); err != nil {
		return "", errors.Join(err, draft.Discard())
	}
	made, err := draft.Publish(task.Lease{TaskID: "simple-test-" + time.Now().Format("20060102-150405"), Epoch: 1})
	if err != nil {
		return "", errors.Join(err, draft.Discard())
	}
	return fmt.Sprintf("%s, %d x %d pixels", made.Path, made.Width, made.Height), nil
}
