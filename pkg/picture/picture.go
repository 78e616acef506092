// Package picture stores pictures in a directory. A picture is written to a draft, checked, synced, and published under its
// task's name by an atomic rename, so that the directory never contains an incomplete picture under such a name.
package picture

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"imagetasks/pkg/task"
)

const (
	draftPrefix = ".draft-"
	// staleDraft is the age at which a draft can't belong to an attempt that is still running, for file systems without
	// locks.
	staleDraft = 24 * time.Hour
)

// Store is a directory of pictures, which several processors may share. It is safe for concurrent use.
type Store struct {
	dir      string
	baseURL  string
	maxBytes int64
}

// Open returns the store in dir. It creates dir if necessary, checks that it is writable, and removes drafts of processors that
// crashed. A picture's URL is baseURL and its name, or its name alone if baseURL is empty. maxBytes bounds one picture.
func Open(dir, baseURL string, maxBytes int64) (*Store, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("picture store: %w", err)
	}
	s := &Store{dir: dir, baseURL: strings.TrimSuffix(baseURL, "/"), maxBytes: maxBytes}
	d, err := s.Create()
	if err != nil {
		return nil, err
	}
	if err := d.Discard(); err != nil {
		return nil, fmt.Errorf("picture store: %w", err)
	}
	return s, s.removeStale()
}

func (s *Store) removeStale() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("picture store: %w", err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), draftPrefix) {
			continue
		}
		if err := removeIfAbandoned(filepath.Join(s.dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("picture store: %w", err)
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

// Dir returns the directory.
func (s *Store) Dir() string { return s.dir }

// Draft is a picture that is being written. It is not safe for concurrent use.
type Draft struct {
	store *Store
	file  *os.File // nil: published or discarded
	size  int64
}

// Create begins a draft, which must be published or discarded. A disk that is full or read-only affects every task: the error
// is a *task.Error with the disposition Pause.
func (s *Store) Create() (*Draft, error) {
	for {
		f, err := os.CreateTemp(s.dir, draftPrefix)
		if err != nil {
			return nil, storeError(err)
		}
		// Between CreateTemp and lock, a starting processor may find the draft without a lock and remove it. It holds the
		// lock while it does, so that the file is gone when the lock is acquired here. Without locks, staleDraft protects it.
		_ = lock(f, 0)
		if _, err := os.Lstat(f.Name()); err == nil {
			return &Draft{store: s, file: f}, nil
		} else if closeErr := f.Close(); !errors.Is(err, fs.ErrNotExist) || closeErr != nil {
			return nil, storeError(errors.Join(err, closeErr))
		}
	}
}

func storeError(err error) error {
	return &task.Error{Code: task.CodePictureStore, Disposition: task.Pause,
		Message: "the picture can't be written: " + err.Error(), Err: err}
}

// Write implements io.Writer. Beyond the store's maxBytes it returns a *task.Error with the disposition Fail.
func (d *Draft) Write(p []byte) (int, error) {
	if d.size+int64(len(p)) > d.store.maxBytes {
		return 0, &task.Error{Code: task.CodeTooLarge, Disposition: task.Fail,
			Message: fmt.Sprintf("the picture is larger than %d bytes", d.store.maxBytes)}
	}
	n, err := d.file.Write(p)
	d.size += int64(n)
	if err != nil {
		return n, storeError(err)
	}
	return n, nil
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

// Publish checks that the draft is a complete picture and gives it its name, on stable storage. The error is a *task.Error: with
// the disposition Fail if it is not a picture, Pause if it can't be stored.
func (d *Draft) Publish(l task.Lease) (Picture, error) {
	kind, err := identify(d.file, d.size)
	if err != nil {
		return Picture{}, &task.Error{Code: task.CodeNotAPicture, Disposition: task.Fail,
			Message: "the response is not a picture: " + err.Error(), Err: err}
	}
	p := Picture{Format: kind.format, Width: kind.width, Height: kind.height, Bytes: d.size}
	p.Name = fileName(l, extensions[kind.format])
	p.Path = filepath.Join(d.store.dir, p.Name)
	p.URL = p.Name
	if d.store.baseURL != "" {
		p.URL = d.store.baseURL + "/" + url.PathEscape(p.Name)
	}
	err = errors.Join(d.file.Chmod(0o644), d.file.Sync())
	if err == nil {
		// The lock is held until the picture has its name: an unlocked draft counts as abandoned.
		err = os.Rename(d.file.Name(), p.Path)
	}
	if err != nil {
		return Picture{}, errors.Join(storeError(err), d.Discard())
	}
	f := d.file
	d.file = nil
	if err := f.Close(); err != nil {
		return Picture{}, storeError(err)
	}
	if err := syncDir(d.store.dir); err != nil {
		return Picture{}, storeError(err)
	}
	return p, nil
}

// Discard removes a draft that was not published; after Publish it does nothing.
func (d *Draft) Discard() error {
	if d.file == nil {
		return nil
	}
	f := d.file
	d.file = nil
	err := os.Remove(f.Name())
	_ = f.Close()
	return err
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Remove removes a published picture. It is not an error if there is none.
func (s *Store) Remove(p Picture) error {
	if err := os.Remove(p.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove a picture: %w", err)
	}
	return nil
}

// Files returns the names of a task's pictures in a directory, of all its claims. A directory that does not exist has none.
func Files(dir, taskID string) ([]string, error) {
	return files(dir, []string{taskID})
}

func files(dir string, taskIDs []string) ([]string, error) {
	names := []string{}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("picture store: %w", err)
	}
	wanted := map[string]bool{}
	for _, id := range taskIDs {
		wanted[baseName(id)] = true
	}
	for _, e := range entries {
		stem := strings.TrimSuffix(e.Name(), filepath.Ext(e.Name()))
		i := strings.LastIndexByte(stem, '-')
		if i < 0 || !wanted[stem[:i]] {
			continue
		}
		if _, err := strconv.ParseInt(stem[i+1:], 10, 64); err == nil {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// RemoveAll removes the pictures of all claims of the tasks, and returns how many there were.
func (s *Store) RemoveAll(taskIDs ...string) (int, error) {
	names, err := files(s.dir, taskIDs)
	removed := 0
	for _, name := range names {
		if e := os.Remove(filepath.Join(s.dir, name)); e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, fmt.Errorf("remove a picture: %w", e))
			continue
		}
		removed++
	}
	return removed, err
}

// earlierClaims is how many earlier claims RemoveEarlier covers.
const earlierClaims = 100

// RemoveEarlier removes the pictures that earlier claims of a task published without completing it.
func (s *Store) RemoveEarlier(l task.Lease) error {
	var errs []error
	for epoch := max(1, l.Epoch-earlierClaims); epoch < l.Epoch; epoch++ {
		for _, extension := range extensions {
			path := filepath.Join(s.dir, fileName(task.Lease{TaskID: l.TaskID, Epoch: epoch}, extension))
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

var extensions = map[string]string{"png": ".png", "jpeg": ".jpg", "webp": ".webp"}

// maxName bounds the part of a file's name that comes from the task's id, in bytes.
const maxName = 100

// fileName returns a picture's name, made of its task's id and its epoch.
func fileName(l task.Lease, extension string) string {
	return fmt.Sprintf("%s-%d%s", baseName(l.TaskID), l.Epoch, extension)
}

// baseName returns the part of a picture's name that stands for its task. In an id that is not safe in file names and URLs, the
// unsafe characters are replaced with -, and part of the id's hash keeps the name unique.
func baseName(taskID string) string {
	safe := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-', r == '_':
			return r
		}
		return '-'
	}, taskID)
	if safe != taskID || len(safe) > maxName || strings.HasPrefix(safe, "-") {
		sum := sha256.Sum256([]byte(taskID))
		safe = "task" + safe[:min(len(safe), maxName)] + "-" + hex.EncodeToString(sum[:6])
	}
	return safe
}
