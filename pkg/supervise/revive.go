package supervise

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// MaxRestarts is how often a processor is revived within RestartWindow before that is given up.
const (
	MaxRestarts   = 5
	RestartWindow = time.Hour
)

// CrashLoopError means that the processor was restarted too often to try again.
type CrashLoopError struct {
	Restarts int    // within RestartWindow
	Log      string // where the cause may be found
}

// Error says how often it was restarted, and what to do.
func (e *CrashLoopError) Error() string {
	return fmt.Sprintf("the processor was restarted %d times within an hour and ended each time; check %s, fix the cause, then run: task-processor start",
		e.Restarts, e.Log)
}

// Revive brings a dead processor up again, or ends a hung one first. One that isn't wanted in the background,
// or was started by somebody in the meantime, is left alone: then pid is 0. Every try counts: after MaxRestarts
// within RestartWindow it returns a *CrashLoopError and tries no more until the first of them is that old.
func (d *Daemon) Revive(ctx context.Context, hung bool) (pid int, err error) {
	release, err := d.Dir.control(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, release()) }()
	state, err := d.Dir.Inspect()
	if err != nil {
		return 0, err
	}
	if !state.Wanted || state.Running && !hung {
		return 0, nil
	}
	if err := d.Dir.countRestart(time.Now()); err != nil {
		return 0, err
	}
	if _, err := d.stop(ctx); err != nil {
		return 0, err
	}
	pid, _, err = d.start(ctx)
	return pid, err
}

// Restarts returns when the processor was revived within the window.
func (d Dir) Restarts(now time.Time) ([]time.Time, error) {
	text, err := os.ReadFile(d.path(".restarts"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the restarts: %w", err)
	}
	var all, recent []time.Time
	// A file that can't be read as that is begun anew.
	_ = json.Unmarshal(text, &all)
	for _, at := range all {
		if age := now.Sub(at); age < RestartWindow && age > -RestartWindow {
			recent = append(recent, at)
		}
	}
	return recent, nil
}

func (d Dir) countRestart(now time.Time) error {
	recent, err := d.Restarts(now)
	if err != nil {
		return err
	}
	if len(recent) >= MaxRestarts {
		return &CrashLoopError{Restarts: len(recent), Log: d.Log()}
	}
	text, err := json.Marshal(append(recent, now))
	if err == nil {
		err = WriteFileAtomic(d.path(".restarts"), string(text)+"\n")
	}
	if err != nil {
		return fmt.Errorf("note the restart: %w", err)
	}
	return nil
}
