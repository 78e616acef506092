package clients

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/pgtest"
	"imagetasks/internal/postgres"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

var (
	server *pgtest.Server
	root   = filepath.Join("..", "..")
	// npmDir is where npm installs the packages of testdata/package.json, once.
	npmDir string
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	var err error
	if npmDir, err = os.MkdirTemp("", "imagetasks-npm-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(npmDir)
	return pgtest.Main(m, &server, prepare)
}

// prepare creates Supabase's roles, the role of an application and the owner of the schema, which is no superuser. Roles belong to the
// cluster, and all databases of the tests share them.
func prepare(ctx context.Context, databaseURL string) error {
	db, err := sql.Open("postgres", databaseURL)
	if err != nil {
		return err
	}
	defer db.Close()
	_, err = db.ExecContext(ctx, `
		create role anon nologin;
		create role authenticated nologin;
		create role service_role nologin bypassrls;
		create role authenticator login noinherit;
		grant anon, authenticated, service_role to authenticator;
		create role my_app login;
		create role owner login;
		grant create on database prepared to owner;`)
	if err != nil {
		return err
	}
	return migrate(ctx, databaseURL)
}

// migrate runs migrate as the owner, with both application roles.
func migrate(ctx context.Context, databaseURL string) error {
	u, err := url.Parse(databaseURL)
	if err != nil {
		return err
	}
	u.User = url.User("owner")
	s, err := store.Open(store.Config{URL: u.String()})
	if err != nil {
		return err
	}
	defer s.Close()
	_, err = s.Migrate(ctx, store.Roles{App: []string{"my_app", "service_role"}})
	return err
}

// as returns a database's URL for another role.
func as(t *testing.T, databaseURL, role string) string {
	t.Helper()
	u, err := url.Parse(databaseURL)
	require.NoError(t, err)
	u.User = url.User(role)
	return u.String()
}

// database is a new database with the schema.
type database struct {
	t     *testing.T
	url   string
	raw   *sql.DB // as a superuser
	store *store.Store
}

func newDatabase(t *testing.T) *database {
	t.Helper()
	return openDatabase(t, server.Database(t))
}

func openDatabase(t *testing.T, databaseURL string) *database {
	t.Helper()
	d := &database{t: t, url: databaseURL}
	d.raw = connect(t, d.url+"&binary_parameters=yes") // a statement is one round trip, as a transaction pooler needs it
	var err error
	d.store, err = store.Open(store.Config{URL: as(t, d.url, "owner")})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, d.store.Close()) })
	return d
}

func connect(t *testing.T, databaseURL string) *sql.DB {
	t.Helper()
	db, err := sql.Open("postgres", databaseURL)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, db.Close()) })
	return db
}

func (d *database) exec(statement string, args ...any) {
	d.t.Helper()
	_, err := d.raw.ExecContext(d.t.Context(), statement, args...)
	require.NoError(d.t, err)
}

// sorted returns a sorted copy without duplicates.
func sorted(list []string) []string {
	out := slices.Sorted(slices.Values(list))
	return slices.Compact(out)
}

// text returns the only value of a query.
func (d *database) text(statement string, args ...any) string {
	d.t.Helper()
	var out string
	require.NoError(d.t, d.raw.QueryRowContext(d.t.Context(), statement, args...).Scan(&out))
	return out
}

// failNext claims the next task and fails it, as a processor does.
func (d *database) failNext(wantID string) {
	d.t.Helper()
	claimed, err := d.store.Claim(d.t.Context(), store.ClaimRequest{Worker: "w", Limit: 1, Lease: time.Minute, MaxAttempts: 3, Expired: 1000, Alone: true})
	require.NoError(d.t, err)
	require.Len(d.t, claimed, 1)
	require.Equal(d.t, wantID, claimed[0].ID)
	_, err = d.store.Fail(d.t.Context(), claimed[0].Lease(), &task.Error{Code: task.CodeServer, Message: "the API responded with 500"}, true)
	require.NoError(d.t, err)
}

// requireAudit checks the credit rules over the whole database.
func (d *database) requireAudit() {
	d.t.Helper()
	rules, err := d.store.Audit(d.t.Context())
	require.NoError(d.t, err)
	require.Zero(d.t, store.CountViolations(rules), "%+v", rules)
}

var fenced = regexp.MustCompile("(?ms)^( *)```(\\w+)\n(.*?)^ *```$")

// codeBlocks returns the code blocks of a document, each beginning with its language.
func codeBlocks(t *testing.T, document string) []string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, document))
	require.NoError(t, err)
	var out []string
	for _, found := range fenced.FindAllStringSubmatch(string(content), -1) {
		out = append(out, found[2]+"\n"+strings.ReplaceAll("\n"+found[3], "\n"+found[1], "\n")[1:])
	}
	require.NotEmpty(t, out)
	return out
}

// snippet returns the only code block of README.md in that language that contains a text.
func snippet(t *testing.T, language, containing string) string {
	t.Helper()
	var found []string
	for _, block := range codeBlocks(t, "README.md") {
		if code, ok := strings.CutPrefix(block, language+"\n"); ok && strings.Contains(code, containing) {
			found = append(found, code)
		}
	}
	require.Len(t, found, 1, "code blocks with %q", containing)
	return found[0]
}

func TestReadmes_SameCode(t *testing.T) {
	assert.Equal(t, codeBlocks(t, "README.md"), codeBlocks(t, "README.zh-CN.md"))
}

// No name of a registry's host is in the lock file: npm takes packages from the registry that it is configured for, and checks them
// against the hashes in the file.
func TestPackageLock_NamesNoHost(t *testing.T) {
	content, err := os.ReadFile("testdata/package-lock.json")
	require.NoError(t, err)
	assert.NotContains(t, string(content), "://")
	assert.Contains(t, string(content), `"integrity"`)
}

var installOnce sync.Once

// node installs the drivers at the first call, and returns the path of Node.js.
func node(t *testing.T) string {
	t.Helper()
	const install = "not installed; install it: sudo apt-get install nodejs npm (Debian, Ubuntu), brew install node (macOS)"
	program, err := exec.LookPath("node")
	if err != nil {
		t.Fatal("node is " + install)
	}
	npm, err := exec.LookPath("npm")
	if err != nil {
		t.Fatal("npm is " + install)
	}
	installOnce.Do(func() {
		for _, name := range []string{"package.json", "package-lock.json"} {
			content, err := os.ReadFile(filepath.Join("testdata", name))
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(filepath.Join(npmDir, name), content, 0o644))
		}
		// npm keeps what it has downloaded in its cache, so later runs need no network.
		cmd := exec.CommandContext(t.Context(), npm, "ci", "--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund", "--no-update-notifier")
		cmd.Dir = npmDir
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "npm ci: %s", out)
	})
	require.DirExists(t, filepath.Join(npmDir, "node_modules", "pg"))
	return program
}

// python returns a Python that has psycopg 3. A version manager may hide the system's, which has Debian's package.
func python(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"python3", "/usr/bin/python3"} {
		if exec.CommandContext(t.Context(), name, "-c", "import psycopg").Run() == nil {
			return name
		}
	}
	t.Fatal(`psycopg 3 is not installed; install it: sudo apt-get install python3-psycopg (Debian, Ubuntu), pip install "psycopg[binary]" (macOS)`)
	return ""
}

// client is a process that calls the functions of a module.
type client struct {
	t      *testing.T
	in     io.WriteCloser
	out    *bufio.Reader
	stderr *bytes.Buffer
}

// callError is an error that a function threw.
type callError struct{ Code, Message string }

// Error implements error.
func (e *callError) Error() string { return e.Code + " " + e.Message }

// startNode calls the functions of a JavaScript module, which can import the packages of testdata/package.json.
func startNode(t *testing.T, code string, env ...string) *client {
	t.Helper()
	program := node(t)
	dir, err := os.MkdirTemp(npmDir, "test-") // inside, so that node finds the packages
	require.NoError(t, err)
	return startClient(t, dir, env, program, "driver.mjs", "module.mjs", code)
}

// startPython calls the functions of a Python module.
func startPython(t *testing.T, code string, env ...string) *client {
	t.Helper()
	return startClient(t, t.TempDir(), env, python(t), "driver.py", "module.py", code)
}

func startClient(t *testing.T, dir string, env []string, program, driver, module, code string) *client {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("testdata", driver))
	require.NoError(t, err)
	file := filepath.Join(dir, module)
	require.NoError(t, os.WriteFile(file, []byte(code), 0o644))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	cmd := exec.CommandContext(ctx, program, path, file)
	cmd.Dir = dir
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "PYTHONDONTWRITEBYTECODE=1"}, env...)
	c := &client{t: t, stderr: &bytes.Buffer{}}
	cmd.Stderr = c.stderr
	c.in, err = cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	c.out = bufio.NewReader(out)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = c.in.Close()
		err := cmd.Wait()
		cancel()
		assert.NoError(t, err, c.stderr)
	})
	return c
}

// try calls a function and returns its result, or a *callError.
func (c *client) try(function string, args ...any) (any, error) {
	c.t.Helper()
	request, err := json.Marshal(map[string]any{"call": function, "args": args})
	require.NoError(c.t, err)
	_, err = c.in.Write(append(request, '\n'))
	require.NoError(c.t, err, c.stderr)
	line, err := c.out.ReadBytes('\n')
	require.NoError(c.t, err, c.stderr)
	var reply struct {
		Result any
		Error  *callError
	}
	require.NoError(c.t, json.Unmarshal(line, &reply), string(line))
	if reply.Error != nil {
		return nil, reply.Error
	}
	return reply.Result, nil
}

// call calls a function that must succeed.
func (c *client) call(function string, args ...any) any {
	c.t.Helper()
	result, err := c.try(function, args...)
	require.NoError(c.t, err, c.stderr)
	return result
}

// row calls a function that must return an object.
func (c *client) row(function string, args ...any) map[string]any {
	c.t.Helper()
	result := c.call(function, args...)
	row, ok := result.(map[string]any)
	require.True(c.t, ok, "%v", result)
	return row
}

// requireCode requires that a call failed with an SQLSTATE.
func requireCode(t *testing.T, code string) func(any, error) {
	return func(_ any, err error) {
		t.Helper()
		failure, ok := errors.AsType[*callError](err)
		require.True(t, ok, "%v", err)
		require.Equal(t, code, failure.Code, failure.Message)
	}
}

// psql runs a script as it would be typed, and returns its output.
func psql(t *testing.T, databaseURL, script string) (out, stderr string) {
	t.Helper()
	program, err := exec.LookPath("psql")
	if err != nil {
		dir, err := postgres.Find()
		require.NoError(t, err)
		program = filepath.Join(dir, "psql")
	}
	cmd := exec.CommandContext(t.Context(), program, "--no-psqlrc", "--quiet", "--tuples-only", "--no-align", databaseURL)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "LC_ALL=C.UTF-8"}
	cmd.Stdin = strings.NewReader(script)
	var stdout, errors bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &errors
	require.NoError(t, cmd.Run(), errors.String())
	return stdout.String(), errors.String()
}
