// Package simproxy is a proxy for tests and the demo: http (forwarding and CONNECT), https or socks5,
// with or without a login. It records the connections that it carried, and can misbehave.
package simproxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"imagetasks/internal/conns"
)

// Config configures a proxy. The zero value is an http proxy without a login.
type Config struct {
	Scheme   string // http (the default), https, or socks5
	User     string
	Password string
	TLS      *tls.Config // for https
	// Intercept issues a certificate for a host: the proxy then terminates the TLS inside its tunnels and opens another
	// TLS connection to the target, as an intercepting firewall does. Nil: tunnels are not intercepted.
	Intercept func(host string) (tls.Certificate, error)
}

// Proxy is a running proxy on a port of the loopback interface. Its methods are safe for concurrent use.
type Proxy struct {
	conf     Config
	listener net.Listener
	wg       sync.WaitGroup
	conns    conns.Set

	mu       sync.Mutex
	outbound map[string]bool // local addresses of the connections made to targets
	targets  []string
	mode     Mode
	answer   func(*http.Request, *bufio.Writer)
	age      int // incremented by SilenceTunnels
	read     int // decrypted bytes of intercepted tunnels
}

// Mode is how the proxy handles requests.
type Mode int

// The modes.
const (
	Serve   Mode = iota
	Refuse       // 403, or SOCKS "not allowed by ruleset"
	Hang         // never responds
	Garbage      // responds with bytes of no proxy protocol
	Early        // opens a tunnel and closes it before it has connected, as Clash and sing-box do if their node does not work; else 502
)

// Start starts a proxy.
func Start(conf Config) (*Proxy, error) { return StartAt(conf, "127.0.0.1:0") }

// StartAt starts a proxy on a given address, so that a closed proxy can be restarted.
func StartAt(conf Config, addr string) (*Proxy, error) {
	if conf.Scheme == "" {
		conf.Scheme = "http"
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	if conf.Scheme == "https" {
		listener = tls.NewListener(listener, conf.TLS)
	}
	p := &Proxy{conf: conf, listener: listener, outbound: map[string]bool{}}
	p.wg.Go(p.accept)
	return p, nil
}

// URL returns the proxy's address with its login.
func (p *Proxy) URL() string {
	u := url.URL{Scheme: p.conf.Scheme, Host: p.Addr()}
	if p.conf.User != "" {
		u.User = url.UserPassword(p.conf.User, p.conf.Password)
	}
	return u.String()
}

// Addr returns the proxy's host:port.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// SetMode changes how the proxy handles later requests.
func (p *Proxy) SetMode(m Mode) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mode = m
}

// Answer makes the proxy respond to later http requests by f instead of serving them, and close the connection.
func (p *Proxy) Answer(f func(r *http.Request, w *bufio.Writer)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answer = f
}

// Targets returns the requested targets, in order. A tunnel counts when something is sent through it, or if it was not opened.
func (p *Proxy) Targets() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.targets...)
}

// Carried reports whether a connection that a server saw from remote was made by this proxy.
func (p *Proxy) Carried(remote string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.outbound[remote]
}

// SilenceTunnels makes every tunnel opened so far silent: both sides still see an open connection, and no byte passes any
// more, as if a NAT device had lost its state. Later tunnels work.
func (p *Proxy) SilenceTunnels() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.age++
}

// Restart breaks every connection, as a restart does, and serves new ones at once: no connection is refused between.
func (p *Proxy) Restart() { p.conns.Break() }

// Open returns the number of open connections, to clients and to targets.
func (p *Proxy) Open() int { return p.conns.Len() }

// ReadAlong returns how many bytes of intercepted tunnels the proxy decrypted.
func (p *Proxy) ReadAlong() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.read
}

// Close stops listening, cuts every connection and waits until they are closed. It may be called again.
func (p *Proxy) Close() error {
	if !p.conns.Cut() {
		return nil
	}
	err := p.listener.Close()
	p.wg.Wait()
	return err
}

func (p *Proxy) accept() {
	for {
		conn, err := p.listener.Accept()
		if err != nil {
			return
		}
		if !p.conns.Keep(conn) {
			return
		}
		p.wg.Go(func() {
			defer p.conns.Drop(conn)
			if p.conf.Scheme == "socks5" {
				p.serveSOCKS(conn)
			} else {
				p.serveHTTP(conn)
			}
		})
	}
}

// asked records a request and returns the mode to handle it with. Tunnels are recorded by their first byte instead: one that is opened and
// closed only shows that the proxy responds.
func (p *Proxy) asked(target string, tunnel bool) Mode {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !tunnel || p.mode != Serve {
		p.targets = append(p.targets, target)
	}
	return p.mode
}

// used records a tunnel when its first byte arrives.
type used struct {
	io.Reader
	once   *sync.Once
	record func()
}

func (u used) Read(b []byte) (int, error) {
	n, err := u.Reader.Read(b)
	if n > 0 {
		u.once.Do(u.record)
	}
	return n, err
}

// tunnelReader returns a reader of what a client sends through a tunnel to target.
func (p *Proxy) tunnelReader(r io.Reader, target string) io.Reader {
	return used{r, &sync.Once{}, func() { p.asked(target, false) }}
}

func (p *Proxy) dial(target string) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(context.Background(), "tcp", target)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	p.outbound[conn.LocalAddr().String()] = true
	p.mu.Unlock()
	if !p.conns.Keep(conn) {
		return nil, net.ErrClosed
	}
	return conn, nil
}

// pipe carries bytes both ways until either side ends.
func (p *Proxy) pipe(client net.Conn, fromClient io.Reader, target net.Conn) {
	p.mu.Lock()
	age := p.age
	p.mu.Unlock()
	forgotten := func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.age > age
	}
	done := make(chan struct{})
	p.wg.Go(func() {
		defer close(done)
		carry(target, fromClient, forgotten)
		if tcp, ok := target.(*net.TCPConn); ok {
			_ = tcp.CloseWrite()
		}
	})
	carry(client, target, forgotten)
	_ = client.Close()
	_ = target.Close()
	<-done
}

// carry copies until either side ends. Bytes of a silenced tunnel are dropped.
func carry(to io.Writer, from io.Reader, forgotten func() bool) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 && !forgotten() {
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// intercept terminates the client's TLS and forwards the content to the target over another TLS connection.
func (p *Proxy) intercept(client net.Conn, fromClient io.Reader, host string, target net.Conn) {
	certificate, err := p.conf.Intercept(host)
	if err != nil {
		return
	}
	inner := tls.Server(&readerConn{Conn: client, r: fromClient}, &tls.Config{Certificates: []tls.Certificate{certificate}})
	// The tests are about what the client trusts, so the proxy verifies nothing.
	outer := tls.Client(target, &tls.Config{InsecureSkipVerify: true})
	if inner.Handshake() != nil || outer.Handshake() != nil {
		return
	}
	p.pipe(inner, io.TeeReader(inner, counter{p}), outer)
}

// counter counts decrypted bytes.
type counter struct{ p *Proxy }

func (c counter) Write(b []byte) (int, error) {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	c.p.read += len(b)
	return len(b), nil
}

// readerConn is a connection whose first bytes are in a buffer.
type readerConn struct {
	net.Conn
	r io.Reader
}

func (c *readerConn) Read(b []byte) (int, error) { return c.r.Read(b) }

func (p *Proxy) serveHTTP(conn net.Conn) {
	reader := bufio.NewReader(conn)
	for {
		r, err := http.ReadRequest(reader)
		if err != nil {
			return
		}
		p.mu.Lock()
		answer := p.answer
		p.mu.Unlock()
		if answer != nil {
			_, _ = io.Copy(io.Discard, r.Body)
			w := bufio.NewWriter(conn)
			answer(r, w)
			_ = w.Flush()
			return
		}
		target := r.Host
		if r.Method != http.MethodConnect && r.URL.Port() == "" {
			target = net.JoinHostPort(r.URL.Hostname(), "80")
		}
		if !p.treat(conn, r, p.asked(target, r.Method == http.MethodConnect)) {
			return
		}
		upstream, err := p.dial(target)
		if err != nil {
			if r.Method == http.MethodConnect {
				p.asked(target, false)
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
			return
		}
		if r.Method == http.MethodConnect {
			if _, err := io.WriteString(conn, "HTTP/1.1 200 Connection established\r\n\r\n"); err == nil {
				client := p.tunnelReader(reader, target)
				if host, _, err := net.SplitHostPort(target); err == nil && p.conf.Intercept != nil {
					p.intercept(conn, client, host, upstream)
				} else {
					p.pipe(conn, client, upstream)
				}
			}
			p.conns.Drop(upstream)
			return
		}
		again := p.forward(conn, r, upstream)
		p.conns.Drop(upstream)
		if !again {
			return
		}
	}
}

// treat responds to requests that are not served, and reports whether to continue.
func (p *Proxy) treat(conn net.Conn, r *http.Request, mode Mode) bool {
	switch mode {
	case Hang:
		_, _ = io.Copy(io.Discard, conn)
		return false
	case Garbage:
		_, _ = io.WriteString(conn, "SSH-2.0-OpenSSH_9.2\r\n")
		return false
	case Early:
		if r.Method == http.MethodConnect {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 Connection established\r\n\r\n")
		} else {
			_, _ = io.WriteString(conn, "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
		}
		return false
	case Refuse:
		_, _ = io.WriteString(conn, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		return false
	}
	login := "Basic " + base64.StdEncoding.EncodeToString([]byte(p.conf.User+":"+p.conf.Password))
	if p.conf.User != "" && r.Header.Get("Proxy-Authorization") != login {
		_, _ = io.WriteString(conn, "HTTP/1.1 407 Proxy Authentication Required\r\n"+
			"Proxy-Authenticate: Basic realm=\"simproxy\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		return false
	}
	return true
}

// forward forwards one plain request, and reports whether another may follow.
func (p *Proxy) forward(conn net.Conn, r *http.Request, upstream net.Conn) bool {
	r.Header.Del("Proxy-Authorization")
	r.Header.Del("Proxy-Connection")
	r.RequestURI = ""
	if err := r.Write(upstream); err != nil {
		return false
	}
	answer, err := http.ReadResponse(bufio.NewReader(upstream), r)
	if err != nil {
		return false
	}
	defer answer.Body.Close()
	return answer.Write(conn) == nil && !answer.Close && !r.Close
}
