package e2e_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	_ "github.com/lib/pq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/pgtest"
	"imagetasks/internal/simapi"
	"imagetasks/internal/simproxy"
	"imagetasks/pkg/store"
)

// The secrets of every test. None may appear in any output or file.
const (
	apiKey           = "key-9f3ab77c01"
	proxyPassword    = "proxypass/5c1d:e9"
	databasePassword = "dbpass-77ab31"
)

var (
	server *pgtest.Server
	bin    string // directory of the built programs
	root   string // directory of the project
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	var err error
	if bin, err = os.MkdirTemp("", "imagetasks-bin-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(bin)
	// Other users run them in tests that drop root.
	if err := os.Chmod(bin, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if root, err = filepath.Abs(filepath.Join("..", "..")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	// The flags of scripts/lib.sh, so that the build cache is shared.
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", bin+"/", "./cmd/...")
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
		return 1
	}
	return pgtest.Main(m, &server, func(ctx context.Context, url string) error {
		s, err := store.Open(store.Config{URL: url})
		if err != nil {
			return err
		}
		defer s.Close()
		if _, err = s.Migrate(ctx, store.Roles{}); err != nil {
			return err
		}
		return serverIsSettled(ctx, url)
	})
}

// sweepLease is the TASK_LEASE of programs that sweep: after a start of the database server they wait so long, and that of the tests was started a
// moment ago.
const sweepLease = time.Second

// serverIsSettled waits until sweeps do not wait any more.
func serverIsSettled(ctx context.Context, url string) error {
	db, err := sql.Open("postgres", url)
	if err != nil {
		return err
	}
	_, err = db.ExecContext(ctx, `select pg_sleep(greatest(0, $1 - extract(epoch from clock_timestamp() - pg_postmaster_start_time())))`,
		(sweepLease + 100*time.Millisecond).Seconds())
	return errors.Join(err, db.Close())
}

// fixture is a simulated host: a directory, a database, an API behind a proxy, and the environment with their addresses.
type fixture struct {
	t     testing.TB
	dir   string
	db    *sql.DB
	api   *simapi.Server
	proxy *simproxy.Proxy
	env   map[string]string
	user  string
	cred  *syscall.Credential // of the programs; nil: this process's

	mu      sync.Mutex
	outputs bytes.Buffer // of all programs
	prompts []string     // of the enqueued tasks
	secrets []string     // besides those of every test
}

type option func(*simapi.Config, *simproxy.Config)

func newFixture(t testing.TB, options ...option) *fixture {
	t.Helper()
	w := &fixture{t: t, dir: t.TempDir(), user: uuid.NewString()}
	authority, err := simapi.NewAuthority()
	require.NoError(t, err)
	apiConf := simapi.Config{Key: apiKey, TLS: authority}
	proxyConf := simproxy.Config{User: "operator", Password: proxyPassword}
	for _, o := range options {
		o(&apiConf, &proxyConf)
	}
	w.api, err = simapi.Start(apiConf)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, w.api.Close()) })
	w.proxy, err = simproxy.Start(proxyConf)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, w.proxy.Close()) })
	trusted := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(trusted, authority.PEM, 0o644))

	direct := server.Database(t)
	w.db, err = sql.Open("postgres", direct)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, w.db.Close()) })
	database, err := url.Parse(direct)
	require.NoError(t, err)
	database.User = url.UserPassword("postgres", databasePassword)
	w.env = map[string]string{
		"DATABASE_URL": database.String(), "OPENAI_API_KEY": apiKey, "OPENAI_BASE_URL": w.api.URL(),
		"OPENAI_PROXY": w.proxy.URL(), "SSL_CERT_FILE": trusted, "STATUS_ADDR": "off", "POLL_INTERVAL": "100ms", "LOG_LEVEL": "debug",
		"PATH": os.Getenv("PATH"), "HOME": w.dir,
	}
	// Registered last, so that it runs before anything is removed.
	t.Cleanup(w.requireNoSecrets)
	return w
}

// requireNoSecrets searches the output of all programs and every file for secrets and prompts, and the database for secrets.
func (w *fixture) requireNoSecrets() {
	w.mu.Lock()
	output := w.outputs.String()
	w.mu.Unlock()
	places := map[string]string{"the output": output}
	assert.NoError(w.t, filepath.WalkDir(w.dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && d.Name() == "bin" {
			return filepath.SkipDir
		}
		if err != nil || !d.Type().IsRegular() || strings.HasSuffix(d.Name(), ".env") {
			return err
		}
		content, err := os.ReadFile(path)
		places[path] = string(content)
		return err
	}))
	for place, text := range places {
		for _, prompt := range w.prompts {
			assert.False(w.t, strings.Contains(text, prompt), "the prompt %q leaked into %s", prompt, place)
		}
	}
	var rows string
	if assert.NoError(w.t, w.db.QueryRow(`select coalesce(string_agg(t::text, E'\n'), '') from imagetasks.tasks t`).Scan(&rows)) {
		places["the table of tasks"] = rows
	}
	for place, text := range places {
		for _, secret := range append([]string{apiKey, proxyPassword, url.QueryEscape(proxyPassword), url.PathEscape(proxyPassword), databasePassword}, w.secrets...) {
			if at := strings.Index(text, secret); at >= 0 {
				assert.Failf(w.t, "a secret leaked", "%q in %s: …%s…", secret, place, text[max(0, at-200):min(len(text), at+100)])
			}
		}
	}
}

// result is the exit code and the output of a program.
type result struct {
	t      testing.TB
	line   string
	code   int
	stdout string
	stderr string
}

// ok requires that the program did its work, and returns what it printed.
func (r result) ok() string { r.t.Helper(); return r.is(0) }

// is requires an exit code, and returns what the program printed.
func (r result) is(code int) string {
	r.t.Helper()
	require.Equal(r.t, code, r.code, "%s\nstdout:\n%s\nstderr:\n%s", r.line, r.stdout, r.stderr)
	return r.stdout
}

// json decodes what the program printed, which must be one document.
func (r result) json(into any) {
	r.t.Helper()
	d := json.NewDecoder(strings.NewReader(r.stdout))
	require.NoError(r.t, d.Decode(into), r.stdout)
	require.False(r.t, d.More(), "more than one document: %s", r.stdout)
}

// process is a program that runs.
type process struct {
	*exec.Cmd
	w              *fixture
	line           string
	stdout, stderr syncBuffer
	done           chan struct{}
}

// command prepares a program in the fixture's directory. A name without a slash is one of the four programs.
func (w *fixture) command(name string, args ...string) *process {
	path := name
	if !strings.Contains(name, "/") {
		path = filepath.Join(bin, name)
	}
	p := &process{Cmd: exec.Command(path, args...), w: w, done: make(chan struct{}), line: name + " " + strings.Join(args, " ")}
	p.Dir = w.dir
	if _, ok := w.env["TASK_LEASE"]; !ok && (name == "monitor-tasks" || name == "fix-stuck-tasks") {
		p.Env = append(p.Env, "TASK_LEASE="+sweepLease.String())
	}
	for k, v := range w.env {
		p.Env = append(p.Env, k+"="+v)
	}
	p.Stdout, p.Stderr = &p.stdout, &p.stderr
	if w.cred != nil {
		p.SysProcAttr = &syscall.SysProcAttr{Credential: w.cred}
	}
	return p
}

// start runs a program in the background; it is killed at the end of the test.
func (w *fixture) start(name string, args ...string) *process {
	w.t.Helper()
	p := w.command(name, args...)
	require.NoError(w.t, p.Start())
	go func() {
		defer close(p.done)
		_ = p.Wait()
	}()
	w.t.Cleanup(func() {
		_ = p.Process.Kill()
		<-p.done
	})
	return p
}

// result waits for the program to end.
func (p *process) result() result {
	p.w.t.Helper()
	select {
	case <-p.done:
	case <-time.After(3 * time.Minute):
		_ = p.Process.Signal(syscall.SIGQUIT)
		<-p.done
		require.Fail(p.w.t, "it does not end", "%s\n%s", p.line, p.stderr.String())
	}
	r := result{t: p.w.t, line: p.line, code: p.ProcessState.ExitCode(), stdout: p.stdout.String(), stderr: p.stderr.String()}
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	p.w.outputs.WriteString(r.stdout + r.stderr)
	return r
}

// stop sends a signal and waits for the end.
func (p *process) stop(s syscall.Signal) result {
	p.w.t.Helper()
	if err := p.Process.Signal(s); !errors.Is(err, os.ErrProcessDone) {
		require.NoError(p.w.t, err)
	}
	return p.result()
}

// run runs a program to its end.
func (w *fixture) run(name string, args ...string) result {
	w.t.Helper()
	return w.start(name, args...).result()
}

func (w *fixture) grant(credits int) {
	w.t.Helper()
	w.run("task-processor", "credits", "grant", "--user", w.user, "--credits", fmt.Sprint(credits)).ok()
}

func (w *fixture) enqueue(prompt string, more ...string) []string {
	w.t.Helper()
	if len(prompt) > 10 { // shorter ones occur in other words
		w.prompts = append(w.prompts, prompt)
	}
	args := append([]string{"enqueue", "--user", w.user, "--prompt", prompt}, more...)
	return strings.Fields(w.run("task-processor", args...).ok())
}

// number returns the number that a query selects.
func (w *fixture) number(query string, args ...any) int {
	w.t.Helper()
	var n int
	require.NoError(w.t, w.db.QueryRow(query, args...).Scan(&n))
	return n
}

func (w *fixture) count(status string) int {
	w.t.Helper()
	return w.number(`select count(*) from imagetasks.tasks where status = $1`, status)
}

func (w *fixture) credits() int {
	w.t.Helper()
	var shown struct{ Credits int }
	w.run("task-processor", "credits", "show", "--user", w.user, "--json").json(&shown)
	return shown.Credits
}

// audit requires that the audit passes.
func (w *fixture) audit() {
	w.t.Helper()
	w.run("fix-stuck-tasks", "audit").ok()
}

// pictures returns the paths of pictures and drafts in the picture store.
func (w *fixture) pictures() []string {
	w.t.Helper()
	var paths []string
	for _, pattern := range []string{"*", ".drafts/*"} {
		found, err := filepath.Glob(filepath.Join(w.dir, "images", "*", pattern))
		require.NoError(w.t, err)
		for _, path := range found {
			if name := filepath.Base(path); name != ".drafts" && name != "rejected" && name != "imagetasks-installation.json" {
				paths = append(paths, path)
			}
		}
	}
	return paths
}

// waitFor waits for a condition.
func (w *fixture) waitFor(what string, condition func() bool) {
	w.t.Helper()
	require.Eventually(w.t, condition, 2*time.Minute, 20*time.Millisecond, what)
}

// directCalls counts the requests that bypassed the proxy.
func (w *fixture) directCalls() int {
	n := 0
	for _, c := range w.api.Calls() {
		if !w.proxy.Carried(c.Remote) {
			n++
		}
	}
	return n
}

// syncBuffer is a buffer that may be read while a program writes to it.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// commandLines returns the command line of every process, by pid.
func commandLines(t testing.TB) map[string]string {
	t.Helper()
	found, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	lines := map[string]string{}
	for _, path := range found {
		if line, err := os.ReadFile(path); err == nil && len(line) > 0 {
			lines[filepath.Base(filepath.Dir(path))] = strings.ReplaceAll(string(line), "\x00", " ")
		}
	}
	return lines
}
