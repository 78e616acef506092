package e2e_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The scripts complete commands, flags and fixed values on the command line of a real shell.
func TestCompletion_OnATerminal(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		shell []string
		load  string
	}{
		{[]string{"/bin/bash", "--norc", "--noprofile", "-i"}, "source <(task-processor completion bash)"},
		{[]string{"/usr/bin/zsh", "-f", "-i"}, "autoload -Uz compinit && compinit -u -D && source <(task-processor completion zsh)"},
	} {
		t.Run(c.shell[0], func(t *testing.T) {
			t.Parallel()
			w := &fixture{t: t, dir: t.TempDir(), env: map[string]string{"PATH": bin + ":" + os.Getenv("PATH"), "TERM": "dumb", "PS1": "> "}}
			w.env["HOME"] = w.dir
			require.NoError(t, os.WriteFile(w.dir+"/settings.env", nil, 0o600))
			s := w.startSession(200, 50, c.shell[0], c.shell[1:]...)
			s.typeKeys(c.load + " && echo loaded $((40 + 2))\n")
			w.waitFor("it is loaded", func() bool { return strings.Contains(s.shown.String(), "loaded 42") })
			for typed, completed := range map[string]string{
				"task-processor stat\t":                         "task-processor status",
				"task-processor credits gr\t":                   "task-processor credits grant",
				"task-processor tasks list --sta\tproc\t":       "task-processor tasks list --state processing",
				bin + "/task-processor run --log-format=j\t":    bin + "/task-processor run --log-format=json",
				"task-processor run --env-file settin\t--onc\t": "task-processor run --env-file settings.env --once",
			} {
				s.typeKeys(typed + "\x01echo ran: \n") // Ctrl-A goes to the start of the line
				w.waitFor(typed, func() bool { return strings.Contains(s.shown.String(), "\nran: "+completed) })
			}
			s.typeKeys("exit\n")
			w.waitFor("it ends", s.ended)
		})
	}
}

func TestCompletion_Fish(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(dir+"/settings.env", nil, 0o600))
	complete := func(line string) string {
		t.Helper()
		fish := exec.CommandContext(t.Context(), "/usr/bin/fish", "--no-config", "-c", `task-processor completion fish | source; complete -C "$argv[1]"`, line)
		fish.Dir, fish.Env = dir, []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "HOME=" + dir, "LANG=C.UTF-8"}
		out, err := fish.CombinedOutput()
		require.NoError(t, err, string(out))
		return string(out)
	}
	assert.Equal(t, "status\tshow the state of processor, queue, API and monitor\n", complete("task-processor stat"))
	assert.Contains(t, complete(bin+"/task-processor credits grant --us"), "--user\tthe user's ID\n")
	assert.Equal(t, "processing\n", strings.ReplaceAll(complete("task-processor tasks list --state pro"), "\t\n", "\n"))
	assert.Contains(t, complete("task-processor status --env-file set"), "settings.env")
}
