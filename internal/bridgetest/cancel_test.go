package bridgetest

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/appshapes"
	"imagetasks/pkg/processor"
)

// Tasks are cancelled and refunded by the application at random moments while they are worked, fail and are swept: each that is not completed is
// refunded once, by one side.
func TestCancel_RandomMoments(t *testing.T) {
	t.Parallel()
	shape := appshapes.Named("supabase")
	const tasks, sessions = 1000, 8
	i := install(t, shape, appshapes.Rows{Users: users, History: 10, Pending: tasks, Balance: 1_000_000})
	i.stuck = 500 * time.Millisecond
	i.adopt()
	before := i.view(users)
	var keys []string
	for key, seen := range before.tasks {
		if seen.State == "pending" {
			keys = append(keys, key)
		}
	}
	require.Len(t, keys, tasks)
	slices.Sort(keys)
	// Half of them are cancelled at any time, the others soon after their work has begun.
	anyTime, whileWorked := make(chan string, tasks), make(chan string, tasks)
	rand.New(rand.NewPCG(7, 7)).Shuffle(tasks, func(a, b int) { keys[a], keys[b] = keys[b], keys[a] })
	begun := map[string]*sync.Once{}
	for n, key := range keys {
		if n%2 == 0 {
			anyTime <- key
		} else {
			begun[key] = new(sync.Once)
		}
	}
	i.work(plan{wait: 20 * time.Millisecond, fail: failsSome, hang: func(id string) bool { return share(id) == 2 }, began: func(id string) {
		if first := begun[id]; first != nil {
			first.Do(func() { whileWorked <- id })
		}
	}}, func(c *processor.Config) { c.Concurrency = 20 })

	var mu sync.Mutex
	refunds := map[string]int{} // by the application
	var working sync.WaitGroup
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for n := range sessions {
		a := i.session()
		random := rand.New(rand.NewPCG(7, uint64(n)))
		source, longest := anyTime, 120
		if n%2 > 0 {
			source, longest = whileWorked, 60
		}
		working.Go(func() {
			for range tasks / sessions {
				var key string
				select {
				case key = <-source:
				case <-ctx.Done():
					assert.Fail(t, "the work has not begun on all tasks")
					return
				}
				user := before.users[key]
				wait(ctx, time.Duration(random.IntN(longest))*time.Millisecond)
				// Additions, so that the application loses no update of its own.
				_, cancelled, err := a.Cancel(ctx, user, key, 1, appshapes.Route{BalanceFirst: random.IntN(2) == 0, Separate: random.IntN(2) == 0})
				assert.NoError(t, err)
				// The support refunds what has failed, if nobody did.
				_, refunded, err := a.Refund(ctx, user, key, 1, appshapes.Route{BalanceFirst: random.IntN(2) == 0})
				assert.NoError(t, err)
				mu.Lock()
				refunds[key] = len(cancelled) + len(refunded)
				mu.Unlock()
			}
		})
	}
	// On a busy machine a task may be stuck, here after half a second, before its work begins.
	neverBegan := 0
	done := make(chan struct{})
	go func() {
		working.Wait()
		close(done)
	}()
	for waiting := true; waiting; {
		select {
		case <-done:
			waiting = false
		case <-time.After(100 * time.Millisecond):
			for id := range i.texts(`select task_id, '' from imagetasks.tasks where error_code = 'stuck'`) {
				if first := begun[id]; first != nil {
					first.Do(func() { neverBegan++; whileWorked <- id })
				}
			}
		}
	}
	assert.Less(t, neverBegan, tasks/20, "stuck before their work began")
	i.drained(time.Minute)

	after := i.view(users)
	ours := i.texts(`select task_id, count(*)::text from imagetasks.ledger where kind = 'refund' and external and reason like 'task %' group by task_id`)
	counts, gained := map[string]int{}, map[string]int64{}
	for _, key := range keys {
		if n, ok := ours[key]; ok {
			assert.Equal(t, "1", n)
			counts["refunded by the bridge"]++
			refunds[key]++
		}
		gained[before.users[key]] += int64(refunds[key])
		seen := after.tasks[key]
		counts[seen.State]++
		switch seen.State {
		case "completed":
			assert.Zero(t, refunds[key], key)
		case "failed", "cancelled":
			assert.Equal(t, 1, refunds[key], "%s %+v", key, seen)
			assert.True(t, seen.Refunded, key)
		default:
			assert.Fail(t, "a task is live", "%s %+v", key, seen)
		}
	}
	for user, balance := range after.balances {
		assert.Equal(t, before.balances[user]+gained[user], balance, user)
	}
	counts["swept"] = int(i.number(`select count(*) from imagetasks.tasks where error_code = 'stuck'`))
	t.Logf("%v", counts)
	for _, kind := range []string{"completed", "failed", "cancelled", "refunded by the bridge", "swept"} {
		assert.Positive(t, counts[kind], kind)
	}
	assert.Empty(t, i.differences())
}
