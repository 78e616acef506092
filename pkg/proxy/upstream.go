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

	"imagetasks/pkg/redact"
	"imagetasks/pkg/task"
)

// upstream is one way to the API, with connections of its own: through a proxy of the list, or, where there is no
// list, as the other settings say.
type upstream struct {
	conf    Config
	route   route
	breaker *breaker
	// pool carry https, and http that goes directly or through SOCKS: all of them need a
	// connection that ends at the API.
	pool connPool
	// forward carries http through an http proxy, which wants the whole URL and no tunnel.
	forward *http.Transport
}

func newUpstream(conf Config, r route) *upstream {
	w := &upstream{conf: conf, route: r, breaker: newBreaker()}
	w.pool.make = func() *http.Transport {
		lane := w.newHTTP()
		lane.DialContext = func(ctx context.Context, _, addr string) (net.Conn, error) { return w.connect(ctx, "http", addr) }
		lane.DialTLSContext = w.dialTLS
		return lane
	}
	w.forward = w.newHTTP()
	// Some proxies (tinyproxy) close after each plain request without saying so; a POST sent on such
	// a connection is lost, and can't be repeated safely.
	w.forward.DisableKeepAlives = true
	w.forward.Proxy = func(r *http.Request) (*url.URL, error) { return w.route(r.URL) }
	w.forward.DialContext = w.dialForward("http")
	w.forward.DialTLSContext = w.dialForward("https")
	return w
}

func (w *upstream) newHTTP() *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	return &http.Transport{
		TLSClientConfig:        w.newTLS(),
		TLSHandshakeTimeout:    w.conf.TLSTimeout,
		ResponseHeaderTimeout:  w.conf.FirstByteTimeout,
		IdleConnTimeout:        w.conf.IdleTimeout,
		MaxResponseHeaderBytes: 64 << 10,
		// Pictures come as base64; nothing is won by another layer around them.
		DisableCompression: true,
		Protocols:          protocols,
		HTTP2: &http.HTTP2Config{
			MaxReceiveBufferPerStream:     256 << 10,
			MaxReceiveBufferPerConnection: 4 << 20,
			// A connection that fell silent is found by a ping, not by a task that hangs.
			SendPingTimeout: w.conf.PingAfter,
			PingTimeout:     w.conf.PingTimeout,
		},
	}
}

func (w *upstream) newTLS() *tls.Config {
	return &tls.Config{RootCAs: w.conf.RootCAs, MinVersion: tls.VersionTLS12}
}

func (w *upstream) closeIdle() {
	w.pool.closeIdle()
	w.forward.CloseIdleConnections()
}

// via returns the proxy for requests to u, without its login; empty: none.
func (w *upstream) via(u *url.URL) string {
	proxy, err := w.route(u)
	if err != nil {
		return ""
	}
	return redact.URL(proxy)
}

// send sends a request this way and, at its end, tells the breaker what came of it. A connection that can't be
// made is an *Error, and then no byte of the request was sent.
func (w *upstream) send(r *http.Request, done func(error)) (*http.Response, error) {
	ctx := r.Context()
	answer, err := w.roundTrip(r)
	if err != nil {
		done(verdict(ctx, err))
		if fault, ok := errors.AsType[*Error](err); ok && fault.Op == OpDial {
			w.closeIdle() // what is left of them leads nowhere
		}
		return nil, err
	}
	watched := &watchedBody{ReadCloser: answer.Body, ctx: ctx, done: done}
	if answer.StatusCode == http.StatusForbidden {
		watched.passed = errNoVerdict // the API may refuse the proxy's address
	}
	answer.Body = watched
	return answer, nil
}

func (w *upstream) roundTrip(r *http.Request) (*http.Response, error) {
	proxy, err := w.route(r.URL)
	if err != nil {
		if r.Body != nil {
			_ = r.Body.Close()
		}
		return nil, err
	}
	if r.URL.Scheme == "http" && proxy != nil && (proxy.Scheme == "http" || proxy.Scheme == "https") {
		return w.sendForward(r, proxy)
	}
	return w.pool.roundTrip(r)
}

// sendForward has an http proxy carry a plain request. A proxy that wants another login carried nothing.
func (w *upstream) sendForward(r *http.Request, proxy *url.URL) (*http.Response, error) {
	answer, err := w.forward.RoundTrip(r)
	if err != nil || answer.StatusCode != http.StatusProxyAuthRequired {
		return answer, err
	}
	_ = answer.Body.Close()
	return nil, refusal(proxy, r.URL.Host, answer.StatusCode)
}

// verdict is what a failed request says of its way: nothing, where the caller broke it off.
func verdict(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return errNoVerdict
	}
	return err
}

// watchedBody tells how the reading of an answer ended.
type watchedBody struct {
	io.ReadCloser
	ctx    context.Context
	once   sync.Once
	done   func(error)
	passed error // the verdict of an answer that came whole
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	switch {
	case err == io.EOF:
		b.end(b.passed)
	case err != nil:
		b.end(verdict(b.ctx, err))
	}
	return n, err
}

func (b *watchedBody) Close() error {
	b.end(b.passed)
	return b.ReadCloser.Close()
}

func (b *watchedBody) end(verdict error) { b.once.Do(func() { b.done(verdict) }) }

// carrier is what carried a request, as its context knows it.
type carrier struct {
	transport *Transport
	way       *upstream
}

type carrierKey struct{}

// EjectUpstream leaves out the proxy that an answer came through, because the API won't serve who comes from there, and
// reports whether another of the list serves meanwhile. It does nothing for an answer that is none of a Transport's.
func EjectUpstream(answer *http.Response, code task.Code, reason string) (another bool) {
	if answer.Request == nil {
		return false
	}
	by, ok := answer.Request.Context().Value(carrierKey{}).(carrier)
	if !ok {
		return false
	}
	by.way.breaker.eject(code, reason)
	for _, w := range by.transport.upstreams {
		another = another || !w.breaker.state().Ejected
	}
	return another
}
