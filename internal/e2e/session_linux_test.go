package e2e_test

import (
	"io"
	"os"
	"syscall"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// session is a program that runs on a terminal, where somebody may type.
type session struct {
	*process
	keys  *os.File
	shown syncBuffer // all that was written to the terminal
}

// startSession runs a program on a terminal of that size.
func (w *fixture) startSession(columns, rows uint16, name string, args ...string) *session {
	w.t.Helper()
	master, terminal := openTerminal(w.t)
	s := &session{process: w.command(name, args...), keys: master}
	s.resize(columns, rows)
	s.Stdin, s.Stdout, s.Stderr = terminal, terminal, terminal
	s.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	require.NoError(w.t, s.Start())
	require.NoError(w.t, terminal.Close())
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		_, _ = io.Copy(&s.shown, master) // ends with EIO, when the last program closed the terminal
	}()
	go func() {
		defer close(s.done)
		_ = s.Wait()
	}()
	w.t.Cleanup(func() {
		if w.t.Failed() {
			shown := s.shown.String()
			w.t.Logf("%s showed at last: %q", s.line, shown[max(0, len(shown)-3000):])
		}
		_ = syscall.Kill(-s.Process.Pid, syscall.SIGKILL)
		<-s.done
		<-copied
		_ = master.Close()
	})
	return s
}

func (s *session) resize(columns, rows uint16) {
	s.w.t.Helper()
	require.NoError(s.w.t, unix.IoctlSetWinsize(int(s.keys.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: rows}))
}

func (s *session) typeKeys(text string) {
	s.w.t.Helper()
	_, err := s.keys.WriteString(text)
	require.NoError(s.w.t, err)
}
