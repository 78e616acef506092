package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"syscall"
	"time"

	socks "golang.org/x/net/proxy"
)

var errNotHTTP = errors.New("the response is not HTTP; is this an http proxy?")

// connect returns a connection that ends at addr, by the route for URLs of that scheme.
func (up *upstream) connect(ctx context.Context, scheme, addr string) (net.Conn, error) {
	proxy, err := up.route.choose(&url.URL{Scheme: scheme, Host: addr})
	if err != nil {
		return nil, err
	}
	if proxy == nil {
		began := time.Now()
		conn, err := up.dial(ctx, addr, checkAddr(ctx))
		if err != nil {
			return nil, newError(OpDial, nil, addr, err)
		}
		record(ctx, OpDial, began)
		return conn, nil
	}
	switch proxy.Scheme {
	case "socks5", "socks5h":
		return up.dialSOCKS(ctx, proxy, addr)
	}
	return up.dialCONNECT(ctx, proxy, addr)
}

// dialTLS is connect followed by a TLS handshake. Doing the handshake here, not in http.Transport, makes its failure an
// *Error, distinct from the failure of a request that may have been sent.
func (up *upstream) dialTLS(ctx context.Context, _, addr string) (net.Conn, error) {
	raw, err := up.connect(ctx, "https", addr)
	if err != nil {
		return nil, err
	}
	config := up.newTLS()
	config.NextProtos = []string{"h2", "http/1.1"}
	began := time.Now()
	conn, err := up.handshake(ctx, raw, addr, config)
	if err != nil {
		proxy, _ := up.route.choose(&url.URL{Scheme: "https", Host: addr})
		return nil, newError(OpTLS, proxy, addr, err)
	}
	record(ctx, OpTLS, began)
	return conn, nil
}

func (up *upstream) handshake(ctx context.Context, raw net.Conn, addr string, config *tls.Config) (*tls.Conn, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	if config.ServerName == "" {
		config.ServerName = host
	}
	ctx, cancel := context.WithTimeout(ctx, up.conf.TLSTimeout)
	defer cancel()
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, err
	}
	return conn, nil
}

// dial makes a TCP connection to the proxy or the API. The kernel closes it within half a minute after the other end became
// unreachable, where the platform allows that (see setUserTimeout). check refuses addresses; nil: none.
func (up *upstream) dial(ctx context.Context, addr string, check func(netip.Addr) error) (net.Conn, error) {
	d := net.Dialer{
		Timeout:         up.conf.DialTimeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3},
		Control: func(_, address string, raw syscall.RawConn) error {
			err := controlAddr(check, address)
			if err != nil {
				return err
			}
			if e := raw.Control(func(fd uintptr) { err = setUserTimeout(fd, 30*time.Second) }); e != nil {
				return e
			}
			return err
		},
	}
	return d.DialContext(ctx, "tcp", addr)
}

// dialProxy returns a connection to the proxy itself, inside TLS where the proxy is https.
func (up *upstream) dialProxy(ctx context.Context, proxy *url.URL, target string) (net.Conn, error) {
	began := time.Now()
	conn, err := up.dial(ctx, proxy.Host, nil)
	if err != nil {
		return nil, newError(OpDial, proxy, target, err)
	}
	record(ctx, OpDial, began)
	if proxy.Scheme != "https" {
		return conn, nil
	}
	began = time.Now()
	secure, err := up.handshake(ctx, conn, proxy.Host, up.newTLS())
	if err != nil {
		return nil, newError(OpProxy, proxy, target, err)
	}
	record(ctx, OpProxy, began)
	return secure, nil
}

// dialForward returns the dial function for plain http through a proxy of that scheme. Its addr is the proxy's.
func (up *upstream) dialForward(scheme string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, addr string) (net.Conn, error) {
		return up.dialProxy(ctx, &url.URL{Scheme: scheme, Host: addr}, "")
	}
}

// maxConnectHead bounds a proxy's response to CONNECT, in bytes.
const maxConnectHead = 64 << 10

// dialCONNECT opens a tunnel through an http proxy (RFC 9110, section 9.3.6).
func (up *upstream) dialCONNECT(ctx context.Context, proxy *url.URL, target string) (_ net.Conn, err error) {
	conn, err := up.dialProxy(ctx, proxy, target)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = conn.Close()
		}
	}()
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, up.conf.ConnectTimeout)
	defer cancel()
	// Reads and writes take no context. When ctx ends, a deadline in the past ends them.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	first := &firstBytes{r: io.LimitReader(conn, maxConnectHead)}
	reader := bufio.NewReader(first)
	response, err := sendCONNECT(conn, reader, proxy, target)
	if err != nil && !first.canBegin("HTTP/") {
		err = errNotHTTP // whatever followed, a reset for example
	}
	if !stop() || ctx.Err() != nil {
		return nil, newError(OpConnect, proxy, target, fmt.Errorf("no response: %w", context.Cause(ctx)))
	}
	if err != nil {
		return nil, newError(OpConnect, proxy, target, err)
	}
	if response.StatusCode != http.StatusOK {
		return nil, refusal(proxy, target, response.StatusCode)
	}
	record(ctx, OpConnect, began)
	if n := reader.Buffered(); n > 0 {
		// The bytes after the head come from the target.
		prefix, _ := reader.Peek(n)
		return &prefixConn{Conn: conn, prefix: prefix}, nil
	}
	return conn, nil
}

// refusal returns the error for a proxy's response that opened no tunnel or forwarded nothing.
func refusal(proxy *url.URL, target string, status int) *Error {
	e := newError(OpConnect, proxy, target, fmt.Errorf("the proxy responded %d %s", status, http.StatusText(status)))
	e.Status = status
	switch {
	case !needsLogin(status):
	case e.Login:
		e.Err = fmt.Errorf("the proxy refuses the login (%d)", status)
	default:
		e.Err = fmt.Errorf("the proxy requires a login (%d)", status)
	}
	return e
}

// needsLogin reports whether a status is about the proxy's login: 407, or tinyproxy's 401.
func needsLogin(status int) bool {
	return status == http.StatusProxyAuthRequired || status == http.StatusUnauthorized
}

func sendCONNECT(conn net.Conn, reader *bufio.Reader, proxy *url.URL, target string) (*http.Response, error) {
	request := &http.Request{
		Method: http.MethodConnect,
		URL:    &url.URL{Opaque: target},
		Host:   target,
		Header: http.Header{"User-Agent": {"imagetasks"}},
	}
	if proxy.User != nil {
		password, _ := proxy.User.Password()
		login := &http.Request{Header: http.Header{}}
		login.SetBasicAuth(proxy.User.Username(), password)
		request.Header.Set("Proxy-Authorization", login.Header.Get("Authorization"))
	}
	if err := request.Write(conn); err != nil {
		return nil, err
	}
	response, err := http.ReadResponse(reader, request)
	if err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, errors.New("the proxy closed the connection without a response")
		}
		if netErr, ok := errors.AsType[net.Error](err); ok {
			return nil, netErr
		}
		// The parser's error quotes the input, which is untrusted and of any length.
		return nil, errNotHTTP
	}
	return response, nil
}

// firstBytes is a reader that keeps the first bytes read through it.
type firstBytes struct {
	r   io.Reader
	got []byte
}

func (f *firstBytes) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	f.got = append(f.got, p[:min(n, max(0, 8-len(f.got)))]...)
	return n, err
}

// canBegin reports whether the input begins with prefix, or may once more of it is read.
func (f *firstBytes) canBegin(prefix string) bool {
	n := min(len(prefix), len(f.got))
	return string(f.got[:n]) == prefix[:n]
}

// prefixConn is a connection whose first bytes were read already.
type prefixConn struct {
	net.Conn
	prefix []byte
}

func (c *prefixConn) Read(p []byte) (int, error) {
	if len(c.prefix) > 0 {
		n := copy(p, c.prefix)
		c.prefix = c.prefix[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

// dialSOCKS opens a tunnel through a SOCKS5 proxy (RFC 1928, RFC 1929). socks5h leaves
// name resolution to the proxy; socks5 resolves the target's name here, as in curl.
func (up *upstream) dialSOCKS(ctx context.Context, proxy *url.URL, target string) (net.Conn, error) {
	targets := []string{target}
	if proxy.Scheme == "socks5" {
		var err error
		if targets, err = up.resolve(ctx, target); err == nil {
			targets, err = allowedAddrs(checkAddr(ctx), targets)
		}
		if err != nil {
			return nil, newError(OpResolve, proxy, target, err)
		}
	}
	var login *socks.Auth
	if proxy.User != nil {
		password, _ := proxy.User.Password()
		login = &socks.Auth{User: proxy.User.Username(), Password: password}
	}
	var last error
	for _, addr := range targets {
		conn, err := up.dialSOCKSAddr(ctx, proxy, login, addr, target)
		if err == nil {
			return conn, nil
		}
		if err.Op != OpConnect {
			return nil, err
		}
		last = err
	}
	return nil, last
}

// dialSOCKSAddr opens a tunnel to addr, which is target or one of its addresses.
func (up *upstream) dialSOCKSAddr(ctx context.Context, proxy *url.URL, login *socks.Auth, addr, target string) (net.Conn, *Error) {
	raw, err := up.dialProxy(ctx, proxy, target)
	if err != nil {
		return nil, asError(err, OpDial, proxy, target)
	}
	dialer, err := socks.SOCKS5("tcp", proxy.Host, login, fixedDialer{raw})
	if err != nil {
		_ = raw.Close()
		return nil, newError(OpConnect, proxy, target, err)
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, up.conf.ConnectTimeout)
	defer cancel()
	conn, err := dialContext(ctx, dialer, addr)
	if err == nil {
		record(ctx, OpConnect, began)
		return conn, nil
	}
	_ = raw.Close()
	if timeout, ok := errors.AsType[net.Error](err); ctx.Err() != nil || (ok && timeout.Timeout()) {
		return nil, newError(OpConnect, proxy, target, fmt.Errorf("no response: %w", context.DeadlineExceeded))
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		err = op.Err // the rest of its text repeats the proxy and the target
	}
	return nil, newError(OpConnect, proxy, target, err)
}

func dialContext(ctx context.Context, d socks.Dialer, addr string) (net.Conn, error) {
	withContext, ok := d.(socks.ContextDialer)
	if !ok {
		return nil, errors.New("the SOCKS dialer takes no context")
	}
	return withContext.DialContext(ctx, "tcp", addr)
}

func asError(err error, op Op, proxy *url.URL, target string) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return newError(op, proxy, target, err)
}

// fixedDialer is a dialer that returns an existing connection. The connection to the proxy was made under its own time limit.
type fixedDialer struct{ net.Conn }

func (c fixedDialer) Dial(_, _ string) (net.Conn, error) { return c.Conn, nil }

func (c fixedDialer) DialContext(context.Context, string, string) (net.Conn, error) {
	return c.Conn, nil
}

// resolve returns target once for each address of its host, with the address instead of the host.
func (up *upstream) resolve(ctx context.Context, target string) ([]string, error) {
	host, port, err := net.SplitHostPort(target)
	if err != nil {
		return nil, err
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return []string{target}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, up.conf.DialTimeout)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupHost(ctx, host)
	if err != nil {
		return nil, err
	}
	// A few are enough: each may take the whole time limit.
	addrs = addrs[:min(len(addrs), 3)]
	for i, a := range addrs {
		addrs[i] = net.JoinHostPort(a, port)
	}
	return addrs, nil
}
