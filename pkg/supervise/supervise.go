// Package supervise starts, stops and restarts the background processor of one host. Whether it is running is decided by the
// lock on its pid file, not by the pid in it: the kernel releases the lock however the process ends, and a pid that was left
// in the file may belong to another program.
//
// Its directory (LOG_DIR) contains:
//
//	task-processor.pid       the pid; locked while the processor runs
//	task-processor.started   the start marker: the processor is to run here
//	task-processor.stopped   the stop marker: when an operator stopped it, and who that was
//	task-processor.control   locked while a program starts or stops it
//	task-processor.restarts  when it was restarted in the last hour
//	task-processor.out       its output besides the log, such as a panic
package supervise

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/gofrs/flock"
)

// Dir is the directory in which a host's processor is supervised.
type Dir string

const base = "task-processor"

func (d Dir) path(suffix string) string { return filepath.Join(string(d), base+suffix) }

// PidFile returns the path of the pid file.
func (d Dir) PidFile() string { return d.path(".pid") }

// Log returns the path of the processor's log.
func (d Dir) Log() string { return d.path(".log") }

// ErrRunning means that a processor is already running.
var ErrRunning = errors.New("a processor is already running")

// lockWait is longer than Inspect holds the lock.
const lockWait = 500 * time.Millisecond

// PIDLock is the lock of a running processor on its pid file.
type PIDLock struct{ lock *flock.Flock }

// Lock locks the pid file for this process and writes its pid, or returns ErrRunning.
func (d Dir) Lock() (*PIDLock, error) {
	if err := os.MkdirAll(string(d), 0o755); err != nil {
		return nil, err
	}
	lock := flock.New(d.PidFile(), flock.SetFlag(os.O_CREATE|os.O_RDWR), flock.SetPermissions(0o644))
	// Inspect holds the lock for a moment; that is not a running processor.
	bounded, cancel := context.WithTimeout(context.Background(), lockWait)
	defer cancel()
	if _, err := lock.TryLockContext(bounded, 5*time.Millisecond); errors.Is(err, context.DeadlineExceeded) {
		return nil, ErrRunning
	} else if err != nil {
		return nil, fmt.Errorf("lock the pid file: %w", err)
	}
	if err := os.WriteFile(d.PidFile(), []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644); err != nil {
		return nil, errors.Join(fmt.Errorf("write the pid file: %w", err), lock.Close())
	}
	return &PIDLock{lock}, nil
}

// Release empties the pid file and unlocks it. The file stays: if it was removed, two processors could hold locks on two
// files of that name.
func (h *PIDLock) Release() error {
	return errors.Join(os.Truncate(h.lock.Path(), 0), h.lock.Close())
}

// Verdict is the result of an inspection of the processor.
type Verdict string

// The verdicts.
const (
	Running           Verdict = "running"
	Dead              Verdict = "dead"          // the pid file is not locked
	Hung              Verdict = "hung"          // running, without a heartbeat for too long
	StoppedByOperator Verdict = "stopped"       // by an operator
	NeverStarted      Verdict = "never started" // in the background, on this host
)

// StopMark is the stop marker: an operator stopped the processor, and the monitor must not start it.
type StopMark struct {
	At time.Time `json:"at"`
	By string    `json:"by"`
}

// State is the state of the processor, from its files.
type State struct {
	Running bool      `json:"running"`
	PID     int       `json:"pid,omitempty"`     // 0: not running, or unknown
	Since   time.Time `json:"since,omitzero"`    // when the pid file was written
	Wanted  bool      `json:"wanted"`            // started in the background, and not stopped by an operator since
	Stopped *StopMark `json:"stopped,omitempty"` // nil: not stopped by an operator

	// PIDConfirmed: the kernel reports that this pid holds the lock. Otherwise the pid is only what the file contains, and
	// counts once the processor's status address or its heartbeat confirms it; it must not be signalled before.
	PIDConfirmed bool `json:"-"`
}

// Inspect returns the state of the processor. It locks the pid file for a moment if that is not locked.
func (d Dir) Inspect() (State, error) { return d.inspect(lockHolder) }

// holderLookup reports whether the process pid holds the lock on file; known is false where the kernel does not tell.
type holderLookup func(pid int, file os.FileInfo) (holds, known bool)

func (d Dir) inspect(holder holderLookup) (State, error) {
	var s State
	mark, err := d.stopMark()
	if err != nil {
		return s, err
	}
	s.Stopped = mark
	if _, err := os.Stat(d.path(".started")); err == nil {
		s.Wanted = mark == nil
	}
	if s.Running, err = d.locked(); err != nil || !s.Running {
		return s, err
	}
	file, err := os.Stat(d.PidFile())
	if err != nil {
		return s, nil //nolint:nilerr // the file was removed in the meantime
	}
	s.Since = file.ModTime()
	pid := d.writtenPID()
	if pid == 0 {
		return s, nil
	}
	// A pid that does not hold the lock is stale, or is just being written.
	if holds, known := holder(pid, file); holds || !known {
		s.PID, s.PIDConfirmed = pid, holds
	}
	return s, nil
}

// locked reports whether a process holds the lock on the pid file.
func (d Dir) locked() (bool, error) {
	if _, err := os.Stat(d.PidFile()); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	// A shared lock, so that two inspections at the same time do not take each other for the processor.
	lock := flock.New(d.PidFile(), flock.SetFlag(os.O_RDONLY))
	free, err := lock.TryRLock()
	if err != nil {
		return false, fmt.Errorf("test the lock on the pid file: %w", err)
	}
	return !free, lock.Close()
}

// writtenPID returns the pid in the file, 0 where it contains none.
func (d Dir) writtenPID() int {
	text, err := os.ReadFile(d.PidFile())
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid < 1 {
		return 0
	}
	return pid
}

func (d Dir) stopMark() (*StopMark, error) {
	text, err := os.ReadFile(d.path(".stopped"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the stop marker: %w", err)
	}
	at, by, _ := strings.Cut(strings.TrimSpace(string(text)), " ")
	m := &StopMark{By: by}
	// A marker that can't be parsed still counts.
	m.At, _ = time.Parse(time.RFC3339, at)
	return m, nil
}

// markStopped writes the stop marker.
func (d Dir) markStopped(m StopMark) error {
	text := m.At.UTC().Format(time.RFC3339) + " " + m.By + "\n"
	if err := WriteFileAtomic(d.path(".stopped"), text); err != nil {
		return fmt.Errorf("write the stop marker: %w", err)
	}
	return nil
}

// markStarted writes the start marker, and removes the stop marker and the list of restarts.
func (d Dir) markStarted(now time.Time) error {
	if err := WriteFileAtomic(d.path(".started"), now.UTC().Format(time.RFC3339)+"\n"); err != nil {
		return fmt.Errorf("write the start marker: %w", err)
	}
	for _, suffix := range []string{".stopped", ".restarts"} {
		if err := os.Remove(d.path(suffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the stop marker: %w", err)
		}
	}
	return nil
}

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

// control keeps other programs from starting or stopping the processor until release is called.
func (d Dir) control(ctx context.Context) (release func() error, err error) {
	if err := os.MkdirAll(string(d), 0o755); err != nil {
		return nil, err
	}
	lock := flock.New(d.path(".control"))
	if _, err := lock.TryLockContext(ctx, 50*time.Millisecond); err != nil {
		return nil, fmt.Errorf("wait for another program that starts or stops the processor: %w", err)
	}
	return lock.Close, nil
}
