package main

import (
	"errors"
	"fmt"
	"syscall"
	"time"
)

// mountDisk puts a small file system of its own in the place of a directory.
func mountDisk(dir string, size int) error {
	return syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=755", size))
}

// unmountDisk removes it. A program that was just killed may use it for a moment.
func unmountDisk(dir string) error {
	for deadline := time.Now().Add(10 * time.Second); ; {
		err := syscall.Unmount(dir, 0)
		if !errors.Is(err, syscall.EBUSY) || time.Now().After(deadline) {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}
