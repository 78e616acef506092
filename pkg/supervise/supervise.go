// Package supervise starts, stops and revives the background processor of one host. Whether it runs is said by
// the lock on its pid file, never by a number alone: a process that dies lets go of the lock, however it
// dies, and a number left behind may belong to another program by now.
//
// In its directory (LOG_DIR) stand:
//
//	task-processor.pid       the pid, under a lock for as long as the processor lives
//	task-processor.started   the mark of a start: the processor is meant to run here
//	task-processor.stopped   the mark of an operator's stop: when, and by whom
//	task-processor.control   locked while someone starts or stops it
//	task-processor.restarts  when it was revived in the last hour
//	task-processor.out       what the daemon said outside of its log: a panic, say
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
	"syscall"
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

// ErrRunning means that a processor runs already.
var ErrRunning = errors.New("a processor runs already")

// lookBound is longer than anyone takes to look at the lock.
const lookBound = 500 * time.Millisecond

// PIDLock is a processor's hold on its pid file.
type PIDLock struct{ lock *flock.Flock }

// Lock locks the pid file for this process and writes its pid, or returns ErrRunning.
func (d Dir) Lock() (*PIDLock, error) {
	if err := os.MkdirAll(string(d), 0o755); err != nil {
		return nil, err
	}
	lock := flock.New(d.PidFile(), flock.SetFlag(os.O_CREATE|os.O_RDWR), flock.SetPermissions(0o644))
	// Who looks at the lock has it for an instant: that is not a processor.
	looks, cancel := context.WithTimeout(context.Background(), lookBound)
	defer cancel()
	if _, err := lock.TryLockContext(looks, 5*time.Millisecond); errors.Is(err, context.DeadlineExceeded) {
		return nil, ErrRunning
	} else if err != nil {
		return nil, fmt.Errorf("lock the pid file: %w", err)
	}
	if err := os.WriteFile(d.PidFile(), []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644); err != nil {
		return nil, errors.Join(fmt.Errorf("write the pid file: %w", err), lock.Close())
	}
	return &PIDLock{lock}, nil
}

// Release empties the pid file and lets go of it. The file stays: removing it would let two processors hold
// two files of that name.
func (h *PIDLock) Release() error {
	return errors.Join(os.Truncate(h.lock.Path(), 0), h.lock.Close())
}

// Verdict is what a look at the processor came to.
type Verdict string

// The verdicts.
const (
	Running           Verdict = "running"
	Dead              Verdict = "dead"          // the lock on the pid file is free
	Hung              Verdict = "hung"          // alive, and silent for too long
	StoppedByOperator Verdict = "stopped"       // by an operator
	NeverStarted      Verdict = "never started" // in the background, on this host
)

// StopMark says that an operator stopped the processor on purpose.
type StopMark struct {
	At time.Time `json:"at"`
	By string    `json:"by"`
}

// State is what the files say.
type State struct {
	Running bool      `json:"running"`
	PID     int       `json:"pid,omitempty"`     // 0: it doesn't run, or its pid can't be told
	Since   time.Time `json:"since,omitzero"`    // when the pid file was written
	Wanted  bool      `json:"wanted"`            // started in the background, and not stopped by an operator since
	Stopped *StopMark `json:"stopped,omitempty"` // by an operator; nil: not
}

// Inspect returns how the processor stands. It locks the pid file for a moment, where that is free.
func (d Dir) Inspect() (State, error) {
	var s State
	mark, err := d.mark()
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
	s.PID = d.holder()
	if info, err := os.Stat(d.PidFile()); err == nil {
		s.Since = info.ModTime()
	}
	return s, nil
}

// locked reports whether a process holds the pid file.
func (d Dir) locked() (bool, error) {
	if _, err := os.Stat(d.PidFile()); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	// A shared lock: two who look at once don't take each other for the processor.
	lock := flock.New(d.PidFile(), flock.SetFlag(os.O_RDONLY))
	free, err := lock.TryRLock()
	if err != nil {
		return false, fmt.Errorf("look at the lock of the pid file: %w", err)
	}
	return !free, lock.Close()
}

// holder returns the pid in the file, if the process of that number has the file open, or the lock on it;
// otherwise 0: then the number is stale, or is just being written.
func (d Dir) holder() int {
	text, err := os.ReadFile(d.PidFile())
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid < 1 {
		return 0
	}
	file, err := os.Stat(d.PidFile())
	if err != nil {
		return 0
	}
	if opened(pid, file) || locks(pid, file) {
		return pid
	}
	return 0
}

// opened reports whether a process has a file open, as far as this user may know.
func opened(pid int, file os.FileInfo) bool {
	descriptors, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		return false
	}
	for _, path := range descriptors {
		if opened, err := os.Stat(path); err == nil && os.SameFile(file, opened) {
			return true
		}
	}
	return false
}

// locks reports whether a process has a lock on a file, by the kernel's list, which is for everyone to read: lines such as
// "1: FLOCK  ADVISORY  WRITE 4159 fe:00:1311 0 EOF" (proc_locks(5)).
func locks(pid int, file os.FileInfo) bool {
	stat, ok := file.Sys().(*syscall.Stat_t)
	if !ok {
		return false
	}
	text, err := os.ReadFile("/proc/locks")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		// The device isn't compared: some file systems tell stat(2) another one.
		if len(f) == 8 && f[1] == "FLOCK" && f[4] == strconv.Itoa(pid) && strings.HasSuffix(f[5], ":"+strconv.FormatUint(stat.Ino, 10)) {
			return true
		}
	}
	return false
}

// ProcessExists reports whether there is a process of that number on this host. One that is dead and not yet reaped counts
// as none. Whose number it is isn't known: use it for what is told, never to send a signal.
func ProcessExists(pid int) bool {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && len(line) > 0
}

func (d Dir) mark() (*StopMark, error) {
	text, err := os.ReadFile(d.path(".stopped"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the mark of a stop: %w", err)
	}
	at, by, _ := strings.Cut(strings.TrimSpace(string(text)), " ")
	m := &StopMark{By: by}
	// A mark that can't be read is a mark all the same.
	m.At, _ = time.Parse(time.RFC3339, at)
	return m, nil
}

// markStopped notes an operator's stop.
func (d Dir) markStopped(m StopMark) error {
	text := m.At.UTC().Format(time.RFC3339) + " " + m.By + "\n"
	if err := WriteFileAtomic(d.path(".stopped"), text); err != nil {
		return fmt.Errorf("leave the mark of a stop: %w", err)
	}
	return nil
}

// markStarted notes that the processor is meant to run, and forgets stops and restarts.
func (d Dir) markStarted(now time.Time) error {
	if err := WriteFileAtomic(d.path(".started"), now.UTC().Format(time.RFC3339)+"\n"); err != nil {
		return fmt.Errorf("leave the mark of a start: %w", err)
	}
	for _, suffix := range []string{".stopped", ".restarts"} {
		if err := os.Remove(d.path(suffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("forget what was before the start: %w", err)
		}
	}
	return nil
}

// WriteFileAtomic replaces a file, so that a reader sees the old text or the new.
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

// control keeps others from starting or stopping the processor meanwhile.
func (d Dir) control(ctx context.Context) (release func() error, err error) {
	if err := os.MkdirAll(string(d), 0o755); err != nil {
		return nil, err
	}
	lock := flock.New(d.path(".control"))
	if _, err := lock.TryLockContext(ctx, 50*time.Millisecond); err != nil {
		return nil, fmt.Errorf("wait for another start or stop of the processor: %w", err)
	}
	return lock.Close, nil
}
