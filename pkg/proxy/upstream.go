package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"

	"imagetasks/pkg/redact"
	"imagetasks/pkg/task"
)

// upstream is one route to the API with its own connections: one proxy of the list, or, without a list, the route that the
// other settings give.
type upstream struct {
	conf    Config
	route   configuredRoute
	breaker breaker
	// pool carries https, and http that goes directly or through SOCKS: the connections end at the API.
	pool connPool
	// forward carries http through an http proxy, which takes the whole URL and opens no tunnel.
	forward *http.Transport
	// answered is when the proxy last responded to a forwarded request, in nanoseconds since 1970.
	answered atomic.Int64
}

func newUpstream(conf Config, r configuredRoute) *upstream {
	up := &upstream{conf: conf, route: r}
	up.pool.newTransport = func() *http.Transport {
		t := up.newHTTP()
		t.DialContext = func(ctx context.Context, _, addr string) (net.Conn, error) { return up.connect(ctx, "http", addr) }
		t.DialTLSContext = up.dialTLS
		return t
	}
	up.forward = up.newHTTP()
	// Some proxies (tinyproxy) close the connection after each plain request without announcing it. A POST sent on such a
	// connection is lost and can't be repeated safely.
	up.forward.DisableKeepAlives = true
	up.forward.Proxy = func(r *http.Request) (*url.URL, error) { return up.route.choose(r.URL) }
	up.forward.DialContext = up.dialForward("http")
	up.forward.DialTLSContext = up.dialForward("https")
	return up
}

func (up *upstream) newHTTP() *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	return &http.Transport{
		TLSClientConfig:        up.newTLS(),
		TLSHandshakeTimeout:    up.conf.TLSTimeout,
		ResponseHeaderTimeout:  up.conf.FirstByteTimeout,
		IdleConnTimeout:        up.conf.IdleTimeout,
		MaxResponseHeaderBytes: 64 << 10,
		// Pictures come as base64; another layer of compression gains nothing.
		DisableCompression: true,
		Protocols:          protocols,
		HTTP2: &http.HTTP2Config{
			MaxReceiveBufferPerStream:     128 << 10, // of each request in flight
			MaxReceiveBufferPerConnection: 4 << 20,
			// A ping detects a dead connection before the task's timeout does.
			SendPingTimeout: up.conf.PingAfter,
			PingTimeout:     up.conf.PingTimeout,
		},
	}
}

func (up *upstream) newTLS() *tls.Config {
	return &tls.Config{RootCAs: up.conf.RootCAs, MinVersion: tls.VersionTLS12}
}

func (up *upstream) closeIdle() {
	up.pool.closeIdle()
	up.forward.CloseIdleConnections()
}

// via returns the proxy for requests to u without its login; empty: none.
func (up *upstream) via(u *url.URL) string {
	proxy, err := up.route.choose(u)
	if err != nil {
		return ""
	}
	return redact.URL(proxy)
}

// send sends a request through the upstream and reports the outcome to done once: on failure, or when the response's body
// ends. A connection that can't be made is an *Error: no byte of the request was sent. The body of the response is a
// *responseBody. So is a response of the proxy itself, with Sent if the proxy may have forwarded the request.
func (up *upstream) send(r *http.Request, done func(error)) (*http.Response, error) {
	if isOtherTarget(r.Context()) {
		done = onlyProxyErrors(done)
	}
	canceled := func() bool { return errors.Is(r.Context().Err(), context.Canceled) }
	response, err := up.roundTrip(r)
	if err != nil {
		done(outcome(err, canceled))
		if e, ok := errors.AsType[*Error](err); ok && e.Op == OpDial {
			up.closeIdle() // the remaining connections are dead, too
		}
		return nil, err
	}
	body := &responseBody{ReadCloser: response.Body, canceled: canceled, done: done}
	if forwarded, ok := response.Body.(*forwardedBody); ok {
		body.doubt = forwarded.doubt
	}
	if response.StatusCode == http.StatusForbidden {
		body.success = errNoOutcome // the API may refuse the proxy's address
	}
	response.Body = body
	return response, nil
}

func (up *upstream) roundTrip(r *http.Request) (*http.Response, error) {
	proxy, err := up.route.choose(r.URL)
	if err != nil {
		if r.Body != nil {
			_ = r.Body.Close()
		}
		return nil, err
	}
	if r.URL.Scheme == "http" && !up.conf.tunnelAll && proxy != nil && (proxy.Scheme == "http" || proxy.Scheme == "https") {
		return up.sendForward(r, proxy)
	}
	return up.pool.roundTrip(r)
}

// onlyProxyErrors returns done without the outcomes that don't come from the proxy itself.
func onlyProxyErrors(done func(error)) func(error) {
	return func(err error) {
		if e, ok := errors.AsType[*Error](err); !ok || !e.IsProxy() {
			err = errNoOutcome
		}
		done(err)
	}
}

// outcome is what a failed request shows about its upstream: nothing if the caller canceled it.
func outcome(err error, canceled func() bool) error {
	if canceled() {
		return errNoOutcome
	}
	return err
}

// responseBody reports how reading a response ended, and can eject the upstream that the response came through.
type responseBody struct {
	io.ReadCloser
	canceled func() bool
	once     sync.Once
	done     func(error)
	success  error // the outcome of a response that was received whole
	eject    func(code task.Code, reason string) (another bool)
	doubt    string // the proxy that may have made the response; empty: the API made it, or the request was not forwarded
}

func (b *responseBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	switch {
	case err == io.EOF:
		b.end(b.success)
	case err != nil:
		b.end(outcome(err, b.canceled))
	}
	return n, err
}

func (b *responseBody) Close() error {
	b.end(b.success)
	return b.ReadCloser.Close()
}

func (b *responseBody) end(outcome error) { b.once.Do(func() { b.done(outcome) }) }

// EjectUpstream ejects the upstream that a response came through, because the API refuses the address of its exit. It
// reports whether the Transport has another upstream that is not ejected. It does nothing and returns false if the response
// is not from a Transport or its body was wrapped.
func EjectUpstream(response *http.Response, code task.Code, reason string) (another bool) {
	body, ok := response.Body.(*responseBody)
	return ok && body.eject(code, reason)
}
