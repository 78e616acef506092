package oldscripts

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestLines(t *testing.T) {
	t.Parallel()
	text := strings.Join([]string{
		"# */5 * * * * node monitor-tasks.mjs",
		"*/5 * * * * cd /srv/app && node scripts/monitor-tasks.mjs >> /srv/app/logs/monitor.log 2>&1",
		"*/5 * * * * cd /srv/imagetasks && bin/monitor-tasks --quiet",
		"@reboot cd /srv/app && TOKEN=secret node 'scripts/task-processor.mjs'",
		"0 3 * * * /usr/bin/tsx /srv/app/scripts/fix_stuck_tasks.ts",
		"0 4 * * * tar czf /backup/a.tgz /srv/app/scripts",
		"0 5 * * * /usr/bin/report > /tmp/monitor-tasks.js",
		"0 5 * * * /usr/bin/report >/tmp/monitor-tasks.js",
		"0 6 * * * node report.mjs",
	}, "\n")
	assert.Equal(t, []Line{{"crontab", 2, "monitor-tasks.mjs"}, {"crontab", 4, "task-processor.mjs"}, {"crontab", 5, "fix_stuck_tasks.ts"}}, Lines("crontab", []byte(text)))
}

// In the crontabs of the system the command follows a user.
func TestLines_OfTheSystem(t *testing.T) {
	t.Parallel()
	line := "*/5 * * * * www-data node /srv/app/monitor-tasks.mjs\n"
	assert.Equal(t, []Line{{"/etc/cron.d/app", 1, "monitor-tasks.mjs"}}, Lines("/etc/cron.d/app", []byte(line)))
	assert.Empty(t, Lines("/etc/cron.d/app", []byte("0 * * * * root pgrep -f monitor-tasks.mjs\n")))
}

func TestScriptOf(t *testing.T) {
	t.Parallel()
	for command, want := range map[string]string{
		"node --experimental-fetch scripts/task-processor.mjs": "task-processor.mjs",
		"/usr/bin/node20 /srv/app/monitor-tasks.js --watch":    "monitor-tasks.js",
		"npx tsx src/task_processor.ts":                        "task_processor.ts",
		"node /srv/mail/mail-task-processor.js":                "",
		"./task-processor.mjs":                                 "task-processor.mjs",
		"/srv/imagetasks/bin/task-processor run":               "",
		"monitor-tasks --watch":                                "",
		"vim task-processor.mjs":                               "",
		"tail -f task-processor.mjs.log":                       "",
		"node server.js":                                       "",
		"":                                                     "",
	} {
		got, ok := ScriptOf(strings.Fields(command))
		assert.Equal(t, want, got, command)
		assert.Equal(t, want != "", ok, command)
	}
}

func TestProcesses(t *testing.T) {
	t.Parallel()
	proc := t.TempDir()
	for pid, args := range map[int]string{31: "node\x00task-processor.mjs\x00", 7: "node\x00/srv/monitor-tasks.mjs\x00", 8: "bash\x00", 9: ""} {
		dir := filepath.Join(proc, fmt.Sprint(pid))
		require.NoError(t, os.Mkdir(dir, 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "cmdline"), []byte(args), 0o600))
	}
	require.NoError(t, os.Mkdir(filepath.Join(proc, "10"), 0o755)) // it ended meanwhile
	assert.Equal(t, []Process{{7, "monitor-tasks.mjs"}, {31, "task-processor.mjs"}}, processes(t.Context(), proc))
	assert.Empty(t, processes(t.Context(), filepath.Join(proc, "missing")))
}
