package store

import (
	"context"
	"errors"
	"net"
	"sync"
	"syscall"
)

// dialer makes the connections of a Store, and can close them all at once, which ends every call in progress. It is safe for concurrent use.
type dialer struct {
	dial func(ctx context.Context, network, address string) (net.Conn, error)

	mu      sync.Mutex
	closed  bool
	conns   map[*dialedConn]struct{}
	dialing map[*context.CancelFunc]struct{}
}

// dialedConn is a connection that its dialer closes.
type dialedConn struct {
	net.Conn
	dialer *dialer
}

// Close closes the connection.
func (c *dialedConn) Close() error {
	c.dialer.mu.Lock()
	delete(c.dialer.conns, c)
	c.dialer.mu.Unlock()
	return c.Conn.Close()
}

// SyscallConn implements syscall.Conn.
func (c *dialedConn) SyscallConn() (syscall.RawConn, error) {
	if raw, ok := c.Conn.(syscall.Conn); ok {
		return raw.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

// DialContext connects.
func (d *dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if !d.begin(&cancel) {
		return nil, net.ErrClosed
	}
	raw, err := d.dial(ctx, network, address)
	return d.end(&cancel, raw, err)
}

func (d *dialer) begin(cancel *context.CancelFunc) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return false
	}
	if d.dialing == nil {
		d.dialing, d.conns = map[*context.CancelFunc]struct{}{}, map[*dialedConn]struct{}{}
	}
	d.dialing[cancel] = struct{}{}
	return true
}

func (d *dialer) end(cancel *context.CancelFunc, raw net.Conn, err error) (net.Conn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.dialing, cancel)
	if err != nil {
		return nil, err
	}
	if d.closed {
		_ = raw.Close()
		return nil, net.ErrClosed
	}
	c := &dialedConn{Conn: raw, dialer: d}
	d.conns[c] = struct{}{}
	return c, nil
}

// abort closes every connection, and refuses to make more.
func (d *dialer) abort() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	for cancel := range d.dialing {
		(*cancel)()
	}
	for c := range d.conns {
		_ = c.Conn.Close()
	}
}

// Abort closes every connection at once, whatever the database does, and makes no more: all calls, those in progress
// included, return an error. A statement that the server is executing may still take effect.
func (s *Store) Abort() { s.dialer.abort() }
