package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/finding"
	"imagetasks/pkg/overview"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/store"
	"imagetasks/pkg/supervise"
	"imagetasks/pkg/task"
)

// fakeStore is a store in which the calls of these names fail.
type fakeStore struct {
	failing map[string]bool
	called  map[string]bool
	locked  bool                      // the table of tasks is locked by somebody else
	report  *overview.ProcessorReport // of the processor; nil: there is none
}

var errRefused = errors.New("refused")

func (s *fakeStore) call(name string) error {
	s.called[name] = true
	if s.failing[name] {
		return errRefused
	}
	return nil
}

func (s *fakeStore) Ping(context.Context) error { return s.call("ping") }
func (s *fakeStore) Sweep(context.Context, store.Sweep) ([]task.Refund, error) {
	return nil, s.call("sweep")
}
func (s *fakeStore) Stuck(context.Context, store.Sweep) ([]task.Refund, error) { return nil, nil }
func (s *fakeStore) StuckIDs(context.Context, store.Sweep) ([]string, error)   { return nil, nil }
func (s *fakeStore) CountStuck(ctx context.Context, _ store.Sweep) (int, error) {
	if s.locked {
		<-ctx.Done()
		return 0, ctx.Err()
	}
	return 1, s.call("count stuck")
}
func (s *fakeStore) FailOverdue(context.Context, time.Duration, int, uuid.UUID) ([]task.Refund, error) {
	return nil, s.call("overdue")
}
func (s *fakeStore) CountOverdue(context.Context, time.Duration) (int, error) { return 1, nil }
func (s *fakeStore) FailSetAside(context.Context, time.Duration, int, uuid.UUID) ([]task.Refund, error) {
	return nil, s.call("fail set aside")
}
func (s *fakeStore) TasksAside(context.Context, int) ([]store.AsideTask, error) {
	return []store.AsideTask{{}}, s.call("set aside")
}
func (s *fakeStore) Unsettled(context.Context, time.Duration, int) (store.Unsettled, error) {
	return store.Unsettled{}, s.call("unsettled")
}
func (s *fakeStore) Control(context.Context) (store.Control, error) {
	return store.Control{}, s.call("control")
}
func (s *fakeStore) QueueStats(context.Context, time.Duration) (store.QueueStats, error) {
	return store.QueueStats{}, s.call("queue stats")
}
func (s *fakeStore) Prune(context.Context, store.PruneConfig) (store.Pruned, error) {
	return store.Pruned{}, s.call("prune")
}
func (s *fakeStore) RecordFigures(context.Context, time.Duration) (time.Time, error) {
	return time.Time{}, s.call("figures")
}
func (s *fakeStore) Bridge(context.Context) (store.BridgeState, error) {
	return store.BridgeState{Exists: true, Active: true, Failures: 1}, s.call("bridge")
}
func (s *fakeStore) BridgeProblems(context.Context, int) ([]store.BridgeProblem, error) {
	return []store.BridgeProblem{{Part: "take", Key: "k", Reason: "the row has no user"}}, s.call("bridge problems")
}
func (s *fakeStore) EventCounts(context.Context) (store.EventCounts, error) {
	return store.EventCounts{}, s.call("event counts")
}
func (s *fakeStore) FailingReceivers(context.Context, int) ([]store.FailingReceiver, error) {
	return nil, s.call("failing receivers")
}
func (s *fakeStore) Events(context.Context, store.EventState, int) ([]store.EventRow, error) {
	return nil, s.call("events")
}
func (s *fakeStore) SyncBridge(context.Context, int) (store.BridgeSync, error) {
	return store.BridgeSync{Active: true}, s.call("sync bridge")
}
func (s *fakeStore) BridgeDue(context.Context, int) ([]string, error) {
	return nil, s.call("bridge due")
}
func (s *fakeStore) ApplyToBridge(context.Context, string) (store.BridgeApply, error) {
	return store.BridgeApply{}, nil
}
func (s *fakeStore) WriteBridgeProgress(context.Context, ...store.BridgeProgress) ([]string, error) {
	return nil, nil
}
func (s *fakeStore) ReconcileBridge(context.Context) (int, error) {
	return 0, s.call("reconcile bridge")
}
func (s *fakeStore) Processors(ctx context.Context) ([]store.Processor, error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if s.report == nil {
		return nil, s.call("processors")
	}
	text, err := json.Marshal(s.report)
	return []store.Processor{{Worker: "w", PID: os.Getpid(), Report: text}}, err
}

// fakeSupervisor supervises a processor that is dead.
type fakeSupervisor struct{ revived int }

func (f *fakeSupervisor) Inspect(context.Context) (supervise.State, error) {
	return supervise.State{Wanted: true}, nil
}

func (f *fakeSupervisor) Revive(context.Context, bool) (int, error) {
	f.revived++
	return 7, nil
}

func newMonitor(dir string, failing ...string) (*Monitor, *fakeStore, *fakeSupervisor) {
	log := logrus.New()
	log.SetOutput(io.Discard)
	s, supervisor := &fakeStore{failing: map[string]bool{}, called: map[string]bool{}}, &fakeSupervisor{}
	for _, name := range failing {
		s.failing[name] = true
	}
	return New(Config{Store: s, Supervisor: supervisor, Dir: dir, Check: func(context.Context) []EndpointResult { return []EndpointResult{{}} }, StuckAfter: time.Minute,
		PendingTimeout: time.Hour, Lease: time.Minute, Log: log, Redact: func(text string) string { return text }}), s, supervisor
}

// Each step of a pass is done, whatever became of those before; above all, a dead processor is restarted.
func TestPass_StepsAreIndependent(t *testing.T) {
	steps := []string{"sweep", "count stuck", "overdue", "fail set aside", "queue stats", "unsettled", "set aside", "control", "prune",
		"sync bridge", "bridge due", "reconcile bridge", "bridge problems"}
	for _, failing := range append([]string{"", "processors"}, steps...) {
		m, s, supervisor := newMonitor(t.TempDir(), failing)
		_, err := m.Pass(t.Context())
		if failing == "" {
			require.NoError(t, err)
		} else {
			assert.ErrorIs(t, err, errRefused, failing)
		}
		for _, step := range steps {
			if step == "sweep" && failing == "count stuck" {
				continue
			}
			assert.True(t, s.called[step], "%q was left out after %q failed", step, failing)
		}
		if failing != "processors" {
			assert.Equal(t, 1, supervisor.revived, failing)
		}
	}
}

// After an outage that a pass has met, nothing is closed for the time of a lease.
func TestPass_WaitsAfterOutage(t *testing.T) {
	dir := t.TempDir()
	m, s, supervisor := newMonitor(dir, "ping")
	_, err := m.Pass(t.Context())
	require.ErrorIs(t, err, errRefused)
	assert.Zero(t, supervisor.revived, "a processor can't start without the database")
	assert.False(t, s.called["sweep"])

	m, s, _ = newMonitor(dir)
	_, err = m.Pass(t.Context())
	require.NoError(t, err)
	assert.False(t, s.called["sweep"], "the owners of leases may come back")
	assert.True(t, s.called["prune"])

	state := readState(dir)
	require.False(t, state.DatabaseBack.IsZero())
	state.DatabaseBack = state.DatabaseBack.Add(-2 * time.Minute)
	require.NoError(t, writeState(dir, state))
	_, err = m.Pass(t.Context())
	require.NoError(t, err)
	assert.True(t, s.called["sweep"])
	assert.True(t, readState(dir).DatabaseLost.IsZero())
}

// A step that waits for the database, because of a lock on the table of tasks for example, leaves the time to restart a dead processor.
func TestPass_StepThatWaits(t *testing.T) {
	m, s, supervisor := newMonitor(t.TempDir())
	s.locked = true
	synctest.Test(t, func(t *testing.T) {
		_, err := m.Pass(t.Context())
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
	assert.Equal(t, 1, supervisor.revived)
}

// apiPass runs a pass with what the processor and a check of the monitor say about the API. It returns the check's calls, and the reason of the
// warning that the API is unreachable, or "".
func apiPass(t *testing.T, dir string, report *overview.ProcessorReport, check error) (calls int, reason string, r Report) {
	t.Helper()
	m, s, _ := newMonitor(dir)
	s.report = report
	m.conf.HungAfter = time.Minute
	m.conf.Check = func(context.Context) []EndpointResult { calls++; return []EndpointResult{{Err: check}} }
	r, err := m.Pass(t.Context())
	require.NoError(t, err)
	for _, f := range r.Findings {
		if f.Code == finding.APIUnreachable {
			reason = f.Reason
		}
	}
	return calls, reason, r
}

// A cause that stands is a warning in every pass, with its latest reason, and one that is over is none in the next.
func TestPass_APIWithoutProcessor(t *testing.T) {
	dir := t.TempDir()
	down := func(text string) error {
		return &task.Error{Code: task.CodeProxyRefused, Disposition: task.Pause, Message: text}
	}
	for _, text := range []string{"first", "second", "third"} {
		calls, reason, _ := apiPass(t, dir, nil, down(text))
		assert.Equal(t, 1, calls)
		assert.Equal(t, text, reason)
	}
	calls, reason, r := apiPass(t, dir, nil, nil)
	assert.Equal(t, 1, calls)
	assert.Empty(t, reason)
	assert.True(t, r.Summary.API.OK)
	calls, _, _ = apiPass(t, dir, nil, down("not asked"))
	assert.Zero(t, calls, "an API that works is checked seldom")
}

// One endpoint of several that fails is no outage of the API. It is named, and checked again in the next pass.
func TestPass_OneEndpointOfSeveral(t *testing.T) {
	dir := t.TempDir()
	calls := 0
	pass := func(first, second error) Report {
		m, _, _ := newMonitor(dir)
		m.conf.Check = func(context.Context) []EndpointResult {
			calls++
			return []EndpointResult{{Name: "relay-a", Err: first}, {Name: "relay-b", Err: second}}
		}
		r, err := m.Pass(t.Context())
		require.NoError(t, err)
		return r
	}
	r := pass(errRefused, nil)
	assert.True(t, r.Summary.API.OK)
	assert.Empty(t, r.Summary.API.Error)
	require.Len(t, r.Summary.API.Endpoints, 2)
	assert.Equal(t, overview.EndpointCheck{Name: "relay-a", Error: errRefused.Error()}, r.Summary.API.Endpoints[0])
	assert.Equal(t, overview.EndpointCheck{Name: "relay-b", OK: true}, r.Summary.API.Endpoints[1])
	i := slices.IndexFunc(r.Findings, func(f finding.Finding) bool { return f.Code == finding.EndpointFailing })
	require.GreaterOrEqual(t, i, 0)
	assert.Equal(t, "relay-a", r.Findings[i].Subject)

	r = pass(nil, nil)
	assert.Equal(t, 2, calls, "what failed is checked in every pass")
	assert.False(t, slices.ContainsFunc(r.Findings, func(f finding.Finding) bool { return f.Code == finding.EndpointFailing }))
	pass(nil, nil)
	assert.Equal(t, 2, calls)
	r = pass(errRefused, errRefused)
	assert.Equal(t, 2, calls, "what works is checked seldom")
	assert.True(t, r.Summary.API.OK)
}

// A running processor knows better than an earlier check.
func TestPass_APIOfRunningProcessor(t *testing.T) {
	dir := t.TempDir()
	_, reason, _ := apiPass(t, dir, nil, errRefused)
	require.NotEmpty(t, reason)
	works := &overview.ProcessorReport{Status: processor.Status{APIRespondedAt: time.Now()}}
	calls, reason, r := apiPass(t, dir, works, errRefused)
	assert.Zero(t, calls)
	assert.Empty(t, reason, "the old answer is not repeated")
	assert.True(t, r.Summary.API.OK)
	fails := &overview.ProcessorReport{Status: processor.Status{APIUnreachableSince: time.Now(), APIError: "no quota", APIRespondedAt: time.Now()}}
	for range 3 {
		calls, reason, r = apiPass(t, dir, fails, nil)
		assert.Zero(t, calls)
		assert.Equal(t, "no quota", reason)
		assert.False(t, r.Summary.API.OK)
		assert.Equal(t, "no quota", r.Summary.API.Error)
	}
	calls, reason, _ = apiPass(t, dir, nil, nil)
	assert.Equal(t, 1, calls, "the processor has ended")
	assert.Empty(t, reason)
}

// What can't be asked at no cost, and a model that is refused, say nothing against the API.
func TestPass_APICheckSaysNothing(t *testing.T) {
	server := &task.Error{Code: task.CodeServer, Disposition: task.Retry, Err: task.ErrUncheckable}
	model := &task.Error{Code: task.CodeModelRefused, Disposition: task.Pause, Scope: task.ScopeModel}
	for _, err := range []error{task.ErrUncheckable, server, model} {
		_, reason, r := apiPass(t, t.TempDir(), nil, err)
		assert.Empty(t, reason)
		assert.True(t, r.Summary.API.OK)
	}
}
