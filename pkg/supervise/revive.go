package supervise

import (
	"context"
	"encoding/json"
	"fmt"
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

// reviveWait is how long Revive waits for another program that starts or stops the processor; a start takes less.
const reviveWait = time.Minute

// Revive starts a dead processor again; a hung one is stopped first, with the short grace. It does nothing, and returns pid 0, if
// no processor is wanted in the background or another program has started one. Each try counts: after MaxRestarts within
// RestartWindow it returns a *CrashLoopError until the first of them is older than that.
func (d *Daemon) Revive(ctx context.Context, hung bool) (pid int, err error) {
	release, err := d.controlWithin(ctx, reviveWait)
	if err != nil {
		return 0, err
	}
	defer release()
	state, err := d.Inspect(ctx)
	if err != nil {
		return 0, err
	}
	if !state.Wanted || state.Running && !hung {
		return 0, nil
	}
	if err := d.countRestart(time.Now()); err != nil {
		return 0, err
	}
	if _, err := d.stop(ctx, d.stopHung()); err != nil {
		return 0, err
	}
	pid, _, err = d.start(ctx)
	return pid, err
}

// Restarts returns when the processor was restarted within RestartWindow. A file that can't be read counts as empty.
func (d Dir) Restarts(now time.Time) []time.Time {
	text, err := os.ReadFile(d.path(".restarts"))
	if err != nil {
		return nil
	}
	var all, recent []time.Time
	// So does one that can't be parsed.
	_ = json.Unmarshal(text, &all)
	for _, at := range all {
		if age := now.Sub(at); age < RestartWindow && age > -RestartWindow {
			recent = append(recent, at)
		}
	}
	return recent
}

// countRestart records a restart, or returns a *CrashLoopError.
func (d *Daemon) countRestart(now time.Time) error {
	recent := d.Dir.Restarts(now)
	if len(recent) >= MaxRestarts {
		return &CrashLoopError{Restarts: len(recent), Log: d.Dir.Log()}
	}
	text, err := json.Marshal(append(recent, now))
	if err == nil {
		err = WriteFileAtomic(d.Dir.path(".restarts"), string(text)+"\n")
	}
	d.warn(RestartsNotCounted, err)
	return nil
}
