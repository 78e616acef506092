package webhook_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	_ "github.com/lib/pq"
	"github.com/sirupsen/logrus"
	"github.com/sirupsen/logrus/hooks/test"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/pgtest"
	"imagetasks/internal/realproxy"
	"imagetasks/pkg/proxy"
	"imagetasks/pkg/store"
	"imagetasks/pkg/webhook"
)

var server *pgtest.Server

func TestMain(m *testing.M) {
	os.Exit(pgtest.Main(m, &server, func(ctx context.Context, url string) error {
		s, err := store.Open(store.Config{URL: url})
		if err != nil {
			return err
		}
		_, err = s.Migrate(ctx, store.Roles{})
		return errors.Join(err, s.Close())
	}))
}

// receiver is a receiver of webhooks. respond may be replaced.
type receiver struct {
	*httptest.Server
	mu       sync.Mutex
	requests []*http.Request
	messages []webhook.Message
	respond  http.HandlerFunc
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{}
	r.Server = httptest.NewServer(r)
	t.Cleanup(func() { r.CloseClientConnections(); r.Close() })
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	body, _ := io.ReadAll(request.Body)
	var m webhook.Message
	_ = json.Unmarshal(body, &m)
	r.mu.Lock()
	respond := r.respond
	r.requests, r.messages = append(r.requests, request), append(r.messages, m)
	r.mu.Unlock()
	if respond != nil {
		respond(w, request)
	}
}

func (r *receiver) set(respond http.HandlerFunc) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.respond = respond
}

// byID returns how often each event was received.
func (r *receiver) byID() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[string]int{}
	for _, request := range r.requests {
		out[request.Header.Get("webhook-id")]++
	}
	return out
}

func (r *receiver) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.requests)
}

// fixture is a database, with receivers and services.
type fixture struct {
	t     *testing.T
	db    *sql.DB
	store *store.Store
	logs  *test.Hook
	log   *logrus.Logger
	conf  webhook.Config
}

func newFixture(t *testing.T, receivers ...store.EventReceiver) *fixture {
	t.Helper()
	f := &fixture{t: t}
	f.log, f.logs = test.NewNullLogger()
	dsn := server.Database(t)
	var err error
	f.db, err = sql.Open("postgres", dsn)
	require.NoError(t, err)
	f.store, err = store.Open(store.Config{URL: dsn})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, errors.Join(f.store.Close(), f.db.Close())) })
	require.NoError(t, f.store.SetCompletionEvents(t.Context(), receivers...))
	hosts, err := webhook.ParseHosts("*.allowed.example, allowed.example")
	require.NoError(t, err)
	f.conf = webhook.Config{Store: f.store, Transport: transport(t, proxy.Env{}), Hosts: hosts, AllowPrivate: true, UserAgent: "imagetasks/test",
		Interval: 10 * time.Millisecond, Timeout: 500 * time.Millisecond, FirstRetry: 50 * time.Millisecond, LongestRetry: 200 * time.Millisecond,
		StopGrace: time.Second, Log: f.log}
	return f
}

func transport(t *testing.T, env proxy.Env) *proxy.Transport {
	t.Helper()
	tr, err := proxy.New(proxy.Config{Env: env, DialTimeout: 2 * time.Second, TLSTimeout: time.Second, FirstByteTimeout: 5 * time.Second})
	require.NoError(t, err)
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

// allow lets tasks name the host of an address.
func (f *fixture) allow(addresses ...string) {
	f.t.Helper()
	var names []string
	for _, address := range addresses {
		u, err := url.Parse(address)
		require.NoError(f.t, err)
		names = append(names, u.Host)
	}
	hosts, err := webhook.ParseHosts(strings.Join(names, ","))
	require.NoError(f.t, err)
	f.conf.Hosts = append(f.conf.Hosts, hosts...)
}

// closeTasks closes tasks with this webhook URL, none if empty, as failed.
func (f *fixture) closeTasks(n int, url string) {
	f.t.Helper()
	options := "{}"
	if url != "" {
		options = fmt.Sprintf(`{"webhook_url": %q}`, url)
	}
	_, err := f.db.ExecContext(f.t.Context(), `
		with made as (insert into imagetasks.tasks (task_id, user_id, prompt, options) select gen_random_uuid()::text, 'u', 'a secret prompt', $2 from generate_series(1, $1) returning task_id)
		select count(*) from made`, n, options)
	require.NoError(f.t, err)
	_, err = f.db.ExecContext(f.t.Context(), `update imagetasks.tasks set status = 'failed', error_code = 'server_error', error_message = 'the API failed',
		completed_at = now() where status = 'pending'`)
	require.NoError(f.t, err)
}

// start runs a service until the test ends, or stop is called.
func (f *fixture) start() (stop func()) {
	f.t.Helper()
	s, err := webhook.New(f.conf)
	require.NoError(f.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.Run(ctx)
	}()
	stop = sync.OnceFunc(func() { cancel(); <-ended })
	f.t.Cleanup(stop)
	return stop
}

// states returns how many events are in each state.
func (f *fixture) states() map[string]int {
	f.t.Helper()
	rows, err := f.db.QueryContext(f.t.Context(), `select state, count(*) from imagetasks.events group by state`)
	require.NoError(f.t, err)
	defer rows.Close()
	out := map[string]int{}
	for rows.Next() {
		var state string
		var n int
		require.NoError(f.t, rows.Scan(&state, &n))
		out[state] = n
	}
	require.NoError(f.t, rows.Err())
	return out
}

// wait waits for the states of all events.
func (f *fixture) wait(want map[string]int) {
	f.t.Helper()
	if !assert.Eventually(f.t, func() bool { return assert.ObjectsAreEqual(want, f.states()) }, 20*time.Second, 5*time.Millisecond) {
		f.t.Fatalf("states: %v, want %v", f.states(), want)
	}
}

// row returns the only event.
func (f *fixture) row() store.EventRow {
	f.t.Helper()
	rows, err := f.store.Events(f.t.Context(), "", 10)
	require.NoError(f.t, err)
	require.Len(f.t, rows, 1)
	return rows[0]
}

func TestService_DeliversSignedMessages(t *testing.T) {
	t.Parallel()
	f := newFixture(t, store.ReceiverWebhook)
	r := newReceiver(t)
	f.conf.URL = r.URL + "/hooks?token=t"
	var err error
	f.conf.Secrets, err = webhook.ParseSecrets("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	require.NoError(t, err)
	f.closeTasks(3, "")
	f.start()
	f.wait(map[string]int{"delivered": 3})
	require.Equal(t, 3, r.count())
	request, m := r.requests[0], r.messages[0]
	assert.Equal(t, "/hooks?token=t", request.RequestURI)
	assert.Equal(t, "application/json", request.Header.Get("Content-Type"))
	assert.Equal(t, "imagetasks/test", request.Header.Get("User-Agent"))
	assert.Regexp(t, `^v1,[A-Za-z0-9+/]{43}=$`, request.Header.Get("webhook-signature"))
	assert.Empty(t, request.Header.Get("Authorization"))
	assert.Equal(t, "task.failed", m.Type)
	assert.Equal(t, "u", m.Data.UserID)
	assert.Equal(t, "failed", m.Data.Status)
	assert.Equal(t, "the API failed", *m.Data.ErrorMessage)
	assert.Nil(t, m.Data.ImageURL)
	assert.WithinDuration(t, time.Now(), m.Timestamp, time.Minute)
	assert.Equal(t, 1, m.Data.Run)
}

// A receiver that was out of order gets every event once it is back, and is asked seldom meanwhile.
func TestService_ReceiverBackAfterAnOutage(t *testing.T) {
	t.Parallel()
	f := newFixture(t, store.ReceiverWebhook)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := listener.Addr().String()
	require.NoError(t, listener.Close())
	f.conf.URL = "http://" + address
	f.closeTasks(60, "")
	stop := f.start()
	require.Eventually(t, func() bool {
		receivers, err := f.store.FailingReceivers(t.Context(), 10)
		return err == nil && len(receivers) == 1 && strings.Contains(receivers[0].Reason, "connection refused")
	}, 10*time.Second, 5*time.Millisecond)
	f.closeTasks(40, "")
	time.Sleep(1200 * time.Millisecond) // two minutes, scaled as the waits are
	var attempts int
	require.NoError(t, f.db.QueryRow(`select sum(attempts) from imagetasks.events`).Scan(&attempts))
	assert.Less(t, attempts, 30, "one at a time is tried while it does not respond")

	r := &receiver{}
	again, err := net.Listen("tcp", address)
	require.NoError(t, err)
	r.Server = &httptest.Server{Listener: again, Config: &http.Server{Handler: r}}
	r.Start()
	defer r.Close()
	f.wait(map[string]int{"delivered": 100})
	stop()
	for id, n := range r.byID() {
		assert.Equal(t, 1, n, id)
	}
	assert.Len(t, r.byID(), 100)
	var texts []string
	for _, e := range f.logs.AllEntries() {
		texts = append(texts, e.Message)
	}
	assert.Contains(t, strings.Join(texts, "\n"), "works again")
	assert.NotContains(t, strings.Join(texts, "\n"), "secret")
	assert.Less(t, len(texts), 10, "an outage is logged when it begins and ends")
}

// Receivers that hang, drip, reset the connection or speak no TLS that this host trusts delay nobody else.
func TestService_BadReceiversDelayNoOthers(t *testing.T) {
	t.Parallel()
	f := newFixture(t, store.ReceiverTask)
	f.conf.Timeout = 1500 * time.Millisecond
	good, hanging, dripping, slow, resetting := newReceiver(t), newReceiver(t), newReceiver(t), newReceiver(t), newReceiver(t)
	hanging.set(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	dripping.set(func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			_, _ = io.WriteString(w, ".")
			w.(http.Flusher).Flush()
			time.Sleep(20 * time.Millisecond)
		}
	})
	slow.set(func(http.ResponseWriter, *http.Request) { time.Sleep(200 * time.Millisecond) })
	resetting.set(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			_ = conn.(*net.TCPConn).SetLinger(0)
			_ = conn.Close()
		}
	})
	untrusted := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	untrusted.Config.ErrorLog = log.New(io.Discard, "", 0)
	untrusted.StartTLS()
	t.Cleanup(untrusted.Close)
	plain := newReceiver(t)
	noTLS := "https" + strings.TrimPrefix(plain.URL, "http")
	f.allow(good.URL, hanging.URL, dripping.URL, slow.URL, resetting.URL, untrusted.URL, noTLS)
	for _, address := range []string{hanging.URL, resetting.URL, untrusted.URL, noTLS} {
		f.closeTasks(10, address)
	}
	f.closeTasks(3, dripping.URL)
	f.closeTasks(3, slow.URL)
	f.start()
	require.Eventually(t, func() bool { return hanging.count() > 0 && resetting.count() > 0 }, 10*time.Second, time.Millisecond)
	began := time.Now()
	f.closeTasks(20, good.URL)
	require.Eventually(t, func() bool { return len(good.byID()) == 20 }, 10*time.Second, time.Millisecond)
	assert.Less(t, time.Since(began), 2*time.Second)
	f.wait(map[string]int{"due": 40, "delivered": 26})
	var receivers []store.FailingReceiver
	require.Eventually(t, func() bool {
		var err error
		receivers, err = f.store.FailingReceivers(t.Context(), 10)
		return err == nil && len(receivers) == 4
	}, 10*time.Second, 5*time.Millisecond)
	reasons := map[string]string{}
	for _, r := range receivers {
		reasons[r.Host] = r.Reason
	}
	host := func(address string) string { u, _ := url.Parse(address); return u.Host }
	assert.Contains(t, reasons[host(hanging.URL)], "did not respond within 1.5s")
	assert.Contains(t, reasons[host(resetting.URL)], "connection reset")
	assert.Contains(t, reasons[host(untrusted.URL)], "certificate")
	assert.Contains(t, reasons[host(noTLS)], "tls")
}

func TestService_Statuses(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		respond http.HandlerFunc
		state   map[string]int
		reason  string
		tries   int
	}{
		"gone": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(410) }, map[string]int{"undelivered": 1}, "410 (Gone)", 1},
		"redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/other", http.StatusTemporaryRedirect)
		}, map[string]int{"undelivered": 1}, "not followed", 2},
		"server": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, map[string]int{"undelivered": 1}, "500 Internal Server Error", 2},
		"retry-after": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(429)
		}, map[string]int{"due": 1},
			"429 Too Many Requests", 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, store.ReceiverWebhook)
			r := newReceiver(t)
			r.set(test.respond)
			f.conf.URL = r.URL
			if test.state["undelivered"] > 0 {
				f.conf.RetryFor = time.Millisecond
			}
			f.closeTasks(1, "")
			f.start()
			require.Eventually(t, func() bool { return f.row().Reason != "" && assert.ObjectsAreEqual(test.state, f.states()) }, 10*time.Second, 5*time.Millisecond)
			row := f.row()
			assert.Contains(t, row.Reason, test.reason)
			assert.LessOrEqual(t, row.Attempts, test.tries)
			r.mu.Lock()
			defer r.mu.Unlock()
			for _, request := range r.requests {
				assert.Equal(t, "/", request.URL.Path)
			}
			if name == "retry-after" {
				assert.WithinDuration(t, time.Now().Add(time.Hour), row.NextAt, time.Minute)
			}
		})
	}
}

// URLs that are not allowed are given up at once, and nothing is sent.
func TestService_RefusedAddresses(t *testing.T) {
	t.Parallel()
	f := newFixture(t, store.ReceiverTask)
	r := newReceiver(t)
	f.conf.AllowPrivate = false
	f.allow(r.URL, "https://localhost")
	f.closeTasks(1, r.URL)
	f.closeTasks(1, "https://localhost/x")
	f.closeTasks(1, "https://elsewhere.example/x?token=secret-token")
	f.closeTasks(1, "https://user:pw@allowed.example/x")
	f.start()
	f.wait(map[string]int{"undelivered": 4})
	rows, err := f.store.Events(t.Context(), "", 10)
	require.NoError(t, err)
	reasons := map[string]string{}
	for _, row := range rows {
		reasons[row.Host] = row.Reason
		assert.NotContains(t, row.Reason, "secret-token")
	}
	u, _ := url.Parse(r.URL)
	assert.Contains(t, reasons[u.Host], "not on the public Internet")
	assert.Contains(t, reasons["localhost"], "not on the public Internet")
	assert.Contains(t, reasons["elsewhere.example"], "COMPLETION_WEBHOOK_HOSTS does not list the host elsewhere.example")
	assert.Contains(t, reasons["allowed.example"], "has a login")
	assert.Zero(t, r.count())

	f.conf.URL = r.URL
	_, err = webhook.New(f.conf)
	assert.ErrorContains(t, err, "COMPLETION_WEBHOOK_ALLOW_PRIVATE=on")
}

// A public name that resolves to a private address is refused when the connection is made.
func TestTest_RefusesNamesOfPrivateAddresses(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.conf.AllowPrivate = false
	asked := errors.New("no check of addresses")
	f.conf.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
		// The transport of the tests, with a name that this host resolves to a loopback address.
		u := *r.URL
		u.Host = "127.0.0.1:1"
		again := r.Clone(r.Context())
		again.URL = &u
		response, err := transport(t, proxy.Env{}).RoundTrip(again)
		if err == nil {
			return response, asked
		}
		return nil, err
	})
	f.conf.URL = "http://hooks.example"
	_, _, err := webhook.Test(t.Context(), f.conf)
	assert.ErrorContains(t, err, "the name of the host was resolved to an address that is not on the public Internet")
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// Several processors deliver each event once while nothing fails, and none of them asks a receiver that fails more than it has to.
func TestService_TwoAtOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t, store.ReceiverWebhook, store.ReceiverTask)
	r := newReceiver(t)
	f.conf.URL = r.URL
	f.allow(r.URL)
	f.closeTasks(100, "")
	f.closeTasks(50, r.URL)
	f.start()
	f.start()
	f.wait(map[string]int{"delivered": 200})
	once, twice := 0, 0
	for _, n := range r.byID() {
		switch n {
		case 1:
			once++
		case 2:
			twice++
		}
	}
	assert.Equal(t, 100, once)
	assert.Equal(t, 50, twice, "once for each of its two receivers, with the same id")
}

// A stop waits a little for deliveries in flight. What it cut is delivered by the next service, with the same id.
func TestService_Stop(t *testing.T) {
	t.Parallel()
	f := newFixture(t, store.ReceiverWebhook)
	r := newReceiver(t)
	f.conf.URL, f.conf.StopGrace, f.conf.Timeout = r.URL, 50*time.Millisecond, 10*time.Second
	r.set(func(_ http.ResponseWriter, request *http.Request) { <-request.Context().Done() })
	f.closeTasks(2, "")
	stop := f.start()
	require.Eventually(t, func() bool { return r.count() == 2 }, 10*time.Second, time.Millisecond)
	began := time.Now()
	stop()
	assert.Less(t, time.Since(began), 3*time.Second)
	r.set(nil)
	report, err := webhook.Pass(t.Context(), f.conf)
	require.NoError(t, err)
	assert.Equal(t, webhook.Report{Delivered: 2}, report)
	for id, n := range r.byID() {
		assert.Equal(t, 2, n, id)
	}
	assert.Equal(t, map[string]int{"delivered": 2}, f.states())
}

// The events of tasks that end with the processor leave before it ends.
func TestService_LastEventsLeaveAtTheStop(t *testing.T) {
	t.Parallel()
	f := newFixture(t, store.ReceiverWebhook, store.ReceiverNotify)
	r := newReceiver(t)
	f.conf.URL, f.conf.Interval = r.URL, time.Hour
	f.closeTasks(1, "")
	stop := f.start()
	f.wait(map[string]int{"delivered": 1})
	f.closeTasks(3, "")
	stop()
	assert.Equal(t, map[string]int{"delivered": 4}, f.states(), "and none for NOTIFY is left")
}

func TestService_TemplateAndNoSecret(t *testing.T) {
	t.Parallel()
	f := newFixture(t, store.ReceiverWebhook, store.ReceiverTask)
	own, other := newReceiver(t), newReceiver(t)
	f.allow(other.URL)
	f.conf.URL = own.URL
	var err error
	f.conf.Template, err = webhook.ParseTemplate(webhook.BuiltinTaskID, func(string) (string, bool) { return "the-key", true })
	require.NoError(t, err)
	var body []byte
	own.Config.Handler = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		own.mu.Lock()
		defer own.mu.Unlock()
		own.requests = append(own.requests, r)
		body, _ = io.ReadAll(r.Body)
	})
	f.closeTasks(1, other.URL)
	f.start()
	f.wait(map[string]int{"delivered": 2})
	own.mu.Lock()
	defer own.mu.Unlock()
	assert.Equal(t, "Bearer the-key", own.requests[0].Header.Get("Authorization"))
	assert.Empty(t, own.requests[0].Header.Get("webhook-signature"))
	assert.Contains(t, string(body), `"status": "failed", "imageUrl": null, "error": "the API failed"`)
	assert.Empty(t, other.requests[0].Header.Get("Authorization"), "the key of the operator's receiver goes nowhere else")
	assert.Equal(t, "task.failed", other.messages[0].Type)
}

func TestService_ThroughARealProxy(t *testing.T) {
	t.Parallel()
	p := realproxy.StartTinyproxy(t, realproxy.Config{User: "me", Password: "pw"})
	f := newFixture(t, store.ReceiverWebhook)
	r := newReceiver(t)
	f.conf.URL, f.conf.Timeout = r.URL, 5*time.Second
	wrong := strings.Replace(p.URL, "pw", "wrong", 1)
	f.conf.Transport = transport(t, proxy.Env{OpenAI: []string{wrong}})
	_, _, err := webhook.Test(t.Context(), f.conf)
	require.ErrorContains(t, err, "proxy", "there is no direct connection instead")
	require.Zero(t, r.count())
	f.conf.Transport = transport(t, proxy.Env{OpenAI: []string{p.URL}})
	f.closeTasks(5, "")
	f.start()
	f.wait(map[string]int{"delivered": 5})
	r.mu.Lock()
	defer r.mu.Unlock()
	assert.Empty(t, r.requests[0].Header.Get("Proxy-Authorization"))
}
