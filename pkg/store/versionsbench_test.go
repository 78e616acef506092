package store_test

import (
	"database/sql"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/lib/pq"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/store"
)

// BenchmarkVersions claims and completes tasks in turns in two databases of one server: one with the schema of version 8, and one with that of these
// programs. It reports the median time of each, and the second divided by the first.
func BenchmarkVersions(b *testing.B) {
	for _, batch := range []int{1, 20} {
		for _, paused := range []string{"", "model"} {
			b.Run(fmt.Sprintf("batch=%d/paused=%s", batch, paused), func(b *testing.B) { benchVersions(b, batch, paused) })
		}
	}
}

func benchVersions(b *testing.B, batch int, paused string) {
	load, _ := os.ReadFile("/proc/loadavg")
	b.Logf("load %s", load)
	const claim = `select task_id, lease_epoch from imagetasks.claim(gen_random_uuid(), 'bench', $1, 60000, 3, 5, 10, 0, false, null, '{}', null, false,
		'[{"name": "e", "preference": 1, "default": "d"}]', true)`
	const complete = `select count(*) from imagetasks.complete($1, $2, $3, $3, $3, $3, $3)`
	var took [2][]time.Duration
	var claims, completes [2]*sql.Stmt
	for i, version := range []int{8, store.Migrations} {
		s := open(b, server.Empty(b))
		require.NoError(b, s.MigrateTo(b.Context(), version, store.Roles{}))
		s.raw.SetMaxOpenConns(1)
		s.fill(max(b.N*batch, 2000) + 1000)
		if paused != "" && i == 1 {
			s.exec(`update imagetasks.control set pauses = '[{"scope": "model", "name": "other"}]'`)
		}
		var err error
		claims[i], err = s.raw.Prepare(claim)
		require.NoError(b, err)
		completes[i], err = s.raw.Prepare(complete)
		require.NoError(b, err)
	}
	for n := range b.N {
		for k := range 2 {
			i := (n + k) % 2
			began := time.Now()
			rows, err := claims[i].Query(batch)
			require.NoError(b, err)
			var ids, texts []string
			var epochs []int64
			for rows.Next() {
				var id string
				var epoch int64
				require.NoError(b, rows.Scan(&id, &epoch))
				ids, epochs, texts = append(ids, id), append(epochs, epoch), append(texts, "")
			}
			require.NoError(b, rows.Close())
			require.Len(b, ids, batch)
			_, err = completes[i].Exec(pq.Array(ids), pq.Array(epochs), pq.Array(texts))
			require.NoError(b, err)
			took[i] = append(took[i], time.Since(began))
		}
	}
	for i := range took {
		slices.Sort(took[i])
	}
	old, now := took[0][b.N/2], took[1][b.N/2]
	b.ReportMetric(float64(old.Microseconds()), "old-µs")
	b.ReportMetric(float64(now.Microseconds()), "new-µs")
	b.ReportMetric(float64(now)/float64(old), "new/old")
}
