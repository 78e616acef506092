package picture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"

	"imagetasks/pkg/task"
)

// minReserve is the space that is reserved for a picture where nothing is known of the size of others.
const minReserve = 256 << 10

// recentSizes are the sizes of the pictures that were stored last. The zero value has none. It is safe for concurrent use.
type recentSizes struct {
	mu    sync.Mutex
	sizes [maxRecent]int64
	next  int
}

const maxRecent = 100

func (r *recentSizes) add(size int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sizes[r.next] = size
	r.next = (r.next + 1) % maxRecent
}

func (r *recentSizes) largest() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	var most int64
	for _, size := range r.sizes {
		most = max(most, size)
	}
	return most
}

// expected returns the space to reserve for a picture: one and a half times the largest of those that were stored last, at most the store's
// maximum.
func (s *Store) expected() int64 {
	largest := min(s.recent.largest(), s.maxBytes)
	return min(max(minReserve, largest+largest/2), s.maxBytes)
}

// errEnough ends a listing.
var errEnough = errors.New("enough was listed")

// readSizes takes over the sizes of some of the pictures that the store has. What can't be read is left out.
func (s *Store) readSizes(ctx context.Context) {
	in, read := s.backend(), 0
	_ = in.List(ctx, func(found []Info) error {
		for _, info := range found {
			if _, ok := s.parseName(info.Name); !ok {
				continue
			}
			if info.Bytes < 0 {
				var err error
				if info, err = in.Stat(ctx, info.Name); err != nil {
					continue
				}
			}
			s.recent.add(info.Bytes)
			if read++; read == maxRecent {
				return errEnough
			}
		}
		return nil
	})
}

// writeZeros writes size zeros to a file.
func writeZeros(f io.WriterAt, size int64) error {
	block := make([]byte, min(size, zeroBlock))
	for at := int64(0); at < size; {
		n, err := f.WriteAt(block[:min(zeroBlock, size-at)], at)
		if err != nil {
			return err
		}
		at += int64(n)
	}
	return nil
}

const zeroBlock = 256 << 10

// Probe reports whether the store can take a picture: it writes as much as Create reserves, flushes it to the disk and removes it. The
// error is a *task.Error like that of Create. While a spool is full, Probe uploads what waits in it. If the file system does not respond until ctx ends, Probe returns, and until it has responded
// the next calls fail at once.
func (s *Store) Probe(ctx context.Context) error {
	if !s.probing.CompareAndSwap(false, true) {
		return writeFailed(errors.New("the file system has not responded yet"))
	}
	result := make(chan error, 1)
	go func() { // ends when the file system responds; there is one at most
		err := s.probe(ctx)
		s.probing.Store(false) // before the caller can begin the next one
		result <- err
	}()
	select {
	case err := <-result:
		if err != nil {
			return writeFailed(err)
		}
		return nil
	case <-ctx.Done():
		return writeFailed(fmt.Errorf("the file system did not respond in time: %w", ctx.Err()))
	}
}

func (s *Store) probe(ctx context.Context) error {
	if err := s.checkMarker(ctx); err != nil {
		return err
	}
	if err := s.drain(ctx); err != nil {
		return err
	}
	err := s.probeWrite(ctx)
	if isFull(err) && s.freeRejected() {
		err = s.probeWrite(ctx)
	}
	return err
}

func (s *Store) probeWrite(ctx context.Context) error {
	f, err := s.files.createDraft(filepath.Join(s.dir, draftsDir))
	if err != nil {
		return err
	}
	size := s.expected()
	for at := int64(0); at < size && err == nil; at += zeroBlock {
		if err = ctx.Err(); err == nil {
			_, err = f.WriteAt(make([]byte, min(zeroBlock, size-at)), at)
		}
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.discard())
}

// writeFailed returns the error of a store that takes no picture.
func writeFailed(err error) *task.Error {
	return &task.Error{Code: task.CodePictureStore, Disposition: task.Pause, Scope: task.ScopeAll,
		Message: "the picture can't be written: " + err.Error(), Err: err}
}
