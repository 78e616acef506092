package bridgetest

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/appshapes"
	"imagetasks/internal/postgres"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/store"
)

// durable returns a cluster with durable writes, as in production.
func durable(b *testing.B) *postgres.Cluster {
	b.Helper()
	cluster, err := postgres.Start(b.Context(), postgres.Config{Durable: true, Settings: map[string]string{
		"shared_buffers": "256MB", "max_wal_size": "8GB", "autovacuum": "on",
	}})
	require.NoError(b, err)
	b.Cleanup(func() { assert.NoError(b, cluster.Stop()) })
	return cluster
}

// application installs a shape in a database of the cluster.
func application(b *testing.B, cluster *postgres.Cluster, database string, rows appshapes.Rows) *installation {
	b.Helper()
	require.NoError(b, cluster.CreateDatabase(b.Context(), database, ""))
	return installAt(b, appshapes.Named("supabase"), rows, cluster.URL(database))
}

// The application enqueues, by an insert and a charge in one transaction, without and with the bridge, in turns. Nothing reads the inbox.
func BenchmarkApplicationInserts(b *testing.B) {
	const sessions, chunk = 4, 100
	cluster := durable(b)
	rows := appshapes.Rows{Users: 100, History: 1000, Balance: 1_000_000_000}
	plain, bridged := application(b, cluster, "plain", rows), application(b, cluster, "bridged", rows)
	bridged.adopt()
	insert := map[*installation]func(n int) time.Duration{}
	for _, i := range []*installation{plain, bridged} {
		var open []*appshapes.Session
		for range sessions {
			open = append(open, i.session())
		}
		insert[i] = func(n int) time.Duration {
			begun := time.Now()
			var next atomic.Int64
			var inserting sync.WaitGroup
			for s, a := range open {
				inserting.Go(func() {
					for m := next.Add(1); m <= int64(n); m = next.Add(1) {
						// A user of its own for each session: none waits for another one's balance.
						_, _, err := a.Enqueue(b.Context(), i.shape.User(1+s), "a lantern by a river", 0, appshapes.Route{})
						assert.NoError(b, err)
					}
				})
			}
			inserting.Wait()
			return time.Since(begun)
		}
	}
	var without, with time.Duration
	b.ResetTimer()
	for left := b.N; left > 0; left -= chunk {
		n := min(left, chunk)
		without += insert[plain](n)
		with += insert[bridged](n)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(b.N)/without.Seconds(), "inserts/s")
	b.ReportMetric(float64(b.N)/with.Seconds(), "bridged-inserts/s")
	b.ReportMetric(without.Seconds()/with.Seconds(), "ratio")
}

// As many tasks of the application as of our own table are worked, by a worker that takes no time, one after the other. The time of the bridged ones is
// until the application's rows and history have their pictures.
func BenchmarkThroughput(b *testing.B) {
	cluster := durable(b)
	concurrency := func(c *processor.Config) { c.Concurrency = 100 }

	own := application(b, cluster, "own", appshapes.Rows{Users: 1})
	_, err := own.Migrate(b.Context(), store.Roles{})
	require.NoError(b, err)
	_, err = own.GrantCredits(b.Context(), "user", int64(b.N), "bench", "bench")
	require.NoError(b, err)
	for left := b.N; left > 0; left -= 500 {
		_, err = own.Enqueue(b.Context(), store.EnqueueRequest{UserID: "user", Prompt: "a lantern by a river", Cost: 1, Count: min(left, 500)})
		require.NoError(b, err)
	}
	bridged := application(b, cluster, "bridged", appshapes.Rows{Users: 100, Pending: b.N, Balance: 1000})
	bridged.adopt()
	for more := true; more; {
		done, err := bridged.SyncBridge(b.Context(), 500)
		require.NoError(b, err)
		more = done.More
	}

	b.ResetTimer()
	elapsed := map[*installation]time.Duration{}
	for i, left := range map[*installation]string{
		own:     `select count(*) from imagetasks.tasks where status <> 'completed'`,
		bridged: `select count(*) from public.ai_images_creator_tasks where status <> 'completed'`,
	} {
		begun := time.Now()
		stop := i.work(plan{}, concurrency)
		require.Eventually(b, func() bool { return i.number(left) == 0 }, 10*time.Minute, 10*time.Millisecond)
		elapsed[i] = time.Since(begun)
		stop()
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(b.N)/elapsed[own].Seconds(), "tasks/s")
	b.ReportMetric(float64(b.N)/elapsed[bridged].Seconds(), "bridged-tasks/s")
	b.ReportMetric(elapsed[own].Seconds()/elapsed[bridged].Seconds(), "ratio")
}
