package e2e_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/postgres"
	"imagetasks/internal/smalldisk"
	"imagetasks/pkg/supervise"
)

// daemons returns the pids of the background processors that run in the fixture's directory.
func (w *fixture) daemons() []string {
	w.t.Helper()
	var pids []string
	for pid := range commandLines(w.t) {
		if at, err := os.Readlink("/proc/" + pid + "/cwd"); err != nil || at != w.dir {
			continue
		}
		if line, err := os.ReadFile("/proc/" + pid + "/cmdline"); err == nil && strings.Contains(string(line), "--background") {
			pids = append(pids, pid)
		}
	}
	return pids
}

// replacements are what may stand in the place of the pid file under a running daemon.
func replacements() map[string]func(t *testing.T, path string) {
	return map[string]func(t *testing.T, path string){
		"deleted": func(*testing.T, string) {},
		"another file": func(t *testing.T, path string) {
			require.NoError(t, os.WriteFile(path, fmt.Appendln(nil, os.Getpid()), 0o644))
		},
		"a directory": func(t *testing.T, path string) { require.NoError(t, os.Mkdir(path, 0o755)) },
		"a symbolic link": func(t *testing.T, path string) {
			require.NoError(t, os.Symlink(filepath.Join(filepath.Dir(path), "precious"), path))
		},
	}
}

// Whatever happens to the pid file of a running daemon: there is one daemon, it is never dead, and stop stops it.
func TestPIDFile_ReplacedUnderARunningDaemon(t *testing.T) {
	t.Parallel()
	for name, replace := range replacements() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newFixture(t)
			withDaemon(w)
			precious := filepath.Join(w.dir, "precious")
			require.NoError(t, os.WriteFile(precious, []byte("precious\n"), 0o644))
			w.run("task-processor", "start").ok()
			pid := w.pid()
			path := filepath.Join(w.dir, "task-processor.pid")
			check := func() {
				t.Helper()
				assert.Contains(t, w.run("task-processor", "start").ok(), fmt.Sprintf("is already running (pid %d)", pid))
				assert.Contains(t, w.run("task-processor", "status").ok(), fmt.Sprintf("running (pid %d)", pid))
				report := w.monitorPass(0)
				assert.Equal(t, "running", report.Processor.Verdict)
				assert.Empty(t, report.Processor.Action)
				assert.Equal(t, []string{fmt.Sprint(pid)}, w.daemons())
			}
			// While it is suspended, it can't put the file back.
			require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
			require.NoError(t, os.Remove(path))
			replace(t, path)
			check()
			beside := w.start("task-processor", "run")
			w.waitFor("it runs beside the daemon", func() bool {
				text := beside.stderr.String()
				return strings.Contains(text, "runs without supervision") && strings.Contains(text, "starts; the image API") || beside.ended()
			})
			if strings.HasPrefix(name, "a ") {
				assert.Contains(t, beside.result().stderr, "remove it", "nothing is locked in the place of the file")
			} else {
				beside.stop(syscall.SIGTERM).ok()
			}
			require.NoError(t, syscall.Kill(pid, syscall.SIGCONT))
			if strings.HasPrefix(name, "a ") {
				w.waitFor("the log says so", func() bool { return strings.Contains(w.file("task-processor.log"), "the pid file is not in order") })
			} else {
				w.waitFor("the file is back", func() bool {
					state, err := supervise.Dir(w.dir).Inspect()
					return err == nil && state.Running && state.PID == pid
				})
				assert.Equal(t, pid, w.pid())
			}
			check()
			assert.Contains(t, w.run("task-processor", "stop").ok(), fmt.Sprintf("(pid %d) has stopped", pid))
			assert.Empty(t, w.daemons())
			assert.Equal(t, "stopped", w.monitorPass(0).Processor.Verdict)
			assert.Equal(t, "precious\n", w.file("precious"))
			if strings.HasPrefix(name, "a ") {
				refused := w.run("task-processor", "start")
				refused.is(1)
				assert.Contains(t, refused.stderr, "task-processor.pid is "+name)
				require.NoError(t, os.Remove(path))
			}
			w.run("task-processor", "start").ok()
			w.run("task-processor", "stop").ok()
		})
	}
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// A hung processor without its pid file is found by its old heartbeat and replaced: two never run.
func TestPIDFile_DeletedUnderAHungDaemon(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	withDaemon(w)
	w.env["HUNG_AFTER"], w.env["SHUTDOWN_GRACE"] = "3s", "1s"
	w.run("task-processor", "start").ok()
	hung := w.pid()
	require.NoError(t, syscall.Kill(hung, syscall.SIGSTOP))
	require.NoError(t, os.Remove(filepath.Join(w.dir, "task-processor.pid")))
	w.waitFor("silence", func() bool {
		return w.number(`select count(*) from imagetasks.processors where beat_at < now() - interval '3500 ms'`) == 1
	})
	report := w.monitorPass(0)
	assert.Equal(t, "hung", report.Processor.Verdict)
	assert.Equal(t, "restarted", report.Processor.Action)
	assert.Equal(t, []string{fmt.Sprint(w.pid())}, w.daemons())
	assert.NotEqual(t, hung, w.pid())
	w.run("task-processor", "stop").ok()
}

// Two directories on one host are two processors, and neither takes the other for itself.
func TestPIDFile_OfAnotherDirectory(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	withDaemon(w)
	w.run("task-processor", "start").ok()
	first := w.pid()
	other := filepath.Join(w.dir, "other")
	w.env["LOG_DIR"] = other
	assert.Equal(t, "never started", w.monitorPass(0).Processor.Verdict)
	assert.Contains(t, w.run("task-processor", "stop").ok(), "was not running")
	assert.Contains(t, w.run("task-processor", "start").ok(), "is running")
	assert.Len(t, w.daemons(), 2)
	w.run("task-processor", "stop").ok()
	w.env["LOG_DIR"] = w.dir
	assert.Contains(t, w.run("task-processor", "status").ok(), fmt.Sprintf("running (pid %d)", first))
	w.run("task-processor", "stop").ok()
}

// The status address is asked first: without the lock and without the database, stop finds the processor and stops it.
func TestPIDFile_StatusAddressKnowsTheProcessor(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	withDaemon(w)
	w.env["STATUS_ADDR"] = freeAddress(t)
	w.run("task-processor", "start").ok()
	pid := w.pid()
	path := filepath.Join(w.dir, "task-processor.pid")
	require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP)) // so that it does not put the file back in between
	require.NoError(t, os.Remove(path))
	require.NoError(t, os.Mkdir(path, 0o755))
	require.NoError(t, syscall.Kill(pid, syscall.SIGCONT))
	database := w.env["DATABASE_URL"]
	w.env["DATABASE_URL"] = "postgres://operator:" + databasePassword + "@127.0.0.1:1/nowhere?sslmode=disable"
	assert.Contains(t, w.run("task-processor", "stop").ok(), fmt.Sprintf("(pid %d) has stopped", pid))
	assert.Empty(t, w.daemons())
	w.env["DATABASE_URL"] = database
}

// A processor of this directory ended without removing its files, and its pid belongs to the processor of another directory now.
func TestPIDFile_ReusedPID(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.withDaemons()
	w.env["LOG_DIR"] = filepath.Join(w.dir, "other")
	w.run("task-processor", "start").ok()
	pid := w.only()
	host, err := os.Hostname()
	require.NoError(t, err)
	w.env["LOG_DIR"] = w.dir
	for _, age := range []string{"20 minutes", "2 minutes"} {
		worker := host + ":" + pid + ":dead"
		_, err = w.db.Exec(`insert into imagetasks.processors (worker, host, pid, version, report, beat_at, capacity)
			values ($1, $2, $3, 'x', json_build_object('worker', $1::text, 'pid', $3::int, 'log_dir', $4::text), now() - $5::interval, 1)
			on conflict (worker) do update set beat_at = excluded.beat_at`, worker, host, pid, w.dir, age)
		require.NoError(t, err)
		assert.Contains(t, w.run("task-processor", "stop", "--now").ok(), "was not running", age)
		assert.Equal(t, pid, w.only())
	}
	w.env["LOG_DIR"] = filepath.Join(w.dir, "other")
	w.run("task-processor", "stop").ok()
}

// unprivileged makes the programs of a fixture run as a user who may not write everywhere.
func (w *fixture) unprivileged() {
	w.t.Helper()
	dir, err := os.MkdirTemp("", "imagetasks-host-")
	require.NoError(w.t, err)
	w.t.Cleanup(func() {
		_ = os.Chmod(filepath.Join(dir, "logs"), 0o755)
		w.requireNoSecrets() // while the directory exists
		w.dir = w.t.TempDir()
		assert.NoError(w.t, os.RemoveAll(dir))
	})
	require.NoError(w.t, os.Chmod(dir, 0o755))
	w.dir, w.env["HOME"] = dir, dir
	w.env["LOG_DIR"] = filepath.Join(dir, "logs")
	authority, err := os.ReadFile(w.env["SSL_CERT_FILE"])
	require.NoError(w.t, err)
	w.env["SSL_CERT_FILE"] = filepath.Join(dir, "ca.pem")
	require.NoError(w.t, os.WriteFile(w.env["SSL_CERT_FILE"], authority, 0o644))
	require.NoError(w.t, os.Mkdir(w.env["LOG_DIR"], 0o755))
	if os.Geteuid() != 0 {
		return
	}
	w.cred, err = postgres.Unprivileged()
	require.NoError(w.t, err)
	for _, path := range []string{dir, w.env["LOG_DIR"]} {
		require.NoError(w.t, os.Chown(path, int(w.cred.Uid), int(w.cred.Gid)))
	}
}

// withDaemons makes sure that no background processor of the fixture outlives the test.
func (w *fixture) withDaemons() {
	w.t.Cleanup(func() {
		w.waitFor("the background processors are gone", func() bool {
			for _, pid := range w.daemons() {
				var n int
				_, err := fmt.Sscan(pid, &n)
				assert.NoError(w.t, err)
				_ = syscall.Kill(n, syscall.SIGKILL)
			}
			return len(w.daemons()) == 0
		})
	})
}

func (w *fixture) only() string {
	w.t.Helper()
	pids := w.daemons()
	require.Len(w.t, pids, 1)
	return pids[0]
}

func (w *fixture) kill(pid string) {
	w.t.Helper()
	var n int
	_, err := fmt.Sscan(pid, &n)
	require.NoError(w.t, err)
	require.NoError(w.t, syscall.Kill(n, syscall.SIGKILL))
	w.waitFor("it is gone", func() bool { return len(w.daemons()) == 0 })
}

func TestLogDir_ReadOnly(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.unprivileged()
	w.withDaemons()
	w.grant(2)
	logs := w.env["LOG_DIR"]
	require.NoError(t, os.Chmod(logs, 0o500))

	started := w.run("task-processor", "start")
	assert.Contains(t, started.is(3), "is running (pid ", "it started, and the monitor does not know")
	assert.Contains(t, started.stderr, "the monitor will not restart the processor")
	first := w.only()
	w.enqueue("with a directory that can't be written")
	w.waitFor("a picture", func() bool { return w.count("completed") == 1 })
	assert.Contains(t, w.run("task-processor", "start").stdout, "is already running (pid "+first)
	assert.Contains(t, w.run("task-processor", "status").ok(), "running (pid "+first)
	report := w.monitorPass(3)
	assert.Equal(t, "running", report.Processor.Verdict)
	require.Len(t, report.Problems, 1)
	assert.Equal(t, "log_dir_unwritable", report.Problems[0].Code)
	stopped := w.run("task-processor", "stop")
	assert.Contains(t, stopped.is(3), "has stopped; the monitor may start it again")
	assert.Contains(t, stopped.stderr, "the stop could not be recorded")
	assert.Contains(t, w.run("task-processor", "stop", "--lang", "zh").is(3), "监控可能会再次启动它")
	assert.Empty(t, w.daemons())

	// With the files of an earlier start.
	require.NoError(t, os.Chmod(logs, 0o755))
	w.run("task-processor", "start").ok()
	require.NoError(t, os.Chmod(logs, 0o500))
	w.kill(w.only())
	report = w.monitorPass(3)
	assert.Equal(t, "dead", report.Processor.Verdict)
	assert.Equal(t, "restarted", report.Processor.Action)
	w.enqueue("after the restart")
	w.waitFor("a picture", func() bool { return w.count("completed") == 2 })
	assert.Contains(t, w.run("task-processor", "status").ok(), "running (pid "+w.only())
	w.run("task-processor", "stop").is(3)
	assert.Empty(t, w.daemons())
	w.audit()
}

func TestLogDir_Removed(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.withDaemons()
	w.env["LOG_DIR"] = filepath.Join(w.dir, "logs")
	w.run("task-processor", "start").ok()
	pid := w.only()
	require.NoError(t, os.RemoveAll(w.env["LOG_DIR"]))
	assert.Contains(t, w.run("task-processor", "status").ok(), "running (pid "+pid)
	assert.Contains(t, w.run("task-processor", "stop").ok(), "(pid "+pid+") has stopped; the monitor will not start it")
	assert.Empty(t, w.daemons())
}

func TestLogDir_FullDisk(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.env["LOG_DIR"] = smalldisk.Mount(t, "size=128k")
	w.env["ALERT_DISK_FREE"] = "1024" // the disk has little space when it is empty, too
	w.withDaemons()
	filler, err := os.Create(filepath.Join(w.env["LOG_DIR"], "filler"))
	require.NoError(t, err)
	_, err = io.Copy(filler, io.LimitReader(strings.NewReader(strings.Repeat("x", 1<<20)), 1<<20))
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.NoError(t, filler.Close())
	w.grant(3)
	works := func(n int) {
		t.Helper()
		w.enqueue("on a full disk")
		w.waitFor("a picture", func() bool { return w.count("completed") == n })
	}

	foreground := w.start("task-processor", "run")
	works(1)
	foreground.stop(syscall.SIGTERM).ok()
	assert.Equal(t, 1, strings.Count(foreground.stderr.String(), "warning: the log file"), foreground.stderr.String())
	assert.NotContains(t, foreground.stderr.String(), "Failed to")

	w.run("task-processor", "start").ok()
	works(2)
	first := w.only()
	status := w.run("task-processor", "status").is(3) // the disk is full
	assert.Contains(t, status, "running (pid "+first, "the kernel knows the pid")
	assert.Contains(t, status, "0 MB are free on the disk of "+w.env["LOG_DIR"])
	w.kill(first)
	report := w.monitorPass(3)
	assert.Equal(t, "restarted", report.Processor.Action)
	require.Len(t, report.Problems, 2)
	assert.Equal(t, "disk_nearly_full", report.Problems[0].Code)
	assert.Equal(t, "log_dir_unwritable", report.Problems[1].Code)
	works(3)
	second := w.only()
	assert.Contains(t, w.run("task-processor", "stop").ok(), "(pid "+second+") has stopped; the monitor will not start it")
	assert.Equal(t, "stopped", w.monitorPass(3).Processor.Verdict)
	assert.Empty(t, w.daemons())
	require.NoError(t, os.Remove(filler.Name()))
	w.run("task-processor", "start").ok()
	assert.Equal(t, "running", w.monitorPass(0).Processor.Verdict)
	w.run("task-processor", "stop").ok()
	w.audit()
}

func TestStop_NowCutsPaidRequests(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	withDaemon(w)
	w.env["SHUTDOWN_GRACE"] = "10m"
	w.env["TASK_TIMEOUT"] = "15m"
	w.grant(1)
	release := w.api.BlockResponses()
	defer release()
	w.run("task-processor", "start").ok()
	w.enqueue("long")
	w.waitFor("the request", func() bool { return len(w.api.Calls()) == 1 })
	pid := w.pid()

	// Ctrl-C ends the command, and the processor goes on stopping.
	patient := w.start("task-processor", "stop")
	w.waitFor("it says what it waits for", func() bool { return strings.Contains(patient.stderr.String(), "waiting for paid requests") })
	assert.Contains(t, patient.stderr.String(), "at most 25m20s; to cut them: ")
	assert.Contains(t, patient.stderr.String(), "task-processor stop --now")
	interrupted := patient.stop(syscall.SIGINT)
	interrupted.is(1)
	assert.Contains(t, interrupted.stderr, "may still be stopping")
	assert.True(t, supervise.ProcessExists(pid))

	chinese := w.start("task-processor", "stop", "--lang", "zh")
	w.waitFor("it says what it waits for", func() bool { return strings.Contains(chinese.stderr.String(), "正在等待已付费的请求完成") })
	began := time.Now()
	w.run("task-processor", "stop", "--now").ok()
	chinese.result().ok()
	assert.Less(t, time.Since(began), time.Minute)
	assert.Equal(t, 1, w.count("pending"))
	assert.Equal(t, "stopped", w.monitorPass(0).Processor.Verdict)
	w.waitUntilStopped()
}

func TestRestart_Now(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	withDaemon(w)
	w.env["SHUTDOWN_GRACE"] = "10m"
	w.env["TASK_TIMEOUT"] = "15m"
	w.grant(1)
	release := w.api.BlockResponses()
	w.run("task-processor", "start").ok()
	w.enqueue("long")
	w.waitFor("the request", func() bool { return len(w.api.Calls()) == 1 })
	first := w.pid()
	assert.Contains(t, w.run("task-processor", "restart", "--now").ok(), "is running")
	assert.NotEqual(t, first, w.pid())
	release()
	w.waitFor("a picture", func() bool { return w.count("completed") == 1 })
	w.run("task-processor", "stop").ok()
}
