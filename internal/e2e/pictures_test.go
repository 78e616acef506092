package e2e_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A picture whose completion was not recorded, as after SIGKILL in between, is found by the next claim: it is paid for once.
func TestRunOnce_UsesPublishedPicture(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.grant(5)
	w.enqueue("a lantern", "--count", "5")
	w.run("task-processor", "run", "--once").ok()
	before := w.pictures()
	require.Len(t, before, 5)
	require.Len(t, w.api.Calls(), 5)
	_, err := w.db.Exec(`update imagetasks.tasks set status = 'pending', waits_for = null, slot = 1, backlog = 0, completed_at = null, image_url = null`)
	require.NoError(t, err)
	w.env["IMAGE_BASE_URL"] = "https://cdn.example/p"
	r := w.run("task-processor", "run", "--once")
	r.ok()
	assert.Equal(t, 5, strings.Count(r.stderr, "recovered=true"), r.stderr)
	assert.Len(t, w.api.Calls(), 5, "nothing is requested again")
	assert.Equal(t, before, w.pictures())
	assert.Equal(t, 5, w.number(`select count(*) from imagetasks.tasks where status = 'completed' and image_url like 'https://cdn.example/p/' || $1 || '/' || task_id || '-1-%.png'`,
		filepath.Base(filepath.Dir(before[0]))))
	w.audit()
}

// The monitor removes what no task uses, once a day, and nothing else. Pictures without a task are listed.
func TestMonitor_CleansPictures(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.grant(4)
	ids := w.enqueue("a lantern", "--count", "4")
	w.run("task-processor", "run", "--once").ok()
	require.Len(t, w.pictures(), 4)
	pathOf := map[string]string{}
	old := time.Now().Add(-48 * time.Hour)
	for _, path := range w.pictures() {
		require.NoError(t, os.Chtimes(path, old, old))
		for _, id := range ids {
			if strings.HasPrefix(filepath.Base(path), id) {
				pathOf[id] = path
			}
		}
	}
	require.Len(t, pathOf, 4)
	kept, replaced, deleted, recent := ids[0], ids[1], ids[2], ids[3]
	_, err := w.db.Exec(`update imagetasks.tasks set completed_at = now() - interval '25 hours' where task_id <> $1`, recent)
	require.NoError(t, err)
	_, err = w.db.Exec(`update imagetasks.tasks set image_url = 'https://app.example/own.png' where task_id in ($1, $2)`, replaced, recent)
	require.NoError(t, err)
	_, err = w.db.Exec(`delete from imagetasks.tasks where task_id = $1`, deleted)
	require.NoError(t, err)

	var pass struct {
		Pictures struct{ Checked, Removed int }
	}
	w.run("monitor-tasks", "--dry-run").ok()
	assert.Len(t, w.pictures(), 4)
	r := w.run("monitor-tasks", "--json")
	r.ok()
	r.json(&pass)
	assert.Equal(t, 4, pass.Pictures.Checked)
	assert.Equal(t, 1, pass.Pictures.Removed)
	assert.NoFileExists(t, pathOf[replaced])
	for _, id := range []string{kept, deleted, recent} {
		assert.FileExists(t, pathOf[id])
	}
	r = w.run("monitor-tasks", "--json")
	r.ok()
	r.json(&pass)
	assert.Zero(t, pass.Pictures.Checked, "once a day")

	assert.Contains(t, w.run("task-processor", "pictures", "orphans").ok(), filepath.Base(pathOf[deleted])+"  task "+deleted+"  run 1")
	var list struct {
		Pictures, Orphans int
		Files             []struct {
			File   string
			TaskID string `json:"task_id"`
		}
	}
	r = w.run("task-processor", "pictures", "orphans", "--json")
	r.ok()
	r.json(&list)
	assert.Equal(t, 3, list.Pictures)
	assert.Equal(t, 1, list.Orphans)
	require.Len(t, list.Files, 1)
	assert.Equal(t, filepath.Base(pathOf[deleted]), list.Files[0].File)
	assert.Equal(t, deleted, list.Files[0].TaskID)
	assert.Len(t, w.pictures(), 3)
	assert.Contains(t, w.run("task-processor", "tasks", "show", kept).ok(), "files      "+filepath.Base(pathOf[kept]))
	w.run("task-processor", "pictures").is(2)
	w.run("task-processor", "pictures", "orphans", "--limit", "-1").is(2)
}

// What is wrong with the pictures is reported, and keeps the monitor from nothing else.
func TestMonitor_ForeignPictureDirectory(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.grant(2)
	w.enqueue("a lantern")
	w.run("task-processor", "run", "--once").ok()
	path := w.pictures()[0]
	marker := filepath.Join(filepath.Dir(path), "imagetasks-installation.json")
	require.NoError(t, os.Remove(marker))
	r := w.run("monitor-tasks")
	assert.Contains(t, r.is(3), "! pictures that no task uses could not be removed: picture store: ")
	assert.Contains(t, r.stdout, "pictures orphans")
	w.enqueue("another lantern")
	r = w.run("task-processor", "run", "--once")
	r.is(1)
	assert.Contains(t, r.stderr, "has files in it and no imagetasks-installation.json")
	assert.Equal(t, []string{path}, w.pictures())
	assert.Zero(t, w.count("processing"))
}

func TestStatus_DifferentPictureStores(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	one := w.start("task-processor", "run")
	other := w.start("task-processor", "run", "--image-store", filepath.Join(w.dir, "elsewhere"))
	w.waitFor("two heartbeats", func() bool {
		return w.number(`select count(distinct report ->> 'picture_store') from imagetasks.processors`) == 2
	})
	status := w.run("task-processor", "status").is(3)
	assert.Contains(t, status, "! the processors keep their pictures in 2 different stores")
	assert.Contains(t, status, "task-processor status --json")
	other.stop(syscall.SIGTERM).ok()
	assert.NotContains(t, w.run("task-processor", "status").stdout, "different stores")
	one.stop(syscall.SIGTERM).ok()
}
