//go:build unix

package pgdial

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// Stale reports whether the server has ended the session, on a connection that is idle: it has closed the connection, or sent something that
// nobody asked for and that may be an error. It does not wait.
func (c *Conn) Stale() bool {
	conn, ok := c.raw.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return !errors.Is(err, errors.ErrUnsupported)
	}
	stale := true
	err = raw.Control(func(fd uintptr) {
		first := make([]byte, 1)
		n, _, err := unix.Recvfrom(int(fd), first, unix.MSG_PEEK|unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			stale = false
		case err != nil, n == 0:
		default:
			stale = c.Encrypted || first[0] == 'E'
		}
	})
	return err != nil || stale
}
