package proxy_test

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http/httpproxy"

	"imagetasks/internal/simapi"
	"imagetasks/internal/simproxy"
	"imagetasks/pkg/proxy"
)

// docs/proxies.md documents how curl and Go's defaults differ from imagetasks. This test runs all three.
func TestCurlCompat_DocumentedDifferences(t *testing.T) {
	doc, err := os.ReadFile("../../docs/proxies.md")
	require.NoError(t, err)
	documented := func(row string) {
		t.Helper()
		assert.Contains(t, string(doc), "\n"+row+"\n")
	}
	api := httptest.NewServer(http.NotFoundHandler())
	defer api.Close()
	loopback := strings.Replace(api.URL, "127.0.0.1", "localhost", 1)
	httpProxy := startProxy(t, simproxy.Config{})
	socks := startProxy(t, simproxy.Config{Scheme: "socks5"})
	asked := func(p *simproxy.Proxy, ask func()) string {
		before := len(p.Targets())
		ask()
		if now := p.Targets(); len(now) > before {
			host, _, _ := strings.Cut(now[len(now)-1], ":")
			return host
		}
		return ""
	}
	curl := func(target string, env ...string) func() {
		return func() {
			cmd := exec.Command("curl", "-sS", "-o", os.DevNull, "-m", "20", target)
			cmd.Env = env
			out, err := cmd.CombinedOutput()
			assert.NoError(t, err, "%s: %s", cmd, out)
		}
	}
	std := func(target string, env httpproxy.Config) func() {
		return func() {
			choose := env.ProxyFunc()
			tr := &http.Transport{Proxy: func(r *http.Request) (*url.URL, error) { return choose(r.URL) }}
			defer tr.CloseIdleConnections()
			r, err := http.NewRequest(http.MethodGet, target, nil)
			require.NoError(t, err)
			if answer, err := tr.RoundTrip(r); err == nil {
				_ = answer.Body.Close()
			}
		}
	}
	ours := func(target string, env proxy.Env) func() {
		return func() { _, _, _ = post(transport(t, proxy.Config{Env: env}), target) }
	}
	const none = ""

	documented("| `ALL_PROXY` | read | read | ignored |")
	assert.Equal(t, "localhost", asked(httpProxy, curl(loopback, "ALL_PROXY="+httpProxy.URL())))
	t.Setenv("ALL_PROXY", httpProxy.URL())
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "REQUEST_METHOD"} {
		t.Setenv(name, "")
	}
	assert.Equal(t, none, asked(httpProxy, std("http://api.invalid/", *httpproxy.FromEnvironment())))

	documented("| `HTTP_PROXY` | both cases | lower case only | both cases; upper case ignored under CGI |")
	assert.Equal(t, "localhost", asked(httpProxy, curl(loopback, "http_proxy="+httpProxy.URL())))
	assert.Equal(t, none, asked(httpProxy, curl(loopback, "HTTP_PROXY="+httpProxy.URL())))
	_, err = (&httpproxy.Config{HTTPProxy: httpProxy.URL(), CGI: true}).ProxyFunc()(&url.URL{Scheme: "http", Host: "api.invalid"})
	assert.ErrorContains(t, err, "CGI")

	documented("| loopback hosts | reached directly, but with `OPENAI_PROXY` | through the proxy | reached directly |")
	assert.Equal(t, none, asked(httpProxy, ours(loopback, proxy.Env{HTTP: httpProxy.URL()})))
	assert.Equal(t, "localhost", asked(httpProxy, ours(loopback, proxy.Env{OpenAI: []string{httpProxy.URL()}})))
	assert.Equal(t, none, asked(httpProxy, std(loopback, httpproxy.Config{HTTPProxy: httpProxy.URL()})))

	documented("| `socks5://` looks names up | here | here | at the proxy |")
	assert.Equal(t, "127.0.0.1", asked(socks, curl(loopback, "http_proxy="+socks.URL())))
	assert.Contains(t, []string{"127.0.0.1", "[", "::1"}, asked(socks, ours(loopback, proxy.Env{OpenAI: []string{socks.URL()}})))
	assert.Equal(t, "name.invalid", asked(socks, std("http://name.invalid/", httpproxy.Config{HTTPProxy: socks.URL()})))

	documented("| `socks4://`, `socks4a://` | refused at start | taken | spoken to as an http proxy |")
	four := "socks4" + strings.TrimPrefix(httpProxy.URL(), "http")
	_, err = proxy.New(proxy.Config{Env: proxy.Env{OpenAI: []string{four}}})
	assert.Error(t, err)
	assert.Equal(t, "name.invalid", asked(httpProxy, std("http://name.invalid/", httpproxy.Config{HTTPProxy: four})))

	documented("| a proxy URL that can't be used | refused at start | an error at use | an error at use |")
	_, err = proxy.New(proxy.Config{Env: proxy.Env{HTTP: "http://h:99999"}})
	assert.Error(t, err)
	assert.Error(t, exec.Command("curl", "-sS", "-x", "http://h:99999", "-o", os.DevNull, api.URL).Run())

	documented("| `NO_PROXY` with CIDR | yes | since 7.86 | yes |")
	direct := ours("http://127.0.0.1"+strings.TrimPrefix(api.URL, "http://127.0.0.1"), proxy.Env{HTTP: httpProxy.URL(), No: "127.0.0.0/8"})
	assert.Equal(t, none, asked(httpProxy, direct))
	want := none
	if curlIsOlderThan(t, 7, 86) {
		want = "127.0.0.1"
	}
	assert.Equal(t, want, asked(httpProxy, curl(api.URL, "http_proxy="+httpProxy.URL(), "no_proxy=127.0.0.0/8")))
	documented("| an https proxy's certificate | checked | checked | checked |")
	stranger, err := simapi.NewAuthority()
	require.NoError(t, err)
	secret := startProxy(t, simproxy.Config{Scheme: "https", TLS: &tls.Config{Certificates: []tls.Certificate{stranger.Certificate}}})
	assert.Equal(t, none, asked(secret, ours(api.URL, proxy.Env{OpenAI: []string{secret.URL()}})))
	assert.Equal(t, none, asked(secret, std("http://name.invalid/", httpproxy.Config{HTTPProxy: secret.URL()})))
	assert.Equal(t, none, asked(secret, func() {
		assert.Error(t, exec.Command("curl", "-sS", "-x", secret.URL(), "-o", os.DevNull, api.URL).Run())
	}))
	assert.NotEqual(t, none, asked(secret, func() {
		assert.NoError(t, exec.Command("curl", "-sS", "--proxy-insecure", "-x", secret.URL(), "-o", os.DevNull, api.URL).Run())
	}), "it was the certificate")

	through, err := (&httpproxy.Config{HTTPProxy: httpProxy.URL(), NoProxy: "10.0.0.0/8"}).ProxyFunc()(&url.URL{Scheme: "http", Host: "10.1.2.3"})
	require.NoError(t, err)
	assert.Nil(t, through)
}

// Each value of NO_PROXY has the effect that it has in curl, but for the differences that docs/proxies.md lists.
func TestCurlCompat_NoProxy(t *testing.T) {
	doc, err := os.ReadFile("../../docs/proxies.md")
	require.NoError(t, err)
	api := httptest.NewServer(http.NotFoundHandler())
	defer api.Close()
	_, port, err := net.SplitHostPort(api.Listener.Addr().String())
	require.NoError(t, err)
	p := startProxy(t, simproxy.Config{})
	p.SetMode(simproxy.Refuse) // what was asked for is enough
	for _, c := range []struct {
		no, host string
		direct   bool
		curl     bool   // whether curl does the same
		row      string // that documents a difference
	}{
		{"api.example", "api.example", true, true, ""},
		{"example", "api.example", true, true, ""},
		{"ample", "api.example", false, true, ""},
		{".api.example", "api.example", true, true, ""},
		{".example", "api.example", true, true, ""},
		{"API.Example", "api.example", true, true, ""},
		{"one.example api.example two.example", "api.example", true, true, ""},
		{"one.example, .api.example two.example", "api.example", true, true, ""},
		{"one.example\tapi.example", "api.example", true, true, ""},
		{" , one.example,,two.example ", "api.example", false, true, ""},
		{"api.example.", "api.example", true, true, ""},
		{"api.example", "api.example.", true, true, ""},
		{"one.example;api.example", "api.example", false, true, ""},
		{"*", "api.example", true, true, ""},
		{"one.example *", "api.example", true, false, "| `NO_PROXY` with `*` among other entries | everything | ignored | everything |"},
		{"*.example", "api.example", true, false, "| `NO_PROXY` with `*.example` | subdomains of it | ignored | subdomains of it |"},
		{"api.example:" + port, "api.example", true, false, "| `NO_PROXY` with a port, `api.example:8443` | that port only | ignored | that port only |"},
	} {
		tr := transport(t, proxy.Config{Env: proxy.Env{HTTP: p.URL(), No: c.no}})
		via := tr.Via(&url.URL{Scheme: "http", Host: net.JoinHostPort(c.host, port)})
		assert.Equal(t, c.direct, len(via) == 0, "NO_PROXY=%q %s", c.no, c.host)
		if c.row != "" {
			assert.Contains(t, string(doc), "\n"+c.row+"\n")
		}
		before := len(p.Targets())
		cmd := exec.Command("curl", "-sS", "-o", os.DevNull, "-m", "20", "--resolve", c.host+":"+port+":127.0.0.1", "http://"+c.host+":"+port)
		cmd.Env = []string{"http_proxy=" + p.URL(), "no_proxy=" + c.no}
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		if curlIsOlderThan(t, 7, 86) {
			continue // it separated and compared in another way
		}
		assert.Equal(t, c.direct == c.curl, len(p.Targets()) == before, "curl, NO_PROXY=%q %s", c.no, c.host)
	}
}

func curlIsOlderThan(t *testing.T, major, minor int) bool {
	t.Helper()
	out, err := exec.Command("curl", "--version").Output()
	require.NoError(t, err)
	var a, b int
	_, err = fmt.Sscanf(string(out), "curl %d.%d", &a, &b)
	require.NoError(t, err)
	return a < major || a == major && b < minor
}
