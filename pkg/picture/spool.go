package picture

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"
)

// Spool is the directory in front of a Backend: it holds drafts, what was rejected, and the pictures that are still to be uploaded. Several
// installations may share it.
type Spool struct {
	Dir      string
	MaxBytes int64 // of the drafts and the pictures; no draft is begun that would exceed it
}

const (
	waitingDir = "waiting" // the directory of pictures that are still to be uploaded
	hostFile   = "host.json"
	refPrefix  = "spool:"
)

// hostRecord is what a spool remembers.
type hostRecord struct {
	Host string `json:"host"` // a random id of this spool
	// The store whose marker was read last.
	Location string `json:"location,omitempty"`
	Store    string `json:"store,omitempty"`
}

// OpenRemote returns the store of an installation in a backend, with a spool on this host. It creates the marker if necessary. While the
// backend is not available, it opens a store that was opened before on this host: what is made waits in the spool.
func OpenRemote(ctx context.Context, c Config, b Backend) (*Store, error) {
	s, err := newRemote(c, b)
	if err != nil {
		return nil, err
	}
	if err := s.createSpool(); err != nil {
		return nil, fmt.Errorf("picture store: the spool: %w", err)
	}
	record, err := s.readHost()
	if err != nil {
		return nil, fmt.Errorf("picture store: the spool: %w", err)
	}
	s.host = record.Host
	known := record.Location == b.String() && record.Store != ""
	opening := ctx
	if known {
		var cancel context.CancelFunc
		opening, cancel = context.WithTimeout(ctx, openTime)
		defer cancel()
	}
	switch err := s.createMarker(opening, c.Installation); {
	case err == nil:
	case errors.Is(err, ErrUnavailable) && known && ctx.Err() == nil:
		s.id = record.Store
		s.failed(err)
	default:
		return nil, err
	}
	if now := (hostRecord{record.Host, b.String(), s.id}); now != record {
		err = s.writeHost(now)
	}
	if err == nil {
		err = s.checkSpoolDir()
	}
	if err != nil {
		return nil, fmt.Errorf("picture store: the spool: %w", err)
	}
	_, _ = s.CleanRejected(time.Now()) // the monitor reports what can't be removed
	if s.lastLoss.Load() == nil {
		s.readSizes(ctx)
	}
	return s, nil
}

// openTime bounds the look at a store that was opened before on this host.
const openTime = 10 * time.Second

// OpenExistingRemote returns the store of an installation in a backend, and false if it does not exist. It changes nothing.
func OpenExistingRemote(ctx context.Context, c Config, b Backend) (s *Store, exists bool, err error) {
	if s, err = newRemote(c, b); err != nil {
		return nil, false, err
	}
	m, exists, err := s.readRemoteMarker(ctx, c.Installation)
	if err != nil {
		return nil, false, err
	}
	s.id = m.Store
	return s, exists, nil
}

func newRemote(c Config, b Backend) (*Store, error) {
	c.Dir = c.Spool.Dir
	s, err := newStore(c)
	if err != nil {
		return nil, err
	}
	s.remote, s.spool = b, c.Spool
	s.local.dir = filepath.Join(s.dir, waitingDir)
	return s, nil
}

// createSpool creates the directories. Nobody else may read them.
func (s *Store) createSpool() error {
	for _, dir := range []string{s.dir, s.local.dir, filepath.Join(s.dir, draftsDir)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	return nil
}

// checkSpoolDir checks that the spool is writable, and removes the drafts of processors that crashed.
func (s *Store) checkSpoolDir() error {
	d, err := s.create(0)
	if err != nil {
		return err
	}
	return errors.Join(d.Discard(), s.removeStale())
}

// readHost reads what the spool remembers, and gives it an id if it has none.
func (s *Store) readHost() (hostRecord, error) {
	var r hostRecord
	path := filepath.Join(s.dir, hostFile)
	for range 2 {
		text, err := readSmall(path)
		if err == nil {
			if err := json.Unmarshal(text, &r); err != nil || uuid.Validate(r.Host) != nil {
				return r, fmt.Errorf("%s can't be read; remove it if no picture waits in %s", path, s.local.dir)
			}
			return r, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return r, err
		}
		if err := s.writeHostAs(hostRecord{Host: uuid.NewString()}, s.files.link); err != nil && !errors.Is(err, fs.ErrExist) {
			return r, err
		}
	}
	return r, fmt.Errorf("%s was removed", path)
}

func (s *Store) writeHost(r hostRecord) error { return s.writeHostAs(r, s.files.rename) }

func (s *Store) writeHostAs(r hostRecord, put func(from, to string) error) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(s.dir, markerPrefix)
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(append(text, '\n'))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	path := filepath.Join(s.dir, hostFile)
	if err = put(f.Name(), path); isUnsupported(err) {
		err = s.files.rename(f.Name(), path)
	}
	if err != nil {
		return err
	}
	return s.files.syncDir(s.dir)
}

// createMarker creates the marker of the installation in the backend, unless it is there.
func (s *Store) createMarker(ctx context.Context, installation string) error {
	m, exists, err := s.readRemoteMarker(ctx, installation)
	if err != nil {
		return err
	}
	if !exists || m.Store == "" {
		text, err := json.Marshal(marker{installation, uuid.NewString()})
		if err != nil {
			return err
		}
		sum := sha256.Sum256(text)
		err = s.remote.Put(ctx, markerName, Source{ReaderAt: strings.NewReader(string(text)), Size: int64(len(text)), SHA256: sum[:], Type: mediaType(markerName)}, exists)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("picture store: %w", err)
		}
		// Another process may have been faster.
		if m, exists, err = s.readRemoteMarker(ctx, installation); err != nil {
			return err
		}
		if !exists {
			return fmt.Errorf("picture store: %s in %s was removed", markerName, s.remote)
		}
	}
	s.id = m.Store
	return nil
}

// readRemoteMarker reads the marker in the backend, and returns false if there is nothing in it. It returns a *MarkerError if what is there
// is not of the installation.
func (s *Store) readRemoteMarker(ctx context.Context, installation string) (m marker, exists bool, err error) {
	text, err := readObject(ctx, s.remote, markerName)
	if errors.Is(err, fs.ErrNotExist) {
		err = s.remote.List(ctx, func(found []Info) error {
			for _, info := range found {
				if info.Name == markerName { // created in between
					return errEnough
				}
			}
			return &MarkerError{s.remote.String(), "has objects in it and no " + markerName, restoreMarker(installation)}
		})
		if err == nil {
			return m, false, nil
		}
		if errors.Is(err, errEnough) {
			text, err = readObject(ctx, s.remote, markerName)
		}
	}
	if e, ok := errors.AsType[*MarkerError](err); ok {
		return m, false, e
	}
	if err != nil {
		return m, false, fmt.Errorf("picture store: %w", err)
	}
	return parseMarker(text, s.remote.String(), installation)
}

// Remote reports whether pictures are uploaded: Publish leaves them in the spool.
func (s *Store) Remote() bool { return s.remote != nil }

// Ref returns what another claim needs to upload a picture that waits in this host's spool.
func (s *Store) Ref(p Picture) string { return refPrefix + s.host + "/" + p.Name }

// IsRef reports whether a pending result is a picture in a spool, and whether in this host's.
func (s *Store) IsRef(ref string) (spooled, here bool) {
	rest, spooled := strings.CutPrefix(ref, refPrefix)
	host, _, _ := strings.Cut(rest, "/")
	return spooled, spooled && s.host != "" && host == s.host
}

// Waiting returns the picture of a run that waits in this host's spool.
func (s *Store) Waiting(ctx context.Context, taskID string, run int) (Picture, bool, error) {
	if s.remote == nil {
		return Picture{}, false, nil
	}
	p, found, err := s.find(ctx, s.local, taskID, run)
	if err != nil {
		return p, false, writeFailed(err)
	}
	return p, found, nil
}

// Upload stores a picture that waits in the spool, and removes it from there. If the run has a picture in the store, that one is returned. The
// picture stays in the spool if there is an error.
func (s *Store) Upload(ctx context.Context, taskID string, run int) (Picture, error) {
	p, found, err := s.find(ctx, s.local, taskID, run)
	if err != nil {
		return p, err
	}
	if !found {
		p, found, err = s.find(ctx, s.remote, taskID, run) // another claim may have uploaded it
		if err == nil && !found {
			err = fmt.Errorf("the picture is not in the spool %s any more: %w", s.local, fs.ErrNotExist)
		}
		return p, err
	}
	err = s.upload(ctx, p.Name)
	if errors.Is(err, fs.ErrExist) {
		var other Picture
		if other, found, err = s.find(ctx, s.remote, taskID, run); found {
			p = other
		} else if err == nil {
			err = errors.New("the picture store says that it has the picture, and can't find it")
		}
	}
	s.failed(err)
	if err != nil {
		return Picture{}, err
	}
	s.recent.add(p.Bytes)
	_ = s.local.Remove(ctx, p.Name) // one that stays is removed by the monitor
	return p, nil
}

// upload stores one file of the spool. The error is fs.ErrExist if the backend has an object of that name.
func (s *Store) upload(ctx context.Context, name string) error {
	f, err := s.local.open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	size, err := io.Copy(sum, f)
	if err != nil {
		return err
	}
	source := Source{ReaderAt: f, Path: f.Name(), Size: size, SHA256: sum.Sum(nil), Type: mediaType(name)}
	err = s.remote.Put(ctx, name, source, false)
	if errors.Is(err, fs.ErrExist) {
		// A store that was killed while it wrote the object may have its name and no object, which nobody can have read.
		switch _, missing := s.remote.Stat(ctx, name); {
		case errors.Is(missing, fs.ErrNotExist):
			err = s.remote.Put(ctx, name, source, true)
		case missing != nil:
			err = missing
		}
	}
	return err
}

// failed remembers why the last upload failed.
func (s *Store) failed(err error) {
	if err == nil {
		s.lastLoss.Store(nil)
		return
	}
	text := err.Error()
	s.lastLoss.Store(&text)
}

// Spooled returns the store of the pictures that wait in the spool, for a comparison with the tasks; nil: there is no spool.
func (s *Store) Spooled() *Store {
	if s.remote == nil {
		return nil
	}
	if _, err := os.Stat(s.local.dir); err != nil {
		return nil
	}
	return &Store{dir: s.dir, prefix: s.prefix, maxBytes: s.maxBytes, secret: s.secret, local: s.local, files: s.files}
}

// DropUploaded removes pictures from the spool that the store has: a crash after the upload leaves them. It returns how many.
func (s *Store) DropUploaded(ctx context.Context) (int, error) {
	dropped := 0
	if s.Spooled() == nil {
		return 0, nil
	}
	err := s.local.List(ctx, func(found []Info) error {
		for _, info := range found {
			local, err := s.local.Stat(ctx, info.Name)
			if _, ok := s.parseName(info.Name); !ok || err != nil || time.Since(local.ModifiedAt) < keepUploaded {
				continue
			}
			stored, err := s.remote.Stat(ctx, info.Name)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			if stored.Bytes != local.Bytes {
				continue
			}
			if s.local.Remove(ctx, info.Name) == nil {
				dropped++
			}
		}
		return nil
	})
	return dropped, err
}

// keepUploaded is the age before which a file of the spool may be one that is just being uploaded.
const keepUploaded = time.Hour

// spoolUse returns the number of bytes in the spool that count against its bound.
func (s *Store) spoolUse() (int64, error) {
	var used int64
	for _, dir := range []string{s.local.dir, filepath.Join(s.dir, draftsDir)} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, err
		}
		for _, e := range entries {
			if info, err := e.Info(); err == nil && info.Mode().IsRegular() {
				used += info.Size()
			}
		}
	}
	return used, nil
}

// checkSpool returns an error if the spool has no space for size more bytes.
func (s *Store) checkSpool(size int64) error {
	used, err := s.spoolUse()
	if err != nil || used+size <= s.spool.MaxBytes {
		return err
	}
	why := ""
	if last := s.lastLoss.Load(); last != nil {
		why = "; the last upload: " + *last
	}
	return fmt.Errorf("%w: %s holds %d bytes of pictures that wait to be uploaded, and %d are allowed (IMAGE_SPOOL_MAX)%s", errSpoolFull, s.dir, used, s.spool.MaxBytes, why)
}

var errSpoolFull = errors.New("the spool is full")

// drain uploads pictures while the spool is full. The claims of their tasks find them.
func (s *Store) drain(ctx context.Context) error {
	if s.remote == nil || s.checkSpool(s.expected()) == nil {
		return nil
	}
	refused := s.local.List(ctx, func(found []Info) error {
		for _, info := range found {
			e, ok := s.parseName(info.Name)
			if _, _, complete, err := s.local.read(info.Name); !ok || !complete || err != nil {
				continue
			}
			err := s.upload(ctx, e.Name)
			if errors.Is(err, fs.ErrExist) {
				err = nil
			}
			s.failed(err)
			if err != nil {
				return err
			}
			_ = s.local.Remove(ctx, e.Name)
			if s.checkSpool(s.expected()) == nil {
				return errEnough
			}
		}
		return nil
	})
	if refused != nil && !errors.Is(refused, errEnough) {
		return refused
	}
	return s.checkSpool(s.expected())
}
