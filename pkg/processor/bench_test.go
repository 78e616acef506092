package processor

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// memoryQueue is a Queue without a database, so that a benchmark measures the engine alone. All calls but those on the path of a task do nothing.
type memoryQueue struct {
	Queue // nil: a call that is not expected panics

	mu        sync.Mutex
	pending   []task.Task
	unstarted int // releases of tasks that were not begun
	done      atomic.Int64
}

func newMemoryQueue(tasks int) *memoryQueue {
	q := &memoryQueue{pending: make([]task.Task, tasks)}
	for i := range q.pending {
		q.pending[i] = task.Task{ID: fmt.Sprintf("task-%08d", i), UserID: "user", Run: 1, Attempt: 1, MaxAttempts: 3, Epoch: 1, Endpoint: "default"}
	}
	return q
}

func (q *memoryQueue) Claim(_ context.Context, c store.ClaimRequest) ([]task.Task, error) {
	time.Sleep(queueDelay)
	q.mu.Lock()
	defer q.mu.Unlock()
	n := min(c.Limit, len(q.pending))
	claimed := q.pending[:n]
	q.pending = q.pending[n:]
	return claimed, nil
}

// queueDelay is the time of a call on the path of a task, so that calls are grouped as with a database.
const queueDelay = 2 * time.Millisecond

func (q *memoryQueue) Complete(_ context.Context, completions ...store.Completion) ([]task.Lease, error) {
	time.Sleep(queueDelay)
	held := make([]task.Lease, len(completions))
	for i, c := range completions {
		held[i] = c.Lease
	}
	q.done.Add(int64(len(completions)))
	return held, nil
}

func (q *memoryQueue) BeginRequests(_ context.Context, starts ...store.RequestStart) ([]store.RequestStarted, error) {
	time.Sleep(queueDelay)
	started := make([]store.RequestStarted, len(starts))
	for i, s := range starts {
		started[i] = store.RequestStarted{Lease: s.Lease, Key: "key"}
	}
	return started, nil
}

func (q *memoryQueue) Release(_ context.Context, released ...store.ReleaseRequest) ([]task.Lease, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	held := make([]task.Lease, len(released))
	for i, r := range released {
		held[i] = r.Lease
		if r.Unstarted {
			q.unstarted++
		}
		q.pending = append(q.pending, task.Task{ID: r.Lease.TaskID, UserID: "user", Run: 1, Attempt: 1, MaxAttempts: 3, Epoch: r.Lease.Epoch + 1, Endpoint: "default"})
	}
	return held, nil
}

func (q *memoryQueue) HasPending(context.Context) (bool, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.pending) > 0, nil
}

func (q *memoryQueue) NextDue(ctx context.Context, _ bool) (time.Duration, bool, error) {
	pending, err := q.HasPending(ctx)
	return 0, pending, err
}

func (q *memoryQueue) RenewLeases(_ context.Context, _ time.Duration, renewals []store.LeaseRenewal) ([]task.Lease, int, error) {
	held := make([]task.Lease, len(renewals))
	for i, r := range renewals {
		held[i] = r.Lease
	}
	return held, 0, nil
}

func (q *memoryQueue) Listen(ctx context.Context, _ func(), _ func(error)) { <-ctx.Done() }

func (q *memoryQueue) WorkedModels(context.Context) ([]store.Model, error) { return nil, nil }

func (q *memoryQueue) FailAbandoned(context.Context, int, time.Duration, int, uuid.UUID) ([]task.Refund, error) {
	return nil, nil
}

func (q *memoryQueue) HasSuspect(context.Context, int) (bool, error) { return false, nil }

func (q *memoryQueue) Control(context.Context) (store.Control, error) { return store.Control{}, nil }

func (q *memoryQueue) AdmitAll(context.Context) error { return nil }

func (q *memoryQueue) TasksAside(context.Context, int) ([]store.AsideTask, error) { return nil, nil }

// noop is a Worker that takes no time.
type noop struct{ paid bool }

func (w noop) Work(ctx context.Context, _ task.Task, c Call) (Result, error) {
	if w.paid {
		if _, err := c.BeforeRequest(ctx); err != nil {
			return Result{}, err
		}
	}
	return Result{URL: "https://example.com/result"}, nil
}

// cpuTime returns the time that this process has used of its CPUs.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// The cost of the engine for one task: claim, work, complete, over a queue that uses no CPU. Use -benchtime=200000x.
func BenchmarkTask(b *testing.B) {
	for _, c := range []struct {
		name        string
		concurrency int
		paid        bool
	}{
		{"InFlight=100", 100, false}, {"InFlight=2000", 2000, false}, {"InFlight=2000,Paid", 2000, true},
	} {
		b.Run(c.name, func(b *testing.B) {
			q := newMemoryQueue(b.N)
			p := New(Config{Worker: "w", Concurrency: c.concurrency}, q, noop{c.paid})
			b.ReportAllocs()
			b.ResetTimer()
			began := cpuTime(b)
			if err := p.RunOnce(b.Context()); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(cpuTime(b)-began)/float64(b.N), "cpu-ns/op") // says more than the time on a machine that does other things, too
			if n := q.done.Load(); n != int64(b.N) {
				b.Fatalf("%d of %d tasks were completed", n, b.N)
			}
		})
	}
}

// Renewals of many leases, apart from the database.
func BenchmarkRenew(b *testing.B) {
	f := newInFlight()
	var attempts []*attempt
	for i := range 4000 {
		attempts = append(attempts, newAttempt(task.Task{ID: fmt.Sprintf("task-%08d", i), Epoch: 1}, time.Now(), nil))
	}
	f.add(attempts, len(attempts))
	r := &leaseRenewer{queue: newMemoryQueue(0), lease: time.Minute, inFlight: f, database: &databaseState{}, events: &eventRecorder{}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.renew(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
