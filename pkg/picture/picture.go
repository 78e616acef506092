// Package picture stores pictures in a directory. A picture is written to a draft, checked, synced, and published under a name
// that stands for one run of a task, so that the directory never contains an incomplete picture under such a name.
//
// Every installation has a directory of its own in the picture store, with a marker file that names the installation. Nothing
// outside that directory is changed.
package picture

import (
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

	"imagetasks/pkg/task"
)

// Config configures a Store.
type Config struct {
	Dir      string // the picture store, which installations may share
	BaseURL  string // URL under which Dir is served; empty: URLs are relative to Dir
	MaxBytes int64  // bounds one picture
	// Installation is the id of the installation in the database, a UUID, and Secret what makes the names of its pictures
	// impossible to guess. Every host that shares the database computes the same names.
	Installation string
	Secret       []byte
}

// Store is the directory of one installation's pictures, which several processors may share. It is safe for concurrent use.
type Store struct {
	dir      string // of the installation
	prefix   string // its name in the picture store
	baseURL  string
	maxBytes int64
	secret   []byte
	id       string // of the store, from the marker file
	files    fileSystem
	recent   recentSizes
	probing  atomic.Bool // a call of Probe has not ended

	rejecting sync.Mutex // held while the directory of what was rejected is changed
}

// Picture is a published picture.
type Picture struct {
	Name   string // in the store's directory
	Path   string
	URL    string
	Format string // png, jpeg or webp
	Width  int
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
	s.readSizes()
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

// Dir returns the directory of the installation's pictures.
func (s *Store) Dir() string { return s.dir }

// ID returns the id of the directory. Processors whose stores have different ids don't find each other's pictures.
func (s *Store) ID() string { return s.id }

// Find returns the published picture of a run, if there is one that is complete. An error is a *task.Error with the disposition
// Pause: it isn't known whether there is a picture.
func (s *Store) Find(taskID string, run int) (p Picture, found bool, err error) {
	p, found, err = s.find(taskID, run)
	if err == nil && !found {
		err = s.checkMarker()
	}
	if err != nil {
		return Picture{}, false, &task.Error{Code: task.CodePictureStore, Disposition: task.Pause, Scope: task.ScopeAll,
			Message: "the picture store can't be read: " + err.Error(), Err: err}
	}
	return p, found, nil
}

// find is Find without the check that the directory is still the same.
func (s *Store) find(taskID string, run int) (Picture, bool, error) {
	for _, format := range formats {
		p, found, err := s.read(s.fileName(taskID, run, format))
		if found || err != nil {
			return p, found, err
		}
	}
	return Picture{}, false, nil
}

// read identifies a file of the store. A file that is not a complete picture counts as not found.
func (s *Store) read(name string) (Picture, bool, error) {
	path := filepath.Join(s.dir, name)
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // does not wait for the writer of a pipe
	if errors.Is(err, fs.ErrNotExist) {
		return Picture{}, false, nil
	}
	if err != nil {
		return Picture{}, false, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Picture{}, false, err
	}
	if !info.Mode().IsRegular() {
		return Picture{}, false, fmt.Errorf("%s is not a regular file", path)
	}
	k, err := identify(f, info.Size())
	if _, ok := errors.AsType[*contentError](err); ok {
		return Picture{}, false, nil
	}
	if err != nil {
		return Picture{}, false, err
	}
	return s.picture(name, k, info.Size()), true, nil
}

func (s *Store) picture(name string, k kind, size int64) Picture {
	p := Picture{Name: name, Path: filepath.Join(s.dir, name), URL: s.prefix + "/" + name,
		Format: k.format, Width: k.width, Height: k.height, Bytes: size}
	if s.baseURL != "" {
		p.URL = s.baseURL + "/" + p.URL
	}
	return p
}

// Files returns the names of the files of a task's runs, from the first to the given one.
func (s *Store) Files(taskID string, runs int) ([]string, error) {
	names := []string{}
	for run := 1; run <= runs; run++ {
		for _, format := range formats {
			name := s.fileName(taskID, run, format)
			_, err := os.Lstat(filepath.Join(s.dir, name))
			switch {
			case err == nil:
				names = append(names, name)
			case !errors.Is(err, fs.ErrNotExist):
				return names, fmt.Errorf("picture store: %w", err)
			}
		}
	}
	return names, nil
}

// RemoveRuns removes the files of a task's runs, from the first to the given one, and returns how many there were.
func (s *Store) RemoveRuns(taskID string, runs int) (int, error) {
	names, err := s.Files(taskID, runs)
	removed := 0
	for _, name := range names {
		ok, e := s.remove(name)
		err = errors.Join(err, e)
		if ok {
			removed++
		}
	}
	return removed, err
}

func (s *Store) remove(name string) (bool, error) {
	err := os.Remove(filepath.Join(s.dir, name))
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
