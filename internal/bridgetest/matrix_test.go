package bridgetest

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/appshapes"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/store"
)

const users = 8

// matrixSize returns the shapes, their rows, and how long the application goes on after it was adopted.
func matrixSize() (shapes []string, rows appshapes.Rows, working time.Duration) {
	rows = appshapes.Rows{Users: users, History: 1800, Pending: 180, Processing: 20, Balance: 1_000_000}
	if os.Getenv("IMAGETASKS_MATRIX") != "full" {
		return []string{"supabase", "quoted", "lots"}, rows, 5 * time.Second
	}
	for _, s := range appshapes.All() {
		shapes = append(shapes, s.Name)
	}
	rows.History, rows.Pending, rows.Processing = 18_000, 1_800, 200
	return shapes, rows, 30 * time.Second
}

// An application is adopted, worked, checked and removed while it writes 50 statements a second.
func TestMatrix(t *testing.T) {
	shapes, rows, working := matrixSize()
	for _, name := range shapes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testMatrix(t, appshapes.Named(name), rows, working)
		})
	}
}

func testMatrix(t *testing.T, shape appshapes.Shape, rows appshapes.Rows, working time.Duration) {
	i := install(t, shape, rows)
	schema := i.dump()
	fixed := i.fixedColumns()
	before := i.view(users)
	closed := i.closedRows(before)

	// The application works throughout.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var record appshapes.Record
	var loading sync.WaitGroup
	ready, noted := context.WithCancel(ctx)
	loading.Go(func() {
		defer noted()
		var err error
		record, err = appshapes.Load{Shape: shape, URL: i.url, Users: users, Rate: 50, Sessions: 4, Seed: 17, Think: 100 * time.Millisecond, Balance: 10_000,
			Ready: noted}.Run(ctx)
		assert.NoError(t, err)
	})
	<-ready.Done()
	i.adopt()
	stop := i.work(plan{wait: 50 * time.Millisecond, fail: failsSome})
	require.True(t, wait(t.Context(), working))
	cancel()
	loading.Wait()
	i.drained(5 * time.Minute)

	assert.Empty(t, record.Failures)
	assert.Less(t, record.Slowest.Elapsed, time.Second, record.Slowest.What)
	after := i.view(users)
	i.checkFixed(fixed)
	assert.Equal(t, closed, i.closedRows(before))
	i.checkTasks(record, after)
	i.checkCredits(record, after)
	i.checkLostUpdates(record)
	for _, d := range i.differences() {
		assert.Equal(t, "lost_update", d.Code, "%+v", d)
	}

	stop()
	_, err := i.Pause(t.Context(), "test", "the bridge is removed")
	require.NoError(t, err)
	_, err = i.RemoveBridge(t.Context(), false, func(store.Step) {})
	require.NoError(t, err)
	assert.Equal(t, schema, i.dump())
	assert.Equal(t, after.balances, i.view(users).balances)
	t.Logf("%d statements of the application, the slowest %s (%s); %d tasks; %d changes of balances, of which lost %d",
		record.Statements, record.Slowest.Elapsed, record.Slowest.What, len(record.Tasks), len(record.Changes), countLost(record))
}

func countLost(r appshapes.Record) (n int) {
	for _, c := range r.Changes {
		if c.Lost() != 0 {
			n++
		}
	}
	return n
}

func (i *installation) differences() []store.BridgeDifference {
	i.t.Helper()
	differences, err := i.CheckBridge(i.t.Context())
	require.NoError(i.t, err)
	return differences
}

// fixedColumns returns a checksum of the columns that nothing may change, by table and row.
func (i *installation) fixedColumns() map[string]map[string]string {
	i.t.Helper()
	sums := map[string]map[string]string{}
	for _, c := range i.shape.Fixed {
		sums[c.Table] = i.texts(fmt.Sprintf("select (%s)::text, md5(row(%s)::text) from %s", c.Key, c.Columns, c.Table))
	}
	return sums
}

// checkFixed requires that rows which still exist have the same checksums.
func (i *installation) checkFixed(before map[string]map[string]string) {
	i.t.Helper()
	for table, now := range i.fixedColumns() {
		compared := 0
		for key, sum := range before[table] {
			if again, exists := now[key]; exists {
				compared++
				assert.Equal(i.t, sum, again, "%s %s", table, key)
			}
		}
		assert.Positive(i.t, compared, table)
	}
}

// closedRows returns checksums of the whole rows of tasks that were closed before.
func (i *installation) closedRows(before view) map[string]string {
	i.t.Helper()
	c := i.shape.Fixed[0]
	sums := i.texts(fmt.Sprintf("select (%s)::text, md5(t::text) from %s t", c.Key, c.Table))
	for key := range sums {
		if state := before.tasks[key].State; state != "completed" && state != "failed" && state != "cancelled" {
			delete(sums, key)
		}
	}
	assert.NotEmpty(i.t, sums)
	return sums
}

// checkTasks requires that every task ended, with its picture where the user looks for it, or with exactly one refund.
func (i *installation) checkTasks(record appshapes.Record, after view) {
	i.t.Helper()
	ended := i.texts(`select task_id, status || ', ' || coalesce(bridge_state, 'null') || ', run ' || run || ', ' || coalesce(error_message, '') from imagetasks.tasks`)
	pictures := i.texts(`select task_id, image_url from imagetasks.tasks where status = 'completed' and bridge_state = 'applied'`)
	ours := i.texts(`select task_id, count(*)::text from imagetasks.ledger where kind = 'refund' and external and reason like 'task %' group by task_id`)
	states := map[string]int{}
	for key, known := range record.Tasks {
		refunds := known.Refunds
		if n, refunded := ours[key]; refunded {
			assert.Equal(i.t, "1", n, key)
			refunds++
		}
		if known.Deleted {
			assert.LessOrEqual(i.t, refunds, 1, key)
			continue
		}
		seen, found := after.tasks[key]
		if !assert.True(i.t, found, "the task %s is gone", key) {
			continue
		}
		states[seen.State]++
		switch seen.State {
		case "completed":
			assert.Zero(i.t, refunds, key)
			assert.Equal(i.t, pictures[key], seen.URL, "%s, here %s", key, ended[key])
			assert.NotEmpty(i.t, seen.URL, key)
			assert.True(i.t, slices.Contains(after.gallery[known.User], seen.URL), "the gallery lacks the picture of %s", key)
		case "failed", "cancelled":
			assert.Equal(i.t, 1, refunds, "refunds of %s, which is %s (cancelled by the application: %v)", key, seen.State, known.Cancelled)
			if i.shape.Marked {
				assert.True(i.t, seen.Refunded, "no refund shows at %s", key)
			}
		default:
			assert.Fail(i.t, "a task is live", "%s %+v", key, seen)
		}
	}
	assert.Greater(i.t, states["completed"], 0)
	assert.Greater(i.t, states["failed"], 0)
}

// checkCredits requires that the balances in the application's table are what it did itself and the refunds of the bridge, without what the application
// has overwritten, and that the ledger agrees.
func (i *installation) checkCredits(record appshapes.Record, after view) {
	i.t.Helper()
	ours := i.texts(`select user_id, sum(amount)::text from imagetasks.ledger where kind = 'refund' and external and reason like 'task %' group by user_id`)
	for user, balance := range after.balances {
		var refunded int64
		if text, ok := ours[user]; ok {
			_, err := fmt.Sscan(text, &refunded)
			require.NoError(i.t, err)
		}
		assert.Equal(i.t, record.Balance(user)+refunded, balance, "user %s: ours %d, lost %d", user, refunded, record.Lost(user))
	}
	assert.Zero(i.t, i.number(`select count(*) from imagetasks.credits join imagetasks.bridged_users using (user_id)`))
}

// checkLostUpdates requires a report of each write that overwrote a refund of the bridge, except where the result looks like something else: the value that
// was there, as when the row's other columns are changed, or the charge of a task.
func (i *installation) checkLostUpdates(record appshapes.Record) {
	i.t.Helper()
	unit := int64(1)
	for range i.shape.Description.Credits.Decimals {
		unit *= 10
	}
	var costs []int64
	for _, known := range record.Tasks {
		costs = append(costs, known.Cost)
	}
	for _, c := range record.Changes {
		net := c.Read + c.Delta - c.Replaced
		if c.Lost() == 0 || net == 0 || slices.Contains(costs, -net) || slices.Contains(record.Deleted, c.User) {
			continue
		}
		assert.Positive(i.t, i.number(`select count(*) from imagetasks.lost_updates where user_id = $1 and before * $2 = $3 and after * $2 = $4`,
			c.User, unit, c.Replaced, c.Read+c.Delta), "not reported: %+v", c)
	}
}

// The application writes balances that it read long before, while everything fails and is refunded: each write that loses a refund is reported.
func TestLostUpdates(t *testing.T) {
	t.Parallel()
	i := install(t, appshapes.Named("quoted"), appshapes.Rows{Users: 3, History: 10, Pending: 300, Balance: 1_000_000})
	i.adopt()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
	defer cancel()
	begin := func() {
		i.work(plan{wait: 100 * time.Millisecond, fail: func(string) bool { return true }}, func(c *processor.Config) { c.Concurrency = 5 })
	}
	record, err := appshapes.Load{Shape: i.shape, URL: i.url, Users: 3, Rate: 100, Sessions: 3, Seed: 3, Think: 200 * time.Millisecond, Balance: 10_000,
		Ready: begin}.Run(ctx)
	require.NoError(t, err)
	i.drained(time.Minute)
	t.Logf("%d changes, of which lost %d; reported: %d", len(record.Changes), countLost(record), i.number("select count(*) from imagetasks.lost_updates"))
	require.Positive(t, countLost(record))
	i.checkLostUpdates(record)
	i.checkCredits(record, i.view(3))
}
