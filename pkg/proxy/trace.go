package proxy

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"imagetasks/pkg/redact"
)

// Step is a completed step of making a connection.
type Step struct {
	Op   Op
	Took time.Duration
}

// Trace describes how a connection was made, up to the step that failed.
type Trace struct {
	Proxy    string // without its login; empty: a direct connection
	Login    bool   // whether the proxy's URL has a login
	Host     string // that was resolved: the proxy's, or the target's
	Resolved []string
	Steps    []Step // in order
	TLS      *tls.ConnectionState
}

// Took returns the duration of a step, and false if it was not completed.
func (t Trace) Took(op Op) (time.Duration, bool) {
	for _, s := range t.Steps {
		if s.Op == op {
			return s.Took, true
		}
	}
	return 0, false
}

type recorderKey struct{}

// recorder collects the steps of one connection.
type recorder struct {
	mu    sync.Mutex
	steps []Step
}

// record adds a completed step to the recorder in ctx, if there is one.
func record(ctx context.Context, op Op, began time.Time) {
	if r, ok := ctx.Value(recorderKey{}).(*recorder); ok {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.steps = append(r.steps, Step{op, time.Since(began)})
	}
}

// Probe makes a connection for u through the first upstream, closes it, and returns its trace. No request is sent, but CONNECT to an http proxy. The
// error is an *Error.
func (t *Transport) Probe(ctx context.Context, u *url.URL) (Trace, error) {
	return t.upstreams()[0].trace(ctx, u)
}

func (up *upstream) trace(ctx context.Context, u *url.URL) (trace Trace, err error) {
	proxy, err := up.route.choose(u)
	if err != nil {
		return trace, err
	}
	target := hostPort(u)
	first := target
	if proxy != nil {
		trace.Proxy, trace.Login, first = redact.URL(proxy), proxy.User != nil, proxy.Host
	}
	steps := &recorder{}
	ctx = context.WithValue(ctx, recorderKey{}, steps)
	defer func() { trace.Steps = steps.steps }()
	if trace.Host, trace.Resolved, err = up.lookUp(ctx, first); err != nil {
		return trace, newError(OpDial, proxy, target, err)
	}
	var conn net.Conn
	switch {
	case u.Scheme == "https":
		conn, err = up.dialTLS(ctx, "tcp", target)
	case proxy != nil && strings.HasPrefix(proxy.Scheme, "http"):
		return trace, up.checkForward(ctx, proxy, target) // plain http is forwarded, without a tunnel
	default:
		conn, err = up.connect(ctx, u.Scheme, target)
	}
	if err != nil {
		return trace, err
	}
	if secure, ok := conn.(*tls.Conn); ok && u.Scheme == "https" {
		state := secure.ConnectionState()
		trace.TLS = &state
	}
	_ = conn.Close()
	return trace, nil
}

// lookUp resolves a host for the trace. The dial resolves it again.
func (up *upstream) lookUp(ctx context.Context, hostPort string) (host string, addrs []string, err error) {
	host, _, err = net.SplitHostPort(hostPort)
	if err != nil {
		return "", nil, err
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return host, []string{host}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, up.conf.DialTimeout)
	defer cancel()
	began := time.Now()
	addrs, err = net.DefaultResolver.LookupHost(ctx, host)
	if err == nil {
		record(ctx, OpResolve, began)
	}
	return host, addrs, err
}

func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
}
