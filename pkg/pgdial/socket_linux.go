package pgdial

import (
	"fmt"
	"net"
	"os/user"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// userTimeout returns a net.Dialer.Control that sets TCP_USER_TIMEOUT.
func userTimeout(timeout time.Duration) func(network, address string, c syscall.RawConn) error {
	return func(network, _ string, c syscall.RawConn) error {
		if network == "unix" {
			return nil
		}
		var failed error
		if err := c.Control(func(fd uintptr) {
			failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(timeout.Milliseconds()))
		}); err != nil {
			return err
		}
		return failed
	}
}

// checkPeer returns an error unless the process at the other end runs as that user.
func checkPeer(c *net.UnixConn, name string) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var (
		peer   *unix.Ucred
		failed error
	)
	if err := raw.Control(func(fd uintptr) {
		peer, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return err
	}
	if failed != nil {
		return failed
	}
	u, err := user.LookupId(strconv.Itoa(int(peer.Uid)))
	if err != nil {
		return err
	}
	if u.Username != name {
		return fmt.Errorf("the server runs as the user %s, not as %s", u.Username, name)
	}
	return nil
}
