package bridgetest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/appshapes"
)

// Rows are read together, and one is still pending then. Before it is compared with its task, the task's end is written: the task is not begun again.
func TestSync_RowReadBeforeTheEnd(t *testing.T) {
	t.Parallel()
	i := install(t, appshapes.Named("supabase"), appshapes.Rows{Users: 1, Pending: 1, Balance: 100})
	i.adopt()
	_, err := i.SyncBridge(t.Context(), 10)
	require.NoError(t, err)
	key, user := i.shape.Key("pending", 1), i.shape.User(1000)

	// A row of a new user is compared first, and waits for the user.
	require.NoError(t, i.app.AddUser(t.Context(), user, 100))
	_, _, err = i.app.Enqueue(t.Context(), user, "a lantern", 0, appshapes.Route{})
	require.NoError(t, err)
	i.exec("insert into imagetasks.inbox (kind, key) values ('task', $1)", key)
	holder, err := i.raw.Begin()
	require.NoError(t, err)
	_, err = holder.Exec("insert into imagetasks.bridged_users (user_id) values ($1)", user)
	require.NoError(t, err)
	synced := make(chan error, 1)
	go func() {
		_, err := i.SyncBridge(t.Context(), 10)
		synced <- err
	}()
	require.Eventually(t, func() bool {
		return i.number("select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'") == 1
	}, 10*time.Second, time.Millisecond)
	i.exec("update imagetasks.tasks set status = 'completed', bridge_state = 'applied', image_url = 'x.png', completed_at = now() where task_id = $1", key)
	i.exec("update public.ai_images_creator_tasks set status = 'completed' where task_id = $1", key)
	require.NoError(t, holder.Rollback())
	require.NoError(t, <-synced)
	assert.Equal(t, map[string]string{key: "completed run 1"},
		i.texts("select task_id, status || ' run ' || run from imagetasks.tasks where task_id = $1", key))
}
