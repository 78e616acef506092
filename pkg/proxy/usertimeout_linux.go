package proxy

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// setUserTimeout limits how long sent data may stay unacknowledged. While it is, the kernel sends no keep-alives (tcp(7)).
func setUserTimeout(fd uintptr, d time.Duration) error {
	return os.NewSyscallError("setsockopt", unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds())))
}
