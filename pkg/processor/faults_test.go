package processor_test

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/pgfault"
	"imagetasks/internal/simapi"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// 1,000 claims whose answers are lost use no attempt, and no task fails.
func TestClaim_ThousandAnswersLost(t *testing.T) {
	t.Parallel()
	f, proxy := newFaultFixture(t)
	const tasks, lost = 400, 1000
	_, err := f.Enqueue(t.Context(), store.EnqueueRequest{UserID: f.user, Prompt: "x", Cost: 1, Count: tasks})
	require.NoError(t, err)
	var n atomic.Int64
	injection := proxy.Add(pgfault.Rule{Fault: pgfault.LostFIN, Contains: claimStatement, Times: lost,
		Match: func(string) bool { return n.Add(1)%4 != 0 }})
	content := simapi.Draw("x")
	var stops []func()
	for range 6 {
		stops = append(stops, f.run(f.config(func(c *processor.Config) { c.Concurrency, c.Lease, c.Log = 1, 10*time.Second, nil }), drawing(content)))
	}
	require.Eventually(t, func() bool { return injection.Hits() == lost && f.count(processor.EventCompleted) == tasks }, 3*time.Minute, 20*time.Millisecond)
	for _, stop := range stops {
		stop()
	}
	var unexpected int
	require.NoError(t, f.raw.QueryRow(`select count(*) from imagetasks.tasks
		where status <> 'completed' or attempt_count <> 0 or requests_sent <> 1 or unknown_outcomes <> 0`).Scan(&unexpected))
	assert.Zero(t, unexpected)
	f.requireAudit()
}

// A completion that the database refuses for ten seconds, whatever the reason, is repeated until it is accepted: the picture that was paid
// for is not thrown away.
func TestComplete_RefusedForAWhile(t *testing.T) {
	for _, state := range []string{"28P01", "55P03", "XX000", "42501", "53100", "0A000"} {
		t.Run(state, func(t *testing.T) {
			t.Parallel()
			f, proxy := newFaultFixture(t)
			id := f.enqueue("x")[0]
			injection := proxy.Add(pgfault.Rule{Fault: pgfault.Error, SQLState: state, Contains: completeStatement, For: 10 * time.Second})
			f.run(f.config(func(c *processor.Config) { c.MaxAttempts = 1 }), f.client())
			f.seen(processor.EventCompleted, 1)
			assert.Greater(t, injection.Hits(), 2)
			row := f.row(id)
			assert.Equal(t, task.Completed, row.State)
			assert.EqualValues(t, 1, row.Epoch, "the lease was renewed meanwhile")
			assert.Equal(t, 1, row.RequestsSent)
			assert.Len(t, f.api.Calls(), 1)
			assert.Len(t, f.files(), 1)
			f.requireAudit()
		})
	}
}

// A processor that can't renew its leases says so, claims nothing and starts no paid request; the one that has left runs on.
func TestLeases_CannotBeRenewed(t *testing.T) {
	f, proxy := newFaultFixture(t)
	release := f.api.BlockResponses()
	p := f.processor(f.config(func(c *processor.Config) { c.Lease = 2 * time.Second }), f.client())
	f.start(p)
	first := f.enqueue("first")[0]
	require.Eventually(t, func() bool { return f.api.Busy() == 1 }, time.Minute, time.Millisecond)
	refused := proxy.Add(pgfault.Rule{Fault: pgfault.Error, SQLState: "53200", Contains: renewStatement})
	require.Eventually(t, func() bool {
		return time.Since(p.Status().LeasesFailingSince) > time.Second && !p.Status().LeasesFailingSince.IsZero()
	},
		time.Minute, time.Millisecond)
	others := f.enqueue("second", "third")
	claimed := f.count(processor.EventClaimed)
	require.Eventually(t, func() bool { return refused.Hits() > 8 }, time.Minute, time.Millisecond)
	assert.Equal(t, claimed, f.count(processor.EventClaimed), "nothing is claimed")
	assert.Equal(t, 1, f.api.Busy(), "the paid request runs on")
	release()
	f.seen(processor.EventCompleted, 1)
	assert.Equal(t, task.Completed, f.row(first).State, "its lease had expired, and nobody else has claimed it")
	refused.Remove()
	f.seen(processor.EventCompleted, 3)
	assert.True(t, p.Status().LeasesFailingSince.IsZero())
	for _, id := range append(others, first) {
		assert.Equal(t, 1, f.row(id).RequestsSent)
	}
	f.requireAudit()
}

// Processors that come back after a database was away for longer than STUCK_AFTER finish what they have: a sweep at its return takes nothing that is
// paid for.
func TestSweep_AfterLongOutage(t *testing.T) {
	t.Parallel()
	cluster := ownCluster(t)
	f := newFixtureOn(t, cluster.URL("postgres"))
	release := f.api.BlockResponses()
	ids := f.enqueue("a", "b", "c")
	const lease = 3 * time.Second
	f.run(f.config(func(c *processor.Config) { c.Lease = lease }), f.client())
	require.Eventually(t, func() bool { return f.api.Busy() == 3 }, time.Minute, time.Millisecond)
	require.NoError(t, cluster.Halt())
	release()
	require.Eventually(t, func() bool { return len(f.files()) == 3 }, time.Minute, time.Millisecond)
	time.Sleep(2 * time.Second) // longer than STUCK_AFTER below
	require.NoError(t, cluster.Launch(t.Context()))
	var sweeps sync.WaitGroup
	defer sweeps.Wait()
	sweeps.Go(func() {
		for f.count(processor.EventCompleted) < 3 && t.Context().Err() == nil {
			swept, err := f.Sweep(t.Context(), store.Sweep{OlderThan: time.Second, Limit: 10, AfterStart: lease})
			if err == nil && !assert.Empty(t, swept) {
				return
			}
		}
	})
	f.seen(processor.EventCompleted, 3)
	for _, id := range ids {
		row := f.row(id)
		assert.Equal(t, task.Completed, row.State)
		assert.Zero(t, row.Refunded)
		assert.Equal(t, 1, row.RequestsSent)
	}
	f.requireAudit()
}

// Requests of three leases' length, and 20 planned restarts under load: as many paid requests as pictures.
func TestShutdown_TwentyRestartsUnderLoad(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const tasks, lease = 60, time.Second
	api, err := simapi.Start(simapi.Config{Key: key, Delay: 3 * lease})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, api.Close()) })
	_, err = f.Enqueue(t.Context(), store.EnqueueRequest{UserID: f.user, Prompt: "x", Cost: 1, Count: tasks})
	require.NoError(t, err)
	client := f.clientOf(api)
	conf := f.config(func(c *processor.Config) { c.Lease, c.Concurrency, c.ShutdownGrace = lease, 10, 500*time.Millisecond })
	var stopping sync.WaitGroup
	for n := range 20 {
		stop := f.run(conf, client)
		f.seen(processor.EventClaimed, min(3*(n+1), tasks)) // some of them are in any state of their work
		stopping.Go(stop)
	}
	stopping.Wait()
	f.run(conf, client)
	f.seen(processor.EventCompleted, tasks)
	assert.Len(t, api.Calls(), tasks)
	assert.Len(t, f.files(), tasks)
	var unexpected int
	require.NoError(t, f.raw.QueryRow(`select count(*) from imagetasks.tasks where status <> 'completed' or requests_sent <> 1 or unknown_outcomes <> 0`).Scan(&unexpected))
	assert.Zero(t, unexpected)
	f.requireAudit()
}

// Rows with hostile values: those that the schema accepts complete, or are set aside, failed and refunded. All others complete.
func TestHostileRows_OthersComplete(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	refused := map[string]string{
		"a prompt of 1 MB":     `update imagetasks.tasks set prompt = repeat('x', 1000000) where task_id = $1`,
		"an input of 50 MB":    `insert into imagetasks.inputs (task_id, position, content) values ($1, 1, convert_to(repeat('x', 50000000), 'UTF8'))`,
		"a time of infinity":   `update imagetasks.tasks set run_after = 'infinity' where task_id = $1`,
		"a time of -infinity":  `update imagetasks.tasks set created_at = '-infinity' where task_id = $1`,
		"a cost beyond bigint": `update imagetasks.tasks set credits_cost = 9223372036854775807 where task_id = $1`,
		"an id with a newline": `update imagetasks.tasks set task_id = E'a\nb' where task_id = $1`,
		"an epoch of bigint":   `update imagetasks.tasks set lease_epoch = 9223372036854775807 where task_id = $1`,
		"a balance of bigint":  `update imagetasks.credits set credits = 9223372036854775807 where user_id = (select user_id from imagetasks.tasks where task_id = $1)`,
	}
	accepted := []string{
		`lease_epoch = 1000000000000000`, `attempt_count = 1000000`, `requests_sent = 1000000`, `unknown_outcomes = 1000000`, `lost_claims = 1000000`,
		`slot = 1000000000000000`, `backlog = 1000000000000000000`, `slot = null, backlog = null`, `priority = 9`, `run = 10000`,
		`credits_cost = 1000000000000, credits_deducted = 1000000000000`, `task_id = '../../etc/passwd'`, `task_id = '...'`, `task_id = repeat('ü/', 100)`,
		`options = '{"size": "999999999x1"}'`, `options = '{"extra": {"n": 1e400}}'`, `attempts = '[null, 1, {"epoch": "x"}]'`, `model = repeat('m', 200)`,
		`prompt = repeat('ü', 32000)`, `run_after = '4714-11-24 BC'`, `created_at = '294276-12-31', updated_at = '294276-12-31'`,
		`progress_percentage = 100, current_stage = repeat('s', 100000)`, `user_id = E'\u202E\u0301' || repeat('用', 100)`,
	}
	for name, statement := range refused {
		id := f.enqueue("refused")[0]
		_, err := f.raw.Exec(statement, id)
		assert.Error(t, err, name)
	}
	for _, set := range accepted {
		id := f.enqueue("odd")[0]
		f.exec(`update imagetasks.tasks set `+set+` where task_id = $1`, id)
	}
	_, err := f.Enqueue(t.Context(), store.EnqueueRequest{UserID: f.user, Prompt: "good", Cost: 1, Count: 100})
	require.NoError(t, err)
	f.run(f.config(func(c *processor.Config) { c.Concurrency = 10 }), f.client())
	live := func() (n int) {
		require.NoError(t, f.raw.QueryRow(`select count(*) from imagetasks.tasks where status in ('pending', 'processing')`).Scan(&n))
		return n
	}
	require.Eventually(t, func() bool {
		f.exec(`update imagetasks.tasks set run_after = now() where status = 'pending' and run_after > now()`) // sooner than the backoff
		f.exec(`update imagetasks.set_aside set since = since - interval '1 hour'`)
		_, err := f.FailSetAside(t.Context(), time.Hour, 100, uuidNil)
		assert.NoError(t, err)
		_, err = f.QueueStats(t.Context(), time.Minute)
		assert.NoError(t, err)
		return live() == 0
	}, 90*time.Second, 50*time.Millisecond)
	var good, closed int
	require.NoError(t, f.raw.QueryRow(`select count(*) filter (where prompt = 'good' and status = 'completed'),
		count(*) filter (where status in ('completed', 'failed')) from imagetasks.tasks`).Scan(&good, &closed))
	assert.Equal(t, 100, good)
	assert.Equal(t, 100+len(accepted)+len(refused), closed)
	aside, err := f.TasksAside(t.Context(), 10)
	require.NoError(t, err)
	assert.Empty(t, aside, "they are closed")
	assert.Positive(t, strings.Count(f.log.String(), "completed"))
	// What status and the monitor read.
	f.exec(`insert into imagetasks.ledger (user_id, task_id, run, kind, amount, balance_after)
		select 'u', 'by hand ' || i, 1, 'refund', 9223372036854775807, 0 from generate_series(1, 2) i`)
	f.exec(`update imagetasks.tasks set processing_started_at = '4714-11-24 BC' where task_id = (select min(task_id) from imagetasks.tasks)`)
	for name, read := range map[string]func(context.Context) error{
		"count by state": func(ctx context.Context) error { _, err := f.CountByState(ctx); return err },
		"closed":         func(ctx context.Context) error { _, err := f.ClosedWithin(ctx, time.Hour); return err },
		"failures":       func(ctx context.Context) error { _, err := f.FailuresWithin(ctx, time.Hour); return err },
		"refunds":        func(ctx context.Context) error { _, _, err := f.RefundsToday(ctx); return err },
		"unsettled":      func(ctx context.Context) error { _, err := f.Unsettled(ctx, time.Hour, 100); return err },
		"processors":     func(ctx context.Context) error { _, err := f.Processors(ctx); return err },
		"list":           func(ctx context.Context) error { _, err := f.ListTasks(ctx, store.TaskFilter{Limit: 1000}); return err },
		"audit":          func(ctx context.Context) error { _, err := f.Audit(ctx); return err },
	} {
		assert.NoError(t, read(t.Context()), name)
	}
	_, _, err = f.DeleteUserContent(t.Context(), f.user)
	require.NoError(t, err)
}

// A completion that the database refuses for longer than TASK_TIMEOUT leaves the task as it is: the next claim finds the picture. It is no
// failure of the attempt, also where that is the last one.
func TestComplete_RefusedForLongerThanTaskTimeout(t *testing.T) {
	for _, state := range []string{"42501", "23514"} {
		t.Run(state, func(t *testing.T) {
			t.Parallel()
			f, proxy := newFaultFixture(t)
			id := f.enqueue("x")[0]
			injection := proxy.Add(pgfault.Rule{Fault: pgfault.Error, SQLState: state, Contains: completeStatement, For: 6 * time.Second})
			f.run(f.config(func(c *processor.Config) { c.MaxAttempts, c.TaskTimeout, c.Lease = 1, 2*time.Second, time.Second }), f.client())
			require.Eventually(t, func() bool {
				// What is set aside is tried again after an hour.
				f.exec(`update imagetasks.set_aside set tried_at = now() - interval '2 hours'`)
				return f.row(id).State == task.Completed || f.row(id).State == task.Failed
			}, time.Minute, 50*time.Millisecond)
			assert.Greater(t, injection.Hits(), 2)
			row := f.row(id)
			assert.Equal(t, task.Completed, row.State)
			assert.Equal(t, 1, row.RequestsSent)
			assert.Zero(t, row.Refunded)
			assert.Len(t, f.api.Calls(), 1)
			assert.Len(t, f.files(), 1)
			f.requireAudit()
		})
	}
}
