package supervise

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	startTimeout = 30 * time.Second // until a started processor is healthy
	killTimeout  = 10 * time.Second // until a killed process is gone
	pollInterval = 50 * time.Millisecond
	maxOut       = 1 << 20 // bytes of output besides the log that are kept
	tailLines    = 15      // of the log that an error quotes
)

// Daemon is the background processor of one host. Several programs may call its methods at the same time: they wait for each
// other.
type Daemon struct {
	Dir     Dir
	Program string   // path of task-processor
	Args    []string // with which it runs in the background
	Env     []string
	WorkDir string

	Grace time.Duration // between SIGTERM and SIGKILL
	// Healthy reports whether the process of that pid has a recent heartbeat. It is called repeatedly during a start.
	Healthy func(ctx context.Context, pid int) (bool, error)
	// Confirm reports whether a pid that the kernel does not confirm is the running processor's: its status address reports
	// it, or its heartbeat after since. Without it, such a pid is never signalled.
	Confirm func(ctx context.Context, pid int, since time.Time) bool
	// StartTimeout is how long a start may take until the processor is healthy; 0: 30s.
	StartTimeout time.Duration
	// Redact is applied to the lines of the log that an error quotes; nil: they are quoted as they are.
	Redact func(string) string

	holder holderLookup // nil: lockHolder
}

// Inspect returns the state of the processor. It locks the pid file for a moment if that is not locked.
func (d *Daemon) Inspect() (State, error) {
	if d.holder != nil {
		return d.Dir.inspect(d.holder)
	}
	return d.Dir.Inspect()
}

// StartError is a start that failed, with the end of the processor's log.
type StartError struct {
	Reason string
	Tail   string // empty: it logged nothing
}

// Error returns the reason and the end of the log.
func (e *StartError) Error() string {
	if e.Tail == "" {
		return "the processor did not start: " + e.Reason + "; it logged nothing"
	}
	return "the processor did not start: " + e.Reason + "; the end of its log:\n" + e.Tail
}

// Start starts the processor and returns its pid once it is healthy. One that is already running is not changed. The stop
// marker is removed. A start that fails is a *StartError and leaves no process running.
func (d *Daemon) Start(ctx context.Context) (pid int, already bool, err error) {
	release, err := d.Dir.control(ctx)
	if err != nil {
		return 0, false, err
	}
	defer func() { err = errors.Join(err, release()) }()
	if err := d.Dir.markStarted(time.Now()); err != nil {
		return 0, false, err
	}
	return d.start(ctx)
}

func (d *Daemon) start(ctx context.Context) (pid int, already bool, err error) {
	state, err := d.Inspect()
	if err != nil {
		return 0, false, err
	}
	if state.Running {
		return state.PID, true, nil
	}
	out, err := d.openOut()
	if err != nil {
		return 0, false, err
	}
	defer out.Close()
	from := d.logSizes()
	cmd, err := d.spawn(out)
	if err != nil {
		return 0, false, err
	}
	ended := make(chan struct{})
	// It reaps the daemon, which goes on running when this program exits; init reaps it then.
	go func() { defer close(ended); _ = cmd.Wait() }()

	bound := d.StartTimeout
	if bound <= 0 {
		bound = startTimeout
	}
	waiting, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
	for {
		select {
		case <-ended:
			return 0, false, &StartError{Reason: "it exited at once (" + cmd.ProcessState.String() + ")", Tail: d.tail(from)}
		case <-waiting.Done():
			reason := fmt.Sprintf("it was not healthy within %s", bound)
			if ctx.Err() != nil {
				reason = "the start was interrupted"
			}
			_ = cmd.Process.Kill()
			<-ended
			return 0, false, &StartError{Reason: reason, Tail: d.tail(from)}
		case <-poll.C:
			// An error is a database that is unreachable for a moment; the timeout bounds it.
			if healthy, err := d.Healthy(waiting, cmd.Process.Pid); err == nil && healthy {
				return cmd.Process.Pid, false, nil
			}
		}
	}
}

// spawn starts the process in its own session, with the environment and no descriptors of this program.
func (d *Daemon) spawn(out *os.File) (*exec.Cmd, error) {
	closeOnExec()
	cmd := exec.Command(d.Program, d.Args...) //nolint:noctx // the daemon outlives the program that starts it
	cmd.Dir, cmd.Env = d.WorkDir, d.Env
	cmd.Stdout, cmd.Stderr = out, out // stdin is /dev/null
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the processor: %w", err)
	}
	return cmd, nil
}

func (d *Daemon) openOut() (*os.File, error) {
	path := d.Dir.path(".out")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err == nil && info.Size() > maxOut {
		err = f.Truncate(0)
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	return f, nil
}

// logSizes returns the sizes of the files that a start writes to.
func (d *Daemon) logSizes() map[string]int64 {
	sizes := map[string]int64{}
	for _, path := range []string{d.Dir.Log(), d.Dir.path(".out")} {
		if info, err := os.Stat(path); err == nil {
			sizes[path] = info.Size()
		}
	}
	return sizes
}

// tail returns the last lines that were written after the files had these sizes.
func (d *Daemon) tail(since map[string]int64) string {
	var lines []string
	for _, path := range []string{d.Dir.Log(), d.Dir.path(".out")} {
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		from := since[path]
		if info, err := f.Stat(); err == nil && info.Size() < from {
			from = 0 // it was rotated
		}
		text, _ := io.ReadAll(io.NewSectionReader(f, from, maxOut))
		_ = f.Close()
		if trimmed := strings.TrimSpace(string(text)); trimmed != "" {
			lines = append(lines, strings.Split(trimmed, "\n")...)
		}
	}
	text := strings.Join(lines[max(0, len(lines)-tailLines):], "\n")
	if d.Redact != nil {
		text = d.Redact(text)
	}
	return text
}

// StopResult is what a stop did.
type StopResult struct {
	WasRunning bool
	PID        int
	Killed     bool // it did not exit within the grace
}

// Stop stops the processor with SIGTERM, and with SIGKILL after the grace. It writes a stop marker with the name by, so that the
// monitor does not start it again; where no processor is running it writes the marker only.
func (d *Daemon) Stop(ctx context.Context, by string) (s StopResult, err error) {
	release, err := d.Dir.control(ctx)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, release()) }()
	// The marker first: a monitor pass in between must not find a dead processor.
	if err := d.Dir.markStopped(StopMark{At: time.Now(), By: by}); err != nil {
		return s, err
	}
	return d.stop(ctx)
}

// ErrNoPID means that a processor is running and its pid is unknown or could not be confirmed, so that it can't be signalled.
var ErrNoPID = errors.New("a processor holds the lock on the pid file, but its pid is unknown or could not be confirmed by its status " +
	"address or heartbeat; it may belong to another user; stop it by hand")

func (d *Daemon) stop(ctx context.Context) (StopResult, error) {
	state, err := d.runningState(ctx)
	if err != nil || !state.Running {
		return StopResult{}, err
	}
	s := StopResult{WasRunning: true, PID: state.PID}
	gone, err := d.signal(ctx, state.PID, syscall.SIGTERM, d.Grace)
	if err != nil || gone {
		return s, err
	}
	s.Killed = true
	gone, err = d.signal(ctx, state.PID, syscall.SIGKILL, killTimeout)
	if err == nil && !gone {
		err = fmt.Errorf("process %d did not exit after SIGKILL", state.PID)
	}
	return s, err
}

// runningState returns the state once a running processor has written its pid, which is confirmed.
func (d *Daemon) runningState(ctx context.Context) (State, error) {
	deadline := time.Now().Add(2 * time.Second)
	for {
		state, err := d.Inspect()
		if err != nil || !state.Running || state.PIDConfirmed {
			return state, err
		}
		if state.PID != 0 && d.Confirm != nil && d.Confirm(ctx, state.PID, state.Since) {
			return state, nil
		}
		if time.Now().After(deadline) {
			return state, ErrNoPID
		}
		if err := pause(ctx, pollInterval); err != nil {
			return state, err
		}
	}
}

// signal sends a signal to the process that holds the lock and reports whether the lock was released in time.
func (d *Daemon) signal(ctx context.Context, pid int, sig syscall.Signal, bound time.Duration) (gone bool, err error) {
	// The process is looked up first and its lock is tested again afterwards, so that a pid that another program got in
	// between is not signalled (on Linux, FindProcess holds the process by a pidfd).
	process, err := os.FindProcess(pid)
	if err != nil {
		return false, fmt.Errorf("process %d: %w", pid, err)
	}
	defer process.Release()
	state, err := d.Inspect()
	if err != nil {
		return false, err
	}
	if !state.Running || state.PID != pid {
		return !state.Running, nil
	}
	if err := process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return false, fmt.Errorf("signal process %d: %w", pid, err)
	}
	deadline := time.Now().Add(bound)
	for {
		if locked, err := d.Dir.locked(); err != nil || !locked {
			return err == nil, err
		}
		if time.Now().After(deadline) {
			return false, nil
		}
		if err := pause(ctx, pollInterval); err != nil {
			return false, err
		}
	}
}

// Restart stops a running processor and starts it again. The stop marker is removed.
func (d *Daemon) Restart(ctx context.Context) (pid int, err error) {
	release, err := d.Dir.control(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, release()) }()
	if _, err := d.stop(ctx); err != nil {
		return 0, err
	}
	if err := d.Dir.markStarted(time.Now()); err != nil {
		return 0, err
	}
	pid, _, err = d.start(ctx)
	return pid, err
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
