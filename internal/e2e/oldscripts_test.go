package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/oldscripts"
)

// oldLines run the scripts that imagetasks replaces.
var oldLines = []string{
	`*/5 * * * * cd /srv/app && node /srv/app/scripts/monitor-tasks.mjs >> /srv/app/logs/monitor.log 2>&1`,
	"@reboot cd '/srv/my (app)' && nohup /usr/bin/node '/srv/my (app)/scripts/task-processor.mjs' >/dev/null &\r",
	"\t0 * * * *\tOPENAI_API_KEY=sk-in-the-crontab HTTPS_PROXY=http://u:in-the-crontab@h:1 node --env-file=.env fix-stuck-tasks.mjs%\\%input",
	`0 * * * * bash -lc "cd /srv/app && node fix-stuck-tasks.mjs --all"`,
	`* * * * * flock -n /tmp/lock /srv/app/scripts/monitor-tasks.mjs`,
	`*/10 * * * * npx tsx /srv/app/scripts/task_monitor.ts`,
	`* * * * * pgrep -f "node scripts/task-processor.mjs" >/dev/null || pm2 start scripts/task-processor.mjs`,
}

// keptLines have the names of the scripts, or look like it, and do not run them.
var keptLines = []string{
	"MAILTO=somebody@example.com\r",
	`NOTE = "node monitor-tasks.mjs"`,
	`# */5 * * * * cd /srv/app && node scripts/monitor-tasks.mjs`,
	"",
	`* * * * * pgrep -f "node monitor-tasks.mjs" >/dev/null || mail -s "node is down" root`,
	`* * * * * ps aux | grep "node monitor-tasks.mjs"`,
	`0 3 * * * cp /srv/app/scripts/task-processor.mjs "/backup/100\% of it"`,
	`* * * * * true % node monitor-tasks.mjs`,
	`* * * * * node scripts/monitor-tasks.mjs.old > monitor-tasks.mjs`,
	`* * * * * node scripts/simple-test.mjs`,
	`* * * * * node /srv/mail/mail-task-processor.js`,
	`* * * * * cd /srv/other && bin/monitor-tasks --quiet`,
	`# disabled by imagetasks in '/srv/other': * * * * * node scripts/monitor-tasks.mjs`,
}

// adopt finds what scripts/monitoring-setup.sh comments out, and nothing else.
func TestOldScripts_Agree(t *testing.T) {
	t.Parallel()
	for _, line := range oldLines {
		assert.Len(t, oldscripts.Lines("crontab", []byte(line)), 1, line)
	}
	for _, line := range keptLines {
		assert.Empty(t, oldscripts.Lines("crontab", []byte(line)), line)
	}
}

// withOldScripts installs the project with programs that are built already, and a crontab.
func (w *fixture) withOldScripts(table string) (spool string) {
	w.t.Helper()
	w.install()
	w.writeEnv()
	require.NoError(w.t, os.CopyFS(filepath.Join(w.dir, "bin"), os.DirFS(bin)))
	w.onPath("go", "exit 0")
	spool = w.spool()
	require.NoError(w.t, os.WriteFile(filepath.Join(spool, "root"), []byte(table), 0o600))
	return spool
}

// onPath puts a program in front of that of the system.
func (w *fixture) onPath(name, script string) {
	w.t.Helper()
	dir := filepath.Join(w.dir, "first on the path")
	require.NoError(w.t, os.MkdirAll(dir, 0o755))
	require.NoError(w.t, os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755))
	if !strings.HasPrefix(w.env["PATH"], dir) {
		w.env["PATH"] = dir + ":" + w.env["PATH"]
	}
}

func TestMonitoringSetup_OldScripts(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	table := ""
	for i := range max(len(oldLines), len(keptLines)) {
		for _, lines := range [][]string{keptLines, oldLines} {
			if i < len(lines) {
				table += lines[i] + "\n"
			}
		}
	}
	spool := w.withOldScripts(strings.TrimSuffix(table, "\n")) // a crontab that was not written by crontab(1)
	crontab := func() string {                                 // crontab -l does not print carriage returns
		t.Helper()
		return w.runWithCrontabs(spool, "/bin/sh", "-c", `EDITOR=cat crontab -e 2>/dev/null`).ok()
	}
	setup := func(args ...string) result {
		return w.runWithCrontabs(spool, append([]string{"scripts/monitoring-setup.sh"}, args...)...)
	}
	setup("--disable-old", "--keep-old").is(2)
	setup("--uninstall", "--print").is(2)
	assert.Contains(t, setup("--help").ok(), "--disable-old")

	// Without a terminal nobody is asked: the lines are named, without their secrets, and stay.
	printed := setup("--print")
	printed.ok()
	unasked := setup()
	unasked.is(3)
	for _, output := range []string{printed.stderr, unasked.stdout} {
		for _, line := range oldLines {
			line = strings.NewReplacer("sk-in-the-crontab", "…", "u:in-the-crontab", "u:…").Replace(line)
			assert.Contains(t, output, "\n              "+line+"\n")
		}
		assert.NotContains(t, output, "in-the-crontab")
		assert.NotContains(t, output, "bin/monitor-tasks --quiet\n")
	}
	assert.Contains(t, unasked.stdout, "to comment them out: ./scripts/monitoring-setup.sh --disable-old")
	entries := strings.TrimPrefix(crontab(), table)
	assert.True(t, strings.HasPrefix(entries, "# BEGIN imagetasks"), entries)
	assert.NotContains(t, setup("--keep-old").ok(), "commented out")
	assert.Equal(t, table+entries, crontab())

	// They are commented out where they are. Other lines stay, and repeats change nothing.
	assert.Contains(t, setup("--disable-old").ok(), "the lines are commented out")
	off := table
	for _, line := range oldLines {
		off = strings.Replace(off, line+"\n", "# disabled by imagetasks in '"+strings.ReplaceAll(w.dir, "'", `'\''`)+"': "+line+"\n", 1)
	}
	assert.Equal(t, off+entries, crontab())
	for _, args := range [][]string{{}, {"--disable-old"}, {"--keep-old"}} {
		r := setup(args...)
		assert.NotContains(t, r.ok(), "old scripts")
		assert.Equal(t, off+entries, crontab(), args)
	}

	// A line that comes back is found again.
	require.NoError(t, os.WriteFile(filepath.Join(spool, "root"), []byte(off+entries+oldLines[0]+"\n"), 0o600))
	assert.Contains(t, setup().is(3), "\n              "+oldLines[0]+"\n")
	require.NoError(t, os.WriteFile(filepath.Join(spool, "root"), []byte(off+entries), 0o600))

	// Another project restores nothing. This one restores every byte, unless it is told not to.
	w.runWithCrontabs(spool, "/bin/sh", "-c", `mkdir other && cp -r scripts deploy other && other/scripts/monitoring-setup.sh --uninstall`).ok()
	assert.Equal(t, off+entries, crontab())
	assert.NotContains(t, setup("--uninstall", "--disable-old").ok(), "active again")
	assert.Equal(t, off, crontab())
	restored := setup("--uninstall").ok()
	assert.Contains(t, restored, "these lines of the crontab are active again:\n              "+oldLines[0]+"\n")
	assert.Equal(t, table, crontab())
	assert.Contains(t, setup("--uninstall").ok(), "no entries of this project")
	assert.Equal(t, table, crontab())
}

// Processes of the old scripts are named, monitors first, each with what stops it for good. A list of processes is in place of the host's, where
// other tests would find them too.
func TestMonitoringSetup_OldProcesses(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	spool := w.withOldScripts("")
	underPM2 := w.command("/bin/sleep", "600")
	underPM2.Env = append(underPM2.Env, "pm_id=7")
	require.NoError(t, underPM2.Start())
	defer func() {
		assert.NoError(t, underPM2.Process.Kill())
		_ = underPM2.Wait()
	}()
	w.onPath("ps", fmt.Sprintf(`case "$*" in *-A*) ;; *) exec /usr/bin/ps "$@" ;; esac
cat <<'TEXT'
      1 root     /sbin/init
     77 www-data vim scripts/task-processor.mjs
    311 deploy   sh -c node scripts/task-processor.mjs
%7d www-data node /srv/my app/scripts/task-processor.mjs --key sk-in-the-arguments
9999991 root     bin/task-processor run --background
9999992 deploy   /usr/bin/node --max-old-space-size=512 /srv/app/scripts/monitor-tasks.mjs
TEXT`, underPM2.Process.Pid))
	assert.Contains(t, w.runWithCrontabs(spool, "scripts/monitoring-setup.sh").ok(), fmt.Sprintf(`
old scripts   these processes work on the same tasks as imagetasks; stop them, in this order:
              pid 9999992 of deploy: /usr/bin/node --max-old-space-size=512 /srv/app/scripts/monitor-tasks.mjs
                to stop it: kill 9999992
              pid %d of www-data: node /srv/my app/scripts/task-processor.mjs
                to stop it: pm2 stop 7 && pm2 save
Done.`, underPM2.Process.Pid))
}

// The crontabs of the system belong to root: their lines are named, and stay.
func TestMonitoringSetup_OldScriptsInSystemCrontabs(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	spool := w.withOldScripts("")
	system := filepath.Join(w.t.TempDir(), "cron.d")
	require.NoError(t, os.Mkdir(system, 0o755))
	text := "SHELL=/bin/sh\n* * * * * deploy pgrep -f 'node scripts/task-processor.mjs'\n*/5 * * * * deploy cd /srv/app && node scripts/monitor-tasks.mjs\n"
	require.NoError(t, os.WriteFile(filepath.Join(system, "app"), []byte(text), 0o644))
	out := w.runWithCrontabs(spool, "/bin/sh", "-c", `mount --bind "$1" /etc/cron.d && scripts/monitoring-setup.sh --disable-old`, "sh", system).ok()
	assert.Contains(t, out, "old scripts   /etc/cron.d/app runs scripts that work on the same tasks as imagetasks; comment these lines out there:\n"+
		"              */5 * * * * deploy cd /srv/app && node scripts/monitor-tasks.mjs\n")
	assert.NotContains(t, out, "pgrep")
	content, err := os.ReadFile(filepath.Join(system, "app"))
	require.NoError(t, err)
	assert.Equal(t, text, string(content))
}
