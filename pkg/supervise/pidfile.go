package supervise

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// lockWait is longer than Inspect holds the lock.
	lockWait = 500 * time.Millisecond
	// keepInterval is the time between two checks whether the pid file is still the one that is locked.
	keepInterval = time.Second
	// keepTries is how many checks in a row must fail before the failure is reported: Inspect may hold the lock for a moment.
	keepTries = 2
)

// PIDLock is the lock of a running processor on its pid file. Until Release it is checked each second that the file of that
// name is the locked one. Where it was deleted or replaced, it is put back.
type PIDLock struct {
	dir    Dir
	report func(error)
	end    context.CancelFunc
	keeper sync.WaitGroup
	file   *os.File // the keeper's while it runs; nil: none could be locked
}

// Lock locks the pid file for this process and writes its pid to it. It returns ErrRunning if another process holds the lock,
// and a *NotAFileError. Any other failure, such as a full disk or a directory that can't be written, keeps no processor from
// running: it is reported to report, and the lock is taken once that is possible. report also gets later failures to keep the
// pid file, once each, and nil when it is in order again; it is called from one goroutine at a time, and may be nil.
func (d Dir) Lock(report func(error)) (*PIDLock, error) {
	if report == nil {
		report = func(error) {}
	}
	l := &PIDLock{dir: d, report: report}
	file, err := d.lockPIDFile()
	_, notAFile := errors.AsType[*NotAFileError](err)
	if errors.Is(err, ErrRunning) || notAFile {
		return nil, err
	}
	if err == nil {
		l.file = file
		if err = writePID(file); err != nil {
			err = fmt.Errorf("the pid could not be written to the pid file, which is locked nevertheless: %w", err)
		}
	}
	failing := err != nil
	if failing {
		report(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	l.end = cancel
	l.keeper.Go(func() { l.keep(ctx, failing && file == nil) })
	return l, nil
}

// lockPIDFile returns the pid file, locked.
func (d Dir) lockPIDFile() (*os.File, error) {
	// An error shows when the file is created.
	_ = os.MkdirAll(string(d), 0o755)
	for deadline := time.Now().Add(lockWait); ; time.Sleep(5 * time.Millisecond) {
		file, err := openLockFile(d.PidFile(), 0o644)
		if err != nil {
			return nil, err
		}
		locked, err := tryLock(file, exclusive)
		if err == nil && locked && d.isPIDFile(file) {
			return file, nil
		}
		_ = file.Close()
		switch {
		case err != nil:
			return nil, err
		case time.Now().After(deadline):
			return nil, ErrRunning
		}
	}
}

// isPIDFile reports whether the pid file is this one, and not another of that name.
func (d Dir) isPIDFile(file *os.File) bool {
	open, err := file.Stat()
	if err != nil {
		return false
	}
	named, err := os.Lstat(d.PidFile())
	return err == nil && os.SameFile(open, named)
}

// writePID writes the pid of this process to a file. A pid that was in it before is gone even if this fails for want of
// space.
func writePID(file *os.File) error {
	if err := file.Truncate(0); err != nil {
		return err
	}
	_, err := file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

// readPID returns the pid in a file, 0 where it contains none.
func readPID(file *os.File) int {
	text, err := io.ReadAll(io.NewSectionReader(file, 0, 64))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid < 1 {
		return 0
	}
	return pid
}

// keep checks the pid file at intervals until ctx ends.
func (l *PIDLock) keep(ctx context.Context, failing bool) {
	tick := time.NewTicker(keepInterval)
	defer tick.Stop()
	for failures := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		switch err := l.check(); {
		case err == nil && failing:
			failing, failures = false, 0
			l.report(nil)
		case err == nil:
			failures = 0
		default:
			if failures++; failures >= keepTries && !failing {
				failing = true
				l.report(err)
			}
		}
	}
}

// check puts the pid file back where it is not the locked one.
func (l *PIDLock) check() error {
	if l.file != nil && l.dir.isPIDFile(l.file) {
		return nil
	}
	info, err := os.Lstat(l.dir.PidFile())
	switch {
	case isMissing(err):
		return l.create()
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return &NotAFileError{l.dir.PidFile(), info.Mode()}
	}
	return l.adopt()
}

// create makes a new pid file. It is locked before it gets its name, so that no other process can lock it first.
func (l *PIDLock) create() error {
	file, err := os.CreateTemp(string(l.dir), "."+base+".pid-")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	locked, err := tryLock(file, exclusive)
	if err == nil && locked {
		_ = file.Chmod(0o644)
		_ = writePID(file) // the lock counts
		if err = os.Link(file.Name(), l.dir.PidFile()); err == nil {
			l.replace(file)
			return nil
		}
	}
	_ = file.Close()
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("another process is creating it: %w", err)
	}
	// The file system has no hard links.
	if file, err = openFile(l.dir.PidFile(), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644); err != nil {
		return err
	}
	return l.lockAndReplace(file)
}

// adopt takes another file of that name for the pid file, unless a process holds the lock on it.
func (l *PIDLock) adopt() error {
	file, err := openLockFile(l.dir.PidFile(), 0o644)
	if err != nil {
		return err
	}
	return l.lockAndReplace(file)
}

func (l *PIDLock) lockAndReplace(file *os.File) error {
	locked, err := tryLock(file, exclusive)
	switch {
	case err != nil:
	case !locked:
		err = fmt.Errorf("%s was replaced by a file on which another process holds the lock; check that only one processor runs on this host with this LOG_DIR",
			l.dir.PidFile())
	case !l.dir.isPIDFile(file):
		err = fmt.Errorf("%s was replaced again", l.dir.PidFile())
	default:
		_ = writePID(file) // the lock counts
		l.replace(file)
		return nil
	}
	return errors.Join(err, file.Close())
}

// replace makes file the locked one.
func (l *PIDLock) replace(file *os.File) {
	if l.file != nil {
		_ = l.file.Close()
	}
	l.file = file
}

// Release empties the pid file and unlocks it. The file stays: if it was removed, two processors could hold locks on two
// files of that name. A second call does nothing.
func (l *PIDLock) Release() error {
	l.end()
	l.keeper.Wait()
	if l.file == nil {
		return nil
	}
	_ = l.file.Truncate(0) // a pid that stays there does not hold the lock, and so does not count
	err := l.file.Close()
	l.file = nil
	return err
}
