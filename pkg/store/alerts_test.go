package store_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/store"
)

func seen(fingerprint string, change ...func(*store.SeenAlert)) store.SeenAlert {
	s := store.SeenAlert{Fingerprint: fingerprint, Code: "code_" + fingerprint, Severity: store.SeverityError, Details: json.RawMessage(`{"reason": "r"}`)}
	for _, c := range change {
		c(&s)
	}
	return s
}

func event(s *store.SeenAlert) { s.Event, s.Severity, s.Count = true, store.SeverityInfo, 2 }

// view is what a program sees that has looked for the codes of these tests.
func view(all ...store.SeenAlert) store.AlertView {
	return store.AlertView{Seen: all, Codes: []string{"code_a", "code_b", "code_grows"}, Sources: []string{""}, Quiet: time.Minute}
}

func claimOf(receiver string) store.AlertClaim {
	return store.AlertClaim{Receiver: receiver, Lease: time.Minute, Repeat: 4 * time.Hour, Quiet: time.Minute, Limit: 20}
}

// alertStore is a store whose alerts a test observes and claims.
type alertStore struct{ *testStore }

func (b alertStore) observe(v store.AlertView) {
	b.tb.Helper()
	require.NoError(b.tb, b.ObserveAlerts(b.ctx, v))
}

// told claims what a receiver has to be told, records that it was sent, and returns it as "state fingerprint".
func (b alertStore) told(c store.AlertClaim) []string {
	b.tb.Helper()
	claimed, err := b.ClaimAlerts(b.ctx, c)
	require.NoError(b.tb, err)
	out := []string{}
	for _, a := range claimed.Alerts {
		out = append(out, string(a.State)+" "+a.Fingerprint)
	}
	if len(out) > 0 {
		require.NoError(b.tb, b.RecordAlerts(b.ctx, claimed, store.AlertOutcome{Sent: true}))
	}
	return out
}

// advance lets time pass.
func (b alertStore) advance(d time.Duration) {
	b.tb.Helper()
	ms := d.Milliseconds()
	b.exec(fmt.Sprintf(`update imagetasks.alerts set began_at = began_at - %[1]d * interval '1 ms', seen_at = seen_at - %[1]d * interval '1 ms', cleared_at = cleared_at - %[1]d * interval '1 ms';
		update imagetasks.alert_told set began_at = began_at - %[1]d * interval '1 ms', told_at = told_at - %[1]d * interval '1 ms';
		update imagetasks.alert_receivers set created_at = created_at - %[1]d * interval '1 ms', next_at = next_at - %[1]d * interval '1 ms'`, ms))
}

func TestAlerts_ToldOnceRepeatedAndResolved(t *testing.T) {
	t.Parallel()
	b := alertStore{fresh(t)}
	b.observe(view(seen("a")))
	assert.Equal(t, []string{"new a"}, b.told(claimOf("r")))
	assert.Empty(t, b.told(claimOf("r")))
	assert.Equal(t, []string{"new a"}, b.told(claimOf("another")), "each receiver is told")
	b.advance(time.Hour)
	b.observe(view(seen("a")))
	assert.Empty(t, b.told(claimOf("r")))
	b.advance(3 * time.Hour)
	assert.Empty(t, b.told(claimOf("r")), "nobody has looked for hours")
	b.observe(view(seen("a")))
	assert.Equal(t, []string{"open a"}, b.told(claimOf("r")), "repeated")

	b.observe(view())
	assert.Empty(t, b.told(claimOf("r")), "it is over when nobody has seen it for a minute")
	b.advance(61 * time.Second)
	b.observe(store.AlertView{Codes: []string{"code_other"}, Sources: []string{""}, Quiet: time.Minute})
	claimed, err := b.ClaimAlerts(b.ctx, claimOf("r"))
	require.NoError(t, err)
	require.Len(t, claimed.Alerts, 1)
	assert.Equal(t, store.AlertResolved, claimed.Alerts[0].State)
	assert.InDelta(t, (4 * time.Hour).Seconds(), claimed.Alerts[0].Until.Sub(claimed.Alerts[0].Began).Seconds(), 10)
	require.NoError(t, b.RecordAlerts(b.ctx, claimed, store.AlertOutcome{Sent: true}))
	assert.Empty(t, b.told(claimOf("r")))
}

// A program says nothing of what it has not looked for.
func TestAlerts_OnlyWhoLookedClears(t *testing.T) {
	t.Parallel()
	b := alertStore{fresh(t)}
	b.observe(view(seen("a", func(s *store.SeenAlert) { s.Source = "host-1" })))
	require.Equal(t, []string{"new a"}, b.told(claimOf("r")))
	b.advance(time.Hour)
	b.observe(view())
	b.observe(store.AlertView{Codes: []string{"code_a"}, Sources: []string{"", "host-2"}, Quiet: time.Minute})
	assert.Empty(t, b.told(claimOf("r")))
	b.observe(store.AlertView{Codes: []string{"code_a"}, Sources: []string{"", "host-1"}, Quiet: time.Minute})
	assert.Equal(t, []string{"resolved a"}, b.told(claimOf("r")))
}

func TestAlerts_Groups(t *testing.T) {
	t.Parallel()
	b := alertStore{fresh(t)}
	c := claimOf("r")
	c.GroupWait = 10 * time.Second
	b.observe(view(seen("a")))
	assert.Empty(t, b.told(c))
	b.advance(11 * time.Second)
	b.observe(view(seen("a"), seen("b", func(s *store.SeenAlert) { s.Severity = store.SeverityWarning })))
	assert.Equal(t, []string{"new a", "new b"}, b.told(c), "the one that has not waited goes with the other")

	c.Receiver, c.Severities = "severe", []store.AlertSeverity{store.SeverityError}
	assert.Equal(t, []string{"new a"}, b.told(c))
	c.Receiver, c.Severities, c.Codes = "one code", nil, []string{"code_b"}
	b.advance(time.Minute)
	assert.Equal(t, []string{"new b"}, b.told(c))
}

// What comes and goes is told ever less often.
func TestAlerts_FlappingIsDamped(t *testing.T) {
	t.Parallel()
	b := alertStore{fresh(t)}
	told := 0
	for range 60 { // two hours
		b.observe(view(seen("a")))
		told += len(b.told(claimOf("r")))
		b.advance(30 * time.Second)
		b.observe(view())
		told += len(b.told(claimOf("r")))
		b.advance(90 * time.Second)
		told += len(b.told(claimOf("r")))
	}
	assert.Equal(t, 2, b.number(`select flaps from imagetasks.alerts`), "after that it was never gone for four minutes")
	assert.Equal(t, 5, told, "of 120 changes")
	b.advance(time.Hour)
	assert.Equal(t, []string{"resolved a"}, b.told(claimOf("r")))
	b.advance(3 * time.Hour)
	b.observe(view(seen("a")))
	assert.Zero(t, b.number(`select flaps from imagetasks.alerts`), "after a long time it is a new one")
}

// Two processes observe and claim at the same time: one of them gets what is to be told.
func TestAlerts_TwoProcessesTellOnce(t *testing.T) {
	t.Parallel()
	b := alertStore{fresh(t)}
	for round := range 10 {
		var mu sync.Mutex
		var running sync.WaitGroup
		var faults []error
		told := 0
		for range 4 {
			running.Go(func() {
				err := b.ObserveAlerts(b.ctx, view(seen("a"), seen("b")))
				claimed, claimErr := b.ClaimAlerts(b.ctx, claimOf(fmt.Sprint("r", round)))
				if len(claimed.Alerts) > 0 {
					err = errors.Join(err, b.RecordAlerts(b.ctx, claimed, store.AlertOutcome{Sent: true, Wait: time.Minute}))
				}
				mu.Lock()
				defer mu.Unlock()
				told += len(claimed.Alerts)
				faults = append(faults, err, claimErr)
			})
		}
		running.Wait()
		require.NoError(t, errors.Join(faults...))
		require.Equal(t, 2, told)
	}
}

// A message that was not accepted is sent again after a while; what was told meanwhile by another process is not.
func TestAlerts_FailuresAndLeases(t *testing.T) {
	t.Parallel()
	b := alertStore{fresh(t)}
	b.observe(view(seen("a")))
	first, err := b.ClaimAlerts(b.ctx, claimOf("r"))
	require.NoError(t, err)
	require.Len(t, first.Alerts, 1)
	assert.Empty(t, b.told(claimOf("r")), "leased")
	require.NoError(t, b.RecordAlerts(b.ctx, first, store.AlertOutcome{Wait: time.Minute, Error: "refused"}))
	assert.Empty(t, b.told(claimOf("r")), "not yet")
	b.advance(61 * time.Second)
	second, err := b.ClaimAlerts(b.ctx, claimOf("r"))
	require.NoError(t, err)
	assert.Equal(t, 1, second.Failures)
	require.Len(t, second.Alerts, 1)
	b.advance(61 * time.Second) // its process was killed
	assert.Equal(t, []string{"new a"}, b.told(claimOf("r")))
	require.NoError(t, b.RecordAlerts(b.ctx, second, store.AlertOutcome{Wait: time.Hour, Error: "too late"}))
	assert.Zero(t, b.number(`select failures from imagetasks.alert_receivers where receiver = 'r'`))
	assert.Equal(t, 1, b.number(`select count(*) from imagetasks.alert_told`))
}

// What came and went while the receiver was out of order is told; to a new receiver it is not.
func TestAlerts_MissedByADeadReceiver(t *testing.T) {
	t.Parallel()
	b := alertStore{fresh(t)}
	b.observe(view(seen("b")))
	require.Equal(t, []string{"new b"}, b.told(claimOf("r")))
	b.observe(view(seen("a"), seen("b")))
	b.advance(10 * time.Minute)
	b.observe(view(seen("a"), seen("b")))
	b.advance(2 * time.Minute)
	b.observe(view(seen("b")))
	c := claimOf("r")
	c.GroupWait = 10 * time.Second
	assert.Equal(t, []string{"resolved a"}, b.told(c))
	c.Receiver = "new one"
	assert.Equal(t, []string{"new b"}, b.told(c))
}

func TestAlerts_Events(t *testing.T) {
	t.Parallel()
	b := alertStore{fresh(t)}
	repair := view(seen("e", event))
	repair.CallID = uuid.New()
	b.observe(repair)
	b.observe(repair) // its answer was lost
	claimed, err := b.ClaimAlerts(b.ctx, claimOf("r"))
	require.NoError(t, err)
	require.Len(t, claimed.Alerts, 1)
	assert.Equal(t, store.AlertHappened, claimed.Alerts[0].State)
	assert.EqualValues(t, 2, claimed.Alerts[0].Count)
	require.NoError(t, b.RecordAlerts(b.ctx, claimed, store.AlertOutcome{Sent: true}))
	for range 3 {
		b.observe(view(seen("e", event)))
	}
	assert.Empty(t, b.told(claimOf("r")), "not each few minutes")
	b.advance(11 * time.Minute)
	claimed, err = b.ClaimAlerts(b.ctx, claimOf("r"))
	require.NoError(t, err)
	require.Len(t, claimed.Alerts, 1)
	assert.EqualValues(t, 6, claimed.Alerts[0].Count, "together")
	require.NoError(t, b.RecordAlerts(b.ctx, claimed, store.AlertOutcome{Sent: true}))
	b.advance(2 * time.Hour)
	assert.Empty(t, b.told(claimOf("new one")))
}

func TestAlerts_TurnAndPruning(t *testing.T) {
	t.Parallel()
	b := alertStore{fresh(t)}
	one, two := uuid.New(), uuid.New()
	turn := func(process uuid.UUID) bool {
		mine, err := b.TakeAlertTurn(b.ctx, process, time.Minute)
		require.NoError(t, err)
		return mine
	}
	assert.True(t, turn(one))
	assert.False(t, turn(two))
	assert.True(t, turn(one))
	b.advance(time.Minute)
	assert.True(t, turn(two))

	grows := func(s *store.SeenAlert) { s.Details, s.Count = json.RawMessage(`{"grows": true}`), s.Count+1 }
	b.observe(view(seen("grows", grows)))
	require.Equal(t, []string{"new grows"}, b.told(claimOf("r")))
	b.advance(11 * time.Minute)
	b.observe(view(seen("grows", grows, grows)))
	assert.Equal(t, []string{"more grows"}, b.told(claimOf("r")))
	b.advance(8 * 24 * time.Hour)
	b.observe(view(seen("a")))
	b.observe(view(seen("a")))
	assert.Equal(t, 1, b.number(`select count(*) from imagetasks.alerts`))
	assert.Zero(t, b.number(`select count(*) from imagetasks.alert_told`))
}

// useAlerts does everything that the programs do with alerts.
func useAlerts(ctx context.Context, s *store.Store, name string) error {
	_, err := s.TakeAlertTurn(ctx, uuid.New(), time.Minute)
	err = errors.Join(err, s.ObserveAlerts(ctx, view(seen("a"))), s.ObserveAlerts(ctx, view(seen("b"))))
	claimed, claimErr := s.ClaimAlerts(ctx, claimOf(name))
	return errors.Join(err, claimErr, s.RecordAlerts(ctx, claimed, store.AlertOutcome{Sent: true}))
}

func faultAlerts() map[string]faultScenario {
	open := func(b *faultBench) { require.NoError(b.tb, b.ObserveAlerts(b.ctx, view(seen("a"), seen("e", event)))) }
	return map[string]faultScenario{
		"observe_alerts": reading(open, func(ctx context.Context, s *store.Store) (any, error) {
			v := view(seen("b"), seen("e", event))
			v.CallID = faultCallID
			return nil, s.ObserveAlerts(ctx, v)
		}),
		"take_alert_turn": reading(nil, func(ctx context.Context, s *store.Store) (any, error) {
			return s.TakeAlertTurn(ctx, faultCallID, time.Minute)
		}),
		"claim_alerts": reading(open, func(ctx context.Context, s *store.Store) (any, error) {
			c := claimOf("r")
			c.CallID = faultCallID
			claimed, err := s.ClaimAlerts(ctx, c)
			return len(claimed.Alerts), err
		}),
		"record_alerts": func(b *faultBench) faultCall {
			open(b)
			claimed, err := b.ClaimAlerts(b.ctx, claimOf("r"))
			require.NoError(b.tb, err)
			require.Len(b.tb, claimed.Alerts, 2)
			return func(ctx context.Context, s *store.Store) (any, error) {
				return nil, s.RecordAlerts(ctx, claimed, store.AlertOutcome{Error: "refused", Wait: time.Minute})
			}
		},
	}
}
