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

	"imagetasks/pkg/task"
)

var (
	errNotHTTP = errors.New("the response is not HTTP; is this an http proxy?")
	errClosed  = errors.New("the proxy closed the connection without a response")
	errTLS     = errors.New("the program at this address speaks TLS; is this an https proxy?")
)

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
		return nil, tunnelError(newError(OpTLS, proxy, addr, err), raw)
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
func (up *upstream) dialCONNECT(ctx context.Context, proxy *url.URL, target string) (net.Conn, error) {
	began := time.Now()
	conn, a, err := up.askCONNECT(ctx, proxy, target, up.conf.ConnectTimeout)
	if err != nil {
		return nil, err
	}
	if conn == nil {
		return nil, refusal(OpConnect, proxy, target, a)
	}
	record(ctx, OpConnect, began)
	return conn, nil
}

// askCONNECT sends CONNECT and returns the tunnel, or, if conn is nil, what the proxy responded instead. The error is an *Error.
func (up *upstream) askCONNECT(ctx context.Context, proxy *url.URL, target string, limit time.Duration) (conn net.Conn, a answer, err error) {
	raw, err := up.dialProxy(ctx, proxy, target)
	if err != nil {
		return nil, answer{}, err
	}
	defer func() {
		if conn == nil {
			_ = raw.Close()
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	// Reads and writes take no context. When ctx ends, a deadline in the past ends them.
	stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })
	first := &firstBytes{r: io.LimitReader(raw, maxConnectHead)}
	reader := bufio.NewReader(first)
	response, err := sendCONNECT(raw, reader, proxy, target)
	switch {
	case err != nil && first.isTLS():
		err = errTLS // whatever followed, a reset for example
	case err != nil && !first.canBegin("HTTP/"):
		err = errNotHTTP
	case err == nil:
		a = answer{status: response.StatusCode, reason: response.Status, header: response.Header}
		if response.StatusCode != http.StatusOK {
			a.page = readPage(raw, response)
		}
	}
	if !stop() || ctx.Err() != nil {
		if a.status != 0 && a.status != http.StatusOK {
			return nil, a, nil // only its page is missing
		}
		return nil, a, newError(OpConnect, proxy, target, fmt.Errorf("no response: %w", context.Cause(ctx)))
	}
	if (errors.Is(err, errClosed) || errors.Is(err, syscall.ECONNRESET)) && proxy.Scheme == "http" && up.speaksTLS(ctx, proxy) {
		err = errTLS
	}
	if err != nil {
		return nil, a, newError(OpConnect, proxy, target, err)
	}
	if a.status != http.StatusOK {
		return nil, a, nil
	}
	_ = raw.SetDeadline(time.Time{})
	t := &tunnel{Conn: raw, page: isPage(a)}
	if n := reader.Buffered(); n > 0 {
		t.prefix, _ = reader.Peek(n) // the bytes after the head come from the target
	}
	return t, a, nil
}

// speaksTLS reports whether the program at a proxy's address, which closed the connection, takes part in a TLS handshake. It has a few seconds.
func (up *upstream) speaksTLS(ctx context.Context, proxy *url.URL) bool {
	ctx, cancel := context.WithTimeout(ctx, explainTimeout)
	defer cancel()
	raw, err := up.dial(ctx, proxy.Host, nil)
	if err != nil {
		return false
	}
	conn, err := up.handshake(ctx, raw, proxy.Host, up.newTLS())
	if err == nil {
		_ = conn.Close()
		return true
	}
	return ctx.Err() == nil && proxyTLSCode(err) != task.CodeProxyTLS
}

// readPage reads the beginning of the page that a proxy sent instead of opening a tunnel, as far as it comes at once.
func readPage(conn net.Conn, response *http.Response) []byte {
	stop := time.AfterFunc(time.Second, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop.Stop()
	page, _ := io.ReadAll(io.LimitReader(response.Body, maxPage)) // what was read is enough
	return page
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
			return nil, errClosed
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

// isTLS reports whether the input begins with a TLS record: an alert or a handshake.
func (f *firstBytes) isTLS() bool {
	return len(f.got) >= 2 && (f.got[0] == 0x15 || f.got[0] == 0x16) && f.got[1] == 3
}

// tunnel is a connection through a proxy.
type tunnel struct {
	net.Conn
	prefix []byte // what was read already
	page   bool   // the proxy's response looked like one with a page
	began  bool   // a byte of the target was read
}

func (c *tunnel) Read(p []byte) (int, error) {
	if len(c.prefix) > 0 {
		n := copy(p, c.prefix)
		c.prefix, c.began = c.prefix[n:], true
		return n, nil
	}
	n, err := c.Conn.Read(p)
	c.began = c.began || n > 0
	return n, err
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
		return &tunnel{Conn: conn}, nil
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
