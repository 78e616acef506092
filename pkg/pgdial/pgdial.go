// Package pgdial makes connections to PostgreSQL in the way of libpq, up to the start of the session, which is the
// driver's: it goes through the hosts, negotiates TLS by sslmode with libpq's fallbacks, checks the peer of a unix socket,
// and checks the server's authentication requests against require_auth and channel_binding.
package pgdial

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"imagetasks/pkg/pgurl"
)

// DialFunc makes a connection on the network.
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// encryption is what an attempt does about TLS.
type encryption int

const (
	plain     encryption = iota
	available            // TLS if the server supports it
	required
)

// Attempt is an attempt to open a session on one host.
type Attempt struct {
	Host     pgurl.Host
	Password string
	// TargetSessionAttrs is what the session must be.
	TargetSessionAttrs string

	conf       pgurl.Config
	dial       DialFunc
	network    string
	address    string
	encryption encryption
}

// Conn is a connection to a server, on which TLS is negotiated and no session is started.
type Conn struct {
	net.Conn // the TLS connection, or raw
	raw      net.Conn
	auth     *authCheck // nil: every authentication is accepted
	// Encrypted reports whether TLS is in use.
	Encrypted bool
}

// Abort closes the connection at once.
func (c *Conn) Abort() { _ = c.raw.Close() }

// Read reads what the server sends. It returns an error if the server's authentication request is not acceptable.
func (c *Conn) Read(p []byte) (int, error) {
	if c.auth == nil {
		return c.Conn.Read(p)
	}
	return c.auth.read(p)
}

// handshakeError means that TLS could not be started on a connection.
type handshakeError struct{ err error }

func (e *handshakeError) Error() string { return e.err.Error() }
func (e *handshakeError) Unwrap() error { return e.err }

// errNoTLS means that the server does not support TLS.
var errNoTLS = errors.New("the server does not support TLS")

// Dial connects to the attempt's host. It may be called again to send a cancel request to the same server.
func (a *Attempt) Dial(ctx context.Context) (*Conn, error) {
	raw, err := a.dial(ctx, a.network, a.address)
	if err != nil {
		return nil, err
	}
	c := &Conn{Conn: raw, raw: raw}
	// Reading has no context: the end of ctx closes the connection.
	stop := context.AfterFunc(ctx, c.Abort)
	err = a.negotiate(ctx, c)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		c.Abort()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, err
	}
	return c, nil
}

func (a *Attempt) negotiate(ctx context.Context, c *Conn) error {
	if a.encryption != plain {
		if err := a.startTLS(ctx, c); err != nil {
			return err
		}
	}
	if a.conf.ChannelBinding && !c.Encrypted {
		return errors.New("channel_binding=require demands TLS, and the connection is not encrypted")
	}
	if a.conf.ChannelBinding || a.conf.RequireAuth != nil {
		c.auth = &authCheck{conn: c.Conn, conf: a.conf, password: a.Password}
	}
	return nil
}

// sslRequest asks the server for TLS: length 8, code 80877103.
var sslRequest = []byte{0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f}

func (a *Attempt) startTLS(ctx context.Context, c *Conn) error {
	if !a.conf.TLS.Direct {
		if _, err := c.raw.Write(sslRequest); err != nil {
			return err
		}
		// Exactly one byte is read: what an attacker would send along with it must not count as the server's.
		var response [1]byte
		if _, err := io.ReadFull(c.raw, response[:]); err != nil {
			return fmt.Errorf("no response to the request for TLS: %w", err)
		}
		switch {
		case response[0] == 'N' && a.encryption == available:
			return nil
		case response[0] == 'N':
			return fmt.Errorf("%w, and sslmode=%s demands it", errNoTLS, a.conf.TLS.Mode)
		case response[0] != 'S':
			return errors.New("the server answered the request for TLS with an error")
		}
	}
	encrypted, err := handshake(ctx, c.raw, a.conf.TLS, a.Host.Name)
	if err != nil {
		return &handshakeError{fmt.Errorf("TLS with sslmode=%s: %w", a.conf.TLS.Mode, err)}
	}
	c.Conn, c.Encrypted = encrypted, true
	return nil
}

// Open calls open for the hosts in order, until it returns no error. It is libpq's procedure: with sslmode prefer and
// allow a host is tried a second time, without or with TLS; a host that can't be reached, does not accept sessions yet, or
// is not what target_session_attrs demands, is followed by the next. A host that refuses the login is not: the password
// is not offered to all. Open calls Attempt.Dial, starts the session, and returns whether TLS was in use.
func Open(ctx context.Context, conf pgurl.Config, dial DialFunc, open func(context.Context, *Attempt) (encrypted bool, err error)) error {
	hosts := slices.Clone(conf.Hosts)
	if conf.RandomHosts {
		rand.Shuffle(len(hosts), func(i, j int) { hosts[i], hosts[j] = hosts[j], hosts[i] })
	}
	targets := []string{conf.TargetSessionAttrs}
	if conf.TargetSessionAttrs == "prefer-standby" {
		targets = []string{"standby", "any"}
	}
	var failed hostErrors
	for _, target := range targets {
		failed = nil
		for _, h := range hosts {
			a := &Attempt{Host: h, TargetSessionAttrs: target, conf: conf, dial: dial}
			a.network, a.address = h.Address(exists)
			a.Password = password(conf, h)
			err := a.openHost(ctx, open)
			if err == nil {
				return nil
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			failed = append(failed, hostError{a.address, err})
			if refused(err) {
				return failed.errorOf(len(hosts))
			}
		}
	}
	return failed.errorOf(len(hosts))
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// openHost opens a session on one host, in one or two attempts, within connect_timeout.
func (a *Attempt) openHost(ctx context.Context, open func(context.Context, *Attempt) (bool, error)) error {
	parent := ctx
	if a.conf.ConnectTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, a.conf.ConnectTimeout)
		defer cancel()
	}
	first, second := plain, plain
	switch mode := a.conf.TLS.Mode; {
	case a.network == "unix", mode == "disable":
	case mode == "allow":
		second = required
	case mode == "prefer":
		first = available
	default:
		first, second = required, required
	}
	a.encryption = first
	encrypted, err := open(ctx, a)
	_, noTLS := errors.AsType[*handshakeError](err)
	again := refused(err) && !encrypted && second > first || // allow
		(refused(err) && encrypted || noTLS) && second < first // prefer
	if again {
		a2 := *a // a connection of the first attempt may still exist
		a2.encryption = second
		if _, err2 := open(ctx, &a2); err2 == nil {
			return nil
		} else if !errors.Is(err2, errNoTLS) && err2.Error() != err.Error() {
			err = fmt.Errorf("%w; then %s TLS: %w", err, map[bool]string{true: "without", false: "with"}[second == plain], err2)
		}
	}
	if err != nil && ctx.Err() != nil && parent.Err() == nil {
		return fmt.Errorf("no session after a connect_timeout of %v: %w", a.conf.ConnectTimeout, context.DeadlineExceeded)
	}
	return err
}

// cannotConnectNow is the SQLSTATE of a server that is starting up, shutting down or in recovery.
const cannotConnectNow = "57P03"

// refused reports whether a server refused the session. Only a server's error has an SQLSTATE.
func refused(err error) bool {
	server, ok := errors.AsType[interface {
		error
		SQLState() string
	}](err)
	return ok && server.SQLState() != cannotConnectNow
}

type hostError struct {
	address string
	err     error
}

// hostErrors are the errors of the hosts that were tried.
type hostErrors []hostError

// errorOf returns the error itself if there is only one host, because its address is in the URL.
func (e hostErrors) errorOf(hosts int) error {
	if hosts == 1 {
		return e[0].err
	}
	return e
}

// Error returns the errors in one line.
func (e hostErrors) Error() string {
	var parts []string
	for _, h := range e {
		parts = append(parts, h.address+": "+h.err.Error())
	}
	return "no host accepts the connection: " + strings.Join(parts, "; ")
}

// Unwrap returns the errors of the hosts.
func (e hostErrors) Unwrap() []error {
	var errs []error
	for _, h := range e {
		errs = append(errs, h.err)
	}
	return errs
}

// Network returns a function that makes connections with the keepalives of conf, and checks requirepeer.
func Network(conf pgurl.Config) DialFunc {
	d := &net.Dialer{KeepAliveConfig: conf.KeepAlive}
	if !conf.KeepAlive.Enable {
		d.KeepAlive = -time.Second // off; 0 is the default
	}
	if conf.UserTimeout > 0 {
		d.Control = userTimeout(conf.UserTimeout)
	}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := d.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		if conf.RequirePeer != "" && network == "unix" {
			if err := checkPeer(c.(*net.UnixConn), conf.RequirePeer); err != nil {
				_ = c.Close()
				return nil, fmt.Errorf("requirepeer: %w", err)
			}
		}
		return c, nil
	}
}
