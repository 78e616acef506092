package postgres

import (
	"bufio"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	sharedMemory = "/dev/shm"
	// memoryNeeded is what must be free: several test binaries, each with a cluster, run at a time.
	memoryNeeded = 6 << 30
)

// inMemory returns a directory of a file system in memory that has enough free space for clusters, or "". It first removes what killed processes left there.
func inMemory() string {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(sharedMemory, &fs); err != nil || int64(fs.Bavail)*int64(fs.Bsize) < memoryNeeded {
		return ""
	}
	removeAbandoned(sharedMemory)
	if available() < memoryNeeded {
		return ""
	}
	return sharedMemory
}

// available returns the bytes of memory that processes may still use, or 0 if it is unknown.
func available() int64 {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 1 && fields[0] == "MemAvailable:" {
			kilobytes, _ := strconv.ParseInt(fields[1], 10, 64)
			return kilobytes << 10
		}
	}
	return 0
}

// lockDir marks the directory as used until the returned file is closed or this process ends.
func lockDir(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// removeAbandoned removes the clusters in dir whose process has ended. One that was created a moment ago may not be locked yet.
func removeAbandoned(dir string) {
	found, _ := filepath.Glob(filepath.Join(dir, tempPrefix+"*"))
	for _, cluster := range found {
		info, err := os.Stat(cluster)
		if err != nil || time.Since(info.ModTime()) < time.Minute {
			continue
		}
		if f, err := lockDir(cluster); err == nil {
			_ = os.RemoveAll(cluster)
			_ = f.Close()
		}
	}
}
