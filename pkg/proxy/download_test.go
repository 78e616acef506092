package proxy_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/realproxy"
	"imagetasks/internal/simproxy"
	"imagetasks/pkg/proxy"
	"imagetasks/pkg/task"
)

// closedAddr returns an address of the loopback interface on which nothing listens.
func closedAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

// download returns the content at a URL.
func download(t *testing.T, tr *proxy.Transport, address string, d proxy.Download) (string, error) {
	t.Helper()
	if d.Stall == 0 {
		d.Stall = time.Minute
	}
	r, err := http.NewRequestWithContext(proxy.WithDownload(t.Context(), d), http.MethodGet, address, nil)
	require.NoError(t, err)
	response, err := tr.RoundTrip(r)
	if err != nil {
		return "", err
	}
	body, err := io.ReadAll(response.Body)
	require.NoError(t, response.Body.Close())
	if response.StatusCode != http.StatusOK {
		return "", errors.Join(errors.New(response.Status), err)
	}
	return string(body), err
}

// Where a proxy refuses a host, does not respond, or breaks the connection, the next delivers. None of it is held against the proxy.
func TestDownload_OtherProxies(t *testing.T) {
	a := startAPI(t)
	for name, mode := range map[string]simproxy.Mode{"refuses the host": simproxy.Refuse, "does not respond": simproxy.Hang, "is no proxy": simproxy.Garbage} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, target := range []string{a.plain.URL, a.secure.URL} {
				p := startPair(t)
				p.first.SetMode(mode)
				tr := transport(t, proxy.Config{Env: p.env, RootCAs: a.roots(), ConnectTimeout: 200 * time.Millisecond})
				for range 4 {
					body, err := download(t, tr, target+"/picture", proxy.Download{Stall: 500 * time.Millisecond})
					require.NoError(t, err)
					assert.Equal(t, "GET /picture 0", body)
				}
				assert.Len(t, p.first.Targets(), 4, "it is tried first each time")
				for _, s := range states(t, tr) {
					assert.Equal(t, proxy.UpstreamState{Proxy: s.Proxy}, s, "a download leaves the state as it was")
				}
			}
		})
	}
}

// A proxy that can't be reached is ejected by a download too. One that is ejected is not returned to service by one.
func TestDownload_UnreachableProxy(t *testing.T) {
	a, p := startAPI(t), startPair(t)
	tr := transport(t, proxy.Config{Env: p.env, RootCAs: a.roots()})
	require.NoError(t, p.first.Close())
	_, err := download(t, tr, a.secure.URL, proxy.Download{})
	require.NoError(t, err)
	s := states(t, tr)
	assert.True(t, s[0].Ejected)
	assert.Equal(t, task.CodeProxyRefused, s[0].Code)
	p.back(t)
	p.second.SetMode(simproxy.Refuse)
	_, err = download(t, tr, a.secure.URL, proxy.Download{})
	require.NoError(t, err)
	assert.True(t, states(t, tr)[0].Ejected, "what it delivers from another host says nothing about the API")
}

// The real proxies refuse hosts in their own ways.
func TestDownload_RealProxies(t *testing.T) {
	a := startAPI(t)
	second := startProxy(t, simproxy.Config{})
	unknown := "http://unknown.invalid/picture"
	for name, first := range map[string]string{"tinyproxy": realproxy.Tinyproxy(t, realproxy.Config{}), "microsocks": realproxy.Microsocks(t, realproxy.Config{})} {
		tr := transport(t, proxy.Config{Env: proxy.Env{OpenAI: []string{first, second.URL()}}, RootCAs: a.roots()})
		body, err := download(t, tr, a.secure.URL+"/picture", proxy.Download{})
		require.NoError(t, err, name)
		assert.Equal(t, "GET /picture 0", body)
		before := len(second.Targets())
		_, err = download(t, tr, unknown, proxy.Download{})
		require.Error(t, err, name)
		assert.Len(t, second.Targets(), before+1, "%s does not know the host, and the other is asked", name)
		for _, s := range states(t, tr) {
			assert.False(t, s.Ejected, name)
		}
	}
}

// Without a proxy only those hosts are reached that NO_PROXY names, or every one with Download.Direct.
func TestDownload_Direct(t *testing.T) {
	a := startAPI(t)
	forbids := startProxy(t, simproxy.Config{})
	forbids.SetMode(simproxy.Refuse)
	other := startProxy(t, simproxy.Config{})
	for name, c := range map[string]struct {
		env      proxy.Env
		direct   bool
		delivers bool
		through  *simproxy.Proxy
	}{
		"forbidden":                   {env: proxy.Env{OpenAI: []string{forbids.URL()}}},
		"forbidden, NO_PROXY":         {env: proxy.Env{OpenAI: []string{forbids.URL()}, No: "cdn.example, 127.0.0.1"}, delivers: true},
		"forbidden, NO_PROXY *":       {env: proxy.Env{OpenAI: []string{forbids.URL()}, No: "*"}, delivers: true},
		"forbidden, others":           {env: proxy.Env{OpenAI: []string{forbids.URL()}, No: "cdn.example"}},
		"forbidden, direct":           {env: proxy.Env{OpenAI: []string{forbids.URL()}}, direct: true, delivers: true},
		"forbidden, the same again":   {env: proxy.Env{OpenAI: []string{forbids.URL()}, All: forbids.URL()}},
		"unreachable":                 {env: proxy.Env{OpenAI: []string{"http://" + closedAddr(t)}}},
		"loopback, without any proxy": {delivers: true},
		"loopback, by scheme":         {env: proxy.Env{HTTPS: forbids.URL(), HTTP: forbids.URL()}, delivers: true},
	} {
		t.Run(name, func(t *testing.T) {
			tr := transport(t, proxy.Config{Env: c.env, RootCAs: a.roots()})
			for _, target := range []string{a.plain.URL, a.secure.URL} {
				_, err := download(t, tr, target, proxy.Download{Direct: c.direct})
				if c.delivers {
					assert.NoError(t, err)
					continue
				}
				require.Error(t, err)
				_, isProxy := errors.AsType[*proxy.Error](err)
				assert.True(t, isProxy, "%v", err)
			}
		})
	}
	// The proxies of other settings are tried for a host that those don't name.
	tr := transport(t, proxy.Config{Env: proxy.Env{OpenAI: []string{forbids.URL()}, All: other.URL()}})
	_, err := download(t, tr, "http://picture.invalid/", proxy.Download{})
	require.Error(t, err)
	assert.Equal(t, []string{"picture.invalid:80"}, other.Targets())
	assert.Contains(t, err.Error(), "403")
	assert.Contains(t, err.Error(), "502", "the reason of each route")
}

// What a host refuses because of the address that it is asked from, it may give to another.
func TestDownload_RefusedAddress(t *testing.T) {
	p := startPair(t)
	host := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p.first.Carried(r.RemoteAddr) || r.URL.Path == "/gone" {
			w.WriteHeader(http.StatusForbidden)
		}
	}))
	t.Cleanup(host.Close)
	a := &api{secure: host}
	tr := transport(t, proxy.Config{Env: p.env, RootCAs: a.roots()})
	_, err := download(t, tr, host.URL, proxy.Download{})
	require.NoError(t, err)
	_, err = download(t, tr, host.URL+"/gone", proxy.Download{})
	assert.EqualError(t, err, "403 Forbidden", "it is the host's answer, on every route")
	assert.False(t, states(t, tr)[0].Ejected)
}

// The address that a name is resolved to is checked right before the connection, and only where this host resolves it.
func TestDownload_CheckAddr(t *testing.T) {
	a := startAPI(t)
	refused := errors.New("this address is refused")
	socks := startProxy(t, simproxy.Config{Scheme: "socks5"})
	local, err := url.Parse(a.plain.URL)
	require.NoError(t, err)
	target := "http://localhost:" + local.Port()
	for name, c := range map[string]struct {
		env     proxy.Env
		checked bool
	}{
		"direct":  {proxy.Env{}, true},
		"socks5":  {proxy.Env{OpenAI: []string{socks.URL()}}, true},
		"socks5h": {proxy.Env{OpenAI: []string{"socks5h://" + socks.Addr()}}, false},
		"http":    {proxy.Env{OpenAI: []string{startProxy(t, simproxy.Config{}).URL()}}, false},
	} {
		tr := transport(t, proxy.Config{Env: c.env})
		var asked []netip.Addr
		check := func(err error) proxy.Download {
			return proxy.Download{CheckAddr: func(a netip.Addr) error { asked = append(asked, a); return err }}
		}
		_, err := download(t, tr, target, check(refused))
		if !c.checked {
			assert.NoError(t, err, name)
			assert.Empty(t, asked, name)
			continue
		}
		assert.ErrorIs(t, err, refused, name)
		for _, addr := range asked {
			assert.True(t, addr.IsLoopback(), "%s: %s", name, addr)
		}
		_, err = download(t, tr, target, check(nil))
		assert.NoError(t, err, name)
	}
}

// A host that falls silent ends the download, also in the middle of its body; one that is slow does not.
func TestDownload_Stall(t *testing.T) {
	silence := make(chan struct{})
	host := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/head" {
			<-silence
			return
		}
		for range 8 {
			_, _ = io.WriteString(w, "part ")
			_ = http.NewResponseController(w).Flush()
			if r.URL.Path == "/body" {
				<-silence
			}
			time.Sleep(50 * time.Millisecond)
		}
	}))
	t.Cleanup(host.Close)
	defer close(silence)
	for name, env := range map[string]proxy.Env{"direct": {}, "proxy": {OpenAI: []string{startProxy(t, simproxy.Config{}).URL()}}} {
		tr := transport(t, proxy.Config{Env: env})
		d := proxy.Download{Stall: 300 * time.Millisecond}
		for _, path := range []string{"/head", "/body"} {
			_, err := download(t, tr, host.URL+path, d)
			assert.ErrorContains(t, err, "nothing arrived for 300ms", name+path)
		}
		body, err := download(t, tr, host.URL+"/slow", d)
		require.NoError(t, err, name)
		assert.Len(t, body, 40)
	}
}

// Cancelling a download ends it at once, and tries no other route.
func TestDownload_Cancelled(t *testing.T) {
	p := startPair(t)
	p.first.SetMode(simproxy.Hang)
	tr := transport(t, proxy.Config{Env: p.env})
	ctx, cancel := context.WithCancel(proxy.WithDownload(t.Context(), proxy.Download{Direct: true}))
	time.AfterFunc(100*time.Millisecond, cancel)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://picture.invalid/", nil)
	require.NoError(t, err)
	_, err = tr.RoundTrip(r)
	require.Error(t, err)
	assert.Empty(t, p.second.Targets())
}
