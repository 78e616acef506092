package processor

import (
	"context"
	"time"

	"imagetasks/pkg/batch"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// Writes about many tasks at a time, each by one statement.
type (
	completionGroup = *batch.Group[store.Completion, struct{}]
	releaseGroup    = *batch.Group[store.ReleaseRequest, struct{}]
	requestGroup    = *batch.Group[store.RequestStart, store.RequestStarted]
)

// group is one of these.
type group interface {
	Abort()
	Wait()
}

// The bounds of a group.
const (
	groupSize = 500
	// While a group is being written whose connection is silent, or that waits for a row that somebody else has locked, another can be.
	groupsAtOnce  = 2
	groupPatience = 200 * time.Millisecond
)

func newCompletionGroup(queue Queue) completionGroup {
	return newGroup(func(ctx context.Context, in []store.Completion) ([]batch.Result[struct{}], error) {
		held, err := queue.Complete(ctx, in...)
		return heldOnly(in, held, err, func(c store.Completion) task.Lease { return c.Lease })
	})
}

func newReleaseGroup(queue Queue) releaseGroup {
	return newGroup(func(ctx context.Context, in []store.ReleaseRequest) ([]batch.Result[struct{}], error) {
		held, err := queue.Release(ctx, in...)
		return heldOnly(in, held, err, func(r store.ReleaseRequest) task.Lease { return r.Lease })
	})
}

func newRequestGroup(queue Queue) requestGroup {
	return newGroup(func(ctx context.Context, in []store.RequestStart) ([]batch.Result[store.RequestStarted], error) {
		started, err := queue.BeginRequests(ctx, in...)
		if err != nil {
			return nil, err
		}
		return matched(in, started, func(r store.RequestStart) task.Lease { return r.Lease }, func(r store.RequestStarted) task.Lease { return r.Lease }), nil
	})
}

func newGroup[In, Out any](run func(context.Context, []In) ([]batch.Result[Out], error)) *batch.Group[In, Out] {
	return &batch.Group[In, Out]{Run: run, Max: groupSize, Parallel: groupsAtOnce, Patience: groupPatience, Timeout: writeTimeout,
		Split: func(err error) bool { return store.IsRowError(err) || store.IsLockTimeout(err) }}
}

// heldOnly returns task.ErrLeaseLost for those of in whose leases are not held.
func heldOnly[In any](in []In, held []task.Lease, err error, leaseOf func(In) task.Lease) ([]batch.Result[struct{}], error) {
	if err != nil {
		return nil, err
	}
	if len(held) == len(in) {
		return make([]batch.Result[struct{}], len(in)), nil
	}
	found := matched(in, held, leaseOf, func(l task.Lease) task.Lease { return l })
	results := make([]batch.Result[struct{}], len(in))
	for i := range found {
		results[i].Err = found[i].Err
	}
	return results, nil
}

// matched returns the element of out with the same lease for each of in, and task.ErrLeaseLost where there is none.
func matched[In, Out any](in []In, out []Out, leaseOf func(In) task.Lease, leaseOfOut func(Out) task.Lease) []batch.Result[Out] {
	byLease := make(map[task.Lease]int, len(out))
	for i := range out {
		byLease[leaseOfOut(out[i])] = i
	}
	results := make([]batch.Result[Out], len(in))
	for i := range in {
		if n, ok := byLease[leaseOf(in[i])]; ok {
			results[i].Out = out[n]
		} else {
			results[i].Err = task.ErrLeaseLost
		}
	}
	return results
}
