package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// fillerName is the file that fills a disk.
const fillerName = "filler"

// fillDisk fills the file system of a directory for a while, or makes the directory read-only where it has none of its own.
func (s *system) fillDisk(ctx context.Context, dir string, length time.Duration) error {
	if !s.mounted {
		if err := os.Chmod(dir, 0o555); err != nil {
			return err
		}
		wait(ctx, length)
		return os.Chmod(dir, 0o755)
	}
	path := filepath.Join(dir, fillerName)
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	until := time.Now().Add(length)
	for time.Now().Before(until) && ctx.Err() == nil {
		// What becomes free meanwhile is filled, too.
		block := make([]byte, 1<<20)
		for size := len(block); size > 0; {
			if _, err := f.Write(block[:size]); err != nil {
				size /= 2
			}
		}
		wait(ctx, 200*time.Millisecond)
	}
	return errors.Join(f.Close(), os.Remove(path))
}

// wait waits, or until ctx ends.
func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// keepFiles copies the files of the mounted directories, so that they are there after the directories were unmounted, and the content of the database.
func (s *system) keepFiles() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := s.dump(ctx); err != nil {
		s.printf("the database could not be dumped: %v", err)
	}
	if !s.mounted {
		return
	}
	for _, p := range s.processors {
		to := p.dir + "-files"
		if err := os.CopyFS(to, os.DirFS(p.dir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.printf("%s could not be copied: %v", p.dir, err)
		}
	}
	if err := os.CopyFS(s.pictureDir()+"-files", os.DirFS(s.pictureDir())); err != nil {
		s.printf("the pictures could not be copied: %v", err)
	}
}
