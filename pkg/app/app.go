// Package app holds what the four programs share: flags and environment, signals, exit codes, output and the connection to the
// database. Its subpackages are the programs. Only they know the command line and the environment.
package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"unicode"
	"unicode/utf8"

	"github.com/urfave/cli/v2"

	"imagetasks/pkg/app/usage"
	"imagetasks/pkg/lang"
	"imagetasks/pkg/redact"
	"imagetasks/pkg/store"
	"imagetasks/pkg/supervise"
)

// The exit codes of all four programs.
const (
	exitDone  = 0
	exitFault = 1 // it could not do its work, or was interrupted before
	exitUsage = 2 // wrong usage or settings
	exitWrong = 3 // it did its work, and something is still wrong
)

// ErrUnhealthy means that the program did its work and found something wrong, which it has printed.
var ErrUnhealthy = errors.New("something is still wrong")

// ErrBadSettings means that the settings can't be used. The reason was printed already.
var ErrBadSettings = errors.New("the settings can't be used")

// ErrInterrupted means that a signal ended the program before it did its work. A command may wrap it to add what is left to do.
var ErrInterrupted = errors.New("interrupted")

// usageError is an error on the command line.
type usageError struct {
	err    error
	format string // of err, to be translated; empty: err translates itself
	args   []any
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// In returns the error in a language.
func (e *usageError) In(l lang.Lang) string {
	if e.format == "" {
		return lang.ErrorIn(e.err, l)
	}
	return lang.ErrorIn(lang.Errorf(lang.Text{EN: e.format, ZH: usage.Translate(e.format, lang.ZH)}, e.args...), l)
}

// Usagef returns an error on the command line, for which the program exits with code 2. Package usage has its format in Chinese.
func Usagef(format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...), format, args}
}

// App is one of the programs with its streams and environment. Its methods are for one goroutine.
type App struct {
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	// Env looks up a variable; nil: none is set.
	Env func(name string) (string, bool)
	// Setenv sets a variable of this process that the Go runtime reads itself; nil: none is set.
	Setenv func(name, value string) error
	// Environ is the environment of programs that this one starts.
	Environ []string
	// Signals delivers SIGINT, SIGTERM and supervise.PlannedStop; nil: none.
	Signals <-chan os.Signal
	// Hangups returns a channel that delivers SIGHUP from now on, until stop is called; nil: none is delivered.
	Hangups func() (c <-chan os.Signal, stop func())

	// Redact hides secrets in everything that is printed or stored. Run makes it, and Load adds the secrets.
	Redact *redact.Redactor

	language     lang.Lang                        // of the output
	charset      charset                          // of the terminal
	variable     func(name string) (string, bool) // see Variable
	supabaseHint string                           // what to do where DATABASE_URL is missing
	quiet        bool                             // --quiet is set: cron would mail warnings at each pass
	warnedOfURL  atomic.Bool                      // warnOfURL has printed
	interrupted  atomic.Bool                      // a signal has come
	printedJSON  bool                             // PrintJSON was called
	unprinted    error                            // the first error of Printf
}

// hangups returns a channel that delivers SIGHUP, which ends a program that does not call it. One is enough: reading the
// settings once serves all signals that came before.
func hangups() (<-chan os.Signal, func()) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGHUP)
	return c, func() { signal.Stop(c) }
}

// Program returns the command line of one of the programs.
type Program func(*App) *cli.App

// Main runs a program with the process's arguments, streams and signals, and returns the exit code.
func Main(program Program) int {
	if err := hideDatabaseURL(os.Args); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		return exitFault
	}
	log.SetOutput(withoutContent{os.Stderr})
	signals := make(chan os.Signal, 3)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, supervise.PlannedStop)
	defer signal.Stop(signals)
	a := &App{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Env: os.LookupEnv, Setenv: os.Setenv, Environ: os.Environ(), Signals: signals, Hangups: hangups}
	return a.Run(context.Background(), program, os.Args...)
}

// Run runs a program and returns its exit code. It prints an error on Stderr, without secrets.
func (a *App) Run(ctx context.Context, program Program, args ...string) int {
	a.Redact = redact.New()
	if a.Env == nil {
		a.Env = func(string) (string, bool) { return "", false }
	}
	args = slices.Clone(args[min(1, len(args)):])
	a.charset = environmentCharset(a.Env)
	for i := range args {
		args[i] = a.charset.decode(args[i])
	}
	wantJSON := wantsJSONArgs(args)
	if a.Stderr = encoded(a.Stderr, a.charset); !wantJSON { // JSON is UTF-8 always
		a.Stdout = encoded(a.Stdout, a.charset)
	}
	command := program(a)
	a.addCommands(command)
	if a.language = lang.FromEnvironment(a.Env); a.charset == ascii {
		a.language = lang.EN
	}
	if done, err := usage.Complete(a.Stdout, command, args, a.language); done {
		return a.exitCode(err, usage.Line{Program: command}, false)
	}
	line := usage.Read(command, args)
	err := a.setLanguage(line, wantJSON)
	if err == nil {
		err = a.runLine(ctx, line, wantJSON)
	}
	if err == nil {
		err = a.unprinted
	}
	return a.exitCode(err, line, wantJSON)
}

// runLine shows what --help and --version ask for, or runs the command that a line names.
func (a *App) runLine(ctx context.Context, line usage.Line, wantJSON bool) error {
	switch {
	case line.Help:
		return a.printHelp(usage.HelpText(line, a.language), wantJSON)
	case line.Version:
		return a.printVersion(line.Program.Name, wantJSON)
	case line.Err != nil:
		return &usageError{err: line.Err}
	}
	command := line.Program
	command.Writer, command.ErrWriter = a.Stdout, a.Stderr
	command.HideHelp, command.HideVersion = true, true
	command.DisableSliceFlagSeparator = true // ids and URLs may contain commas
	command.ExitErrHandler = func(*cli.Context, error) {}
	command.OnUsageError = func(_ *cli.Context, err error, _ bool) error { return &usageError{err: usage.ValueError(err)} }
	for _, sub := range allCommands(command.Commands) {
		sub.OnUsageError, sub.HideHelp = command.OnUsageError, true
	}
	return command.RunContext(ctx, append([]string{command.Name}, line.Args...))
}

// setLanguage sets the language that a line of arguments or the environment names; with --json, and where the character set has no Chinese, it is English.
func (a *App) setLanguage(line usage.Line, wantJSON bool) error {
	if wantJSON {
		a.language = lang.EN
	}
	text, given := line.Value("lang")
	if !given {
		return nil
	}
	l, err := lang.Parse(text)
	if err != nil {
		return Usagef("--%s: %v", "lang", err)
	}
	if !wantJSON && a.charset != ascii {
		a.language = l
	}
	return nil
}

func allCommands(commands []*cli.Command) []*cli.Command {
	var out []*cli.Command
	for _, c := range commands {
		out = append(append(out, c), allCommands(c.Subcommands)...)
	}
	return out
}

// exitCode prints what went wrong, and returns the code for it. Where wantJSON is set and no document was printed yet, it
// prints one to stdout as well.
func (a *App) exitCode(err error, line usage.Line, wantJSON bool) int {
	if err == nil {
		return exitDone
	}
	switch code, _ := a.errorCode(err); {
	case code == "usage":
		err = lang.Errorf(textSeeHelp, err, line.Name())
	case code == "interrupted" && !errors.Is(err, ErrInterrupted):
		err = ErrInterrupted // what failed is a consequence of the interrupt
	}
	detail := a.ErrorDetail(err)
	if detail.ExitCode != exitWrong && !errors.Is(err, ErrBadSettings) {
		fmt.Fprintln(a.Stderr, textError.In(a.language, a.Redact.String(a.Message(lang.ErrorIn(err, a.language)))))
	}
	if wantJSON && !a.printedJSON {
		// A stdout that can't be written to leaves nowhere to report that.
		_ = a.PrintJSON(errorDocument{Error: detail})
	}
	return detail.ExitCode
}

var (
	textError   = lang.Text{EN: "error: %s", ZH: "错误：%s"}
	textWarning = lang.Text{EN: "warning: %s", ZH: "警告：%s"}
	textSeeHelp = lang.Text{EN: "%w\nrun %s --help for its options", ZH: "%w\n运行 %s --help 查看其选项"}
)

// errorDocument is what a program prints on stdout with --json when it fails.
type errorDocument struct {
	Error ErrorDetail `json:"error"`
}

// ErrorDetail is why a program failed, as documents show it.
type ErrorDetail struct {
	Code     string `json:"code"`    // see docs/json.md
	Message  string `json:"message"` // in English, without secrets
	ExitCode int    `json:"exit_code"`
}

// wantsJSONArgs reports whether --json stands among the arguments. It looks at them itself because a document is due after
// a mistake on the command line too.
func wantsJSONArgs(args []string) bool {
	for _, arg := range args {
		switch name, value, _ := strings.Cut(arg, "="); {
		case arg == "--":
			return false
		case name == "--json" || name == "-json":
			on, err := strconv.ParseBool(value)
			return value == "" || on || err != nil
		}
	}
	return false
}

// UntilSignal returns a context that ends at the first signal. At each further one but supervise.PlannedStop it calls stopNow,
// unless that is nil. The caller calls stop when its work is done.
func (a *App) UntilSignal(ctx context.Context, stopNow func()) (_ context.Context, stop context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		for n := 0; ; {
			select {
			case <-done:
				return
			case s := <-a.Signals:
				a.interrupted.Store(true)
				cancel()
				if s == supervise.PlannedStop {
					continue
				}
				if n++; n > 1 && stopNow != nil {
					stopNow()
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

// ReadStdin reads stdin to its end, at most limit bytes, or until a signal comes. A read cannot be interrupted: its goroutine
// then remains until the program exits.
func (a *App) ReadStdin(ctx context.Context, limit int64) ([]byte, error) {
	ctx, stop := a.UntilSignal(ctx, nil)
	defer stop()
	type result struct {
		text []byte
		err  error
	}
	read := make(chan result, 1)
	go func() {
		text, err := io.ReadAll(io.LimitReader(a.Stdin, limit))
		read <- result{text, err}
	}()
	select {
	case r := <-read:
		return []byte(a.charset.decode(string(r.text))), r.err
	case <-ctx.Done():
		return nil, ErrInterrupted
	}
}

// UserID checks a user's id: any text that the application's users have as their id.
func UserID(text string) (string, error) {
	if text == "" {
		return "", Usagef("--user is missing; it takes the user's id")
	}
	if utf8.RuneCountInString(text) > store.MaxID || !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) {
		return "", Usagef("--user must be text of at most %d characters without control characters", store.MaxID)
	}
	return text, nil
}
