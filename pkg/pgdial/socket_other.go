//go:build !linux

package pgdial

import (
	"errors"
	"net"
	"syscall"
	"time"
)

// userTimeout returns nil: libpq ignores tcp_user_timeout on systems without it, too.
func userTimeout(time.Duration) func(network, address string, c syscall.RawConn) error { return nil }

// checkPeer returns an error: an identity that can't be checked must not count as checked.
func checkPeer(*net.UnixConn, string) error {
	return errors.New("it is supported on Linux only; leave it out")
}
