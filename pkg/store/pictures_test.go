package store_test

import (
	"strings"
	"testing"
	"time"

	"github.com/lib/pq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

func TestInstallation_DiffersBetweenSchemas(t *testing.T) {
	b := fresh(t)
	first, err := b.Installation(b.ctx)
	require.NoError(t, err)
	assert.Len(t, first.ID, 36)
	assert.Len(t, first.Secret, 32)
	again, err := b.Installation(b.ctx)
	require.NoError(t, err)
	assert.Equal(t, first, again)

	other, err := store.Open(store.Config{URL: b.url, Schema: "other"})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, other.Close()) })
	_, err = other.Migrate(b.ctx, store.Roles{})
	require.NoError(t, err)
	second, err := other.Installation(b.ctx)
	require.NoError(t, err)
	assert.NotEqual(t, first.ID, second.ID)
	assert.NotEqual(t, first.Secret, second.Secret)
}

func TestPictureTasks(t *testing.T) {
	b := fresh(t)
	ids := b.enqueue(b.user(4), 4, 1)
	done, failed, pending, forgotten := ids[0], ids[1], ids[2], ids[3]
	b.exec(`update imagetasks.tasks set status = 'completed', image_url = 'p/a.png', completed_at = now() - interval '25 hours' where task_id = $1`, done)
	b.exec(`update imagetasks.tasks set status = 'failed', completed_at = now() - interval '23 hours', run = 3 where task_id = $1`, failed)
	// Closed by an application that says nothing of the time.
	b.exec(`update imagetasks.tasks set status = 'completed', completed_at = null, forgotten_at = now() where task_id = $1`, forgotten)
	got, err := b.PictureTasks(b.ctx, append(ids, "no such task", "a/../ö"), 24*time.Hour)
	require.NoError(t, err)
	assert.ElementsMatch(t, []store.PictureTask{
		{TaskID: done, Run: 1, State: task.Completed, ImageURL: "p/a.png", ClosedFor: true},
		{TaskID: failed, Run: 3, State: task.Failed},
		{TaskID: pending, Run: 1, State: task.Pending},
		{TaskID: forgotten, Run: 1, State: task.Completed, Forgotten: true},
	}, got)
	none, err := b.PictureTasks(b.ctx, nil, 0)
	require.NoError(t, err)
	assert.Empty(t, none)
}

func TestPictureTasks_UsesPrimaryKey(t *testing.T) {
	b := fresh(t)
	b.exec(`insert into imagetasks.tasks (task_id, user_id, prompt, status, completed_at)
	        select 'old-' || i, 'u', 'x', 'completed', now() from generate_series(1, 100000) i`)
	b.exec(`vacuum analyze imagetasks.tasks`)
	ids := make([]string, 1000)
	for i := range ids {
		ids[i] = "old-" + strings.Repeat("1", i%5+1)
	}
	plan := b.explain(b.Statement("picture_tasks"), pq.Array(ids), 1000)
	assert.True(t, strings.Contains(plan, "tasks_pkey") && !strings.Contains(plan, "Seq Scan"))
}

// Only a completed task whose URL names the picture gets the new one.
func TestMovePictures(t *testing.T) {
	b := fresh(t)
	ids := b.enqueue(b.user(4), 4, 1)
	own, other, failed, bridged := ids[0], ids[1], ids[2], ids[3]
	b.exec(`update imagetasks.tasks set status = 'completed', completed_at = now(), image_url = 'p/' || task_id || '.png'`)
	b.exec(`update imagetasks.tasks set image_url = 'https://app.example/x.png' where task_id = $1`, other)
	b.exec(`update imagetasks.tasks set status = 'failed' where task_id = $1`, failed)
	b.exec(`update imagetasks.tasks set bridge_state = 'applied' where task_id = $1`, bridged)
	var moved []store.MovedPicture
	for _, id := range append(ids, "no such task") {
		moved = append(moved, store.MovedPicture{TaskID: id, Name: id + ".png", URL: "https://new.example/" + id + ".png"})
	}
	for range 2 { // a repeat returns the same
		got, err := b.MovePictures(b.ctx, moved)
		require.NoError(t, err)
		assert.Equal(t, map[string]bool{own: false, bridged: true}, got)
	}
	got, err := b.PictureTasks(b.ctx, ids, 0)
	require.NoError(t, err)
	urls := map[string]string{}
	for _, p := range got {
		urls[p.TaskID] = p.ImageURL
	}
	assert.Equal(t, map[string]string{own: "https://new.example/" + own + ".png", bridged: "https://new.example/" + bridged + ".png",
		other: "https://app.example/x.png", failed: "p/" + failed + ".png"}, urls)
}
