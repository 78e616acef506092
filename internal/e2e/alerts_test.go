package e2e_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/simproxy"
)

// toldAlert is an alert as a receiver of JSON gets it.
type toldAlert struct {
	State, Severity, Code, Host, Do string
	What                            struct{ EN, ZH string }
	Hint                            *struct{ EN, ZH string }
	Finding                         struct {
		Count int
		PID   int
	}
}

// alertReceiver is a receiver of JSON, and of the messages of a robot of DingTalk with a signature.
type alertReceiver struct {
	*httptest.Server
	t testing.TB

	mu     sync.Mutex
	alerts []toldAlert
	robot  []string // texts
	pings  []string
}

const (
	robotSecret = "SEC-of-the-robot-11aa22bb"
	hookPath    = "/hooks/path-of-the-receiver-9f2c"
)

func newAlertReceiver(t testing.TB) *alertReceiver {
	r := &alertReceiver{t: t}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

func (r *alertReceiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(request.Body)
	r.mu.Lock()
	defer r.mu.Unlock()
	if !assert.NoError(r.t, err) {
		return
	}
	switch {
	case strings.HasPrefix(request.URL.Path, "/ping"):
		r.pings = append(r.pings, request.URL.Path)
	case request.URL.Path == "/robot/send":
		query := request.URL.Query()
		mac := hmac.New(sha256.New, []byte(robotSecret))
		mac.Write([]byte(query.Get("timestamp") + "\n" + robotSecret))
		if base64.StdEncoding.EncodeToString(mac.Sum(nil)) != query.Get("sign") {
			_, _ = io.WriteString(w, `{"errcode":310000,"errmsg":"sign not match"}`)
			return
		}
		var m struct{ Markdown struct{ Text string } }
		assert.NoError(r.t, json.Unmarshal(body, &m))
		r.robot = append(r.robot, m.Markdown.Text)
		_, _ = io.WriteString(w, `{"errcode":0,"errmsg":"ok"}`)
	default:
		var d struct{ Alerts []toldAlert }
		assert.NoError(r.t, json.Unmarshal(body, &d))
		r.alerts = append(r.alerts, d.Alerts...)
	}
}

// told returns what was told about a code, in order.
func (r *alertReceiver) told(code string) (all []toldAlert) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range r.alerts {
		if a.Code == code {
			all = append(all, a)
		}
	}
	return all
}

func (r *alertReceiver) texts() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.robot, "\n\n")
}

func (r *alertReceiver) pinged() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string{}, r.pings...)
}

// silentServer accepts connections and never answers.
func silentServer(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var accepting sync.WaitGroup
	accepting.Go(func() {
		var open []net.Conn
		for {
			c, err := l.Accept()
			if err != nil {
				break
			}
			open = append(open, c)
		}
		for _, c := range open {
			_ = c.Close()
		}
	})
	t.Cleanup(func() { assert.NoError(t, l.Close()); accepting.Wait() })
	return "http://" + l.Addr().String()
}

// withAlerts sets a receiver of JSON, a robot of DingTalk and a receiver that never answers.
func (w *fixture) withAlerts() *alertReceiver {
	w.t.Helper()
	r := newAlertReceiver(w.t)
	w.env["ALERT_WEBHOOK_URL"], w.env["ALERT_WAIT"], w.env["ALERT_RESOLVED_AFTER"] = r.URL+hookPath, "500ms", "2s"
	w.env["ROBOT_URL"], w.env["ROBOT_SECRET"], w.env["SILENT_URL"] = r.URL+"/robot/send?access_token=token-of-the-robot", robotSecret, silentServer(w.t)+"/silent-path-0123456789"
	w.secrets = append(w.secrets, robotSecret, hookPath, "token-of-the-robot", "silent-path-0123456789")
	require.NoError(w.t, os.WriteFile(filepath.Join(w.dir, "imagetasks.toml"), []byte(`
[[alert]]
name = "silent"
url_env = "SILENT_URL"

[[alert]]
name = "robot"
type = "dingtalk"
url_env = "ROBOT_URL"
secret_env = "ROBOT_SECRET"
`), 0o644))
	return r
}

// What a tired operator sees at night: the proxy breaks, an alert arrives, the status address says what is wrong and what to do, the operator does it, and
// "resolved" arrives. A receiver that never answers delays nothing.
func TestAlerts_TiredOperator(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	r := w.withAlerts()
	w.env["STATUS_ADDR"] = "127.0.0.1:0"
	w.grant(20)
	w.enqueue("a lighthouse in the fog", "--count", "3")
	p := w.start("task-processor", "run")
	w.waitFor("three pictures", func() bool { return w.count("completed") == 3 })
	assert.Empty(t, r.told("api_unreachable"))

	w.proxy.SetMode(simproxy.Refuse)
	w.proxy.Restart() // the connections that are open end, too
	broken := time.Now()
	w.enqueue("a lighthouse in a storm", "--count", "2")
	w.waitFor("the alert", func() bool { return len(r.told("api_unreachable")) == 1 })
	t.Logf("the alert arrived %.1f s after the proxy broke", time.Since(broken).Seconds())
	a := r.told("api_unreachable")[0]
	assert.Equal(t, "new", a.State)
	assert.Equal(t, "error", a.Severity)
	assert.Contains(t, a.What.EN, w.proxy.Addr(), "it says which proxy")
	require.NotNil(t, a.Hint, "it says why and how to fix it")
	assert.Contains(t, a.Hint.EN, "proxy")
	assert.Contains(t, a.Do, "simple-test")
	w.waitFor("the alert of the robot", func() bool { return strings.Contains(r.texts(), "图像 API 自") })
	assert.Contains(t, r.texts(), "下一步：`", "its language is that of the service's users")
	body, _ := w.get(p, "/status.json")
	var status struct {
		Problems []struct{ Code, What, Do string }
	}
	require.NoError(t, json.Unmarshal([]byte(body), &status))
	require.Len(t, status.Problems, 1)
	assert.Equal(t, "api_unreachable", status.Problems[0].Code)
	assert.Equal(t, a.Do, status.Problems[0].Do)
	w.waitFor("the page shows the same", func() bool {
		body, _ := w.get(p, "/api/overview")
		var page struct {
			Well     bool
			Problems []struct {
				Code, Do string
				Hint     *struct{ EN string }
			}
		}
		require.NoError(t, json.Unmarshal([]byte(body), &page))
		return !page.Well && len(page.Problems) == 1 && page.Problems[0].Code == "api_unreachable" && page.Problems[0].Do == a.Do && page.Problems[0].Hint != nil
	})

	w.proxy.SetMode(simproxy.Serve) // the fix
	fixed := time.Now()
	w.waitFor("the pictures", func() bool { return w.count("completed") == 5 })
	w.waitFor("resolved", func() bool { return len(r.told("api_unreachable")) == 2 })
	t.Logf("resolved arrived %.1f s after the fix", time.Since(fixed).Seconds())
	assert.Equal(t, "resolved", r.told("api_unreachable")[1].State)
	w.waitFor("resolved at the robot", func() bool { return strings.Contains(r.texts(), "已恢复") })

	began := time.Now()
	p.stop(syscall.SIGTERM).ok()
	assert.Less(t, time.Since(began), 20*time.Second, "the receiver that never answers does not hold up the stop")
	w.audit()
}

// The monitor tells what it did and found, pings, and tells that the database is unavailable once, though nothing can be noted in it.
func TestAlerts_Monitor(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	r := w.withAlerts()
	w.env["HEARTBEAT_PING_URL"] = r.URL + "/ping/uuid-of-the-check-1234"
	w.secrets = append(w.secrets, "uuid-of-the-check-1234")

	var test struct {
		OK        bool
		Receivers []struct {
			Receiver, Error string
			OK              bool
		}
	}
	tested := w.run("monitor-tasks", "--test-alert", "--json")
	tested.is(3)
	tested.json(&test)
	require.Len(t, test.Receivers, 3)
	assert.Equal(t, []bool{true, false, true}, []bool{test.Receivers[0].OK, test.Receivers[1].OK, test.Receivers[2].OK})
	assert.Equal(t, "the receiver did not respond in time", test.Receivers[1].Error)
	assert.Contains(t, r.texts(), "告警测试")
	require.NoError(t, os.Remove(filepath.Join(w.dir, "imagetasks.toml")))
	assert.Contains(t, w.run("monitor-tasks", "--test-alert").ok(), "✓ alert_webhook_url: the test was accepted")
	assert.Empty(t, r.pinged())

	// A pass repairs a stuck task, finds that a charge is missing, and tells both in one message.
	w.grant(2)
	ids := w.enqueue("a forgotten task", "--count", "2")
	_, err := w.db.Exec(`update imagetasks.tasks set status = 'processing', processing_started_at = now() - interval '1 hour' where task_id = $1`, ids[0])
	require.NoError(t, err)
	_, err = w.db.Exec(`set session_replication_role = replica; delete from imagetasks.ledger where task_id = '` + ids[1] + `';
		update imagetasks.tasks set status = 'failed', completed_at = now() where task_id = '` + ids[1] + `'; set session_replication_role = origin`)
	require.NoError(t, err)
	w.run("monitor-tasks").is(3)
	require.Len(t, r.told("stuck_tasks_repaired"), 1)
	assert.Equal(t, "happened", r.told("stuck_tasks_repaired")[0].State)
	assert.Equal(t, 1, r.told("stuck_tasks_repaired")[0].Finding.Count)
	require.Len(t, r.told("missing_charge"), 1)
	assert.Contains(t, r.told("missing_charge")[0].Do, "fix-stuck-tasks audit")
	assert.Equal(t, []string{"/ping/uuid-of-the-check-1234/start", "/ping/uuid-of-the-check-1234"}, r.pinged())
	w.run("monitor-tasks").is(3)
	require.Len(t, r.told("missing_charge"), 1, "told once")

	// What the audit finds is told by the next pass. The receiver gets no two messages within ten seconds.
	w.run("fix-stuck-tasks", "audit").is(3)
	_, err = w.db.Exec(`update imagetasks.alert_receivers set next_at = now() where receiver <> ''`)
	require.NoError(t, err)
	w.run("monitor-tasks").is(3)
	require.Len(t, r.told("audit_fault"), 1)
	w.run("fix-stuck-tasks", "audit", "--resolve", ids[1], "--credits", "0", "--reason", "test").is(3) // the balance still misses the charge

	// The database is unavailable for two passes.
	before := len(r.pinged())
	database := w.env["DATABASE_URL"]
	w.env["DATABASE_URL"] = "postgres://postgres@127.0.0.1:1/none"
	w.run("monitor-tasks").is(1)
	w.run("monitor-tasks").is(1)
	require.Len(t, r.told("database_unavailable"), 1)
	assert.Equal(t, []string{"/ping/uuid-of-the-check-1234/start", "/ping/uuid-of-the-check-1234/fail"}, r.pinged()[before:before+2])
	w.env["DATABASE_URL"] = database
	w.waitFor("resolved", func() bool {
		_, err := w.db.Exec(`update imagetasks.alert_receivers set next_at = now() where receiver <> ''`)
		require.NoError(t, err)
		w.run("monitor-tasks")
		return len(r.told("database_unavailable")) == 2 && len(r.told("missing_charge")) == 2
	})
	assert.Equal(t, "resolved", r.told("database_unavailable")[1].State)
	assert.Equal(t, "resolved", r.told("missing_charge")[1].State)

	// Settings of alerts that can't be used keep no pass from its work.
	require.NoError(t, os.WriteFile(filepath.Join(w.dir, "imagetasks.toml"), []byte("[[alert]]\nname = \"ops\"\nurl_env = \"NOT_SET\"\n"), 0o644))
	pass := w.run("monitor-tasks")
	pass.is(2)
	assert.Contains(t, pass.stdout, "0 pending")
	assert.Contains(t, pass.stderr, `imagetasks.toml: alert "ops": url_env: the environment variable NOT_SET is not set`)
	w.run("task-processor", "run", "--once").is(2)
	assert.Contains(t, w.run("simple-test").is(2), `alert "ops"`)
}

// A database that refuses the monitor, for example because it is read-only or the password has changed, is told once, as one that does not respond.
func TestAlerts_DatabaseRefuses(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	r := w.withAlerts()
	require.NoError(t, os.Remove(filepath.Join(w.dir, "imagetasks.toml")))
	database := w.env["DATABASE_URL"]
	w.env["DATABASE_URL"] = regexp.MustCompile(`/[^/?]+\?`).ReplaceAllString(database, "/missing?")
	require.NotEqual(t, database, w.env["DATABASE_URL"])
	w.run("monitor-tasks").is(1)
	w.run("monitor-tasks").is(1)
	require.Len(t, r.told("database_unavailable"), 1)
	assert.Contains(t, r.told("database_unavailable")[0].What.EN, "missing")
	w.env["DATABASE_URL"] = database
	w.waitFor("resolved", func() bool {
		w.run("monitor-tasks")
		return len(r.told("database_unavailable")) == 2
	})
}

// The monitor starts a dead processor again, and says so.
func TestAlerts_RestartedProcessor(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	withDaemon(w)
	r := w.withAlerts()
	require.NoError(t, os.Remove(filepath.Join(w.dir, "imagetasks.toml")))
	w.run("task-processor", "start").ok()
	require.NoError(t, syscall.Kill(w.pid(), syscall.SIGKILL))
	w.waitUntilStopped()
	w.run("monitor-tasks").ok()
	require.Len(t, r.told("processor_restarted"), 1)
	assert.Contains(t, r.told("processor_restarted")[0].What.EN, "which was dead")
	w.run("task-processor", "stop").ok()
}
