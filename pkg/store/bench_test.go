package store_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/postgres"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// durable returns a testStore on a cluster with durable writes, as in production.
func durable(b *testing.B) *testStore {
	b.Helper()
	cluster, err := postgres.Start(b.Context(), postgres.Config{Durable: true, Settings: map[string]string{
		"shared_buffers": "256MB", "max_wal_size": "8GB", "autovacuum": "on",
	}})
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, cluster.Stop()) })
	require.NoError(b, migrate(b.Context(), cluster.URL("postgres")))
	return open(b, cluster.URL("postgres"))
}

// fill inserts n charged tasks of 1,000 users, with ids that ascend like those of Enqueue.
func (b *testStore) fill(n int) {
	b.tb.Helper()
	b.exec(`with users as (
			insert into imagetasks.credits (user_id, credits) select gen_random_uuid()::text, 0 from generate_series(1, 1000) returning user_id
		), numbered as (select user_id, row_number() over () - 1 as u from users
		), made as (
			insert into imagetasks.tasks (task_id, user_id, prompt, waits_for, slot, backlog, credits_cost, credits_deducted)
			select to_char(n, 'FM000000000') || right(gen_random_uuid()::text, 27), user_id, 'a lantern by a river', null, 1 + (n - 1) / 1000, 1, 1, 1
			from generate_series(1, $1) n join numbered on u = n % 1000 order by n
			returning task_id, user_id
		), granted as (
			insert into imagetasks.ledger (user_id, kind, amount, balance_after) select user_id, 'grant', count(*), count(*) from made group by user_id
		)
		insert into imagetasks.ledger (user_id, task_id, run, kind, amount, balance_after)
		select user_id, task_id, 1, 'charge', -1, (count(*) over (partition by user_id)) - row_number() over (partition by user_id order by task_id) from made
		order by user_id, task_id`, n)
	b.exec(`vacuum analyze imagetasks.tasks, imagetasks.credits, imagetasks.ledger`)
}

// perSecond reports the number of tasks per second.
func perSecond(b *testing.B, tasks int) {
	b.ReportMetric(float64(tasks)/b.Elapsed().Seconds(), "tasks/s")
}

const refillSize = 100_000 // tasks inserted at a time, outside the measured time

// parallel calls do, which returns the number of tasks it handled, from several goroutines. It calls refill outside the
// measured time before each refillSize tasks.
func parallel(b *testing.B, workers, batch int, refill func(), do func(ctx context.Context) int) {
	b.Helper()
	total := 0
	b.ResetTimer()
	for left := b.N; left > 0; {
		round := min(left, refillSize/batch)
		b.StopTimer()
		refill()
		b.StartTimer()
		total += spread(b, workers, round, do)
		left -= round
	}
	b.StopTimer()
	perSecond(b, total)
}

func spread(b *testing.B, workers, rounds int, do func(ctx context.Context) int) int {
	b.Helper()
	var next, total atomic.Int64
	done := make(chan struct{})
	for range workers {
		go func() {
			for next.Add(1) <= int64(rounds) {
				total.Add(int64(do(b.Context())))
			}
			done <- struct{}{}
		}()
	}
	for range workers {
		<-done
	}
	return int(total.Load())
}

func claimed(s *store.Store, batch int) func(context.Context) ([]task.Task, error) {
	return func(ctx context.Context) ([]task.Task, error) {
		return s.Claim(ctx, store.ClaimRequest{Worker: "bench", Limit: batch, Lease: time.Hour, MaxAttempts: 3, Expired: 1000, Alone: true})
	}
}

func completions(tasks []task.Task) []store.Completion {
	done := make([]store.Completion, len(tasks))
	for i, t := range tasks {
		done[i] = store.Completion{Lease: t.Lease(), ImageURL: t.ID + "-1.png", RequestID: "req_1"}
	}
	return done
}

var batches = []struct{ workers, batch int }{{1, 1}, {4, 1}, {1, 100}, {2, 100}, {4, 100}}

func BenchmarkClaim(b *testing.B) {
	for _, size := range batches {
		b.Run(fmt.Sprintf("workers=%d/batch=%d", size.workers, size.batch), func(b *testing.B) {
			s := durable(b)
			claim := claimed(s.Store, size.batch)
			parallel(b, size.workers, size.batch, func() {
				s.exec(`truncate imagetasks.tasks, imagetasks.inputs, imagetasks.calls cascade`)
				s.fill(refillSize)
			}, func(ctx context.Context) int {
				tasks, err := claim(ctx)
				if err != nil {
					b.Error(err)
				}
				return len(tasks)
			})
		})
	}
}

func BenchmarkComplete(b *testing.B) {
	for _, size := range batches {
		b.Run(fmt.Sprintf("workers=%d/batch=%d", size.workers, size.batch), func(b *testing.B) {
			s := durable(b)
			var claimedBatches [][]task.Task
			var next atomic.Int64
			refill := func() {
				s.exec(`truncate imagetasks.tasks, imagetasks.inputs, imagetasks.calls cascade`)
				s.fill(refillSize)
				tasks, err := claimed(s.Store, refillSize)(b.Context())
				require.NoError(b, err)
				s.exec(`vacuum analyze imagetasks.tasks`)
				claimedBatches = nil
				next.Store(0)
				for ; len(tasks) > 0; tasks = tasks[size.batch:] {
					claimedBatches = append(claimedBatches, tasks[:size.batch])
				}
			}
			parallel(b, size.workers, size.batch, refill, func(ctx context.Context) int {
				held, err := s.Complete(ctx, completions(claimedBatches[next.Add(1)-1])...)
				if err != nil {
					b.Error(err)
				}
				return len(held)
			})
		})
	}
}

func BenchmarkClaimAndComplete(b *testing.B) {
	for _, size := range batches {
		b.Run(fmt.Sprintf("workers=%d/batch=%d", size.workers, size.batch), func(b *testing.B) {
			s := durable(b)
			claim := claimed(s.Store, size.batch)
			parallel(b, size.workers, size.batch, func() {
				s.exec(`truncate imagetasks.tasks, imagetasks.inputs, imagetasks.calls cascade`)
				s.fill(refillSize)
			}, func(ctx context.Context) int {
				tasks, err := claim(ctx)
				if err != nil {
					b.Error(err)
				}
				held, err := s.Complete(ctx, completions(tasks)...)
				if err != nil {
					b.Error(err)
				}
				return len(held)
			})
		})
	}
}

// The baseline of BenchmarkClaimAndComplete: pgbench with prepared statements that claim and complete 100 tasks on the
// same tables, without a Go program.
func BenchmarkPgbenchClaimAndComplete(b *testing.B) {
	const script = `with claimed as (
	update imagetasks.tasks set status = 'processing', attempt_count = attempt_count + 1, lease_epoch = lease_epoch + 1,
		leased_by = 'bench', lease_expires_at = now() + interval '1 hour', processing_started_at = now()
	where task_id = any (array(select task_id from imagetasks.tasks where status = 'pending' and waits_for is null
		order by (- priority), slot, backlog, run_after, task_id limit 100 for update skip locked))
	returning task_id
) select array_agg(task_id) as ids from claimed \gset
update imagetasks.tasks set status = 'completed', lease_expires_at = null, completed_at = now()
where task_id = any (:ids::text[]) and lease_epoch = 1 and status = 'processing';
`
	pgbench, err := exec.LookPath("pgbench")
	if err != nil {
		programs, err := postgres.Find()
		require.NoError(b, err)
		pgbench = filepath.Join(programs, "pgbench")
	}
	file := filepath.Join(b.TempDir(), "claim-and-complete.sql")
	require.NoError(b, os.WriteFile(file, []byte(script), 0o600))
	rate := regexp.MustCompile(`tps = ([0-9.]+)`)
	for _, clients := range []int{1, 2, 4} {
		b.Run(fmt.Sprintf("workers=%d/batch=100", clients), func(b *testing.B) {
			s := durable(b)
			s.fill(refillSize)
			rounds := min(b.N, refillSize/100)
			out, err := exec.CommandContext(b.Context(), pgbench, "--no-vacuum", "--protocol=prepared",
				"--client", fmt.Sprint(clients), "--transactions", fmt.Sprint(max(rounds/clients, 1)), "--file", file, s.url).CombinedOutput()
			require.NoError(b, err, string(out))
			found := rate.FindSubmatch(out)
			require.NotNil(b, found, string(out))
			perSecond, err := strconv.ParseFloat(string(found[1]), 64)
			require.NoError(b, err)
			b.ReportMetric(perSecond*100, "tasks/s")
		})
	}
}

// Each worker enqueues for a different user, because tasks of the same user wait for the lock on the user's row.
func BenchmarkEnqueueWithCharge(b *testing.B) {
	for _, size := range batches {
		b.Run(fmt.Sprintf("workers=%d/batch=%d", size.workers, size.batch), func(b *testing.B) {
			s := durable(b)
			users := make(chan string, size.workers)
			for range size.workers {
				user := uuid.NewString()
				_, err := s.GrantCredits(b.Context(), user, 2_000_000_000, "bench", user)
				require.NoError(b, err)
				users <- user
			}
			parallel(b, size.workers, size.batch, func() {}, func(ctx context.Context) int {
				user := <-users
				defer func() { users <- user }()
				done, err := s.Enqueue(ctx, store.EnqueueRequest{UserID: user, Prompt: "a lantern by a river", Cost: 1, Count: size.batch})
				if err != nil {
					b.Error(err)
				}
				return len(done.TaskIDs)
			})
		})
	}
}

func BenchmarkSweepWithRefund(b *testing.B) {
	for _, size := range []struct{ workers, batch int }{{1, 100}, {4, 100}, {1, 1000}} {
		b.Run(fmt.Sprintf("workers=%d/batch=%d", size.workers, size.batch), func(b *testing.B) {
			s := durable(b)
			refill := func() {
				s.exec(`truncate imagetasks.tasks, imagetasks.inputs, imagetasks.calls cascade`)
				s.fill(refillSize)
				_, err := claimed(s.Store, refillSize)(b.Context())
				require.NoError(b, err)
				s.exec(`update imagetasks.tasks set processing_started_at = now() - interval '1 hour'`)
				s.exec(`vacuum analyze imagetasks.tasks`)
			}
			parallel(b, size.workers, size.batch, refill, func(ctx context.Context) int {
				closed, err := s.Sweep(ctx, store.Sweep{OlderThan: 20 * time.Minute, Limit: size.batch})
				if err != nil {
					b.Error(err)
				}
				return len(closed)
			})
		})
	}
}
