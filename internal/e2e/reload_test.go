package e2e_test

import (
	"database/sql"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/simproxy"
)

// moveToEnvFile moves settings from the environment to .env, and writes the file again with others.
func (w *fixture) moveToEnvFile(values map[string]string) {
	w.t.Helper()
	var text strings.Builder
	for name, value := range values {
		delete(w.env, name)
		fmt.Fprintf(&text, "%s='%s'\n", name, value)
	}
	path := filepath.Join(w.dir, ".env")
	require.NoError(w.t, os.WriteFile(path+".new", []byte(text.String()), 0o600))
	require.NoError(w.t, os.Rename(path+".new", path))
}

// freeAddress returns an address on which nothing listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	return listener.Addr().String()
}

const secondKey = "key-77d0e1b2aa"

// The key is rotated while a request with the old one runs: that completes, the next one uses the new one.
func TestReload_Key(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	withDaemon(w)
	w.grant(3)
	w.env["HUNG_AFTER"] = "8s" // heartbeats, which report the result, come each second
	env := map[string]string{"OPENAI_API_KEY": apiKey, "TASK_CONCURRENCY": "1"}
	w.moveToEnvFile(env)
	w.run("task-processor", "start").ok()
	pid := w.pid()
	release := w.api.BlockResponses()
	w.enqueue("with the old key")
	w.waitFor("the request", func() bool { return len(w.api.Calls()) == 1 })
	w.api.SetKey(secondKey)
	env["OPENAI_API_KEY"] = secondKey
	w.moveToEnvFile(env)
	assert.Contains(t, w.run("task-processor", "reload").ok(), fmt.Sprintf("(pid %d) has read its env file again: OPENAI_API_KEY changed", pid))
	release()
	w.waitFor("the picture", func() bool { return w.count("completed") == 1 })
	w.enqueue("with the new key")
	w.waitFor("the picture", func() bool { return w.count("completed") == 2 })
	assert.Len(t, w.api.Calls(), 2)
	assert.Equal(t, pid, w.pid())

	// The key is refused first, and the file corrected then: the circuit closes again.
	w.api.SetKey(apiKey)
	w.enqueue("with a refused key")
	w.waitFor("the refusal", func() bool { return strings.Contains(w.file("task-processor.log"), "refuses the key") })
	env["OPENAI_API_KEY"] = apiKey
	w.moveToEnvFile(env)
	require.NoError(t, syscall.Kill(pid, syscall.SIGHUP))
	w.waitFor("the picture", func() bool { return w.count("completed") == 3 })
	assert.Equal(t, pid, w.pid())
	assert.Equal(t, 0, w.number(`select coalesce(sum(attempt_count), 0) from imagetasks.tasks`), "no attempt was used")

	// What needs a restart is named, and what can't be read changes nothing.
	env["TASK_CONCURRENCY"], env["STUCK_AFTER"] = "2", "25m"
	w.moveToEnvFile(env)
	r := w.run("task-processor", "reload")
	assert.Contains(t, r.is(3), "nothing changed; not in use until a restart: TASK_CONCURRENCY, STUCK_AFTER")
	assert.Contains(t, w.run("task-processor", "reload", "--lang", "zh").is(3), "没有变化；以下设置需要重启才能生效：TASK_CONCURRENCY, STUCK_AFTER")
	for text, want := range map[string]string{
		"OPENAI_API_KEY " + secondKey:                             "line 1 is not NAME=value",
		"OPENAI_API_KEY=" + secondKey + "\nTASK_CONCURRENCY=many": "TASK_CONCURRENCY",
		"OPENAI_API_KEY='" + secondKey + " with a space'":         "OPENAI_API_KEY: OPENAI_API_KEY contains white space",
		"OPENAI_API_KEY=": "no API key is set",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(w.dir, ".env"), []byte(text), 0o600))
		require.NoError(t, syscall.Kill(pid, syscall.SIGHUP))
		w.waitFor("the log says so: "+want, func() bool {
			lines := strings.Split(strings.TrimSpace(w.file("task-processor.log")), "\n")
			for _, line := range lines {
				if strings.Contains(line, "the settings were not changed") && strings.Contains(line, want) {
					return true
				}
			}
			return false
		})
	}
	require.NoError(t, os.Remove(filepath.Join(w.dir, ".env")))
	require.NoError(t, syscall.Kill(pid, syscall.SIGHUP))
	w.waitFor("the log says so", func() bool { return strings.Contains(w.file("task-processor.log"), "there is no env file .env") })
	w.moveToEnvFile(env)
	w.grant(1)
	w.enqueue("after all of that")
	w.waitFor("the picture", func() bool { return w.count("completed") == 4 })
	assert.NotContains(t, w.file("task-processor.log"), secondKey)
	w.run("task-processor", "stop").ok()
	assert.Contains(t, w.run("task-processor", "reload").fails(1), "no processor is running")
}

// The proxy's login changes; the real environment still wins over the file.
func TestReload_Proxy(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	withDaemon(w)
	w.grant(2)
	const secondPassword = "otherpass/11aa"
	other, err := simproxy.Start(simproxy.Config{User: "operator", Password: secondPassword})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, other.Close()) })
	w.env["STATUS_ADDR"] = freeAddress(t) // which reports the result at once
	env := map[string]string{"OPENAI_PROXY": w.proxy.URL()}
	w.moveToEnvFile(env)
	w.run("task-processor", "start").ok()
	w.enqueue("through the first proxy")
	w.waitFor("the picture", func() bool { return w.count("completed") == 1 })
	env["OPENAI_PROXY"], env["OPENAI_API_KEY"] = other.URL(), "not used"
	w.env["OPENAI_API_KEY"] = apiKey
	text := fmt.Sprintf("OPENAI_PROXY='%s'\nOPENAI_API_KEY='%s'\n", other.URL(), "not used")
	require.NoError(t, os.WriteFile(filepath.Join(w.dir, ".env"), []byte(text), 0o600))
	assert.Contains(t, w.run("task-processor", "reload").ok(), "OPENAI_PROXY changed")
	require.NoError(t, w.proxy.Close())
	w.enqueue("through the second proxy")
	w.waitFor("the picture", func() bool { return w.count("completed") == 2 })
	calls := w.api.Calls()
	require.Len(t, calls, 2)
	assert.True(t, other.Carried(calls[1].Remote))
	assert.NotContains(t, w.file("task-processor.log"), secondPassword)
	w.run("task-processor", "stop").ok()
}

// The password of the role is changed and all its sessions are ended.
func TestReload_DatabasePassword(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	withDaemon(w)
	w.grant(2)
	direct, err := url.Parse(w.env["DATABASE_URL"])
	require.NoError(t, err)
	var database, hba string
	require.NoError(t, w.db.QueryRow(`select current_database(), current_setting('hba_file')`).Scan(&database, &hba))
	role := "rotated_" + database
	exec := func(statement string) {
		t.Helper()
		_, err := w.db.Exec(statement)
		require.NoError(t, err)
	}
	const first, second = "first-7b1f9d", "second-0c44e1"
	exec(fmt.Sprintf(`create role %q login password '%s'`, role, first))
	w.run("task-processor", "migrate", "--worker-role", role).ok()
	w.env["HUNG_AFTER"] = "8s"
	rules, err := os.ReadFile(hba)
	require.NoError(t, err)
	rule := fmt.Sprintf("local %q %q scram-sha-256\n", database, role)
	require.NoError(t, os.WriteFile(hba, append([]byte(rule), rules...), 0o600))
	exec(`select pg_reload_conf()`)
	withLogin := func(password string) string {
		u := *direct
		u.User = url.UserPassword(role, password)
		return u.String()
	}
	w.waitFor("the password is asked for", func() bool {
		db, err := sql.Open("postgres", withLogin("wrong"))
		require.NoError(t, err)
		defer db.Close()
		return db.Ping() != nil
	})
	owner := w.env["DATABASE_URL"]
	env := map[string]string{"DATABASE_URL": withLogin(first)}
	w.moveToEnvFile(env)
	w.run("task-processor", "start").ok()
	pid := w.pid()
	watch := w.start("monitor-tasks", "--watch", "--interval", "200ms")
	w.waitFor("a pass", func() bool { return strings.Contains(watch.stderr.String(), "pass: ") })
	w.env["DATABASE_URL"] = owner // of the commands of this test; the daemon reads its env file
	w.enqueue("with the first password")
	w.waitFor("the picture", func() bool { return w.count("completed") == 1 })

	exec(fmt.Sprintf(`alter role %q password '%s'`, role, second))
	exec(fmt.Sprintf(`select pg_terminate_backend(pid) from pg_stat_activity where usename = '%s'`, role))
	w.waitFor("the database refuses it", func() bool { return strings.Contains(w.file("task-processor.log"), "28P01") })
	delete(w.env, "DATABASE_URL")
	env["DATABASE_URL"] = withLogin(second)
	w.moveToEnvFile(env)
	assert.Contains(t, w.run("task-processor", "reload").ok(), "DATABASE_URL (its password) changed")
	require.NoError(t, watch.Process.Signal(syscall.SIGHUP))
	w.env["DATABASE_URL"] = owner
	w.enqueue("with the second password")
	w.waitFor("the picture", func() bool { return w.count("completed") == 2 })
	w.waitFor("the monitor goes on", func() bool {
		_, after, found := strings.Cut(watch.stderr.String(), "the settings were read again")
		return found && strings.Contains(after, "pass: ")
	})
	watch.stop(syscall.SIGTERM).ok()
	delete(w.env, "DATABASE_URL")

	// Another database is not taken over.
	u := *direct
	u.User = url.UserPassword(role, second)
	u.Path = "/elsewhere"
	env["DATABASE_URL"] = u.String()
	w.moveToEnvFile(env)
	require.NoError(t, syscall.Kill(pid, syscall.SIGHUP))
	w.waitFor("the log says so", func() bool {
		return strings.Contains(w.file("task-processor.log"), "nothing changed; not in use until a restart: DATABASE_URL")
	})
	assert.Equal(t, pid, w.pid())
	for _, password := range []string{first, second} {
		assert.NotContains(t, w.file("task-processor.log"), password)
		assert.NotContains(t, watch.stderr.String(), password)
	}
	env["DATABASE_URL"] = withLogin(second)
	w.moveToEnvFile(env)
	w.run("task-processor", "stop").ok()
	w.env["DATABASE_URL"] = owner
}
