package supervise

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

const (
	// directoryWait is how long the lock on the directory is waited for: programs of others may hold it for their own purposes.
	directoryWait = 5 * time.Second
	// busyNotice is how long another program is waited for before that is said.
	busyNotice = 2 * time.Second
)

// errBusy means that another program starts or stops the processor.
var errBusy = errors.New("another program is starting or stopping the processor")

// control keeps other programs from starting or stopping the processor until release is called. It waits for one that does.
func (d *Daemon) control(ctx context.Context) (release func(), err error) {
	release, err = d.controlWithin(ctx, busyNotice)
	if errors.Is(err, errBusy) {
		if d.OnBusy != nil {
			d.OnBusy()
		}
		release, err = d.controlWithin(ctx, 0)
	}
	return release, err
}

// controlWithin is control that waits for so long, and then returns errBusy; 0: until ctx ends.
//
// Where the lock file can't be opened, the directory itself is locked, which needs no space and no permission to write. Where
// that is not possible either, the processor is started or stopped nevertheless.
func (d *Daemon) controlWithin(ctx context.Context, bound time.Duration) (release func(), err error) {
	_ = os.MkdirAll(string(d.Dir), 0o755)
	f, err := openLockFile(d.Dir.path(".control"), 0o600)
	if err == nil {
		return waitForLock(ctx, f, bound)
	}
	directory, e := os.Open(string(d.Dir))
	if e == nil {
		if release, e = waitForLock(ctx, directory, directoryWait); e == nil {
			return release, nil
		}
	}
	if ctx.Err() != nil {
		return nil, e
	}
	d.warn(NotExclusive, err)
	return func() {}, nil
}

// waitForLock locks a file, and closes it where that fails.
func waitForLock(ctx context.Context, f *os.File, bound time.Duration) (release func(), err error) {
	for began := time.Now(); ; {
		locked, err := tryLock(f, exclusive)
		switch {
		case err == nil && locked:
			return func() { _ = f.Close() }, nil
		case err == nil && bound > 0 && time.Since(began) >= bound:
			err = errBusy
		case err == nil:
			if err = pause(ctx, pollInterval); err == nil {
				continue
			}
			err = fmt.Errorf("wait for another program that starts or stops the processor: %w", err)
		}
		return nil, errors.Join(err, f.Close())
	}
}
