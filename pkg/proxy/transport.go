package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/url"
	"time"

	"imagetasks/pkg/redact"
)

// Config says which way requests go and how long each step may take. A zero bound is its default.
type Config struct {
	Env              Env
	DialTimeout      time.Duration  // TCP, to the proxy or directly; 10s
	ConnectTimeout   time.Duration  // the proxy's answer to CONNECT or SOCKS; 15s
	TLSTimeout       time.Duration  // a TLS handshake; 15s
	FirstByteTimeout time.Duration  // from the request's end to the answer's head; 5m
	RootCAs          *x509.CertPool // nil: the system's
}

func (c *Config) setDefaults() {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&c.DialTimeout, 10 * time.Second},
		{&c.ConnectTimeout, 15 * time.Second},
		{&c.TLSTimeout, 15 * time.Second},
		{&c.FirstByteTimeout, 5 * time.Minute},
	} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
}

// Transport is an http.RoundTripper. Connections are kept and reused; HTTP/2 is spoken where the
// API does. It is safe for concurrent use.
type Transport struct {
	conf   Config
	routes routes
	// tunnel carries https, and http that goes directly or through SOCKS: all of them need a
	// connection that ends at the API.
	tunnel *http.Transport
	// forward carries http through an http proxy, which wants the whole URL and no tunnel.
	forward *http.Transport
}

// New returns a Transport, or a *SettingError for each proxy URL that can't be used.
func New(conf Config) (*Transport, error) {
	conf.setDefaults()
	r, err := newRoutes(conf.Env)
	if err != nil {
		return nil, err
	}
	t := &Transport{conf: conf, routes: r}
	t.tunnel = t.newHTTP()
	t.tunnel.DialContext = func(ctx context.Context, _, addr string) (net.Conn, error) {
		return t.connect(ctx, "http", addr)
	}
	t.tunnel.DialTLSContext = t.dialTLS
	t.forward = t.newHTTP()
	// Some proxies (tinyproxy) close after each plain request without saying so; a POST sent on such
	// a connection is lost, and can't be repeated safely.
	t.forward.DisableKeepAlives = true
	t.forward.Proxy = func(r *http.Request) (*url.URL, error) { return t.routes.route(r.URL) }
	t.forward.DialContext = t.dialForward("http")
	t.forward.DialTLSContext = t.dialForward("https")
	return t, nil
}

func (t *Transport) newHTTP() *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	return &http.Transport{
		TLSClientConfig:        &tls.Config{RootCAs: t.conf.RootCAs, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    t.conf.TLSTimeout,
		ResponseHeaderTimeout:  t.conf.FirstByteTimeout,
		IdleConnTimeout:        90 * time.Second,
		MaxIdleConnsPerHost:    128,
		MaxResponseHeaderBytes: 64 << 10,
		// Pictures come as base64; nothing is won by another layer around them.
		DisableCompression: true,
		Protocols:          protocols,
		HTTP2: &http.HTTP2Config{
			MaxReceiveBufferPerStream:     256 << 10,
			MaxReceiveBufferPerConnection: 4 << 20,
			// A connection that fell silent is found by a ping, not by a task that hangs.
			SendPingTimeout: 20 * time.Second,
			PingTimeout:     15 * time.Second,
		},
	}
}

// RoundTrip implements http.RoundTripper. A connection that can't be made is an *Error.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	proxy, err := t.routes.route(r.URL)
	if err != nil {
		if r.Body != nil {
			_ = r.Body.Close()
		}
		return nil, err
	}
	if r.URL.Scheme == "http" && proxy != nil && (proxy.Scheme == "http" || proxy.Scheme == "https") {
		return t.forward.RoundTrip(r)
	}
	return t.tunnel.RoundTrip(r)
}

// CloseIdleConnections closes what no request uses.
func (t *Transport) CloseIdleConnections() {
	t.tunnel.CloseIdleConnections()
	t.forward.CloseIdleConnections()
}

// Via returns the proxy for requests to u, without its login; empty: none.
func (t *Transport) Via(u *url.URL) string {
	proxy, err := t.routes.route(u)
	if err != nil {
		return ""
	}
	return redact.URL(proxy)
}

// Describe says which way requests to u go, for people, without a login.
func (t *Transport) Describe(u *url.URL) string {
	proxy, err := t.routes.route(u)
	switch {
	case err != nil:
		return err.Error()
	case proxy == nil:
		return "directly, without a proxy"
	}
	return "through " + redact.URL(proxy)
}
