package supervise

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// lockHolder reports whether the process pid holds the lock on file. known is false where /proc is not mounted.
func lockHolder(pid int, file os.FileInfo) (holds, known bool) {
	if _, err := os.Stat("/proc/self/fd"); err != nil {
		return false, false
	}
	return hasOpen(pid, file) || hasLock(pid, file), true
}

// hasOpen reports whether a process has a file open. It is false for the processes of other users.
func hasOpen(pid int, file os.FileInfo) bool {
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

// hasLock reports whether a process has a lock on a file, by the kernel's list, which every user can read: lines such as
// "1: FLOCK  ADVISORY  WRITE 4159 fe:00:1311 0 EOF" (proc_locks(5)).
func hasLock(pid int, file os.FileInfo) bool {
	stat, ok := file.Sys().(*syscall.Stat_t)
	if !ok {
		return false
	}
	text, err := os.ReadFile("/proc/locks")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		// The device is not compared: some file systems report another one to stat(2).
		if len(f) == 8 && f[1] == "FLOCK" && f[4] == strconv.Itoa(pid) && strings.HasSuffix(f[5], ":"+strconv.FormatUint(stat.Ino, 10)) {
			return true
		}
	}
	return false
}

// ProcessExists reports whether a process of that pid exists on this host; one that has exited and was not reaped yet does not
// count. Which program it is, is not known: use it for reports, never to send a signal.
func ProcessExists(pid int) bool {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && len(line) > 0
}
