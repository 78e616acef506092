package app

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/sirupsen/logrus"
	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"imagetasks/pkg/app/usage"
	"imagetasks/pkg/lang"
	"imagetasks/pkg/logging"
	"imagetasks/pkg/settings"
)

// PrintJSON writes a document to stdout. A program prints one at most.
func (a *App) PrintJSON(v any) error {
	a.printedJSON = true
	enc := json.NewEncoder(a.Stdout)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// Printf writes to stdout, without what would control the terminal. The program fails if that was not possible: a file would lack, for example,
// the ids of tasks.
func (a *App) Printf(format string, args ...any) {
	if _, err := io.WriteString(a.Stdout, lang.Printable(fmt.Sprintf(format, args...))); err != nil && a.unprinted == nil {
		a.unprinted = fmt.Errorf("the output could not be written: %w", err)
	}
}

// Print writes a line to stdout in the operator's language; with --json it writes {"message": "…"}.
func (a *App) Print(c *cli.Context, text lang.Text, args ...any) error {
	l, err := a.Lang(c)
	if err != nil {
		return err
	}
	if wantsJSON(c) {
		return a.PrintJSON(map[string]string{"message": text.In(l, args...)})
	}
	a.Printf("%s\n", text.In(l, args...))
	return nil
}

// Message returns the text of an error in the language of the output.
func (a *App) Message(text string) string { return usage.Message(text, a.language) }

// Warn prints a warning to stderr, without secrets.
func (a *App) Warn(text string) {
	fmt.Fprintln(a.Stderr, textWarning.In(a.language, a.Redact.String(a.Message(text))))
}

// Colors reports whether text for w is to be coloured: w is a terminal and NO_COLOR is not set (https://no-color.org).
func (a *App) Colors(w io.Writer) bool {
	if v, ok := a.Env("NO_COLOR"); ok && v != "" {
		return false
	}
	return IsTerminal(w)
}

// IsTerminal reports whether w is a terminal.
func IsTerminal(w io.Writer) bool {
	_, ok := terminalOf(w)
	return ok
}

// terminalOf returns the terminal that w writes to.
func terminalOf(w io.Writer) (*os.File, bool) {
	if e, ok := w.(*encodedWriter); ok {
		w = e.w
	}
	f, ok := w.(*os.File)
	return f, ok && term.IsTerminal(int(f.Fd()))
}

// Logger returns the program's logger. Unless file is empty, it also writes to the file of that name in LOG_DIR.
func (a *App) Logger(s settings.Settings, file string) (*logrus.Logger, io.Closer, error) {
	return a.logger(s, file, a.Stderr)
}

// FileLogger is Logger that writes to stderr only while the file can't be written.
func (a *App) FileLogger(s settings.Settings, file string) (*logrus.Logger, io.Closer, error) {
	return a.logger(s, file, nil)
}

func (a *App) logger(s settings.Settings, file string, stderr io.Writer) (*logrus.Logger, io.Closer, error) {
	conf := logging.Config{Level: s.LogLevel, Format: s.LogFormat, Stderr: stderr, Color: a.Colors(stderr), Fallback: a.Stderr, Redact: a.Redact}
	if file != "" {
		conf.File = s.LogDir + string(os.PathSeparator) + file
	}
	return logging.New(conf)
}
