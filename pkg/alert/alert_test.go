package alert

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	_ "github.com/lib/pq"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/pgtest"
	"imagetasks/pkg/finding"
	"imagetasks/pkg/lang"
	"imagetasks/pkg/store"
	"imagetasks/pkg/supervise"
)

var server *pgtest.Server

func TestMain(m *testing.M) {
	os.Exit(pgtest.Main(m, &server, func(ctx context.Context, url string) error {
		s, err := store.Open(store.Config{URL: url})
		if err != nil {
			return err
		}
		defer s.Close()
		_, err = s.Migrate(ctx, store.Roles{})
		return err
	}))
}

func newStore(t *testing.T, url string) *store.Store {
	t.Helper()
	s, err := store.Open(store.Config{URL: url})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, s.Close()) })
	return s
}

func quietLog() *logrus.Logger {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return log
}

// inbox is what a receiver got.
type inbox struct {
	mu   sync.Mutex
	got  []string // "state code"
	fail error
	hang bool
}

func (i *inbox) send(ctx context.Context, m Message) error {
	i.mu.Lock()
	hang, fail := i.hang, i.fail
	i.mu.Unlock()
	if hang {
		<-ctx.Done()
		return errors.New("the receiver did not respond in time")
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if fail == nil {
		for _, item := range m.Items {
			i.got = append(i.got, string(item.State)+" "+string(item.Finding.Code))
		}
	}
	return fail
}

func (i *inbox) all() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Clone(i.got)
}

func newConfig(t *testing.T, st Store, receivers ...Receiver) Config {
	return Config{Store: st, Receivers: receivers, Host: "web-1", Name: "shop", Quiet: time.Second, Redact: func(s string) string { return s }, Log: quietLog(),
		LostDatabase: NewLostDatabase(t.TempDir())}
}

var unreachable = finding.Finding{Code: finding.APIUnreachable, Subject: "web-1", Reason: "refused"}

func looked() map[Scope][]finding.Code {
	return map[Scope][]finding.Code{Installation: InstallationCodes(), Host: HostCodes()}
}

// Each code is found by somebody, once.
func TestCodes_Complete(t *testing.T) {
	t.Parallel()
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join("..", "finding", "finding.go"), nil, 0)
	require.NoError(t, err)
	known := slices.Concat(HostCodes(), InstallationCodes(), EventCodes(), []finding.Code{finding.DatabaseUnavailable})
	n := 0
	ast.Inspect(file, func(node ast.Node) bool {
		spec, ok := node.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 {
			return true
		}
		if typ, ok := spec.Type.(*ast.Ident); ok && typ.Name == "Code" {
			text, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			require.NoError(t, err)
			assert.Contains(t, known, finding.Code(text))
			n++
		}
		return true
	})
	assert.Len(t, known, n)
	for _, code := range EventCodes() {
		assert.True(t, code.IsEvent())
	}
}

func TestFingerprint(t *testing.T) {
	t.Parallel()
	assert.Equal(t, "api_unreachable", fingerprint(unreachable, "web-1"), "the same for all hosts")
	assert.Equal(t, "api_unreachable on web-1", fingerprint(finding.Finding{Code: finding.APIUnreachable}, "web-1"), "checked by the monitor of a host")
	assert.Equal(t, "tasks_set_aside", fingerprint(finding.Finding{Code: finding.TasksSetAside, Subject: "a, b"}, "web-1"))
	assert.Equal(t, "proxy_ejected p:1", fingerprint(finding.Finding{Code: finding.ProxyEjected, Subject: "p:1"}, "web-1"))
	assert.LessOrEqual(t, len(fingerprint(finding.Finding{Code: finding.ProxyEjected, Subject: strings.Repeat("é", 500)}, "web-1")), maxFingerprint)
}

// Two hosts see the same; one tells it. A receiver that hangs or fails delays neither the other nor the pass, and is told later.
func TestPass_TwoHostsAndADeadReceiver(t *testing.T) {
	t.Parallel()
	url := server.Database(t)
	st := newStore(t, url)
	var alive, dead inbox
	dead.fail = errors.New("500")
	conf := newConfig(t, st, Receiver{Name: "alive", Repeat: time.Hour, Send: alive.send}, Receiver{Name: "dead", Repeat: time.Hour, Send: dead.send})
	other := conf
	other.Host = "web-2"
	view := View{Host: "web-1", Findings: []finding.Finding{unreachable, {Code: finding.TasksStuck, Count: 2}}, Looked: looked(), Quiet: time.Second}
	var running sync.WaitGroup
	for _, c := range []Config{conf, other} {
		running.Go(func() {
			v := view
			v.Host = c.Host
			assert.NoError(t, Pass(t.Context(), c, v, nil))
		})
	}
	running.Wait()
	assert.ElementsMatch(t, []string{"new api_unreachable", "new tasks_stuck"}, alive.all())
	assert.Empty(t, dead.all())

	// It works again after the wait, and a program that begins then tells it what is open.
	dead.mu.Lock()
	dead.fail = nil
	dead.mu.Unlock()
	raw, err := sql.Open("postgres", url)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, raw.Close()) })
	_, err = raw.Exec(`update imagetasks.alert_receivers set next_at = now()`)
	require.NoError(t, err)
	restarted := conf
	restarted.Store = newStore(t, url)
	require.NoError(t, Pass(t.Context(), restarted, view, nil))
	assert.ElementsMatch(t, []string{"new api_unreachable", "new tasks_stuck"}, dead.all())
	assert.Len(t, alive.all(), 2)
}

// A service beside a processor tells at once what the processor knows, groups, and tells the end. It ends though a receiver hangs.
func TestService(t *testing.T) {
	t.Parallel()
	st := newStore(t, server.Database(t))
	var alive, hanging inbox
	hanging.hang = true
	conf := newConfig(t, st, Receiver{Name: "alive", Repeat: time.Hour, Send: alive.send}, Receiver{Name: "hanging", Repeat: time.Hour, Send: hanging.send})
	conf.Wait = 100 * time.Millisecond
	var mu sync.Mutex
	own := []finding.Finding{}
	set := func(found ...finding.Finding) {
		mu.Lock()
		defer mu.Unlock()
		own = found
	}
	get := func() []finding.Finding {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(own)
	}
	s := NewService(conf, Watch{Own: get, Lost: func() (time.Time, string) { return time.Time{}, "" },
		Inspect: func(context.Context) (View, bool) {
			return View{Host: "web-1", Findings: get(), Looked: looked(), Quiet: conf.Quiet}, true
		}})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); s.Run(ctx) }()
	set(unreachable, finding.Finding{Code: finding.ModelsRefused, Count: 1, Subject: "m"})
	require.Eventually(t, func() bool { return len(alive.all()) == 2 }, 20*time.Second, 10*time.Millisecond)
	set()
	require.Eventually(t, func() bool { return len(alive.all()) == 4 }, 30*time.Second, 10*time.Millisecond)
	assert.ElementsMatch(t, []string{"resolved api_unreachable", "resolved models_refused"}, alive.all()[2:])
	began := time.Now()
	cancel()
	<-ended
	assert.Less(t, time.Since(began), 5*time.Second)
}

// One process of all hosts looks for the problems of the installation; each looks for those of its own host.
func TestService_EachHost(t *testing.T) {
	t.Parallel()
	st := newStore(t, server.Database(t))
	var in inbox
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	for _, host := range []string{"web-1", "web-2"} {
		conf := newConfig(t, st, Receiver{Name: "r", Repeat: time.Hour, Send: in.send})
		conf.Host = host
		s := NewService(conf, Watch{Own: func() []finding.Finding { return nil }, Lost: func() (time.Time, string) { return time.Time{}, "" },
			Inspect: func(context.Context) (View, bool) { return View{Host: host}, true },
			OnHost: func(context.Context) (View, bool) {
				return View{Host: host, Quiet: conf.Quiet, Findings: []finding.Finding{{Code: finding.DiskNearlyFull, Subject: "/logs of " + host}}}, true
			}})
		running.Go(func() { s.Run(ctx) })
	}
	hosts := func() (n int) {
		require.NoError(t, st.ObserveAlerts(t.Context(), store.AlertView{}))
		claimed, err := st.ClaimAlerts(t.Context(), store.AlertClaim{Receiver: "test", Lease: time.Second, Repeat: time.Hour, Quiet: time.Second, Limit: 9})
		require.NoError(t, err)
		require.NoError(t, st.RecordAlerts(t.Context(), claimed, store.AlertOutcome{}))
		return len(claimed.Alerts)
	}
	assert.Eventually(t, func() bool { return hosts() == 2 }, 10*time.Second, 100*time.Millisecond)
	cancel()
	running.Wait()
}

// The database is lost: each receiver is told once for each host, by whichever program; also that it is back, and what a receiver did not accept is sent
// again.
func TestLostDatabase_ToldOncePerHost(t *testing.T) {
	t.Parallel()
	var one, two inbox
	two.fail = errors.New("500")
	conf := newConfig(t, nil, Receiver{Name: "one", Repeat: time.Hour, Send: one.send}, Receiver{Name: "two", Repeat: time.Hour, Send: two.send})
	conf.Quiet = time.Nanosecond
	same := conf // another program of the host
	same.LostDatabase = NewLostDatabase(conf.LostDatabase.dir)
	lost := errors.New("connection refused")
	require.NoError(t, Pass(t.Context(), conf, View{}, lost))
	require.NoError(t, Pass(t.Context(), same, View{}, lost))
	assert.Equal(t, []string{"new database_unavailable"}, one.all())
	assert.Empty(t, two.all())
	require.NoError(t, same.databaseBack(t.Context()))
	assert.Equal(t, []string{"new database_unavailable", "resolved database_unavailable"}, one.all())
	require.NoError(t, conf.databaseBack(t.Context()))
	assert.Len(t, one.all(), 2)
	_, err := os.Stat(conf.LostDatabase.path(lostFile))
	require.NoError(t, err, "the other one is still to be told")
	two.fail = nil
	text, err := os.ReadFile(conf.LostDatabase.path(lostFile))
	require.NoError(t, err)
	var state lostState
	require.NoError(t, json.Unmarshal(text, &state))
	told := state.Told["two"]
	told.NextAt = time.Time{}
	state.Told["two"] = told
	require.NoError(t, conf.LostDatabase.write(state))
	require.NoError(t, conf.databaseBack(t.Context()))
	assert.Equal(t, []string{"resolved database_unavailable"}, two.all())
	_, err = os.Stat(conf.LostDatabase.path(lostFile))
	assert.ErrorIs(t, err, os.ErrNotExist)
}

// Where LOG_DIR can't be used, a program tells once; while another program of the host has the file, it tells nothing.
func TestLostDatabase_Files(t *testing.T) {
	t.Parallel()
	var in inbox
	conf := newConfig(t, nil, Receiver{Name: "r", Repeat: time.Hour, Send: in.send})
	conf.LostDatabase = NewLostDatabase(filepath.Join(t.TempDir(), "not", "there"))
	for range 3 {
		require.NoError(t, conf.tellLost(t.Context(), time.Now(), "refused"))
	}
	assert.Equal(t, []string{"new database_unavailable"}, in.all())

	conf.LostDatabase = NewLostDatabase(t.TempDir())
	lock, err := supervise.TryLock(conf.LostDatabase.path(lostLock))
	require.NoError(t, err)
	require.ErrorIs(t, conf.tellLost(t.Context(), time.Now(), "refused"), errBusy)
	require.NoError(t, lock.Close())
	assert.Len(t, in.all(), 1)
}

// A file system that hangs holds up nothing, however often it is used.
func TestLostDatabase_HangingFileSystem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := NewLostDatabase("/mnt")
		var calls atomic.Int32
		released := make(chan struct{})
		for range 3 {
			_, err := on(d, func() (int, error) { calls.Add(1); <-released; return 1, nil })
			require.ErrorIs(t, err, errBusy)
		}
		close(released)
		synctest.Wait()
		assert.EqualValues(t, 1, calls.Load())
		n, err := on(d, func() (int, error) { return 2, nil })
		require.NoError(t, err)
		assert.Equal(t, 2, n)
	})
}

func TestRetryWait(t *testing.T) {
	t.Parallel()
	plain := errors.New("500")
	assert.Equal(t, firstRetry, retryWait(plain, 0))
	assert.Equal(t, 4*firstRetry, retryWait(plain, 2))
	assert.Equal(t, longestRetry, retryWait(plain, 1000))
	assert.Equal(t, time.Hour, retryWait(&RetryError{plain, 9 * time.Hour}, 0))
}

// A message says what, since when, why, and what to do next.
func TestItem_Lines(t *testing.T) {
	t.Parallel()
	began := time.Date(2026, 11, 27, 3, 0, 0, 0, time.Local)
	i := Item{State: New, Severity: finding.Error, Host: "web-1", Began: began, Until: began.Add(190 * time.Second), Flaps: 1,
		Finding: finding.Finding{Code: finding.MissingCharge, Count: 1, Subject: "t1"}}
	m := Message{Name: "shop", Items: []Item{i}, Command: func(c finding.Command) string { return c.Program + " " + strings.Join(c.Args, " ") }}
	assert.Equal(t, "imagetasks shop: 1 problem", m.Title(lang.EN))
	assert.Equal(t, "imagetasks shop: 1 个问题", m.Title(lang.ZH))
	assert.Equal(t, []Line{
		{Text: "1 closed task says it was charged, while the ledger has no charge; nothing was refunded for it: t1"},
		{Label: "Since", Text: "2026-11-27 03:00:00"},
		{Label: "Note", Text: "it came back 1 time, so its end is told later"},
		{Label: "Next", Text: "fix-stuck-tasks audit", Code: true},
		{Label: "Host", Text: "web-1"},
	}, i.Lines(m, lang.EN))
	i.State = Resolved
	assert.Equal(t, "RESOLVED after 3m10s", i.Heading(lang.EN))
	assert.Len(t, i.Lines(m, lang.EN), 3, "nothing is to be done")
}
