package supervise

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// maxDescriptors bounds the search for open descriptors where the system does not list them.
const maxDescriptors = 1 << 16

// closeOnExec marks all descriptors but the first three as close-on-exec: the daemon must not inherit those that this program
// got from a shell or from cron, and keep their pipes and locks.
func closeOnExec() {
	if names, err := os.ReadDir("/proc/self/fd"); err == nil {
		for _, name := range names {
			if fd, err := strconv.Atoi(name.Name()); err == nil && fd > 2 {
				unix.CloseOnExec(fd)
			}
		}
		return
	}
	last := uint64(maxDescriptors)
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil {
		last = min(last, uint64(limit.Cur)) //nolint:unconvert // signed on FreeBSD
	}
	for fd := 3; fd < int(last); fd++ {
		unix.CloseOnExec(fd)
	}
}
