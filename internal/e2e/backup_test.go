package e2e_test

import (
	"database/sql"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/postgres"
)

// postgresProgram runs one of PostgreSQL's own programs, and returns what it printed.
func postgresProgram(t *testing.T, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		dir, err := postgres.Find()
		require.NoError(t, err)
		path = filepath.Join(dir, name)
	}
	out, err := exec.CommandContext(t.Context(), path, args...).CombinedOutput()
	require.NoError(t, err, "%s: %s", name, out)
	return string(out)
}

// restored is the fixture with its programs pointed at another database, into which a dump of its own was restored.
func (w *fixture) restored(t *testing.T, restore func(url string)) *fixture {
	t.Helper()
	target := server.Empty(t)
	restore(target)
	r := &fixture{t: t, dir: w.dir, api: w.api, proxy: w.proxy, env: maps.Clone(w.env), user: w.user, prompts: w.prompts}
	var err error
	r.db, err = sql.Open("postgres", target)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, r.db.Close()) })
	u, err := url.Parse(target)
	require.NoError(t, err)
	u.User = url.UserPassword("postgres", databasePassword)
	r.env["DATABASE_URL"] = u.String()
	t.Cleanup(r.requireNoSecrets)
	return r
}

// Tasks that were completed after the dump are pending and processing again in the database that it is restored into. Nothing is
// claimed, closed or removed there until an operator resumes; then their pictures are found and used.
func TestBackup_RestoredIntoAnotherDatabase(t *testing.T) {
	w := newFixture(t)
	for name, value := range map[string]string{"TASK_LEASE": "2s", "TASK_TIMEOUT": "1m", "STUCK_AFTER": "2m", "PENDING_TIMEOUT": "2m"} {
		w.env[name] = value
	}
	other := uuid.NewString()
	w.run("task-processor", "credits", "grant", "--user", other, "--credits", "1").ok()
	w.run("task-processor", "enqueue", "--user", other, "--prompt", "a picture that is to be forgotten").ok()
	w.grant(20)
	late := w.enqueue("a picture that arrived after the cancel")[0]
	w.run("task-processor", "run", "--once").ok()

	// Of 6 tasks, 3 are processing at the time of the dump, and all are completed after it.
	release := w.api.BlockResponses()
	w.enqueue("a lantern by the river", "--count", "6")
	processor := w.start("task-processor", "run", "--concurrency", "3")
	w.waitFor("paid requests", func() bool { return w.api.Busy() == 3 })
	dump := filepath.Join(t.TempDir(), "dump")
	database, err := url.Parse(w.env["DATABASE_URL"])
	require.NoError(t, err)
	postgresProgram(t, "pg_dump", "--format=custom", "--schema=imagetasks", "--file="+dump, database.String())
	script := filepath.Join(t.TempDir(), "dump.sql")
	postgresProgram(t, "pg_dump", "--schema=imagetasks", "--file="+script, database.String())
	release()
	w.waitFor("the pictures", func() bool { return w.count("completed") == 8 })
	w.enqueue("a picture that no backup has")
	w.waitFor("one more", func() bool { return w.count("completed") == 9 })
	processor.stop(syscall.SIGTERM).ok()
	before := w.pictures()
	require.Len(t, before, 9)
	require.Len(t, w.api.Calls(), 9)
	old := time.Now().Add(-48 * time.Hour)
	for _, path := range before {
		require.NoError(t, os.Chtimes(path, old, old))
	}

	byScript := w.restored(t, func(url string) {
		postgresProgram(t, "psql", "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--file="+script, url)
	})
	assert.Contains(t, byScript.run("task-processor", "status").is(3), "! this database is a copy or a restored backup of another one")

	r := w.restored(t, func(url string) { postgresProgram(t, "pg_restore", "--exit-on-error", "--dbname="+url, dump) })
	require.Equal(t, 3, r.count("pending"))
	require.Equal(t, 3, r.count("processing"))
	// It is restored much later.
	_, err = r.db.Exec(`update imagetasks.tasks set processing_started_at = processing_started_at - interval '1 hour', run_after = run_after - interval '1 hour',
		lease_expires_at = lease_expires_at - interval '1 hour' where status in ('pending', 'processing')`)
	require.NoError(t, err)
	_, err = r.db.Exec(`update imagetasks.tasks set status = 'cancelled', image_url = null, completed_at = now() - interval '2 days' where task_id = $1`, late)
	require.NoError(t, err)
	_, err = r.db.Exec(`update imagetasks.credits set credits = credits + 1 where user_id = $1`, w.user)
	require.NoError(t, err)
	_, err = r.db.Exec(`insert into imagetasks.ledger (user_id, task_id, run, kind, amount, balance_after)
		select user_id, $2, 1, 'refund', 1, credits from imagetasks.credits where user_id = $1`, w.user, late)
	require.NoError(t, err)
	_, err = r.db.Exec(`update imagetasks.tasks set credits_refunded = 1 where task_id = $1`, late)
	require.NoError(t, err)
	fresh := r.enqueue("a lantern after the restore")[0] // the application goes on
	credits := r.credits()

	once := r.run("task-processor", "run", "--once")
	once.is(3)
	assert.Contains(t, once.stderr, "the database is a copy or a restored backup")
	running := r.start("task-processor", "run")
	r.waitFor("a heartbeat", func() bool {
		return r.number(`select count(*) from imagetasks.processors where report ->> 'in_flight' = '0'`) > 0
	})
	assert.Contains(t, r.run("task-processor", "status").is(3), "task-processor resume")
	fixed := r.run("fix-stuck-tasks")
	assert.Contains(t, fixed.is(3), "0 stuck tasks failed, 0 credits refunded, 3 remaining")
	assert.Contains(t, fixed.stdout, "this database is a copy or a restored backup")
	assert.Contains(t, r.run("monitor-tasks", "--quiet").is(3), "! this database is a copy or a restored backup of another one")
	forgotten := r.run("task-processor", "users", "forget", "--user", other)
	assert.Contains(t, forgotten.is(3), "1 picture was not deleted: this database is a copy or a restored backup")
	running.stop(syscall.SIGTERM).ok()

	assert.Equal(t, 4, r.count("pending"))
	assert.Equal(t, 3, r.count("processing"))
	assert.Equal(t, credits, r.credits())
	assert.Equal(t, before, r.pictures())
	require.Len(t, w.api.Calls(), 9)

	assert.Equal(t, "claiming is resumed\n", r.run("task-processor", "resume").ok())
	r.run("task-processor", "run", "--once").ok()
	assert.Equal(t, 8, r.count("completed"))
	require.Len(t, w.api.Calls(), 10, "only the task that was enqueued after the restore is paid for")
	assert.Len(t, r.pictures(), 10)
	assert.Equal(t, 1, r.number(`select count(*) from imagetasks.tasks where task_id = $1 and requests_sent = 1`, fresh))
	assert.Contains(t, r.run("task-processor", "pictures", "orphans").ok(), "1 of them, ")
	r.audit()
	assert.NotContains(t, r.run("task-processor", "status").stdout, "restored backup")

	// A restore in place can't be recognized; the operator says it.
	assert.Contains(t, r.run("task-processor", "pause", "--restored", "--reason", "restored in place").ok(), "(restored in place)")
	assert.Contains(t, r.run("monitor-tasks", "--quiet").is(3), "! this database is a copy or a restored backup of another one")
	r.run("task-processor", "resume").ok()
	assert.NotContains(t, r.run("task-processor", "status").stdout, "claiming was paused")
}
