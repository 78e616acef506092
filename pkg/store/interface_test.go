package store_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/lib/pq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// Payment callbacks and web forms repeat: each call takes effect once, and each repeat returns the first result.
func TestKeys_ConcurrentRepeatsTakeEffectOnce(t *testing.T) {
	b := fresh(t)
	const calls, repeats, users = 1000, 3, 10
	for u := range users {
		_, err := b.GrantCredits(b.ctx, fmt.Sprint("user ", u), 1000, "", fmt.Sprint("first ", u))
		require.NoError(t, err)
	}
	type result struct {
		text string
		err  error
	}
	results := make([][]result, calls)
	for i := range results {
		results[i] = make([]result, repeats)
	}
	jobs := make(chan [2]int)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for j := range jobs {
				user, key := fmt.Sprint("user ", j[0]%users), fmt.Sprint("key ", j[0])
				r := &results[j[0]][j[1]]
				if j[0]%2 == 0 {
					var balance int64
					balance, r.err = b.GrantCredits(b.ctx, user, 3, "bought", key)
					r.text = fmt.Sprint(balance)
				} else {
					var done store.Enqueued
					done, r.err = b.Enqueue(b.ctx, store.EnqueueRequest{UserID: user, Prompt: "x", Cost: 2, Key: key})
					r.text = fmt.Sprint(done)
				}
			}
		})
	}
	for i := range calls {
		for repeat := range repeats {
			jobs <- [2]int{(i + repeat*7) % calls, repeat}
		}
	}
	close(jobs)
	wg.Wait()
	for i, r := range results {
		for _, repeat := range r {
			require.NoError(t, repeat.err)
			require.Equal(t, r[0].text, repeat.text, "call %d", i)
		}
	}
	for u := range users {
		want := 1000 + 3*calls/users
		if u%2 == 1 {
			want = 1000 - 2*calls/users
		}
		assert.Equal(t, want, b.balance(fmt.Sprint("user ", u)))
	}
	assert.Equal(t, calls/2, b.number(`select count(*) from imagetasks.tasks`))
	b.requireAudit()
}

func TestKeys_ScopeAndArguments(t *testing.T) {
	b := fresh(t)
	grant := func(user string, credits int64, reason, key string) error {
		_, err := b.GrantCredits(b.ctx, user, credits, reason, key)
		return err
	}
	require.NoError(t, grant("a", 10, "bought", "k"))
	assert.ErrorIs(t, grant("a", 11, "bought", "k"), task.ErrKeyReused)
	assert.ErrorIs(t, grant("a", 10, "", "k"), task.ErrKeyReused)
	assert.ErrorIs(t, grant("b", 10, "bought", "k"), task.ErrKeyReused, "grants: one installation, one set of keys")
	require.NoError(t, grant("b", 10, "bought", "k2"))

	enqueue := func(r store.EnqueueRequest) (store.Enqueued, error) { return b.Enqueue(b.ctx, r) }
	first := store.EnqueueRequest{UserID: "a", Prompt: "x", Cost: 2, Key: "k", Options: json.RawMessage(`{"size": "1024x1024", "quality": "low"}`)}
	done, err := enqueue(first)
	require.NoError(t, err)
	reordered := first
	reordered.Options = json.RawMessage(`{"quality": "low", "size": "1024x1024"}`)
	again, err := enqueue(reordered)
	require.NoError(t, err)
	assert.Equal(t, done, again, "the order of names in an object means nothing")
	other := first
	other.Prompt = "y"
	_, err = enqueue(other)
	assert.ErrorIs(t, err, task.ErrKeyReused)
	sameKey := first
	sameKey.UserID = "b"
	theirs, err := enqueue(sameKey)
	require.NoError(t, err, "enqueue: keys are the user's own")
	assert.NotEqual(t, done.TaskIDs, theirs.TaskIDs)

	// The same time is the same argument in every time zone.
	for _, zone := range []string{"UTC", "Asia/Shanghai", "America/New_York"} {
		b.exec(`begin; set local timezone = '` + zone + `'; set local datestyle = 'German';
			select imagetasks.enqueue('a', 'x', cost => 0, idempotency_key => 'zone', run_at => '2030-01-01T00:00:00+08:00'::timestamptz); commit`)
	}

	// A call that failed keeps nothing: it may be repeated with the same key and other arguments.
	expensive := store.EnqueueRequest{UserID: "a", Prompt: "x", Cost: 100, Key: "later"}
	_, err = enqueue(expensive)
	require.ErrorIs(t, err, task.ErrInsufficientCredits)
	require.NoError(t, grant("a", 200, "", "k3"))
	_, err = enqueue(expensive)
	require.NoError(t, err)
	b.requireAudit()
}

func TestEnqueue_RefusesBadArguments(t *testing.T) {
	b := fresh(t)
	user := b.user(100)
	big := strings.Repeat("x", 9000)
	for name, c := range map[string]struct{ call, want string }{
		"no prompt":                 {`user_id => $1`, "prompt is empty"},
		"prompt null":               {`$1, null`, "must not be null"},
		"long prompt":               {`$1, repeat('x', 32001)`, "32000"},
		"user empty":                {`''`, "user_id must be"},
		"user with control":         {`E'a\nb', 'x'`, "user_id must be"},
		"user too long":             {`repeat('x', 201), 'x'`, "user_id must be"},
		"options array":             {`$1, 'x', '[]'`, "JSON object"},
		"options null":              {`$1, 'x', 'null'`, ""},
		"options too long":          {`$1, 'x', jsonb_build_object('extra', jsonb_build_object('a', '` + big + `'))`, "8 KB"},
		"option type":               {`$1, 'x', '{"quality": 1}'`, "quality must be a string"},
		"option number":             {`$1, 'x', '{"output_compression": "80"}'`, "output_compression must be a number"},
		"option range":              {`$1, 'x', '{"output_compression": 101}'`, "0 to 100"},
		"option fraction":           {`$1, 'x', '{"output_compression": 1.5}'`, "0 to 100"},
		"option extra":              {`$1, 'x', '{"extra": []}'`, "extra must be an object"},
		"option attempts":           {`$1, 'x', '{"max_attempts": 0}'`, "1 to 100"},
		"empty model":               {`$1, 'x', '{"model": ""}'`, "model is empty"},
		"cost negative":             {`$1, 'x', cost => -1`, "cost must be"},
		"cost huge":                 {`$1, 'x', cost => 9223372036854775807`, "cost must be"},
		"priority":                  {`$1, 'x', priority => 10`, "priority must be"},
		"infinite time":             {`$1, 'x', run_at => 'infinity'`, "run_at must be"},
		"key empty":                 {`$1, 'x', idempotency_key => ''`, "idempotency_key must be"},
		"inputs object":             {`$1, 'x', inputs => '{}'`, "JSON array"},
		"input text":                {`$1, 'x', inputs => '["x"]'`, "input 1 must be an object"},
		"input neither":             {`$1, 'x', inputs => '[{}]'`, "either base64 or url"},
		"input both":                {`$1, 'x', inputs => '[{"base64": "eA==", "url": "https://x"}]'`, "either base64 or url"},
		"input unknown name":        {`$1, 'x', inputs => '[{"base64": "eA==", "maks": true}]'`, "unknown name maks"},
		"input not base64":          {`$1, 'x', inputs => '[{"base64": "???"}]'`, "not valid base64"},
		"input empty":               {`$1, 'x', inputs => '[{"base64": ""}]'`, "input 1 has 0 bytes"},
		"input too large":           {`$1, 'x', inputs => jsonb_build_array(jsonb_build_object('base64', encode(convert_to(repeat('x', 26214401), 'utf8'), 'base64')))`, "26214401 bytes"},
		"input url":                 {`$1, 'x', inputs => '[{"url": "file:///etc/passwd"}]'`, "http or https URL"},
		"input url with space":      {`$1, 'x', inputs => '[{"url": "https://x/a b"}]'`, "http or https URL"},
		"mask alone":                {`$1, 'x', inputs => '[{"base64": "eA==", "mask": true}]'`, "a mask needs"},
		"two masks":                 {`$1, 'x', inputs => '[{"base64": "eA=="}, {"base64": "eA==", "mask": true}, {"base64": "eA==", "mask": true}]'`, "only one input"},
		"too many inputs":           {`$1, 'x', inputs => (select jsonb_agg('{"base64": "eA=="}'::jsonb) from generate_series(1, 17))`, "at most 16"},
		"mask is no boolean":        {`$1, 'x', inputs => '[{"base64": "eA==", "mask": "yes"}]'`, "true or false"},
		"inputs too large together": {`$1, 'x', inputs => (select jsonb_agg(jsonb_build_object('base64', encode(convert_to(repeat('x', 20000000), 'utf8'), 'base64'))) from generate_series(1, 3))`, "60000000 bytes together"},
	} {
		t.Run(name, func(t *testing.T) {
			args := []any{}
			if strings.Contains(c.call, "$1") {
				args = append(args, user)
			}
			_, err := b.raw.ExecContext(b.ctx, `select * from imagetasks.enqueue(`+c.call+`)`, args...)
			if c.want == "" {
				require.NoError(t, err)
				return
			}
			pqErr, ok := err.(*pq.Error)
			require.True(t, ok, "%v", err)
			assert.Equal(t, "IT002", string(pqErr.Code), "%v", err)
			assert.Contains(t, pqErr.Message, c.want)
		})
	}
	for name, c := range map[string]struct{ call, want string }{
		"no array":     {`$1, '{}'`, "1 to 1000 tasks"},
		"no task":      {`$1`, "1 to 1000 tasks"},
		"too many":     {`$1, (select jsonb_agg('{"prompt": "x"}'::jsonb) from generate_series(1, 1001))`, "1 to 1000 tasks"},
		"unknown name": {`$1, '[{"promt": "x"}]'`, "a task has no promt"},
		"no object":    {`$1, '["x"]'`, "must be a JSON object"},
		"cost text":    {`$1, '[{"prompt": "x", "cost": "1"}]'`, "cost must be"},
		"cost part":    {`$1, '[{"prompt": "x", "cost": 1.5}]'`, "cost must be"},
		"run_at":       {`$1, '[{"prompt": "x", "run_at": "tomorrow evening"}]'`, "run_at must be"},
		"prompt":       {`$1, '[{"prompt": 7}]'`, "prompt must be text"},
		"second task":  {`$1, '[{"prompt": "x"}, {"prompt": "x", "priority": 77}]'`, "priority must be"},
		"sum of costs": {`$1, (select jsonb_agg('{"prompt": "x", "cost": 1000000000000}'::jsonb) from generate_series(1, 2))`, "together"},
	} {
		t.Run("many/"+name, func(t *testing.T) {
			_, err := b.raw.ExecContext(b.ctx, `select * from imagetasks.enqueue_many(`+c.call+`)`, user)
			pqErr, ok := err.(*pq.Error)
			require.True(t, ok, "%v", err)
			assert.Equal(t, "IT002", string(pqErr.Code), "%v", err)
			assert.Contains(t, pqErr.Message, c.want)
		})
	}
	assert.Equal(t, 99, b.balance(user), "only the one that is allowed was charged")
	assert.Equal(t, 1, b.number(`select count(*) from imagetasks.tasks`))
}

// Ids of common libraries, and awkward ones.
func TestEnqueue_IDsOfAnyForm(t *testing.T) {
	b := fresh(t)
	users := []string{
		"user_2NNEqL2nrIRdJ194ndJqAHwEfxC", "ckv7x9zq50000v8l4x3z1k2j3", "fz0RtN4Qx2mWPbH8sVdY6uJc", uuid.NewString(), "42", "o'brien",
		`a"b\c/d`, "用户 七", "auth0|507f1f77bcf86cd799439011", "x@example.com", "%s", "a;drop table tasks", strings.Repeat("长", 200),
	}
	for i, user := range users {
		_, err := b.GrantCredits(b.ctx, user, 5, "", fmt.Sprint(i))
		require.NoError(t, err, user)
		ids := b.enqueue(user, 2, 1)
		b.cancel(ids[0])
		assert.Equal(t, 4, b.balance(user))
		rows, err := b.ListTasks(b.ctx, store.TaskFilter{UserID: user, Limit: 10})
		require.NoError(t, err)
		assert.Len(t, rows, 2)
	}
	assert.Len(t, b.claim(100), len(users))
	b.requireAudit()
}

func TestRedrive_ConcurrentRepeatsChargeOnce(t *testing.T) {
	b := fresh(t)
	user := b.user(10)
	id := b.enqueue(user, 1, 3)[0]
	fail := func() {
		t.Helper()
		tasks := b.claim(1)
		require.Len(t, tasks, 1)
		_, err := b.Fail(b.ctx, tasks[0].Lease(), errServer, true)
		require.NoError(t, err)
	}
	_, err := b.Redrive(b.ctx, id, 1)
	assert.ErrorIs(t, err, task.ErrWrongState, "it is pending")
	fail()
	results := make([]store.Redriven, 10)
	var wg sync.WaitGroup
	for i := range results {
		wg.Go(func() {
			var err error
			results[i], err = b.Redrive(b.ctx, id, 1)
			assert.NoError(t, err)
		})
	}
	wg.Wait()
	for _, r := range results {
		assert.Equal(t, store.Redriven{TaskID: id, Run: 2, Balance: 7}, r)
	}
	assert.Equal(t, 7, b.balance(user))
	row := b.row(id)
	assert.Equal(t, 2, row.Run)
	assert.Zero(t, row.Attempts)
	assert.Zero(t, row.Refunded)
	fail()
	again, err := b.Redrive(b.ctx, id, 1)
	require.NoError(t, err)
	assert.Equal(t, store.Redriven{TaskID: id, Run: 2, Balance: 7}, again, "the first result, though the new run has failed")
	_, err = b.Redrive(b.ctx, id, 0)
	require.NoError(t, err)
	_, err = b.Redrive(b.ctx, id, 1)
	assert.ErrorIs(t, err, task.ErrWrongState, "two runs behind")
	fail()
	assert.Equal(t, 3, b.number(`select count(*) from imagetasks.ledger where kind = 'charge'`))
	assert.Equal(t, 3, b.number(`select count(*) from imagetasks.ledger where kind = 'refund'`))
	assert.Equal(t, 10, b.balance(user))
	details, err := b.TaskDetails(b.ctx, id)
	require.NoError(t, err)
	assert.Len(t, details.Outcomes, 3)
	assert.Len(t, details.Ledger, 6)
	assert.Equal(t, 3, details.Outcomes[2].Run)
	b.requireAudit()

	b.exec(`update imagetasks.credits set credits = 0 where user_id = $1`, user)
	_, err = b.Redrive(b.ctx, id, 3)
	assert.ErrorIs(t, err, task.ErrInsufficientCredits)
	assert.Equal(t, task.Failed, b.row(id).State)
	_, err = b.Redrive(b.ctx, "nothing", 0)
	assert.ErrorIs(t, err, task.ErrNotFound)
}

func TestRedrive_NeedsInputs(t *testing.T) {
	b := fresh(t)
	user := b.user(2)
	done, err := b.Enqueue(b.ctx, store.EnqueueRequest{UserID: user, Prompt: "x", Cost: 1, Inputs: []task.Input{{Content: []byte("x")}}})
	require.NoError(t, err)
	held := b.claim(1)[0]
	_, err = b.Fail(b.ctx, held.Lease(), errServer, true)
	require.NoError(t, err)
	p, err := b.Prune(b.ctx, store.PruneConfig{RedriveWindow: time.Hour, Batch: 10})
	require.NoError(t, err)
	assert.Zero(t, p.Inputs, "within the window")
	b.exec(`update imagetasks.tasks set completed_at = now() - interval '2 hours'`)
	p, err = b.Prune(b.ctx, store.PruneConfig{RedriveWindow: time.Hour, Batch: 10})
	require.NoError(t, err)
	assert.Equal(t, 1, p.Inputs)
	_, err = b.Redrive(b.ctx, done.TaskIDs[0], 1)
	require.ErrorIs(t, err, task.ErrWrongState)
	assert.ErrorContains(t, err, "deleted")
	b.requireAudit()
}

// Grants stop at a bound, refunds don't.
func TestGrantCredits_BalanceLimit(t *testing.T) {
	b := fresh(t)
	for i := range store.MaxBalance / store.MaxCost {
		_, err := b.GrantCredits(b.ctx, "rich", store.MaxCost, "", fmt.Sprint(i))
		require.NoError(t, err)
	}
	ids := b.enqueue("rich", 1, 100)
	_, err := b.GrantCredits(b.ctx, "rich", 100, "", "full")
	require.NoError(t, err)
	_, err = b.GrantCredits(b.ctx, "rich", 1, "", "over")
	require.ErrorIs(t, err, task.ErrBalanceLimit)
	assert.EqualValues(t, 100, b.cancel(ids[0]).Refunded)
	assert.Equal(t, store.MaxBalance+100, b.balance("rich"))
	b.requireAudit()
}

func TestCancel_SameAnswerForRepeats(t *testing.T) {
	b := fresh(t)
	user := b.user(5)
	id := b.enqueue(user, 1, 5)[0]
	_, err := b.Cancel(b.ctx, id, "somebody else")
	require.ErrorIs(t, err, task.ErrNotFound)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			c, err := b.Cancel(b.ctx, id, user)
			assert.NoError(t, err)
			assert.Equal(t, store.Cancelled{TaskID: id, State: task.Cancelled, Refunded: 5, Balance: 5}, c)
		})
	}
	wg.Wait()
	assert.Equal(t, 1, b.number(`select count(*) from imagetasks.ledger where kind = 'refund'`))
	b.requireAudit()
}

func TestEnqueue_UserMaxWaiting(t *testing.T) {
	b := fresh(t)
	for range 2 {
		require.NoError(t, b.SetLimits(b.ctx, 0, 3))
	}
	var err error
	user := b.user(10)
	b.enqueue(user, 2, 1)
	_, err = b.Enqueue(b.ctx, store.EnqueueRequest{UserID: user, Prompt: "x", Cost: 1, Count: 2})
	require.ErrorIs(t, err, task.ErrTooManyWaiting)
	b.enqueue(user, 1, 1)
	_, err = b.Enqueue(b.ctx, store.EnqueueRequest{UserID: user, Prompt: "x", Cost: 1})
	require.ErrorIs(t, err, task.ErrTooManyWaiting)
	assert.Equal(t, 7, b.balance(user), "a refused call charges nothing")
	b.enqueue(b.user(1), 1, 1)
	held := b.claim(1)
	require.Len(t, held, 1)
	b.enqueue(user, 1, 1)
	b.requireAudit()
}

func TestTaskStatus_PositionAndWait(t *testing.T) {
	b := fresh(t)
	first, second := b.user(10), b.user(10)
	ids := b.enqueue(first, 3, 1)
	other := b.enqueue(second, 1, 1)[0]
	urgent, err := b.Enqueue(b.ctx, store.EnqueueRequest{UserID: second, Prompt: "x", Cost: 1, Priority: 9})
	require.NoError(t, err)
	later, err := b.Enqueue(b.ctx, store.EnqueueRequest{UserID: second, Prompt: "x", Cost: 1, RunAt: time.Now().Add(time.Hour)})
	require.NoError(t, err)
	position := func(id string) int {
		t.Helper()
		details, err := b.TaskDetails(b.ctx, id)
		require.NoError(t, err)
		return details.QueuePosition
	}
	order := []string{urgent.TaskIDs[0], ids[0], other, ids[1], ids[2]}
	for i, id := range order {
		assert.Equal(t, i+1, position(id))
	}
	assert.Zero(t, position(later.TaskIDs[0]), "not due")
	require.NoError(t, b.RecordHeartbeat(b.ctx, store.Processor{Worker: "w", Host: "h", PID: 1, Capacity: 2, TaskDuration: 10 * time.Second}))
	details, err := b.TaskDetails(b.ctx, ids[1])
	require.NoError(t, err)
	assert.InDelta(t, 4*10/2, details.ExpectedWaitSeconds, 0.1)
	for _, want := range order {
		tasks := b.claim(1)
		require.Len(t, tasks, 1)
		assert.Equal(t, want, tasks[0].ID, "the position says what starts next")
	}
}
