package inventory_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/pgtest"
	"imagetasks/internal/simapi"
	"imagetasks/pkg/inventory"
	"imagetasks/pkg/picture"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

var server *pgtest.Server

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m, &server, migrate)) }

func migrate(ctx context.Context, url string) error {
	s, err := store.Open(store.Config{URL: url})
	if err != nil {
		return err
	}
	defer s.Close()
	_, err = s.Migrate(ctx, store.Roles{})
	return err
}

// fixture is an installation with its database and its pictures.
type fixture struct {
	*store.Store
	t            *testing.T
	raw          *sql.DB
	url          string
	dir          string // the picture store
	schema       string
	installation store.Installation
	pictures     *picture.Store
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	return newFixtureOn(t, server.Database(t), store.DefaultSchema, t.TempDir())
}

func newFixtureOn(t *testing.T, url, schema, dir string) *fixture {
	t.Helper()
	f := &fixture{t: t, url: url, dir: dir, schema: schema}
	var err error
	f.Store, err = store.Open(store.Config{URL: url, Schema: schema})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, f.Store.Close()) })
	if schema != store.DefaultSchema {
		_, err = f.Migrate(t.Context(), store.Roles{})
		require.NoError(t, err)
	}
	f.raw, err = sql.Open("postgres", url)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, f.raw.Close()) })
	f.installation, err = f.Installation(t.Context())
	require.NoError(t, err)
	f.pictures, err = picture.Open(picture.Config{Dir: dir, MaxBytes: 1 << 20, Installation: f.installation.ID, Secret: f.installation.Secret})
	require.NoError(t, err)
	return f
}

func (f *fixture) open(_ context.Context, i store.Installation) (*picture.Store, bool, error) {
	return picture.OpenExisting(picture.Config{Dir: f.dir, Installation: i.ID, Secret: i.Secret})
}

func (f *fixture) inventory() inventory.Store { return inventory.Store{Open: f.open, Tasks: f} }

func (f *fixture) exec(statement string, args ...any) {
	f.t.Helper()
	_, err := f.raw.ExecContext(f.t.Context(), strings.ReplaceAll(statement, "imagetasks.", f.schema+"."), args...)
	require.NoError(f.t, err)
}

// insert inserts a task of a state that was closed two days ago.
func (f *fixture) insert(id string, state task.State, run int, imageURL string) {
	f.t.Helper()
	f.exec(`insert into imagetasks.tasks (task_id, user_id, prompt, status, run, image_url, completed_at)
		values ($1, 'u', 'x', $2, $3, nullif($4, ''), case when $2 in ('pending', 'processing') then null else now() - interval '2 days' end)`,
		id, string(state), run, imageURL)
}

var drawn = simapi.Draw("x")

// publish publishes a picture that is two days old.
func (f *fixture) publish(id string, run int) picture.Picture {
	f.t.Helper()
	d, err := f.pictures.Create()
	require.NoError(f.t, err)
	_, err = d.Write(drawn)
	require.NoError(f.t, err)
	p, err := d.Publish(f.t.Context(), id, run, nil)
	require.NoError(f.t, err)
	f.age(p.Path)
	return p
}

func (f *fixture) age(path string) {
	f.t.Helper()
	old := time.Now().Add(-48 * time.Hour)
	require.NoError(f.t, os.Chtimes(path, old, old))
}

// otherFormat makes a file that would be the run's picture in another format.
func (f *fixture) otherFormat(p picture.Picture, extension string) string {
	f.t.Helper()
	path := strings.TrimSuffix(p.Path, ".png") + extension
	require.NoError(f.t, os.WriteFile(path, drawn, 0o644))
	f.age(path)
	return path
}

func (f *fixture) clean() inventory.Cleaned {
	f.t.Helper()
	progress, cleaned, err := f.inventory().Clean(f.t.Context(), inventory.Progress{})
	require.NoError(f.t, err)
	assert.False(f.t, progress.Due(time.Now()))
	return cleaned
}

// files counts the files in the directory of the installation, without the marker.
func (f *fixture) files() int {
	f.t.Helper()
	entries, err := os.ReadDir(f.pictures.Dir())
	require.NoError(f.t, err)
	return len(entries) - 2
}

func TestClean_OnlyWhatTheTaskSaysIsNotItsPicture(t *testing.T) {
	f := newFixture(t)
	type file struct {
		id, path string
		removed  bool
	}
	var all []file
	add := func(id string, state task.State, run int, of int, imageURL func(p picture.Picture) string, removed bool) picture.Picture {
		p := f.publish(id, of)
		f.insert(id, state, run, imageURL(p))
		all = append(all, file{id, p.Path, removed})
		return p
	}
	none := func(picture.Picture) string { return "" }
	own := func(p picture.Picture) string { return p.URL }

	add("completed", task.Completed, 1, 1, own, false)
	add("served elsewhere now", task.Completed, 1, 1, func(p picture.Picture) string { return "https://new.example/x/" + p.Name + "?v=2#a" }, false)
	add("converted", task.Completed, 1, 1, func(p picture.Picture) string {
		return "https://cdn.example/" + strings.TrimSuffix(p.Name, ".png") + ".webp"
	}, false)
	twice := add("in two formats", task.Completed, 1, 1, own, false)
	all = append(all, file{"the other format", f.otherFormat(twice, ".jpg"), true})
	add("another picture", task.Completed, 1, 1, func(picture.Picture) string { return "https://app.example/own.png" }, true)
	add("completed without a URL", task.Completed, 1, 1, none, false)
	add("forgotten", task.Completed, 1, 1, none, true)
	f.exec(`update imagetasks.tasks set forgotten_at = now() where task_id = 'forgotten'`)
	add("failed", task.Failed, 1, 1, none, true)
	add("cancelled/while it was made", task.Cancelled, 1, 1, none, true)
	add("pending", task.Pending, 1, 1, none, false)
	add("processing", task.Processing, 1, 1, none, false)
	add("earlier run", task.Completed, 2, 1, func(picture.Picture) string { return "p/other.png" }, true)
	add("restored backup", task.Failed, 1, 2, none, false)
	add("closed an hour ago", task.Failed, 1, 1, none, false)
	f.exec(`update imagetasks.tasks set completed_at = now() - interval '1 hour' where task_id = 'closed an hour ago'`)
	add("closed without a time", task.Failed, 1, 1, none, false)
	f.exec(`update imagetasks.tasks set completed_at = null where task_id = 'closed without a time'`)
	fresh := add("published late", task.Failed, 1, 1, none, false)
	require.NoError(t, os.Chtimes(fresh.Path, time.Now(), time.Now()))
	all = append(all, file{"no row", f.publish("no row", 1).Path, false})
	add(strings.Repeat("語", 200), task.Failed, 1, 1, none, false)
	for _, name := range []string{"holiday.jpg", "failed-1.png", "failed-1-" + strings.Repeat("a", 26) + ".png"} {
		path := filepath.Join(f.pictures.Dir(), name)
		require.NoError(t, os.WriteFile(path, drawn, 0o644))
		f.age(path)
		all = append(all, file{name, path, false})
	}

	cleaned := f.clean()
	removed := 0
	for _, file := range all {
		if file.removed {
			removed++
			assert.NoFileExists(t, file.path, file.id)
		} else {
			assert.FileExists(t, file.path, file.id)
		}
	}
	assert.Equal(t, removed, cleaned.Removed)
	assert.EqualValues(t, removed*len(drawn), cleaned.Bytes)
	assert.Equal(t, inventory.Cleaned{Checked: cleaned.Checked - removed}, f.clean(), "the second time nothing is left to do")
}

func TestClean_PrunedTasks(t *testing.T) {
	f := newFixture(t)
	for i := range 1000 {
		p := f.publish(fmt.Sprint("task-", i), 1)
		f.insert(fmt.Sprint("task-", i), task.Completed, 1, p.URL)
	}
	pruned, err := f.Prune(t.Context(), store.PruneConfig{Retention: 24 * time.Hour, RedriveWindow: time.Hour, Batch: 1000})
	require.NoError(t, err)
	require.Equal(t, 1000, pruned.Tasks)
	cleaned := f.clean()
	assert.Equal(t, inventory.Cleaned{Checked: 1000}, cleaned)
	assert.Equal(t, 1000, f.files())
	var listed []inventory.Orphan
	totals, err := f.inventory().Orphans(t.Context(), func(o inventory.Orphan) { listed = append(listed, o) })
	require.NoError(t, err)
	assert.Equal(t, inventory.Totals{Dir: f.pictures.Dir(), Exists: true, Pictures: 1000, Orphans: 1000, OrphanBytes: int64(1000 * len(drawn))}, totals)
	assert.Len(t, listed, 1000)
	assert.Equal(t, 1000, f.files())
}

// The rows of a backup are older than the pictures: tasks are missing, pending again, or in an earlier run.
func TestClean_RestoredBackup(t *testing.T) {
	f := newFixture(t)
	for i := range 100 {
		f.insert(fmt.Sprint("failed-", i), task.Failed, 1, "")
		f.insert(fmt.Sprint("pending-", i), task.Pending, 1, "")
	}
	f.exec(`create table imagetasks.backup as table imagetasks.tasks`)
	for i := range 100 {
		f.exec(`update imagetasks.tasks set run = 2, status = 'completed', image_url = $2 where task_id = $1`, fmt.Sprint("failed-", i), f.publish(fmt.Sprint("failed-", i), 2).URL)
		f.exec(`update imagetasks.tasks set status = 'completed', image_url = $2, completed_at = now() - interval '2 days' where task_id = $1`,
			fmt.Sprint("pending-", i), f.publish(fmt.Sprint("pending-", i), 1).URL)
		f.insert(fmt.Sprint("later-", i), task.Completed, 1, f.publish(fmt.Sprint("later-", i), 1).URL)
	}
	assert.Zero(t, f.clean().Removed)
	f.exec(`delete from imagetasks.tasks; insert into imagetasks.tasks select * from imagetasks.backup`)
	assert.Zero(t, f.clean().Removed)
	assert.Equal(t, 300, f.files())
}

// Two installations in one database may share a directory, and even have tasks of the same ids.
func TestClean_TwoInstallationsOnOneDirectory(t *testing.T) {
	f := newFixture(t)
	other := newFixtureOn(t, f.url, "other", f.dir)
	for i := range 100 {
		id := fmt.Sprint("task-", i)
		f.insert(id, task.Completed, 1, f.publish(id, 1).URL)
		other.insert(id, task.Failed, 1, "") // it has no picture
	}
	foreign := other.publish("of the other", 1)
	f.insert("of the other", task.Failed, 1, "")
	assert.Zero(t, f.clean().Removed)
	assert.Zero(t, other.clean().Removed)
	assert.Equal(t, 100, f.files())
	assert.FileExists(t, foreign.Path)
	totals, err := f.inventory().Orphans(t.Context(), func(o inventory.Orphan) { assert.Fail(t, "an orphan", o.File) })
	require.NoError(t, err)
	assert.Equal(t, 100, totals.Pictures)
}

// A monitor with the DATABASE_URL of another installation looks at another directory, and does not even create it.
func TestClean_WrongDatabase(t *testing.T) {
	f := newFixture(t)
	for i := range 100 {
		f.insert(fmt.Sprint("task-", i), task.Completed, 1, f.publish(fmt.Sprint("task-", i), 1).URL)
	}
	wrong, err := store.Open(store.Config{URL: server.Database(t)})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, wrong.Close()) })
	// The databases of the tests are copies of one template; a database that migrate made has an id of its own.
	renewed, err := store.Open(store.Config{URL: server.Empty(t)})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, renewed.Close()) })
	_, err = renewed.Migrate(t.Context(), store.Roles{})
	require.NoError(t, err)
	_, cleaned, err := inventory.Store{Open: f.open, Tasks: renewed}.Clean(t.Context(), inventory.Progress{})
	require.NoError(t, err)
	assert.Zero(t, cleaned)
	totals, err := inventory.Store{Open: f.open, Tasks: renewed}.Orphans(t.Context(), nil)
	require.NoError(t, err)
	assert.False(t, totals.Exists)
	assert.NoDirExists(t, totals.Dir)
	// One whose database is a copy of this one sees its tasks as they were, and removes nothing either.
	for i := range 100 {
		_, err := wrong.Enqueue(t.Context(), store.EnqueueRequest{UserID: "u", Prompt: fmt.Sprint(i)})
		require.NoError(t, err)
	}
	_, cleaned, err = inventory.Store{Open: f.open, Tasks: wrong}.Clean(t.Context(), inventory.Progress{})
	require.NoError(t, err)
	assert.Zero(t, cleaned.Removed)
	assert.Equal(t, 100, f.files())
}

// tasks changes what the database says.
type tasks struct {
	*store.Store
	copied  bool
	lookups int
	before  func(lookup int) error
}

func (d *tasks) Installation(ctx context.Context) (store.Installation, error) {
	i, err := d.Store.Installation(ctx)
	i.Copied = d.copied
	return i, err
}

func (d *tasks) PictureTasks(ctx context.Context, ids []string, age time.Duration) ([]store.PictureTask, error) {
	d.lookups++
	if d.before != nil {
		if err := d.before(d.lookups); err != nil {
			return nil, err
		}
	}
	return d.Store.PictureTasks(ctx, ids, age)
}

func TestClean_CopiedDatabase(t *testing.T) {
	f := newFixture(t)
	f.publish("failed", 1)
	f.insert("failed", task.Failed, 1, "")
	progress, cleaned, err := inventory.Store{Open: f.open, Tasks: &tasks{Store: f.Store, copied: true}}.Clean(t.Context(), inventory.Progress{})
	require.NoError(t, err)
	assert.Equal(t, inventory.Cleaned{Skipped: true}, cleaned)
	assert.False(t, progress.Due(time.Now()))
	assert.Equal(t, 1, f.files())
}

// A task is looked up again right before its picture is removed.
func TestClean_LooksUpAgain(t *testing.T) {
	f := newFixture(t)
	p := f.publish("failed", 1)
	f.insert("failed", task.Failed, 1, "")
	d := &tasks{Store: f.Store, before: func(lookup int) error {
		if lookup == 2 {
			f.exec(`update imagetasks.tasks set status = 'completed', image_url = $1`, p.URL)
		}
		return nil
	}}
	_, cleaned, err := inventory.Store{Open: f.open, Tasks: d}.Clean(t.Context(), inventory.Progress{})
	require.NoError(t, err)
	assert.Equal(t, inventory.Cleaned{Checked: 1}, cleaned)
	assert.Equal(t, 2, d.lookups)
	assert.Equal(t, 1, f.files())
}

func TestClean_DatabaseError(t *testing.T) {
	f := newFixture(t)
	f.publish("failed", 1)
	f.insert("failed", task.Failed, 1, "")
	down := errors.New("the database is down")
	began := inventory.Progress{Parts: 4, Done: 2}
	progress, _, err := inventory.Store{Open: f.open, Tasks: &tasks{Store: f.Store, before: func(int) error { return down }}}.Clean(t.Context(), inventory.Progress{})
	require.ErrorIs(t, err, down)
	assert.True(t, progress.Due(time.Now()), "the next pass tries again")
	assert.True(t, began.Due(time.Now()))
	assert.Equal(t, 1, f.files())
}

// A store that takes longer than a pass is cleaned in parts, and every picture is in exactly one of them.
func TestClean_Parts(t *testing.T) {
	f := newFixture(t)
	for i := range 200 {
		id := fmt.Sprint("task-", i)
		f.publish(id, 1)
		f.insert(id, task.Failed, 1, "")
	}
	progress, removed, calls := inventory.Progress{}, 0, 0
	for ; progress.Due(time.Now()); calls++ {
		d := &tasks{Store: f.Store}
		if calls < 3 {
			d.before = func(int) error { return inventory.ErrTimeUp }
		}
		var cleaned inventory.Cleaned
		var err error
		progress, cleaned, err = inventory.Store{Open: f.open, Tasks: d}.Clean(t.Context(), progress)
		require.NoError(t, err)
		removed += cleaned.Removed
		if calls < 3 {
			assert.Equal(t, inventory.Progress{Parts: 2 << calls}, progress)
		}
	}
	assert.Equal(t, 200, removed)
	assert.Zero(t, f.files())
	assert.EqualValues(t, 4, progress.Parts, "the next time begins with fewer")
}

func TestProgress_Due(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		progress inventory.Progress
		want     bool
	}{
		{inventory.Progress{}, true},
		{inventory.Progress{CleanedAt: now.Add(-time.Hour)}, false},
		{inventory.Progress{CleanedAt: now.Add(-25 * time.Hour)}, true},
		{inventory.Progress{CleanedAt: now.Add(time.Hour)}, true}, // the clock was wrong
		{inventory.Progress{CleanedAt: now.Add(-time.Hour), Parts: 4, Done: 1}, true},
	} {
		assert.Equal(t, c.want, c.progress.Due(now), "%+v", c.progress)
	}
}

func TestOrphans_CountsOtherFiles(t *testing.T) {
	f := newFixture(t)
	f.insert("known", task.Pending, 1, "")
	f.publish("known", 1)
	lost := f.publish("lost/é", 7)
	f.publish(strings.Repeat("語", 200), 1)
	require.NoError(t, os.WriteFile(filepath.Join(f.pictures.Dir(), "holiday.jpg"), drawn, 0o644))
	var listed []inventory.Orphan
	totals, err := f.inventory().Orphans(t.Context(), func(o inventory.Orphan) { listed = append(listed, o) })
	require.NoError(t, err)
	assert.Equal(t, inventory.Totals{Dir: f.pictures.Dir(), Exists: true, Pictures: 3, Orphans: 1, OrphanBytes: lost.Bytes, Unidentified: 1, Others: 1}, totals)
	require.Len(t, listed, 1)
	assert.Equal(t, "lost/é", listed[0].TaskID)
	assert.Equal(t, 7, listed[0].Run)
	assert.Equal(t, lost.Name, listed[0].File)
}

// What was rejected goes after a day. It is neither a picture without a task nor another file.
func TestClean_Rejected(t *testing.T) {
	f := newFixture(t)
	dir := filepath.Join(f.pictures.Dir(), "rejected")
	rejected := func() []string {
		paths, err := filepath.Glob(filepath.Join(dir, "*"))
		require.NoError(t, err)
		return paths
	}
	require.NoError(t, f.pictures.Reject(picture.Rejected{TaskID: "a"}, []byte("x")))
	for _, path := range rejected() {
		f.age(path)
	}
	require.NoError(t, os.Rename(dir, dir+".old")) // the next one would remove them
	require.NoError(t, f.pictures.Reject(picture.Rejected{TaskID: "b"}, []byte("x")))
	for _, path := range rejected() {
		require.NoError(t, os.Rename(path, filepath.Join(dir+".old", filepath.Base(path))))
	}
	require.NoError(t, os.Remove(dir))
	require.NoError(t, os.Rename(dir+".old", dir))
	require.Len(t, rejected(), 4)
	totals, err := f.inventory().Orphans(t.Context(), func(o inventory.Orphan) { t.Errorf("%v is listed", o) })
	require.NoError(t, err)
	assert.Zero(t, totals.Others)
	f.clean()
	assert.Len(t, rejected(), 2)
}
