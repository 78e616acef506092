package proxy_test

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/realproxy"
	"imagetasks/internal/simapi"
	"imagetasks/internal/simproxy"
	"imagetasks/pkg/proxy"
	"imagetasks/pkg/task"
)

// wire serves raw connections and returns its address.
func wire(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer conn.Close(); serve(conn) }()
		}
	}()
	return l.Addr().String()
}

// resets reads some bytes and resets the connection, as a filter does.
func resets(conn net.Conn) {
	_, _ = conn.Read(make([]byte, 64))
	_ = conn.(*net.TCPConn).SetLinger(0)
}

// alerts responds as a TLS server does to something else: with an alert.
func alerts(conn net.Conn) {
	_, _ = conn.Read(make([]byte, 300))
	_, _ = conn.Write([]byte{0x15, 3, 1, 0, 2, 2, 22})
}

// resetsTunnel opens a tunnel and resets it.
func resetsTunnel(conn net.Conn) {
	_, _ = http.ReadRequest(bufio.NewReader(conn))
	_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
	_, _ = conn.Read(make([]byte, 1))
	_ = conn.(*net.TCPConn).SetLinger(0)
}

// cutsTLS sends the first bytes of a TLS record and closes the connection.
func cutsTLS(conn net.Conn) {
	_, _ = conn.Read(make([]byte, 1000))
	_, _ = conn.Write([]byte{0x16, 3, 3})
}

// certificate returns a TLS configuration with a certificate of an authority that nobody trusts.
func certificate(t *testing.T, host string) *tls.Config {
	t.Helper()
	authority, err := simapi.NewAuthorityOf("Unknown Authority")
	require.NoError(t, err)
	issued, err := authority.Issue(host)
	require.NoError(t, err)
	return &tls.Config{Certificates: []tls.Certificate{issued}}
}

func wantsCertificate(c *tls.Config) *tls.Config {
	c = c.Clone()
	c.ClientAuth = tls.RequireAnyClientCert
	return c
}

func oldTLS(c *tls.Config) *tls.Config {
	c = c.Clone()
	c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	return c
}

// webServer starts a web server and returns its address as that of a proxy.
func webServer(t *testing.T, h http.Handler) string {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return server.URL
}

func status(code int) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) })
}

func page(html string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, html)
	})
}

// blackhole returns an address that drops packets: a listener with a full queue drops connection requests.
func blackhole(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = syscall.Close(fd) })
	require.NoError(t, syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	require.NoError(t, syscall.Listen(fd, 0))
	name, err := syscall.Getsockname(fd)
	require.NoError(t, err)
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(name.(*syscall.SockaddrInet4).Port))
	for range 10 {
		conn, err := net.DialTimeout("tcp", addr, 300*time.Millisecond)
		if err != nil {
			return addr
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
	require.Fail(t, "the queue is never full")
	return ""
}

// replies is a SOCKS proxy that responds to every request with this code.
func replies(code byte) func(net.Conn) {
	return func(conn net.Conn) {
		_, _ = io.ReadFull(conn, make([]byte, 3)) // version, one method: none
		_, _ = conn.Write([]byte{5, 0})
		_, _ = conn.Read(make([]byte, 300))
		_, _ = conn.Write([]byte{5, code, 0, 1, 0, 0, 0, 0, 0, 0})
		_, _ = io.Copy(io.Discard, conn)
	}
}

func TestError_Code(t *testing.T) {
	a := startAPI(t)
	trusted := a.roots()
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	open, locked := realproxy.Tinyproxy(t, realproxy.Config{}), realproxy.Tinyproxy(t, realproxy.Config{User: "wei", Password: "hunter2"})
	socks, lockedSOCKS := realproxy.Microsocks(t, realproxy.Config{}), realproxy.Microsocks(t, realproxy.Config{User: "wei", Password: "hunter2"})
	withLogin := func(address, login string) string {
		scheme, rest, _ := strings.Cut(address, "://")
		if _, host, ok := strings.Cut(rest, "@"); ok {
			rest = host
		}
		return scheme + "://" + login + rest
	}
	sim := func(conf simproxy.Config, mode simproxy.Mode) string {
		p := startProxy(t, conf)
		p.SetMode(mode)
		return p.URL()
	}
	closed := func() string { // a port that was free a moment ago
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer l.Close()
		return l.Addr().String()
	}()
	hole := blackhole(t)
	firewall, err := simapi.NewAuthorityOf("Corporate Firewall")
	require.NoError(t, err)
	intercepts := sim(simproxy.Config{Intercept: firewall.Issue}, simproxy.Serve)
	localhost := strings.Replace(a.secure.URL, "127.0.0.1", "localhost", 1)

	type c struct {
		proxy  string
		target string // empty: the API
		conf   proxy.Config
		code   task.Code
	}
	cases := map[string]c{
		"direct, refused":      {target: "https://" + closed, code: task.CodeDirectRefused},
		"direct, unknown name": {target: "https://nowhere.invalid", code: task.CodeDirectName},
		"direct, blackholed":   {target: "https://" + hole, conf: proxy.Config{DialTimeout: 300 * time.Millisecond}, code: task.CodeDirectTimeout},

		"proxy refused":            {proxy: "http://wei:hunter2@" + closed, code: task.CodeProxyRefused},
		"proxy name unknown":       {proxy: "http://proxy.invalid:7890", code: task.CodeProxyName},
		"proxy blackholed":         {proxy: "socks5h://wei:hunter2@" + hole, conf: proxy.Config{DialTimeout: 300 * time.Millisecond}, code: task.CodeProxyTimeout},
		"proxy speaks no TLS":      {proxy: "https" + strings.TrimPrefix(open, "http"), conf: proxy.Config{TLSTimeout: time.Second}, code: task.CodeProxyTLS},
		"proxy is an https server": {proxy: "http" + strings.TrimPrefix(a.secure.URL, "https"), code: task.CodeProxyNeedsTLS},
		"proxy sends a TLS alert":  {proxy: "http://" + wire(t, alerts), code: task.CodeProxyNeedsTLS},
		"proxy's authority unknown": {proxy: sim(simproxy.Config{Scheme: "https", TLS: certificate(t, "127.0.0.1")}, simproxy.Serve),
			code: task.CodeProxyCertificate},
		"proxy's certificate of another": {proxy: strings.Replace(sim(simproxy.Config{Scheme: "https", TLS: a.secure.TLS.Clone()}, simproxy.Serve), "127.0.0.1", "localhost", 1),
			code: task.CodeProxyCertificate},
		"proxy wants a certificate": {proxy: sim(simproxy.Config{Scheme: "https", TLS: wantsCertificate(a.secure.TLS)}, simproxy.Serve), code: task.CodeProxyTLSRefused},
		"proxy has an old TLS":      {proxy: sim(simproxy.Config{Scheme: "https", TLS: oldTLS(a.secure.TLS)}, simproxy.Serve), code: task.CodeProxyTLSRefused},

		"a web server for a proxy, 404":      {proxy: webServer(t, http.NotFoundHandler()), code: task.CodeProxyNoProxy},
		"a web server for a proxy, redirect": {proxy: webServer(t, http.RedirectHandler("https://login.example/?user=hunter2", http.StatusFound)), code: task.CodeProxyNoProxy},
		"a web server for a proxy, 405":      {proxy: webServer(t, status(405)), code: task.CodeProxyNoProxy},
		"a web server for a proxy, 400":      {proxy: webServer(t, status(400)), code: task.CodeProxyNoProxy},
		"a web server for a proxy, page":     {proxy: webServer(t, page("<html>It works!</html>")), code: task.CodeProxyNoProxy},
		"privoxy, dead target":               {proxy: realproxy.StartPrivoxy(t, realproxy.Config{}).URL, target: "https://nowhere.invalid", code: task.CodeProxyTarget},
		"closes after CONNECT":               {proxy: sim(simproxy.Config{}, simproxy.Early), code: task.CodeProxyTunnelClosed},
		"closes after SOCKS":                 {proxy: sim(simproxy.Config{Scheme: "socks5"}, simproxy.Early), code: task.CodeProxyTunnelClosed},
		"resets after CONNECT":               {proxy: "http://" + wire(t, resetsTunnel), code: task.CodeProxyTunnelClosed},
		"TLS cut off after a byte":           {proxy: open, target: "https://" + wire(t, cutsTLS), code: task.CodeTLSReset},

		"tinyproxy, no login":    {proxy: withLogin(locked, ""), code: task.CodeProxyLoginMissing},
		"tinyproxy, wrong login": {proxy: withLogin(locked, "wei:wrong@"), code: task.CodeProxyLoginRefused},
		"tinyproxy, forbidden": {proxy: realproxy.Tinyproxy(t, realproxy.Config{ConnectPorts: []int{563}}),
			code: task.CodeProxyForbids},
		"tinyproxy, dead target":  {proxy: open, target: "https://" + closed, code: task.CodeProxyTarget},
		"microsocks, no login":    {proxy: withLogin(lockedSOCKS, ""), code: task.CodeProxyLoginMissing},
		"microsocks, wrong login": {proxy: withLogin(lockedSOCKS, "wei:wrong@"), code: task.CodeProxyLoginRefused},
		"microsocks, dead target": {proxy: socks, target: "https://" + closed, code: task.CodeSOCKSRefused},
		"http asked for socks":    {proxy: "socks5h" + strings.TrimPrefix(open, "http"), conf: proxy.Config{ConnectTimeout: time.Second}, code: task.CodeProxyNoAnswer},

		"CONNECT hangs":      {proxy: sim(simproxy.Config{}, simproxy.Hang), conf: proxy.Config{ConnectTimeout: 200 * time.Millisecond}, code: task.CodeProxyNoAnswer},
		"SOCKS hangs":        {proxy: sim(simproxy.Config{Scheme: "socks5"}, simproxy.Hang), conf: proxy.Config{ConnectTimeout: 200 * time.Millisecond}, code: task.CodeProxyNoAnswer},
		"no proxy, but SSH":  {proxy: sim(simproxy.Config{}, simproxy.Garbage), code: task.CodeProxyNoProxy},
		"proxy closes":       {proxy: "http://" + wire(t, func(net.Conn) {}), code: task.CodeProxyFailed},
		"proxy resets":       {proxy: "http://" + wire(t, resets), code: task.CodeProxyFailed},
		"TLS intercepted":    {proxy: intercepts, code: task.CodeTLSAuthority},
		"TLS of another":     {proxy: open, target: localhost, code: task.CodeTLSHost},
		"TLS reset":          {target: "https://" + wire(t, resets), code: task.CodeTLSReset},
		"TLS reset, proxied": {proxy: open, target: "https://" + wire(t, resets), code: task.CodeProxyTunnelClosed},
		"TLS silent": {proxy: open, target: "https://" + listen(t), conf: proxy.Config{TLSTimeout: 300 * time.Millisecond},
			code: task.CodeTLSTimeout},
		"TLS not spoken": {proxy: open, target: "https" + strings.TrimPrefix(plain.URL, "http"), code: task.CodeTLSNotSpoken},
	}
	for i, code := range []task.Code{task.CodeSOCKSFailure, task.CodeSOCKSNotAllowed, task.CodeSOCKSNetwork, task.CodeSOCKSHost,
		task.CodeSOCKSRefused, task.CodeSOCKSExpired, task.CodeSOCKSCommand, task.CodeSOCKSAddressType} {
		cases["SOCKS "+strconv.Itoa(i+1)] = c{proxy: "socks5h://" + wire(t, replies(byte(i+1))), code: code}
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if c.proxy != "" {
				c.conf.Env.OpenAI = []string{c.proxy}
			}
			if c.conf.RootCAs == nil {
				c.conf.RootCAs = trusted
			}
			if c.target == "" {
				c.target = a.secure.URL
			}
			_, _, err := post(transport(t, c.conf), c.target)
			var fault *proxy.Error
			require.ErrorAs(t, err, &fault)
			assert.Equal(t, c.code, fault.Code(), "%v", err)
			assert.NotContains(t, err.Error(), "hunter2")
			assert.NotContains(t, err.Error(), "wrong")
			issuer := fault.Issuer()
			certified := c.code == task.CodeTLSAuthority || c.code == task.CodeTLSHost || c.code == task.CodeProxyCertificate
			assert.Equal(t, certified, issuer != "", issuer)
			assert.Equal(t, c.code == task.CodeTLSAuthority, issuer == "Corporate Firewall", issuer)
		})
	}
	t.Run("TLS intercepted, and trusted", func(t *testing.T) {
		p := startProxy(t, simproxy.Config{Intercept: firewall.Issue})
		_, _, err := post(transport(t, proxy.Config{Env: proxy.Env{OpenAI: []string{p.URL()}}, RootCAs: firewall.Pool}), a.secure.URL)
		require.NoError(t, err)
		assert.Positive(t, p.ReadAlong())
	})
}
