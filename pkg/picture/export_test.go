package picture

import (
	"sync"
	"syscall"
)

// Faults are errors that a test injects into a store's file system. Each error is returned as long as it is set.
type Faults struct {
	mu sync.Mutex
	// Write is returned after space more bytes, Sync by syncs of a draft, Link by links, Create for new drafts, SyncDir by syncs of the directory.
	write, sync, link, create, syncDir error
	space                              int
	lose                               bool // a failed sync loses what was written
}

// Set changes the errors.
func (f *Faults) Set(change func(*Faults)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

// FullAfter makes the disk full after some bytes.
func (f *Faults) FullAfter(space int) {
	f.Set(func(f *Faults) { f.write, f.space = syscall.ENOSPC, space })
}

// Repair ends all faults.
func (f *Faults) Repair() {
	f.Set(func(f *Faults) { f.write, f.sync, f.link, f.create, f.syncDir = nil, nil, nil, nil, nil })
}

// FailSync makes syncs of a draft fail. lose: what was written is lost then.
func (f *Faults) FailSync(lose bool) {
	f.Set(func(f *Faults) { f.sync, f.lose = syscall.EIO, lose })
}

// FailLink makes links fail with err, FailCreate new drafts, and FailSyncDir syncs of the directory.
func (f *Faults) FailLink(err error)    { f.Set(func(f *Faults) { f.link = err }) }
func (f *Faults) FailCreate(err error)  { f.Set(func(f *Faults) { f.create = err }) }
func (f *Faults) FailSyncDir(err error) { f.Set(func(f *Faults) { f.syncDir = err }) }

func (f *Faults) get(of func(*Faults) error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return of(f)
}

// Inject puts faults between a store and its file system.
func (s *Store) Inject(f *Faults) {
	system := *s.files
	*s.files = fileSystem{
		createDraft: func(dir string) (draftFile, error) {
			if err := f.get(func(f *Faults) error { return f.create }); err != nil {
				return nil, err
			}
			file, err := system.createDraft(dir)
			if err != nil {
				return nil, err
			}
			return &faultyFile{file, f}, nil
		},
		link: func(from, to string) error {
			if err := f.get(func(f *Faults) error { return f.link }); err != nil {
				return err
			}
			return system.link(from, to)
		},
		rename: system.rename,
		syncDir: func(dir string) error {
			if err := f.get(func(f *Faults) error { return f.syncDir }); err != nil {
				return err
			}
			return system.syncDir(dir)
		},
	}
}

type faultyFile struct {
	draftFile
	f *Faults
}

func (f *faultyFile) WriteAt(p []byte, off int64) (int, error) {
	f.f.mu.Lock()
	err, n := f.f.write, len(p)
	if err != nil {
		n = min(n, f.f.space)
		f.f.space -= n
	}
	f.f.mu.Unlock()
	written, e := f.draftFile.WriteAt(p[:n], off)
	if e != nil {
		return written, e
	}
	if n < len(p) {
		return n, err
	}
	return n, nil
}

// allocate fails if the disk has less space. It takes none from it.
func (f *faultyFile) allocate(size int64) error {
	f.f.mu.Lock()
	err, space := f.f.write, f.f.space
	f.f.mu.Unlock()
	if err != nil && int64(space) < size {
		return err
	}
	return f.draftFile.allocate(size)
}

func (f *faultyFile) Sync() error {
	f.f.mu.Lock()
	err, lose := f.f.sync, f.f.lose
	f.f.mu.Unlock()
	if err != nil && lose {
		_, _ = f.draftFile.WriteAt(make([]byte, 16), 0)
	}
	if err != nil {
		return err
	}
	return f.draftFile.Sync()
}

// ParseName is parseName.
func (s *Store) ParseName(name string) (Entry, bool) { return s.parseName(name) }

// FileName is fileName.
func (s *Store) FileName(taskID string, run int, format string) string {
	return s.fileName(taskID, run, format)
}

// Open files of a draft, for a crash.
func (d *Draft) Crash() string {
	name := d.file.Name()
	if f, ok := d.file.(systemFile); ok {
		_ = f.Close()
	}
	d.file = nil
	return name
}

// WriteZeros is writeZeros.
var WriteZeros = writeZeros

// BlockDrafts makes the file system not respond to new drafts until release is closed.
func (s *Store) BlockDrafts(release <-chan struct{}) {
	create := s.files.createDraft
	s.files.createDraft = func(dir string) (draftFile, error) {
		<-release
		return create(dir)
	}
}

// Local returns the backend of a store's directory.
func (s *Store) Local() Backend { return s.local }
