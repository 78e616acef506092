package app_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/app"
	"imagetasks/pkg/app/fixstucktasks"
	"imagetasks/pkg/app/monitortasks"
	"imagetasks/pkg/app/simpletest"
	"imagetasks/pkg/app/taskprocessor"
	"imagetasks/pkg/monitor"
)

// run runs a program in an empty directory, with a Chinese environment and no database.
func run(t *testing.T, env map[string]string, program app.Program, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	t.Chdir(t.TempDir())
	all := map[string]string{"LANG": "zh_CN.UTF-8", "DATABASE_URL": "postgres://u:secretpass@127.0.0.1:1/x", "LOG_DIR": t.TempDir()}
	maps.Copy(all, env)
	var out, errs bytes.Buffer
	a := &app.App{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs,
		Env: func(name string) (string, bool) { v, ok := all[name]; return v, ok }}
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // so that it does not wait for the database
	code = a.Run(ctx, program, append([]string{"program"}, args...)...)
	return code, out.String(), errs.String()
}

// A proxy with an authority of its own works from cron, too, where .env is all that is set.
func TestLoad_AuthoritiesFromEnvFile(t *testing.T) {
	for name, c := range map[string]struct {
		env  map[string]string
		want map[string]string
	}{
		"only in the file":                 {nil, map[string]string{"SSL_CERT_FILE": "/etc/ca.pem", "SSL_CERT_DIR": "/etc/ca"}},
		"the environment takes precedence": {map[string]string{"SSL_CERT_FILE": "/other.pem"}, map[string]string{"SSL_CERT_DIR": "/etc/ca"}},
		"an empty variable is not set":     {map[string]string{"SSL_CERT_FILE": ""}, map[string]string{"SSL_CERT_FILE": "/etc/ca.pem", "SSL_CERT_DIR": "/etc/ca"}},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "env")
			require.NoError(t, os.WriteFile(file, []byte("SSL_CERT_FILE=/etc/ca.pem\nSSL_CERT_DIR=/etc/ca\n"), 0o600))
			set := map[string]string{}
			a := &app.App{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard,
				Env:    func(name string) (string, bool) { v, ok := c.env[name]; return v, ok },
				Setenv: func(name, value string) error { set[name] = value; return nil }}
			a.Run(t.Context(), simpletest.New, "simple-test", "--env-file", file) // fails: there is no key
			assert.Equal(t, c.want, set)
		})
	}
}

const user = "00000000-0000-4000-8000-000000000001"

func TestJSON_OneEnglishDocumentOnFailure(t *testing.T) {
	for name, c := range map[string]struct {
		program app.Program
		args    []string
		env     map[string]string
		code    int
	}{
		"fix, no database":          {fixstucktasks.New, []string{"--json"}, nil, 1},
		"fix, before the command":   {fixstucktasks.New, []string{"--json", "audit"}, nil, 1},
		"audit, no database":        {fixstucktasks.New, []string{"audit", "--json"}, nil, 1},
		"fix, unknown flag":         {fixstucktasks.New, []string{"--json", "--nonsense"}, nil, 2},
		"fix, unknown command":      {fixstucktasks.New, []string{"--json", "nonsense"}, nil, 2},
		"fix, --lang zh":            {fixstucktasks.New, []string{"--json", "--lang", "zh", "--limit", "0"}, nil, 2},
		"monitor, no database":      {monitortasks.New, []string{"--json"}, nil, 1},
		"monitor, --watch":          {monitortasks.New, []string{"--json", "--watch"}, nil, 2},
		"monitor, setting":          {monitortasks.New, []string{"--json"}, map[string]string{"LOG_LEVEL": "loud"}, 2},
		"status, no database":       {taskprocessor.New, []string{"status", "--json"}, nil, 1},
		"enqueue, no user":          {taskprocessor.New, []string{"enqueue", "--json"}, nil, 2},
		"enqueue, no database":      {taskprocessor.New, []string{"enqueue", "--json", "--user", user, "--prompt", "x"}, nil, 1},
		"grant, bad number":         {taskprocessor.New, []string{"credits", "grant", "--json", "--credits", "x"}, nil, 2},
		"show, no database":         {taskprocessor.New, []string{"credits", "show", "--json", "--user", user}, nil, 1},
		"simple-test, unknown flag": {simpletest.New, []string{"--json", "--nonsense"}, nil, 2},
		"simple-test, argument":     {simpletest.New, []string{"--json", "x"}, nil, 2},
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := run(t, c.env, c.program, c.args...)
			assert.Equal(t, c.code, code, stderr)
			var document struct {
				Error struct {
					Message  string `json:"message"`
					ExitCode int    `json:"exit_code"`
				} `json:"error"`
			}
			decode(t, stdout, &document)
			assert.Equal(t, c.code, document.Error.ExitCode)
			assert.NotEmpty(t, document.Error.Message)
			assertEnglish(t, stdout)
			assert.NotContains(t, stdout+stderr, "secretpass")
		})
	}
}

func TestJSON_SimpleTestSettingsErrorIsOneDocument(t *testing.T) {
	for _, args := range [][]string{{"--json"}, {"--json", "--lang", "zh"}} {
		code, stdout, stderr := run(t, nil, simpletest.New, args...) // without a key
		assert.Equal(t, 2, code, stderr)
		var document map[string]any
		decode(t, stdout, &document)
		assertEnglish(t, stdout)
	}
}

// decode requires that text is one JSON document.
func decode(t *testing.T, text string, into any) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(text))
	require.NoError(t, d.Decode(into), text)
	require.False(t, d.More(), text)
}

func assertEnglish(t *testing.T, text string) {
	t.Helper()
	for _, r := range text {
		if r > 0x2e80 {
			assert.Fail(t, "not English", text)
			return
		}
	}
}

func TestRun_MonitorPassRunningIsOneJSONDocument(t *testing.T) {
	dir := t.TempDir()
	release, err := monitor.Lock(dir)
	require.NoError(t, err)
	defer func() { assert.NoError(t, release()) }()
	code, stdout, stderr := run(t, map[string]string{"LOG_DIR": dir}, monitortasks.New, "--json")
	assert.Equal(t, 0, code, stderr)
	var document map[string]string
	decode(t, stdout, &document)
	assert.NotEmpty(t, document["message"])
	assertEnglish(t, stdout)
}

func TestEnvFile_WarnsOfNearMisses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "env")
	require.NoError(t, os.WriteFile(path, []byte("STUCK_AFTR=5m\nNEXT_PUBLIC_SITE_URL=x\n"), 0o600))
	_, stdout, stderr := run(t, nil, fixstucktasks.New, "--env-file", path, "--json")
	assert.Contains(t, stderr, "warning: the env file "+path+" sets STUCK_AFTR, which is not a setting; did you mean STUCK_AFTER?\n")
	assert.Equal(t, 1, strings.Count(stderr, "warning:"))
	assert.NotContains(t, stdout, "warning")
	_, _, stderr = run(t, nil, monitortasks.New, "--env-file", path, "--quiet")
	assert.NotContains(t, stderr, "warning:")
}

func TestEndpoints_WarnOfSettingsWithoutEffect(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, ".env")
	require.NoError(t, os.WriteFile(path, []byte("OPENAI_API_KEY=key-0123456789\nAPI_RATE=30\nOPENAI_STREAM=on\n"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "imagetasks.toml"),
		[]byte("[[endpoint]]\nname = 'a'\nbase_url = 'https://api.example.com/v1'\nkey_env = 'OPENAI_API_KEY'\n"), 0o600))
	_, _, stderr := run(t, nil, fixstucktasks.New, "--lang", "en", "--env-file", path)
	assert.Contains(t, stderr, "imagetasks.toml lists endpoints, so this has no effect: OPENAI_STREAM, API_RATE\n")
	require.NoError(t, os.WriteFile(path, []byte("OPENAI_API_KEY=key-0123456789\n"), 0o600))
	_, _, stderr = run(t, nil, fixstucktasks.New, "--lang", "en", "--env-file", path)
	assert.NotContains(t, stderr, "no effect")
}

func TestDatabaseURL_WarnsOnceOfParameters(t *testing.T) {
	env := map[string]string{"DATABASE_URL": "postgres://u:secretpass@127.0.0.1:1/x?pgbouncer=true&schema=secretname"}
	for _, program := range []app.Program{fixstucktasks.New, monitortasks.New} {
		_, stdout, stderr := run(t, env, program, "--json")
		assert.Equal(t, 1, strings.Count(stderr, "warning:"), stderr)
		assert.Contains(t, stderr, "warning: DATABASE_URL: these are not parameters of PostgreSQL and are ignored: pgbouncer, schema\n")
		assert.NotContains(t, stderr, "secretname")
		assert.NotContains(t, stdout, "warning")
	}
	_, _, stderr := run(t, env, monitortasks.New, "--quiet")
	assert.NotContains(t, stderr, "warning:")
}

func TestDatabaseURL_EnvironmentIsRead(t *testing.T) {
	code, _, stderr := run(t, map[string]string{"PGSSLMODE": "whatever"}, fixstucktasks.New)
	assert.Equal(t, 2, code)
	assert.Contains(t, stderr, "PGSSLMODE must be one of disable, allow")
}

func TestEnvFile_BadLineIsAUsageError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "env")
	require.NoError(t, os.WriteFile(path, []byte("A=1\nOPENAI_PROXY http://u:secretpass@h:1\n"), 0o600))
	code, _, stderr := run(t, nil, fixstucktasks.New, "--lang", "en", "--env-file", path)
	assert.Equal(t, 2, code)
	assert.Contains(t, stderr, "line 2 is not NAME=value")
	assert.NotContains(t, stderr, "secretpass")
}
