package proxy_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/simproxy"
	"imagetasks/pkg/proxy"
	"imagetasks/pkg/task"
)

// scripted is an http proxy that responds to CONNECT and to plain requests as told. An empty response closes the connection.
type scripted struct {
	url      string
	requests atomic.Int64 // plain ones
}

const (
	hangs  = "hangs"  // is a response that never comes
	closes = "closes" // at the end of a response closes the tunnel
)

func script(t *testing.T, connect, plain string) *scripted {
	t.Helper()
	s := &scripted{}
	ended := make(chan struct{})
	t.Cleanup(func() { close(ended) })
	s.url = "http://" + wire(t, func(conn net.Conn) {
		r, err := http.ReadRequest(bufio.NewReader(conn))
		if err != nil {
			return
		}
		response := plain
		if r.Method == http.MethodConnect {
			response = connect
		} else {
			s.requests.Add(1)
			_, _ = io.Copy(io.Discard, r.Body)
		}
		if response == hangs {
			<-ended
			return
		}
		response, closed := strings.CutSuffix(response, closes)
		_, _ = io.WriteString(conn, response)
		if !closed && strings.Contains(response, " 200 ") && r.Method == http.MethodConnect {
			_, _ = io.Copy(io.Discard, conn) // an open tunnel to an API that says nothing by itself
		}
	})
	return s
}

func response(status, headers, page string) string {
	return fmt.Sprintf("HTTP/1.1 %s\r\n%sContent-Length: %d\r\n\r\n%s", status, headers, len(page), page)
}

const (
	tunnelOpens  = "HTTP/1.1 200 Connection established\r\n\r\n"
	tunnelCloses = tunnelOpens + closes
	html         = "Content-Type: text/html\r\n"
	json         = "Content-Type: application/json\r\nDate: Thu, 26 Nov 2026 09:57:03 GMT\r\n"
	noServer     = "<html><body><h1>503 Service Unavailable</h1>\nNo server is available to handle this request.\n</body></html>\n"
)

// The responses of proxies to plain requests, as the programs themselves sent them, and what is read from them. Whether the request may have been
// forwarded decides whether it may be repeated without being paid for twice.
func TestTransport_ForwardedOrOwn(t *testing.T) {
	const target = "http://api.example/v1/images/generations"
	for name, c := range map[string]struct {
		connect, plain string
		code           task.Code // empty: the response is returned
		sent           bool
		doubt          bool // nothing tells who made it
	}{
		"squid, target down": {tunnelOpens, response("503 Service Unavailable", "Server: squid/5.7\r\nX-Squid-Error: ERR_CONNECT_FAIL 111\r\nVia: 1.1 squid.test (squid/5.7)\r\n"+html, "x"),
			task.CodeProxyTarget, false, false},
		"squid, no name": {tunnelOpens, response("503 Service Unavailable", "Server: squid/5.7\r\nX-Squid-Error: ERR_DNS_FAIL 0\r\n"+html, "x"), task.CodeProxyTarget, false, false},
		"squid, forbidden": {tunnelOpens, response("403 Forbidden", "Server: squid/5.7\r\nX-Squid-Error: ERR_ACCESS_DENIED 0\r\nVia: 1.1 squid.test\r\n"+html, "x"),
			task.CodeProxyForbids, false, false},
		"squid, login": {tunnelOpens, response("407 Proxy Authentication Required", "X-Squid-Error: ERR_CACHE_ACCESS_DENIED 0\r\nProxy-Authenticate: Basic realm=\"x\"\r\n"+html, "x"),
			task.CodeProxyLoginMissing, false, false},
		"squid, broken off": {tunnelOpens, response("502 Bad Gateway", "Server: squid/5.7\r\nX-Squid-Error: ERR_READ_ERROR 104\r\n"+html, "x"), task.CodeProxyTarget, true, false},
		"squid, too late":   {tunnelOpens, response("504 Gateway Timeout", "Server: squid/5.7\r\nX-Squid-Error: ERR_READ_TIMEOUT 0\r\n"+html, "x"), task.CodeProxyTarget, true, false},
		"squid, no header":  {tunnelOpens, response("503 Service Unavailable", "Server: squid\r\n"+html, "x"), task.CodeProxyTarget, true, false},
		"tinyproxy, target down": {tunnelOpens, response("500 Unable to connect", "Server: tinyproxy/1.11.1\r\n"+html, "<h1>Unable to connect</h1>"),
			task.CodeProxyTarget, false, false},
		"tinyproxy, login":     {tunnelOpens, response("401 Unauthorized", "Server: tinyproxy/1.11.1\r\nWWW-Authenticate: Basic realm=\"Tinyproxy\"\r\n"+html, "x"), task.CodeProxyLoginMissing, false, false},
		"tinyproxy, filtered":  {tunnelOpens, response("403 Filtered", "Server: tinyproxy/1.11.1\r\n"+html, "<h1>Filtered</h1>"), task.CodeProxyForbids, false, false},
		"tinyproxy, too late":  {tunnelOpens, response("504 Gateway Timeout", "Server: tinyproxy/1.11.1\r\n"+html, "x"), task.CodeProxyTarget, true, false},
		"privoxy, target down": {tunnelOpens, response("503 Connect failed", html, "<title>503 - Connect failed (Privoxy@localhost)</title>"), task.CodeProxyTarget, false, false},
		"privoxy, no name":     {tunnelOpens, response("404 No such domain", html, "<title>502 - Bad Gateway (Privoxy@localhost)</title>"), task.CodeProxyTarget, false, false},
		"privoxy, blocked":     {tunnelOpens, response("403 Request blocked by Privoxy", html, "<title>Request blocked (Privoxy@localhost)</title>"), task.CodeProxyForbids, false, false},
		"privoxy, cut off": {tunnelOpens, response("502 Server or forwarder response empty", html, "<title>502 - Server or forwarder response empty (Privoxy@localhost)</title>"),
			task.CodeProxyTarget, true, false},
		"haproxy, no server":    {response("503 Service Unavailable", html, noServer), response("503 Service Unavailable", html, noServer), task.CodeProxyTarget, true, false},
		"haproxy, denied":       {response("403 Forbidden", html, "Request forbidden by administrative rules."), response("403 Forbidden", html, "Request forbidden by administrative rules."), task.CodeProxyForbids, false, false},
		"haproxy, login":        {response("401 Unauthorized", html, "You need a valid user"), response("401 Unauthorized", html, "You need a valid user"), task.CodeProxyLoginMissing, false, false},
		"sing-box, node down":   {tunnelCloses, response("502 Bad Gateway", "", ""), task.CodeProxyTarget, false, false},
		"closes everything":     {"", "", task.CodeProxyFailed, false, false},
		"sing-box, login":       {tunnelOpens, response("407 Proxy Authentication Required", "Proxy-Authenticate: Basic realm=\"sing-box\" charset=\"UTF-8\"\r\n", ""), task.CodeProxyLoginMissing, false, false},
		"v2ray, node down":      {tunnelOpens, response("503 Service Unavailable", "Connection: close\r\nProxy-Connection: close\r\n", ""), task.CodeProxyTarget, true, false},
		"Proxy-Status, refused": {tunnelOpens, response("502 Bad Gateway", "Proxy-Status: corp; error=connection_refused\r\n"+html, "x"), task.CodeProxyTarget, false, false},
		"Proxy-Status, denied":  {tunnelOpens, response("403 Forbidden", "Proxy-Status: corp; error=http_request_denied; details=\"policy\"\r\n"+html, "x"), task.CodeProxyForbids, false, false},
		"Proxy-Status, cut":     {tunnelOpens, response("502 Bad Gateway", "Proxy-Status: corp; error=connection_terminated\r\n"+html, "x"), task.CodeProxyTarget, true, false},
		"Proxy-Status of a CDN": {tunnelOpens, response("502 Bad Gateway", "Server: cloudflare\r\nProxy-Status: cf; error=connection_refused\r\n"+html, "x"), "", false, false},

		"a web server, 404":      {response("404 Not Found", html, "no such page"), response("404 Not Found", html, "no such page"), task.CodeProxyNoProxy, false, false},
		"a web server, 405":      {response("405 Not Allowed", "Server: nginx/1.22\r\n"+html, "x"), response("200 OK", "Server: nginx/1.22\r\n"+html, "<h1>Welcome to nginx!</h1>"), task.CodeProxyNoProxy, true, false},
		"a web server, redirect": {response("400 Bad Request", html, "x"), response("301 Moved", "Location: https://login.example/?t=hunter2\r\n", ""), task.CodeProxyNoProxy, false, false},
		"a web server, page":     {response("200 OK", html, "<h1>It works!</h1>"), response("200 OK", html, "<h1>It works!</h1>"), task.CodeProxyNoProxy, true, false},
		"a JSON server":          {response("404 Not Found", json, `{"detail":"Not Found"}`), response("404 Not Found", json, `{"detail":"Not Found"}`), task.CodeProxyNoProxy, false, false},

		"the API's error":                       {tunnelOpens, response("503 Service Unavailable", json, `{"error":{"message":"overloaded"}}`), "", false, false},
		"the API's error, CONNECT is forbidden": {response("403 Forbidden", html, "x"), response("403 Forbidden", json, `{"error":{"message":"no"}}`), "", false, false},
		"the API's 404, CONNECT is not allowed": {response("405 Method Not Allowed", "", ""), response("404 Not Found", json, `{"error":{"code":"model_not_found"}}`), "", false, false},
		"a relay's error":                       {response("405 Method Not Allowed", "", ""), response("404 Not Found", json, `{"code":30011,"message":"no such model"}`), "", false, false},
		"the API's error, Proxy-Connection":     {tunnelOpens, response("502 Bad Gateway", "Proxy-Connection: keep-alive\r\n"+json, `{"error":{}}`), "", false, false},
		"Cloudflare before the API":             {tunnelOpens, response("522 ", "Server: cloudflare\r\nCF-RAY: 1\r\n"+html, "error code: 522"), "", false, false},
		"a gateway, nothing tells whose":        {tunnelOpens, response("503 Service Unavailable", html, noServer), "", false, true},
		"a gateway with Via":                    {tunnelOpens, response("502 Bad Gateway", "Via: 1.1 corp\r\nServer: nginx\r\nDate: Thu, 26 Nov 2026 09:57:03 GMT\r\n"+html, "x"), "", false, true},
		"nginx that forwards, target down":      {response("405 Not Allowed", "Server: nginx\r\n"+html, "x"), response("502 Bad Gateway", "Server: nginx\r\n"+html, "y"), "", false, true},
		"forbidden, nothing tells by whom":      {response("403 Forbidden", html, "not this port"), response("403 Forbidden", html, "no"), "", false, true},
		"a captive portal":                      {tunnelOpens, response("302 Found", "Location: http://portal.example/login\r\n", ""), "", false, false},
		"a picture":                             {response("405 Method Not Allowed", "", ""), response("200 OK", json, `{"data":[]}`), "", false, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := script(t, c.connect, c.plain)
			body, answer, err := post(transport(t, proxy.Config{Env: proxy.Env{OpenAI: []string{p.url}}}), target)
			if c.code == "" {
				require.NoError(t, err)
				assert.Equal(t, c.plain[strings.Index(c.plain, "\r\n\r\n")+4:], body, "the whole body is there")
				assert.Equal(t, c.doubt, proxy.Doubt(answer) == p.url, proxy.Doubt(answer))
				return
			}
			var failed *proxy.Error
			require.ErrorAs(t, err, &failed)
			assert.Equal(t, c.code, failed.Code(), "%v", err)
			assert.Equal(t, c.sent, failed.Sent, "%v", err)
			if c.sent {
				assert.EqualValues(t, 1, p.requests.Load(), "it is sent once")
			}
			assert.Contains(t, err.Error(), p.url)
			assert.NotContains(t, err.Error(), "hunter2")
			assert.Equal(t, c.code == task.CodeProxyNoProxy || c.code == task.CodeProxyLoginMissing, failed.IsProxy())
		})
	}
}

// A proxy that hangs is noticed before a request is sent to it: nothing can have been paid for, and the next proxy serves.
func TestTransport_ForwardingProxyHangs(t *testing.T) {
	a := startAPI(t)
	hung := script(t, hangs, hangs)
	conf := proxy.Config{Env: proxy.Env{OpenAI: []string{hung.url}}, ConnectTimeout: 300 * time.Millisecond}
	_, _, err := post(transport(t, conf), a.plain.URL)
	var failed *proxy.Error
	require.ErrorAs(t, err, &failed)
	assert.Equal(t, task.CodeProxyNoAnswer, failed.Code())
	assert.False(t, failed.Sent)
	assert.Zero(t, hung.requests.Load())

	works := startProxy(t, simproxy.Config{})
	conf.Env.OpenAI = append(conf.Env.OpenAI, works.URL())
	tr := transport(t, conf)
	_, _, err = post(tr, a.plain.URL)
	require.NoError(t, err)
	assert.Zero(t, hung.requests.Load())
	assert.True(t, states(t, tr)[0].Ejected)
}

// A picture may take longer than a proxy may take to respond: the API's time is not the proxy's.
func TestTransport_ForwardedPictureTakesTime(t *testing.T) {
	release := make(chan struct{})
	arrived := make(chan struct{}, 1)
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		<-release
		_, _ = io.WriteString(w, "picture")
	}))
	defer api.Close()
	p := startProxy(t, simproxy.Config{})
	const limit = 200 * time.Millisecond
	tr := transport(t, proxy.Config{Env: proxy.Env{OpenAI: []string{p.URL()}}, ConnectTimeout: limit, DialTimeout: limit, TLSTimeout: limit})
	go func() {
		<-arrived
		time.Sleep(3 * limit) // longer than every limit of the proxy
		close(release)
	}()
	body, _, err := post(tr, api.URL)
	require.NoError(t, err)
	assert.Equal(t, "picture", body)
}

// A proxy that opens no tunnels still forwards plain requests, whatever it says to CONNECT.
func TestTransport_ForwardsWithoutTunnels(t *testing.T) {
	for name, connect := range map[string]string{
		"closes": "", "403": response("403 Forbidden", html, "x"), "405": response("405 Method Not Allowed", "", ""), "501": response("501 Not Implemented", html, "x"),
		"no end": "HTTP/1.1 403 Forbidden\r\nContent-Length: 1000\r\n\r\nx",
	} {
		t.Run(name, func(t *testing.T) {
			p := script(t, connect, response("200 OK", json, "{}"))
			body, _, err := post(transport(t, proxy.Config{Env: proxy.Env{OpenAI: []string{p.url}}}), "http://api.example/")
			require.NoError(t, err)
			assert.Equal(t, "{}", body)
		})
	}
}

// A node that stops working after the proxy was asked: the proxy's response leaves the outcome unknown, and the question that tells whose it is
// waits for the tunnel's end.
func TestTransport_NodeFailsLater(t *testing.T) {
	for name, after := range map[string]time.Duration{"at once": 0, "later": 500 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			var plain atomic.Int64
			p := "http://" + wire(t, func(conn net.Conn) {
				r, err := http.ReadRequest(bufio.NewReader(conn))
				switch {
				case err != nil:
				case r.Method != http.MethodConnect && plain.Add(1) == 1:
					_, _ = io.WriteString(conn, response("200 OK", json, "{}"))
				case r.Method != http.MethodConnect:
					_, _ = io.WriteString(conn, response("502 Bad Gateway", "", ""))
				default:
					_, _ = io.WriteString(conn, tunnelOpens)
					_ = conn.SetReadDeadline(time.Now().Add(after))
					if plain.Load() == 0 {
						_ = conn.SetReadDeadline(time.Time{})
					}
					_, _ = conn.Read(make([]byte, 1))
				}
			})
			tr := transport(t, proxy.Config{Env: proxy.Env{OpenAI: []string{p}}})
			_, _, err := post(tr, "http://api.example/")
			require.NoError(t, err)
			_, _, err = post(tr, "http://api.example/")
			var failed *proxy.Error
			require.ErrorAs(t, err, &failed)
			assert.Equal(t, task.CodeProxyTarget, failed.Code())
			assert.True(t, failed.Sent)
			assert.EqualValues(t, 2, plain.Load())
		})
	}
}

// The proxy is asked before requests only if it has not responded lately.
func TestTransport_AsksOnlyAfterSilence(t *testing.T) {
	a := startAPI(t)
	var asked atomic.Int64
	inner := startProxy(t, simproxy.Config{})
	outer := "http://" + wire(t, func(conn net.Conn) {
		reader := bufio.NewReader(conn)
		head, err := reader.Peek(7)
		if err != nil {
			return
		}
		if string(head) == "CONNECT" {
			asked.Add(1)
		}
		to, err := net.Dial("tcp", inner.Addr())
		if err != nil {
			return
		}
		defer to.Close()
		go func() { _, _ = io.Copy(to, reader) }()
		_, _ = io.Copy(conn, to)
	})
	tr := transport(t, proxy.Config{Env: proxy.Env{OpenAI: []string{outer}}})
	for range 5 {
		_, _, err := post(tr, a.plain.URL)
		require.NoError(t, err)
	}
	assert.EqualValues(t, 1, asked.Load())
}

// What ends the caller's context ends the questions too.
func TestTransport_ForwardCanceled(t *testing.T) {
	p := script(t, hangs, hangs)
	tr := transport(t, proxy.Config{Env: proxy.Env{OpenAI: []string{p.url}}})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://api.example/", strings.NewReader("x"))
	require.NoError(t, err)
	began := time.Now()
	_, err = tr.RoundTrip(r)
	require.Error(t, err)
	assert.Less(t, time.Since(began), 5*time.Second)
	var failed *proxy.Error
	assert.True(t, errors.As(err, &failed) && !failed.Sent, "%v", err)
}

// Whatever a program at the proxy's address sends, a request ends in time with a response or an error that holds neither the login nor more than a
// line of what was sent.
func TestTransport_OddResponses(t *testing.T) {
	long := strings.Repeat("x", 60<<10)
	odd := map[string]string{
		"nothing": "", "a byte": "H", "half a head": "HTTP/1.1 200", "no status": "HTTP/1.1 abc\r\n\r\n", "another version": "HTTP/9.9 200 OK\r\n\r\n",
		"continue": "HTTP/1.1 100 Continue\r\n\r\n", "no content": "HTTP/1.1 204 No Content\r\n\r\n", "status 0": "HTTP/1.1 000 x\r\n\r\n",
		"status 999": "HTTP/1.1 999 x\r\nContent-Length: 0\r\n\r\n", "long header": "HTTP/1.1 503 x\r\nServer: " + long + "\r\n\r\n",
		"longer header": "HTTP/1.1 503 x\r\nServer: " + long + long + "\r\n\r\n", "cut off": "HTTP/1.1 503 x\r\nContent-Length: 100\r\n\r\nx",
		"bad chunks": "HTTP/1.1 502 x\r\nTransfer-Encoding: chunked\r\n\r\nzz", "bad length": "HTTP/1.1 502 x\r\nContent-Length: -1\r\n\r\n",
		"long page": "HTTP/1.1 403 x\r\nContent-Type: text/html\r\n\r\n" + long, "long reason": "HTTP/1.1 407 " + long + "\r\n\r\n",
		"bad location":  "HTTP/1.1 302 x\r\nLocation: http://%zz/hunter2\r\nContent-Length: 0\r\n\r\n",
		"long location": "HTTP/1.1 302 x\r\nLocation: http://" + long + "/hunter2\r\nContent-Length: 0\r\n\r\n",
		"Proxy-Status":  "HTTP/1.1 502 x\r\nProxy-Status: \"a,b\";error=;=, ;;,error\r\nContent-Length: 0\r\n\r\n",
		"a TLS alert":   "\x15\x03\x01\x00\x02\x02\x0a", "SOCKS": "\x05\xff", "SSH": "SSH-2.0-OpenSSH_9.2\r\n", "zeros": "\x00\x00\x00\x00",
		"escape codes": "HTTP/1.1 404 x\r\nServer: \x1b[31mred\r\nContent-Length: 0\r\n\r\n",
	}
	for name, text := range odd {
		for _, both := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, to CONNECT too: %v", name, both), func(t *testing.T) {
				t.Parallel()
				connect := tunnelOpens
				if both {
					connect = text + closes
				}
				p := script(t, connect, text+closes)
				login := strings.Replace(p.url, "://", "://wei:hunter2@", 1)
				for _, target := range []string{"http://api.example/", "https://api.example/"} {
					began := time.Now()
					_, _, err := post(transport(t, proxy.Config{Env: proxy.Env{OpenAI: []string{login}}, ConnectTimeout: 2 * time.Second,
						TLSTimeout: 200 * time.Millisecond}), target)
					assert.Less(t, time.Since(began), 15*time.Second)
					if err != nil {
						assert.NotContains(t, err.Error(), "hunter2")
						assert.NotContains(t, err.Error(), "\x1b")
						assert.Less(t, len(err.Error()), 600)
					}
				}
			})
		}
	}
}
