package e2e_test

import (
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"imagetasks/pkg/lang"
)

// escape matches what moves the cursor, erases, or sets a color.
var escape = regexp.MustCompile(`\x1b\[[?0-9;]*[A-Za-z]`)

// frames returns the pictures that top has drawn, without their colors.
func (s *session) frames() (all []string) {
	for i, text := range strings.Split(s.shown.String(), "\x1b[H") {
		if i > 0 && strings.Contains(text, "\x1b[J") { // whole
			text, _, _ = strings.Cut(text, "\x1b[J")
			all = append(all, strings.ReplaceAll(escape.ReplaceAllString(text, ""), "\r\n", "\n"))
		}
	}
	return all
}

func (s *session) lastFrame() string {
	all := s.frames()
	if len(all) == 0 {
		return ""
	}
	return all[len(all)-1]
}

// requireSize requires that a picture fits the terminal.
func requireSize(t *testing.T, picture string, columns, rows int) {
	t.Helper()
	lines := strings.Split(picture, "\n")
	require.LessOrEqual(t, len(lines), rows, picture)
	for _, line := range lines {
		require.LessOrEqual(t, lang.Width(line), columns, line)
	}
}

// What top shows follows the queue, fits the terminal, and is gone afterwards.
func TestTop(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.env["LOG_DIR"], w.env["TERM"] = w.dir, "xterm"
	w.grant(10)
	w.enqueue("a lantern", "--count", "2")
	s := w.startSession(80, 24, "task-processor", "top", "--interval", "1s", "--lang", "en")
	before, err := unix.IoctlGetTermios(int(s.keys.Fd()), unix.TCGETS)
	require.NoError(t, err)
	for _, want := range []string{"2 due, oldest due for", "no processor"} {
		w.waitFor(want, func() bool { return strings.Contains(s.lastFrame(), want) })
	}
	requireSize(t, s.lastFrame(), 80, 24)

	p := w.start("task-processor", "run", "--status-addr", "127.0.0.1:0")
	w.statusOf(p)
	failed := w.enqueue("[moderation] x")[0]
	w.waitFor("it follows", func() bool {
		last := s.lastFrame()
		return strings.Contains(last, "2 completed") && strings.Contains(last, "failures") && strings.Contains(last, "moderation_blocked") && strings.Contains(last, failed)
	})
	for _, want := range []string{`processor +.*processing 0/3`, `circuits +✓ `} {
		w.waitFor(want, func() bool { return regexp.MustCompile(want).MatchString(s.lastFrame()) })
	}
	s.resize(40, 10)
	w.waitFor("it fits", func() bool {
		last := s.lastFrame()
		return len(strings.Split(last, "\n")) <= 10 && lang.Width(strings.Split(last, "\n")[0]) <= 40
	})
	requireSize(t, s.lastFrame(), 40, 10)
	w.run("task-processor", "pause", "--reason", "a test").ok()
	w.waitFor("the pause is shown", func() bool { return strings.Contains(s.lastFrame(), "paused") })
	s.typeKeys("q")
	w.waitFor("q ends it", s.ended)
	assert.Equal(t, 0, s.ProcessState.ExitCode())
	assert.Contains(t, s.shown.String(), "\x1b[?1049l", "the screen of before is back")
	after, err := unix.IoctlGetTermios(int(s.keys.Fd()), unix.TCGETS)
	require.NoError(t, err)
	assert.Equal(t, before.Lflag|unix.ICANON|unix.ECHO, after.Lflag|unix.ICANON|unix.ECHO)
	assert.NotZero(t, after.Lflag&unix.ECHO, "what is typed is echoed")
	p.stop(syscall.SIGTERM).ok()
}

// Whatever ends top, the terminal is as before. A database that is gone is shown, and does not delay the end.
func TestTop_Ends(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*session){
		"Ctrl-C":  func(s *session) { s.typeKeys("\x03") },
		"SIGTERM": func(s *session) { _ = s.Process.Signal(syscall.SIGTERM) },
		"SIGINT":  func(s *session) { _ = s.Process.Signal(syscall.SIGINT) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newFixture(t)
			w.env["TERM"] = "xterm"
			s := w.startSession(80, 24, "task-processor", "top", "--interval", "1s", "--lang", "zh")
			w.waitFor("it is shown", func() bool { return strings.Contains(s.lastFrame(), "队列") })
			requireSize(t, s.lastFrame(), 80, 24)
			w.exec(`alter table imagetasks.tasks rename to moved`)
			w.waitFor("the error is shown", func() bool {
				return strings.Contains(s.lastFrame(), "! ") && strings.Contains(s.lastFrame(), "imagetasks.tasks")
			})
			assert.Contains(t, s.lastFrame(), "队列", "what was read before stays")
			w.exec(`alter table imagetasks.moved rename to tasks`)
			end(s)
			w.waitFor("it ends", s.ended)
			assert.Equal(t, 0, s.ProcessState.ExitCode())
			assert.True(t, strings.HasSuffix(s.shown.String(), "\x1b[?1049l"), "%q", s.shown.String()[max(0, len(s.shown.String())-200):])
			after, err := unix.IoctlGetTermios(int(s.keys.Fd()), unix.TCGETS)
			require.NoError(t, err)
			assert.NotZero(t, after.Lflag&unix.ECHO)
		})
	}
}

func TestTop_WithoutATerminal(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	r := w.run("task-processor", "top")
	r.is(2)
	assert.Contains(t, r.stderr, "task-processor status")
	w.env["TERM"] = "dumb"
	output, code := w.onTerminal("", "task-processor", "top")
	assert.Equal(t, 2, code)
	assert.Contains(t, output, "task-processor status")
}
