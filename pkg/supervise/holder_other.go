//go:build !linux

package supervise

import (
	"errors"
	"os"
	"syscall"
)

// lockHolder knows nothing here: the kernel does not report who holds a lock.
func lockHolder(int, os.FileInfo) (holds, known bool) { return false, false }

// ProcessExists reports whether a process of that pid exists on this host. Which program it is, is not known: use it for
// reports, never to send a signal.
func ProcessExists(pid int) bool {
	err := syscall.Kill(pid, 0)
	return err == nil || errors.Is(err, syscall.EPERM)
}
