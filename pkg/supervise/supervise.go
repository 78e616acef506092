// Package supervise starts, stops and restarts the background processor of one host. Whether it is running is decided by the
// lock on its pid file, not by the pid in it: the kernel releases the lock however the process ends, and a pid that was left
// in the file may belong to another program. Where that lock is free, because the file was deleted or could not be made, the
// processor's status address and its heartbeat are asked.
//
// Everything that is written in the directory is best effort: a disk that is full, or a directory that can't be written, is
// reported as a Warning with what follows from it, and keeps nothing from being started or stopped.
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
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
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
	// Unlocked: the lock on the pid file is free, and the processor is known from its status address or its heartbeat only.
	Unlocked bool `json:"-"`
	// Obstacle is a *NotAFileError about the pid file; nil: there is none.
	Obstacle error `json:"-"`
}

// Inspect returns the state of the processor. It locks the pid file for a moment if that is not locked.
func (d Dir) Inspect() (State, error) { return d.inspect(systemKernel{}) }

// kernel is what the system knows about locks.
type kernel interface {
	// holds reports whether the process pid holds the lock on file; known is false where the kernel does not tell.
	holds(pid int, file fs.FileInfo) (holds, known bool)
	// holder returns the pid of the process that holds the lock on file; 0: unknown.
	holder(file fs.FileInfo) int
}

func (d Dir) inspect(k kernel) (State, error) {
	s := State{Stopped: d.stopMark(), Wanted: d.isWanted()}
	file, err := openFile(d.PidFile(), os.O_RDONLY, 0)
	if _, notAFile := errors.AsType[*NotAFileError](err); notAFile {
		s.Obstacle = err
		return s, nil
	}
	if isMissing(err) {
		return s, nil
	}
	if err != nil {
		return s, fmt.Errorf("test the lock on the pid file: %w", err)
	}
	defer file.Close()
	// A shared lock, so that two inspections at the same time do not take each other for the processor.
	free, err := tryLock(file, shared)
	if err != nil {
		return s, fmt.Errorf("test the lock on the pid file: %w", err)
	}
	if free {
		return s, nil
	}
	s.Running = true
	info, err := file.Stat()
	if err != nil {
		return s, err
	}
	s.Since = info.ModTime()
	// A pid that does not hold the lock is stale, or is just being written.
	if pid := readPID(file); pid != 0 {
		if holds, known := k.holds(pid, info); holds || !known {
			s.PID, s.PIDConfirmed = pid, holds
		}
	}
	if s.PID == 0 {
		s.PID = k.holder(info)
		s.PIDConfirmed = s.PID != 0
	}
	// A pid that could not be written leaves the file's time as it was.
	if age, known := ProcessAge(s.PID); known && s.PIDConfirmed {
		if began := time.Now().Add(-age); began.After(s.Since) {
			s.Since = began
		}
	}
	return s, nil
}
