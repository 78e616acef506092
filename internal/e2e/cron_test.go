package e2e_test

import (
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// install copies the project to a directory with an awkward name, which is the world's from then on.
func (w *world) install() {
	w.t.Helper()
	w.dir = filepath.Join(w.dir, "my project's 100%")
	for _, part := range []string{"cmd", "pkg", "internal", "scripts", "deploy", "go.mod", "go.sum", ".env.example"} {
		require.NoError(w.t, filepath.WalkDir(filepath.Join(root, part), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || strings.HasSuffix(path, "_test.go") {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			relative, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			target := filepath.Join(w.dir, relative)
			if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
				return err
			}
			return os.WriteFile(target, content, info.Mode().Perm())
		}))
	}
	for _, name := range []string{"GOCACHE", "GOMODCACHE", "GOPATH", "GOPROXY", "GOFLAGS"} {
		out, err := exec.Command("go", "env", name).Output()
		require.NoError(w.t, err)
		w.env[name] = strings.TrimSpace(string(out))
	}
}

// writeEnv moves the settings from the environment into .env, where cron's jobs find them.
func (w *world) writeEnv() {
	w.t.Helper()
	var text strings.Builder
	for _, name := range []string{"DATABASE_URL", "OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_PROXY", "STATUS_ADDR", "POLL_INTERVAL"} {
		fmt.Fprintf(&text, "%s='%s'\n", name, w.env[name])
		delete(w.env, name)
	}
	// The program's own trust in the simulated API: cron's environment has no room for it.
	trusted := w.env["SSL_CERT_FILE"]
	delete(w.env, "SSL_CERT_FILE")
	w.env["TRUSTED"] = trusted
	require.NoError(w.t, os.WriteFile(filepath.Join(w.dir, ".env"), []byte(text.String()), 0o600))
}

// spool is a directory for crontabs of this test alone: a namespace puts it in the place of the system's.
func (w *world) spool() string {
	w.t.Helper()
	dir := filepath.Join(w.t.TempDir(), "spool")
	require.NoError(w.t, os.Mkdir(dir, 0o755))
	return dir
}

// namespace is the option of unshare(1) for mounts of one's own: who isn't root must seem to be.
func namespace() string {
	if os.Getuid() == 0 {
		return "-m"
	}
	return "-rm"
}

// under runs a program where the crontabs are those of the spool.
func (w *world) under(spool string, command ...string) result {
	w.t.Helper()
	return w.run("/usr/bin/unshare", append([]string{namespace(), "/bin/sh", "-c",
		`mount --bind "$1" /var/spool/cron/crontabs && shift && exec "$@"`, "sh", spool}, command...)...)
}

const otherLines = "MAILTO=\"\"\n#  somebody's comment\t\n\n*/7 * * * * echo 100\\% >/dev/null\n\t0 0 1 1 *   true \n\n"

func TestMonitoringSetupTwiceAndUninstalled(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.install()
	spool := w.spool()
	table := filepath.Join(w.t.TempDir(), "crontab")
	require.NoError(t, os.WriteFile(table, []byte(otherLines), 0o644))
	w.under(spool, "crontab", table).ok()
	require.Equal(t, otherLines, w.under(spool, "crontab", "-l").ok())
	setup := func(args ...string) result {
		return w.under(spool, append([]string{"scripts/monitoring-setup.sh"}, args...)...)
	}

	// No .env yet: it is written, and nothing goes into the crontab.
	r := setup()
	r.is(1)
	assert.Contains(t, r.stderr, "fill in DATABASE_URL")
	info, err := os.Stat(filepath.Join(w.dir, ".env"))
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	assert.Equal(t, otherLines, w.under(spool, "crontab", "-l").ok())

	w.writeEnv()
	assert.Contains(t, setup().ok(), "entries installed")
	first := w.under(spool, "crontab", "-l").ok()
	assert.True(t, strings.HasPrefix(first, otherLines), first)
	assert.Equal(t, otherLines+setup("--print").ok(), first)
	assert.Regexp(t, `(?m)^# Installed \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$`, first)
	assert.Equal(t, 3, strings.Count(first, `cd '`+strings.NewReplacer("%", `\%`, "'", `'\''`).Replace(w.dir)+`' && bin/`))
	info, err = os.Stat(filepath.Join(w.dir, ".env"))
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode().Perm(), "nobody else reads the secrets")
	assert.Contains(t, setup().ok(), "up to date")
	assert.Equal(t, first, w.under(spool, "crontab", "-l").ok())
	assert.Regexp(t, `(?m)^cron +installed$`, w.under(spool, "scripts/check-status.sh").ok())

	// Another project's uninstall leaves ours alone.
	w.under(spool, "/bin/sh", "-c", `mkdir other && cp -r scripts deploy other && other/scripts/monitoring-setup.sh --uninstall`).ok()
	assert.Equal(t, first, w.under(spool, "crontab", "-l").ok())

	assert.Contains(t, setup("--uninstall").ok(), "entries removed")
	assert.Equal(t, otherLines, w.under(spool, "crontab", "-l").ok(), "byte for byte")
	assert.Contains(t, setup("--uninstall").ok(), "no entries of this project")

	// Where there was no crontab there is none afterwards.
	w.under(spool, "crontab", "-r").ok()
	setup().ok()
	setup("--uninstall").ok()
	assert.Contains(t, w.under(spool, "crontab", "-l").stderr, "no crontab for")

	// A block that somebody damaged is not guessed at.
	setup().ok()
	damaged := strings.Replace(w.under(spool, "crontab", "-l").ok(), "# END imagetasks", "# END of something", 1) + otherLines
	require.NoError(t, os.WriteFile(table, []byte(damaged), 0o644))
	w.under(spool, "crontab", table).ok()
	r = setup("--uninstall")
	r.is(1)
	assert.Contains(t, r.stderr, "fix it with crontab -e")
	assert.Equal(t, damaged, w.under(spool, "crontab", "-l").ok())
	setup("--bogus").is(2)
}

func TestAHostWithoutCronIsToldWhatToInstall(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.install()
	few := filepath.Join(w.dir, "few programs")
	require.NoError(t, os.Mkdir(few, 0o755))
	for _, name := range []string{"bash", "dirname", "basename", "mktemp", "rm"} {
		path, err := exec.LookPath(name)
		require.NoError(t, err)
		require.NoError(t, os.Symlink(path, filepath.Join(few, name)))
	}
	w.env["PATH"] = few
	r := w.run("/usr/bin/env", "bash", "scripts/monitoring-setup.sh", "--uninstall")
	r.is(1)
	assert.Contains(t, r.stderr, "apt-get install -y cron")
	assert.Contains(t, r.stderr, "deploy/systemd")
}

// Debian's cron, with nothing in the environment: its start brings the processor up, and its rounds repair a stuck
// task and bring a killed processor back. Who isn't root can't run cron's daemon, and gets its bare environment.
func TestCronKeepsItRunning(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.install()
	withDaemon(w)
	delete(w.env, "LOG_DIR")
	w.writeEnv()
	spool := w.spool()
	w.under(spool, "scripts/monitoring-setup.sh").ok()
	entries := strings.Replace(w.under(spool, "crontab", "-l").ok(), "*/5 * * * *", "* * * * *", 1)
	require.Contains(t, entries, "\n* * * * * cd ")
	// cron itself sets variables of a crontab; the simulated API's certificate is nothing an operator has.
	entries = "SSL_CERT_FILE=" + w.env["TRUSTED"] + "\n" + entries
	table := filepath.Join(w.t.TempDir(), "crontab")
	require.NoError(t, os.WriteFile(table, []byte(entries), 0o644))
	w.under(spool, "crontab", table).ok()

	round := w.cron(spool, entries)
	w.until("the start at boot", func() bool { return w.lockHolder() != 0 })
	first := w.lockHolder()
	w.until("it is healthy", func() bool { return w.number(`select count(*) from imagetasks_processors`) == 1 })
	w.stick(1, 21)
	require.NoError(t, syscall.Kill(first, syscall.SIGKILL))
	w.until("it is gone", func() bool { return w.lockHolder() != first })
	round()
	w.until("the stuck task is repaired", func() bool { return w.count("failed") == 1 })
	w.until("the processor is back", func() bool { pid := w.lockHolder(); return pid != 0 && pid != first })
	w.until("the round is over", func() bool { return strings.Contains(w.file("task-monitor.log"), "restarted as pid") })
	w.run("bin/fix-stuck-tasks", "audit").ok()
	environment, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", w.lockHolder()))
	require.NoError(t, err)
	assert.NotContains(t, string(environment), "OPENAI", "the settings came from .env")
	w.run("scripts/stop-processor.sh").ok()
}

// cron runs the entries: those at boot at once, and a round within a minute, or when round is called.
func (w *world) cron(spool, entries string) (round func()) {
	w.t.Helper()
	if os.Getuid() == 0 {
		// In a namespace of its own it sees our crontab only, and leaves nothing behind in /run.
		w.start("/usr/bin/unshare", namespace(), "/bin/sh", "-c", `d=$(mktemp -d "$1/cron-XXXXXX") && mkdir "$d/run" "$d/cron.d" && : >"$d/crontab" &&
			chown root:crontab "$2" "$2"/* && chmod 1730 "$2" &&
			mount --bind "$2" /var/spool/cron/crontabs && mount --bind "$d/run" /run &&
			mount --bind "$d/cron.d" /etc/cron.d && mount --bind "$d/crontab" /etc/crontab && exec cron -f`, "sh", w.t.TempDir(), spool)
		return func() {}
	}
	bare := func(prefix string) {
		for line := range strings.Lines(entries) {
			if command, ok := strings.CutPrefix(strings.TrimSpace(line), prefix); ok {
				p := w.command("/bin/sh", "-c", strings.ReplaceAll(command, `\%`, "%"))
				p.Dir = w.env["HOME"]
				p.Env = []string{"HOME=" + w.env["HOME"], "LOGNAME=somebody", "SHELL=/bin/sh", "PATH=/usr/bin:/bin",
					"SSL_CERT_FILE=" + w.env["TRUSTED"]}
				assert.NoError(w.t, p.Run(), "%s", p.stderr.String())
			}
		}
	}
	bare("@reboot ")
	return func() { bare("* * * * * ") }
}

func TestTheUnitsAreValid(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	units, err := filepath.Glob(filepath.Join(root, "deploy", "systemd", "*"))
	require.NoError(t, err)
	require.Len(t, units, 3)
	args := []string{"verify"}
	for _, path := range units {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		if strings.HasSuffix(path, ".service") {
			assert.Contains(t, string(text), "/opt/imagetasks/bin/")
		}
		target := filepath.Join(w.dir, filepath.Base(path))
		require.NoError(t, os.WriteFile(target, []byte(strings.ReplaceAll(string(text), "/opt/imagetasks/bin", bin)), 0o644))
		args = append(args, target)
	}
	r := w.run("/usr/bin/systemd-analyze", args...)
	assert.Empty(t, r.stderr+r.ok())
}

// As a unit of Type=notify the processor says that it is up, and gives signs of life.
func TestTheProcessorTellsSystemdThatItLives(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	socket := filepath.Join(t.TempDir(), "notify")
	said := make(chan string, 100)
	listen, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	require.NoError(t, err)
	defer listen.Close()
	go func() {
		defer close(said)
		buffer := make([]byte, 1<<10)
		for {
			n, err := listen.Read(buffer)
			if err != nil {
				return
			}
			said <- string(buffer[:n])
		}
	}()
	w.env["NOTIFY_SOCKET"], w.env["HUNG_AFTER"] = socket, "2s"
	p := w.start("task-processor", "run")
	for range 3 {
		assert.Equal(t, "READY=1\nWATCHDOG=1", <-said)
	}
	p.stop(syscall.SIGTERM).ok()
}
