//go:build !linux

package supervise

import (
	"errors"
	"io/fs"
	"syscall"
	"time"
)

// systemKernel knows nothing here: the kernel does not report who holds a lock.
type systemKernel struct{}

func (systemKernel) holds(int, fs.FileInfo) (holds, known bool) { return false, false }

func (systemKernel) holder(fs.FileInfo) int { return 0 }

// ProcessExists reports whether a process of that pid exists on this host. Which program it is, is not known: use it for
// reports, never to send a signal.
func ProcessExists(pid int) bool {
	err := syscall.Kill(pid, 0)
	return err == nil || errors.Is(err, syscall.EPERM)
}

// RunsProgram reports whether a process runs a program of that name. Here it is unknown, and true if the process exists.
func RunsProgram(pid int, _ string) bool { return ProcessExists(pid) }

// ProcessAge returns how long ago a process began. Here it is unknown.
func ProcessAge(int) (age time.Duration, known bool) { return 0, false }
