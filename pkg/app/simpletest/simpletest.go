// Package simpletest is the command line of simple-test.
package simpletest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"imagetasks/pkg/app"
	"imagetasks/pkg/app/apiclient"
	"imagetasks/pkg/diagnosis"
	"imagetasks/pkg/imageapi"
	"imagetasks/pkg/lang"
	"imagetasks/pkg/picture"
	"imagetasks/pkg/proxy"
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
		Usage: "goes the way to the image API step by step, and says which link is broken, why, and what mends it",
		Description: "Exit codes: 0 all steps passed; 2 wrong usage or settings; 3 a step failed.\n" +
			"It changes nothing but test-results/, where --image puts its picture.",
		Flags: append([]cli.Flag{
			&cli.BoolFlag{Name: "image", Usage: "also make one real picture, into test-results/ (the API charges for it)"},
			app.JSONFlag(),
		}, app.CommonFlags()...),
		Action: a.test,
	}
}

func (a program) test(c *cli.Context) error {
	if err := app.NoArguments(c); err != nil {
		return err
	}
	l, err := a.Lang(c)
	if err != nil {
		return err
	}
	s, err := a.Load(c)
	if err != nil {
		return a.refused(c, err, l)
	}
	client, transport, err := apiclient.New(s)
	if err != nil {
		return a.refused(c, err, l)
	}
	defer transport.CloseIdleConnections()
	base, err := url.Parse(s.BaseURL)
	if err != nil {
		return a.refused(c, &settings.Error{Name: "OPENAI_BASE_URL", Reason: "can't be parsed"}, l)
	}
	direct, other, err := apiclient.AlternativeRoutes(s, base)
	if err != nil {
		return err
	}
	ctx, stop := a.UntilSignal(c.Context, nil)
	defer stop()
	conf := diagnosis.Config{BaseURL: base, Model: s.Model, Transport: transport, Direct: direct, Other: other,
		API: asker(s), Lang: l, Redact: a.Redact.String}
	if !strings.HasSuffix(s.BaseURL, "/v1") {
		conf.AtV1 = asker(atV1(s))
	}
	if c.Bool("image") {
		conf.Image = func(ctx context.Context) (string, error) { return makeOne(ctx, s, client) }
	}
	report := diagnosis.Run(ctx, conf)
	if ctx.Err() != nil {
		return app.ErrInterrupted
	}
	if err := a.report(c, report, l); err != nil {
		return err
	}
	if !report.OK {
		return app.ErrUnhealthy
	}
	return nil
}

func (a program) report(c *cli.Context, report diagnosis.Report, l lang.Lang) error {
	if c.Bool("json") {
		return a.PrintJSON(report)
	}
	report.Print(a.Printf, l)
	return nil
}

// refused reports settings that can't be used, and returns the error.
func (a program) refused(c *cli.Context, err error, l lang.Lang) error {
	_, bad := errors.AsType[*settings.Error](err)
	_, badProxy := errors.AsType[*proxy.SettingError](err)
	if bad || badProxy {
		return errors.Join(err, a.report(c, diagnosis.Refused(a.Redact.String(err.Error()), l), l))
	}
	return err
}

func atV1(s settings.Settings) settings.Settings {
	s.BaseURL += "/v1"
	return s
}

// asker returns what asks the API by a given way.
func asker(s settings.Settings) func(*proxy.Transport) diagnosis.API {
	return func(by *proxy.Transport) diagnosis.API {
		client, err := apiclient.NewOver(s, by)
		if err != nil {
			return unable{err}
		}
		return client
	}
}

// unable is an API that can't be asked.
type unable struct{ err error }

func (u unable) ListModels(context.Context) ([]string, error) { return nil, u.err }

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
	if _, err := client.Generate(ctx, imageapi.Request{Prompt: "A red paper lantern by a quiet river at dusk"}, draft); err != nil {
		return "", errors.Join(err, draft.Discard())
	}
	made, err := draft.Publish(task.Lease{TaskID: "simple-test-" + time.Now().Format("20060102-150405"), Epoch: 1})
	if err != nil {
		return "", errors.Join(err, draft.Discard())
	}
	return fmt.Sprintf("%s, %d x %d pixels", made.Path, made.Width, made.Height), nil
}
