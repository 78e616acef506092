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

	"imagetasks/internal/reals3"
)

// inBucket makes a host keep its pictures in an object store.
func inBucket(t *testing.T, w *fixture) *reals3.Server {
	t.Helper()
	s := reals3.Start(t)
	w.env["IMAGE_STORE"], w.env["AWS_ACCESS_KEY_ID"], w.env["AWS_SECRET_ACCESS_KEY"] = s.Store("app"), reals3.AccessKeyID, reals3.SecretAccessKey
	w.secrets = append(w.secrets, reals3.SecretAccessKey)
	return s
}

// spooled returns the paths of the pictures that wait on this host, and of the drafts.
func (w *fixture) spooled() []string {
	w.t.Helper()
	var paths []string
	for _, pattern := range []string{"waiting/*", ".drafts/*"} {
		found, err := filepath.Glob(filepath.Join(w.dir, "picture-spool", "*", pattern))
		require.NoError(w.t, err)
		paths = append(paths, found...)
	}
	return paths
}

// requireStored requires that n tasks are completed, each with a picture in the bucket under its URL, and was paid for once, and that there is
// nothing else.
func (w *fixture) requireStored(s *reals3.Server, n int) {
	w.t.Helper()
	assert.Len(w.t, w.api.Calls(), n, "paid requests")
	assert.Equal(w.t, n, w.count("completed"))
	keys := s.Keys(".png")
	assert.Len(w.t, keys, n, "objects")
	for _, key := range keys {
		assert.Equal(w.t, 1, w.number(`select count(*) from imagetasks.tasks where image_url = $1`, s.Endpoint+"/"+reals3.Bucket+"/"+key))
	}
	assert.Empty(w.t, w.spooled())
	var list struct{ Pictures, Orphans, Others int }
	w.run("task-processor", "pictures", "orphans", "--json").json(&list)
	assert.Equal(w.t, []int{n, 0, 0}, []int{list.Pictures, list.Orphans, list.Others})
	assert.Zero(w.t, w.number(`select sum(attempt_count) from imagetasks.tasks`), "attempts")
	w.audit()
}

// storeOutage is how long the object store is away in the test; the long form is a minute.
func storeOutage(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("STORAGE_OUTAGE")
	if text == "" {
		return 3 * time.Second
	}
	d, err := time.ParseDuration(text)
	require.NoError(t, err)
	return d
}

// The object store goes away in the middle of 50 tasks, and the processor is restarted meanwhile: each is paid for once, and each picture is
// in the store in the end.
func TestStorage_Outage(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	s := inBucket(t, w)
	w.env["TASK_LEASE"], w.env["TASK_CONCURRENCY"] = "2s", "4"
	w.grant(50)
	w.enqueue("a lantern", "--count", "50")
	p := w.start("task-processor", "run")
	w.waitFor("ten pictures", func() bool { return w.count("completed") >= 10 })
	s.Kill()
	away := time.Now()
	w.waitFor("pictures that wait", func() bool {
		return w.number(`select count(*) from imagetasks.pending_results where ref like 'spool:%'`) >= 5
	})
	p.stop(syscall.SIGTERM).ok()
	p = w.start("task-processor", "run")
	w.waitFor("more pictures that wait", func() bool {
		return w.number(`select count(*) from imagetasks.pending_results where ref like 'spool:%'`) >= 10
	})
	time.Sleep(storeOutage(t) - time.Since(away))
	s.Restart()
	w.waitFor("all pictures", func() bool { return w.count("completed") == 50 })
	p.stop(syscall.SIGTERM).ok()
	w.requireStored(s, 50)
}

// A processor that is killed between the arrival of a picture and its upload pays for no other one.
func TestStorage_KilledDuringUpload(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	s := inBucket(t, w)
	w.env["TASK_LEASE"] = "2s"
	w.grant(1)
	p := w.start("task-processor", "run")
	w.waitFor("the processor", func() bool { return w.number(`select count(*) from imagetasks.processors`) == 1 })
	s.Hang()
	w.enqueue("a lantern")
	w.waitFor("a picture that waits", func() bool {
		return w.number(`select count(*) from imagetasks.pending_results where ref like 'spool:%'`) == 1
	})
	require.NoError(t, p.Process.Kill())
	p.result()
	require.Len(t, w.spooled(), 1)
	s.Restart()
	p = w.start("task-processor", "run")
	w.waitFor("the picture", func() bool { return w.count("completed") == 1 })
	p.stop(syscall.SIGTERM).ok()
	assert.Contains(t, p.stderr.String(), "recovered=true")
	w.requireStored(s, 1)
}

// While the spool is full, nothing is paid for; work goes on when there is space.
func TestStorage_SpoolFull(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	s := inBucket(t, w)
	w.env["IMAGE_MAX_BYTES"], w.env["IMAGE_SPOOL_MAX"], w.env["HUNG_AFTER"] = "300000", "600000", "8s"
	w.grant(12)
	w.enqueue("a lantern")
	w.run("task-processor", "run", "--once").ok()
	s.Kill()
	for range 11 {
		w.enqueue("a picture for a full spool")
	}
	p := w.start("task-processor", "run")
	w.waitFor("the circuit", func() bool { return strings.Contains(p.stderr.String(), "the spool is full") })
	w.waitFor("the end of what was begun", func() bool { return w.count("processing") == 0 })
	calls := len(w.api.Calls())
	assert.Less(t, calls, 12)
	time.Sleep(time.Second)
	assert.Len(t, w.api.Calls(), calls, "nothing is paid for")
	s.Restart()
	w.waitFor("all pictures", func() bool { return w.count("completed") == 12 })
	p.stop(syscall.SIGTERM).ok()
	w.requireStored(s, 12)
}

// Settings that don't fit the object store are refused at start, with what to do.
func TestStorage_Refused(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	s := inBucket(t, w)
	w.grant(1)
	w.enqueue("a lantern")
	good := w.env["AWS_SECRET_ACCESS_KEY"]
	for _, c := range []struct{ name, value, want string }{
		{"AWS_SECRET_ACCESS_KEY", "wrong-secret-123", "correct AWS_SECRET_ACCESS_KEY"},
		{"AWS_SECRET_ACCESS_KEY", "", "AWS_SECRET_ACCESS_KEY: must be set"},
		{"IMAGE_STORE", strings.Replace(s.Store("app"), "pictures", "pictures2", 1), "there is no bucket pictures2; create the bucket"},
		{"IMAGE_STORE_PROXY", "http://127.0.0.1:1", "127.0.0.1:1"},
	} {
		before := w.env[c.name]
		w.env[c.name] = c.value
		r := w.run("task-processor", "run", "--once")
		assert.Contains(t, []int{1, 2}, r.code, c.want)
		assert.Contains(t, r.stderr, c.want)
		w.env[c.name] = before
	}
	assert.Empty(t, w.api.Calls())
	assert.Equal(t, good, w.env["AWS_SECRET_ACCESS_KEY"])
	w.env["IMAGE_STORE_PROXY"] = w.proxy.URL()
	w.run("task-processor", "run", "--once").ok()
	w.requireStored(s, 1)
	assert.Contains(t, w.proxy.Targets(), strings.TrimPrefix(s.Endpoint, "http://"), "through the proxy")
}

// What waits on a host is uploaded by that host; another one waits for it and asks for nothing else.
func TestStorage_TwoHosts(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	s := inBucket(t, w)
	w.env["TASK_LEASE"] = "2s"
	w.grant(5)
	one, other := filepath.Join(w.dir, "one"), filepath.Join(w.dir, "other")
	for _, dir := range []string{one, other} {
		require.NoError(t, os.MkdirAll(dir, 0o755))
		w.run("task-processor", "run", "--once", "--log-dir", dir).ok() // each has seen the store
	}
	w.enqueue("a lantern", "--count", "4")
	s.Kill()
	p := w.start("task-processor", "run", "--log-dir", one)
	w.waitFor("four pictures that wait", func() bool {
		return w.number(`select count(*) from imagetasks.pending_results where ref like 'spool:%'`) == 4
	})
	p.stop(syscall.SIGTERM).ok()
	// A task is shown without the store, and the report on pictures that wait names their cause.
	var id string
	require.NoError(t, w.db.QueryRowContext(t.Context(), `select task_id from imagetasks.tasks limit 1`).Scan(&id))
	shown := w.run("task-processor", "tasks", "show", id)
	assert.Contains(t, shown.ok(), "error      picture_store")
	assert.Contains(t, shown.stderr, "warning: the task's pictures are not listed: picture store: ")
	s.Restart()
	second := w.start("task-processor", "run", "--log-dir", other)
	w.waitFor("a claim of the other host", func() bool {
		return w.number(`select count(*) from imagetasks.tasks where status = 'pending' and error_message like '%the spool of another host%'`) == 4
	})
	assert.Zero(t, w.count("completed"))
	first := w.start("task-processor", "run", "--log-dir", one)
	w.waitFor("all pictures", func() bool { return w.count("completed") == 4 })
	first.stop(syscall.SIGTERM).ok()
	second.stop(syscall.SIGTERM).ok()
	w.requireStored(s, 4)
}

// Pictures of a directory go to a bucket while a processor works; what was interrupted goes on, and nothing is deleted that may be in use.
func TestPicturesMove(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.env["IMAGE_BASE_URL"] = "https://old.example/p"
	w.grant(8)
	w.enqueue("a lantern", "--count", "5")
	w.run("task-processor", "run", "--once").ok()
	source := w.pictures()
	require.Len(t, source, 5)
	directory := filepath.Join(w.dir, "images")
	s := inBucket(t, w)
	bucket := w.env["IMAGE_STORE"]
	delete(w.env, "IMAGE_STORE")
	_, err := w.db.Exec(`update imagetasks.tasks set bridge_state = 'applied' where task_id = (select min(task_id) from imagetasks.tasks)`)
	require.NoError(t, err)
	var moved struct{ Pictures, Copied, Present, Linked, Bridged, Different, Damaged, Deleted, Kept int }
	move := func(args ...string) result {
		r := w.run("task-processor", append([]string{"pictures", "move", "--json"}, args...)...)
		moved = struct{ Pictures, Copied, Present, Linked, Bridged, Different, Damaged, Deleted, Kept int }{}
		if r.code != 2 {
			r.json(&moved)
		}
		return r
	}
	move("--to", bucket, "--plan").ok()
	assert.Equal(t, []int{5, 5, 0}, []int{moved.Pictures, moved.Copied, moved.Present})
	assert.Empty(t, s.Keys(""), "a plan changes nothing")
	s.Kill()
	move("--to", bucket).is(1)
	s.Restart()

	// One is damaged, and is left out.
	damaged := filepath.Join(filepath.Dir(source[0]), strings.TrimSuffix(filepath.Base(source[0]), ".png")+".jpg")
	require.NoError(t, os.WriteFile(damaged, []byte("no picture"), 0o644))
	move("--to", bucket).is(3)
	assert.Equal(t, []int{6, 5, 0, 5, 1, 1}, []int{moved.Pictures, moved.Copied, moved.Present, moved.Linked, moved.Bridged, moved.Damaged})
	require.NoError(t, os.Remove(damaged))
	linked := func(prefix string) int {
		return w.number(`select count(*) from imagetasks.tasks where status = 'completed' and image_url like $1 || '%'`, prefix)
	}
	assert.Equal(t, 5, linked(s.Endpoint+"/pictures/app/"))
	assert.Equal(t, source, w.pictures(), "nothing is deleted")
	for _, path := range source {
		content, err := os.ReadFile(path)
		require.NoError(t, err)
		assert.Equal(t, content, s.Object("app/"+filepath.Base(filepath.Dir(path))+"/"+filepath.Base(path)))
	}

	// One more was made in the meantime.
	w.enqueue("a late lantern")
	w.run("task-processor", "run", "--once").ok()
	w.env["IMAGE_STORE"] = bucket
	delete(w.env, "IMAGE_BASE_URL")
	move("--from", directory, "--delete-source").ok()
	assert.Equal(t, []int{6, 1, 5, 6, 5, 1}, []int{moved.Pictures, moved.Copied, moved.Present, moved.Linked, moved.Deleted, moved.Kept})
	assert.Equal(t, 6, linked(s.Endpoint+"/pictures/app/"))
	assert.Len(t, w.pictures(), 1, "the application's row still names it")
	assert.Contains(t, w.run("task-processor", "pictures", "move", "--from", directory, "--lang", "zh").ok(), "1 个已完成任务")

	// And back, with a URL of its own.
	w.enqueue("another lantern")
	w.run("task-processor", "run", "--once").ok()
	move("--to", filepath.Join(w.dir, "back"), "--base-url", "https://cdn.example/{key}").ok()
	assert.Equal(t, []int{7, 7, 7}, []int{moved.Pictures, moved.Copied, moved.Linked})
	assert.Equal(t, 7, linked("https://cdn.example/"))
	move("--to", bucket).is(2)
	move("--to", "ftp://x").is(2)
	assert.Len(t, w.api.Calls(), 7)
	w.audit()
}

// The monitor removes from a bucket what no task uses, as from a directory, and from the spool what the bucket has.
func TestMonitor_CleansBucket(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	s := inBucket(t, w)
	w.grant(3)
	ids := w.enqueue("a lantern", "--count", "3")
	w.run("task-processor", "run", "--once").ok()
	keys := s.Keys(".png")
	require.Len(t, keys, 3)
	for _, key := range keys {
		s.Age(key, 48*time.Hour)
	}
	_, err := w.db.Exec(`update imagetasks.tasks set completed_at = now() - interval '25 hours'`)
	require.NoError(t, err)
	_, err = w.db.Exec(`update imagetasks.tasks set image_url = 'https://app.example/own.png' where task_id = $1`, ids[0])
	require.NoError(t, err)
	_, err = w.db.Exec(`delete from imagetasks.tasks where task_id = $1`, ids[1])
	require.NoError(t, err)
	installation := strings.Split(keys[0], "/")[1]
	left := filepath.Join(w.dir, "picture-spool", installation, "waiting", filepath.Base(keys[2]))
	require.NoError(t, os.WriteFile(left, s.Object(keys[2]), 0o600))
	old := time.Now().Add(-2 * time.Hour)
	require.NoError(t, os.Chtimes(left, old, old))
	var pass struct {
		Pictures struct{ Checked, Removed int }
	}
	r := w.run("monitor-tasks", "--json")
	r.ok()
	r.json(&pass)
	assert.Equal(t, []int{3, 1}, []int{pass.Pictures.Checked, pass.Pictures.Removed})
	rest := s.Keys(".png")
	assert.Len(t, rest, 2)
	assert.NotContains(t, strings.Join(rest, " "), ids[0])
	assert.NoFileExists(t, left)
	assert.Contains(t, w.run("task-processor", "pictures", "orphans").ok(), "task "+ids[1]+"  run 1")
	assert.Contains(t, w.run("task-processor", "tasks", "show", ids[2]).ok(), ids[2]+"-1-")
	s.Kill()
	assert.NoError(t, os.Remove(filepath.Join(w.dir, "task-monitor.state")))
	assert.Contains(t, w.run("monitor-tasks").is(3), "! pictures that no task uses could not be removed: ")
}
