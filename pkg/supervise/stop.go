package supervise

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

const (
	killTimeout = 10 * time.Second // until a killed process is gone
	cutTimeout  = 10 * time.Second // until a hung processor that was told to cut its requests is gone
	waitNotice  = 2 * time.Second  // after which a planned stop says what it waits for
)

// StopResult is what a stop did.
type StopResult struct {
	WasRunning bool
	PID        int
	Killed     bool // it did not exit within the grace
}

// step is a signal, and how long the process may take to exit after it.
type step struct {
	signal  syscall.Signal
	timeout time.Duration
	notify  bool // OnWait
}

// PlannedStop asks a processor to stop and to let its paid requests finish, as the first SIGTERM or SIGINT does. It may be
// repeated: a second stop command must not cut what the first one waits for.
const PlannedStop = syscall.SIGUSR1

// plannedStop lets paid requests finish.
func (d *Daemon) plannedStop() []step { return []step{{PlannedStop, d.Grace, true}} }

// stopNow cuts paid requests: the processor takes its second SIGTERM or SIGINT for that. It is another signal, because two of a
// kind may arrive as one.
func (d *Daemon) stopNow() []step {
	return []step{{signal: syscall.SIGTERM}, {signal: syscall.SIGINT, timeout: d.ShortGrace}}
}

// stopHung gives a processor that sends no heartbeat the short grace.
func (d *Daemon) stopHung() []step {
	return []step{{signal: syscall.SIGTERM, timeout: d.ShortGrace}, {signal: syscall.SIGINT, timeout: cutTimeout}}
}

// Stop stops the processor with PlannedStop, and with SIGKILL after the grace. Paid requests may finish meanwhile, unless now is
// set: then they are cut. It writes a stop marker with the name by, so that the monitor does not start it again; where no
// processor is running it writes the marker only. With now it does not wait for another program that stops the processor.
func (d *Daemon) Stop(ctx context.Context, by string, now bool) (s StopResult, err error) {
	steps := d.plannedStop()
	if now {
		steps = d.stopNow()
	}
	release, err := d.controlForStop(ctx, now)
	if err != nil {
		return s, err
	}
	defer release()
	// The marker first: a monitor pass in between must not find a dead processor.
	d.warn(MayBeStarted, d.Dir.markStopped(StopMark{At: time.Now(), By: by}))
	return d.stop(ctx, steps)
}

// controlForStop is control, except that with now, where another program is stopping the processor, it cuts the requests for
// which that waits.
func (d *Daemon) controlForStop(ctx context.Context, now bool) (release func(), err error) {
	if !now {
		return d.control(ctx)
	}
	release, err = d.controlWithin(ctx, time.Second)
	if !errors.Is(err, errBusy) {
		return release, err
	}
	if _, err := d.stop(ctx, []step{{signal: syscall.SIGTERM}, {signal: syscall.SIGINT}}); err != nil && !errors.Is(err, errStillRunning) {
		return nil, err
	}
	return d.control(ctx)
}

// ErrNoPID means that a processor is running and its pid is unknown or could not be confirmed, so that it can't be signalled.
var ErrNoPID = errors.New("a processor holds the lock on the pid file, but its pid is unknown or could not be confirmed by its status " +
	"address or heartbeat; it may belong to another user; stop it by hand")

// errStillRunning means that a process did not exit after the last step.
var errStillRunning = errors.New("the process is still running")

// stop takes the steps until the process is gone. If it is not after the last one with a timeout, it is killed.
func (d *Daemon) stop(ctx context.Context, steps []step) (StopResult, error) {
	state, err := d.runningState(ctx)
	if err != nil || !state.Running {
		return StopResult{}, err
	}
	s := StopResult{WasRunning: true, PID: state.PID}
	for _, step := range steps {
		if gone, err := d.signal(ctx, state.PID, step); err != nil || gone {
			return s, err
		}
	}
	if steps[len(steps)-1].timeout == 0 {
		return s, errStillRunning
	}
	s.Killed = true
	gone, err := d.signal(ctx, state.PID, step{signal: syscall.SIGKILL, timeout: killTimeout})
	if err == nil && !gone {
		err = fmt.Errorf("process %d did not exit after SIGKILL", state.PID)
	}
	return s, err
}

// runningState returns the state once the pid of a running processor is confirmed.
func (d *Daemon) runningState(ctx context.Context) (State, error) {
	deadline := time.Now().Add(2 * time.Second)
	for {
		state, err := d.Inspect(ctx)
		if err != nil || !state.Running || state.PIDConfirmed {
			return state, err
		}
		if state.PID != 0 && d.Find != nil {
			if found, ok := d.Find(ctx); ok && found.PID == state.PID && found.Age <= time.Since(state.Since) {
				return state, nil
			}
		}
		if time.Now().After(deadline) {
			return state, ErrNoPID
		}
		if err := pause(ctx, pollInterval); err != nil {
			return state, err
		}
	}
}

// signal takes a step and reports whether the process is gone in time.
func (d *Daemon) signal(ctx context.Context, pid int, s step) (gone bool, err error) {
	process, running, err := d.process(ctx, pid)
	if err != nil || !running {
		return !running, err
	}
	defer process.Release()
	if err := process.Signal(s.signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return false, fmt.Errorf("signal process %d: %w", pid, err)
	}
	began, notified := time.Now(), !s.notify || d.OnWait == nil
	for {
		if d.isGone(pid) {
			return true, nil
		}
		waited := time.Since(began)
		if waited >= s.timeout {
			return false, nil
		}
		if waited >= waitNotice && !notified {
			notified = true
			d.OnWait(s.timeout)
		}
		if err := pause(ctx, min(pollInterval, s.timeout)); err != nil {
			return false, err
		}
	}
}

// process returns the process of the running processor. It is looked up first and its lock is tested again afterwards, so
// that a pid that another program got in between is not signalled (on Linux, FindProcess holds the process by a pidfd).
func (d *Daemon) process(ctx context.Context, pid int) (process *os.Process, running bool, err error) {
	if process, err = os.FindProcess(pid); err != nil {
		return nil, true, fmt.Errorf("process %d: %w", pid, err)
	}
	state, err := d.Inspect(ctx)
	if err == nil && state.Running && state.PID == pid {
		return process, true, nil
	}
	return nil, state.Running, errors.Join(err, process.Release())
}

// isGone reports whether a processor's process has exited. Where its existence is not visible, the lock decides.
func (d *Daemon) isGone(pid int) bool {
	if ProcessExists(pid) {
		return false
	}
	state, err := d.Dir.Inspect()
	return err != nil || !state.Running || state.PID != 0 && state.PID != pid
}

// Restart stops a running processor and starts it again. Paid requests may finish meanwhile, unless now is set. The stop marker
// is removed.
func (d *Daemon) Restart(ctx context.Context, now bool) (pid int, err error) {
	steps := d.plannedStop()
	if now {
		steps = d.stopNow()
	}
	release, err := d.controlForStop(ctx, now)
	if err != nil {
		return 0, err
	}
	defer release()
	if _, err := d.stop(ctx, steps); err != nil {
		return 0, err
	}
	d.warn(NotRevived, d.Dir.markStarted(time.Now()))
	pid, _, err = d.start(ctx)
	return pid, err
}

// ErrNotRunning means that no processor is running.
var ErrNotRunning = errors.New("no processor is running on this host")

// Reload makes the running processor read its env file again, with SIGHUP, and returns its pid.
func (d *Daemon) Reload(ctx context.Context) (pid int, err error) {
	state, err := d.runningState(ctx)
	if err != nil {
		return 0, err
	}
	if !state.Running {
		return 0, ErrNotRunning
	}
	process, running, err := d.process(ctx, state.PID)
	if err != nil {
		return 0, err
	}
	if !running || process == nil {
		return 0, ErrNotRunning
	}
	defer process.Release()
	if err := process.Signal(syscall.SIGHUP); err != nil {
		return 0, fmt.Errorf("signal process %d: %w", state.PID, err)
	}
	return state.PID, nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
