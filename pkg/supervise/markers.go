package supervise

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"time"
)

// StopMark is the stop marker: an operator stopped the processor, and the monitor must not start it.
type StopMark struct {
	At time.Time `json:"at"`
	By string    `json:"by"`
}

// unknownOperator is who stopped the processor where the marker does not say it, because the disk was full.
const unknownOperator = "unknown"

// stopMark returns the stop marker; nil: there is none. One that can't be read or parsed still counts.
func (d Dir) stopMark() *StopMark {
	info, err := os.Lstat(d.path(".stopped"))
	if err != nil {
		return nil
	}
	m := &StopMark{At: info.ModTime(), By: unknownOperator}
	text, err := os.ReadFile(d.path(".stopped"))
	if err != nil {
		return m
	}
	written, by, _ := strings.Cut(strings.TrimSpace(string(text)), " ")
	if at, err := time.Parse(time.RFC3339, written); err == nil {
		m.At = at
	}
	if by != "" {
		m.By = by
	}
	return m
}

// isWanted reports whether the processor was started in the background and not stopped by an operator since.
func (d Dir) isWanted() bool {
	_, err := os.Lstat(d.path(".started"))
	return err == nil && d.stopMark() == nil
}

// markStopped writes the stop marker. On a full disk the marker is empty, or it is the start marker under another name, which
// needs no space at all.
func (d Dir) markStopped(m StopMark) error {
	err := writeMarker(d.path(".stopped"), m.At.UTC().Format(time.RFC3339)+" "+m.By+"\n")
	if err == nil || d.stopMark() != nil {
		return nil
	}
	if os.Rename(d.path(".started"), d.path(".stopped")) == nil {
		_ = os.Truncate(d.path(".stopped"), 0) // what it says is not about the stop
		return nil
	}
	return err
}

// markStarted writes the start marker, and removes the stop marker and the list of restarts.
func (d Dir) markStarted(now time.Time) error {
	errs := []error{writeMarker(d.path(".started"), now.UTC().Format(time.RFC3339)+"\n")}
	for _, suffix := range []string{".stopped", ".restarts"} {
		if err := os.Remove(d.path(suffix)); err != nil && !isMissing(err) {
			errs = append(errs, err)
		}
	}
	if d.isWanted() {
		return nil
	}
	return errors.Join(errs...)
}

// writeMarker writes a marker. Where there is no space for its text, it is empty, which counts as well.
func writeMarker(path, text string) error {
	err := WriteFileAtomic(path, text)
	if err == nil {
		return nil
	}
	f, e := openFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if e != nil {
		if _, notAFile := errors.AsType[*NotAFileError](e); notAFile {
			return e
		}
		return plainError(err)
	}
	_, _ = f.WriteString(text)
	return f.Close()
}

// plainError returns the first cause of an error about a temporary file, whose name tells nothing.
func plainError(err error) error {
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		return path.Err
	}
	return err
}
