package proxy

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// setUserTimeout limits how long sent data is retransmitted without an acknowledgement, in whole seconds.
func setUserTimeout(fd uintptr, d time.Duration) error {
	return os.NewSyscallError("setsockopt", unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_RXT_CONNDROPTIME, int(d.Seconds())))
}
