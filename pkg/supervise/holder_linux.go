package supervise

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// systemKernel reads what the kernel knows in /proc.
type systemKernel struct{}

// holds reports whether the process pid holds the lock on file. known is false where /proc is not mounted.
func (systemKernel) holds(pid int, file fs.FileInfo) (holds, known bool) {
	if _, err := os.Stat("/proc/self/fd"); err != nil {
		return false, false
	}
	return hasOpen(pid, file) || hasLock(pid, file), true
}

// holder returns the process that holds an exclusive lock on file, by the kernel's list of locks.
func (systemKernel) holder(file fs.FileInfo) int {
	found := 0
	for _, l := range locksOn(file) {
		if !l.exclusive || l.pid < 1 {
			continue
		}
		if !l.sameDevice && !hasOpen(l.pid, file) {
			continue // a file of another file system may have the same number
		}
		if found != 0 && found != l.pid {
			return 0
		}
		found = l.pid
	}
	return found
}

// hasOpen reports whether a process has a file open. It is false for the processes of other users.
func hasOpen(pid int, file fs.FileInfo) bool {
	descriptors, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		return false
	}
	for _, path := range descriptors {
		if open, err := os.Stat(path); err == nil && os.SameFile(file, open) {
			return true
		}
	}
	return false
}

// hasLock reports whether a process has a lock on a file. The device is not compared: some file systems report another one to
// stat(2).
func hasLock(pid int, file fs.FileInfo) bool {
	for _, l := range locksOn(file) {
		if l.pid == pid {
			return true
		}
	}
	return false
}

// heldLock is a lock in the kernel's list.
type heldLock struct {
	pid        int
	exclusive  bool
	sameDevice bool // as stat(2) reports for the file
}

// locksOn returns the locks on files with the number of this one, by the kernel's list, which every user can read: lines such
// as "1: FLOCK  ADVISORY  WRITE 4159 fe:00:1311 0 EOF" (proc_locks(5)).
func locksOn(file fs.FileInfo) []heldLock {
	stat, ok := file.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	text, err := os.ReadFile("/proc/locks")
	if err != nil {
		return nil
	}
	dev := uint64(stat.Dev) //nolint:unconvert // 32 bits wide on some architectures
	device := fmt.Sprintf("%02x:%02x", unix.Major(dev), unix.Minor(dev))
	var locks []heldLock
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) != 8 || f[1] != "FLOCK" {
			continue
		}
		at := strings.LastIndexByte(f[5], ':')
		if at < 0 || f[5][at+1:] != strconv.FormatUint(stat.Ino, 10) {
			continue
		}
		pid, err := strconv.Atoi(f[4])
		if err == nil {
			locks = append(locks, heldLock{pid: pid, exclusive: f[3] == "WRITE", sameDevice: f[5][:at] == device})
		}
	}
	return locks
}

// ProcessExists reports whether a process of that pid exists on this host; one that has exited and was not reaped yet does not
// count. Which program it is, is not known: use it for reports, never to send a signal.
func ProcessExists(pid int) bool {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && len(line) > 0
}

// RunsProgram reports whether a process runs a program of that name.
func RunsProgram(pid int, name string) bool {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	first, _, _ := bytes.Cut(line, []byte{0})
	return err == nil && filepath.Base(string(first)) == name
}

// ticksPerSecond is the unit of times in /proc, the same on every architecture that Go supports.
const ticksPerSecond = 100

// ProcessAge returns how long ago a process began; known is false where the kernel does not tell.
func ProcessAge(pid int) (age time.Duration, known bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, false
	}
	// The program's name, in parentheses, may contain anything.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	const startTime = 22 - 3 // proc_pid_stat(5); the first two fields are cut off
	if len(fields) <= startTime {
		return 0, false
	}
	began, err := strconv.ParseInt(fields[startTime], 10, 64)
	var now unix.Timespec
	if err != nil || unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) != nil {
		return 0, false
	}
	return time.Duration(now.Nano()) - time.Duration(began)*(time.Second/ticksPerSecond), true
}
