package taskprocessor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/sirupsen/logrus"
	"github.com/urfave/cli/v2"

	"imagetasks/internal/demo"
	"imagetasks/pkg/app"
	"imagetasks/pkg/app/apiclient"
	"imagetasks/pkg/logging"
	"imagetasks/pkg/settings"
)

func demoCommand(a program) *cli.Command {
	return &cli.Command{
		Name: "demo", Usage: "show the whole system on this machine, in under two minutes", Action: a.demo,
		Description: "Starts a private PostgreSQL under var/ and processes sample tasks; the pictures are stored on disk. API and proxy are " +
			"simulated unless OPENAI_API_KEY is set. No process is left running.",
		Flags: append([]cli.Flag{&cli.StringFlag{Name: "dir", Usage: "`DIRECTORY` for the database, the pictures and the log", Value: filepath.Join("var", "demo")}}, app.CommonFlags()...),
	}
}

func (a program) demo(c *cli.Context) error {
	if err := app.NoArguments(c); err != nil {
		return err
	}
	s, err := a.Load(c)
	if err != nil {
		return err
	}
	dir, err := filepath.Abs(c.String("dir"))
	if err != nil {
		return err
	}
	l, err := a.Lang(c)
	if err != nil {
		return err
	}
	conf := demo.Config{Lang: l, Dir: dir, Out: a.Stdout, Terminal: app.IsTerminal(a.Stdout), Redact: a.Redact, LogFile: filepath.Join(dir, processorLog)}
	if s.APIKey != "" || len(s.Endpoints) > 0 {
		endpoints, err := apiclient.New(s)
		if err != nil {
			return err
		}
		defer endpoints.CloseIdleConnections()
		conf.API, conf.APIRoute = endpoints[0].Client, endpoints[0].Route()
	}
	log, closer, err := a.demoLog(s, conf.LogFile)
	if err != nil {
		return err
	}
	defer closer()
	conf.Log = log
	ctx, stop := a.UntilSignal(c.Context, nil)
	defer stop()
	if err := demo.Run(ctx, conf); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("%w; the demo left no processes running", app.ErrInterrupted)
		}
		if errors.Is(err, demo.ErrUnexpected) {
			a.Printf("%v; see %s\n", err, conf.LogFile)
			return app.ErrUnhealthy
		}
		return err
	}
	return nil
}

// demoLog returns a logger for this run, to the file only: the terminal shows the progress bar and the result.
func (a program) demoLog(s settings.Settings, file string) (logrus.FieldLogger, func(), error) {
	if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, nil, err
	}
	log, closer, err := logging.New(logging.Config{Level: s.LogLevel, Format: s.LogFormat, File: file, Redact: a.Redact})
	if err != nil {
		return nil, nil, err
	}
	return log, func() { _ = closer.Close() }, nil
}
