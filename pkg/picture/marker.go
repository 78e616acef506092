package picture

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"
)

const (
	// markerName is the file that names the installation that a directory belongs to.
	markerName = "imagetasks-installation.json"
	// markerPrefix begins the names of marker files that are being written.
	markerPrefix = ".marker-"
	// prefixDigits is the number of hexadecimal digits of an installation's id in the name of its directory.
	prefixDigits = 12
	minSecret    = 16
)

// marker is the content of the marker file.
type marker struct {
	Installation string `json:"installation"` // the id in the database
	Store        string `json:"store"`        // a random id of this directory
}

// MarkerError means that a directory does not belong to the installation. Nothing was changed in it.
type MarkerError struct {
	Dir    string
	Reason string
	Fix    string // what to do
}

// Error implements error.
func (e *MarkerError) Error() string {
	return fmt.Sprintf("picture store: %s %s; %s", e.Dir, e.Reason, e.Fix)
}

// createDirectory creates the directory of an installation, with its marker file, unless it is there.
func (s *Store) createDirectory(installation string) error {
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return fmt.Errorf("picture store: %w", err)
	}
	m, exists, err := s.readMarker(installation)
	if err != nil {
		return err
	}
	if !exists || m.Store == "" {
		if err := s.writeMarker(marker{installation, uuid.NewString()}, exists); err != nil {
			return fmt.Errorf("picture store: %w", err)
		}
		// Another process may have been faster.
		if m, exists, err = s.readMarker(installation); err != nil {
			return err
		}
		if !exists {
			return fmt.Errorf("picture store: %s was removed", filepath.Join(s.dir, markerName))
		}
	}
	s.id = m.Store
	if err := os.Mkdir(filepath.Join(s.dir, draftsDir), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("picture store: %w", err)
	}
	return nil
}

// readMarker reads the marker file, and returns false if the directory is missing or empty. It returns a *MarkerError if the
// directory is not that of the installation.
func (s *Store) readMarker(installation string) (m marker, exists bool, err error) {
	path := filepath.Join(s.dir, markerName)
	text, err := readSmall(path)
	if errors.Is(err, fs.ErrNotExist) {
		notEmpty := s.checkEmpty(installation)
		if notEmpty == nil {
			return m, false, nil
		}
		// Another process may have created the file, and others after it, in between.
		if text, err = readSmall(path); errors.Is(err, fs.ErrNotExist) {
			return m, false, notEmpty
		}
	}
	if err != nil {
		return m, false, fmt.Errorf("picture store: %w", err)
	}
	return parseMarker(text, s.dir, installation)
}

// parseMarker parses the marker of a store. It returns a *MarkerError if it is not that of the installation.
func parseMarker(text []byte, location, installation string) (m marker, exists bool, err error) {
	if err := json.Unmarshal(text, &m); err != nil || m.Installation == "" {
		return m, false, &MarkerError{location, "has a file " + markerName + " that can't be read", restoreMarker(installation)}
	}
	if m.Installation != installation {
		return m, false, &MarkerError{location, fmt.Sprintf("belongs to the installation %s, and the database of DATABASE_URL is the installation %s", m.Installation, installation),
			"set IMAGE_STORE to another directory, or correct DATABASE_URL"}
	}
	return m, true, nil
}

// checkMarker returns an error if the store is no longer the one that was opened, as when a directory was unmounted: then nothing is known
// of the pictures in it.
func (s *Store) checkMarker(ctx context.Context) error {
	in := s.backend()
	text, err := readObject(ctx, in, markerName)
	if err != nil {
		return err
	}
	var m marker
	if err := json.Unmarshal(text, &m); err != nil || m.Store != s.id {
		return fmt.Errorf("%s in %s was replaced: the store is another one than at the start of this program; restart it", markerName, in)
	}
	return nil
}

// readObject returns the content of a small object.
func readObject(ctx context.Context, in Backend, name string) ([]byte, error) {
	r, err := in.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(io.LimitReader(r, maxMarker))
}

// maxMarker is more than the size of a marker file.
const maxMarker = 64 << 10

func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxMarker))
}

// checkEmpty returns an error if a directory without a marker file has something in it.
func (s *Store) checkEmpty(installation string) error {
	f, err := os.Open(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("picture store: %w", err)
	}
	defer f.Close()
	for {
		names, err := f.Readdirnames(100)
		for _, name := range names {
			if name != "lost+found" && !strings.HasPrefix(name, markerPrefix) {
				return &MarkerError{s.dir, "has files in it and no " + markerName, restoreMarker(installation)}
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("picture store: %w", err)
		}
	}
}

// restoreMarker says what to do about a marker file that was lost.
func restoreMarker(installation string) string {
	return fmt.Sprintf(`if the pictures there are of this installation, write {"installation": "%s"} to that file; else set IMAGE_STORE to another directory`, installation)
}

// writeMarker writes the marker file. It replaces only one that has no id of the store.
func (s *Store) writeMarker(m marker, replace bool) error {
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(s.dir, markerPrefix)
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(append(text, '\n'))
	if err := errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return err
	}
	path := filepath.Join(s.dir, markerName)
	if replace {
		err = s.files.rename(f.Name(), path)
	} else {
		err = s.files.link(f.Name(), path)
		if isUnsupported(err) {
			if _, statErr := os.Lstat(path); errors.Is(statErr, fs.ErrNotExist) {
				err = s.files.rename(f.Name(), path)
			}
		}
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return errors.Join(s.files.syncDir(s.dir), s.files.syncDir(filepath.Dir(s.dir)))
}
