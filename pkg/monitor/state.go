package monitor

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"

	"imagetasks/pkg/inventory"
	"imagetasks/pkg/overview"
	"imagetasks/pkg/supervise"
)

// State is what one pass leaves for the next, in the file task-monitor.state.
type State struct {
	LastPass time.Time         `json:"last_pass"` // the last complete one
	Summary  Summary           `json:"summary"`
	API      overview.APICheck `json:"api"`
	// Pictures is how far the cleaning of this host's picture store is.
	Pictures inventory.Progress `json:"pictures"`
}

func statePath(dir string) string { return filepath.Join(dir, "task-monitor.state") }

// ReadState returns the state that the last pass left in dir, and false if there was no pass.
func ReadState(dir string) (State, bool) {
	s := readState(dir)
	return s, !s.LastPass.IsZero()
}

// readState reads the state. A missing or unreadable file counts as no state: then every check is due.
func readState(dir string) State {
	var s State
	if text, err := os.ReadFile(statePath(dir)); err == nil {
		if err := json.Unmarshal(text, &s); err != nil {
			return State{}
		}
	}
	return s
}

func writeState(dir string, s State) error {
	text, err := json.Marshal(s)
	if err == nil {
		err = supervise.WriteFileAtomic(statePath(dir), string(text)+"\n")
	}
	if err != nil {
		return fmt.Errorf("write the monitor's state: %w", err)
	}
	return nil
}

// ErrPassRunning means that another pass is running on this host.
var ErrPassRunning = errors.New("another monitor pass is running on this host")

// Lock keeps other passes on this host from starting until release is called. It returns ErrPassRunning if one is running.
func Lock(dir string) (release func() error, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	lock := flock.New(filepath.Join(dir, "task-monitor.lock"))
	locked, err := lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("lock the monitor pass: %w", err)
	}
	if !locked {
		return nil, ErrPassRunning
	}
	return lock.Close, nil
}
