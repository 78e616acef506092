package supervise

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds that are the same for everyone.
const (
	DefaultStartTimeout = 30 * time.Second // for a start to become healthy
	killBound           = 10 * time.Second // for the kernel to take a killed process away
	pollEvery           = 50 * time.Millisecond
	maxOut              = 1 << 20 // bytes kept of what the daemon said outside of its log
	tailLines           = 15
)

// Daemon is the background processor of one host. Its methods may be called by many programs at once: they
// wait for each other.
type Daemon struct {
	Dir     Dir
	Program string   // path of task-processor
	Args    []string // that make it run in the background
	Env     []string
	WorkDir string

	Grace time.Duration // that a stop allows before it is firm
	// Healthy reports whether the process of that pid is up and works. It may be asked often.
	Healthy func(ctx context.Context, pid int) (bool, error)
	// StartTimeout is for a start to become healthy; 0: StartBound.
	StartTimeout time.Duration
	// Redact is applied to the log's lines that an error quotes; nil: they are quoted as they are.
	Redact func(string) string
}

// StartError is a start that failed, with the last that the processor said.
type StartError struct {
	Reason string
	Tail   string
}

// Error says why, and quotes the end of the log.
func (e *StartError) Error() string {
	if e.Tail == "" {
		return "the processor did not start: " + e.Reason + "; it said nothing"
	}
	return "the processor did not start: " + e.Reason + "; the last it said:\n" + e.Tail
}

// Start brings the processor up and returns its pid once it is healthy. One that runs already is left as it
// is. The mark of a stop is taken away. A start that fails is a *StartError and leaves nothing running.
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
	state, err := d.Dir.Inspect()
	if err != nil {
		return 0, false, err
	}
	if state.Running {
		return state.PID, true, nil
	}
	said, err := d.openOut()
	if err != nil {
		return 0, false, err
	}
	defer said.Close()
	from := d.ends()
	cmd, err := d.spawn(said)
	if err != nil {
		return 0, false, err
	}
	ended := make(chan struct{})
	// It reaps the daemon, which lives on when this program ends: then it is init's to reap.
	go func() { defer close(ended); _ = cmd.Wait() }()

	bound := d.StartTimeout
	if bound <= 0 {
		bound = DefaultStartTimeout
	}
	waiting, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	for {
		select {
		case <-ended:
			return 0, false, &StartError{Reason: "it ended at once (" + cmd.ProcessState.String() + ")", Tail: d.tail(from)}
		case <-waiting.Done():
			reason := fmt.Sprintf("it was not healthy within %s", bound)
			if ctx.Err() != nil {
				reason = "the start was broken off"
			}
			_ = cmd.Process.Kill()
			<-ended
			return 0, false, &StartError{Reason: reason, Tail: d.tail(from)}
		case <-poll.C:
			// What goes wrong here is a database that is away for a moment; the bound ends it.
			if healthy, err := d.Healthy(waiting, cmd.Process.Pid); err == nil && healthy {
				return cmd.Process.Pid, false, nil
			}
		}
	}
}

// spawn starts the process in a session of its own, with nothing of ours but the environment.
func (d *Daemon) spawn(said *os.File) (*exec.Cmd, error) {
	if err := keepDescriptors(); err != nil {
		return nil, err
	}
	cmd := exec.Command(d.Program, d.Args...)
	cmd.Dir, cmd.Env = d.WorkDir, d.Env
	cmd.Stdout, cmd.Stderr = said, said // stdin is /dev/null
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the processor: %w", err)
	}
	return cmd, nil
}

// keepDescriptors marks all descriptors but the first three as close-on-exec: those that this program
// inherited from a shell or from cron would go on to the daemon otherwise, and keep their pipes and locks.
func keepDescriptors() error {
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("list the open descriptors: %w", err)
	}
	for _, name := range names {
		if fd, err := strconv.Atoi(name.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
	return nil
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

// ends returns where the files end that a start writes to.
func (d *Daemon) ends() map[string]int64 {
	ends := map[string]int64{}
	for _, path := range []string{d.Dir.Log(), d.Dir.path(".out")} {
		if info, err := os.Stat(path); err == nil {
			ends[path] = info.Size()
		}
	}
	return ends
}

// tail returns the last lines that were written since.
func (d *Daemon) tail(since map[string]int64) string {
	var lines []string
	for _, path := range []string{d.Dir.Log(), d.Dir.path(".out")} {
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		from := since[path]
		if info, err := f.Stat(); err == nil && info.Size() < from {
			from = 0 // it was rotated meanwhile
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

// StopResult is what a stop found and did.
type StopResult struct {
	WasRunning bool
	PID        int
	Killed     bool // it did not end within the grace
}

// Stop ends the processor: gracefully, then firmly. It leaves the mark of by, so that the monitor does not
// start it again. One that does not run gets the mark only.
func (d *Daemon) Stop(ctx context.Context, by string) (s StopResult, err error) {
	release, err := d.Dir.control(ctx)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, release()) }()
	// The mark first: a monitor that comes by in between must not take the processor for dead.
	if err := d.Dir.markStopped(StopMark{At: time.Now(), By: by}); err != nil {
		return s, err
	}
	return d.stop(ctx)
}

// ErrNoPID means that the processor runs and its pid can't be told: another user's, say.
var ErrNoPID = errors.New("a processor holds the pid file, but which process that is can't be told; is it another user's?")

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
	gone, err = d.signal(ctx, state.PID, syscall.SIGKILL, killBound)
	if err == nil && !gone {
		err = fmt.Errorf("process %d did not end after SIGKILL", state.PID)
	}
	return s, err
}

// runningState looks until a processor that runs has its pid written.
func (d *Daemon) runningState(ctx context.Context) (State, error) {
	deadline := time.Now().Add(2 * time.Second)
	for {
		state, err := d.Dir.Inspect()
		if err != nil || !state.Running || state.PID != 0 {
			return state, err
		}
		if time.Now().After(deadline) {
			return state, ErrNoPID
		}
		if err := pause(ctx, pollEvery); err != nil {
			return state, err
		}
	}
}

// signal sends a signal to the process that holds the pid file and reports whether it let go in time.
func (d *Daemon) signal(ctx context.Context, pid int, sig syscall.Signal, bound time.Duration) (gone bool, err error) {
	// The process is held first and looked at again afterwards, so that a number that passed on to another
	// program in between is not signalled.
	process, err := os.FindProcess(pid)
	if err != nil {
		return false, fmt.Errorf("process %d: %w", pid, err)
	}
	defer process.Release()
	state, err := d.Dir.Inspect()
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
		if err := pause(ctx, pollEvery); err != nil {
			return false, err
		}
	}
}

// Restart stops a processor that runs and starts it again. The mark of a stop goes.
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
