package proxy

import (
	"context"
	"crypto/x509"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"imagetasks/pkg/task"
)

// Config gives the routes and the time limit of each step. A limit of 0 is the default.
type Config struct {
	Env              Env
	DialTimeout      time.Duration  // TCP, to the proxy or directly; 10s
	ConnectTimeout   time.Duration  // the proxy's response to CONNECT or SOCKS; 15s
	TLSTimeout       time.Duration  // a TLS handshake; 15s
	FirstByteTimeout time.Duration  // from the end of the request to the head of the response; 5m
	PingAfter        time.Duration  // an HTTP/2 connection without traffic for this long is pinged; 20s
	PingTimeout      time.Duration  // without a response to the ping the connection is closed; 15s
	IdleTimeout      time.Duration  // a connection without a request for this long is closed, because HTTP/1.1 has no ping; 30s
	RootCAs          *x509.CertPool // nil: the system's

	tunnelAll bool // see Tunneled
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

// Transport is an http.RoundTripper. It reuses connections, and uses HTTP/2 where the API supports it. Of several upstreams
// the first that is not ejected serves. One that fails is ejected, and may be tried again after a wait that grows (see
// RetryableUpstreams). A Transport is safe for concurrent use.
type Transport struct {
	conf      Config
	list      atomic.Pointer[[]*upstream] // at least one
	downloads atomic.Pointer[downloadRoutes]

	mu       sync.Mutex // of changes of list
	onChange func(UpstreamState)
}

// New returns a Transport. Each proxy URL that can't be used is a *settings.Error in the error.
func New(conf Config) (*Transport, error) {
	conf.setDefaults()
	routes, err := newRoutes(conf.Env)
	if err != nil {
		return nil, err
	}
	var list []*upstream
	for _, r := range routes {
		list = append(list, newUpstream(conf, r))
	}
	t := newTransport(conf, list...)
	downloads, err := newDownloadRoutes(conf, conf.Env)
	if err != nil {
		return nil, err
	}
	t.downloads.Store(downloads)
	return t, nil
}

func newTransport(conf Config, list ...*upstream) *Transport {
	t := &Transport{conf: conf}
	t.list.Store(&list)
	return t
}

// upstreams returns the upstreams at this time.
func (t *Transport) upstreams() []*upstream { return *t.list.Load() }

// CheckEnv returns the error that SetEnv would return.
func CheckEnv(env Env) error {
	_, err := newRoutes(env)
	return err
}

// SetEnv makes requests that begin from now on use other proxies. Requests in flight go on. An upstream that stays as it was
// keeps its state and its connections. Each proxy URL that can't be used is a *settings.Error in the error, and nothing is
// changed then.
func (t *Transport) SetEnv(env Env) error {
	routes, err := newRoutes(env)
	if err != nil {
		return err
	}
	downloads, err := newDownloadRoutes(t.conf, env)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.downloads.Swap(downloads).closeIdle()
	old := t.upstreams()
	var list []*upstream
	for _, r := range routes {
		same := slices.IndexFunc(old, func(up *upstream) bool { return up.route.settings == r.settings })
		if same >= 0 {
			list = append(list, old[same])
		} else {
			list = append(list, newUpstream(t.conf, r))
		}
	}
	t.observe(list)
	t.list.Store(&list)
	for _, up := range old {
		if !slices.Contains(list, up) {
			up.closeIdle()
		}
	}
	return nil
}

// OnChange sets a function that is called when one of several upstreams is ejected and when it serves again. The function
// must not block and must not use the Transport. Call OnChange before the first request.
func (t *Transport) OnChange(f func(UpstreamState)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.onChange = f
	t.observe(t.upstreams())
}

// observe makes the upstreams of a list report their changes.
func (t *Transport) observe(list []*upstream) {
	for _, up := range list {
		var report func(UpstreamState)
		if len(list) > 1 && t.onChange != nil { // a single upstream is used even while it is ejected
			onChange := t.onChange
			report = func(s UpstreamState) {
				s.Proxy = up.via(&url.URL{}) // a proxy of a list serves every URL
				onChange(s)
			}
		}
		up.breaker.setOnChange(report)
	}
}

// RetryableUpstreams returns, if there are several upstreams, a Transport for each one that is ejected and may be tried
// again by now. A GET through it decides whether the upstream serves again. Other requests don't try it, because they may be
// billed.
func (t *Transport) RetryableUpstreams() []*Transport {
	list := t.upstreams()
	if len(list) < 2 {
		return nil // a single upstream is used even while it is ejected
	}
	var out []*Transport
	for _, up := range list {
		if s := up.breaker.snapshot(); s.Ejected && time.Now().After(s.RetryAt) {
			out = append(out, newTransport(t.conf, up))
		}
	}
	return out
}

// Upstreams returns a new Transport for each upstream, in their order. They share no state with t.
func (t *Transport) Upstreams() []*Transport {
	var out []*Transport
	for _, up := range t.upstreams() {
		out = append(out, newTransport(t.conf, newUpstream(t.conf, up.route)))
	}
	return out
}

type otherTargetKey struct{}

// WithOtherTarget returns a context for requests to a host that is not the API, such as the host of an input picture. Their
// outcome says nothing about the route to the API: it changes the state of an upstream only if the proxy itself can't be used,
// and they don't try an ejected upstream.
func WithOtherTarget(ctx context.Context) context.Context {
	return context.WithValue(ctx, otherTargetKey{}, true)
}

func isOtherTarget(ctx context.Context) bool { return ctx.Value(otherTargetKey{}) != nil }

// RoundTrip implements http.RoundTripper. A connection that can't be made is an *Error, that of the last upstream tried. A proxy's own response
// to a plain http request is an *Error too, where anything tells it from the API's (see Doubt).
// A request is sent to the next upstream only while none of its bytes was sent: one that may have reached the API is never
// repeated, because every picture is billed.
// A download is sent on every route until one delivers it (see Download).
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if d, ok := downloadOf(r.Context()); ok {
		return t.roundTripDownload(r, d)
	}
	var ejected []*upstream
	var last error
	for _, up := range t.upstreams() {
		done, ok := up.breaker.allow(r.Method == http.MethodGet && !isOtherTarget(r.Context()))
		if !ok {
			ejected = append(ejected, up)
			continue
		}
		response, err, next := t.send(up, done, r, last)
		if !next {
			return response, err
		}
		last = err
	}
	// All others have failed, so trying the ejected ones loses nothing.
	for _, up := range ejected {
		response, err, next := t.send(up, up.breaker.lastResort(), r, last)
		if !next {
			return response, err
		}
		last = err
	}
	return nil, last
}

// send sends a request through an upstream. previous is the error of the upstream tried before, nil for the first. next
// reports whether another upstream may be tried.
func (t *Transport) send(up *upstream, done func(error), r *http.Request, previous error) (response *http.Response, err error, next bool) {
	if previous != nil && r.Body != nil && r.Body != http.NoBody {
		if r.GetBody == nil {
			done(errNoOutcome)
			return nil, previous, false
		}
		body, err := r.GetBody()
		if err != nil {
			done(errNoOutcome)
			return nil, errors.Join(previous, err), false
		}
		again := *r
		again.Body = body
		r = &again
	}
	response, err = up.send(r, done)
	if err != nil {
		e, ok := errors.AsType[*Error](err)
		return nil, err, ok && !e.Sent && r.Context().Err() == nil
	}
	if body, ok := response.Body.(*responseBody); ok {
		body.eject = func(code task.Code, reason string) bool { return t.eject(up, code, reason) }
	}
	return response, nil, false
}

// Tunneled returns a Transport through the first upstream that sends plain http through a tunnel of an http proxy, too, instead of letting
// the proxy forward it. It shares no state with t.
func (t *Transport) Tunneled() *Transport {
	conf := t.conf
	conf.tunnelAll = true
	return newTransport(conf, newUpstream(conf, t.upstreams()[0].route))
}

// eject ejects an upstream and reports whether there is another that is not ejected.
func (t *Transport) eject(up *upstream, code task.Code, reason string) (another bool) {
	up.breaker.ejectFor(code, reason)
	for _, other := range t.upstreams() {
		another = another || !other.breaker.snapshot().Ejected
	}
	return another
}

// CloseIdleConnections closes the connections that carry no request.
func (t *Transport) CloseIdleConnections() {
	for _, up := range t.upstreams() {
		up.closeIdle()
	}
	t.downloads.Load().closeIdle()
}

// Via returns the proxies for requests to u in order of preference, without their logins. It is empty for a direct
// connection.
func (t *Transport) Via(u *url.URL) []string {
	var out []string
	for _, up := range t.upstreams() {
		if via := up.via(u); via != "" {
			out = append(out, via)
		}
	}
	return out
}

// States returns the state of each upstream for requests to u, in order of preference.
func (t *Transport) States(u *url.URL) []UpstreamState {
	list := t.upstreams()
	out := make([]UpstreamState, 0, len(list))
	for _, up := range list {
		s := up.breaker.snapshot()
		s.Proxy = up.via(u)
		out = append(out, s)
	}
	return out
}
