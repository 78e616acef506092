package batch_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/batch"
)

// runs records the items of each run, which waits until it is let go.
type runs struct {
	mu    sync.Mutex
	items [][]int
	ended int // runs whose context ended
	let   chan struct{}
}

// run returns ten times each item; negative items fail, each for itself.
func (r *runs) run(ctx context.Context, in []int) ([]batch.Result[int], error) {
	r.mu.Lock()
	r.items = append(r.items, slices.Clone(in))
	r.mu.Unlock()
	select {
	case <-r.let:
	case <-ctx.Done():
		r.mu.Lock()
		defer r.mu.Unlock()
		r.ended++
		return nil, ctx.Err()
	}
	out := make([]batch.Result[int], len(in))
	for i, n := range in {
		out[i].Out = 10 * n
		if n < 0 {
			out[i] = batch.Result[int]{Err: errNegative}
		}
	}
	return out, nil
}

func (r *runs) sizes() (sizes []int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, in := range r.items {
		sizes = append(sizes, len(in))
	}
	return sizes
}

var errNegative = errors.New("negative")

func TestGroup_FirstAtOnceOthersTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &runs{let: make(chan struct{})}
		g := &batch.Group[int, int]{Run: r.run, Max: 5}
		var callers sync.WaitGroup
		call := func(n int) {
			callers.Go(func() {
				out, err := g.Do(t.Context(), n)
				if n < 0 {
					assert.ErrorIs(t, err, errNegative)
					return
				}
				assert.NoError(t, err)
				assert.Equal(t, 10*n, out)
			})
		}
		call(1)
		synctest.Wait()
		assert.Equal(t, []int{1}, r.sizes(), "nothing is waited for")
		for n := range 6 {
			call(n - 1)
		}
		call(7)
		synctest.Wait()
		assert.Equal(t, []int{1}, r.sizes(), "one run at a time")
		r.let <- struct{}{}
		synctest.Wait()
		assert.Equal(t, []int{1, 5}, r.sizes(), "at most Max")
		r.let <- struct{}{}
		r.let <- struct{}{}
		callers.Wait()
		g.Wait()
		assert.Equal(t, []int{1, 5, 2}, r.sizes())
	})
}

func TestGroup_Parallel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &runs{let: make(chan struct{})}
		g := &batch.Group[int, int]{Run: r.run, Parallel: 2}
		var callers sync.WaitGroup
		for n := range 7 {
			callers.Go(func() {
				_, err := g.Do(t.Context(), n)
				assert.NoError(t, err)
			})
			synctest.Wait()
		}
		assert.Equal(t, []int{1, 1}, r.sizes())
		close(r.let)
		callers.Wait()
		g.Wait()
		assert.Equal(t, []int{1, 1, 5}, r.sizes())
	})
}

// A call joins those that wait for a run in progress, and none waits longer than Patience for a run that hangs.
func TestGroup_Patience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const patience = 200 * time.Millisecond
		r := &runs{let: make(chan struct{})}
		g := &batch.Group[int, int]{Run: r.run, Parallel: 2, Patience: patience}
		var callers sync.WaitGroup
		call := func(n int) {
			callers.Go(func() {
				out, err := g.Do(t.Context(), n)
				assert.NoError(t, err)
				assert.Equal(t, 10*n, out)
			})
			synctest.Wait()
		}
		call(1)
		call(2)
		time.Sleep(patience / 2)
		call(3)
		assert.Equal(t, []int{1}, r.sizes())
		time.Sleep(patience / 2)
		synctest.Wait()
		assert.Equal(t, []int{1, 2}, r.sizes(), "the first of those that waited has waited for long enough")
		call(4)
		time.Sleep(10 * patience)
		assert.Equal(t, []int{1, 2}, r.sizes(), "no more than Parallel")
		r.let <- struct{}{}
		synctest.Wait()
		assert.Equal(t, []int{1, 2, 1}, r.sizes())
		close(r.let)
		callers.Wait()
		// A run that ends in time leaves nothing for another one.
		call(5)
		time.Sleep(2 * patience)
		assert.Equal(t, []int{1, 2, 1, 1}, r.sizes())
		g.Wait()
	})
}

// A caller whose context ends leaves, and the others are not affected. A run that nobody waits for any more is cancelled.
func TestGroup_CallerLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &runs{let: make(chan struct{})}
		g := &batch.Group[int, int]{Run: r.run}
		first, leaveFirst := context.WithCancel(t.Context())
		second, leaveSecond := context.WithCancel(t.Context())
		var callers sync.WaitGroup
		call := func(ctx context.Context, n int, want error) {
			callers.Go(func() {
				_, err := g.Do(ctx, n)
				assert.ErrorIs(t, err, want)
			})
			synctest.Wait()
		}
		call(first, 1, context.Canceled)
		call(second, 2, context.Canceled)
		call(t.Context(), 3, nil)
		call(second, 4, context.Canceled)
		leaveSecond()
		synctest.Wait()
		leaveFirst()
		synctest.Wait()
		assert.Equal(t, 1, r.ended)
		close(r.let)
		callers.Wait()
		g.Wait()
		assert.Equal(t, [][]int{{1}, {3}}, r.items, "what had not begun is left out")
		_, err := g.Do(first, 5)
		assert.ErrorIs(t, err, context.Canceled)
		assert.Len(t, r.items, 2)
	})
}

func TestGroup_Abort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &runs{let: make(chan struct{})}
		g := &batch.Group[int, int]{Run: r.run}
		var mu sync.Mutex
		errs := map[int]error{}
		note := func(n int) func(int, error) {
			return func(_ int, err error) {
				mu.Lock()
				defer mu.Unlock()
				errs[n] = err
			}
		}
		g.Go(t.Context(), 1, note(1))
		r.let <- struct{}{}
		synctest.Wait()
		g.Go(t.Context(), 2, note(2))
		synctest.Wait()
		g.Go(t.Context(), 3, note(3))
		assert.Equal(t, map[int]error{1: nil}, errs)
		g.Abort()
		g.Wait()
		_, err := g.Do(t.Context(), 4)
		assert.ErrorIs(t, err, context.Canceled)
		assert.ErrorIs(t, errs[2], context.Canceled)
		assert.ErrorIs(t, errs[3], context.Canceled)
		assert.Equal(t, [][]int{{1}, {2}}, r.items)
	})
}

func TestGroup_Timeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &runs{let: make(chan struct{})}
		g := &batch.Group[int, int]{Run: r.run, Timeout: time.Minute}
		began := time.Now()
		_, err := g.Do(t.Context(), 1)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, time.Minute, time.Since(began))
		g.Wait()
	})
}

// One item that makes the whole run fail is found, and the others succeed.
func TestGroup_SplitsWhereOneItemFailsAll(t *testing.T) {
	bad, other := errors.New("bad item"), errors.New("other")
	for _, c := range []struct {
		split func(error) bool
		fails error
		bad   int // callers with an error
	}{
		{func(err error) bool { return errors.Is(err, bad) }, bad, 1},
		{func(err error) bool { return errors.Is(err, bad) }, other, 9},
		{nil, bad, 9},
	} {
		synctest.Test(t, func(t *testing.T) {
			let := make(chan struct{})
			g := &batch.Group[int, int]{Split: c.split, Run: func(_ context.Context, in []int) ([]batch.Result[int], error) {
				<-let
				if slices.Contains(in, 6) {
					return nil, c.fails
				}
				return make([]batch.Result[int], len(in)), nil
			}}
			var callers sync.WaitGroup
			var mu sync.Mutex
			var failed []int
			for n := range 10 { // 0 runs by itself
				callers.Go(func() {
					if _, err := g.Do(t.Context(), n); err != nil {
						assert.ErrorIs(t, err, c.fails)
						mu.Lock()
						defer mu.Unlock()
						failed = append(failed, n)
					}
				})
				synctest.Wait()
			}
			close(let)
			callers.Wait()
			g.Wait()
			require.Len(t, failed, c.bad)
			assert.Contains(t, failed, 6)
		})
	}
}

func BenchmarkGroup_Do(b *testing.B) {
	g := &batch.Group[int, int]{Run: func(_ context.Context, in []int) ([]batch.Result[int], error) {
		return make([]batch.Result[int], len(in)), nil
	}}
	b.ReportAllocs()
	b.SetParallelism(1000)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := g.Do(b.Context(), 1); err != nil {
				b.Error(err)
			}
		}
	})
	g.Wait()
}
