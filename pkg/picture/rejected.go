package picture

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"imagetasks/pkg/redact"
	"imagetasks/pkg/task"
)

// rejectedDir is the directory of what was received in place of a picture and could not be used, for the operator. Nobody else may read it.
const rejectedDir = "rejected"

// The bounds of the directory. What is oldest is removed first.
const (
	maxRejectedFiles = 200
	maxRejectedBytes = 512 << 20
	keepRejected     = 24 * time.Hour
	// maxRejectedText bounds what is kept of a content that is no picture of any kind.
	maxRejectedText = 64 << 10
)

// Rejected says where a content came from that can't be used, and why. Its texts must not contain the prompt or a secret.
type Rejected struct {
	TaskID      string    `json:"task_id"`
	Run         int       `json:"run"`
	At          time.Time `json:"at"`
	Code        task.Code `json:"code"`
	Cause       string    `json:"cause"`
	RequestID   string    `json:"request_id,omitempty"`
	Endpoint    string    `json:"endpoint,omitempty"`
	ContentType string    `json:"content_type,omitempty"`
	File        string    `json:"file"`  // with the content, beside this
	Bytes       int64     `json:"bytes"` // of that file
}

// Reject keeps a content for a day. At, File and Bytes of r are set here.
func (s *Store) Reject(r Rejected, content []byte) error {
	return s.reject(r, func(path string) (int64, error) {
		return int64(len(content)), writeNew(path, content)
	})
}

// Reject keeps what was written to the draft for a day, and discards the draft. Of a text only its head is kept, without the private texts;
// of a picture that contains one of them too. At, File and Bytes of r are set here.
func (d *Draft) Reject(r Rejected, private []string) error {
	if d.file == nil || d.written == 0 || d.damaged {
		return nil
	}
	longest := 0
	for _, p := range private {
		longest = max(longest, len(p))
	}
	head := make([]byte, min(d.written, int64(maxRejectedText+2*longest))) // so that no private text is cut
	if _, err := d.file.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	kind := http.DetectContentType(head)
	if r.ContentType == "" {
		r.ContentType = kind
	}
	whole := !strings.HasPrefix(kind, "text/")
	if whole {
		found, err := containsAny(io.NewSectionReader(d.file, 0, d.written), private)
		if err != nil {
			return err
		}
		whole = !found
	}
	if !whole {
		text := string(head)
		for _, p := range private {
			text = redact.Prompt(text, p)
		}
		return errors.Join(d.store.Reject(r, []byte(text[:min(len(text), maxRejectedText)])), d.Discard())
	}
	err := d.store.reject(r, func(path string) (int64, error) {
		// The file itself is used: a full disk has no space for a copy.
		if err := d.file.Truncate(d.written); err != nil {
			return 0, err
		}
		if err := d.file.Chmod(0o600); err != nil && !isUnsupported(err) {
			return 0, err
		}
		return d.written, d.store.files.rename(d.file.Name(), path)
	})
	return errors.Join(err, d.Discard())
}

// shortest is the length of the shortest text that is looked for in a picture: a shorter one is found anywhere.
const shortest = 4

// containsAny reports whether a content contains one of some texts.
func containsAny(r io.Reader, texts []string) (bool, error) {
	longest := 0
	for _, text := range texts {
		longest = max(longest, len(text))
	}
	block := make([]byte, max(longest, zeroBlock)*2)
	for kept := 0; ; {
		n, err := io.ReadFull(r, block[kept:])
		for _, text := range texts {
			if len(text) >= shortest && bytes.Contains(block[:kept+n], []byte(text)) {
				return true, nil
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		kept = copy(block, block[len(block)-longest:])
	}
}

// reject writes r beside the content that write writes. Without both nothing is kept.
func (s *Store) reject(r Rejected, write func(path string) (int64, error)) error {
	s.rejecting.Lock()
	defer s.rejecting.Unlock()
	dir := filepath.Join(s.dir, rejectedDir)
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("keep what was rejected: %w", err)
	}
	if info, err := os.Lstat(dir); err != nil || !info.IsDir() {
		return fmt.Errorf("keep what was rejected: %s is not a directory", dir)
	}
	r.At = time.Now().UTC()
	// The names sort by time. They can't be guessed, in case the directory is served.
	stem := r.At.Format(rejectedTime) + "-" + uuid.NewString()
	r.File = stem + ".bin"
	content, description := filepath.Join(dir, r.File), filepath.Join(dir, stem+".json")
	var err error
	if r.Bytes, err = write(content); err == nil {
		var text []byte
		if text, err = json.MarshalIndent(r, "", "  "); err == nil {
			err = writeNew(description, append(text, '\n'))
		}
	}
	if err != nil {
		_, _ = os.Remove(content), os.Remove(description)
		return fmt.Errorf("keep what was rejected: %w", err)
	}
	_, err = s.pruneRejected(r.At)
	return err
}

func writeNew(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Close())
}

const rejectedTime = "20060102T150405.000000000Z"

// isRejectedName reports whether a file has a name that reject gives. Others in the directory are not ours.
func isRejectedName(name string) bool {
	stem, extension := strings.TrimSuffix(name, filepath.Ext(name)), filepath.Ext(name)
	at, id, _ := strings.Cut(stem, "-")
	_, errTime := time.Parse(rejectedTime, at)
	return (extension == ".bin" || extension == ".json") && errTime == nil && uuid.Validate(id) == nil
}

// CleanRejected removes what was rejected more than a day ago, and returns how many files that were.
func (s *Store) CleanRejected(now time.Time) (removed int, err error) {
	s.rejecting.Lock()
	defer s.rejecting.Unlock()
	return s.pruneRejected(now)
}

// RemoveRejected removes what was rejected of some tasks.
func (s *Store) RemoveRejected(taskIDs []string) error {
	s.rejecting.Lock()
	defer s.rejecting.Unlock()
	dir := filepath.Join(s.dir, rejectedDir)
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("picture store: %w", err)
	}
	var errs []error
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if filepath.Ext(path) != ".json" {
			continue
		}
		text, err := readSmall(path)
		var r Rejected
		if err != nil || json.Unmarshal(text, &r) != nil || !slices.Contains(taskIDs, r.TaskID) {
			continue // it may be one that is being written, and goes within a day
		}
		for _, each := range []string{strings.TrimSuffix(path, ".json") + ".bin", path} {
			if err := os.Remove(each); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, fmt.Errorf("picture store: %w", err))
			}
		}
	}
	return errors.Join(errs...)
}

// pruneRejected brings the directory back into its bounds.
func (s *Store) pruneRejected(now time.Time) (removed int, err error) {
	return s.removeRejected(func(files int, size int64, age time.Duration) bool {
		return files > maxRejectedFiles || size > maxRejectedBytes || age >= keepRejected
	}, now)
}

// freeRejected removes everything that was rejected: pictures need the space. It reports whether there was something.
func (s *Store) freeRejected() bool {
	s.rejecting.Lock()
	defer s.rejecting.Unlock()
	removed, _ := s.removeRejected(func(int, int64, time.Duration) bool { return true }, time.Now())
	return removed > 0
}

// removeRejected removes the files for which remove returns true. It gets their number and size so far, the newest first.
func (s *Store) removeRejected(remove func(files int, size int64, age time.Duration) bool, now time.Time) (removed int, err error) {
	dir := filepath.Join(s.dir, rejectedDir)
	if info, err := os.Lstat(dir); err == nil && !info.IsDir() {
		return 0, fmt.Errorf("picture store: %s is not a directory", dir)
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("picture store: %w", err)
	}
	slices.Reverse(entries) // the newest first
	var errs []error
	files, size := 0, int64(0)
	for _, e := range entries {
		if !isRejectedName(e.Name()) {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // another processor removed it
		}
		if err != nil || !info.Mode().IsRegular() {
			errs = append(errs, err)
			continue
		}
		files, size = files+1, size+info.Size()
		if !remove(files, size, now.Sub(info.ModTime())) {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err == nil {
			removed++
		} else if !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("picture store: %w", err))
		}
	}
	return removed, errors.Join(errs...)
}
