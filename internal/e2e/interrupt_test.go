package e2e_test

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/pgfault"
)

// gateway is a TCP relay to the database that can stop passing anything on, with its connections left open.
// Without a target it accepts connections and never responds.
type gateway struct {
	listener net.Listener
	target   string // path of the database's socket; empty: none

	mu     sync.Mutex
	frozen bool
	conns  []net.Conn
	count  int
	wg     sync.WaitGroup
}

func newGateway(t *testing.T, target string) *gateway {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	g := &gateway{listener: listener, target: target}
	g.wg.Go(g.accept)
	t.Cleanup(func() {
		_ = listener.Close()
		g.mu.Lock()
		for _, c := range g.conns {
			_ = c.Close()
		}
		g.mu.Unlock()
		g.wg.Wait()
	})
	return g
}

// databaseSocket is the path of the test server's Unix socket.
func databaseSocket() string { return filepath.Join(server.SocketDir(), ".s.PGSQL.5432") }

func (g *gateway) accept() {
	for {
		client, err := g.listener.Accept()
		if err != nil {
			return
		}
		g.mu.Lock()
		g.count++
		g.conns = append(g.conns, client)
		g.mu.Unlock()
		if g.target == "" {
			continue
		}
		server, err := net.Dial("unix", g.target)
		if err != nil {
			_ = client.Close()
			continue
		}
		g.mu.Lock()
		g.conns = append(g.conns, server)
		g.mu.Unlock()
		g.wg.Go(func() { g.relay(server, client) })
		g.wg.Go(func() { g.relay(client, server) })
	}
}

// relay copies until an end closes its side; what arrives while the gateway is frozen is dropped.
func (g *gateway) relay(to io.WriteCloser, from io.Reader) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		g.mu.Lock()
		frozen := g.frozen
		g.mu.Unlock()
		switch {
		case frozen && err == nil:
			continue
		case frozen:
			return
		case n > 0:
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			_ = to.Close()
			return
		}
	}
}

func (g *gateway) freeze() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.frozen = true
}

// accepted returns how many connections were made.
func (g *gateway) accepted() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.count
}

// through points the fixture's programs at the gateway.
func (g *gateway) through(t *testing.T, w *fixture, options string) {
	t.Helper()
	u, err := url.Parse(w.env["DATABASE_URL"])
	require.NoError(t, err)
	q := u.Query()
	q.Del("host")
	q.Del("port")
	u.Host = g.listener.Addr().String()
	u.RawQuery = q.Encode() + options
	w.env["DATABASE_URL"] = u.String()
}

// interruptLimit is how long an interrupted program may take to exit, with room for a busy machine.
const interruptLimit = 3 * time.Second

// databaseCommands are the commands of all programs that use the database.
var databaseCommands = [][]string{
	{"task-processor", "run"},
	{"task-processor", "run", "--once"},
	{"task-processor", "start"},
	{"task-processor", "restart"},
	{"task-processor", "status"},
	{"task-processor", "migrate"},
	{"task-processor", "migrate", "--plan"},
	{"task-processor", "enqueue", "--user", "00000000-0000-4000-8000-000000000001", "--prompt", "x"},
	{"task-processor", "cancel", "--task", "x"},
	{"task-processor", "credits", "grant", "--user", "00000000-0000-4000-8000-000000000001", "--credits", "1"},
	{"task-processor", "credits", "show", "--user", "00000000-0000-4000-8000-000000000001"},
	{"monitor-tasks"},
	{"monitor-tasks", "--watch"},
	{"fix-stuck-tasks"},
	{"fix-stuck-tasks", "audit"},
}

// exitOnInterrupt returns the exit code that a command has when it is interrupted before it did its work.
func exitOnInterrupt(command []string) int {
	switch strings.Join(command, " ") {
	case "task-processor run", "monitor-tasks --watch": // they stop gracefully
		return 0
	}
	return 1
}

func checkInterrupted(t *testing.T, command []string, p *process, signals ...syscall.Signal) {
	t.Helper()
	began := time.Now()
	for i, s := range signals {
		// The first signal may have ended the program before the second is sent.
		if err := p.Process.Signal(s); i == 0 || !errors.Is(err, os.ErrProcessDone) {
			require.NoError(t, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	select {
	case <-p.done:
	case <-time.After(4 * interruptLimit):
		_ = p.Process.Kill()
	}
	r := p.result()
	assert.Less(t, time.Since(began), interruptLimit, "%v", command)
	want := exitOnInterrupt(command)
	if strings.Contains(r.stderr, "task-processor stopped:") {
		want = 0 // it worked already, and nothing was in flight
	}
	assert.Equal(t, want, r.code, "%v\n%s%s", command, r.stdout, r.stderr)
	assert.NotContains(t, r.stderr, "panic")
	if r.code == 1 {
		assert.Contains(t, r.stderr, "error: interrupted", "%v", command)
		assert.Equal(t, 1, strings.Count(r.stderr, "error: "), "%v\n%s", command, r.stderr)
	}
}

func TestInterrupt_SilentDatabase(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	g := newGateway(t, "")
	g.through(t, w, "&connect_timeout=0")
	for _, command := range databaseCommands {
		before := g.accepted()
		p := w.start(command[0], command[1:]...)
		w.waitFor("it connects", func() bool { return g.accepted() > before })
		checkInterrupted(t, command, p, syscall.SIGINT)
	}
}

func TestInterrupt_TwoSignalsBeforeTheDatabaseResponds(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	g := newGateway(t, "")
	g.through(t, w, "&connect_timeout=0")
	for _, command := range [][]string{{"task-processor", "run"}, {"task-processor", "run", "--once"}, {"fix-stuck-tasks"}} {
		before := g.accepted()
		p := w.start(command[0], command[1:]...)
		w.waitFor("it connects", func() bool { return g.accepted() > before })
		checkInterrupted(t, command, p, syscall.SIGINT, syscall.SIGINT)
	}
}

// An address that drops packets: TEST-NET-1 of RFC 5737 is routed nowhere. Where the network refuses it at once, the
// program retries, and an interrupt ends that.
func TestInterrupt_UnroutedDatabase(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.env["DATABASE_URL"] = "postgres://u:" + databasePassword + "@192.0.2.1:5432/x?connect_timeout=0"
	for _, command := range [][]string{{"task-processor", "run"}, {"task-processor", "status"}, {"monitor-tasks"}, {"fix-stuck-tasks"}} {
		p := w.start(command[0], command[1:]...)
		time.Sleep(300 * time.Millisecond)
		checkInterrupted(t, command, p, syscall.SIGTERM)
	}
}

func TestInterrupt_DatabaseHangsInAStatement(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	direct := w.env["DATABASE_URL"]
	waiting := func() int {
		return w.number(`select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`)
	}
	for _, command := range databaseCommands {
		w.env["DATABASE_URL"] = direct
		g := newGateway(t, databaseSocket())
		g.through(t, w, "")
		// A statement of each command waits for this lock, and its cancel request is lost.
		tx, err := w.db.Begin()
		require.NoError(t, err)
		_, err = tx.Exec(`lock table imagetasks.tasks, imagetasks.credits, imagetasks.schema_versions in access exclusive mode`)
		require.NoError(t, err)
		p := w.start(command[0], command[1:]...)
		w.waitFor("a statement waits", func() bool { return waiting() > 0 })
		g.freeze()
		checkInterrupted(t, command, p, syscall.SIGINT)
		require.NoError(t, tx.Rollback())
		w.waitFor("no statement waits", func() bool { return waiting() == 0 })
	}
}

// The database falls silent under the nth statement of a program: its connection stays open, and others do not fare better.
func TestInterrupt_SilenceAtStatement(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	direct := w.env["DATABASE_URL"]
	for _, command := range databaseCommands {
		if slices.Contains([]string{"start", "restart"}, command[len(command)-1]) {
			continue // what they start is a program of its own, which "run" is about
		}
		for _, n := range []int{1, 3, 6} {
			proxy, through, err := pgfault.StartFor(direct)
			require.NoError(t, err)
			silent := proxy.Add(pgfault.Rule{Fault: pgfault.LostSilence, Skip: n - 1})
			w.env["DATABASE_URL"] = through
			p := w.start(command[0], command[1:]...)
			ended := func() bool {
				select {
				case <-p.done:
					return true
				default:
					return false
				}
			}
			w.waitFor("it waits for an answer", func() bool { return silent.Hits() > 0 || ended() })
			if !ended() { // a command of fewer statements ends by itself
				checkInterrupted(t, command, p, syscall.SIGTERM)
			}
			require.NoError(t, proxy.Close())
		}
	}
}

// The database falls silent once the processor is running: it has claimed nothing, so that one signal is enough.
func TestInterrupt_IdleProcessor(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	g := newGateway(t, databaseSocket())
	g.through(t, w, "")
	p := w.start("task-processor", "run")
	w.waitFor("it sent a heartbeat", func() bool { return w.number(`select count(*) from imagetasks.processors`) > 0 })
	g.freeze()
	time.Sleep(300 * time.Millisecond) // longer than POLL_INTERVAL: a statement is waiting
	checkInterrupted(t, []string{"task-processor", "run"}, p, syscall.SIGINT)
}

func TestInterrupt_JSON(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	g := newGateway(t, "")
	g.through(t, w, "&connect_timeout=0")
	p := w.start("fix-stuck-tasks", "--json")
	w.waitFor("it connects", func() bool { return g.accepted() > 0 })
	checkInterrupted(t, []string{"fix-stuck-tasks"}, p, syscall.SIGINT)
	r := p.result()
	var document struct {
		Error struct {
			Message  string `json:"message"`
			ExitCode int    `json:"exit_code"`
		} `json:"error"`
	}
	r.json(&document)
	assert.Equal(t, "interrupted", document.Error.Message)
	assert.Equal(t, 1, document.Error.ExitCode)
	assert.True(t, json.Valid([]byte(r.stdout)))
}
