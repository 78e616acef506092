// Package picture stores pictures in a directory, or in another Backend. A picture is written to a draft, checked, synced, and published
// under a name that stands for one run of a task, so that the store never contains an incomplete picture under such a name.
//
// Every installation has a directory of its own in the picture store, with a marker that names the installation. Nothing
// outside that directory is changed.
//
// In front of a Backend that is not a directory of this host there is a spool: a picture is published there first, and uploaded from there.
package picture

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/google/uuid"

	"imagetasks/pkg/task"
)

// Config configures a Store.
type Config struct {
	Dir      string // the picture store, which installations may share
	BaseURL  string // URL under which Dir is served, or a template with {key}; empty: URLs are relative to Dir
	MaxBytes int64  // bounds one picture
	Spool    Spool  // of a store that is no directory
	// Installation is the id of the installation in the database, a UUID, and Secret what makes the names of its pictures
	// impossible to guess. Every host that shares the database computes the same names.
	Installation string
	Secret       []byte
	// Copied means that the database is a copy or a restored backup: its tasks may be older than their pictures.
	Copied bool
}

// Store is the store of one installation's pictures, which several processors may share. It is safe for concurrent use.
type Store struct {
	dir      string // of the drafts and of what was rejected: that of the pictures, or the spool
	prefix   string // the name of the installation's directory in the picture store
	maxBytes int64
	secret   []byte
	id       string     // of the store, from the marker
	local    *directory // where drafts are published: the pictures, or those that wait in the spool
	remote   Backend    // nil: the pictures are in local
	spool    Spool
	host     string // the id of the spool
	files    *fileSystem
	recent   recentSizes
	probing  atomic.Bool // a call of Probe has not ended
	copied   bool
	lastLoss atomic.Pointer[string] // why the last upload failed

	reserving sync.Mutex // held while space of the spool is reserved
	rejecting sync.Mutex // held while the directory of what was rejected is changed
}

// Picture is a published picture.
type Picture struct {
	Name   string // in the store
	Path   string // of the file, where there is one
	URL    string
	Format string // png, jpeg or webp
	Width  int    // 0: not known
	Height int
	Bytes  int64
}

// draftsDir is the directory of the drafts. It is apart from the pictures, so that a start does not read all of their names.
const draftsDir = ".drafts"

// Open returns the store of an installation. It creates its directory if necessary, checks that it is writable, and removes drafts
// of processors that crashed. It returns an error, and changes nothing, if the directory belongs to another installation.
func Open(c Config) (*Store, error) {
	s, err := newStore(c)
	if err != nil {
		return nil, err
	}
	if err := s.createDirectory(c.Installation); err != nil {
		return nil, err
	}
	d, err := s.create(0)
	if err == nil {
		err = d.Discard()
	}
	if err == nil {
		err = s.removeStale()
	}
	if err != nil {
		return nil, fmt.Errorf("picture store: %w", err)
	}
	_, _ = s.CleanRejected(time.Now()) // the monitor reports what can't be removed
	s.readSizes(context.Background())
	return s, nil
}

// OpenExisting returns the store of an installation, and false if it does not exist. It changes nothing.
func OpenExisting(c Config) (s *Store, exists bool, err error) {
	if s, err = newStore(c); err != nil {
		return nil, false, err
	}
	m, exists, err := s.readMarker(c.Installation)
	if err != nil {
		return nil, false, err
	}
	s.id = m.Store
	return s, exists, nil
}

func newStore(c Config) (*Store, error) {
	id, err := uuid.Parse(c.Installation)
	if err != nil {
		return nil, errors.New("picture store: the installation's id is not a UUID")
	}
	if len(c.Secret) < minSecret {
		return nil, fmt.Errorf("picture store: the installation's secret is shorter than %d bytes", minSecret)
	}
	s := &Store{prefix: Prefix(id.String()), maxBytes: c.MaxBytes, secret: bytes.Clone(c.Secret), copied: c.Copied, files: systemFiles()}
	s.dir = filepath.Join(c.Dir, s.prefix)
	s.local = &directory{dir: s.dir, files: s.files, url: func(name string) string { return expand(c.BaseURL, s.prefix+"/"+name) }}
	return s, nil
}

// Prefix returns the name of an installation's directory in a picture store.
func Prefix(installation string) string {
	return strings.ReplaceAll(installation, "-", "")[:prefixDigits]
}

// expand returns the URL of an object: base is a URL, or a template.
func expand(base, key string) string {
	if strings.Contains(base, "{key}") {
		return strings.ReplaceAll(base, "{key}", key)
	}
	if base == "" {
		return key
	}
	return strings.TrimSuffix(base, "/") + "/" + key
}

// backend returns where the pictures are.
func (s *Store) backend() Backend {
	if s.remote != nil {
		return s.remote
	}
	return s.local
}

// Dir returns the directory of the drafts and of what was rejected. Where the store is a directory, the pictures are in it, too.
func (s *Store) Dir() string { return s.dir }

// Location returns where the installation's pictures are, without secrets.
func (s *Store) Location() string { return s.backend().String() }

// ID returns the id of the store. Processors whose stores have different ids don't find each other's pictures.
func (s *Store) ID() string { return s.id }

// Find returns the published picture of a run, if there is one that is complete. An error is a *task.Error with the disposition
// Pause: it isn't known whether there is a picture.
func (s *Store) Find(ctx context.Context, taskID string, run int) (p Picture, found bool, err error) {
	p, found, err = s.find(ctx, s.backend(), taskID, run)
	if err == nil && !found {
		err = s.checkMarker(ctx)
	}
	if err != nil {
		return Picture{}, false, &task.Error{Code: task.CodePictureStore, Disposition: task.Pause, Scope: task.ScopeAll,
			Message: "the picture store can't be read: " + err.Error(), Err: err}
	}
	return p, found, nil
}

// MayHave reports whether the store is to be asked for the picture of a run whose row has recorded no request: a directory is asked each time, an
// object store only where the row may be older than the picture.
func (s *Store) MayHave() bool { return s.remote == nil || s.copied }

// find is Find in one of the store's backends, without the check that it is still the same.
func (s *Store) find(ctx context.Context, in Backend, taskID string, run int) (Picture, bool, error) {
	for _, format := range formats {
		name := s.fileName(taskID, run, format)
		if d, ok := in.(*directory); ok {
			k, size, found, err := d.read(name)
			if found || err != nil {
				return s.picture(name, k, size), found, err
			}
			continue
		}
		info, err := in.Stat(ctx, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		return s.picture(name, kind{format: format}, info.Bytes), err == nil, err
	}
	return Picture{}, false, nil
}

func (s *Store) picture(name string, k kind, size int64) Picture {
	return Picture{Name: name, Path: s.local.path(name), URL: s.backend().URL(name), Format: k.format, Width: k.width, Height: k.height, Bytes: size}
}

// Files returns the names of the objects of a task's runs, from the first to the given one.
func (s *Store) Files(ctx context.Context, taskID string, runs int) ([]string, error) {
	names := []string{}
	for run := 1; run <= runs; run++ {
		for _, format := range formats {
			name := s.fileName(taskID, run, format)
			_, found, err := s.Stat(ctx, name)
			if err != nil {
				return names, err
			}
			if found {
				names = append(names, name)
			}
		}
	}
	return names, nil
}

// RemoveRuns removes the pictures of a task's runs, from the first to the given one, and returns how many there were. Those in the spool are
// removed, too.
func (s *Store) RemoveRuns(ctx context.Context, taskID string, runs int) (int, error) {
	names, err := s.Files(ctx, taskID, runs)
	removed := 0
	for _, name := range names {
		ok, e := s.remove(ctx, name)
		err = errors.Join(err, e)
		if ok {
			removed++
		}
	}
	if waiting := s.Spooled(); waiting != nil {
		n, e := waiting.RemoveRuns(ctx, taskID, runs)
		removed, err = removed+n, errors.Join(err, e)
	}
	return removed, err
}

func (s *Store) remove(ctx context.Context, name string) (bool, error) {
	err := s.backend().Remove(ctx, name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("remove a picture: %w", err)
	}
	return true, nil
}

// staleDraft is the age at which a draft can't belong to an attempt that is still running, for file systems without locks.
const staleDraft = 24 * time.Hour

// removeStale removes the drafts of processors that crashed.
func (s *Store) removeStale() error {
	entries, err := os.ReadDir(filepath.Join(s.dir, draftsDir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), draftPrefix) {
			continue
		}
		if err := removeIfAbandoned(filepath.Join(s.dir, draftsDir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// removeIfAbandoned removes a draft that no process has locked. If the file system has no locks, it removes one of the age
// staleDraft.
func removeIfAbandoned(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	switch err := lock(f, syscall.LOCK_NB); {
	case errors.Is(err, syscall.EWOULDBLOCK):
		return nil
	case err != nil:
		info, err := f.Stat()
		if err != nil || time.Since(info.ModTime()) < staleDraft {
			return err
		}
	}
	return os.Remove(path)
}

// lock locks a draft until its file is closed, at the latest when the process ends.
func lock(f *os.File, how int) error {
	return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|how)
}
