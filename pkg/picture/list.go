package picture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// listBatch is how many names List reads at a time.
const listBatch = 1000

// List calls visit with the names of the installation's pictures, at most 1000 at a time, in no order. It returns the error of
// visit, or of ctx. Files with other names are left out, and counted.
func (s *Store) List(ctx context.Context, visit func([]Entry) error) (others int, err error) {
	dir, err := os.Open(s.dir)
	if err != nil {
		return 0, fmt.Errorf("picture store: %w", err)
	}
	defer dir.Close()
	for {
		if err := ctx.Err(); err != nil {
			return others, err
		}
		names, err := dir.Readdirnames(listBatch)
		var entries []Entry
		for _, name := range names {
			if name == markerName || name == draftsDir || name == rejectedDir {
				continue
			}
			if e, ok := s.parseName(name); ok {
				entries = append(entries, e)
			} else {
				others++
			}
		}
		if len(entries) > 0 {
			if err := visit(entries); err != nil {
				return others, err
			}
		}
		if errors.Is(err, io.EOF) {
			return others, nil
		}
		if err != nil {
			return others, fmt.Errorf("picture store: %w", err)
		}
	}
}

// Stat returns size and age of a picture, and false if it is gone.
func (s *Store) Stat(name string) (fs.FileInfo, bool, error) {
	info, err := os.Lstat(filepath.Join(s.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("picture store: %w", err)
	}
	return info, true, nil
}

// Remove removes a picture whose name was verified, and reports whether it was there. Others are not removed: it isn't known whose
// they are.
func (s *Store) Remove(e Entry) (bool, error) {
	if own, ok := s.parseName(e.Name); !ok || own.TaskID == "" || own != e {
		return false, fmt.Errorf("%s is not the name of a picture of this installation", e.Name)
	}
	return s.remove(e.Name)
}
