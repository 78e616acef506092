package monitor

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"imagetasks/pkg/inventory"
	"imagetasks/pkg/overview"
	"imagetasks/pkg/supervise"
)

// State is what one pass leaves for the next, in the file task-monitor.state.
type State struct {
	LastPass time.Time         `json:"last_pass"` // the last complete one
	Summary  Summary           `json:"summary"`
	API      overview.APICheck `json:"api"`
	// DatabaseLost is when a pass last found no database, and DatabaseBack when the first one after that found it again.
	DatabaseLost time.Time `json:"database_lost,omitzero"`
	DatabaseBack time.Time `json:"database_back,omitzero"`
	// Pictures is how far the cleaning of this host's picture store is.
	Pictures inventory.Progress `json:"pictures"`
}

// settled reports whether the database has been there for the time of a lease since the last outage that a pass met, and notes its return.
func (s *State) settled(now time.Time, lease time.Duration) bool {
	switch {
	case s.DatabaseLost.IsZero():
		return true
	case s.DatabaseBack.IsZero():
		s.DatabaseBack = now
		return false
	case now.Sub(s.DatabaseBack) < lease:
		return false
	}
	s.DatabaseLost, s.DatabaseBack = time.Time{}, time.Time{}
	return true
}

// NoteOutage notes that the database did not respond, where that was found before a pass. An error means only that the next pass does not
// wait for the owners of leases.
func NoteOutage(dir string) error {
	s := readState(dir)
	s.DatabaseLost, s.DatabaseBack = time.Now(), time.Time{}
	return writeState(dir, s)
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

// Lock keeps other passes on this host from starting until release is called. It returns ErrPassRunning if one is running. Any
// other error means that passes may overlap, which harms nothing: on several hosts they do.
func Lock(dir string) (release func() error, err error) {
	// An error shows when the file is created.
	_ = os.MkdirAll(dir, 0o755)
	lock, err := supervise.TryLock(filepath.Join(dir, "task-monitor.lock"))
	if err != nil {
		return nil, fmt.Errorf("lock the monitor pass: %w", err)
	}
	if lock == nil {
		return nil, ErrPassRunning
	}
	return lock.Close, nil
}
