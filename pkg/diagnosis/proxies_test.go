package diagnosis_test

import (
	"crypto/x509"
	"fmt"
	"io"
	"maps"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/realproxy"
	"imagetasks/internal/simapi"
	"imagetasks/internal/simproxy"
	"imagetasks/pkg/diagnosis"
	"imagetasks/pkg/imageapi"
	"imagetasks/pkg/proxy"
	"imagetasks/pkg/task"
)

const key = "sk-test-0123456789"

// verdictLimit is how long the diagnosis of a proxy may take.
const verdictLimit = 20 * time.Second

// startAPI starts a simulated API, and returns it with the authority of its certificate; nil for http.
func startAPI(t *testing.T, scheme string) (*simapi.Server, *x509.CertPool) {
	t.Helper()
	conf := simapi.Config{Key: key}
	if scheme == "https" {
		authority, err := simapi.NewAuthority()
		require.NoError(t, err)
		conf.TLS = authority
	}
	api, err := simapi.Start(conf)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, api.Close()) })
	if conf.TLS == nil {
		return api, nil
	}
	return api, conf.TLS.Pool
}

// config returns the configuration of a diagnosis with the default time limits; via is empty for a direct connection.
func config(t *testing.T, base, via string, roots *x509.CertPool) diagnosis.Config {
	t.Helper()
	u, err := url.Parse(base)
	require.NoError(t, err)
	open := func(env proxy.Env) *proxy.Transport {
		tr, err := proxy.New(proxy.Config{Env: env, RootCAs: roots})
		require.NoError(t, err)
		t.Cleanup(tr.CloseIdleConnections)
		return tr
	}
	env := proxy.Env{}
	if via != "" {
		env.OpenAI = []string{via}
	}
	return diagnosis.Config{BaseURL: u, Model: "gpt-image-1", Transport: open(env), Direct: open(proxy.Env{}),
		Redact: func(s string) string { return s },
		API: func(by *proxy.Transport) diagnosis.API {
			client, err := imageapi.New(imageapi.Config{BaseURL: base, Key: key, Model: "gpt-image-1", Transport: by, MaxBytes: 1 << 20})
			assert.NoError(t, err)
			return client
		}}
}

// run runs a diagnosis and returns its last step and its note. It requires a verdict in time.
func run(t *testing.T, conf diagnosis.Config) (diagnosis.Step, *diagnosis.Detail) {
	t.Helper()
	began := time.Now()
	report := diagnosis.Run(t.Context(), conf)
	assert.Less(t, time.Since(began), verdictLimit, "%+v", report.Steps)
	last := report.Steps[len(report.Steps)-1]
	assert.Equal(t, last.OK, report.OK)
	text := fmt.Sprint(report)
	assert.NotContains(t, text, "hunter2")
	assert.NotContains(t, text, key)
	seen := map[diagnosis.StepName]bool{}
	for _, s := range report.Steps {
		assert.False(t, seen[s.Name], "%s twice: %+v", s.Name, report.Steps)
		seen[s.Name] = true
	}
	return last, report.Note
}

// want is the step that fails and its code.
type want struct {
	step diagnosis.StepName
	code task.Code
}

// realProxies start each real proxy.
var realProxies = map[string]func(testing.TB, realproxy.Config) *realproxy.Proxy{
	"tinyproxy": realproxy.StartTinyproxy,
	"squid":     realproxy.StartSquid,
	"privoxy":   realproxy.StartPrivoxy,
	"haproxy": func(tb testing.TB, conf realproxy.Config) *realproxy.Proxy {
		return realproxy.StartHAProxy(tb, conf, realproxy.Tinyproxy(tb, realproxy.Config{}))
	},
	"microsocks": realproxy.StartMicrosocks,
	"dante":      realproxy.StartDante,
	"v2ray, http": func(tb testing.TB, conf realproxy.Config) *realproxy.Proxy {
		return realproxy.StartV2Ray(tb, "http", conf)
	},
	"v2ray, socks": func(tb testing.TB, conf realproxy.Config) *realproxy.Proxy {
		return realproxy.StartV2Ray(tb, "socks5h", conf)
	},
}

// A proxy that accepts connections and does not respond gets its verdict in time.
func TestRun_RealProxiesThatHang(t *testing.T) {
	t.Parallel()
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, scheme := range []string{"http", "https"} {
		api, roots := startAPI(t, scheme)
		for name, start := range realProxies {
			hung := start(t, realproxy.Config{})
			hung.Hang()
			conf := config(t, api.URL(), hung.URL, roots)
			step := diagnosis.StepTunnel
			if scheme == "http" && strings.HasPrefix(hung.URL, "http") {
				step = diagnosis.StepProxy
			}
			wg.Go(func() {
				last, note := run(t, conf)
				assert.Equal(t, want{step, task.CodeProxyNoAnswer}, failure(last), "%s, %s: %+v", name, scheme, last)
				if assert.NotNil(t, note, name) {
					assert.Equal(t, diagnosis.NoteDirectWorks, note.Code, name)
				}
			})
		}
	}
}

// Each real proxy in each condition, with an API at http:// and at https://: the right step and the right code, in time.
func TestRun_RealProxies(t *testing.T) {
	t.Parallel()
	login := realproxy.Config{User: "wei", Password: "hunter2"}
	none := want{} // the proxy has no such condition
	forwards := map[string]want{
		"forbids": {diagnosis.StepProxy, task.CodeProxyForbids},
		"login":   {diagnosis.StepLogin, task.CodeProxyLoginRefused},
		"down":    {diagnosis.StepProxy, task.CodeProxyTarget},
		"unknown": {diagnosis.StepProxy, task.CodeProxyTarget},
	}
	tunnels := map[string]want{
		"forbids": {diagnosis.StepTunnel, task.CodeProxyForbids},
		"login":   {diagnosis.StepLogin, task.CodeProxyLoginRefused},
		"down":    {diagnosis.StepTunnel, task.CodeProxyTarget},
		"unknown": {diagnosis.StepTunnel, task.CodeProxyTarget},
	}
	socks := func(down, unknown task.Code) map[string]want {
		return map[string]want{
			"forbids": {diagnosis.StepTunnel, task.CodeSOCKSNotAllowed},
			"login":   {diagnosis.StepLogin, task.CodeProxyLoginRefused},
			"down":    {diagnosis.StepTunnel, down},
			"unknown": {diagnosis.StepTunnel, unknown},
		}
	}
	but := func(wants, changes map[string]want) map[string]want {
		out := maps.Clone(wants)
		maps.Copy(out, changes)
		maps.DeleteFunc(out, func(_ string, w want) bool { return w == none })
		return out
	}
	early := want{diagnosis.StepTunnel, task.CodeProxyTunnelClosed}
	for name, c := range map[string]struct {
		http, https map[string]want // https is nil: as http
	}{
		"tinyproxy":  {forwards, tunnels},
		"squid":      {forwards, tunnels},
		"privoxy":    {but(forwards, map[string]want{"login": none}), but(tunnels, map[string]want{"login": none})},
		"haproxy":    {forwards, tunnels},
		"microsocks": {but(socks(task.CodeSOCKSRefused, task.CodeSOCKSFailure), map[string]want{"forbids": none}), nil},
		"dante":      {socks(task.CodeSOCKSRefused, task.CodeSOCKSHost), nil},
		// It opens tunnels before it has connected. A blackhole as its outbound forbids.
		"v2ray, http": {but(forwards, map[string]want{"forbids": none}), // it closes the connection or responds 503, by chance

			but(tunnels, map[string]want{"forbids": early, "down": early, "unknown": early})},
		"v2ray, socks": {but(socks("", ""), map[string]want{"forbids": early, "down": early, "unknown": early}), nil},
	} {
		if c.https == nil {
			c.https = c.http
		}
		start := realProxies[name]
		for scheme, wants := range map[string]map[string]want{"http": c.http, "https": c.https} {
			t.Run(name+", "+scheme, func(t *testing.T) {
				t.Parallel()
				api, roots := startAPI(t, scheme)
				open := start(t, realproxy.Config{})
				for range 2 {
					last, note := run(t, config(t, api.URL(), open.URL, roots))
					assert.True(t, last.OK, "%+v", last)
					assert.Nil(t, note)
				}
				for condition, want := range wants {
					t.Run(condition, func(t *testing.T) {
						base, via := api.URL(), open.URL
						switch condition {
						case "forbids":
							via = start(t, realproxy.Config{Forbid: true}).URL
						case "login":
							via = strings.Replace(start(t, login).URL, "hunter2", "hunter22", 1)
						case "down":
							base = scheme + "://" + realproxy.ClosedAddr(t) + "/v1"
						case "unknown":
							base = scheme + "://nowhere.invalid/v1"
						}
						last, note := run(t, config(t, base, via, roots))
						assert.False(t, last.OK)
						assert.Equal(t, want, failure(last), "%+v", last)
						require.NotNil(t, note, "%+v", last)
						switch {
						case condition == "down" || condition == "unknown":
							assert.Equal(t, diagnosis.NoteDownBothWays, note.Code, "a target that is down both ways does not need a proxy")
						case want.code == task.CodeProxyTarget || want.code == task.CodeProxyTunnelClosed:
							assert.Equal(t, diagnosis.NoteNodeFails, note.Code)
						default:
							assert.Equal(t, diagnosis.NoteDirectWorks, note.Code)
						}
					})
				}
				// The missing login is told from the wrong one.
				if w, ok := wants["login"]; ok {
					u, err := url.Parse(start(t, login).URL)
					require.NoError(t, err)
					u.User = nil
					last, _ := run(t, config(t, api.URL(), u.String(), roots))
					assert.Equal(t, want{w.step, task.CodeProxyLoginMissing}, failure(last), "%+v", last)
				}
			})
		}
	}
}

// failure is the failed step and its code.
func failure(s diagnosis.Step) want { return want{s.Name, s.Code} }

// A proxy that hangs gets its verdict in time also if a direct connection is tried and gets no response either.
func TestRun_SilentBothWays(t *testing.T) {
	t.Parallel()
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, scheme := range []string{"http", "https"} {
		silent := listen(t, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
		conf := config(t, scheme+"://"+silent+"/v1", startProxy(t, simproxy.Hang), nil)
		wg.Go(func() {
			last, note := run(t, conf)
			assert.Equal(t, task.CodeProxyNoAnswer, last.Code, "%+v", last)
			assert.NotNil(t, note)
		})
	}
}
