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

// install copies the project to a directory with special characters in its name, and makes it the fixture's directory.
func (w *fixture) install() {
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

// writeEnv moves the settings from the environment into .env, where cron jobs find them.
func (w *fixture) writeEnv() {
	w.t.Helper()
	var text strings.Builder
	for _, name := range []string{"DATABASE_URL", "OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_PROXY", "STATUS_ADDR", "POLL_INTERVAL"} {
		fmt.Fprintf(&text, "%s='%s'\n", name, w.env[name])
		delete(w.env, name)
	}
	// The simulated API's certificate must be trusted; that is not a setting of the programs.
	trusted := w.env["SSL_CERT_FILE"]
	delete(w.env, "SSL_CERT_FILE")
	w.env["TRUSTED"] = trusted
	require.NoError(w.t, os.WriteFile(filepath.Join(w.dir, ".env"), []byte(text.String()), 0o600))
}

// spool returns a directory for the crontabs of this test: a mount namespace puts it in place of the system's.
func (w *fixture) spool() string {
	w.t.Helper()
	dir := filepath.Join(w.t.TempDir(), "spool")
	require.NoError(w.t, os.Mkdir(dir, 0o755))
	return dir
}

// namespace returns the options of unshare(1) for private mounts: without root, a user namespace is needed as well.
func namespace() string {
	if os.Getuid() == 0 {
		return "-m"
	}
	return "-rm"
}

// runWithCrontabs runs a program that sees the crontabs in spool.
func (w *fixture) runWithCrontabs(spool string, command ...string) result {
	w.t.Helper()
	return w.run("/usr/bin/unshare", append([]string{namespace(), "/bin/sh", "-c",
		`mount --bind "$1" /var/spool/cron/crontabs && shift && exec "$@"`, "sh", spool}, command...)...)
}

const otherLines = "MAILTO=\"\"\n#  somebody's comment\t\n\n*/7 * * * * echo 100\\% >/dev/null\n\t0 0 1 1 *   true \n\n"

func TestMonitoringSetup_RepeatAndUninstall(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.install()
	spool := w.spool()
	table := filepath.Join(w.t.TempDir(), "crontab")
	require.NoError(t, os.WriteFile(table, []byte(otherLines), 0o644))
	w.runWithCrontabs(spool, "crontab", table).ok()
	require.Equal(t, otherLines, w.runWithCrontabs(spool, "crontab", "-l").ok())
	setup := func(args ...string) result {
		return w.runWithCrontabs(spool, append([]string{"scripts/monitoring-setup.sh"}, args...)...)
	}

	// Without .env: it is written, and the crontab stays as it is.
	r := setup()
	r.is(1)
	assert.Contains(t, r.stderr, "fill in DATABASE_URL")
	info, err := os.Stat(filepath.Join(w.dir, ".env"))
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	assert.Equal(t, otherLines, w.runWithCrontabs(spool, "crontab", "-l").ok())

	w.writeEnv()
	assert.Contains(t, setup().ok(), "entries installed")
	first := w.runWithCrontabs(spool, "crontab", "-l").ok()
	assert.True(t, strings.HasPrefix(first, otherLines), first)
	assert.Equal(t, otherLines+setup("--print").ok(), first)
	assert.Regexp(t, `(?m)^# Installed \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$`, first)
	assert.Equal(t, 3, strings.Count(first, `cd '`+strings.NewReplacer("%", `\%`, "'", `'\''`).Replace(w.dir)+`' && bin/`))
	info, err = os.Stat(filepath.Join(w.dir, ".env"))
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode().Perm(), "readable by the owner only")
	assert.Contains(t, setup().ok(), "up to date")
	assert.Equal(t, first, w.runWithCrontabs(spool, "crontab", "-l").ok())
	assert.Regexp(t, `(?m)^cron +installed$`, w.runWithCrontabs(spool, "scripts/check-status.sh").ok())

	// Uninstalling another project does not touch ours.
	w.runWithCrontabs(spool, "/bin/sh", "-c", `mkdir other && cp -r scripts deploy other && other/scripts/monitoring-setup.sh --uninstall`).ok()
	assert.Equal(t, first, w.runWithCrontabs(spool, "crontab", "-l").ok())

	assert.Contains(t, setup("--uninstall").ok(), "entries removed")
	assert.Equal(t, otherLines, w.runWithCrontabs(spool, "crontab", "-l").ok(), "byte for byte")
	assert.Contains(t, setup("--uninstall").ok(), "no entries of this project")

	// A user without a crontab has none afterwards.
	w.runWithCrontabs(spool, "crontab", "-r").ok()
	setup().ok()
	setup("--uninstall").ok()
	assert.Contains(t, w.runWithCrontabs(spool, "crontab", "-l").stderr, "no crontab for")

	// A damaged block is reported, not repaired by guessing.
	setup().ok()
	damaged := strings.Replace(w.runWithCrontabs(spool, "crontab", "-l").ok(), "# END imagetasks", "# END of something", 1) + otherLines
	require.NoError(t, os.WriteFile(table, []byte(damaged), 0o644))
	w.runWithCrontabs(spool, "crontab", table).ok()
	r = setup("--uninstall")
	r.is(1)
	assert.Contains(t, r.stderr, "fix it with crontab -e")
	assert.Equal(t, damaged, w.runWithCrontabs(spool, "crontab", "-l").ok())
	setup("--bogus").is(2)
}

func TestMonitoringSetup_CronMissing(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
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

// Debian's cron, with its bare environment, starts the processor; its monitor passes repair a stuck task and restart a killed
// processor. Without root the cron daemon can't run; then the entries run in the same bare environment.
func TestCron_StartsRepairsAndRestarts(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.install()
	withDaemon(w)
	delete(w.env, "LOG_DIR")
	w.writeEnv()
	spool := w.spool()
	w.runWithCrontabs(spool, "scripts/monitoring-setup.sh").ok()
	entries := strings.Replace(w.runWithCrontabs(spool, "crontab", "-l").ok(), "*/5 * * * *", "* * * * *", 1)
	require.Contains(t, entries, "\n* * * * * cd ")
	// Variables in a crontab are set by cron; only the simulated API's certificate needs one.
	entries = "SSL_CERT_FILE=" + w.env["TRUSTED"] + "\n" + entries
	table := filepath.Join(w.t.TempDir(), "crontab")
	require.NoError(t, os.WriteFile(table, []byte(entries), 0o644))
	w.runWithCrontabs(spool, "crontab", table).ok()

	pass := w.cron(spool, entries)
	w.waitFor("the start at boot", func() bool { return w.lockHolder() != 0 })
	first := w.lockHolder()
	w.waitFor("it is healthy", func() bool { return w.number(`select count(*) from imagetasks.processors`) == 1 })
	w.insertStuck(1, 21)
	require.NoError(t, syscall.Kill(first, syscall.SIGKILL))
	w.waitFor("it is gone", func() bool { return w.lockHolder() != first })
	pass()
	w.waitFor("the stuck task is repaired", func() bool { return w.count("failed") == 1 })
	w.waitFor("the processor is back", func() bool { pid := w.lockHolder(); return pid != 0 && pid != first })
	w.waitFor("the pass is over", func() bool { return strings.Contains(w.file("task-monitor.log"), "restarted (pid ") })
	w.run("bin/fix-stuck-tasks", "audit").ok()
	environment, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", w.lockHolder()))
	require.NoError(t, err)
	assert.NotContains(t, string(environment), "OPENAI", "the settings come from .env")
	w.run("scripts/stop-processor.sh").ok()
}

// cron runs the entries: those for boot at once, and a monitor pass within a minute, or when pass is called.
func (w *fixture) cron(spool, entries string) (pass func()) {
	w.t.Helper()
	if os.Getuid() == 0 {
		// In a mount namespace it sees only our crontab, and leaves no files in /run.
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

func TestSystemdUnits_Verify(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
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

// As a unit of Type=notify the processor notifies systemd of its start and of each heartbeat.
func TestSystemdNotify(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	socket := filepath.Join(t.TempDir(), "notify")
	output := make(chan string, 100)
	listen, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	require.NoError(t, err)
	defer listen.Close()
	go func() {
		defer close(output)
		buffer := make([]byte, 1<<10)
		for {
			n, err := listen.Read(buffer)
			if err != nil {
				return
			}
			output <- string(buffer[:n])
		}
	}()
	w.env["NOTIFY_SOCKET"], w.env["HUNG_AFTER"] = socket, "2s"
	p := w.start("task-processor", "run")
	for range 3 {
		assert.Equal(t, "READY=1\nWATCHDOG=1", <-output)
	}
	p.stop(syscall.SIGTERM).ok()
}
