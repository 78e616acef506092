package appshapes_test

import (
	"context"
	"database/sql"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/appshapes"
	"imagetasks/internal/pgtest"
)

var server *pgtest.Server

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m, &server, nil)) }

var rows = appshapes.Rows{Users: 5, History: 40, Pending: 10, Processing: 5, Balance: 100_000}

// application installs a shape and returns the database's address and a session.
func application(t *testing.T, shape appshapes.Shape) (string, *appshapes.Session) {
	t.Helper()
	url := server.Empty(t)
	require.NoError(t, shape.Install(t.Context(), url))
	require.NoError(t, shape.Seed(t.Context(), url, rows))
	db, err := sql.Open("postgres", appshapes.URL(url, appshapes.Writer))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, db.Close()) })
	session, err := shape.NewSession(t.Context(), db, nil)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, session.Close()) })
	return url, session
}

// seen returns what a user sees of a task.
func seen(ctx context.Context, t *testing.T, a *appshapes.Session, user, key string) (task appshapes.Seen, found bool, balance int64) {
	t.Helper()
	tasks, _, balance, err := a.View(ctx, user)
	require.NoError(t, err)
	for _, s := range tasks {
		if s.Key == key {
			return s, true, balance
		}
	}
	return appshapes.Seen{}, false, balance
}

func TestShape(t *testing.T) {
	t.Parallel()
	for _, shape := range appshapes.All() {
		t.Run(shape.Name, func(t *testing.T) {
			t.Parallel()
			url, a := application(t, shape)
			t.Run("seed", func(t *testing.T) { checkSeed(t, shape, url, a) })
			t.Run("load", func(t *testing.T) { checkLoad(t, shape, url, a) })
			t.Run("routes", func(t *testing.T) { checkRoutes(t, shape, a) })
		})
	}
}

func checkRoutes(t *testing.T, shape appshapes.Shape, a *appshapes.Session) {
	ctx := t.Context()
	for i := range 8 {
		route := appshapes.Route{BalanceFirst: i&1 > 0, Absolute: i&2 > 0, Separate: i&4 > 0}
		user := shape.User(1 + i%rows.Users)
		_, _, before, err := a.View(ctx, user)
		require.NoError(t, err)

		key, changes, err := a.Enqueue(ctx, user, "a lantern", i, route)
		require.NoError(t, err)
		require.Len(t, changes, 1)
		assert.Equal(t, key, changes[0].Task)
		assert.Zero(t, changes[0].Lost())
		task, found, balance := seen(ctx, t, a, user, key)
		require.True(t, found)
		assert.Contains(t, []string{"pending", "processing"}, task.State)
		assert.Equal(t, shape.Cost(i), task.Cost)
		assert.Equal(t, before-task.Cost, balance)

		cancelled, _, err := a.Cancel(ctx, user, key, task.Cost, route)
		require.NoError(t, err)
		assert.True(t, cancelled)
		task, _, balance = seen(ctx, t, a, user, key)
		assert.Contains(t, []string{"failed", "cancelled"}, task.State)
		assert.Equal(t, before, balance)
		again, _, err := a.Cancel(ctx, user, key, task.Cost, route)
		require.NoError(t, err)
		assert.False(t, again)
		refunded, _, err := a.Refund(ctx, user, key, task.Cost, route)
		require.NoError(t, err)
		assert.False(t, refunded, "it was refunded when it was cancelled")

		_, err = a.Buy(ctx, user, 10, route)
		require.NoError(t, err)
		deleted, err := a.Delete(ctx, user, key)
		require.NoError(t, err)
		assert.True(t, deleted)
		_, found, balance = seen(ctx, t, a, user, key)
		assert.False(t, found)
		assert.Equal(t, before+10, balance)
	}
	fresh := shape.User(1000)
	require.NoError(t, a.AddUser(ctx, fresh, 0))
	for _, separate := range []bool{false, true} {
		key, changes, err := a.Enqueue(ctx, fresh, "too dear", 9, appshapes.Route{Separate: separate})
		require.Error(t, err)
		assert.Empty(t, changes)
		_, found, balance := seen(ctx, t, a, fresh, key)
		assert.False(t, found, "a task that nobody paid for")
		assert.Zero(t, balance)
	}
	require.NoError(t, a.DeleteUser(ctx, fresh))
	require.NoError(t, a.DeleteUser(ctx, shape.User(1)))
	tasks, _, _, err := a.View(ctx, shape.User(2))
	require.NoError(t, err)
	assert.NotEmpty(t, tasks)
}

// The application's role sees one user's rows.
func checkSeed(t *testing.T, shape appshapes.Shape, url string, a *appshapes.Session) {
	states := map[string]int{}
	pictures, all := 0, 0
	for n := 1; n <= rows.Users; n++ {
		tasks, gallery, balance, err := a.View(t.Context(), shape.User(n))
		require.NoError(t, err)
		assert.Equal(t, rows.Balance, balance)
		assert.Len(t, tasks, (rows.History+rows.Pending+rows.Processing)/rows.Users)
		pictures += len(gallery)
		for _, task := range tasks {
			states[task.State]++
		}
	}
	all = states["pending"] + states["processing"]
	assert.Equal(t, rows.Pending+rows.Processing, all)
	assert.Equal(t, rows.History/10*9, states["completed"])
	assert.Equal(t, rows.History/10*9, pictures)

	db, err := sql.Open("postgres", url)
	require.NoError(t, err)
	defer db.Close()
	for _, fixed := range shape.Fixed {
		var n int
		require.NoError(t, db.QueryRow("select count(distinct "+fixed.Key+") from (select "+fixed.Key+", "+fixed.Columns+" from "+fixed.Table+") rows").Scan(&n))
		assert.Positive(t, n, fixed.Table)
	}
	for kind, n := range map[string]int{"history": rows.History, "pending": rows.Pending, "processing": rows.Processing} {
		key := shape.Key(kind, n)
		if key == "" {
			continue
		}
		_, found, _ := seen(t.Context(), t, a, shape.User(1+n%rows.Users), key)
		assert.True(t, found, "%s %s", kind, strconv.Itoa(n))
	}
}

func TestShape_WithoutTasks(t *testing.T) {
	t.Parallel()
	for _, shape := range appshapes.WithoutTasks() {
		require.NoError(t, appshapes.Named(shape.Name).Install(t.Context(), server.Empty(t)))
	}
}

// A write of a balance that was read before tells what it overwrote.
func TestChange_Lost(t *testing.T) {
	t.Parallel()
	assert.Zero(t, appshapes.Change{Read: 3, Replaced: 5}.Lost())
	assert.Equal(t, int64(2), appshapes.Change{Absolute: true, Read: 3, Replaced: 5}.Lost())
}

// A load alone: nothing fails, and its own record explains every balance.
func checkLoad(t *testing.T, shape appshapes.Shape, url string, a *appshapes.Session) {
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	record, err := appshapes.Load{Shape: shape, URL: url, Users: rows.Users, Sessions: 3, Rate: 500, Seed: 1, Think: time.Millisecond, Balance: 100}.Run(ctx)
	require.NoError(t, err)
	assert.Empty(t, record.Failures)
	assert.Greater(t, record.Statements, 50)
	assert.NotEmpty(t, record.Changes)
	for n := 1; n <= rows.Users; n++ {
		user := shape.User(n)
		_, _, balance, err := a.View(t.Context(), user)
		require.NoError(t, err)
		assert.Equal(t, record.Balance(user), balance)
		assert.Zero(t, record.Lost(user))
	}
}
