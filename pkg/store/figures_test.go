package store_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// mixedLoad leaves tasks in every state, which arrived and were closed within the last hour and a half, with what was charged and refunded for them.
func (b *testStore) mixedLoad() {
	b.tb.Helper()
	users := []string{b.user(200), b.user(200)}
	random := rand.New(rand.NewPCG(7, 7))
	var claimed []task.Task
	for range 300 {
		err := act(b, random, users[random.IntN(len(users))], &claimed)
		if err != nil && !errors.Is(err, task.ErrLeaseLost) && !errors.Is(err, task.ErrWrongState) && !errors.Is(err, task.ErrInsufficientCredits) {
			require.NoError(b.tb, err)
		}
	}
	_, err := b.Enqueue(b.ctx, store.EnqueueRequest{UserID: users[0], Prompt: "later", RunAt: time.Now().Add(time.Hour), Count: 3})
	require.NoError(b.tb, err)
	b.exec(`update imagetasks.tasks set created_at = created_at - mod(hashtext(task_id)::bigint + 2147483648, 5400) * interval '1 second',
		error_code = case when status = 'failed' and hashtext(task_id) % 3 = 0 then 'moderation_blocked' else error_code end`)
	b.exec(`update imagetasks.tasks set completed_at = created_at + (now() - created_at) * 0.8, processing_started_at = created_at + (now() - created_at) * 0.3
		where completed_at is not null`)
	b.exec(`begin; set local session_replication_role = replica;
		update imagetasks.ledger set created_at = created_at - mod(id * 7919, 5400) * interval '1 second'; commit`)
}

// jsonOf returns the rows of a query as a JSON array.
func (b *testStore) jsonOf(statement string, args ...any) string {
	b.tb.Helper()
	var text string
	require.NoError(b.tb, b.raw.QueryRowContext(b.ctx, `select coalesce(jsonb_agg(to_jsonb(q)), '[]') from (`+statement+`) q`, args...).Scan(&text))
	return text
}

// figuresByHand computes the figures of minutes another way: minute by minute, with plain conditions on the tables.
const figuresByHand = `
	select m as minute,
		(select count(*) from imagetasks.tasks where created_at >= m and created_at < m + interval '1 minute') as arrived,
		(select count(*) from imagetasks.tasks where status = 'completed' and completed_at >= m and completed_at < m + interval '1 minute') as completed,
		(select count(*) from imagetasks.tasks where status = 'failed' and completed_at >= m and completed_at < m + interval '1 minute') as failed,
		(select count(*) from imagetasks.tasks where status = 'cancelled' and completed_at >= m and completed_at < m + interval '1 minute') as cancelled,
		(select coalesce(sum(- amount), 0) from imagetasks.ledger where kind = 'charge' and created_at >= m and created_at < m + interval '1 minute') as charged,
		(select coalesce(sum(amount), 0) from imagetasks.ledger where kind = 'refund' and created_at >= m and created_at < m + interval '1 minute') as refunded,
		(select (percentile_cont(0.5) within group (order by extract(epoch from completed_at - processing_started_at) * 1000))::bigint
		 from imagetasks.tasks where status = 'completed' and completed_at >= m and completed_at < m + interval '1 minute') as p50_ms,
		(select (percentile_cont(0.95) within group (order by extract(epoch from completed_at - processing_started_at) * 1000))::bigint
		 from imagetasks.tasks where status = 'completed' and completed_at >= m and completed_at < m + interval '1 minute') as p95_ms
	from generate_series((select min(minute) from imagetasks.figures), (select max(minute) from imagetasks.figures), interval '1 minute') m
	order by m`

const recordedFigures = `select minute, arrived, completed, failed, cancelled, charged, refunded, p50_ms, p95_ms from imagetasks.figures order by minute`

func TestRecordFigures_EqualTheTables(t *testing.T) {
	t.Parallel()
	b := fresh(t)
	b.mixedLoad()
	through, err := b.RecordFigures(b.ctx, 2*time.Hour)
	require.NoError(t, err)
	assert.WithinDuration(t, time.Now(), through, 75*time.Second)
	minutes := b.number(`select count(*) from imagetasks.figures`)
	assert.GreaterOrEqual(t, minutes, 119)
	assert.JSONEq(t, b.jsonOf(figuresByHand), b.jsonOf(recordedFigures))
	for _, column := range []string{"arrived", "completed", "failed", "cancelled", "charged", "refunded", "p95_ms"} {
		assert.Positive(t, b.number(`select count(*) from imagetasks.figures where `+column+` > 0`), "the load has some: %s", column)
	}
	// The state of the queue is known of the last minute only.
	assert.Equal(t, 1, b.number(`select count(*) from imagetasks.figures where due is not null`))
	q, err := b.QueueStats(b.ctx, time.Hour)
	require.NoError(t, err)
	assert.Equal(t, fmt.Sprintf("%d %d", q.Due, q.Processing), b.text(`select concat_ws(' ', due, processing) from imagetasks.figures where due is not null`))
	assert.InDelta(t, q.OldestDue.Seconds(), float64(b.number(`select oldest_due_ms from imagetasks.figures where due is not null`))/1000, 60)

	// All failures of the recorded time have their cause, and examples that failed for it.
	groups, err := b.FailureFigures(b.ctx, time.Now().Add(-3*time.Hour))
	require.NoError(t, err)
	require.Len(t, groups, b.number(`select count(distinct coalesce(error_code, '')) from imagetasks.tasks where status = 'failed' and completed_at < $1`, through))
	for _, g := range groups {
		assert.Equal(t, b.number(`select count(*) from imagetasks.tasks where status = 'failed' and error_code = $1 and completed_at < $2`, string(g.Code), through), g.Count, g.Code)
		require.NotEmpty(t, g.Tasks)
		latest := b.text(`select task_id from imagetasks.tasks where status = 'failed' and error_code = $1 and completed_at < $2 order by completed_at desc limit 1`, string(g.Code), through)
		assert.Equal(t, latest, g.Tasks[0])
		ids, err := b.FailedTasks(b.ctx, string(g.Code), 1000)
		require.NoError(t, err)
		assert.Len(t, ids, g.Count)
		assert.Equal(t, latest, ids[0])
	}

	// Recorded minutes and the rest of the tasks together are all of them.
	recorded, err := b.ClosedFigures(b.ctx, 2*time.Hour, 5)
	require.NoError(t, err)
	assert.Equal(t, through.UTC(), recorded.To.UTC())
	since, err := b.ClosedSince(b.ctx, recorded.To)
	require.NoError(t, err)
	sums := map[task.State]int{task.Completed: recorded.Completed, task.Failed: recorded.Failed, task.Cancelled: recorded.Cancelled}
	for _, g := range since {
		sums[g.State] += g.Count
	}
	for state, n := range sums {
		assert.Equal(t, b.number(`select count(*) from imagetasks.tasks where status = $1`, string(state)), n, state)
	}
	last, err := b.RecentlyClosed(b.ctx, recorded.LastFrom, 5)
	require.NoError(t, err)
	var ids []string
	for _, c := range last {
		ids = append(ids, c.ID)
	}
	assert.Equal(t, strings.Split(b.text(`select string_agg(task_id, ' ') from (select task_id from imagetasks.tasks where completed_at is not null
		order by completed_at desc, task_id limit 5) t`), " "), ids)

	// Steps of several minutes have their sums.
	for _, step := range []time.Duration{time.Minute, 10 * time.Minute} {
		steps, err := b.Figures(b.ctx, 3*time.Hour, step)
		require.NoError(t, err)
		var total [6]int64
		for _, f := range steps {
			for i, n := range []int64{f.Arrived, f.Completed, f.Failed, f.Cancelled, f.Charged, f.Refunded} {
				total[i] += n
			}
			assert.Zero(t, f.At.Sub(time.Unix(0, 0))%step)
			assert.Equal(t, f.Completed > 0, f.P50 != nil)
		}
		assert.Equal(t, b.text(`select concat_ws(' ', sum(arrived), sum(completed), sum(failed), sum(cancelled), sum(charged), sum(refunded)) from imagetasks.figures`),
			strings.Trim(fmt.Sprint(total), "[]"))
		require.NotNil(t, steps[len(steps)-1].Due)
		assert.EqualValues(t, q.Due, *steps[len(steps)-1].Due)
	}
	booked, err := b.BookedBetween(b.ctx, time.Now().Add(-3*time.Hour), time.Now().Add(time.Hour))
	require.NoError(t, err)
	assert.Equal(t, b.text(`select concat_ws(' ', sum(- amount) filter (where kind = 'charge'), sum(amount) filter (where kind = 'refund')) from imagetasks.ledger`),
		fmt.Sprintf("%d %d", booked.Charged, booked.Refunded))
	completed, failed, cancelled, err := b.ClosedBetween(b.ctx, time.Now().Add(-3*time.Hour), through)
	require.NoError(t, err)
	assert.Equal(t, []int{recorded.Completed, recorded.Failed, recorded.Cancelled}, []int{completed, failed, cancelled})
}

// Several writers record one minute at a time: each is recorded once, with the same figures, and none fails.
func TestRecordFigures_ConcurrentWriters(t *testing.T) {
	t.Parallel()
	b := fresh(t)
	b.mixedLoad()
	var writers sync.WaitGroup
	for range 6 {
		writers.Go(func() {
			_, err := b.RecordFigures(b.ctx, 2*time.Hour)
			assert.NoError(t, err)
		})
	}
	writers.Wait()
	assert.JSONEq(t, b.jsonOf(figuresByHand), b.jsonOf(recordedFigures))
	before := b.jsonOf(`select * from imagetasks.figures order by minute`)
	_, err := b.RecordFigures(b.ctx, 2*time.Hour)
	require.NoError(t, err)
	assert.Contains(t, b.jsonOf(`select * from imagetasks.figures order by minute`), strings.TrimSuffix(before, "]"), "what is recorded does not change")
}

// After a time in which nothing ran, what the tables still say is filled in, for a bounded time; old minutes are deleted.
func TestRecordFigures_FillsGap(t *testing.T) {
	t.Parallel()
	b := fresh(t)
	b.mixedLoad()
	b.exec(`insert into imagetasks.figures (minute, arrived, completed, failed, cancelled, charged, refunded)
		select date_bin('1 minute', now() - age, 'epoch'), 1000, 0, 0, 0, 0, 0 from unnest(array[interval '40 minutes', interval '16 days', interval '14 days']) age`)
	_, err := b.RecordFigures(b.ctx, 2*time.Hour)
	require.NoError(t, err)
	assert.Zero(t, b.number(`select count(*) from imagetasks.figures where minute < now() - interval '15 days'`))
	assert.Equal(t, 2, b.number(`select count(*) from imagetasks.figures where arrived = 1000`), "what was recorded stays")
	b.exec(`delete from imagetasks.figures where arrived = 1000`)
	assert.GreaterOrEqual(t, b.number(`select count(*) from imagetasks.figures`), 38)
	assert.JSONEq(t, b.jsonOf(figuresByHand), b.jsonOf(recordedFigures))

	b.exec(`delete from imagetasks.figures`)
	_, err = b.RecordFigures(b.ctx, 20*time.Minute)
	require.NoError(t, err)
	assert.LessOrEqual(t, b.number(`select count(*) from imagetasks.figures`), 20)
	assert.JSONEq(t, b.jsonOf(figuresByHand), b.jsonOf(recordedFigures))
}

func TestFindTasks(t *testing.T) {
	t.Parallel()
	b := fresh(t)
	user := b.user(100)
	ids := b.enqueue(user, 3, 2)
	b.enqueue(b.user(0), 2, 0)
	b.exec(`insert into imagetasks.tasks (task_id, user_id, prompt) values ('job_%1', 'bridged', 'x')`)
	held := b.claim(1)
	_, err := b.Fail(b.ctx, held[0].Lease(), errServer, true)
	require.NoError(t, err)

	idsOf := func(tasks []store.FoundTask, err error) (ids []string) {
		require.NoError(t, err)
		for _, f := range tasks {
			ids = append(ids, f.ID)
		}
		return ids
	}
	assert.ElementsMatch(t, ids, idsOf(b.FindTasksByUser(b.ctx, user, 10)))
	assert.Len(t, idsOf(b.FindTasksByUser(b.ctx, user, 2)), 2)
	assert.Equal(t, []string{"job_%1"}, idsOf(b.FindTasks(b.ctx, []string{"job_%1", "none"})))
	for n := 1; n <= len(ids[0]); n++ {
		found := idsOf(b.FindTasksByPrefix(b.ctx, ids[0][:n], 10))
		assert.Contains(t, found, ids[0], n)
		assert.Len(t, found, b.number(`select count(*) from imagetasks.tasks where left(task_id, $1) = $2`, n, ids[0][:n]))
	}
	assert.Empty(t, idsOf(b.FindTasksByPrefix(b.ctx, ids[0]+"0", 10)))
	failed, err := b.FindTasks(b.ctx, []string{held[0].ID})
	require.NoError(t, err)
	require.Len(t, failed, 1)
	assert.Equal(t, task.Failed, failed[0].State)
	assert.Equal(t, errServer.Code, failed[0].ErrorCode)
	assert.EqualValues(t, 2, failed[0].RefundedCost)
	assert.False(t, failed[0].ClosedAt.IsZero())
}
