package overview

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// Disk is the free space of a directory.
type Disk struct {
	Dir   string
	Free  int64 // bytes that a process without privileges may use
	Least int64 // that must be free
}

// diskTimeout bounds how long DiskWatch.Read waits for file systems.
const diskTimeout = 2 * time.Second

// DiskWatch reads the free space of directories. A file system that hangs is asked again when it has responded.
type DiskWatch struct {
	dirs  []string
	least int64
	free  func(dir string) (int64, error)

	mu      sync.Mutex
	waiting bool
}

// NewDiskWatch returns a DiskWatch of directories in which so many bytes must be free; 0: none is read.
func NewDiskWatch(least int64, dirs ...string) *DiskWatch {
	if least <= 0 {
		dirs = nil
	}
	return &DiskWatch{dirs: dirs, least: least, free: freeBytes}
}

// Read returns the free space of the directories, one for each file system that can be told by its free space, and false where a file system does not respond. A
// directory that does not exist yet counts as the one above it.
func (w *DiskWatch) Read(ctx context.Context) (disks []Disk, ok bool) {
	if len(w.dirs) == 0 {
		return nil, true
	}
	w.mu.Lock()
	hangs := w.waiting
	w.waiting = true
	w.mu.Unlock()
	if hangs {
		return nil, false
	}
	read := make(chan []Disk, 1)
	// A call of a file system that hangs can't be cut: the goroutine stays until it responds, and is the only one.
	go func() {
		found := w.read()
		w.mu.Lock()
		w.waiting = false
		w.mu.Unlock()
		read <- found
	}()
	timer := time.NewTimer(diskTimeout)
	defer timer.Stop()
	select {
	case disks := <-read:
		return disks, true
	case <-timer.C:
	case <-ctx.Done():
	}
	return nil, false
}

func (w *DiskWatch) read() []Disk {
	var out []Disk
	for _, dir := range w.dirs {
		free, err := w.free(existing(dir))
		same := func(d Disk) bool { return d.Free == free }
		if err == nil && !slices.ContainsFunc(out, same) {
			out = append(out, Disk{Dir: dir, Free: free, Least: w.least})
		}
	}
	return out
}

// existing returns dir, or the nearest directory above it that exists.
func existing(dir string) string {
	for {
		if _, err := os.Stat(dir); err == nil || filepath.Dir(dir) == dir {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}
