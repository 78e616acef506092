package picture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
)

// List calls visit with the names of the installation's pictures, at most 1000 at a time, in no order. It returns the error of
// visit, or of ctx. Objects with other names are left out, and counted.
func (s *Store) List(ctx context.Context, visit func([]Entry) error) (others int, err error) {
	var refused error
	err = s.backend().List(ctx, func(found []Info) error {
		var entries []Entry
		for _, info := range found {
			if info.Name == markerName || info.Name == draftsDir || info.Name == rejectedDir {
				continue
			}
			if e, ok := s.parseName(info.Name); ok {
				entries = append(entries, e)
			} else {
				others++
			}
		}
		if len(entries) > 0 {
			refused = visit(entries)
		}
		return refused
	})
	if err != nil && refused == nil && ctx.Err() == nil {
		err = fmt.Errorf("picture store: %w", err)
	}
	return others, err
}

// Stat returns size and age of a picture, and false if it is gone.
func (s *Store) Stat(ctx context.Context, name string) (Info, bool, error) {
	info, err := s.backend().Stat(ctx, name)
	if errors.Is(err, fs.ErrNotExist) {
		return Info{}, false, nil
	}
	if err != nil {
		return Info{}, false, fmt.Errorf("picture store: %w", err)
	}
	return info, true, nil
}

// Get returns the content of a picture.
func (s *Store) Get(ctx context.Context, name string) (io.ReadCloser, error) {
	r, err := s.backend().Get(ctx, name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("picture store: %w", err)
	}
	return r, err
}

// URL returns the public URL of a picture.
func (s *Store) URL(name string) string { return s.backend().URL(name) }

// Remove removes a picture whose name was verified, and reports whether it was there. Others are not removed: it isn't known whose
// they are.
func (s *Store) Remove(ctx context.Context, e Entry) (bool, error) {
	if own, ok := s.parseName(e.Name); !ok || own.TaskID == "" || own != e {
		return false, fmt.Errorf("%s is not the name of a picture of this installation", e.Name)
	}
	return s.remove(ctx, e.Name)
}
