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

// Revive restarts a processor at most MaxRestarts times within RestartWindow.
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

// Revive starts a dead processor again; a hung one is stopped first. It does nothing, and returns pid 0, if no processor is
// wanted in the background or another program has started one. Each try counts: after MaxRestarts within RestartWindow it
// returns a *CrashLoopError until the first of them is older than that.
func (d *Daemon) Revive(ctx context.Context, hung bool) (pid int, err error) {
	release, err := d.Dir.control(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, release()) }()
	state, err := d.Inspect()
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

// Restarts returns when the processor was restarted within RestartWindow.
func (d Dir) Restarts(now time.Time) ([]time.Time, error) {
	text, err := os.ReadFile(d.path(".restarts"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the restarts: %w", err)
	}
	var all, recent []time.Time
	// A file that can't be parsed counts as empty.
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
		return fmt.Errorf("record the restart: %w", err)
	}
	return nil
}
