package monitor

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"

	"imagetasks/pkg/supervise"
)

// State is what one round leaves to the next, in the file task-monitor.state.
type State struct {
	LastPass time.Time `json:"round"` // the last whole one
	Summary  string    `json:"summary"`

	SummaryZH string `json:"summary_zh"` // the same in Chinese
	API       API    `json:"api"`
}

func statePath(dir string) string { return filepath.Join(dir, "task-monitor.state") }

// LastState returns what the last round in dir left; false: there was none.
func LastState(dir string) (State, bool) {
	s := readState(dir)
	return s, !s.LastPass.IsZero()
}

// readState reads the state. Where there is none, or it can't be read, the round begins anew: everything is due.
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
		return fmt.Errorf("keep the state of the round: %w", err)
	}
	return nil
}

// ErrPassRunning means that another round is at work on this host.
var ErrPassRunning = errors.New("another round is at work on this host")

// Lock keeps other rounds of this host away until it is released, or returns ErrBusy.
func Lock(dir string) (release func() error, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	lock := flock.New(filepath.Join(dir, "task-monitor.lock"))
	taken, err := lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("lock the round: %w", err)
	}
	if !taken {
		return nil, ErrPassRunning
	}
	return lock.Close, nil
}
