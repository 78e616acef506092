package store_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/lib/pq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// deliverEverything does everything that is done with completion events.
func deliverEverything(ctx context.Context, s *store.Store) error {
	var all []error
	must := func(err error) { all = append(all, err) }
	events, err := s.ClaimEvents(ctx, store.EventClaim{Limit: 1000, PerHost: 1000, Lease: time.Minute})
	must(err)
	if len(events) == 0 {
		must(errors.New("no event was written"))
	}
	for _, e := range events {
		must(s.RecordEvents(ctx, time.Hour, store.EventOutcome{Event: e, Result: store.ResultUndelivered, Reason: "gone"}))
	}
	_, err = s.NotifyEvents(ctx, 1000, uuid.Nil)
	must(err)
	_, err = s.EventCounts(ctx)
	must(err)
	_, err = s.FailingReceivers(ctx, 10)
	must(err)
	listed, err := s.Events(ctx, store.EventUndelivered, 10)
	must(err)
	if len(listed) > 0 {
		_, err = s.RedeliverEvents(ctx, []string{listed[0].ID}, uuid.Nil)
		must(err)
	}
	_, err = s.DiscardEvents(ctx, nil, uuid.Nil)
	must(err)
	return errors.Join(all...)
}

// claimAll leases every event that is due.
func (s *testStore) claimAll() []store.Event {
	s.tb.Helper()
	events, err := s.ClaimEvents(s.ctx, store.EventClaim{Limit: 1000, PerHost: 1000, Lease: time.Minute})
	require.NoError(s.tb, err)
	return events
}

// eventTypes returns the types of events by the task.
func eventTypes(events []store.Event) map[string]string {
	types := map[string]string{}
	for _, e := range events {
		types[e.TaskID] += e.Type
	}
	return types
}

// Every way to close a task writes one event, in its transaction.
func TestEvents_EveryCloseWritesOne(t *testing.T) {
	s := fresh(t)
	s.exec(`select imagetasks.grant_credits('u', 1000, 'order', 'order-1')`)
	enqueue := func() string {
		done, err := s.Enqueue(s.ctx, store.EnqueueRequest{UserID: "u", Prompt: "a secret prompt", Cost: 2})
		require.NoError(t, err)
		return done.TaskIDs[0]
	}
	claim := func() task.Lease {
		id := enqueue()
		held := s.claim(1)
		require.Len(t, held, 1)
		require.Equal(t, id, held[0].ID)
		return held[0].Lease()
	}
	_, err := s.Complete(s.ctx, store.Completion{Lease: claim(), ImageURL: "before.png"})
	require.NoError(t, err)
	require.Zero(t, s.number(`select count(*) from imagetasks.events`), "off")
	require.NoError(t, s.SetCompletionEvents(s.ctx, store.ReceiverWebhook))

	want := map[string]string{}
	lease := claim()
	_, err = s.Complete(s.ctx, store.Completion{Lease: lease, ImageURL: "https://pictures.example/a.png"})
	require.NoError(t, err)
	want[lease.TaskID] = "task.completed"
	completed := lease.TaskID

	lease = claim()
	_, err = s.Fail(s.ctx, lease, errServer, true)
	require.NoError(t, err)
	want[lease.TaskID] = "task.failed"
	failed := lease.TaskID

	id := enqueue()
	_, err = s.Cancel(s.ctx, id, "u")
	require.NoError(t, err)
	_, err = s.Cancel(s.ctx, id, "u")
	require.NoError(t, err)
	want[id] = "task.cancelled"

	lease = claim()
	s.exec(`update imagetasks.tasks set processing_started_at = now() - interval '1 hour' where task_id = $1`, lease.TaskID)
	_, err = s.Sweep(s.ctx, store.Sweep{OlderThan: time.Minute, Limit: 10})
	require.NoError(t, err)
	want[lease.TaskID] = "task.failed"

	lease = claim()
	s.exec(`update imagetasks.tasks set lost_claims = 3 where task_id = $1`, lease.TaskID)
	s.expireLeases()
	_, err = s.FailAbandoned(s.ctx, 3, 0, 10, uuid.Nil)
	require.NoError(t, err)
	want[lease.TaskID] = "task.failed"

	id = enqueue()
	s.exec(`update imagetasks.tasks set run_after = now() - interval '1 hour' where task_id = $1`, id)
	_, err = s.FailOverdue(s.ctx, time.Minute, 10, uuid.Nil)
	require.NoError(t, err)
	want[id] = "task.failed"

	id = enqueue()
	require.NoError(t, s.PutAside(s.ctx, id))
	s.exec(`update imagetasks.set_aside set since = since - interval '1 hour'`)
	_, err = s.FailSetAside(s.ctx, time.Minute, 10, uuid.Nil)
	require.NoError(t, err)
	want[id] = "task.failed"

	tx, err := s.raw.BeginTx(s.ctx, nil)
	require.NoError(t, err)
	id = enqueue()
	_, err = tx.ExecContext(s.ctx, `select imagetasks.cancel($1)`, id)
	require.NoError(t, err)
	require.NoError(t, tx.Rollback())

	events := s.claimAll()
	assert.Equal(t, want, eventTypes(events))
	byTask := map[string]store.Event{}
	for _, e := range events {
		byTask[e.TaskID] = e
		assert.NotContains(t, string(e.Data), "secret")
		assert.Equal(t, 1, e.Run)
		assert.Empty(t, e.Host)
		assert.Regexp(t, `^evt_[0-9a-f]{32}$`, e.ID)
	}
	data := func(id string) (d map[string]any) {
		require.NoError(t, json.Unmarshal(byTask[id].Data, &d))
		return d
	}
	assert.Equal(t, "https://pictures.example/a.png", data(completed)["image_url"])
	assert.Equal(t, "u", data(completed)["user_id"])
	assert.EqualValues(t, 2, data(failed)["credits_refunded"])
	assert.Equal(t, string(errServer.Code), data(failed)["error_code"])
	assert.Equal(t, errServer.Message, data(failed)["error_message"])

	// A run that was redriven has an event of its own.
	_, err = s.Redrive(s.ctx, failed, 1)
	require.NoError(t, err)
	_, err = s.Cancel(s.ctx, failed, "u")
	require.NoError(t, err)
	events = s.claimAll()
	require.Len(t, events, 1)
	assert.Equal(t, 2, events[0].Run)
	assert.NotEqual(t, byTask[failed].ID, events[0].ID)
	assert.Equal(t, "task.cancelled", events[0].Type)
	s.requireAudit()
}

// closeTasks enqueues and cancels tasks with these webhook URLs, and returns their ids.
func (s *testStore) closeTasks(urls ...string) (ids []string) {
	s.tb.Helper()
	for _, url := range urls {
		options := map[string]any{}
		if url != "" {
			options["webhook_url"] = url
		}
		text, err := json.Marshal(options)
		require.NoError(s.tb, err)
		var id string
		require.NoError(s.tb, s.raw.QueryRowContext(s.ctx, `select task_id from imagetasks.enqueue('u', 'x', options => $1, cost => 0)`, string(text)).Scan(&id))
		_, err = s.Cancel(s.ctx, id, "u")
		require.NoError(s.tb, err)
		ids = append(ids, id)
	}
	return ids
}

func TestEvents_ReceiversAndHosts(t *testing.T) {
	s := fresh(t)
	require.NoError(t, s.SetCompletionEvents(s.ctx, store.ReceiverWebhook, store.ReceiverTask))
	s.closeTasks("", "https://User:p@Hooks.Example:8443/a?b", "https://hooks.example:8443", "http://[::1]:80/x")
	hosts := map[string]int{}
	ids := map[string]int{}
	for _, e := range s.claimAll() {
		hosts[string(e.Receiver)+" "+e.Host]++
		ids[e.ID]++
		assert.Equal(t, e.Receiver == store.ReceiverTask, e.URL != "")
	}
	assert.Equal(t, map[string]int{"webhook ": 4, "task hooks.example:8443": 2, "task [::1]:80": 1}, hosts)
	assert.Len(t, ids, 4, "all receivers of an event see the same id")

	// A URL that no index takes does not hold up the end of its task.
	long := []rune("https://")
	for i := range 1900 {
		long = append(long, rune(0x4e00+i*7919%20000))
	}
	s.closeTasks(string(long))
	assert.Len(t, s.claimAll(), 2)

	for url, want := range map[string]string{`"ftp://x"`: "http or https URL", `"https://"`: "http or https URL", `"https://x y"`: "http or https URL", `5`: "must be a string",
		`"https://x/` + fmt.Sprintf("%02000d", 0) + `"`: "at most 2000"} {
		_, err := s.raw.ExecContext(s.ctx, `select imagetasks.enqueue('u', 'x', options => $1, cost => 0)`, `{"webhook_url": `+url+`}`)
		assert.ErrorContains(t, err, want)
	}
}

// Many hosts whose events are tried again later do not hold up another one.
func TestClaimEvents_ManyHosts(t *testing.T) {
	s := fresh(t)
	s.exec(`insert into imagetasks.events (event_id, receiver, type, task_id, run, data, url, host, next_at)
		select 'e' || g, 'task', 'task.completed', 't' || g, 1, '{}', 'https://x', 'h' || g, now() + interval '1 hour' from generate_series(1, 1500) g`)
	require.NoError(t, s.SetCompletionEvents(s.ctx, store.ReceiverTask))
	s.closeTasks("https://z.example")
	s.exec(`analyze imagetasks.events`)
	assert.Len(t, s.claimAll(), 1)
}

// One host with many events does not hold up those of others, and concurrent calls lease different events.
func TestClaimEvents_FairAndExclusive(t *testing.T) {
	s := fresh(t)
	require.NoError(t, s.SetCompletionEvents(s.ctx, store.ReceiverTask))
	for range 20 {
		s.closeTasks("https://busy.example")
	}
	s.closeTasks("https://quiet.example", "https://skipped.example", "https://one.example", "https://one.example")
	first, err := s.ClaimEvents(s.ctx, store.EventClaim{Limit: 10, PerHost: 4, Lease: time.Minute, Hosts: map[string]int{"skipped.example": 0, "one.example": 1}})
	require.NoError(t, err)
	hosts := map[string]int{}
	for _, e := range first {
		hosts[e.Host]++
	}
	assert.Equal(t, map[string]int{"busy.example": 4, "quiet.example": 1, "one.example": 1}, hosts)
	second := s.claimAll()
	assert.Len(t, second, 18)
	assert.Empty(t, s.claimAll())

	// A lease that ran out goes to another call; what the first one records then changes nothing.
	s.exec(`update imagetasks.events set next_at = now() where event_id = $1`, first[0].ID)
	again := s.claimAll()
	require.Len(t, again, 1)
	require.NoError(t, s.RecordEvents(s.ctx, time.Hour, store.EventOutcome{Event: first[0], Result: store.ResultDelivered}))
	assert.Equal(t, 24, s.number(`select count(*) from imagetasks.events where state = 'due'`))
	require.NoError(t, s.RecordEvents(s.ctx, time.Hour, store.EventOutcome{Event: again[0], Result: store.ResultDelivered, Status: 204}))
	assert.Equal(t, 1, s.number(`select count(*) from imagetasks.events where state = 'delivered' and status = 204`))
}

func TestRecordEvents_RetriesForADayThenUndelivered(t *testing.T) {
	s := fresh(t)
	require.NoError(t, s.SetCompletionEvents(s.ctx, store.ReceiverWebhook))
	s.closeTasks("")
	retry := store.EventOutcome{Result: store.ResultRetry, Reason: "connection refused"}
	for attempt := range 3 {
		events := s.claimAll()
		require.Len(t, events, 1)
		assert.Equal(t, attempt, events[0].Attempts)
		retry.Event = events[0]
		if attempt == 2 {
			s.exec(`update imagetasks.events set first_at = now() - interval '25 hours'`)
		}
		require.NoError(t, s.RecordEvents(s.ctx, 24*time.Hour, retry))
	}
	counts, err := s.EventCounts(s.ctx)
	require.NoError(t, err)
	assert.Equal(t, store.EventCounts{Undelivered: 1}, counts)
	listed, err := s.Events(s.ctx, store.EventUndelivered, 10)
	require.NoError(t, err)
	require.Len(t, listed, 1)
	assert.Equal(t, "connection refused", listed[0].Reason)
	assert.Equal(t, 3, listed[0].Attempts)

	n, err := s.RedeliverEvents(s.ctx, nil, uuid.Nil)
	require.NoError(t, err)
	assert.Equal(t, 1, n)
	_, err = s.RedeliverEvents(s.ctx, []string{"evt_none"}, uuid.Nil)
	assert.ErrorIs(t, err, task.ErrNotFound)
	events := s.claimAll()
	require.Len(t, events, 1)
	assert.Equal(t, listed[0].ID, events[0].ID)
	assert.Zero(t, events[0].Attempts)
	_, err = s.DiscardEvents(s.ctx, []string{events[0].ID}, uuid.Nil)
	require.NoError(t, err)
	counts, err = s.EventCounts(s.ctx)
	require.NoError(t, err)
	assert.Zero(t, counts)
}

// The event of a bridged task is delivered after its end was written to the application's table, with the refund that was given there.
func TestEvents_OfBridgedTasksFollowTheBridge(t *testing.T) {
	b := newBridged(t)
	require.NoError(t, b.SetCompletionEvents(b.ctx, store.ReceiverWebhook))
	b.buy("j1", "alice")
	b.sync()
	held := b.claim(1)
	require.Len(t, held, 1)
	_, err := b.Fail(b.ctx, held[0].Lease(), errServer, true)
	require.NoError(t, err)
	assert.Empty(t, b.claimAll())
	counts, err := b.EventCounts(b.ctx)
	require.NoError(t, err)
	assert.Equal(t, 1, counts.Held)
	require.Equal(t, map[string]string{"j1": "applied"}, b.apply())
	events := b.claimAll()
	require.Len(t, events, 1)
	assert.Equal(t, "task.failed", events[0].Type)
	var data struct {
		Refunded int `json:"credits_refunded"`
	}
	require.NoError(t, json.Unmarshal(events[0].Data, &data))
	assert.Equal(t, 1, data.Refunded)
}

func TestNotifyEvents_SendsTaskIDs(t *testing.T) {
	s := fresh(t)
	require.NoError(t, s.SetCompletionEvents(s.ctx, store.ReceiverNotify))
	listener := pq.NewListener(s.url, time.Second, time.Second, nil)
	defer listener.Close()
	require.NoError(t, listener.Listen(s.EventChannel()))
	want := s.closeTasks("", "", "")
	assert.Empty(t, s.claimAll(), "they are for no webhook")
	n, err := s.NotifyEvents(s.ctx, 2, uuid.Nil)
	require.NoError(t, err)
	assert.Equal(t, 2, n)
	n, err = s.NotifyEvents(s.ctx, 2, uuid.Nil)
	require.NoError(t, err)
	assert.Equal(t, 1, n)
	var got []string
	for range want {
		select {
		case n := <-listener.Notify:
			require.Equal(t, "imagetasks_events", n.Channel)
			got = append(got, n.Extra)
		case <-time.After(10 * time.Second):
			t.Fatal("no notification")
		}
	}
	assert.ElementsMatch(t, want, got)
	assert.Zero(t, s.number(`select count(*) from imagetasks.events`))
}

// A copy of the database delivers nothing.
func TestClaimEvents_NothingInACopy(t *testing.T) {
	s := fresh(t)
	require.NoError(t, s.SetCompletionEvents(s.ctx, store.ReceiverWebhook, store.ReceiverNotify))
	s.closeTasks("")
	s.exec(`update imagetasks.control set database_identity = 'another'`)
	assert.Empty(t, s.claimAll())
	n, err := s.NotifyEvents(s.ctx, 10, uuid.Nil)
	require.NoError(t, err)
	assert.Zero(t, n)
	require.NoError(t, s.Resume(s.ctx))
	assert.Len(t, s.claimAll(), 1)
}
