package proxy_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/realproxy"
	"imagetasks/internal/simproxy"
	"imagetasks/pkg/proxy"
	"imagetasks/pkg/settings"
)

const (
	user     = "li wei"
	password = `hunter2:@/%?&`
)

// api is a server over http and https that records its clients.
type api struct {
	plain, secure *httptest.Server
	mu            sync.Mutex
	remotes       []string
	leaks         []string
}

func startAPI(t *testing.T) *api {
	a := &api{}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		a.remotes = append(a.remotes, r.RemoteAddr)
		if r.Header.Get("Proxy-Authorization") != "" {
			a.leaks = append(a.leaks, r.URL.Path)
		}
		a.mu.Unlock()
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %d", r.Method, r.URL.Path, len(body))
	})
	a.plain = httptest.NewServer(handler)
	a.secure = httptest.NewUnstartedServer(handler)
	a.secure.EnableHTTP2 = true
	a.secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	a.secure.StartTLS()
	t.Cleanup(func() { a.plain.Close(); a.secure.Close() })
	return a
}

func (a *api) roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.secure.Certificate())
	return pool
}

func startProxy(t *testing.T, conf simproxy.Config) *simproxy.Proxy {
	t.Helper()
	p, err := simproxy.Start(conf)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, p.Close()) })
	return p
}

func transport(t *testing.T, conf proxy.Config) *proxy.Transport {
	t.Helper()
	tr, err := proxy.New(conf)
	require.NoError(t, err)
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

func post(tr *proxy.Transport, url string) (string, *http.Response, error) {
	r, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(make([]byte, 1000)))
	if err != nil {
		return "", nil, err
	}
	answer, err := tr.RoundTrip(r)
	if err != nil {
		return "", nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	return string(body), answer, err
}

func TestTransport_ProxyKinds(t *testing.T) {
	a := startAPI(t)
	for _, scheme := range []string{"http", "https", "socks5", "socks5h"} {
		for _, login := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s login=%v", scheme, login), func(t *testing.T) {
				conf := simproxy.Config{Scheme: strings.TrimSuffix(scheme, "h")}
				if login {
					conf.User, conf.Password = user, password
				}
				if scheme == "https" {
					conf.TLS = &tls.Config{Certificates: a.secure.TLS.Certificates}
				}
				p := startProxy(t, conf)
				address := scheme + strings.TrimPrefix(p.URL(), conf.Scheme)
				a.carries(t, proxy.Env{OpenAI: []string{address}}, p.Carried)
				assert.NotEmpty(t, p.Targets())
			})
		}
	}
}

// carries sends requests by http and https, and checks which proxy carried them.
func (a *api) carries(t *testing.T, env proxy.Env, carried func(remote string) bool) {
	t.Helper()
	tr := transport(t, proxy.Config{Env: env, RootCAs: a.roots()})
	for _, target := range []string{a.plain.URL, a.secure.URL} {
		for range 2 {
			body, answer, err := post(tr, target+"/v1/images")
			require.NoError(t, err)
			assert.Equal(t, "POST /v1/images 1000", body)
			if target == a.secure.URL {
				assert.Equal(t, 2, answer.ProtoMajor, "HTTP/2")
			}
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	require.Len(t, a.remotes, 4)
	for _, remote := range a.remotes {
		assert.True(t, carried == nil || carried(remote), "%s did not come through the proxy", remote)
	}
	assert.Empty(t, a.leaks, "the proxy's login reached the API")
	a.remotes = nil
}

func TestTransport_RealProxies(t *testing.T) {
	a := startAPI(t)
	for name, address := range map[string]string{
		"tinyproxy open":        realproxy.Tinyproxy(t, realproxy.Config{}),
		"tinyproxy with login":  realproxy.Tinyproxy(t, realproxy.Config{User: "wei", Password: "hunter2"}),
		"microsocks open":       realproxy.Microsocks(t, realproxy.Config{}),
		"microsocks with login": realproxy.Microsocks(t, realproxy.Config{User: "wei", Password: "hunter2"}),
	} {
		t.Run(name, func(t *testing.T) {
			a.carries(t, proxy.Env{OpenAI: []string{address}}, nil)
			if !strings.Contains(address, "@") {
				return
			}
			u, err := url.Parse(address)
			require.NoError(t, err)
			u.User = url.UserPassword("wei", "wrong-password")
			_, _, err = post(transport(t, proxy.Config{Env: proxy.Env{OpenAI: []string{u.String()}}, RootCAs: a.roots()}), a.secure.URL)
			var refused *proxy.Error
			require.ErrorAs(t, err, &refused)
			assert.Equal(t, proxy.OpConnect, refused.Op)
			assert.NotContains(t, err.Error(), "wrong-password")
			assert.Contains(t, err.Error(), u.Host)
		})
	}
	t.Run("tinyproxy refuses the target", func(t *testing.T) {
		address := realproxy.Tinyproxy(t, realproxy.Config{ConnectPorts: []int{563}})
		_, _, err := post(transport(t, proxy.Config{Env: proxy.Env{OpenAI: []string{address}}, RootCAs: a.roots()}), a.secure.URL)
		var refused *proxy.Error
		require.ErrorAs(t, err, &refused)
		assert.Equal(t, http.StatusForbidden, refused.Status)
	})
}

func TestError_NamesStepWithoutLogin(t *testing.T) {
	a := startAPI(t)
	down := startProxy(t, simproxy.Config{})
	require.NoError(t, down.Close())
	silent := listen(t)
	withMode := func(scheme string, mode simproxy.Mode) string {
		p := startProxy(t, simproxy.Config{Scheme: scheme, User: user, Password: password})
		p.SetMode(mode)
		return p.URL()
	}
	locked := startProxy(t, simproxy.Config{User: "other", Password: "login"})
	lockedSOCKS := startProxy(t, simproxy.Config{Scheme: "socks5", User: "other", Password: "login"})
	login := url.UserPassword(user, password).String() + "@"

	for name, c := range map[string]struct {
		proxy  string
		op     proxy.Op
		status int
		says   string
	}{
		"down":                   {"http://" + login + down.Addr(), proxy.OpDial, 0, "is unreachable"},
		"down, socks":            {"socks5h://" + login + down.Addr(), proxy.OpDial, 0, "is unreachable"},
		"unknown name":           {"http://" + login + "proxy.invalid:1", proxy.OpDial, 0, "proxy.invalid"},
		"wrong login":            {"http://" + login + locked.Addr(), proxy.OpConnect, 407, "login"},
		"no login":               {"http://" + locked.Addr(), proxy.OpConnect, 407, "login"},
		"wrong login, socks":     {"socks5://" + login + lockedSOCKS.Addr(), proxy.OpConnect, 0, "authentication failed"},
		"no login, socks":        {"socks5://" + lockedSOCKS.Addr(), proxy.OpConnect, 0, "authentication"},
		"refused":                {withMode("http", simproxy.Refuse), proxy.OpConnect, 403, "403"},
		"refused, socks":         {withMode("socks5", simproxy.Refuse), proxy.OpConnect, 0, "not allowed"},
		"never answers":          {withMode("http", simproxy.Hang), proxy.OpConnect, 0, "no response"},
		"never answers, socks":   {withMode("socks5", simproxy.Hang), proxy.OpConnect, 0, "no response"},
		"accepts, says nothing":  {"http://" + login + silent, proxy.OpConnect, 0, "no response"},
		"not a proxy":            {withMode("http", simproxy.Garbage), proxy.OpConnect, 0, "not HTTP"},
		"https, but it is plain": {"https://" + login + locked.Addr(), proxy.OpProxy, 0, "TLS"},
	} {
		t.Run(name, func(t *testing.T) {
			conf := proxy.Config{Env: proxy.Env{OpenAI: []string{c.proxy}}, RootCAs: a.roots()}
			if c.says == "no response" {
				conf.ConnectTimeout = 200 * time.Millisecond // for the rest a busy machine has time
			}
			tr := transport(t, conf)
			_, _, err := post(tr, a.secure.URL)
			var fault *proxy.Error
			require.ErrorAs(t, err, &fault)
			assert.Equal(t, c.op, fault.Op, "%v", err)
			assert.Equal(t, c.status, fault.Status)
			assert.Contains(t, err.Error(), c.says)
			u, perr := url.Parse(c.proxy)
			require.NoError(t, perr)
			assert.Contains(t, err.Error(), u.Host, "the proxy is named")
			for _, secret := range []string{password, url.QueryEscape(password), "hunter2", "li%20wei"} {
				assert.NotContains(t, err.Error(), secret)
			}
		})
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	assert.Empty(t, a.remotes, "a proxy that fails is never bypassed")
}

// listen returns an address that accepts connections and stays silent.
func listen(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().String()
}

func TestError_NotForAPIFailures(t *testing.T) {
	a := startAPI(t)
	p := startProxy(t, simproxy.Config{})
	env := proxy.Env{OpenAI: []string{p.URL()}}
	var fault *proxy.Error

	_, _, err := post(transport(t, proxy.Config{Env: env}), a.secure.URL) // its CA is unknown
	require.ErrorAs(t, err, &fault)
	assert.Equal(t, proxy.OpTLS, fault.Op)
	var unknown x509.UnknownAuthorityError
	assert.ErrorAs(t, err, &unknown)

	hasty := transport(t, proxy.Config{Env: env, TLSTimeout: 300 * time.Millisecond})
	_, _, err = post(hasty, "https://"+listen(t)) // no TLS there, only silence
	require.ErrorAs(t, err, &fault)
	assert.Equal(t, proxy.OpTLS, fault.Op)
	assert.True(t, fault.Timeout())

	direct := transport(t, proxy.Config{})
	_, _, err = post(direct, "https://127.0.0.1:1")
	require.ErrorAs(t, err, &fault)
	assert.Equal(t, proxy.OpDial, fault.Op)
	assert.Empty(t, fault.Proxy)
}

func TestFirstByteTimeout(t *testing.T) {
	release := make(chan struct{})
	hanging := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer hanging.Close()
	defer close(release)
	_, _, err := post(transport(t, proxy.Config{FirstByteTimeout: 50 * time.Millisecond}), hanging.URL)
	require.Error(t, err)
	var fault *proxy.Error
	assert.NotErrorAs(t, err, &fault, "the request was sent: this is not a connection error")
}

func TestRoutes(t *testing.T) {
	const p1, p2, p3 = "http://one:1", "http://two:2", "socks5://three:3"
	for _, c := range []struct {
		name   string
		env    proxy.Env
		target string
		want   string
	}{
		{"nothing set", proxy.Env{}, "https://api.example/v1", "directly"},
		{"https", proxy.Env{HTTPS: p1, HTTP: p2}, "https://api.example/v1", p1},
		{"http", proxy.Env{HTTPS: p1, HTTP: p2}, "http://api.example/v1", p2},
		{"only the other", proxy.Env{HTTP: p2}, "https://api.example/v1", "directly"},
		{"all", proxy.Env{All: p3}, "https://api.example/v1", p3},
		{"all fills in", proxy.Env{All: p3, HTTPS: p1}, "http://api.example/v1", p3},
		{"the special one wins", proxy.Env{All: p3, HTTPS: p1}, "https://api.example/v1", p1},
		{"OPENAI_PROXY wins", proxy.Env{OpenAI: []string{p3}, All: p1, HTTPS: p2, HTTP: p2}, "https://api.example", p3},
		{"several", proxy.Env{OpenAI: []string{p1, p3}}, "https://api.example", p1 + p3},
		{"the same twice", proxy.Env{OpenAI: []string{p1, p3, "one:1"}}, "https://api.example", p1 + p3},
		{"OPENAI_PROXY has no bypass", proxy.Env{OpenAI: []string{p3}, No: "*"}, "https://api.example", p3},
		{"not even for loopback", proxy.Env{OpenAI: []string{p3}, No: "localhost,127.0.0.1"}, "http://localhost:8080", p3},
		{"the others have, for loopback", proxy.Env{HTTP: p1}, "http://127.0.0.1:8080", "directly"},
		{"NO_PROXY host", proxy.Env{HTTPS: p1, No: "api.example"}, "https://api.example/", "directly"},
		{"NO_PROXY covers subdomains", proxy.Env{HTTPS: p1, No: "example"}, "https://api.example/", "directly"},
		{"NO_PROXY suffix", proxy.Env{HTTPS: p1, No: "x, .example"}, "https://api.example/", "directly"},
		{"NO_PROXY suffix is the name too, as in curl", proxy.Env{HTTPS: p1, No: ".api.example"}, "https://api.example/", "directly"},
		{"NO_PROXY suffix with a port", proxy.Env{HTTPS: p1, No: ".api.example:443"}, "https://api.example/", "directly"},
		{"NO_PROXY trailing dot", proxy.Env{HTTPS: p1, No: "api.example."}, "https://api.example/", "directly"},
		{"NO_PROXY with spaces", proxy.Env{HTTPS: p1, No: "one.example api.example two.example"}, "https://api.example/", "directly"},
		{"NO_PROXY with spaces and commas", proxy.Env{HTTPS: p1, No: " one.example ,, 10.0.0.0/8\t.example\n, two"}, "https://api.example/", "directly"},
		{"NO_PROXY with spaces, another", proxy.Env{HTTPS: p1, No: "one.example two.example"}, "https://api.example/", p1},
		{"NO_PROXY star of several", proxy.Env{HTTPS: p1, No: "one.example *"}, "https://api.example/", "directly"},
		{"NO_PROXY wildcard", proxy.Env{HTTPS: p1, No: "*.example"}, "https://api.example/", "directly"},
		{"NO_PROXY wildcard is not the name", proxy.Env{HTTPS: p1, No: "*.api.example"}, "https://api.example/", p1},
		{"NO_PROXY IPv6", proxy.Env{HTTPS: p1, No: "one 2001:db8::1"}, "https://[2001:db8::1]/", "directly"},
		{"NO_PROXY IPv6 in brackets", proxy.Env{HTTPS: p1, No: "[2001:db8::1]"}, "https://[2001:db8::1]/", "directly"},
		{"NO_PROXY dots only", proxy.Env{HTTPS: p1, No: ". .. ,"}, "https://api.example/", p1},
		{"NO_PROXY no such suffix", proxy.Env{HTTPS: p1, No: "ample"}, "https://api.example/", p1},
		{"NO_PROXY port", proxy.Env{HTTPS: p1, No: "api.example:8443"}, "https://api.example:8443/", "directly"},
		{"NO_PROXY other port", proxy.Env{HTTPS: p1, No: "api.example:8443"}, "https://api.example/", p1},
		{"NO_PROXY CIDR", proxy.Env{HTTPS: p1, No: "10.1.0.0/16"}, "https://10.1.2.3/", "directly"},
		{"NO_PROXY outside CIDR", proxy.Env{HTTPS: p1, No: "10.1.0.0/16"}, "https://10.2.2.3/", p1},
		{"NO_PROXY star", proxy.Env{HTTPS: p1, All: p3, No: "*"}, "https://api.example/", "directly"},
		{"bare host:port is http", proxy.Env{HTTPS: "one:1"}, "https://api.example/", p1},
		{"default ports", proxy.Env{HTTPS: "socks5h://three"}, "https://api.example/", "socks5h://three:1080"},
		{"a login isn't shown", proxy.Env{OpenAI: []string{"http://u:hunter2@one:1"}}, "https://api.example/", p1},
	} {
		u, err := url.Parse(c.target)
		require.NoError(t, err)
		via := transport(t, proxy.Config{Env: c.env}).Via(u)
		assert.Equal(t, strings.Replace(c.want, "directly", "", 1), strings.Join(via, ""), c.name)
	}
}

func TestNew_InvalidProxyURL(t *testing.T) {
	for _, bad := range []string{
		"ftp://u:hunter2@h:1", "socks4://u:hunter2@h:1", "http://u:hunter2@:1", "http://u:hunter2@h:port",
		"http://u:hunter2@h:99999", "http://u:hunt%zzer2@h:1", "http://u:hunter2@h:1/path", "http://u:hunter2@h:1?x=1",
		"http://", "://", "http://[::1", "socks5://u:" + strings.Repeat("hunter2", 40) + "@h:1", "http://u:hunter2@a b:1",
		"socks5://u:hunter2@::", "http://u:hunter2@[::1::2]:80",
	} {
		for name, env := range map[string]proxy.Env{
			"OPENAI_PROXY": {OpenAI: []string{bad}}, "HTTPS_PROXY": {HTTPS: bad}, "HTTP_PROXY": {HTTP: bad}, "ALL_PROXY": {All: bad},
		} {
			_, err := proxy.New(proxy.Config{Env: env})
			var fault *settings.Error
			if assert.ErrorAs(t, err, &fault, bad) {
				assert.Equal(t, name, fault.Name)
				assert.NotContains(t, err.Error(), "hunter2")
				assert.NotContains(t, err.Error(), "hunt%")
			}
		}
	}
}

// Each kind that users have and that can't be used says what to write instead.
func TestParse_OtherKinds(t *testing.T) {
	for text, want := range map[string]string{
		"socks://hunter2@h:1080":                     "socks5h://host:port",
		"SOCKS://h:1080":                             "socks5h://host:port",
		"socks4://h:1080":                            "socks5h://host:port",
		"socks4a://u:hunter2@h:1080":                 "socks5h://host:port",
		"pac+http://hunter2@h/proxy":                 "PAC file",
		"pac+https://h/proxy.pac?hunter2":            "PAC file",
		"http://u:hunter2@h:8080/proxy.pac":          "PAC file",
		"https://h/a/Proxy.PAC?v=hunter2":            "PAC file",
		"http://wpad/wpad.dat":                       "PAC file",
		"h:8080/proxy.pac":                           "PAC file",
		"file:///etc/hunter2.pac":                    "PAC file",
		"ss://YWVzLTI1Ni1nY206aHVudGVyMg==@h:8388#a": "local client",
		"ssr://hunter2":                              "local client",
		"vmess://eyJwcyI6ICLoioLngrkifQ==":           "local client",
		"vless://hunter2@h:443?encryption=none":      "local client",
		"trojan://hunter2@h:443#节点 1":                "local client",
		"hysteria2://hunter2@h:443/?sni=x":           "local client",
		"hy2://hunter2@h:443":                        "local client",
	} {
		_, err := proxy.Parse(text)
		require.Error(t, err, text)
		assert.Contains(t, err.Error(), want, text)
		assert.NotContains(t, err.Error(), "hunter2")
	}
	for _, text := range []string{"http://pac:1", "http://h.pac:8080", "ss:1080", "socks5://socks:1"} {
		_, err := proxy.Parse(text)
		assert.NoError(t, err, text)
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"http://u:p@h:1", "socks5h://[::1]:9", "one:1", "//", "https://%41:80", "http://h:1@x", "socks5://::"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		u, err := proxy.Parse(text)
		if err != nil {
			return
		}
		assert.NotEmpty(t, u.Hostname())
		assert.NotEmpty(t, u.Port())
		again, err := proxy.Parse(u.String())
		require.NoError(t, err, "what was accepted once is accepted again")
		assert.Equal(t, u.String(), again.String())
	})
}

// No value of NO_PROXY causes a panic or affects OPENAI_PROXY.
func FuzzNoProxy(f *testing.F) {
	for _, seed := range []string{"*", "a,b", "10.0.0.0/8", "[::1]:80", ".x.", "999.1.1.1/99", ",,,:,", "a:b:c"} {
		f.Add(seed, "api.example")
	}
	f.Fuzz(func(t *testing.T, no, host string) {
		u, err := url.Parse("https://" + host + "/v1")
		if err != nil || u.Host == "" {
			return
		}
		tr, err := proxy.New(proxy.Config{Env: proxy.Env{HTTPS: "http://one:1", No: no}})
		require.NoError(t, err)
		_ = tr.Via(u)
		tr, err = proxy.New(proxy.Config{Env: proxy.Env{OpenAI: []string{"http://one:1"}, No: no}})
		require.NoError(t, err)
		assert.Equal(t, []string{"http://one:1"}, tr.Via(u))
	})
}
