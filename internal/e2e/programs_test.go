package e2e_test

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var programs = []string{"task-processor", "monitor-tasks", "fix-stuck-tasks", "simple-test"}

func TestHelp(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	for _, name := range programs {
		help := w.run(name, "--help").ok()
		for _, flag := range []string{"--env-file", "--log-level", "--log-format", "--database-url", "--version", "DATABASE_URL"} {
			assert.Contains(t, help, flag, name)
		}
		assert.Regexp(t, `^`+name+` version \d+\.\d+\.\d+`, w.run(name, "--version").ok())
	}
	for _, command := range []string{"run", "migrate", "enqueue", "cancel", "credits", "status", "demo"} {
		assert.Contains(t, w.run("task-processor", "--help").ok(), command)
		assert.Contains(t, w.run("task-processor", command, "--help").ok(), "task-processor "+command)
	}
}

// Wrong usage exits 2, names the mistake, and changes nothing.
func TestUsageErrors(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	with := func(name, value string) map[string]string { return map[string]string{name: value} }
	user := []string{"--user", w.user}
	for _, c := range []struct {
		name string
		env  map[string]string
		args []string
		want string
	}{
		{"an unknown flag", nil, []string{"task-processor", "run", "--nonsense"}, "nonsense"},
		{"an unknown command", nil, []string{"task-processor", "dance"}, `"dance"`},
		{"a leftover argument", nil, []string{"monitor-tasks", "now"}, `"now"`},
		{"no database", with("DATABASE_URL", ""), []string{"fix-stuck-tasks"}, "DATABASE_URL"},
		{"no database URL", with("DATABASE_URL", "mysql://u:"+databasePassword+"@h/d"), []string{"fix-stuck-tasks"}, "postgres://"},
		{"no key", with("OPENAI_API_KEY", ""), []string{"task-processor", "run"}, "OPENAI_API_KEY"},
		{"no such proxy", with("OPENAI_PROXY", "ftp://u:"+proxyPassword+"@h:1"), []string{"task-processor", "run"}, "OPENAI_PROXY"},
		{"a proxy without a host", with("OPENAI_PROXY", "http://:7890"), []string{"task-processor", "run"}, "OPENAI_PROXY"},
		{"a time without a unit", with("STUCK_AFTER", "20"), []string{"monitor-tasks"}, "STUCK_AFTER"},
		{"an attempt longer than stuck", nil, []string{"task-processor", "run", "--task-timeout", "20m"}, "TASK_TIMEOUT"},
		{"no concurrency", nil, []string{"task-processor", "run", "--concurrency", "0"}, "TASK_CONCURRENCY"},
		{"public schema", with("DATABASE_SCHEMA", "public"), []string{"task-processor", "migrate"}, "DATABASE_SCHEMA"},
		{"a missing env file", nil, []string{"simple-test", "--env-file", "nowhere.env"}, "nowhere.env"},
		{"a user id with a control character", nil, []string{"task-processor", "credits", "grant", "--user", "a\nb", "--credits", "1"}, "--user"},
		{"a negative grant", nil, append([]string{"task-processor", "credits", "grant", "--credits", "-5"}, user...), "--credits"},
		{"a grant of nothing", nil, append([]string{"task-processor", "credits", "grant"}, user...), "--credits"},
		{"an unknown language", nil, append([]string{"task-processor", "credits", "grant", "--credits", "5", "--lang", "tlh"}, user...), "--lang"},
		{"no prompt", nil, append([]string{"task-processor", "enqueue"}, user...), "--prompt"},
		{"a negative cost", nil, append([]string{"task-processor", "enqueue", "--prompt", "x", "--cost", "-1"}, user...), "--cost"},
		{"too many", nil, append([]string{"task-processor", "enqueue", "--prompt", "x", "--count", "10001"}, user...), "--count"},
		{"an image that is none", nil, append([]string{"task-processor", "enqueue", "--prompt", "x", "--image", "/etc/passwd"}, user...), "/etc/passwd"},
		{"no task", nil, []string{"task-processor", "cancel"}, "--task"},
		{"a negative age", nil, []string{"fix-stuck-tasks", "--older-than", "-5m"}, "--older-than"},
		{"credits of what", nil, []string{"task-processor", "credits"}, "credits grant"},
	} {
		t.Run(c.name, func(t *testing.T) {
			other := &fixture{t: t, dir: w.dir, db: w.db, env: map[string]string{}}
			for k, v := range w.env {
				other.env[k] = v
			}
			for k, v := range c.env {
				other.env[k] = v
			}
			r := other.run(c.args[0], c.args[1:]...)
			assert.Empty(t, r.is(2))
			assert.Contains(t, r.stderr, c.want)
			assert.NotContains(t, r.stderr, proxyPassword)
			assert.NotContains(t, r.stderr, databasePassword)
		})
	}
	assert.Zero(t, w.number(`select (select count(*) from imagetasks.tasks) + (select count(*) from imagetasks.credits) + (select count(*) from imagetasks.ledger)`))
	files, err := os.ReadDir(w.dir)
	require.NoError(t, err)
	assert.Empty(t, files, "wrong usage creates no files")
}

func TestDatabaseUnavailable_ExitCode(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.env["DATABASE_URL"] = "postgres://operator:" + databasePassword + "@127.0.0.1:1/nowhere?sslmode=disable"
	r := w.run("fix-stuck-tasks")
	assert.Empty(t, r.is(1))
	assert.Contains(t, r.stderr, "the database does not respond")
	assert.Contains(t, r.stderr, "127.0.0.1:1")
}

func TestSchemaMissing_NamesFix(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	empty := server.Empty(t)
	full := w.env["DATABASE_URL"]
	w.env["DATABASE_URL"] = empty
	r := w.run("monitor-tasks")
	r.is(1)
	assert.Contains(t, r.stderr, "task-processor migrate")
	plan := w.run("task-processor", "migrate", "--plan").ok()
	assert.Contains(t, strings.ToLower(plan), "create table")
	w.run("monitor-tasks").is(1)
	assert.Contains(t, w.run("task-processor", "migrate").ok(), "up to date")
	assert.Contains(t, w.run("task-processor", "migrate", "--plan").ok(), "nothing to do")
	w.run("monitor-tasks").ok()
	w.env["DATABASE_URL"] = full
}

// Flags take precedence over the environment, and the environment over the env file.
func TestSettings_Precedence(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	file := "OPENAI_BASE_URL=" + w.env["OPENAI_BASE_URL"] + "\nTASK_CONCURRENCY=5\nMAX_ATTEMPTS=7\nSTATUS_ADDR=127.0.0.1:0\n" +
		"https_proxy='" + w.env["OPENAI_PROXY"] + "'\n"
	require.NoError(t, os.WriteFile(filepath.Join(w.dir, ".env"), []byte(file), 0o600))
	for _, name := range []string{"OPENAI_BASE_URL", "STATUS_ADDR", "OPENAI_PROXY"} {
		delete(w.env, name)
	}
	concurrency := func(args ...string) int {
		p := w.start("task-processor", append([]string{"run"}, args...)...)
		report := w.statusOf(p)
		p.stop(syscall.SIGTERM).ok()
		return report.Processor.Concurrency
	}
	assert.Equal(t, 5, concurrency())
	w.env["TASK_CONCURRENCY"] = "6"
	assert.Equal(t, 6, concurrency())
	assert.Equal(t, 7, concurrency("--concurrency", "7"))

	otherFile := filepath.Join(w.dir, "other.env")
	require.NoError(t, os.WriteFile(otherFile, []byte("STATUS_ADDR=127.0.0.1:0\nOPENAI_PROXY=http://127.0.0.1:1\n"), 0o600))
	p := w.start("task-processor", "run", "--env-file", otherFile)
	w.statusOf(p)
	assert.Contains(t, p.stop(syscall.SIGTERM).stderr, "127.0.0.1:1")
}

type statusReport struct {
	Version   string
	Ready     bool
	Problems  []problem
	Processor struct {
		Concurrency int
		InFlight    int `json:"in_flight"`
		Endpoints   []struct{ Rate int }
	}
}

var statusAddress = regexp.MustCompile(`http://127\.0\.0\.1:\d+`)

// statusOf waits for a processor's status page and returns its report.
func (w *fixture) statusOf(p *process) (report statusReport) {
	w.t.Helper()
	w.waitFor("the status page", func() bool { return statusAddress.MatchString(p.stderr.String()) })
	body, _ := w.get(p, "/status.json")
	require.NoError(w.t, json.Unmarshal([]byte(body), &report))
	return report
}

func (w *fixture) get(p *process, path string) (body string, status int) {
	w.t.Helper()
	answer, err := http.Get(statusAddress.FindString(p.stderr.String()) + path)
	require.NoError(w.t, err)
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	require.NoError(w.t, err)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.outputs.Write(text)
	return string(text), answer.StatusCode
}

func TestStatusAddress_Pages(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.grant(2)
	w.enqueue("a page", "--count", "2")
	release := w.api.BlockResponses()
	p := w.start("task-processor", "run", "--status-addr", "127.0.0.1:0")
	w.waitFor("tasks in flight", func() bool { return len(w.api.Calls()) == 2 })
	report := w.statusOf(p)
	assert.Equal(t, 2, report.Processor.InFlight)
	assert.True(t, report.Ready)
	for path, want := range map[string]string{"/": "/assets/app.js", "/healthz": "ok", "/readyz": "ready", "/metrics": "imagetasks_"} {
		body, status := w.get(p, path)
		assert.Equal(t, http.StatusOK, status, path)
		assert.Contains(t, body, want, path)
	}
	w.env["STATUS_ADDR"] = strings.TrimPrefix(statusAddress.FindString(p.stderr.String()), "http://")
	assert.Contains(t, w.run("task-processor", "status").ok(), "processing 2/3")
	release()
	w.waitFor("pictures", func() bool { return w.count("completed") == 2 })

	// The API becomes unreachable: the page shows it, and no task loses an attempt.
	require.NoError(t, w.proxy.Close())
	w.grant(1)
	w.enqueue("no way")
	w.waitFor("readyz to fail", func() bool { _, status := w.get(p, "/readyz"); return status == http.StatusServiceUnavailable })
	assert.NotEmpty(t, w.statusOf(p).Problems)
	w.run("task-processor", "status").is(3)
	_, status := w.get(p, "/healthz")
	assert.Equal(t, http.StatusOK, status)
	p.stop(syscall.SIGTERM).ok()
	assert.Equal(t, 1, w.number(`select count(*) from imagetasks.tasks where status = 'pending' and attempt_count = 0`))
}

func TestRunOnce_APIUnreachable(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.grant(2)
	w.enqueue("no way", "--count", "2")
	require.NoError(t, w.proxy.Close())
	r := w.run("task-processor", "run", "--once")
	assert.Empty(t, r.is(3))
	assert.Contains(t, r.stderr, "the image API is unreachable")
	assert.Contains(t, r.stderr, w.proxy.Addr())
	assert.Empty(t, w.api.Calls(), "a direct connection")
	assert.Equal(t, 2, w.number(`select count(*) from imagetasks.tasks where status = 'pending' and attempt_count = 0`))
	w.audit()
}
