// Package simpletest is the command line of simple-test.
package simpletest

import (
	"context"
	"errors"
	"io"
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
)

// program is the application with this program's commands.
type program struct{ *app.App }

// New builds the program simple-test.
func New(core *app.App) *cli.App {
	a := program{core}
	return &cli.App{
		Name:  "simple-test",
		Usage: "checks each step of the connection to the image API and reports what fails, why, and how to fix it",
		Description: "Exit codes: 0 all steps passed; 2 wrong usage or settings; 3 a step failed.\n" +
			"It changes nothing except test-results/, where --image stores its picture.",
		Flags: append([]cli.Flag{
			&cli.BoolFlag{Name: "image", Usage: "also make one picture, in test-results/ (the API charges for it)"},
			&cli.BoolFlag{Name: "direct", Usage: "after a proxy failed, also try a direct connection to compare; without it none is made where a proxy is set"},
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
		return a.badSettings(c, err, l)
	}
	client, transport, err := apiclient.New(s)
	if err != nil {
		return a.badSettings(c, err, l)
	}
	defer transport.CloseIdleConnections()
	base, err := url.Parse(s.BaseURL)
	if err != nil {
		return a.badSettings(c, &settings.Error{Name: "OPENAI_BASE_URL", Reason: "can't be parsed"}, l)
	}
	direct, other, err := apiclient.AlternativeRoutes(s, base)
	if err != nil {
		return err
	}
	if !c.Bool("direct") {
		direct = nil
	}
	ctx, stop := a.UntilSignal(c.Context, nil)
	defer stop()
	conf := diagnosis.Config{BaseURL: base, Model: s.Model, Transport: transport, Direct: direct, Alternative: other,
		API: newAPI(s), Redact: a.Redact.String}
	if !strings.HasSuffix(s.BaseURL, "/v1") {
		conf.APIAtV1 = newAPI(atV1(s))
	}
	if c.Bool("image") {
		conf.Image = func(ctx context.Context) (diagnosis.Detail, error) { return makePicture(ctx, s, client) }
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
		return a.PrintJSON(newDocument(report))
	}
	printReport(a.Printf, report, l)
	return nil
}

// badSettings reports settings that can't be used as a failed step. The report contains the reason, so nothing is left to
// print on stderr.
func (a program) badSettings(c *cli.Context, err error, l lang.Lang) error {
	if _, ok := errors.AsType[*settings.Error](err); ok {
		if reportErr := a.report(c, diagnosis.BadSettings(a.Redact.String(err.Error())), l); reportErr != nil {
			return errors.Join(err, reportErr)
		}
		return app.ErrBadSettings
	}
	return err
}

func atV1(s settings.Settings) settings.Settings {
	s.BaseURL += "/v1"
	return s
}

// newAPI returns a function that makes a client of the API over a transport.
func newAPI(s settings.Settings) func(*proxy.Transport) diagnosis.API {
	return func(by *proxy.Transport) diagnosis.API {
		client, err := apiclient.NewWithTransport(s, by)
		if err != nil {
			return brokenAPI{err}
		}
		return client
	}
}

// brokenAPI is an API whose client could not be made.
type brokenAPI struct{ err error }

func (b brokenAPI) Check(context.Context, string) error { return b.err }

func (b brokenAPI) ListModels(context.Context) ([]string, error) { return nil, b.err }

// makePicture makes one picture in test-results/.
func makePicture(ctx context.Context, s settings.Settings, client *imageapi.Client) (diagnosis.Detail, error) {
	ctx, cancel := context.WithTimeout(ctx, s.TaskTimeout)
	defer cancel()
	dir, err := filepath.Abs("test-results")
	if err != nil {
		return diagnosis.Detail{}, err
	}
	name := "simple-test-" + time.Now().Format("20060102-150405")
	made, err := picture.Save(dir, name, s.ImageMaxBytes, func(w io.Writer) error {
		made, err := client.Generate(ctx, imageapi.Request{Prompt: "A red paper lantern by a quiet river at dusk"}, w)
		if err == nil && made.URL != "" {
			err = client.Download(ctx, made.URL, 3, w)
		}
		return err
	})
	if err != nil {
		return diagnosis.Detail{}, err
	}
	return diagnosis.Detail{Code: diagnosis.DetailPicture, Args: []any{made.Path, made.Width, made.Height}}, nil
}
