// Package simpletest is the command line of simple-test.
package simpletest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"imagetasks/pkg/app"
	"imagetasks/pkg/app/alerts"
	"imagetasks/pkg/app/apiclient"
	"imagetasks/pkg/diagnosis"
	"imagetasks/pkg/endpoint"
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
			&cli.StringFlag{Name: "endpoint", Usage: "check only the endpoint of this `NAME`; default: each one of imagetasks.toml"},
			&cli.BoolFlag{Name: "image", Usage: "also make one picture with each endpoint that is checked, in test-results/ (the API charges for it)"},
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
	told, err := alerts.New(a.App, c, s)
	if err != nil {
		return a.badSettings(c, err, l)
	}
	told.Close()
	endpoints, err := apiclient.New(s)
	if err != nil {
		return a.badSettings(c, err, l)
	}
	defer endpoints.CloseIdleConnections()
	if warning := endpoints.WithoutDefault(s); warning != "" {
		a.Warn(warning)
	}
	if name := c.String("endpoint"); name != "" {
		e, ok := endpoints.Named(name)
		if !ok {
			return app.Usagef("--endpoint: there is no endpoint %q; there are: %s", name, strings.Join(endpoints.Names(), ", "))
		}
		endpoints = apiclient.Set{e}
	}
	ctx, stop := a.UntilSignal(c.Context, nil)
	defer stop()
	var reports []endpointReport
	for _, e := range endpoints {
		report, err := a.diagnose(ctx, c, s, e, len(endpoints) > 1)
		if err != nil {
			return err
		}
		r := endpointReport{Endpoint: e.Name, Report: report}
		if len(s.Endpoints) > 0 {
			r.names.keyEnv = e.KeyEnv
		}
		reports = append(reports, r)
	}
	if ctx.Err() != nil {
		return app.ErrInterrupted
	}
	if err := a.report(c, reports, l); err != nil {
		return err
	}
	if slices.ContainsFunc(reports, func(r endpointReport) bool { return !r.OK }) {
		return app.ErrUnhealthy
	}
	return nil
}

// diagnose checks the connection to one endpoint.
func (a program) diagnose(ctx context.Context, c *cli.Context, s settings.Settings, e *apiclient.Endpoint, several bool) (diagnosis.Report, error) {
	base, err := url.Parse(e.BaseURL)
	if err != nil {
		return diagnosis.Report{}, fmt.Errorf("the base URL of the endpoint %s can't be parsed", e.Name)
	}
	base.RawQuery = "" // it may hold a secret
	direct, other, err := apiclient.AlternativeRoutes(s, e.Endpoint, base)
	if err != nil {
		return diagnosis.Report{}, err
	}
	if !c.Bool("direct") {
		direct = nil
	}
	conf := diagnosis.Config{BaseURL: base, Model: e.Model, Chat: e.Mode == endpoint.Chat, Transport: e.Transport, Direct: direct, Alternative: other,
		API: newAPI(s, e.Endpoint), Redact: a.Redact.String}
	// Without a path the client finds a missing /v1 itself.
	if base.Path != "" && !strings.HasSuffix(base.Path, "/v1") {
		conf.APIAtV1 = newAPI(s, atV1(e.Endpoint))
	}
	if c.Bool("image") {
		name := "simple-test-" + time.Now().Format("20060102-150405")
		if several {
			name += "-" + e.Name
		}
		conf.Image = func(ctx context.Context) (diagnosis.Detail, error) { return makePicture(ctx, s, e.Client, name) }
	}
	return diagnosis.Run(ctx, conf), nil
}

func (a program) report(c *cli.Context, reports []endpointReport, l lang.Lang) error {
	if c.Bool("json") {
		return a.PrintJSON(newDocument(reports))
	}
	for i, r := range reports {
		if len(reports) > 1 {
			if i > 0 {
				a.Printf("\n")
			}
			a.Printf("%s\n", r.Endpoint)
		}
		printReport(a.Printf, r, l)
	}
	return nil
}

// badSettings reports settings that can't be used as a failed step. The report contains the reason, so nothing is left to
// print on stderr.
func (a program) badSettings(c *cli.Context, err error, l lang.Lang) error {
	if _, ok := errors.AsType[*settings.Error](err); ok {
		if reportErr := a.report(c, []endpointReport{{Report: diagnosis.BadSettings(a.Redact.String(err.Error()))}}, l); reportErr != nil {
			return errors.Join(err, reportErr)
		}
		return app.ErrBadSettings
	}
	return err
}

func atV1(e endpoint.Endpoint) endpoint.Endpoint {
	address, query, found := strings.Cut(e.BaseURL, "?")
	e.BaseURL = address + "/v1"
	if found {
		e.BaseURL += "?" + query
	}
	return e
}

// newAPI returns a function that makes a client of an endpoint over a transport.
func newAPI(s settings.Settings, e endpoint.Endpoint) func(*proxy.Transport) diagnosis.API {
	return func(by *proxy.Transport) diagnosis.API {
		client, err := apiclient.NewClient(s, e, by)
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
func makePicture(ctx context.Context, s settings.Settings, client *imageapi.Client, name string) (diagnosis.Detail, error) {
	ctx, cancel := context.WithTimeout(ctx, s.TaskTimeout)
	defer cancel()
	dir, err := filepath.Abs("test-results")
	if err != nil {
		return diagnosis.Detail{}, err
	}
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
