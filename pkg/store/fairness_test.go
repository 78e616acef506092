package store_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/lib/pq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// long reports whether the long form of tests is asked for (CONTRIBUTING.md).
func long() bool { return os.Getenv("IMAGETASKS_LONG") != "" }

// One user's 60 tasks don't make the next user wait for all of them: whether the processors are idle or work already.
func TestClaim_SecondUserStartsSoon(t *testing.T) {
	for _, started := range []int{0, 3, 30} {
		t.Run(fmt.Sprintf("after %d", started), func(t *testing.T) {
			b := fresh(t)
			a, other := b.user(60), b.user(1)
			b.enqueue(a, 60, 1)
			require.Len(t, b.claim(started), started)
			id := b.enqueue(other, 1, 1)[0]
			place := 0
			for i := started + 1; place == 0; i++ {
				tasks := b.claim(1)
				require.Len(t, tasks, 1)
				if tasks[0].ID == id {
					place = i - started
				}
			}
			assert.LessOrEqual(t, place, 4-min(started, 3), "the task is among the first four to start, or the next")
		})
	}
}

// At every point, two users who both have tasks waiting differ by at most two starts, whatever the order of enqueues.
func TestClaim_FairTurns(t *testing.T) {
	b := fresh(t)
	const users, each = 100, 100
	var order []string
	for u := range users {
		user := fmt.Sprint(u)
		_, err := b.GrantCredits(b.ctx, user, each, "", user)
		require.NoError(t, err)
		for range each {
			order = append(order, user)
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	random.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	for chunk := range slices.Chunk(order, 100) {
		b.exec(`select imagetasks.enqueue(u, 'x') from unnest($1::text[]) u`, pq.Array(chunk))
	}
	starts := map[string]int{}
	for u := range users {
		starts[fmt.Sprint(u)] = 0
	}
	for total := 0; total < users*each; {
		// The lease is longer than the test takes on a machine with other work: with a minute, tasks were claimed again.
		tasks, err := b.Claim(b.ctx, store.ClaimRequest{Worker: "w", Limit: 1 + random.IntN(5), Lease: time.Hour, MaxAttempts: 3, Expired: 1000, Alone: true})
		require.NoError(t, err)
		require.NotEmpty(t, tasks)
		for _, tk := range tasks {
			starts[tk.UserID]++
			total++
			least, most := each, 0
			for _, n := range starts {
				if n < each {
					least, most = min(least, n), max(most, n)
				}
			}
			require.LessOrEqual(t, most-least, 2, "after %d starts", total)
		}
	}
}

func TestClaim_StrictPriorityAndRetryKeepsTurn(t *testing.T) {
	b := fresh(t)
	u, v := b.user(20), b.user(20)
	normal := b.enqueue(u, 3, 1)
	urgent, err := b.Enqueue(b.ctx, store.EnqueueRequest{UserID: u, Prompt: "x", Cost: 1, Priority: 5, Count: 2})
	require.NoError(t, err)
	var got []string
	for range 3 {
		got = append(got, b.claim(1)[0].ID)
	}
	assert.Equal(t, []string{urgent.TaskIDs[0], urgent.TaskIDs[1], normal[0]}, got)

	// The retried task goes before tasks of later turns, also of those that were enqueued meanwhile.
	held := b.row(normal[0])
	require.NoError(t, b.Retry(b.ctx, task.Lease{TaskID: normal[0], Epoch: held.Epoch}, 0, errServer))
	b.enqueue(v, 2, 1)
	assert.Equal(t, normal[0], b.claim(1)[0].ID)
}

// A task that is scheduled starts when its time comes, and takes its turn then.
func TestClaim_Scheduled(t *testing.T) {
	b := fresh(t)
	user := b.user(10)
	done, err := b.Enqueue(b.ctx, store.EnqueueRequest{UserID: user, Prompt: "x", Cost: 1, RunAt: time.Now().Add(time.Hour)})
	require.NoError(t, err)
	assert.Equal(t, "time", b.row(done.TaskIDs[0]).WaitsFor)
	assert.Empty(t, b.claim(1))
	wait, found, err := b.NextDue(b.ctx, true)
	require.NoError(t, err)
	require.True(t, found)
	assert.InDelta(t, time.Hour, wait, float64(time.Minute))
	b.enqueue(user, 2, 1)
	b.exec(`update imagetasks.tasks set run_after = now() where task_id = $1`, done.TaskIDs[0])
	tasks := b.claim(3)
	require.Len(t, tasks, 3)
	assert.Equal(t, done.TaskIDs[0], tasks[2].ID, "after the tasks that were due before it")
}

// USER_CONCURRENCY is exact, whatever happens at the same time: enqueues, claims, outcomes, retries, cancels, sweeps.
func TestClaim_UserConcurrencyIsExact(t *testing.T) {
	b := fresh(t)
	const allowed, users, each = 2, 5, 60
	err := b.SetLimits(b.ctx, allowed, 0)
	require.NoError(t, err)
	ids := make([]string, users)
	for u := range users {
		ids[u] = b.user(10 * each)
	}
	stop := make(chan struct{})
	var observer, workers sync.WaitGroup
	observer.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			most := b.number(`select coalesce(max(n), 0) from (select count(*) as n from imagetasks.tasks where status = 'processing' group by user_id) c`)
			active := b.number(`select coalesce(max(n), 0) from (select count(*) as n from imagetasks.tasks
				where status = 'processing' or (status = 'pending' and waits_for is null) group by user_id) c`)
			if !assert.LessOrEqual(t, most, allowed) || !assert.LessOrEqual(t, active, allowed) {
				return
			}
		}
	})
	for w := range 8 {
		random := rand.New(rand.NewPCG(7, uint64(w)))
		workers.Go(func() {
			for range each {
				user := ids[random.IntN(users)]
				_, err := b.Enqueue(b.ctx, store.EnqueueRequest{UserID: user, Prompt: "x", Cost: int64(random.IntN(2)), Count: 1 + random.IntN(2)})
				assert.NoError(t, err)
				tasks, err := b.Claim(b.ctx, store.ClaimRequest{Worker: "w", Limit: 1 + random.IntN(4), Lease: time.Minute, MaxAttempts: 100})
				assert.NoError(t, err)
				for _, tk := range tasks {
					switch random.IntN(6) {
					case 0:
						err = b.Retry(b.ctx, tk.Lease(), time.Duration(random.IntN(3))*time.Millisecond, errServer)
					case 1:
						_, err = b.Release(b.ctx, store.ReleaseRequest{Lease: tk.Lease(), Wait: time.Duration(random.IntN(2)) * time.Millisecond})
					case 2:
						_, err = b.Fail(b.ctx, tk.Lease(), errServer, true)
					case 3:
						_, err = b.Cancel(b.ctx, tk.ID, "")
					default:
						_, err = b.Complete(b.ctx, store.Completion{Lease: tk.Lease()})
					}
					assert.NoError(t, err)
					err = b.Admit(b.ctx, tk.UserID)
					assert.NoError(t, err)
				}
			}
		})
	}
	workers.Wait()
	// What is left can be finished: nothing waits for ever.
	for deadline := time.Now().Add(time.Minute); ; {
		tasks := b.claim(100)
		for _, tk := range tasks {
			requireHeld(t)(b.Complete(b.ctx, store.Completion{Lease: tk.Lease()}))
		}
		err := b.AdmitAll(b.ctx)
		require.NoError(t, err)
		if b.number(`select count(*) from imagetasks.tasks where status in ('pending', 'processing')`) == 0 {
			break
		}
		require.True(t, time.Now().Before(deadline), "tasks are left that nothing admits")
	}
	close(stop)
	observer.Wait()
	b.requireAudit()
}

// Switching USER_CONCURRENCY on or off moves the tasks that wait.
func TestSetLimits_WaitingTasks(t *testing.T) {
	b := fresh(t)
	u, v := b.user(20), b.user(20)
	b.enqueue(u, 10, 1)
	b.enqueue(v, 1, 1)
	processing := b.claim(1)
	require.Len(t, processing, 1)
	err := b.SetLimits(b.ctx, 3, 0)
	require.NoError(t, err)
	q, err := b.QueueStats(b.ctx, time.Minute)
	require.NoError(t, err)
	assert.Equal(t, 7, q.Held)
	assert.Len(t, b.claim(20), 3, "two of the first user, one of the second")
	err = b.SetLimits(b.ctx, 0, 0)
	require.NoError(t, err)
	require.NoError(t, b.AdmitAll(b.ctx))
	assert.Len(t, b.claim(20), 7)
}

// pagesOf returns how many pages a statement touched.
func pagesOf(plan string) int {
	touched := regexp.MustCompile(`Buffers: shared hit=(\d+)(?: read=(\d+))?`).FindStringSubmatch(plan)
	pages := 0
	for i := 1; i < len(touched); i++ {
		n, _ := strconv.Atoi("0" + touched[i])
		pages += n
	}
	return pages
}

// A claim reads as few pages from a queue of millions as from a short one: tasks of a later time and of users at their limit are
// outside its index.
func TestClaim_BuffersStayBounded(t *testing.T) {
	due, later, held := 100_000, 100_000, 20_000
	if long() {
		due, later, held = 1_000_000, 1_000_000, 100_000
	}
	b := fresh(t)
	err := b.SetLimits(b.ctx, 2, 0)
	require.NoError(t, err)
	b.exec(`insert into imagetasks.tasks (task_id, user_id, prompt, waits_for, slot, backlog)
		select 'due-' || i, 'user ' || i % 50000, 'x', null, 1 + i / 50000, 1 from generate_series(1, $1) i`, due)
	b.exec(`insert into imagetasks.tasks (task_id, user_id, prompt, run_after)
		select 'later-' || i, 'user ' || i % 1000, 'x', now() + interval '1 day' from generate_series(1, $1) i`, later)
	b.exec(`insert into imagetasks.tasks (task_id, user_id, prompt, waits_for, slot, backlog, priority)
		select 'held-' || i, 'busy', 'x', 'user', i, i, 9 from generate_series(1, $1) i`, held)
	b.exec(`update imagetasks.tasks set status = 'processing', lease_expires_at = now() + interval '1 hour', processing_started_at = now() where task_id in ('held-1', 'held-2')`)
	b.exec(`vacuum analyze imagetasks.tasks`)
	explain := func() (string, int) {
		plan := b.explainWith("explain (analyze, buffers) ", b.Statement("claim"), uuid.NewString(), "w", 10, 60000, 3, 5, 10, 0, true, nil, pq.Array([]string{}), nil, false,
			`[{"name": "e", "preference": 1}]`, true)
		return plan, pagesOf(plan)
	}
	_, _ = explain() // the first call of a session reads catalogs
	for range 3 {
		plan, pages := explain()
		assert.LessOrEqual(t, pages, 600, "%s", plan)
		t.Log(pages)
	}
	_ = b.explainWith("explain (analyze, buffers) ", b.Statement("admit"), pq.Array([]string{"busy"}), false)
	plan := b.explainWith("explain (analyze, buffers) ", b.Statement("admit"), pq.Array([]string{"busy"}), false)
	assert.LessOrEqual(t, pagesOf(plan), 200, "%s", plan)
}

// RETENTION deletes closed tasks in small batches. The ledger, the audit and tasks that are not closed are intact.
func TestPrune_Retention(t *testing.T) {
	closed := 100_000
	if long() {
		closed = 1_000_000
	}
	b := fresh(t)
	user := b.user(10)
	live := b.enqueue(user, 3, 1)
	b.exec(`insert into imagetasks.tasks (task_id, user_id, prompt, status, credits_cost, credits_deducted, completed_at)
		select 'old-' || i, 'u' || i % 100, 'x', 'completed', 1, 1, now() - interval '100 days' + i * interval '0.5 seconds' from generate_series(1, $1) i`, closed)
	b.exec(`insert into imagetasks.ledger (user_id, kind, amount, balance_after)
		select user_id, 'grant', count(*), count(*) from imagetasks.tasks where task_id like 'old-%' group by user_id`)
	b.exec(`insert into imagetasks.ledger (user_id, task_id, run, kind, amount, balance_after)
		select user_id, task_id, 1, 'charge', -1, count(*) over (partition by user_id) - row_number() over (partition by user_id order by task_id)
		from imagetasks.tasks where task_id like 'old-%' order by user_id, task_id`)
	b.exec(`insert into imagetasks.credits (user_id) select distinct user_id from imagetasks.tasks where task_id like 'old-%'`)
	b.exec(`insert into imagetasks.tasks (task_id, user_id, prompt, status, completed_at) values ('recent', 'u', 'x', 'completed', now() - interval '89 days')`)
	b.exec(`vacuum analyze imagetasks.tasks`)
	b.requireAudit()
	entries := b.number(`select count(*) from imagetasks.ledger`)
	total, longest := 0, time.Duration(0)
	for {
		began := time.Now()
		p, err := b.Prune(b.ctx, store.PruneConfig{Retention: 90 * 24 * time.Hour, RedriveWindow: time.Hour, Batch: 1000})
		require.NoError(t, err)
		longest = max(longest, time.Since(began))
		require.LessOrEqual(t, p.Tasks, 1000)
		total += p.Tasks
		if !p.More(1000) {
			break
		}
	}
	t.Logf("%d tasks, longest batch %s", total, longest)
	assert.Equal(t, closed, total)
	assert.Less(t, longest, 2*time.Second)
	assert.Equal(t, 4, b.number(`select count(*) from imagetasks.tasks`))
	assert.Equal(t, entries, b.number(`select count(*) from imagetasks.ledger`))
	for _, id := range live {
		assert.Equal(t, task.Pending, b.row(id).State)
	}
	b.requireAudit()
}

// Tasks whose refund is owed or whose charge is missing stay, whatever RETENTION says: an audit must find them.
func TestPrune_KeepsUnsettledTasks(t *testing.T) {
	b := fresh(t)
	user := b.user(10)
	ids := b.enqueue(user, 3, 2)
	b.exec(`update imagetasks.tasks set status = 'failed' where task_id = $1`, ids[0])
	b.cancel(ids[1])
	b.exec(`update imagetasks.tasks set status = 'completed' where task_id = $1`, ids[2])
	b.exec(`insert into imagetasks.tasks (task_id, user_id, prompt, status, credits_cost, credits_deducted) values ('uncharged', $1, 'x', 'cancelled', 1, 1)`, user)
	b.exec(`update imagetasks.tasks set completed_at = now() - interval '91 days'`)
	config := store.PruneConfig{Retention: 90 * 24 * time.Hour, RedriveWindow: time.Hour, Batch: 1000}
	p, err := b.Prune(b.ctx, config)
	require.NoError(t, err)
	assert.Equal(t, 2, p.Tasks, "the refunded and the completed one")
	b.exec(`update imagetasks.tasks set completed_at = now()`)
	u, err := b.Unsettled(b.ctx, time.Hour, 10)
	require.NoError(t, err)
	assert.Equal(t, store.Unsettled{MissingCharges: []string{"uncharged"}, OwedRefunds: []string{ids[0]}}, u)

	paid, err := b.RepairRefunds(b.ctx, 10, uuid.Nil)
	require.NoError(t, err)
	require.Len(t, paid, 1)
	_, _, err = b.Resolve(b.ctx, "uncharged", 0, "never paid")
	require.NoError(t, err)
	b.exec(`update imagetasks.tasks set completed_at = now() - interval '91 days'`)
	p, err = b.Prune(b.ctx, config)
	require.NoError(t, err)
	assert.Equal(t, 2, p.Tasks)
	b.requireAudit()
}
