package operate_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	_ "github.com/lib/pq"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/pgtest"
	"imagetasks/pkg/operate"
	"imagetasks/pkg/status"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

var server *pgtest.Server

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m, &server, migrate)) }

func migrate(ctx context.Context, databaseURL string) error {
	s, err := store.Open(store.Config{URL: databaseURL})
	if err != nil {
		return err
	}
	defer s.Close()
	_, err = s.Migrate(ctx, store.Roles{})
	return err
}

const token = "a-token-of-the-tests"

// page is a status page with actions on a database of its own.
type page struct {
	*store.Store
	t    *testing.T
	raw  *sql.DB
	addr string
	log  bytes.Buffer
	ids  map[string]string // of tasks, by their state
}

func newPage(t *testing.T) *page {
	t.Helper()
	url := server.Database(t)
	s, err := store.Open(store.Config{URL: url})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, s.Close()) })
	raw, err := sql.Open("postgres", url)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, raw.Close()) })
	p := &page{Store: s, t: t, raw: raw, ids: map[string]string{}}
	log := logrus.New()
	log.SetOutput(&p.log)
	access, err := status.NewAccess(status.AccessConfig{Addr: "127.0.0.1:0", Token: token, Log: log})
	require.NoError(t, err)
	mux := http.NewServeMux()
	status.AddActions(mux, operate.New(operate.Config{Store: s, StuckAfter: 20 * time.Minute, Log: log,
		Redact:    func(text string) string { return strings.ReplaceAll(text, "hunter2", "[hidden]") },
		Endpoints: func(context.Context) ([]string, error) { return []string{"relay"}, nil }}))
	served, err := status.Serve(mux, access)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, served.Close()) })
	p.addr = served.Addr()

	_, err = s.GrantCredits(t.Context(), "u", 100, "", "first")
	require.NoError(t, err)
	for _, state := range []string{"failed", "stuck", "pending"} {
		r, err := s.Enqueue(t.Context(), store.EnqueueRequest{UserID: "u", Prompt: "a prompt", Cost: 10})
		require.NoError(t, err)
		p.ids[state] = r.TaskIDs[0]
		if state == "pending" {
			break
		}
		claimed, err := s.Claim(t.Context(), store.ClaimRequest{Worker: "w", Limit: 1, Lease: time.Hour, MaxAttempts: 3})
		require.NoError(t, err)
		require.Len(t, claimed, 1)
		if state == "failed" {
			_, err = s.Fail(t.Context(), claimed[0].Lease(), &task.Error{Code: task.CodeBadRequest, Message: "refused"}, true)
			require.NoError(t, err)
		}
	}
	_, err = raw.ExecContext(t.Context(), `update imagetasks.tasks set processing_started_at = now() - interval '1 hour' where task_id = $1`, p.ids["stuck"])
	require.NoError(t, err)
	return p
}

// state returns what actions may change.
func (p *page) state() string {
	p.t.Helper()
	var text string
	require.NoError(p.t, p.raw.QueryRowContext(p.t.Context(), `select json_build_object(
		'tasks', (select json_agg(t order by task_id) from imagetasks.tasks t), 'credits', (select json_agg(c) from imagetasks.credits c),
		'ledger', (select count(*) from imagetasks.ledger), 'control', (select json_agg(c) from imagetasks.control c),
		'operations', (select count(*) from imagetasks.operations), 'keys', (select count(*) from imagetasks.keys))`).Scan(&text))
	return text
}

func (p *page) balance() int64 {
	p.t.Helper()
	b, err := p.Balance(p.t.Context(), "u")
	require.NoError(p.t, err)
	return b
}

func (p *page) taskState(id string) task.State {
	p.t.Helper()
	t, err := p.Task(p.t.Context(), id)
	require.NoError(p.t, err)
	return t.State
}

// browser is a client with cookies.
type browser struct {
	p    *page
	http *http.Client
	csrf string
}

func (p *page) browser() *browser {
	jar, err := cookiejar.New(nil)
	require.NoError(p.t, err)
	return &browser{p: p, http: &http.Client{Jar: jar, Timeout: 30 * time.Second}}
}

// answer is what the page gets.
type answer struct {
	Message struct{ EN, ZH string }
	Error   struct {
		Code    string
		Message struct{ EN, ZH string }
	}
	CSRF       string
	Run        int
	Balance    int64
	Failed     int
	Operations []store.OperationEntry
}

func (b *browser) send(method, path, body string, headers map[string]string) (int, answer) {
	b.p.t.Helper()
	r, err := http.NewRequestWithContext(b.p.t.Context(), method, "http://"+b.p.addr+path, strings.NewReader(body))
	require.NoError(b.p.t, err)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Origin", "http://"+b.p.addr)
	r.Header.Set("X-CSRF-Token", b.csrf)
	for name, value := range headers {
		if value == "" {
			r.Header.Del(name)
			continue
		}
		r.Header.Set(name, value)
		if name == "Host" {
			r.Host = value
		}
	}
	got, err := b.http.Do(r)
	require.NoError(b.p.t, err)
	defer got.Body.Close()
	text, err := io.ReadAll(got.Body)
	require.NoError(b.p.t, err)
	var a answer
	if got.Header.Get("Content-Type") == "application/json" {
		require.NoError(b.p.t, json.Unmarshal(text, &a), string(text))
	}
	return got.StatusCode, a
}

func (b *browser) signIn() *browser {
	b.p.t.Helper()
	code, a := b.send("POST", "/api/session", `{"token":"`+token+`"}`, nil)
	require.Equal(b.p.t, 200, code)
	b.csrf = a.CSRF
	return b
}

func (b *browser) act(name string, body map[string]any) (int, answer) {
	b.p.t.Helper()
	text, err := json.Marshal(body)
	require.NoError(b.p.t, err)
	return b.send("POST", "/api/actions/"+name, string(text), nil)
}

// actions returns each action with a body that would change something.
func (p *page) actions() map[string]map[string]any {
	return map[string]map[string]any{
		"redrive": {"task_id": p.ids["failed"]}, "cancel": {"task_id": p.ids["pending"]}, "fix-stuck": {},
		"pause": {"scope": "model", "name": "m", "reason": "slow"}, "resume": {"scope": "queue"},
		"grant": {"user_id": "u", "credits": 5, "reason": "gift", "idempotency_key": uuid.NewString()},
	}
}

func TestActions_EachIsRefusedWithoutTokenCSRFOrFromElsewhere(t *testing.T) {
	p := newPage(t)
	_, err := p.Pause(t.Context(), "operator", "maintenance")
	require.NoError(t, err)
	anonymous, signedIn := p.browser(), p.browser().signIn()
	before := p.state()
	for name, body := range p.actions() {
		text, err := json.Marshal(body)
		require.NoError(t, err)
		for what, c := range map[string]struct {
			by      *browser
			headers map[string]string
			code    int
		}{
			"without a token":                     {anonymous, nil, 401},
			"with a wrong token":                  {anonymous, map[string]string{"Authorization": "Bearer wrong" + name}, 0},
			"without the session's CSRF token":    {signedIn, map[string]string{"X-CSRF-Token": ""}, 403},
			"with a wrong CSRF token":             {signedIn, map[string]string{"X-CSRF-Token": "x"}, 403},
			"from a foreign origin":               {signedIn, map[string]string{"Origin": "https://attacker.example"}, 403},
			"from another port of this host":      {signedIn, map[string]string{"Origin": "http://127.0.0.1:1"}, 403},
			"without an origin":                   {signedIn, map[string]string{"Origin": ""}, 403},
			"with a foreign host":                 {signedIn, map[string]string{"Host": "attacker.example"}, 403},
			"as a form":                           {signedIn, map[string]string{"Content-Type": "application/x-www-form-urlencoded"}, 415},
			"from a page of another site by mode": {signedIn, map[string]string{"Sec-Fetch-Site": "cross-site"}, 403},
		} {
			code, _ := c.by.send("POST", "/api/actions/"+name, string(text), c.headers)
			if c.code == 0 { // after some of them no more are compared
				assert.Contains(t, []int{401, 429}, code, "%s %s", name, what)
				continue
			}
			assert.Equal(t, c.code, code, "%s %s", name, what)
		}
		code, _ := signedIn.send("GET", "/api/actions/"+name, "", nil)
		assert.Equal(t, 405, code, "a link")
	}
	assert.Equal(t, before, p.state(), "nothing was changed")
	code, a := signedIn.act("unknown", nil)
	assert.Equal(t, 404, code)
	assert.Equal(t, "unknown_action", a.Error.Code)
	code, _ = anonymous.send("GET", "/api/operations", "", nil)
	assert.Equal(t, 401, code)
	assert.NotContains(t, p.log.String(), token)
}

func TestActions_EachIsDoneOnceAndLogged(t *testing.T) {
	p := newPage(t)
	b := p.browser().signIn()
	done := func(name string, body map[string]any) answer {
		t.Helper()
		code, a := b.act(name, body)
		require.Equal(t, 200, code, "%s: %s %s", name, a.Error.Code, a.Error.Message.EN)
		assert.NotEmpty(t, a.Message.EN)
		assert.NotEqual(t, a.Message.EN, a.Message.ZH)
		return a
	}
	refused := func(want int, name string, body map[string]any) answer {
		t.Helper()
		code, a := b.act(name, body)
		assert.Equal(t, want, code, "%s: %s", name, a.Error.Message.EN)
		assert.NotEqual(t, a.Error.Message.EN, a.Error.Message.ZH)
		return a
	}
	require.EqualValues(t, 80, p.balance())

	assert.Equal(t, 2, done("redrive", map[string]any{"task_id": p.ids["failed"], "run": 1}).Run)
	assert.EqualValues(t, 70, p.balance())
	assert.Equal(t, 2, done("redrive", map[string]any{"task_id": p.ids["failed"], "run": 1}).Run, "a second click")
	assert.Equal(t, "conflict", refused(409, "redrive", map[string]any{"task_id": p.ids["failed"]}).Error.Code, "it is pending now")
	assert.EqualValues(t, 70, p.balance())

	for range 2 {
		done("cancel", map[string]any{"task_id": p.ids["pending"]})
		assert.Equal(t, task.Cancelled, p.taskState(p.ids["pending"]))
		assert.EqualValues(t, 80, p.balance())
	}
	assert.Equal(t, 1, done("fix-stuck", nil).Failed)
	assert.Equal(t, task.Failed, p.taskState(p.ids["stuck"]))
	assert.EqualValues(t, 90, p.balance())
	assert.Zero(t, done("fix-stuck", nil).Failed)
	refused(409, "cancel", map[string]any{"task_id": p.ids["stuck"]})

	grant := map[string]any{"user_id": "u", "credits": 5, "reason": "gift", "idempotency_key": "k"}
	assert.EqualValues(t, 95, done("grant", grant).Balance)
	assert.EqualValues(t, 95, done("grant", grant).Balance, "a second click")
	grant["credits"] = 6
	refused(409, "grant", grant)
	assert.EqualValues(t, 95, p.balance())

	done("pause", map[string]any{"scope": "queue", "reason": "the password is hunter2"})
	done("pause", map[string]any{"scope": "model", "name": "m"})
	done("pause", map[string]any{"scope": "endpoint", "name": "relay", "reason": "slow"})
	pauses, err := p.Pauses(t.Context())
	require.NoError(t, err)
	require.Len(t, pauses, 3)
	assert.Equal(t, "the password is [hidden]", pauses[0].Reason)
	assert.Equal(t, "page: signed in, from 127.0.0.1", pauses[1].By)
	assert.Contains(t, refused(404, "pause", map[string]any{"scope": "endpoint", "name": "raley"}).Error.Message.EN, "there are: relay")
	for _, scope := range []string{"model", "endpoint"} {
		done("resume", map[string]any{"scope": scope, "name": map[string]string{"model": "m", "endpoint": "relay"}[scope]})
	}
	done("resume", map[string]any{"scope": "queue"})
	pauses, err = p.Pauses(t.Context())
	require.NoError(t, err)
	assert.Empty(t, pauses)

	for name, bodies := range map[string][]map[string]any{
		"redrive": {{}, {"task_id": strings.Repeat("x", 201)}, {"task_id": "a\nb"}}, "cancel": {{}, {"task_id": "\x00"}},
		"pause": {{}, {"scope": "all"}, {"scope": "queue", "name": "x"}, {"scope": "model"}, {"scope": "model", "name": " m"}, {"scope": "queue", "reason": "a\nb"}},
		"grant": {{}, {"user_id": "u", "credits": -1, "reason": "x", "idempotency_key": "z"}, {"user_id": "u", "credits": 1, "idempotency_key": "z"}, {"user_id": "u", "credits": 1, "reason": "x"}},
	} {
		for _, body := range bodies {
			assert.Equal(t, "invalid", refused(400, name, body).Error.Code, "%s %s", name, body)
		}
	}
	assert.Equal(t, "not_found", refused(404, "cancel", map[string]any{"task_id": "no such task"}).Error.Code)

	_, a := b.send("GET", "/api/operations", "", nil)
	var got []string
	for _, e := range a.Operations {
		assert.Equal(t, "page: signed in, from 127.0.0.1", e.Who)
		got = append([]string{e.What + "|" + e.Subject + "|" + e.Result}, got...)
	}
	assert.Equal(t, []string{
		"redrive|" + p.ids["failed"] + "|run 2", "redrive|" + p.ids["failed"] + "|was run 2",
		"cancel|" + p.ids["pending"] + "|cancelled", "cancel|" + p.ids["pending"] + "|was cancelled",
		"fix-stuck||begun", "fix-stuck||1 failed, 10 credits refunded, 0 left", "fix-stuck||begun", "fix-stuck||0 failed, 0 credits refunded, 0 left",
		"cancel|" + p.ids["stuck"] + "|was failed", "grant|u|balance 95",
		"pause||paused", "pause model|m|paused", "pause endpoint|relay|paused", "resume model|m|resumed", "resume endpoint|relay|resumed", "resume||resumed",
	}, got)
	rules, err := p.Audit(t.Context())
	require.NoError(t, err)
	assert.Zero(t, store.CountViolations(rules))
}

// Clicks at the same time, from several browsers, have the effect of one.
func TestActions_ManyAtOnce(t *testing.T) {
	p := newPage(t)
	b := p.browser().signIn()
	before := p.balance()
	var clicks sync.WaitGroup
	var mu sync.Mutex
	codes := map[int]int{}
	for range 20 {
		clicks.Go(func() {
			for name, body := range map[string]map[string]any{"cancel": {"task_id": p.ids["pending"]}, "redrive": {"task_id": p.ids["failed"], "run": 1},
				"grant": {"user_id": "u", "credits": 5, "reason": "gift", "idempotency_key": "k"}, "fix-stuck": {}} {
				code, _ := b.act(name, body)
				mu.Lock()
				codes[code]++
				mu.Unlock()
			}
		})
	}
	clicks.Wait()
	for code := range codes {
		assert.Contains(t, []int{200, 409, 429}, code)
	}
	for name, body := range map[string]map[string]any{"cancel": {"task_id": p.ids["pending"]}, "redrive": {"task_id": p.ids["failed"], "run": 1},
		"grant": {"user_id": "u", "credits": 5, "reason": "gift", "idempotency_key": "k"}, "fix-stuck": {}} {
		code, a := b.act(name, body) // whichever was refused because others were being done
		require.Equal(t, 200, code, a.Error.Message.EN)
	}
	assert.Equal(t, before+10-10+5+10, p.balance(), fmt.Sprint(codes))
	rules, err := p.Audit(t.Context())
	require.NoError(t, err)
	assert.Zero(t, store.CountViolations(rules))
}

// A database that does not respond is no success, and the page says that it is not known whether it was done.
func TestActions_DatabaseIsUnavailable(t *testing.T) {
	p := newPage(t)
	b := p.browser().signIn()
	require.NoError(t, p.Store.Close())
	for name, body := range p.actions() {
		code, a := b.act(name, body)
		assert.GreaterOrEqual(t, code, 500, name)
		assert.NotEmpty(t, a.Error.Message.ZH)
	}
}
