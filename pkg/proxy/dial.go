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
	"os"
	"syscall"
	"time"

	socks "golang.org/x/net/proxy"
	"golang.org/x/sys/unix"
)

var errNotHTTP = errors.New("the answer is not HTTP; is this an http proxy?")

// connect returns a connection that ends at addr, by the route of that scheme.
func (w *upstream) connect(ctx context.Context, scheme, addr string) (net.Conn, error) {
	proxy, err := w.route(&url.URL{Scheme: scheme, Host: addr})
	if err != nil {
		return nil, err
	}
	if proxy == nil {
		began := time.Now()
		conn, err := w.dial(ctx, addr)
		if err != nil {
			return nil, newError(OpDial, nil, addr, err)
		}
		record(ctx, OpDial, began)
		return conn, nil
	}
	switch proxy.Scheme {
	case "socks5", "socks5h":
		return w.dialSOCKS(ctx, proxy, addr)
	}
	return w.dialCONNECT(ctx, proxy, addr)
}

// dialTLS is connect with a TLS handshake of its own, so that its failure is told from that of a
// request which may have been sent.
func (w *upstream) dialTLS(ctx context.Context, _, addr string) (net.Conn, error) {
	raw, err := w.connect(ctx, "https", addr)
	if err != nil {
		return nil, err
	}
	config := w.newTLS()
	config.NextProtos = []string{"h2", "http/1.1"}
	began := time.Now()
	conn, err := w.handshake(ctx, raw, addr, config)
	if err != nil {
		proxy, _ := w.route(&url.URL{Scheme: "https", Host: addr})
		return nil, newError(OpTLS, proxy, addr, err)
	}
	record(ctx, OpTLS, began)
	return conn, nil
}

func (w *upstream) handshake(ctx context.Context, raw net.Conn, addr string, config *tls.Config) (*tls.Conn, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	if config.ServerName == "" {
		config.ServerName = host
	}
	ctx, cancel := context.WithTimeout(ctx, w.conf.TLSTimeout)
	defer cancel()
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, err
	}
	return conn, nil
}

// dial makes a TCP connection whose other end, the proxy or the API, is known to be gone within half a minute.
func (w *upstream) dial(ctx context.Context, addr string) (net.Conn, error) {
	d := net.Dialer{
		Timeout:         w.conf.DialTimeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3},
		Control: func(_, _ string, raw syscall.RawConn) error {
			var err error
			if e := raw.Control(func(fd uintptr) { err = setUserTimeout(int(fd), 30*time.Second) }); e != nil {
				return e
			}
			return err
		},
	}
	return d.DialContext(ctx, "tcp", addr)
}

// setUserTimeout bounds how long what was sent may stay unacknowledged: while it does, no keep-alives are sent (tcp(7)).
func setUserTimeout(fd int, d time.Duration) error {
	return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds())))
}

// dialProxy returns a connection to the proxy itself, inside TLS where the proxy is https.
func (w *upstream) dialProxy(ctx context.Context, proxy *url.URL, target string) (net.Conn, error) {
	began := time.Now()
	conn, err := w.dial(ctx, proxy.Host)
	if err != nil {
		return nil, newError(OpDial, proxy, target, err)
	}
	record(ctx, OpDial, began)
	if proxy.Scheme != "https" {
		return conn, nil
	}
	began = time.Now()
	secure, err := w.handshake(ctx, conn, proxy.Host, w.newTLS())
	if err != nil {
		return nil, newError(OpProxy, proxy, target, err)
	}
	record(ctx, OpProxy, began)
	return secure, nil
}

// dialForward returns the dial of plain http through a proxy of that scheme: addr is the proxy's.
func (w *upstream) dialForward(scheme string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, addr string) (net.Conn, error) {
		return w.dialProxy(ctx, &url.URL{Scheme: scheme, Host: addr}, "")
	}
}

// maxConnectHead bounds a proxy's answer to CONNECT, in bytes.
const maxConnectHead = 64 << 10

// dialCONNECT opens a tunnel through an http proxy (RFC 9110, section 9.3.6).
func (w *upstream) dialCONNECT(ctx context.Context, proxy *url.URL, target string) (_ net.Conn, err error) {
	conn, err := w.dialProxy(ctx, proxy, target)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = conn.Close()
		}
	}()
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, w.conf.ConnectTimeout)
	defer cancel()
	// Reads and writes don't know of ctx: its end moves the deadline into the past.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	first := &firstBytes{r: io.LimitReader(conn, maxConnectHead)}
	reader := bufio.NewReader(first)
	answer, err := askCONNECT(conn, reader, proxy, target)
	if err != nil && !first.canBegin("HTTP/") {
		err = errNotHTTP // whatever came after it, a reset say
	}
	if !stop() || ctx.Err() != nil {
		return nil, newError(OpConnect, proxy, target, fmt.Errorf("no answer: %w", context.Cause(ctx)))
	}
	if err != nil {
		return nil, newError(OpConnect, proxy, target, err)
	}
	if answer.StatusCode != http.StatusOK {
		return nil, refusal(proxy, target, answer.StatusCode)
	}
	record(ctx, OpConnect, began)
	if n := reader.Buffered(); n > 0 {
		// What was read beyond the head is the target's already.
		early, _ := reader.Peek(n)
		return &prefixConn{Conn: conn, early: early}, nil
	}
	return conn, nil
}

// refusal is a proxy's answer that carries nothing.
func refusal(proxy *url.URL, target string, status int) *Error {
	e := newError(OpConnect, proxy, target, fmt.Errorf("the proxy answered %d %s", status, http.StatusText(status)))
	e.Status = status
	switch {
	case !wantsLogin(status):
	case e.Login:
		e.Err = fmt.Errorf("the proxy refuses the login (%d)", status)
	default:
		e.Err = fmt.Errorf("the proxy wants a login (%d)", status)
	}
	return e
}

// wantsLogin reports whether a proxy's answer is about the login: 407, or tinyproxy's 401.
func wantsLogin(status int) bool {
	return status == http.StatusProxyAuthRequired || status == http.StatusUnauthorized
}

func askCONNECT(conn net.Conn, reader *bufio.Reader, proxy *url.URL, target string) (*http.Response, error) {
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
	answer, err := http.ReadResponse(reader, request)
	if err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, errors.New("the proxy closed the connection without an answer")
		}
		if netErr, ok := errors.AsType[net.Error](err); ok {
			return nil, netErr
		}
		// The parser's error quotes what came, which is foreign text of any length.
		return nil, errNotHTTP
	}
	return answer, nil
}

// firstBytes remembers how what was read begins.
type firstBytes struct {
	r   io.Reader
	got []byte
}

func (f *firstBytes) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	f.got = append(f.got, p[:min(n, max(0, 8-len(f.got)))]...)
	return n, err
}

// canBegin reports whether what was read so far may be the beginning of something that begins so.
func (f *firstBytes) canBegin(with string) bool {
	n := min(len(with), len(f.got))
	return string(f.got[:n]) == with[:n]
}

// prefixConn gives back bytes that were read too far.
type prefixConn struct {
	net.Conn
	early []byte
}

func (c *prefixConn) Read(p []byte) (int, error) {
	if len(c.early) > 0 {
		n := copy(p, c.early)
		c.early = c.early[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

// dialSOCKS opens a tunnel through a SOCKS5 proxy (RFC 1928, RFC 1929). socks5h leaves the
// target's name to the proxy; socks5 looks it up here, as curl has it.
func (w *upstream) dialSOCKS(ctx context.Context, proxy *url.URL, target string) (net.Conn, error) {
	targets := []string{target}
	if proxy.Scheme == "socks5" {
		var err error
		if targets, err = w.resolve(ctx, target); err != nil {
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
		conn, err := w.askSOCKS(ctx, proxy, login, addr, target)
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

// askSOCKS asks the proxy for a tunnel to addr, which is target or one of its addresses.
func (w *upstream) askSOCKS(ctx context.Context, proxy *url.URL, login *socks.Auth, addr, target string) (net.Conn, *Error) {
	raw, err := w.dialProxy(ctx, proxy, target)
	if err != nil {
		return nil, asError(err, OpDial, proxy, target)
	}
	dialer, err := socks.SOCKS5("tcp", proxy.Host, login, fixedDialer{raw})
	if err != nil {
		_ = raw.Close()
		return nil, newError(OpConnect, proxy, target, err)
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, w.conf.ConnectTimeout)
	defer cancel()
	conn, err := dialContext(ctx, dialer, addr)
	if err == nil {
		record(ctx, OpConnect, began)
		return conn, nil
	}
	_ = raw.Close()
	if timeout, ok := errors.AsType[net.Error](err); ctx.Err() != nil || (ok && timeout.Timeout()) {
		return nil, newError(OpConnect, proxy, target, fmt.Errorf("no answer: %w", context.DeadlineExceeded))
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		err = op.Err // the rest of its text names the proxy and the target again
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

// fixedDialer hands the SOCKS client a connection to its proxy that was made already, under a bound
// of its own.
type fixedDialer struct{ net.Conn }

func (c fixedDialer) Dial(_, _ string) (net.Conn, error) { return c.Conn, nil }

func (c fixedDialer) DialContext(context.Context, string, string) (net.Conn, error) {
	return c.Conn, nil
}

// resolve returns target with each of its host's addresses in the host's place.
func (w *upstream) resolve(ctx context.Context, target string) ([]string, error) {
	host, port, err := net.SplitHostPort(target)
	if err != nil {
		return nil, err
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return []string{target}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, w.conf.DialTimeout)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupHost(ctx, host)
	if err != nil {
		return nil, err
	}
	// A few are enough: each may cost the whole bound.
	addrs = addrs[:min(len(addrs), 3)]
	for i, a := range addrs {
		addrs[i] = net.JoinHostPort(a, port)
	}
	return addrs, nil
}
