// Package app wires the parts into the four programs. It is the only one that knows the command line
// and the environment; the mains hand it their arguments and exit with its code.
package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/sirupsen/logrus"
	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"imagetasks/pkg/logging"
	"imagetasks/pkg/proxy"
	"imagetasks/pkg/redact"
	"imagetasks/pkg/settings"
)

// Version is what --version prints.
const Version = "0.1.0"

// The exit codes of all four programs.
const (
	exitDone  = 0
	exitFault = 1 // it could not do its work
	exitUsage = 2 // wrong usage or settings
	exitWrong = 3 // it did its work, and something is still wrong
)

// ErrUnhealthy means that the program did its work and found something wrong. Its text was told already.
var ErrUnhealthy = errors.New("something is still wrong")

// ErrBadSettings means that the settings can't be used. The reason was printed already.
var ErrBadSettings = errors.New("the settings can't be used")

// usageError is a mistake on the command line.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// Usagef returns a mistake on the command line, which ends the program with code 2.
func Usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// App is one of the programs with the world around it.
type App struct {
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	// Env looks a variable up; nil: there are none.
	Env func(name string) (string, bool)
	// Environ is the whole environment, for programs that this one starts.
	Environ []string
	// Signals brings SIGINT and SIGTERM; nil: none come.
	Signals <-chan os.Signal

	// Redact is the one redaction. Run makes it and Load tells it the secrets.
	Redact *redact.Redactor
}

// Program builds the command line of one of the four.
type Program func(*App) *cli.App

// Main runs a program with the process's arguments, streams and signals, and returns the exit code.
func Main(program Program) int {
	if err := hideDatabaseURL(os.Args); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		return exitFault
	}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	a := &App{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Env: os.LookupEnv, Environ: os.Environ(), Signals: signals}
	return a.Run(context.Background(), program, os.Args...)
}

// Run runs a program and returns its exit code. What goes wrong is told on Stderr, without secrets.
func (a *App) Run(ctx context.Context, program Program, args ...string) int {
	a.Redact = redact.New()
	if a.Env == nil {
		a.Env = func(string) (string, bool) { return "", false }
	}
	command := program(a)
	command.Writer, command.ErrWriter = a.Stdout, a.Stderr
	command.Version = BuildVersion()
	command.HideHelpCommand = true
	command.ExitErrHandler = func(*cli.Context, error) {}
	command.OnUsageError = func(_ *cli.Context, err error, _ bool) error { return &usageError{err} }
	for _, sub := range allCommands(command.Commands) {
		sub.OnUsageError, sub.HideHelpCommand = command.OnUsageError, true
	}
	return a.exitCode(command.RunContext(ctx, args), command.Name)
}

func allCommands(commands []*cli.Command) []*cli.Command {
	var out []*cli.Command
	for _, c := range commands {
		out = append(append(out, c), allCommands(c.Subcommands)...)
	}
	return out
}

// BuildVersion is the release, and the commit it was built from where that is known.
func BuildVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" && len(s.Value) >= 12 {
				return Version + " (" + s.Value[:12] + ")"
			}
		}
	}
	return Version
}

// exitCode tells what went wrong and returns the code for it.
func (a *App) exitCode(err error, program string) int {
	if err == nil {
		return exitDone
	}
	code := exitFault
	_, usage := errors.AsType[*usageError](err)
	_, setting := errors.AsType[*settings.Error](err)
	_, proxySetting := errors.AsType[*proxy.SettingError](err)
	switch {
	case usage:
		err = fmt.Errorf("%w\nrun %s --help to see what it takes", err, program)
		code = exitUsage
	case setting || proxySetting:
		code = exitUsage
	case errors.Is(err, ErrUnhealthy):
		return exitWrong
	case errors.Is(err, ErrBadSettings):
		return exitUsage
	}
	fmt.Fprintln(a.Stderr, "error:", a.Redact.String(err.Error()))
	return code
}

// Colors reports whether w is a terminal that wants them (https://no-color.org).
func (a *App) Colors(w io.Writer) bool {
	if v, ok := a.Env("NO_COLOR"); ok && v != "" {
		return false
	}
	return IsTerminal(w)
}

// IsTerminal reports whether w is a terminal.
func IsTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// Logger returns the program's logger, with a file of that name in LOG_DIR unless it is empty.
func (a *App) Logger(s settings.Settings, file string) (*logrus.Logger, io.Closer, error) {
	conf := logging.Config{Level: s.LogLevel, Format: s.LogFormat, Stderr: a.Stderr, Color: a.Colors(a.Stderr), Redact: a.Redact}
	if file != "" {
		conf.File = s.LogDir + string(os.PathSeparator) + file
	}
	return logging.New(conf)
}

// UntilSignal returns a context that ends at the first signal. A second one calls hurry.
func (a *App) UntilSignal(ctx context.Context, hurry func()) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		for n := 0; ; n++ {
			select {
			case <-done:
				return
			case <-a.Signals:
				cancel()
				if n > 0 && hurry != nil {
					hurry()
				}
			}
		}
	}()
	return ctx, func() {
		close(done)
		<-finished
		cancel()
	}
}

// hideDatabaseURL takes --database-url off the process list: where it stands among the arguments, the
// program starts itself again with the value in the environment, which other users can't read.
func hideDatabaseURL(args []string) error {
	kept, value := []string{}, ""
	for i := 0; i < len(args); i++ {
		name, inline, hasValue := strings.Cut(strings.TrimLeft(args[i], "-"), "=")
		if i == 0 || name != "database-url" || !strings.HasPrefix(args[i], "-") {
			kept = append(kept, args[i])
			continue
		}
		switch {
		case hasValue:
			value = inline
		case i+1 < len(args):
			i++
			value = args[i]
		}
	}
	if value == "" {
		return nil
	}
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("hide --database-url from the process list: %w (set DATABASE_URL instead)", err)
	}
	if err := os.Setenv("DATABASE_URL", value); err != nil {
		return fmt.Errorf("hide --database-url from the process list: %w", err)
	}
	if err := syscall.Exec(program, kept, os.Environ()); err != nil {
		return fmt.Errorf("hide --database-url from the process list: %w (set DATABASE_URL instead)", err)
	}
	return nil
}
