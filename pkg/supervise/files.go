package supervise

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// NotAFileError means that something else than a file stands where one of the package's files belongs.
type NotAFileError struct {
	Path string
	Mode fs.FileMode
}

// Error says what stands there, and what to do.
func (e *NotAFileError) Error() string {
	kind := "not a regular file"
	switch {
	case e.Mode&fs.ModeSymlink != 0:
		kind = "a symbolic link, and nothing is written through it"
	case e.Mode.IsDir():
		kind = "a directory"
	}
	return fmt.Sprintf("%s is %s; remove it", e.Path, kind)
}

// openFile opens a regular file. It does not follow a symbolic link and does not wait for a pipe: what is not a regular file
// is a *NotAFileError.
func openFile(path string, flag int, perm fs.FileMode) (*os.File, error) {
	f, err := os.OpenFile(path, flag|unix.O_NOFOLLOW|unix.O_NONBLOCK, perm)
	if err != nil {
		if info, e := os.Lstat(path); e == nil && !info.Mode().IsRegular() {
			return nil, &NotAFileError{path, info.Mode()}
		}
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &NotAFileError{path, info.Mode()}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// openLockFile opens a file to lock it, and creates it where it is missing. One that can't be written to is opened for
// reading, which is enough for a lock.
func openLockFile(path string, perm fs.FileMode) (*os.File, error) {
	f, err := openFile(path, os.O_CREATE|os.O_RDWR, perm)
	if err == nil {
		return f, nil
	}
	if f, e := openFile(path, os.O_RDONLY, 0); e == nil {
		return f, nil
	}
	return nil, err
}

// How to lock a file.
const (
	shared    = unix.LOCK_SH
	exclusive = unix.LOCK_EX
)

// tryLock locks a file until it is closed, and returns false if another process holds a lock that excludes this one.
func tryLock(f *os.File, how int) (bool, error) {
	for {
		switch err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); {
		case err == nil:
			return true, nil
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EWOULDBLOCK):
			return false, nil
		default:
			return false, &fs.PathError{Op: "lock", Path: f.Name(), Err: err}
		}
	}
}

// TryLock locks the file of that name, which it creates where it is missing, and returns nil if another process holds the
// lock. The lock ends when the file is closed.
func TryLock(path string) (*os.File, error) {
	f, err := openLockFile(path, 0o600)
	if err != nil {
		return nil, err
	}
	locked, err := tryLock(f, exclusive)
	if err != nil || !locked {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// isMissing reports whether err means that there is no file of that path.
func isMissing(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) }

// WriteFileAtomic replaces a file, so that a reader finds the old text or the new.
func WriteFileAtomic(path, text string) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	err = errors.Join(err, f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		err = errors.Join(err, os.Remove(f.Name()))
	}
	return err
}
