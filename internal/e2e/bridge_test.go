package e2e_test

import (
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// adopted returns a host whose database has a small application with a bridge, and a user of it with 10 credits.
func adopted(t *testing.T, options ...option) *fixture {
	t.Helper()
	w := newFixture(t, options...)
	application, err := os.ReadFile(filepath.Join(root, "pkg/store/testdata/bridge.sql"))
	require.NoError(t, err)
	w.exec(string(application))
	w.exec(`alter table public.gallery drop constraint gallery_url_check`) // the pictures of the tests are files
	w.exec(`insert into public.wallets values ($1, 10)`, w.user)
	return w
}

func (w *fixture) exec(query string, args ...any) {
	w.t.Helper()
	_, err := w.db.Exec(query, args...)
	require.NoError(w.t, err)
}

// job inserts a row of the application.
func (w *fixture) job(id, prompt string) {
	w.t.Helper()
	w.exec(`insert into public.jobs (id, owner, prompt) values ($1, $2, $3)`, id, w.user, prompt)
}

func (w *fixture) jobs(state string) int {
	w.t.Helper()
	return w.number(`select count(*) from public.jobs where state = $1`, state)
}

// wallet returns the user's credits in the application's table.
func (w *fixture) wallet() int {
	w.t.Helper()
	return w.number(`select credits from public.wallets where owner = $1`, w.user)
}

func TestBridge_RowsToPictures(t *testing.T) {
	t.Parallel()
	w := adopted(t)
	p := w.start("task-processor", "run", "--status-addr", "127.0.0.1:0")
	w.statusOf(p)
	w.job("j1", "a lantern")
	w.job("j2", "[moderation] a lantern")
	w.waitFor("the ends of both", func() bool {
		return w.number(`select count(*) from public.jobs where state = 'completed' and url is not null or state = 'failed' and refunded`) == 2
	})
	assert.Equal(t, 11, w.wallet())
	assert.Equal(t, 1, w.number(`select count(*) from public.gallery g join public.jobs j on j.id = g.job and j.url = g.url`))

	// Cancelled by the application while in flight.
	release := sync.OnceFunc(w.api.BlockResponses())
	defer release()
	w.job("j3", "a lantern")
	w.waitFor("the progress in their row", func() bool {
		return w.number(`select count(*) from public.jobs where id = 'j3' and state = 'processing' and stage = 'waiting for the API'`) == 1
	})
	w.exec(`update public.jobs set state = 'cancelled', refunded = true where id = 'j3'`)
	w.waitFor("the cancel", func() bool {
		return w.number(`select count(*) from imagetasks.tasks where task_id = 'j3' and status = 'cancelled' and error_code = 'superseded'`) == 1
	})
	assert.Contains(t, w.run("task-processor", "tasks", "show", "j3").ok(), "superseded: the application had closed or deleted its row")
	assert.Contains(t, w.run("task-processor", "tasks", "show", "--lang", "zh", "j1").ok(), "已写入")
	release()
	body, _ := w.get(p, "/metrics")
	assert.Contains(t, body, "imagetasks_bridge_active 1")
	assert.Contains(t, w.run("task-processor", "status").stdout, "active since")
	p.stop(syscall.SIGTERM).ok()
	assert.Equal(t, 1, w.jobs("cancelled"), "it stays as the application left it")
	assert.Equal(t, 11, w.wallet(), "what the application gave back is not given back again")
}

func TestBridge_RunOnce(t *testing.T) {
	t.Parallel()
	w := adopted(t)
	for _, id := range []string{"j1", "j2", "j3"} {
		w.job(id, "a lantern")
	}
	w.job("j4", "[moderation] a lantern")
	w.run("task-processor", "run", "--once").ok()
	assert.Equal(t, 3, w.jobs("completed"))
	assert.Equal(t, 11, w.wallet())
	assert.Zero(t, w.number(`select count(*) from imagetasks.outbox`))

	// An end that can't be written.
	w.exec(`alter table public.jobs add check (id <> 'j5' or url is null)`)
	w.job("j5", "a lantern")
	r := w.run("task-processor", "run", "--once")
	r.is(3)
	assert.Contains(t, r.stderr, "still to be written")
	status := w.run("task-processor", "status")
	assert.Contains(t, status.is(3), "close j5")
	assert.Contains(t, status.stdout, "adopt --check")
	assert.Contains(t, w.run("task-processor", "tasks", "show", "j5").ok(), "owed: its end is still to be written")
}

// Two processors, and one that is killed between the end of its tasks and their writing: each end is written once.
func TestBridge_ProcessorKilled(t *testing.T) {
	t.Parallel()
	w := adopted(t)
	w.env["TASK_LEASE"] = "3s"
	first := w.start("task-processor", "run")
	for _, id := range []string{"j1", "j2", "j3"} {
		w.job(id, "[moderation] a lantern")
	}
	// Their rows are locked, so that the ends stay in the outbox.
	w.waitFor("the tasks", func() bool { return w.number(`select count(*) from imagetasks.tasks`) == 3 })
	tx, err := w.db.Begin()
	require.NoError(t, err)
	defer tx.Rollback()
	_, err = tx.Exec(`select from public.wallets for update`)
	require.NoError(t, err)
	w.waitFor("the ends", func() bool { return w.number(`select count(*) from imagetasks.outbox`) == 3 })
	require.NoError(t, first.Process.Kill())
	first.result()
	// A statement that the server is still executing gives up when the rows stay locked.
	w.waitFor("the end of its connections", func() bool {
		return w.number(`select count(*) from pg_stat_activity where application_name = 'imagetasks' and datname = current_database()`) == 0
	})
	require.NoError(t, tx.Commit())
	assert.Equal(t, 10, w.wallet())
	second, third := w.start("task-processor", "run"), w.start("task-processor", "run")
	w.waitFor("the refunds", func() bool { return w.wallet() == 13 })
	w.job("j4", "a lantern")
	w.waitFor("a picture", func() bool { return w.jobs("completed") == 1 })
	for _, p := range []*process{second, third} {
		p.stop(syscall.SIGTERM).ok()
	}
	assert.Equal(t, 13, w.wallet())
	assert.Equal(t, 3, w.number(`select count(*) from public.jobs where refunded`))
	w.audit()
}

// Without a processor, the monitor and fix-stuck-tasks take over, cancel and refund.
func TestBridge_WithoutProcessor(t *testing.T) {
	t.Parallel()
	w := adopted(t)
	w.job("j1", "a lantern")
	w.job("j2", "a lantern")
	w.run("monitor-tasks")
	require.Equal(t, 2, w.count("pending"))
	w.run("task-processor", "cancel", "--task", "j1").ok()
	var pass struct {
		Bridge struct {
			Applied  int
			Refunded int `json:"credits_refunded"`
		}
	}
	w.run("monitor-tasks", "--json").json(&pass)
	assert.Equal(t, 1, pass.Bridge.Applied)
	assert.Equal(t, 1, pass.Bridge.Refunded)
	assert.Equal(t, 11, w.wallet())
	assert.Equal(t, 1, w.jobs("cancelled"))

	w.exec(`update imagetasks.tasks set status = 'processing', leased_by = 'gone', lease_expires_at = now() - interval '1 hour',
		processing_started_at = now() - interval '1 hour', lease_epoch = 1 where task_id = 'j2'`)
	r := w.run("fix-stuck-tasks")
	assert.Contains(t, r.ok(), "the end of 1 task is written to the application's tables, 1 credit refunded there")
	assert.Equal(t, 12, w.wallet())

	// A refund that stands in no outbox.
	w.job("j3", "a lantern")
	w.run("monitor-tasks")
	w.run("task-processor", "cancel", "--task", "j3").ok()
	w.exec(`delete from imagetasks.outbox`)
	w.run("fix-stuck-tasks", "audit").is(3)
	r = w.run("fix-stuck-tasks", "audit", "--repair")
	assert.Contains(t, r.ok(), "task j3: owed to the application's table")
	assert.Equal(t, 13, w.wallet())
	assert.NotContains(t, w.run("fix-stuck-tasks", "audit", "--repair", "--lang", "zh").ok(), "应在应用的表中退款")
	assert.Equal(t, 13, w.wallet())
}

// A lock that the application holds for long holds up its own row only, and is reported when it lasts.
func TestBridge_LongLock(t *testing.T) {
	t.Parallel()
	w := adopted(t)
	p := w.start("task-processor", "run")
	release := sync.OnceFunc(w.api.BlockResponses())
	defer release()
	w.job("j1", "a lantern")
	w.job("j2", "a lantern")
	w.waitFor("requests", func() bool { return len(w.api.Calls()) == 2 })
	tx, err := w.db.Begin()
	require.NoError(t, err)
	defer tx.Rollback()
	_, err = tx.Exec(`select from public.jobs where id = 'j1' for update`)
	require.NoError(t, err)
	release()
	w.waitFor("the other picture", func() bool { return w.jobs("completed") == 1 })
	w.waitFor("the end of the first", func() bool { return w.count("completed") == 2 })
	w.exec(`update imagetasks.outbox set created_at = now() - interval '2 minutes'`)
	assert.Contains(t, w.run("task-processor", "status").is(3), "the bridge to the application's tables is behind")
	began := time.Now()
	p.stop(syscall.SIGTERM).ok()
	assert.Less(t, time.Since(began), 20*time.Second)
	require.NoError(t, tx.Commit())
	w.run("monitor-tasks")
	assert.Equal(t, 2, w.jobs("completed"))
}
