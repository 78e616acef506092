package repair_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/repair"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// stuckTasks are stuck tasks, "user/number", of which some are locked by others.
type stuckTasks struct {
	mu     sync.Mutex
	ids    []string
	locked func(id string) bool
	fails  error
	swept  func(running int)
	// running are the users of the batches that run now.
	running []map[string]bool
	overlap int // how many batches had a user in common with one that was running
	lists   int
}

func (s *stuckTasks) StuckIDs(_ context.Context, w store.Sweep) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lists++
	ids := slices.Clone(s.ids[:min(w.Limit, len(s.ids))])
	slices.Sort(ids)
	return ids, nil
}

func (s *stuckTasks) CountStuck(context.Context, store.Sweep) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.ids), nil
}

func (s *stuckTasks) Sweep(_ context.Context, w store.Sweep) ([]task.Refund, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fails != nil {
		return nil, s.fails
	}
	users := map[string]bool{}
	for _, id := range w.Tasks {
		users[strings.Split(id, "/")[0]] = true
	}
	for _, other := range s.running {
		for user := range users {
			if other[user] {
				s.overlap++
			}
		}
	}
	s.running = append(s.running, users)
	running := len(s.running)
	s.mu.Unlock()
	if s.swept != nil {
		s.swept(running)
	}
	s.mu.Lock()
	s.running = slices.DeleteFunc(s.running, func(u map[string]bool) bool { return fmt.Sprintf("%p", u) == fmt.Sprintf("%p", users) })
	var closed []task.Refund
	var left []string
	wanted := map[string]bool{}
	for _, id := range w.Tasks {
		wanted[id] = true
	}
	for _, id := range s.ids {
		if len(closed) < w.Limit && (w.Tasks == nil || wanted[id]) && (s.locked == nil || !s.locked(id)) {
			closed = append(closed, task.Refund{TaskID: id, Credits: 1})
		} else {
			left = append(left, id)
		}
	}
	s.ids = left
	return closed, nil
}

func (s *stuckTasks) Stuck(context.Context, store.Sweep) ([]task.Refund, error) { return nil, nil }
func (s *stuckTasks) FailOverdue(context.Context, time.Duration, int, uuid.UUID) ([]task.Refund, error) {
	return nil, nil
}
func (s *stuckTasks) FailSetAside(context.Context, time.Duration, int, uuid.UUID) ([]task.Refund, error) {
	return nil, nil
}
func (s *stuckTasks) CountOverdue(context.Context, time.Duration) (int, error) { return 0, nil }

func newStuck(users, each int) *stuckTasks {
	s := &stuckTasks{}
	for i := range each {
		for u := range users {
			s.ids = append(s.ids, fmt.Sprintf("user-%03d/%05d", u, i))
		}
	}
	return s
}

func sweep(ctx context.Context, s *stuckTasks, o repair.Options) (repair.Report, error) {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return repair.Sweep(ctx, s, o, log)
}

// Two batches run at a time, which share a user only where they meet, and each task is closed once.
func TestSweep_BatchesShareNoUser(t *testing.T) {
	s := newStuck(100, 300)
	var first sync.Once
	arrived := make(chan struct{})
	s.swept = func(running int) {
		if running == 2 {
			first.Do(func() { close(arrived) })
		}
		select {
		case <-arrived:
		case <-time.After(10 * time.Second):
		}
	}
	var last int
	done, err := sweep(t.Context(), s, repair.Options{Progress: func(n, total int) {
		assert.Greater(t, n, last)
		assert.Equal(t, 30_000, total)
		last = n
	}})
	require.NoError(t, err)
	assert.Len(t, done.Tasks, 30_000)
	assert.EqualValues(t, 30_000, done.Credits)
	assert.Equal(t, 30_000, last)
	assert.Zero(t, done.Remaining)
	assert.Equal(t, 1, s.lists, "one list for all batches")
	assert.LessOrEqual(t, s.overlap, 2, "only where they meet; a batch leaves out the tasks of a user whose row the other one has locked")
	select {
	case <-arrived:
	default:
		t.Error("no two batches ran at the same time")
	}
}

// Locked tasks are left out; all others are closed, wherever they are in the list.
func TestSweep_LockedTasksAreLeft(t *testing.T) {
	s := newStuck(100, 100)
	s.locked = func(id string) bool { return strings.HasPrefix(id, "user-00") }
	done, err := sweep(t.Context(), s, repair.Options{})
	require.NoError(t, err)
	assert.Len(t, done.Tasks, 9_000)
	assert.Equal(t, 1_000, done.Remaining)
}

// A limit holds for all batches together.
func TestSweep_Limit(t *testing.T) {
	for _, limit := range []int{1, 2_000, 2_001, 7_000} {
		s := newStuck(100, 100)
		done, err := sweep(t.Context(), s, repair.Options{Sweep: store.Sweep{Limit: limit}})
		require.NoError(t, err)
		assert.Len(t, done.Tasks, limit)
		assert.Equal(t, 10_000-limit, done.Remaining)
	}
}

// An interrupted sweep returns what was closed, with what the batches closed that had begun.
func TestSweep_Interrupted(t *testing.T) {
	s := newStuck(100, 1_000)
	ctx, cancel := context.WithCancel(t.Context())
	done, err := sweep(ctx, s, repair.Options{Progress: func(int, int) { cancel() }})
	require.ErrorIs(t, err, context.Canceled)
	assert.LessOrEqual(t, len(done.Tasks), 10_000)
	assert.Equal(t, 100_000, len(done.Tasks)+len(s.ids), "each closed task is reported")
	assert.Equal(t, len(s.ids), done.Remaining)
}

// An error ends the sweep.
func TestSweep_Error(t *testing.T) {
	s := newStuck(100, 100)
	s.fails = errors.New("the server is gone")
	done, err := sweep(t.Context(), s, repair.Options{})
	require.ErrorIs(t, err, s.fails)
	assert.Empty(t, done.Tasks)
}
