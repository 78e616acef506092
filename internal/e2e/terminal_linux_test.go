package e2e_test

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// openTerminal returns the two ends of a pseudo-terminal.
func openTerminal(t testing.TB) (master, terminal *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	require.NoError(t, err)
	require.NoError(t, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	require.NoError(t, err)
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	require.NoError(t, err)
	return master, terminal
}

// onTerminal runs a program on a terminal where somebody types, and returns what it shows there and the exit code.
func (w *fixture) onTerminal(typed, name string, args ...string) (output string, code int) {
	w.t.Helper()
	master, terminal := openTerminal(w.t)
	p := w.command(name, args...)
	p.Stdin, p.Stdout, p.Stderr = terminal, terminal, terminal
	p.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	require.NoError(w.t, p.Start())
	require.NoError(w.t, terminal.Close())
	_, err := master.WriteString(typed)
	require.NoError(w.t, err)
	shown, err := io.ReadAll(master)
	require.ErrorIs(w.t, err, syscall.EIO, "that is how a terminal ends")
	if err := p.Wait(); err != nil {
		require.IsType(w.t, &exec.ExitError{}, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.outputs.Write(shown)
	require.NoError(w.t, master.Close())
	return string(shown), p.ProcessState.ExitCode()
}

// SIGHUP makes a processor on a terminal read its env file again. When the terminal is closed, it stops gracefully.
func TestHangup_OnATerminal(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.env["LOG_DIR"] = w.dir
	w.moveToEnvFile(map[string]string{"OPENAI_API_KEY": apiKey})
	master, terminal := openTerminal(t)
	p := w.command("task-processor", "run")
	p.Stdin, p.Stdout, p.Stderr = terminal, terminal, terminal
	p.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	// Where the tests run under nohup, the program would inherit that SIGHUP is ignored; a signal that is caught has its default again after exec.
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	require.NoError(t, p.Start())
	signal.Stop(hangups)
	require.NoError(t, terminal.Close())
	go func() {
		defer close(p.done)
		_ = p.Wait()
	}()
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(w.file("task-processor.log"))
		}
		_ = p.Process.Kill()
		<-p.done
	})
	w.waitFor("it runs", func() bool { return w.number(`select count(*) from imagetasks.processors`) == 1 })
	require.NoError(t, p.Process.Signal(syscall.SIGHUP))
	w.waitFor("it reads the file", func() bool { return strings.Contains(w.file("task-processor.log"), "the settings were read again") })
	require.NoError(t, master.Close())
	w.waitFor("it stops", p.ended)
	assert.Equal(t, 0, p.ProcessState.ExitCode())
	assert.Contains(t, w.file("task-processor.log"), "the terminal was closed: stopping")
	assert.Contains(t, w.file("task-processor.log"), "task-processor stopped")
	assert.Equal(t, 0, w.number(`select count(*) from imagetasks.processors`))
}

// On a terminal the script asks.
func TestMonitoringSetup_OldScriptsOnATerminal(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	table := oldLines[0] + "\n"
	spool := w.withOldScripts(table)
	ask := func(answer string) string {
		t.Helper()
		output, code := w.onTerminal(answer, "/usr/bin/unshare", namespace(), "/bin/sh", "-c",
			`mount --bind "$1" /var/spool/cron/crontabs && exec scripts/monitoring-setup.sh`, "sh", spool)
		assert.Equal(t, 0, code, output)
		assert.Contains(t, output, "Comment them out? --uninstall restores them. [y/N]")
		return w.runWithCrontabs(spool, "crontab", "-l").ok()
	}
	assert.True(t, strings.HasPrefix(ask("\n"), table+"# BEGIN"))
	assert.True(t, strings.HasPrefix(ask("n\n"), table+"# BEGIN"))
	assert.True(t, strings.HasPrefix(ask("\x04"), table+"# BEGIN"), "the end of the input")
	assert.True(t, strings.HasPrefix(ask("y\n"), "# disabled by imagetasks in '"))
}
