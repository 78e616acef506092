package supervise

import (
	"context"
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

	// Grace is how long a planned stop may take, which lets paid requests finish, before the process is killed; ShortGrace is
	// the same for a stop that cuts them, and for a hung processor.
	Grace, ShortGrace time.Duration
	// Healthy reports whether the process of that pid has a recent heartbeat. It is called repeatedly during a start.
	Healthy func(ctx context.Context, pid int) (bool, error)
	// Find returns the processor of this host and directory that its status address or its heartbeat reports. It is called
	// where the lock on the pid file does not tell which process it is, and must return within a few seconds; nil: none is
	// ever found.
	Find func(ctx context.Context) (Found, bool)
	// StartTimeout is how long a start may take until the processor is healthy; 0: 30s.
	StartTimeout time.Duration
	// Redact is applied to the lines of the log that an error quotes; nil: they are quoted as they are.
	Redact func(string) string

	// Warn is told what could not be written; optional.
	Warn func(Warning)
	// OnWait is called once while a planned stop takes longer than two seconds, with how long it may take; optional.
	OnWait func(atMost time.Duration)
	// OnBusy is called once while another program starts or stops the processor; optional.
	OnBusy func()

	kernel kernel // nil: systemKernel
}

// Found is a processor that its status address or its heartbeat reports.
type Found struct {
	PID     int
	Started time.Time
	Age     time.Duration // of the report
}

// Inspect returns the state of the processor. It locks the pid file for a moment if that is not locked, and then asks Find,
// because the file may have been deleted or replaced.
func (d *Daemon) Inspect(ctx context.Context) (State, error) {
	k := d.kernel
	if k == nil {
		k = systemKernel{}
	}
	state, err := d.Dir.inspect(k)
	if state.PID != 0 || d.Find == nil {
		return state, err
	}
	found, ok := d.Find(ctx)
	switch {
	case !ok:
	case !state.Running:
		state.Running, state.Unlocked, state.PID, state.Since = true, true, found.PID, found.Started
		state.PIDConfirmed = true
		err = nil
	case found.Age <= time.Since(state.Since):
		state.PID, state.PIDConfirmed = found.PID, true
	}
	return state, err
}

func (d *Daemon) warn(effect Effect, err error) {
	if err != nil && d.Warn != nil {
		d.Warn(Warning{Effect: effect, Err: plainError(err)})
	}
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
	release, err := d.control(ctx)
	if err != nil {
		return 0, false, err
	}
	defer release()
	d.warn(NotRevived, d.Dir.markStarted(time.Now()))
	return d.start(ctx)
}

func (d *Daemon) start(ctx context.Context) (pid int, already bool, err error) {
	state, err := d.Inspect(ctx)
	if err != nil {
		return 0, false, err
	}
	if state.Running {
		return state.PID, true, nil
	}
	if state.Obstacle != nil {
		return 0, false, state.Obstacle
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

// openOut opens the file for the output of the processor besides its log; where that is not possible, the output is lost.
func (d *Daemon) openOut() (*os.File, error) {
	path := d.Dir.path(".out")
	_ = os.MkdirAll(filepath.Dir(path), 0o755)
	f, err := openFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		d.warn(OutputLost, err)
		return os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	}
	if info, err := f.Stat(); err == nil && info.Size() > maxOut {
		d.warn(OutputLost, f.Truncate(0))
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
