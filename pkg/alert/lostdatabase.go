package alert

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"imagetasks/pkg/finding"
	"imagetasks/pkg/supervise"
)

// fileTimeout bounds how long an LostDatabase waits for the file system.
const fileTimeout = 2 * time.Second

// LostDatabase tells that the database is unavailable, once for each host: what was told is in a file, which the programs of a host share. If the file can't be
// used, each of them tells it once.
type LostDatabase struct {
	dir string

	mu      sync.Mutex
	waiting bool      // for the file system
	memory  lostState // of this process, where the file can't be used
	unsaved bool      // the file has an older state than memory
	seen    time.Time // the last time in a state of this process
}

// NewLostDatabase returns a LostDatabase with its file in dir.
func NewLostDatabase(dir string) *LostDatabase { return &LostDatabase{dir: dir} }

// lostState is what is known of the loss.
type lostState struct {
	Since  time.Time           `json:"since,omitzero"`
	Seen   time.Time           `json:"seen,omitzero"` // last
	Reason string              `json:"reason,omitempty"`
	Told   map[string]lostTold `json:"told,omitempty"` // by receiver
}

// lostTold is what a receiver was told.
type lostTold struct {
	At       time.Time `json:"at,omitzero"` // zero: it could not be told yet
	NextAt   time.Time `json:"next_at,omitzero"`
	Failures int       `json:"failures,omitempty"`
}

func (o *LostDatabase) path(name string) string { return filepath.Join(o.dir, name) }

const (
	lostFile = "task-alerts.state"
	lostLock = "task-alerts.lock"
)

// errBusy means that another process of this host, or a call that hangs, has the file.
var errBusy = errors.New("the file of alerts is in use")

// errHangs means that the file system does not respond.
var errHangs = fmt.Errorf("%w: the file system does not respond", errBusy)

// on does something with the file system, and waits for it at most for fileTimeout. A call that hangs stays until the file system responds, and is
// the only one.
func on[T any](o *LostDatabase, do func() (T, error)) (T, error) {
	var none T
	o.mu.Lock()
	hangs := o.waiting
	o.waiting = true
	o.mu.Unlock()
	if hangs {
		return none, errHangs
	}
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		value, err := do()
		o.mu.Lock()
		o.waiting = false
		o.mu.Unlock()
		done <- result{value, err}
	}()
	timer := time.NewTimer(fileTimeout)
	defer timer.Stop()
	select {
	case r := <-done:
		return r.value, r.err
	case <-timer.C:
		return none, errHangs
	}
}

// change locks the file, lets do change the state, and writes it. Whatever is wrong with the file, do is called, unless another process has the lock.
func (o *LostDatabase) change(do func(*lostState)) error {
	lock, err := on(o, func() (*os.File, error) {
		lock, err := supervise.TryLock(o.path(lostLock))
		if err == nil && lock == nil {
			return nil, errBusy
		}
		return lock, err
	})
	if errors.Is(err, errBusy) && !errors.Is(err, errHangs) {
		return err
	}
	state, readErr := lostState{}, err
	if err == nil {
		defer func() { _, _ = on(o, func() (struct{}, error) { return struct{}{}, lock.Close() }) }()
		state, readErr = on(o, o.read)
	}
	if readErr != nil || o.unsaved && !state.Seen.After(o.seen) {
		state = o.memory
	}
	do(&state)
	o.memory = state
	if state.Seen.After(o.seen) {
		o.seen = state.Seen
	}
	if err == nil {
		_, err = on(o, func() (struct{}, error) { return struct{}{}, o.write(state) })
	}
	o.unsaved = err != nil // memory has it
	return nil
}

func (o *LostDatabase) read() (lostState, error) {
	var s lostState
	text, err := os.ReadFile(o.path(lostFile))
	if errors.Is(err, os.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	return s, err
}

func (o *LostDatabase) write(s lostState) error {
	if s.Since.IsZero() {
		if err := os.Remove(o.path(lostFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	}
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return supervise.WriteFileAtomic(o.path(lostFile), string(text)+"\n")
}

// tell tells the receivers that the database is unavailable, if they have not been told.
func (c Config) tellLost(ctx context.Context, since time.Time, reason string) error {
	return c.LostDatabase.change(func(s *lostState) {
		now := time.Now()
		if s.Since.IsZero() {
			*s = lostState{Since: since, Told: map[string]lostTold{}}
		}
		s.Seen, s.Reason = now, clean(c.Redact(reason), maxReason)
		if s.Told == nil {
			s.Told = map[string]lostTold{}
		}
		items := map[string]Item{}
		for _, r := range c.Receivers {
			told := s.Told[r.Name]
			if !r.wants(finding.DatabaseUnavailable) || now.Before(told.NextAt) || !told.At.IsZero() && now.Sub(told.At) < r.Repeat {
				continue
			}
			items[r.Name] = s.item(c.Host, New, now)
			if !told.At.IsZero() {
				items[r.Name] = s.item(c.Host, Open, now)
			}
		}
		c.sendLost(ctx, s, items)
	})
}

// item returns what a receiver is told about the loss.
func (s *lostState) item(host string, state State, until time.Time) Item {
	return Item{State: state, Severity: finding.DatabaseUnavailable.Severity(), Host: host, Began: s.Since, Until: until,
		Finding: finding.Finding{Code: finding.DatabaseUnavailable, Reason: s.Reason}}
}

// sendLost sends items to receivers by name, all at the same time, and notes the results.
func (c Config) sendLost(ctx context.Context, s *lostState, items map[string]Item) {
	errs := make([]error, len(c.Receivers))
	var running sync.WaitGroup
	for i, r := range c.Receivers {
		if item, ok := items[r.Name]; ok {
			running.Go(func() {
				errs[i] = c.send(ctx, r, Message{Name: c.Name, Host: c.Host, At: time.Now(), Command: c.Command, Items: []Item{item}})
			})
		}
	}
	running.Wait()
	for i, r := range c.Receivers {
		item, ok := items[r.Name]
		told := s.Told[r.Name]
		switch {
		case !ok:
		case errs[i] != nil:
			told.NextAt = time.Now().Add(retryWait(errs[i], told.Failures))
			told.Failures++
			s.Told[r.Name] = told
		case item.State == Resolved:
			delete(s.Told, r.Name)
		default:
			s.Told[r.Name] = lostTold{At: time.Now()}
		}
	}
}

// databaseBack tells those that were told of a loss that it is over. It must be called when the database has responded for a while.
func (c Config) databaseBack(ctx context.Context) error {
	exists, err := on(c.LostDatabase, func() (bool, error) {
		_, err := os.Stat(c.LostDatabase.path(lostFile))
		return err == nil, nil
	})
	if !exists && c.LostDatabase.memory.Since.IsZero() {
		return err
	}
	return c.LostDatabase.change(func(s *lostState) {
		now := time.Now()
		if s.Since.IsZero() || now.Sub(s.Seen) < c.Quiet {
			return // another program of this host has seen it a moment ago
		}
		items := map[string]Item{}
		for name, told := range s.Told {
			if !now.Before(told.NextAt) {
				items[name] = s.item(c.Host, Resolved, s.Seen)
			}
		}
		c.sendLost(ctx, s, items)
		left := 0
		for _, r := range c.Receivers {
			if _, known := s.Told[r.Name]; known {
				left++
			}
		}
		// Receivers that are no longer set are told nothing. One that fails for a day is told nothing, either.
		if left == 0 || now.Sub(s.Seen) > 24*time.Hour {
			*s = lostState{}
		}
	})
}
