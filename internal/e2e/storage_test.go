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

// outage is how long the object store is away in the test; the long form is a minute.
func outage(t *testing.T) time.Duration {
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
	time.Sleep(outage(t) - time.Since(away))
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
