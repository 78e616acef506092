package picture

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Backend keeps the objects of one installation: its pictures and its marker. An object's name has no slash. A missing object is
// fs.ErrNotExist. Each call has a bound of its own, besides that of its context. A Backend is safe for concurrent use.
//
// internal/storetest holds every Backend to this.
type Backend interface {
	// String returns where the objects are, without secrets.
	String() string
	// URL returns the public URL of an object.
	URL(name string) string
	// Put stores an object whole or not at all. An object of that name is replaced if replace is set; otherwise it stays, and the error is
	// fs.ErrExist. A backend that can't refuse in one step replaces it.
	Put(ctx context.Context, name string, s Source, replace bool) error
	Get(ctx context.Context, name string) (io.ReadCloser, error)
	Stat(ctx context.Context, name string) (Info, error)
	// List calls visit with all objects, at most 1000 at a time, in no order, and returns its error.
	List(ctx context.Context, visit func([]Info) error) error
	Remove(ctx context.Context, name string) error
}

// ErrUnavailable means that a backend does not respond, or says that it can't work now: the same call may succeed later.
var ErrUnavailable = errors.New("the picture store is not available")

// Source is what Put stores.
type Source struct {
	io.ReaderAt
	Path   string // of the file; a directory on the same file system stores it without a copy
	Size   int64
	SHA256 []byte // of the content
	Type   string // the media type
}

// Info describes an object.
type Info struct {
	Name       string
	Bytes      int64 // -1 in a listing of a backend that does not know it
	ModifiedAt time.Time
	MD5        string // in hexadecimal; empty: not known
}

// mediaType returns the media type of a picture's name.
func mediaType(name string) string {
	switch filepath.Ext(name) {
	case ".png":
		return "image/png"
	case ".jpg":
		return "image/jpeg"
	case ".webp":
		return "image/webp"
	}
	return "application/json"
}

// directory is the Backend of a directory.
type directory struct {
	dir   string
	url   func(name string) string
	files *fileSystem
}

func (d *directory) String() string { return d.dir }

func (d *directory) URL(name string) string { return d.url(name) }

func (d *directory) path(name string) string { return filepath.Join(d.dir, name) }

// Put links a file that is on the same file system, which must be on stable storage.
func (d *directory) Put(_ context.Context, name string, s Source, replace bool) error {
	var err error
	if !replace {
		err = d.files.link(s.Path, d.path(name))
	}
	if replace || isUnsupported(err) {
		err = d.files.rename(s.Path, d.path(name))
	}
	if err != nil {
		return err
	}
	return d.files.syncDir(d.dir)
}

func (d *directory) Get(_ context.Context, name string) (io.ReadCloser, error) { return d.open(name) }

// open opens a file. It does not wait for the writer of a pipe.
func (d *directory) open(name string) (*os.File, error) {
	return os.OpenFile(d.path(name), os.O_RDONLY|syscall.O_NONBLOCK, 0)
}

func (d *directory) Stat(_ context.Context, name string) (Info, error) {
	info, err := os.Lstat(d.path(name))
	if err != nil {
		return Info{}, err
	}
	return Info{Name: name, Bytes: info.Size(), ModifiedAt: info.ModTime()}, nil
}

// listBatch is how many names List reads at a time.
const listBatch = 1000

func (d *directory) List(ctx context.Context, visit func([]Info) error) error {
	dir, err := os.Open(d.dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		names, err := dir.Readdirnames(listBatch)
		if len(names) > 0 {
			found := make([]Info, len(names))
			for i, name := range names {
				found[i] = Info{Name: name, Bytes: -1}
			}
			if err := visit(found); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (d *directory) Remove(_ context.Context, name string) error { return os.Remove(d.path(name)) }

// read identifies a file. A file that is not a complete picture, as after a crash, counts as not found.
func (d *directory) read(name string) (k kind, size int64, found bool, err error) {
	f, err := d.open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return kind{}, 0, false, nil
	}
	if err != nil {
		return kind{}, 0, false, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return kind{}, 0, false, err
	}
	if !info.Mode().IsRegular() {
		return kind{}, 0, false, errors.New(d.path(name) + " is not a regular file")
	}
	k, err = identify(f, info.Size())
	if _, ok := errors.AsType[*contentError](err); ok {
		return kind{}, 0, false, nil
	}
	return k, info.Size(), err == nil, err
}
