package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"

	"golang.org/x/net/http/httpproxy"
)

// Download is how a GET of something that is not the API's reaches its host. Every route is tried until one delivers: the upstreams, the
// proxy of HTTPS_PROXY, HTTP_PROXY or ALL_PROXY where OPENAI_PROXY is set too, and then, for a host that NO_PROXY names, a direct
// connection. What became of it says nothing about an upstream, unless its proxy can't be reached.
type Download struct {
	// Direct: a direct connection is the last route, whatever the settings say.
	Direct bool
	// CheckAddr is called with each address that this host has resolved for a target, and refuses it with an error. It is not called for
	// targets whose names a proxy resolves. nil: every address is allowed.
	CheckAddr func(netip.Addr) error
	// Stall bounds the wait for the head of a response on one route, and the wait for more of its body; 0: no bound.
	Stall time.Duration
}

type downloadKey struct{}

// WithDownload returns a context for GETs that are downloads.
func WithDownload(ctx context.Context, d Download) context.Context {
	return context.WithValue(ctx, downloadKey{}, d)
}

func downloadOf(ctx context.Context) (Download, bool) {
	d, ok := ctx.Value(downloadKey{}).(Download)
	return d, ok
}

type checkAddrKey struct{}

// WithCheckAddr returns a context for requests that are no downloads, whose targets are checked as Download.CheckAddr says. Connections are
// reused: all requests of a Transport to one host need the same check.
func WithCheckAddr(ctx context.Context, check func(netip.Addr) error) context.Context {
	return context.WithValue(ctx, checkAddrKey{}, check)
}

// checkAddr returns the check of the addresses of a target, or nil.
func checkAddr(ctx context.Context) func(netip.Addr) error {
	if check, ok := ctx.Value(checkAddrKey{}).(func(netip.Addr) error); ok {
		return check
	}
	d, _ := downloadOf(ctx)
	return d.CheckAddr
}

// controlAddr checks the address that a connection is made to. It is the one that the name was resolved to, right before the connection.
func controlAddr(check func(netip.Addr) error, address string) error {
	if check == nil {
		return nil
	}
	target, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	return check(target.Addr())
}

// allowedAddrs returns those of some host:port that are allowed, or the error for the last of them.
func allowedAddrs(check func(netip.Addr) error, targets []string) (allowed []string, err error) {
	for _, target := range targets {
		if e := controlAddr(check, target); e != nil {
			err = e
			continue
		}
		allowed = append(allowed, target)
	}
	if len(allowed) > 0 {
		return allowed, nil
	}
	return nil, err
}

// downloadRoutes are the routes that only downloads use.
type downloadRoutes struct {
	others  *upstream // by HTTPS_PROXY, HTTP_PROXY and ALL_PROXY, where OPENAI_PROXY is set
	direct  *upstream
	noProxy string
}

func newDownloadRoutes(conf Config, env Env) (*downloadRoutes, error) {
	direct := configuredRoute{func(*url.URL) (*url.URL, error) { return nil, nil }, "direct"}
	routes := &downloadRoutes{direct: newUpstream(conf, direct), noProxy: normalizeNoProxy(env.No)}
	env.OpenAI = nil
	byScheme, err := newRoutes(env)
	if err != nil {
		return nil, err
	}
	routes.others = newUpstream(conf, byScheme[0])
	return routes, nil
}

func (d *downloadRoutes) closeIdle() {
	if d != nil {
		d.others.closeIdle()
		d.direct.closeIdle()
	}
}

// downloadAttempt is one route of a download.
type downloadAttempt struct {
	up   *upstream
	done func(error) // takes the outcome
}

// downloadAttempts returns the routes to a URL, in the order in which they are tried.
func (t *Transport) downloadAttempts(u *url.URL, d Download) []downloadAttempt {
	var attempts, ejected []downloadAttempt
	used := map[string]bool{} // by proxy, with its login; empty: direct
	use := func(up *upstream) bool {
		proxy, err := up.route.choose(u)
		name := ""
		if err == nil && proxy != nil {
			name = proxy.String()
		}
		fresh := !used[name]
		used[name] = true
		return fresh
	}
	for _, up := range t.upstreams() {
		if !use(up) {
			continue
		}
		if done, ok := up.breaker.allow(false); ok {
			attempts = append(attempts, downloadAttempt{up, done})
		} else {
			ejected = append(ejected, downloadAttempt{up, up.breaker.lastResort()})
		}
	}
	attempts = append(attempts, ejected...)
	routes := t.downloads.Load()
	if routes == nil {
		return attempts
	}
	ignore := func(error) {}
	if proxy, err := routes.others.route.choose(u); err == nil && proxy != nil && use(routes.others) {
		attempts = append(attempts, downloadAttempt{routes.others, ignore})
	}
	if (d.Direct || namedDirect(routes.noProxy, u)) && use(routes.direct) {
		attempts = append(attempts, downloadAttempt{routes.direct, ignore})
	}
	return attempts
}

// namedDirect reports whether NO_PROXY names the host of a URL.
func namedDirect(noProxy string, u *url.URL) bool {
	if !isDirect(noProxy, u) {
		return false
	}
	if !isDirect("", u) {
		return true
	}
	// A loopback host is never proxied there, so that the list has to be asked.
	names := strings.FieldsFunc(noProxy, func(r rune) bool { return r == ',' || unicode.IsSpace(r) })
	return slices.ContainsFunc(names, func(name string) bool { return name == "*" || strings.EqualFold(name, u.Hostname()) })
}

func isDirect(noProxy string, u *url.URL) bool {
	const any = "http://proxy.invalid"
	config := httpproxy.Config{HTTPProxy: any, HTTPSProxy: any, NoProxy: noProxy}
	proxy, err := config.ProxyFunc()(u)
	return err == nil && proxy == nil
}

// roundTripDownload sends a download by one route after the other. If none delivers, it returns the response of the target's host, or else
// an error with the reason of each route.
func (t *Transport) roundTripDownload(r *http.Request, d Download) (*http.Response, error) {
	if r.Method != http.MethodGet {
		return nil, errors.New("a download is a GET")
	}
	var refused *http.Response
	var failures error
	for _, a := range t.downloadAttempts(r.URL, d) {
		response, err := a.up.sendDownload(r, d.Stall)
		a.done(proxyUnreachable(err))
		switch {
		case err == nil && !mayDifferElsewhere(response.StatusCode, a.up.forwardedBy(r.URL) != nil):
			discard(refused)
			return response, nil
		case err == nil && refused == nil:
			refused = response
		case err == nil:
			discard(response)
		case failures == nil:
			failures = err
		default:
			failures = fmt.Errorf("%w; %w", failures, err)
		}
		if r.Context().Err() != nil {
			break
		}
	}
	if refused != nil {
		return refused, nil
	}
	return nil, failures
}

// mayDifferElsewhere reports whether another route may get another response than one with this status. forwarded: a proxy may have made it.
func mayDifferElsewhere(status int, forwarded bool) bool {
	switch status {
	case http.StatusForbidden, http.StatusUnavailableForLegalReasons:
		return true // the host may refuse the address that it is asked from
	case http.StatusNotFound:
		return forwarded // privoxy says so of a host that it does not know
	}
	return false
}

func discard(response *http.Response) {
	if response != nil {
		_ = response.Body.Close()
	}
}

// proxyUnreachable returns err if it shows that the proxy itself can't be reached, else errNoOutcome.
func proxyUnreachable(err error) error {
	if e, ok := errors.AsType[*Error](err); ok && e.Proxy != "" && (e.Op == OpDial || e.Op == OpProxy) {
		return err
	}
	return errNoOutcome
}

// stalledError means that nothing arrived for too long.
type stalledError struct{ after time.Duration }

func (e *stalledError) Error() string { return fmt.Sprintf("nothing arrived for %s", e.after) }

// Timeout and Temporary implement net.Error.
func (e *stalledError) Timeout() bool   { return true }
func (e *stalledError) Temporary() bool { return true }

// sendDownload sends a GET through the upstream.
func (up *upstream) sendDownload(r *http.Request, limit time.Duration) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(r.Context())
	s := &stall{limit: limit, cancel: cancel, cause: func() error { return context.Cause(ctx) }}
	s.begin()
	response, err := up.roundTrip(r.WithContext(ctx))
	s.stop()
	if err == nil {
		err = up.forwardRefusal(r.URL, response)
	}
	if err != nil {
		err = s.explain(err)
		cancel(nil)
		return nil, err
	}
	response.Body = &downloadBody{ReadCloser: response.Body, stall: s}
	return response, nil
}

// forwardRefusal returns an error for a response that may be the page of a proxy that a plain request was forwarded by: another route may
// deliver. It closes the response then.
func (up *upstream) forwardRefusal(u *url.URL, response *http.Response) error {
	proxy := up.forwardedBy(u)
	if proxy == nil || response.StatusCode < 500 && response.StatusCode != http.StatusForbidden {
		return nil
	}
	discard(response)
	e := refusal(OpForward, proxy, u.Host, answer{status: response.StatusCode, header: response.Header})
	e.Err = fmt.Errorf("the proxy, or the host behind it, responded %d", response.StatusCode)
	return e
}

// forwardedBy returns the proxy that plain requests for a URL are forwarded by; nil: there is none.
func (up *upstream) forwardedBy(u *url.URL) *url.URL {
	proxy, err := up.route.choose(u)
	if err != nil || proxy == nil || u.Scheme != "http" || (proxy.Scheme != "http" && proxy.Scheme != "https") {
		return nil
	}
	return proxy
}

// stall ends a request if nothing arrives for too long.
type stall struct {
	limit  time.Duration // 0: none
	timer  *time.Timer
	cancel context.CancelCauseFunc // of the request
	cause  func() error            // of its end
}

func (s *stall) begin() {
	switch {
	case s.limit <= 0:
	case s.timer == nil:
		s.timer = time.AfterFunc(s.limit, func() { s.cancel(&stalledError{s.limit}) })
	default:
		s.timer.Reset(s.limit)
	}
}

func (s *stall) stop() {
	if s.timer != nil {
		s.timer.Stop()
	}
}

// explain returns the reason for an error: net/http only says that the request was cancelled.
func (s *stall) explain(err error) error {
	stalled, ok := errors.AsType[*stalledError](s.cause())
	if !ok {
		return err
	}
	if e, ok := errors.AsType[*Error](err); ok {
		named := *e
		named.Err = stalled
		return &named
	}
	return stalled
}

// downloadBody is the body of a download.
type downloadBody struct {
	io.ReadCloser
	stall *stall
}

func (b *downloadBody) Read(p []byte) (int, error) {
	b.stall.begin()
	n, err := b.ReadCloser.Read(p)
	b.stall.stop()
	if err != nil && err != io.EOF {
		err = b.stall.explain(err)
	}
	return n, err
}

func (b *downloadBody) Close() error {
	err := b.ReadCloser.Close()
	b.stall.cancel(nil)
	return err
}
