package proxy

import (
	"context"
	"crypto/x509"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Config says which way requests go and how long each step may take. A zero bound is its default.
type Config struct {
	Env              Env
	DialTimeout      time.Duration  // TCP, to the proxy or directly; 10s
	ConnectTimeout   time.Duration  // the proxy's answer to CONNECT or SOCKS; 15s
	TLSTimeout       time.Duration  // a TLS handshake; 15s
	FirstByteTimeout time.Duration  // from the request's end to the answer's head; 5m
	PingAfter        time.Duration  // an HTTP/2 connection that was silent for so long is pinged; 20s
	PingTimeout      time.Duration  // without an answer to the ping the connection is dead; 15s
	IdleTimeout      time.Duration  // a connection unused for so long is closed: HTTP/1.1 has no ping; 30s
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
		{&c.PingAfter, 20 * time.Second},
		{&c.PingTimeout, 15 * time.Second},
		{&c.IdleTimeout, 30 * time.Second},
	} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
}

// Transport is an http.RoundTripper. Connections are kept and reused; HTTP/2 is spoken where the
// API does. Of several proxies the first that works serves; one that fails is left out for a while, and may be tried
// again after a wait that grows (see Due). It is safe for concurrent use.
type Transport struct {
	conf      Config
	upstreams []*upstream // one at least
}

// New returns a Transport, or a *SettingError for each proxy URL that can't be used.
func New(conf Config) (*Transport, error) {
	conf.setDefaults()
	routes, err := newRoutes(conf.Env)
	if err != nil {
		return nil, err
	}
	t := &Transport{conf: conf}
	for _, r := range routes {
		t.upstreams = append(t.upstreams, newUpstream(conf, r))
	}
	return t, nil
}

// OnChange has tell called when a proxy of several is left out and when it serves again. tell must neither block
// nor call back. OnChange is called before the first request.
func (t *Transport) OnChange(tell func(UpstreamState)) {
	if len(t.upstreams) < 2 {
		return // there is no other to serve meanwhile
	}
	for _, w := range t.upstreams {
		w.breaker.changed = func(s UpstreamState) {
			s.Proxy = w.via(&url.URL{}) // a proxy of a list serves every URL
			tell(s)
		}
	}
}

// RetryableUpstreams returns a Transport for each proxy of several that is left out and may be tried again by now. What a GET comes to
// that goes through it decides whether the proxy serves again; other requests may cost something, and try none.
func (t *Transport) RetryableUpstreams() []*Transport {
	if len(t.upstreams) < 2 {
		return nil // it is asked all the same
	}
	var out []*Transport
	for _, w := range t.upstreams {
		if s := w.breaker.state(); s.Ejected && time.Now().After(s.RetryAt) {
			out = append(out, &Transport{conf: t.conf, upstreams: []*upstream{w}})
		}
	}
	return out
}

// Upstreams returns a Transport for each way of this one, in their order.
func (t *Transport) Upstreams() []*Transport {
	var out []*Transport
	for _, w := range t.upstreams {
		out = append(out, &Transport{conf: t.conf, upstreams: []*upstream{newUpstream(t.conf, w.route)}})
	}
	return out
}

// RoundTrip implements http.RoundTripper. A connection that can't be made is an *Error, the last proxy's where
// there are several. A request goes to the next proxy only while none of its bytes was sent: one that may
// have reached the API is never repeated.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	var leftOut []*upstream
	var last error
	for _, w := range t.upstreams {
		done, ok := w.breaker.allow(r.Method == http.MethodGet)
		if !ok {
			leftOut = append(leftOut, w)
			continue
		}
		answer, err, next := t.send(w, done, r, last)
		if !next {
			return answer, err
		}
		last = err
	}
	// Nothing is lost by asking those that failed lately, now that the others have failed as well.
	for _, w := range leftOut {
		answer, err, next := t.send(w, w.breaker.anyway(), r, last)
		if !next {
			return answer, err
		}
		last = err
	}
	return nil, last
}

// send sends a request one way; failed is how the last way failed, nil for the first. It reports whether the next
// way may be tried.
func (t *Transport) send(w *upstream, done func(error), r *http.Request, failed error) (answer *http.Response, err error, next bool) {
	if failed != nil && r.Body != nil && r.Body != http.NoBody {
		if r.GetBody == nil {
			done(errNoVerdict)
			return nil, failed, false
		}
		body, err := r.GetBody()
		if err != nil {
			done(errNoVerdict)
			return nil, errors.Join(failed, err), false
		}
		again := *r
		again.Body = body
		r = &again
	}
	answer, err = w.send(r.WithContext(context.WithValue(r.Context(), carrierKey{}, carrier{t, w})), done)
	_, unsent := errors.AsType[*Error](err)
	return answer, err, unsent && r.Context().Err() == nil
}

// CloseIdleConnections closes what no request uses.
func (t *Transport) CloseIdleConnections() {
	for _, w := range t.upstreams {
		w.closeIdle()
	}
}

// Via returns the proxies for requests to u in their order, without their logins; none: a direct connection.
func (t *Transport) Via(u *url.URL) []string {
	var out []string
	for _, w := range t.upstreams {
		if via := w.via(u); via != "" {
			out = append(out, via)
		}
	}
	return out
}

// Describe says which way requests to u go, for people, without a login.
func (t *Transport) Describe(u *url.URL) string {
	if _, err := t.upstreams[0].route(u); err != nil {
		return err.Error()
	}
	if via := t.Via(u); len(via) > 0 {
		return "through " + strings.Join(via, ", else ")
	}
	return "directly, without a proxy"
}

// States returns how each way to u stands, in their order.
func (t *Transport) States(u *url.URL) []UpstreamState {
	out := make([]UpstreamState, 0, len(t.upstreams))
	for _, w := range t.upstreams {
		s := w.breaker.state()
		s.Proxy = w.via(u)
		out = append(out, s)
	}
	return out
}
