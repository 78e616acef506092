package picture

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"imagetasks/pkg/task"
)

const draftPrefix = ".draft-"

// How long Publish waits before it tries again to store a picture. The wait is doubled each time.
const (
	retryMin = 100 * time.Millisecond
	retryMax = 5 * time.Second
)

// Draft is a picture that is being written. It is not safe for concurrent use.
//
// What is written was paid for. So when the disk is full or fails, the rest is kept in memory, and Publish tries again.
type Draft struct {
	store   *Store
	file    draftFile // nil: published or discarded
	size    int64     // bytes that were accepted
	written int64     // of them in the file
	rest    []byte    // the others
	sum     hash.Hash // of all
	// damaged means that the file can't be trusted any more, or has lost its name: a new one is written from content.
	damaged bool
	content []byte // all, while the file is damaged
	tryAt   time.Time
}

// Create begins a draft, which must be published or discarded, and reserves space for it: one and a half times the largest picture of
// late, so that every draft there is can be stored. What was rejected is removed where it takes that space. A disk that is full or
// read-only affects every task: the error is a *task.Error with the disposition Pause and the scope of all.
func (s *Store) Create() (*Draft, error) {
	d, err := s.create(s.expected())
	if isFull(err) && s.freeRejected() {
		d, err = s.create(s.expected())
	}
	if err != nil {
		return nil, writeFailed(err)
	}
	return d, nil
}

// isFull reports whether an error means that there is no space left, or no quota.
func isFull(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

func (s *Store) create(reserve int64) (*Draft, error) {
	if s.remote != nil && reserve > 0 {
		s.reserving.Lock()
		defer s.reserving.Unlock()
		if err := s.checkSpool(reserve); err != nil {
			return nil, err
		}
	}
	f, err := s.files.createDraft(filepath.Join(s.dir, draftsDir))
	if err != nil {
		return nil, err
	}
	if reserve > 0 {
		err = f.allocate(reserve)
	}
	if err != nil {
		return nil, errors.Join(err, f.discard())
	}
	return &Draft{store: s, file: f, sum: sha256.New()}, nil
}

// Reset discards what was written. The space stays reserved.
func (d *Draft) Reset() error {
	if d.damaged || d.file == nil {
		return errors.New("the draft can't be used any more")
	}
	d.size, d.written, d.rest, d.content = 0, 0, nil, nil
	d.sum.Reset()
	return nil
}

// Write implements io.Writer. Beyond the store's maximum it returns a *task.Error with the disposition Fail. It returns no error of
// the disk: then the rest is kept in memory, until Publish.
func (d *Draft) Write(p []byte) (int, error) {
	if d.size+int64(len(p)) > d.store.maxBytes {
		return 0, &task.Error{Code: task.CodeTooLarge, Disposition: task.Fail,
			Message: fmt.Sprintf("the picture is larger than %d bytes", d.store.maxBytes)}
	}
	d.sum.Write(p)
	d.size += int64(len(p))
	if len(d.rest) > 0 {
		d.rest = append(d.rest, p...)
		if time.Now().Before(d.tryAt) {
			return len(p), nil
		}
		_ = d.writeRest() // Publish returns the error
		return len(p), nil
	}
	n, err := d.file.WriteAt(p, d.written)
	d.written += int64(n)
	if err != nil {
		d.rest = bytes.Clone(p[n:])
		d.tryAt = time.Now().Add(retryMax)
	}
	return len(p), nil
}

// writeRest writes what is only in memory.
func (d *Draft) writeRest() error {
	n, err := d.file.WriteAt(d.rest, d.written)
	d.written += int64(n)
	d.rest = d.rest[n:]
	if len(d.rest) == 0 {
		d.rest = nil
	}
	d.tryAt = time.Now().Add(retryMax)
	return err
}

// Publish checks that the draft is a complete picture and gives it the name of a task's run, on stable storage. If the run has a
// picture, that one is returned, and the draft is discarded. Where the store has a spool, the picture is there then, for Upload.
//
// While the picture can't be stored, Publish calls waiting, if it is not nil, and tries again, until ctx ends; it tries at least once.
// The error is a *task.Error with the disposition Fail: it is not a picture, or it is lost and must not be paid for again.
func (d *Draft) Publish(ctx context.Context, taskID string, run int, waiting func(error)) (Picture, error) {
	for wait := retryMin; ; wait = min(2*wait, retryMax) {
		p, err := d.publish(ctx, taskID, run)
		if err == nil {
			return p, nil
		}
		if e, ok := errors.AsType[*task.Error](err); ok {
			return Picture{}, e
		}
		if ctx.Err() != nil {
			return Picture{}, lostError(err)
		}
		if waiting != nil {
			waiting(err)
		}
		select {
		case <-ctx.Done():
			return Picture{}, lostError(err)
		case <-time.After(wait):
		}
	}
}

func lostError(err error) error {
	return &task.Error{Code: task.CodePictureStore, Disposition: task.Fail, Scope: task.ScopeAll, Paid: true,
		Message: "the picture arrived and could not be stored: " + err.Error(), Err: err}
}

// publish is one try of Publish. A *task.Error is final.
func (d *Draft) publish(ctx context.Context, taskID string, run int) (Picture, error) {
	if err := d.writeAll(); err != nil {
		return Picture{}, err
	}
	k, err := d.identify()
	if err != nil {
		return Picture{}, err
	}
	if p, found, err := d.useExisting(ctx, taskID, run); found || err != nil {
		return p, err
	}
	if err := d.makeDurable(); err != nil {
		d.damaged = true // after a failed sync the kernel may have dropped what it could not write
		return Picture{}, err
	}
	p := d.store.picture(d.store.fileName(taskID, run, k.format), k, d.size)
	err = d.put(ctx, p, false)
	if errors.Is(err, fs.ErrExist) {
		if other, found, err := d.useExisting(ctx, taskID, run); found || err != nil {
			return other, err
		}
		err = d.put(ctx, p, true) // what is there is not a complete picture
	}
	if err != nil {
		// The draft's name, or the directory, may be gone. What was published is found by the next try.
		d.damaged = errors.Is(err, fs.ErrNotExist)
		return Picture{}, err
	}
	d.store.recent.add(d.size)
	// The draft's own name goes last: until then a crash leaves a draft, which the next start removes.
	d.finish()
	return p, nil
}

// put publishes the draft's file.
func (d *Draft) put(ctx context.Context, p Picture, replace bool) error {
	return d.store.local.Put(ctx, p.Name, Source{ReaderAt: d.file, Path: d.file.Name(), Size: d.size, SHA256: d.sum.Sum(nil), Type: mediaType(p.Name)}, replace)
}

// makeDurable gives back what was reserved and not used, lets everybody read the file, and flushes it to the disk.
func (d *Draft) makeDurable() error {
	if err := d.file.Truncate(d.size); err != nil {
		return err
	}
	// A file system without modes may refuse a change of them.
	if err := d.file.Chmod(0o644); err != nil && !isUnsupported(err) {
		return err
	}
	return d.file.Sync()
}

// identify returns what picture the draft is. A *task.Error means that it is none.
func (d *Draft) identify() (kind, error) {
	k, err := identify(d.file, d.size)
	if e, ok := errors.AsType[*contentError](err); ok {
		return k, &task.Error{Code: task.CodeNotAPicture, Disposition: task.Fail,
			Message: "the response is not a picture: " + e.Error(), Err: e}
	}
	return k, err
}

// useExisting returns the picture that the run has, if there is one.
func (d *Draft) useExisting(ctx context.Context, taskID string, run int) (Picture, bool, error) {
	p, found, err := d.store.find(ctx, d.store.local, taskID, run)
	if !found || err != nil {
		return p, false, err
	}
	if err := d.store.files.syncDir(d.store.local.dir); err != nil { // the process that published it may have crashed before this
		return p, false, err
	}
	d.finish()
	return p, true, nil
}

// finish discards the draft after its picture was stored. One that can't be removed is removed at the next start.
func (d *Draft) finish() { _ = d.Discard() }

// writeAll writes everything to the file that is not in it, to a new file if it is damaged.
func (d *Draft) writeAll() error {
	if d.damaged {
		return d.rewrite()
	}
	if len(d.rest) > 0 {
		return d.writeRest()
	}
	return nil
}

// rewrite writes the whole content to a new file.
func (d *Draft) rewrite() error {
	if d.content == nil {
		content := make([]byte, d.written, d.size)
		if n, err := d.file.ReadAt(content, 0); n < len(content) {
			return err
		}
		content = append(content, d.rest...)
		if sum := sha256.Sum256(content); !bytes.Equal(sum[:], d.sum.Sum(nil)) {
			return lostError(errors.New("the disk returned other data than was written"))
		}
		d.content, d.rest = content, nil
		_ = d.file.discard() // frees its space
	}
	fresh, err := d.store.create(0)
	if err != nil {
		return err
	}
	_ = d.file.discard()
	d.file = fresh.file
	n, err := d.file.WriteAt(d.content, 0)
	d.written = int64(n)
	if err != nil {
		return err
	}
	d.damaged, d.content = false, nil
	return nil
}

// Discard removes a draft that was not published; after Publish it does nothing.
func (d *Draft) Discard() error {
	if d.file == nil {
		return nil
	}
	f := d.file
	d.file = nil
	return f.discard()
}

// Import stores a copy of a picture under its name, in the store and not in its spool. The content is what write writes; an incomplete picture is a
// *task.Error. If there is an object of that name, it stays, and the error is fs.ErrExist.
func (s *Store) Import(ctx context.Context, name string, write func(io.Writer) error) error {
	d, err := s.create(minReserve)
	if err != nil {
		return err
	}
	defer d.finish()
	if err := write(d); err != nil {
		return err
	}
	if err := d.writeAll(); err != nil {
		return err
	}
	if _, err := d.identify(); err != nil {
		return err
	}
	if err := d.makeDurable(); err != nil {
		return err
	}
	return s.backend().Put(ctx, name, Source{ReaderAt: d.file, Path: d.file.Name(), Size: d.size, SHA256: d.sum.Sum(nil), Type: mediaType(name)}, false)
}

// Save stores one picture outside of any store, as name in dir, with the extension of its format. The picture is what write writes;
// a file of that name is replaced. An error of the picture is a *task.Error.
func Save(dir, name string, maxBytes int64, write func(io.Writer) error) (Picture, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return Picture{}, err
	}
	s := &Store{dir: dir, maxBytes: maxBytes, files: systemFiles()}
	f, err := s.files.createDraft(dir)
	if err != nil {
		return Picture{}, err
	}
	d := &Draft{store: s, file: f, sum: sha256.New()}
	p, err := d.save(name, write)
	return p, errors.Join(err, d.Discard())
}

func (d *Draft) save(name string, write func(io.Writer) error) (Picture, error) {
	if err := write(d); err != nil {
		return Picture{}, err
	}
	if err := d.writeAll(); err != nil {
		return Picture{}, err
	}
	k, err := d.identify()
	if err != nil {
		return Picture{}, err
	}
	p := Picture{Name: name + extension(k.format), Format: k.format, Width: k.width, Height: k.height, Bytes: d.size}
	p.Path = filepath.Join(d.store.dir, p.Name)
	if err := d.makeDurable(); err != nil {
		return Picture{}, err
	}
	return p, d.store.files.rename(d.file.Name(), p.Path)
}

// draftFile is the file of a draft.
type draftFile interface {
	io.ReaderAt
	io.WriterAt
	Name() string
	Truncate(size int64) error
	allocate(size int64) error
	Chmod(mode fs.FileMode) error
	Sync() error
	// discard closes the file and removes its name.
	discard() error
}

// fileSystem is what a Store asks of the file system and may fail.
type fileSystem struct {
	createDraft  func(dir string) (draftFile, error)
	link, rename func(from, to string) error
	syncDir      func(dir string) error
}

func systemFiles() *fileSystem {
	return &fileSystem{createDraft: createDraft, link: os.Link, rename: os.Rename, syncDir: syncDir}
}

type systemFile struct{ *os.File }

func (f systemFile) allocate(size int64) error { return allocate(f.File, size) }

func (f systemFile) discard() error {
	err := os.Remove(f.Name())
	_ = f.Close()
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it was renamed, or removed by an earlier call
	}
	return err
}

// createDraft creates a draft that no other process removes. dir is created if its parent is there.
func createDraft(dir string) (draftFile, error) {
	for {
		f, err := os.CreateTemp(dir, draftPrefix)
		if errors.Is(err, fs.ErrNotExist) && os.Mkdir(dir, 0o755) == nil {
			continue
		}
		if err != nil {
			return nil, err
		}
		// Between CreateTemp and lock, a starting processor may find the draft without a lock and remove it. It holds the
		// lock while it does, so that the file is gone when the lock is acquired here. Without locks, staleDraft protects it.
		_ = lock(f, 0)
		if _, err := os.Lstat(f.Name()); err == nil {
			return systemFile{f}, nil
		} else if closeErr := f.Close(); !errors.Is(err, fs.ErrNotExist) || closeErr != nil {
			return nil, errors.Join(err, closeErr)
		}
	}
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// isUnsupported reports whether a file system has no such thing: exFAT has no hard links and no modes, for example.
func isUnsupported(err error) bool {
	return errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOTSUP) || errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.ENOSYS)
}
