package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"imagetasks/pkg/lang"
)

// LiveView shows a picture of text on the terminal that changes. It restores the terminal whatever ends it.
type LiveView struct {
	Interval time.Duration
	// Read reads what is shown; it is called again and again by one goroutine, and its context ends when the view does.
	Read func(context.Context)
	// Draw returns the lines for a terminal of that size. It is called while Read runs.
	Draw func(columns, rows int) []string
	// Abort ends what Read still waits for a moment after the view has ended.
	Abort func()
}

const (
	showView = "\x1b[?1049h\x1b[?25l" // the alternate screen, without a cursor
	hideView = "\x1b[0m\x1b[?25h\x1b[?1049l"
	// viewTick is how often the size of the terminal is looked at, and keys are waited for at a time.
	viewTick = 200 * time.Millisecond
)

// ErrNoTerminal means that stdout is no terminal that a live view can be drawn on.
var ErrNoTerminal = errors.New("stdout is no terminal")

// ShowLive shows a view until q or Ctrl-C is pressed, or ctx ends.
func (a *App) ShowLive(ctx context.Context, v LiveView) (err error) {
	screen, ok := terminalOf(a.Stdout)
	if name, _ := a.Env("TERM"); !ok || name == "dumb" {
		return ErrNoTerminal
	}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer func() {
		cancel()
		abort := time.AfterFunc(interruptGrace, v.Abort)
		running.Wait()
		abort.Stop()
	}()
	if keys, ok := a.Stdin.(*os.File); ok && term.IsTerminal(int(keys.Fd())) {
		before, err := term.MakeRaw(int(keys.Fd()))
		if err != nil {
			return fmt.Errorf("read keys from the terminal: %w", err)
		}
		defer func() { err = errors.Join(err, term.Restore(int(keys.Fd()), before)) }()
		running.Go(func() { readKeys(ctx, keys, cancel) })
	}
	if _, err := io.WriteString(a.Stdout, showView); err != nil {
		return err
	}
	defer func() {
		_, writeErr := io.WriteString(a.Stdout, hideView)
		err = errors.Join(err, writeErr)
	}()
	changed := make(chan struct{}, 1)
	running.Go(func() { v.readUntil(ctx, changed) })
	return a.drawUntil(ctx, v, int(screen.Fd()), changed)
}

// readUntil reads again after each interval, and says when it has.
func (v LiveView) readUntil(ctx context.Context, changed chan<- struct{}) {
	tick := time.NewTicker(v.Interval)
	defer tick.Stop()
	for {
		v.Read(ctx)
		select {
		case changed <- struct{}{}:
		default:
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// drawUntil draws what was read, and again when the size of the terminal changes.
func (a *App) drawUntil(ctx context.Context, v LiveView, fd int, changed <-chan struct{}) error {
	tick := time.NewTicker(viewTick)
	defer tick.Stop()
	columns, rows := 0, 0
	for {
		width, height, err := term.GetSize(fd)
		if err != nil {
			return fmt.Errorf("the size of the terminal: %w", err)
		}
		redraw := width != columns || height != rows
		columns, rows = width, height
		select {
		case <-changed:
			redraw = true
		default:
		}
		if redraw && columns > 0 && rows > 0 {
			if _, err := a.Stdout.Write(frame(v.Draw(columns, rows), columns, rows)); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// frame is what draws lines from the top of the screen, each cut to its width.
func frame(lines []string, columns, rows int) []byte {
	var b bytes.Buffer
	b.WriteString("\x1b[H")
	for i, line := range lines[:min(len(lines), rows)] {
		if i > 0 {
			b.WriteString("\r\n")
		}
		b.WriteString(cut(line, columns) + "\x1b[0m\x1b[K")
	}
	b.WriteString("\x1b[J")
	return b.Bytes()
}

// cut cuts a line to a width in terminal columns. Colors take none, and other control characters are not written.
func cut(line string, columns int) string {
	var b strings.Builder
	width := 0
	for i := 0; i < len(line); {
		if code := colorCode(line[i:]); code != "" {
			b.WriteString(code)
			i += len(code)
			continue
		}
		r, size := utf8.DecodeRuneInString(line[i:])
		i += size
		if unicode.IsControl(r) {
			r = ' '
		}
		if width += lang.Width(string(r)); width <= columns {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// colorCode returns the color that a text begins with; "" for none.
func colorCode(text string) string {
	rest, ok := strings.CutPrefix(text, "\x1b[")
	if !ok {
		return ""
	}
	if end := strings.IndexFunc(rest, func(r rune) bool { return (r < '0' || r > '9') && r != ';' }); end >= 0 && rest[end] == 'm' {
		return text[:len("\x1b[")+end+1]
	}
	return ""
}

// readKeys calls quit when q or Ctrl-C is pressed, or the terminal is gone.
func readKeys(ctx context.Context, keys *os.File, quit func()) {
	defer quit()
	key := make([]byte, 64)
	for ctx.Err() == nil {
		ready, err := unix.Poll([]unix.PollFd{{Fd: int32(keys.Fd()), Events: unix.POLLIN}}, int(viewTick.Milliseconds()))
		if errors.Is(err, unix.EINTR) || err == nil && ready == 0 {
			continue
		}
		if err != nil {
			return
		}
		n, err := keys.Read(key)
		if err != nil || bytes.ContainsAny(key[:n], "qQ\x03") {
			return
		}
	}
}
