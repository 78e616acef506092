//go:build linux || darwin || freebsd

package overview

import "syscall"

// freeBytes returns how many bytes a process without privileges may still write to the file system of dir.
func freeBytes(dir string) (int64, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, err
	}
	return int64(s.Bavail) * int64(s.Bsize), nil
}
