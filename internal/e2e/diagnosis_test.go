package e2e_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/realproxy"
	"imagetasks/internal/simapi"
	"imagetasks/internal/simproxy"
)

type diagnosisDocument struct {
	OK    bool
	Steps []struct {
		Step, Detail, Cause, Fix string
		OK                       bool
		Millis                   float64 `json:"ms"`
		Code                     string  `json:"error_code"`
	}
	Note string
}

// diagnose runs simple-test and requires its exit code.
func (w *fixture) diagnose(code int, more ...string) diagnosisDocument {
	w.t.Helper()
	r := w.run("simple-test", append([]string{"--json"}, more...)...)
	r.is(code)
	var d diagnosisDocument
	r.json(&d)
	return d
}

func TestSimpleTest_AllSteps(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	d := w.diagnose(0, "--image")
	var steps []string
	for _, s := range d.Steps {
		assert.True(t, s.OK, s)
		if s.Step != "settings" && s.Step != "dns" { // these two need no network here
			assert.Positive(t, s.Millis, s.Step)
		}
		steps = append(steps, s.Step)
	}
	assert.Equal(t, []string{"settings", "dns", "proxy", "login", "tunnel", "tls", "key", "endpoint", "models", "image"}, steps)
	assert.Contains(t, d.Steps[5].Detail, "issued by imagetasks simulated API")
	assert.Empty(t, d.Note)
	made, err := filepath.Glob(filepath.Join(w.dir, "test-results", "*.png"))
	require.NoError(t, err)
	assert.Len(t, made, 1)
	assert.Zero(t, w.directCalls())
	entries, err := os.ReadDir(w.dir)
	require.NoError(t, err)
	assert.Len(t, entries, 1, "it creates nothing but test-results")

	for _, c := range []struct{ args, lang, want string }{
		{"", "", "the API accepted the key"},
		{"", "zh_CN.UTF-8", "API 接受密钥"},
		{"--lang=en", "zh_CN.UTF-8", "the API accepted the key"},
		{"--lang=zh", "", "API 接受密钥"},
	} {
		w.env["LANG"] = c.lang
		output := w.run("simple-test", strings.Fields(c.args)...).ok()
		assert.Contains(t, output, c.want)
		assert.Equal(t, 9, strings.Count(output, "✓"))
	}
	w.run("simple-test", "--lang", "tlh").is(2)
}

// Each failure, produced by the proxies that Debian ships where they can, with its code, its hint, and the result of the other
// route.
func TestSimpleTest_FailingStep(t *testing.T) {
	t.Parallel()
	const login = "wei:rightlogin@"
	locked := realproxy.Tinyproxy(t, realproxy.Config{User: "wei", Password: "rightlogin"})
	lockedSOCKS := realproxy.Microsocks(t, realproxy.Config{User: "wei", Password: "rightlogin"})
	bare := func(address string) string { return strings.Replace(address, login, "", 1) }
	wrong := func(address string) string { return strings.Replace(address, login, "wei:wronglogin@", 1) }
	gone, err := simproxy.Start(simproxy.Config{})
	require.NoError(t, err)
	require.NoError(t, gone.Close())
	open, openSOCKS := realproxy.Tinyproxy(t, realproxy.Config{}), realproxy.Microsocks(t, realproxy.Config{})
	nowhere, dead := "https://nowhere.invalid/v1", "https://"+gone.Addr()+"/v1"
	for _, c := range []struct {
		name, proxy, step, code, fix string
		base                         string // of the API; empty: where it is
	}{
		{"tinyproxy without its login", bare(locked), "login", "proxy_login_missing", "user:password@", ""},
		{"tinyproxy with a wrong login", wrong(locked), "login", "proxy_login_refused", "user and password", ""},
		{"tinyproxy that forbids", realproxy.Tinyproxy(t, realproxy.Config{ConnectPorts: []int{563}}), "tunnel", "proxy_forbids_target", "Allow the API's host", ""},
		{"tinyproxy that filters the host", realproxy.Tinyproxy(t, realproxy.Config{RefuseHosts: []string{`127\.0\.0\.1`}}), "tunnel", "proxy_forbids_target", "Allow the API's host", ""},
		{"tinyproxy and a dead API", open, "tunnel", "proxy_cannot_reach_target", "Check the proxy's upstream", dead},
		{"tinyproxy and an unknown API", open, "tunnel", "proxy_cannot_reach_target", "Check the proxy's upstream", nowhere},
		{"microsocks without its login", bare(lockedSOCKS), "login", "proxy_login_missing", "user:password@", ""},
		{"microsocks with a wrong login", wrong(lockedSOCKS), "login", "proxy_login_refused", "user and password", ""},
		{"microsocks and a dead API", openSOCKS, "tunnel", "socks_connection_refused", "OPENAI_BASE_URL", dead},
		{"microsocks and an unknown API", openSOCKS, "tunnel", "socks_general_failure", "upstream", nowhere},
		{"socks5 and an unknown API", strings.Replace(openSOCKS, "socks5h", "socks5", 1), "dns", "direct_name_unknown", "socks5h", nowhere},
		{"tinyproxy taken for SOCKS", "socks5h" + strings.TrimPrefix(open, "http"), "tunnel", "proxy_no_answer", "scheme", ""},
		{"microsocks taken for http", "http" + strings.TrimPrefix(openSOCKS, "socks5h"), "tunnel", "proxy_is_no_proxy", "scheme", ""},
		{"a proxy that is down", "http://wei:rightlogin@" + gone.Addr(), "proxy", "proxy_refused", "Start the proxy", ""},
		{"a proxy of no name", "socks5h://proxy.invalid:1080", "dns", "proxy_name_unknown", "Check the host name", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newFixture(t)
			w.env["OPENAI_PROXY"] = c.proxy
			if c.code == "proxy_no_answer" {
				w.env["PROXY_CONNECT_TIMEOUT"] = "1s" // for the rest a busy machine has time
			}
			can := "can"
			if c.base != "" {
				w.env["OPENAI_BASE_URL"], can = c.base, "can't"
			}
			assert.Contains(t, w.diagnose(3).Note, "--direct", "no direct connection is made without it")
			d := w.diagnose(3, "--direct")
			last := d.Steps[len(d.Steps)-1]
			assert.Equal(t, c.step, last.Step)
			assert.Equal(t, c.code, last.Code)
			assert.NotEmpty(t, last.Cause)
			assert.Contains(t, last.Fix, c.fix)
			assert.Contains(t, d.Note, "Without the proxy the API "+can+" be reached")
			assert.Empty(t, w.api.Calls(), "no request bypasses the proxy")
			output := w.run("simple-test").is(3) + w.run("simple-test", "--lang", "zh").is(3)
			for _, secret := range []string{"rightlogin", "wronglogin"} {
				assert.NotContains(t, output, secret)
				assert.NotContains(t, last.Detail, secret)
			}
			// The processor records the same code, and uses no attempt.
			w.env["DIAL_TIMEOUT"] = "5s"
			w.grant(1)
			w.enqueue("a lantern")
			w.run("task-processor", "run", "--once").is(3)
			assert.Equal(t, 1, w.number(`select count(*) from imagetasks.tasks where status = 'pending' and attempt_count = 0 and error_code = $1`, c.code))
		})
	}
	t.Run("an open proxy", func(t *testing.T) {
		for _, address := range []string{realproxy.Tinyproxy(t, realproxy.Config{}), realproxy.Microsocks(t, realproxy.Config{})} {
			w := newFixture(t)
			w.env["OPENAI_PROXY"] = address
			assert.Contains(t, w.diagnose(0).Steps[3].Detail, "no login is set")
		}
	})
	t.Run("TLS intercepted", func(t *testing.T) {
		firewall, err := simapi.NewAuthorityOf("Corporate Firewall")
		require.NoError(t, err)
		w := newFixture(t, func(_ *simapi.Config, p *simproxy.Config) { p.Intercept = firewall.Issue })
		d := w.diagnose(3, "--direct")
		last := d.Steps[len(d.Steps)-1]
		assert.Equal(t, "tls_unknown_authority", last.Code)
		assert.Contains(t, last.Detail, "issued by: Corporate Firewall")
		assert.Contains(t, last.Fix, "SSL_CERT_FILE")
		assert.Contains(t, d.Note, "Without the proxy the API can be reached")
		w.grant(1)
		w.enqueue("a lantern")
		w.run("task-processor", "run", "--once").is(3)
		assert.Equal(t, 1, w.number(`select count(*) from imagetasks.tasks where attempt_count = 0 and error_code = 'tls_unknown_authority'`))
		assert.Zero(t, w.proxy.ReadAlong(), "no request was readable")

		// The fix, as the hint describes it.
		w.env["SSL_CERT_FILE"] = filepath.Join(w.dir, "firewall.pem")
		require.NoError(t, os.WriteFile(w.env["SSL_CERT_FILE"], firewall.PEM, 0o600))
		d = w.diagnose(0)
		assert.Contains(t, d.Steps[5].Detail, "issued by Corporate Firewall", "the issuer is shown all the same")
		w.run("task-processor", "run", "--once").ok()
		assert.Equal(t, 1, w.count("completed"))
	})
	t.Run("a base URL without its /v1", func(t *testing.T) {
		for _, noModels := range []bool{false, true} {
			w := newFixture(t, func(a *simapi.Config, _ *simproxy.Config) { a.NoModels = noModels })
			w.env["OPENAI_BASE_URL"] = strings.TrimSuffix(w.api.URL(), "/v1")
			w.diagnose(0)
			assert.Empty(t, w.api.Calls(), "it is found free of charge")
			w.grant(1)
			w.enqueue("a lantern")
			w.run("task-processor", "run", "--once").ok()
			assert.Equal(t, 1, w.count("completed"))
			assert.Len(t, w.api.Calls(), 1)
			w.env["OPENAI_BASE_URL"] = w.api.URL() + "/chat/completions"
			w.diagnose(0)
			w.env["OPENAI_BASE_URL"] = strings.TrimSuffix(w.api.URL(), "/v1") + "/nowhere"
			d := w.diagnose(3)
			last := d.Steps[len(d.Steps)-1]
			assert.Equal(t, "api_wrong_address", last.Code)
			assert.Contains(t, last.Fix, "/v1")
		}
	})
	t.Run("settings that can't be used", func(t *testing.T) {
		w := newFixture(t)
		for name, value := range map[string]string{"OPENAI_API_KEY": "", "OPENAI_PROXY": "ftp://u:" + proxyPassword + "@h:1", "TASK_TIMEOUT": "soon"} {
			before := w.env[name]
			w.env[name] = value
			d := w.diagnose(2)
			require.Len(t, d.Steps, 1)
			assert.False(t, d.OK)
			assert.Equal(t, "settings", d.Steps[0].Step)
			assert.Equal(t, "bad_settings", d.Steps[0].Code)
			assert.Contains(t, d.Steps[0].Detail, name)
			assert.NotEmpty(t, d.Steps[0].Fix)
			assert.Contains(t, w.run("simple-test", "--lang", "zh").is(2), "✗ 设置")
			w.env[name] = before
		}
	})
	t.Run("no proxy set, and one would do", func(t *testing.T) {
		w := newFixture(t)
		w.env["HTTPS_PROXY"], w.env["OPENAI_PROXY"] = w.env["OPENAI_PROXY"], ""
		w.env["NO_PROXY"] = "unreachable.invalid"
		w.env["OPENAI_BASE_URL"] = "https://unreachable.invalid/v1"
		d := w.diagnose(3)
		last := d.Steps[len(d.Steps)-1]
		assert.Equal(t, "direct_name_unknown", last.Code)
		assert.Contains(t, d.Note, "Through "+"http://"+w.proxy.Addr()+" the API can't be reached either")
	})
	t.Run("a refused model and a refused list", func(t *testing.T) {
		w := newFixture(t)
		w.env["OPENAI_MODEL"] = "gpt-image-1"
		w.api.RefuseList(&simapi.Refusal{Status: 403, Code: "insufficient_permissions"})
		d := w.diagnose(0)
		last := d.Steps[len(d.Steps)-1]
		assert.Equal(t, "models", last.Step, "the list is only shown")
		assert.Contains(t, last.Detail, "not needed")
		w.api.RefuseModel("gpt-image-1", &simapi.Refusal{Status: 503, Code: "model_not_found"})
		w.api.RefuseList(nil)
		d = w.diagnose(3)
		last = d.Steps[len(d.Steps)-1]
		assert.Equal(t, "model", last.Step)
		assert.Equal(t, "api_model_refused", last.Code)
		assert.Contains(t, last.Fix, "OPENAI_MODEL")
		assert.Contains(t, w.run("simple-test", "--lang", "zh").is(3), "✗ 模型权限")
		assert.Empty(t, w.api.Calls(), "nothing was paid for")
	})
	t.Run("the API's own refusals", func(t *testing.T) {
		w := newFixture(t)
		for _, c := range []struct {
			refusal    simapi.Refusal
			step, code string
		}{
			{simapi.Refusal{Status: 401, Code: "invalid_api_key"}, "key", "api_unauthorized"},
			{simapi.Refusal{Status: 403, Code: "unsupported_country_region_territory"}, "endpoint", "api_wrong_country"},
			{simapi.Refusal{Status: 429, Code: "insufficient_quota"}, "endpoint", "insufficient_quota"},
			{simapi.Refusal{Status: 429, Code: "rate_limit_exceeded"}, "endpoint", "rate_limited"},
			{simapi.Refusal{Status: 503}, "endpoint", "api_server_error"},
			{simapi.Refusal{Status: 200, WebPage: true}, "endpoint", "api_web_page"},
			{simapi.Refusal{Status: 403, WebPage: true}, "endpoint", "api_web_page"},
		} {
			w.api.Refuse(&c.refusal)
			d := w.diagnose(3)
			last := d.Steps[len(d.Steps)-1]
			assert.Equal(t, c.step, last.Step)
			assert.Equal(t, c.code, last.Code)
			assert.NotEmpty(t, last.Fix)
		}
	})
}

// The first working proxy of a list serves, and every proxy is reported.
func TestProxyList_Failover(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	second, err := simproxy.Start(simproxy.Config{User: "operator", Password: proxyPassword})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, second.Close()) })
	w.env["OPENAI_PROXY"] = w.proxy.URL() + ", " + second.URL()
	withDaemon(w)
	w.env["HUNG_AFTER"] = "16s" // a sign of life every 2 seconds
	w.grant(4)
	w.run("task-processor", "start").ok()
	w.enqueue("a lantern", "--count", "2")
	w.waitFor("the first serves", func() bool { return w.count("completed") == 2 })
	assert.Empty(t, second.Targets())

	require.NoError(t, w.proxy.Close())
	w.enqueue("a river", "--count", "2")
	w.waitFor("the second serves", func() bool { return w.count("completed") == 4 })
	assert.NotEmpty(t, second.Targets())
	assert.Zero(t, w.number(`select count(*) from imagetasks.tasks where error_code is not null`))
	w.waitFor("the ejection is shown", func() bool {
		return strings.Contains(w.run("task-processor", "status").stdout, "ejected since")
	})
	screen := w.run("task-processor", "status").ok()
	assert.Regexp(t, `(?m)^api +through http://`+w.proxy.Addr()+`, http://`+second.Addr(), screen)
	assert.Regexp(t, `(?m)^proxies +✗ http://`+w.proxy.Addr()+`  ejected since .*, next retry at .*refused`, screen)
	assert.Regexp(t, `(?m)^ +✓ http://`+second.Addr()+`  \d+ responses`, screen)
	assert.Regexp(t, `(?m)^rate +limits reported by the API at .*: limit-requests 60, remaining-requests 59`, screen)
	assert.Contains(t, w.run("task-processor", "status", "--lang", "zh").ok(), "停用")
	log := w.file("task-processor.log")
	assert.Equal(t, 1, strings.Count(log, "proxy ejected"), log)

	// It becomes a problem after a minute, with the command to run next.
	assert.Contains(t, screen, "All is well.")
	w.waitFor("the problem", func() bool {
		_, err := w.db.Exec(`update imagetasks.processors set report = jsonb_set(report, '{upstreams,0,since}', to_jsonb(now() - interval '2 minutes'))`)
		require.NoError(t, err)
		r := w.run("task-processor", "status") // between two heartbeats
		return r.code == 3 && strings.Contains(r.stdout, "! proxy http://"+w.proxy.Addr()+" has been ejected since") &&
			strings.Contains(r.stdout, "next: "+bin+"/simple-test\n")
	})

	d := w.diagnose(3)
	assert.Contains(t, d.Note, "The API works through http://"+second.Addr())
	last := d.Steps[len(d.Steps)-1]
	assert.Equal(t, "models", last.Step, "it continues with the proxy that works")
	assert.True(t, last.OK)
	output := w.run("simple-test").is(3)
	assert.Regexp(t, `(?m)^http://`+w.proxy.Addr()+`$`, output)
	assert.Regexp(t, `(?m)^http://`+second.Addr()+`$`, output)
	w.proxy, err = simproxy.StartAt(simproxy.Config{User: "operator", Password: proxyPassword}, w.proxy.Addr())
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, w.proxy.Close()) })
	w.waitFor("the first serves again", func() bool { return strings.Contains(w.file("task-processor.log"), "proxy serves again") })
	w.grant(1)
	w.enqueue("a bridge")
	w.waitFor("another picture", func() bool { return w.count("completed") == 5 })
	calls := w.api.Calls()
	assert.True(t, w.proxy.Carried(calls[len(calls)-1].Remote))
	w.run("task-processor", "stop").ok()
	w.audit()

	w.env["OPENAI_PROXY"] = w.proxy.URL() + ",socks4://operator:" + proxyPassword + "@127.0.0.1:1"
	r := w.run("simple-test")
	r.is(2)
	assert.Contains(t, r.stdout, "OPENAI_PROXY (proxy 2 of 2)")
	assert.Empty(t, r.stderr, "the report has the reason")
}
