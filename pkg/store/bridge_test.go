package store_test

import (
	"database/sql"
	_ "embed"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

//go:embed testdata/bridge.sql
var bridgeSQL string

// bridged is a store with the small application of testdata/bridge.sql.
type bridged struct{ *testStore }

func newBridged(tb testing.TB) bridged {
	b := bridged{fresh(tb)}
	b.exec(bridgeSQL)
	return b
}

// sync takes everything that the inbox has: tasks, then changes of balances, which otherwise wait for two seconds.
func (b bridged) sync() store.BridgeSync {
	b.tb.Helper()
	var all store.BridgeSync
	take := func() {
		for more := true; more; {
			done, err := b.SyncBridge(b.ctx, 100)
			require.NoError(b.tb, err)
			all.Taken, all.Superseded, all.Failed, all.Balances = all.Taken+done.Taken, all.Superseded+done.Superseded, all.Failed+done.Failed, all.Balances+done.Balances
			more = done.More
		}
	}
	take()
	b.exec(`update imagetasks.inbox set at = at - interval '3 seconds'`)
	take()
	return all
}

// apply writes what is due to the application's tables and returns the results by task.
func (b bridged) apply() map[string]string {
	b.tb.Helper()
	due, err := b.BridgeDue(b.ctx, 1000)
	require.NoError(b.tb, err)
	results := map[string]string{}
	for _, id := range due {
		done, err := b.ApplyToBridge(b.ctx, id)
		require.NoError(b.tb, err)
		results[id] = done.Result
	}
	return results
}

// job is a row of the application's table of tasks.
type job struct {
	State, URL, Error string
	Refunded          bool
}

func (b bridged) job(id string) (j job) {
	b.tb.Helper()
	require.NoError(b.tb, b.raw.QueryRowContext(b.ctx, `select state, coalesce(url, ''), coalesce(error, ''), refunded from public.jobs where id = $1`, id).
		Scan(&j.State, &j.URL, &j.Error, &j.Refunded))
	return j
}

func (b bridged) wallet(owner string) int {
	b.tb.Helper()
	return b.number(`select credits from public.wallets where owner = $1`, owner)
}

// buy starts a job as the application does: it takes a credit and inserts the row.
func (b bridged) buy(id, owner string) {
	b.tb.Helper()
	b.exec(`insert into public.wallets values ($1, 10) on conflict do nothing`, owner)
	b.exec(`update public.wallets set credits = credits - 1 where owner = $1`, owner)
	b.exec(`insert into public.jobs (id, owner, prompt) values ($1, $2, 'a cat')`, id, owner)
}

// state returns the status and the bridge_state of a task.
func (b bridged) state(id string) string {
	b.tb.Helper()
	var state, bridge string
	require.NoError(b.tb, b.raw.QueryRowContext(b.ctx, `select status, bridge_state from imagetasks.tasks where task_id = $1`, id).Scan(&state, &bridge))
	return state + " " + bridge
}

// requireAgreement checks that both sides agree, and the money rules.
func (b bridged) requireAgreement() {
	b.tb.Helper()
	b.sync()
	differences, err := b.CheckBridge(b.ctx)
	require.NoError(b.tb, err)
	assert.Empty(b.tb, differences)
	b.requireAudit()
	assert.Zero(b.tb, b.number(`select count(*) from imagetasks.credits`), "users of the application have no balance here")
}

func (b bridged) complete(held task.Task, url string) {
	b.tb.Helper()
	done, err := b.Complete(b.ctx, store.Completion{Lease: held.Lease(), ImageURL: url})
	require.NoError(b.tb, err)
	require.Len(b.tb, done, 1)
}

func (b bridged) fail(held task.Task) task.Refund {
	b.tb.Helper()
	refund, err := b.Fail(b.ctx, held.Lease(), errServer, true)
	require.NoError(b.tb, err)
	return refund
}

func TestBridge_TaskIsTakenAndCompleted(t *testing.T) {
	b := newBridged(t)
	b.buy("job 1", "ann")
	b.exec(`update public.jobs set picture = 'data:image/png;base64,aGVsbG8='`)
	assert.Equal(t, 1, b.sync().Taken)
	assert.Zero(t, b.sync().Taken, "once")
	held := b.claimOneOf()
	assert.Equal(t, "job 1", held.ID)
	assert.Equal(t, "ann", held.UserID)
	assert.Equal(t, "a cat", held.Prompt)
	inputs, err := b.Inputs(b.ctx, held.Lease())
	require.NoError(t, err)
	require.Len(t, inputs, 1)
	assert.Equal(t, "hello", string(inputs[0].Content), "read from the application's row")

	later, err := b.WriteBridgeProgress(b.ctx, store.BridgeProgress{TaskID: held.ID, Epoch: held.Epoch, Percent: 40, Stage: "generating"})
	require.NoError(t, err)
	assert.Empty(t, later)
	assert.Equal(t, "processing", b.job("job 1").State)
	b.complete(held, "https://pictures.example/1.png")
	assert.Equal(t, "completed owed", b.state("job 1"))
	assert.Equal(t, map[string]string{"job 1": store.BridgeApplied}, b.apply())
	assert.Equal(t, job{State: "completed", URL: "https://pictures.example/1.png"}, b.job("job 1"))
	assert.Equal(t, 1, b.number(`select count(*) from public.gallery where job = 'job 1'`))
	assert.Empty(t, b.apply(), "once")
	done, err := b.ApplyToBridge(b.ctx, "job 1")
	require.NoError(t, err)
	assert.Equal(t, store.BridgeNone, done.Result, "a repeat finds nothing to do")
	assert.Equal(t, "completed applied", b.state("job 1"))
	b.requireAgreement()
	assert.Equal(t, 9, b.wallet("ann"))
	balance, err := b.Balance(b.ctx, "ann")
	require.NoError(t, err)
	assert.EqualValues(t, 9, balance, "what the application's table says")
}

// claimOneOf claims the only task.
func (b bridged) claimOneOf() task.Task {
	b.tb.Helper()
	held := b.claim(10)
	require.Len(b.tb, held, 1)
	return held[0]
}

// Whatever closes a task, its end is owed in the same statement, and the refund is given once, in the application's table.
func TestBridge_RefundsInTheApplicationsTable(t *testing.T) {
	for name, end := range map[string]func(b bridged, held task.Task){
		"failed": func(b bridged, held task.Task) {
			assert.EqualValues(b.tb, 1, b.fail(held).Credits)
		},
		"cancelled": func(b bridged, held task.Task) {
			got, err := b.Cancel(b.ctx, held.ID, "")
			require.NoError(b.tb, err)
			assert.EqualValues(b.tb, 1, got.Refunded)
		},
		"stuck": func(b bridged, held task.Task) {
			b.exec(`update imagetasks.tasks set processing_started_at = now() - interval '1 hour'`)
			_, err := b.Sweep(b.ctx, store.Sweep{OlderThan: time.Minute, Limit: 10})
			require.NoError(b.tb, err)
		},
		"closed by SQL": func(b bridged, held task.Task) {
			b.exec(`update imagetasks.tasks set status = 'failed', error_code = 'by_hand'`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBridged(t)
			b.buy("job", "ann")
			b.sync()
			end(b, b.claimOneOf())
			b.requireAudit()
			assert.Equal(t, 9, b.wallet("ann"))
			state, err := b.Bridge(b.ctx)
			require.NoError(t, err)
			assert.Equal(t, 1, state.Owed)
			assert.Equal(t, map[string]string{"job": store.BridgeApplied}, b.apply())
			assert.True(t, b.job("job").Refunded)
			assert.Equal(t, 10, b.wallet("ann"))
			assert.Empty(t, b.apply())
			b.requireAgreement()
			assert.Equal(t, 10, b.wallet("ann"), "once")
			assert.Equal(t, 1, b.number(`select count(*) from imagetasks.ledger where kind = 'refund' and external and amount = 1`))
			assert.Equal(t, 10, b.number(`select balance from imagetasks.bridged_users`))
		})
	}
}

// The application closes, deletes or refunds a row before the bridge writes to it: the row stays as it is, and no refund is added.
func TestBridge_ApplicationCloses(t *testing.T) {
	cancel := `with closed as (update public.jobs set state = 'cancelled', refunded = true where id = 'job' and state in ('pending', 'processing') returning owner)
		update public.wallets w set credits = credits + 1 from closed where w.owner = closed.owner`
	for name, test := range map[string]struct {
		application string
		job         string // state afterwards
		credits     int
	}{
		"cancelled and refunded": {cancel, "cancelled", 10},
		"closed by another word": {`update public.jobs set state = 'archived' where id = 'job'`, "archived", 9},
		"completed":              {`update public.jobs set state = 'completed', url = 'theirs' where id = 'job'`, "completed", 9},
		"deleted":                {`delete from public.jobs where id = 'job'`, "", 9},
		"deleted with the user":  {`delete from public.jobs; delete from public.wallets`, "", 0},
	} {
		for _, moment := range []string{"pending", "in work", "owed"} {
			t.Run(name+", "+moment, func(t *testing.T) {
				t.Parallel()
				b := newBridged(t)
				b.buy("job", "ann")
				b.sync()
				want := "cancelled superseded"
				if moment != "pending" {
					held := b.claimOneOf()
					if moment == "owed" {
						b.fail(held)
						want = "failed superseded"
					}
					defer func() {
						_, err := b.Complete(b.ctx, store.Completion{Lease: held.Lease(), ImageURL: "https://pictures.example/late.png"})
						require.NoError(t, err)
						assert.Equal(t, want, b.state("job"), "a late completion changes nothing")
					}()
				}
				b.exec(test.application)
				b.sync()
				b.apply()
				assert.Equal(t, want, b.state("job"))
				if test.job != "" {
					assert.Equal(t, test.job, b.job("job").State)
				}
				if test.credits > 0 {
					assert.Equal(t, test.credits, b.wallet("ann"))
				}
				b.requireAgreement()
				assert.Empty(t, b.apply())
			})
		}
	}
}

func TestBridge_OneFailureHoldsUpNobody(t *testing.T) {
	b := newBridged(t)
	for i := range 5 {
		b.buy(fmt.Sprint("job ", i), "ann")
	}
	b.exec(`alter table public.jobs add constraint short check (url <> 'https://pictures.example/3.png')`)
	b.sync()
	for _, held := range b.claim(10) {
		b.complete(held, "https://pictures.example/"+held.ID[4:]+".png")
	}
	results := b.apply()
	assert.Equal(t, store.BridgeWaiting, results["job 3"])
	delete(results, "job 3")
	assert.Equal(t, map[string]string{"job 0": "applied", "job 1": "applied", "job 2": "applied", "job 4": "applied"}, results)
	problems, err := b.BridgeProblems(b.ctx, 10)
	require.NoError(t, err)
	require.Len(t, problems, 1)
	assert.Equal(t, "job 3", problems[0].Key)
	assert.Equal(t, "close", problems[0].Part)
	assert.Equal(t, "23514", problems[0].Code)
	assert.Contains(t, problems[0].Reason, "the constraint short was violated")
	assert.Empty(t, b.apply(), "not before its time")
	b.exec(`alter table public.jobs drop constraint short; update imagetasks.outbox set next_try_at = now()`)
	assert.Equal(t, map[string]string{"job 3": "applied"}, b.apply())
	b.requireAgreement()
}

// A history that refuses the row, or a balance that can't be changed, does not undo the end of the task; the part is tried again.
func TestBridge_PartsAreTriedAgain(t *testing.T) {
	b := newBridged(t)
	b.buy("a", "ann")
	b.buy("b", "ben")
	b.sync()
	for _, held := range b.claim(10) {
		if held.ID == "a" {
			b.complete(held, "p/1.png") // which the gallery refuses
		} else {
			b.fail(held)
		}
	}
	b.exec(`alter table public.wallets add constraint full_wallet check (credits < 10) not valid`)
	assert.Equal(t, map[string]string{"a": "waiting", "b": "waiting"}, b.apply())
	assert.Equal(t, job{State: "completed", URL: "p/1.png"}, b.job("a"))
	assert.Equal(t, "failed", b.job("b").State)
	assert.False(t, b.job("b").Refunded)
	assert.Equal(t, 9, b.wallet("ben"))
	b.exec(`alter table public.wallets drop constraint full_wallet; alter table public.gallery drop constraint gallery_url_check;
		update imagetasks.outbox set next_try_at = now()`)
	assert.Equal(t, map[string]string{"a": "applied", "b": "applied"}, b.apply())
	assert.Equal(t, 10, b.wallet("ben"))
	assert.True(t, b.job("b").Refunded)
	assert.Equal(t, 1, b.number(`select count(*) from public.gallery`))
	b.requireAgreement()
}

// A row that the application holds for long is left for later, and nothing that this transaction did stays.
func TestBridge_LockedRows(t *testing.T) {
	for _, lock := range []string{`select from public.jobs where id = 'job' for update`, `select from public.wallets where owner = 'ann' for update`} {
		b := newBridged(t)
		b.buy("job", "ann")
		b.sync()
		b.fail(b.claimOneOf())
		tx, err := b.raw.BeginTx(b.ctx, nil)
		require.NoError(t, err)
		_, err = tx.ExecContext(b.ctx, lock)
		require.NoError(t, err)
		start := time.Now()
		assert.Equal(t, map[string]string{"job": store.BridgeBusy}, b.apply())
		assert.Less(t, time.Since(start), time.Second)
		assert.Equal(t, "pending", b.job("job").State)
		require.NoError(t, tx.Rollback())
		assert.Equal(t, map[string]string{"job": store.BridgeApplied}, b.apply())
		b.requireAgreement()
		assert.Equal(t, 10, b.wallet("ann"))
	}
}

// Rows that can't be taken over are noted; the others are taken. After some tries they fail, and are refunded.
func TestBridge_BadRows(t *testing.T) {
	b := newBridged(t)
	b.buy("empty", "ann")
	b.buy("good", "ann")
	b.exec(`update public.jobs set prompt = null where id = 'empty'`)
	done := b.sync()
	assert.Equal(t, 1, done.Taken)
	assert.Equal(t, 1, done.Failed)
	problems, err := b.BridgeProblems(b.ctx, 10)
	require.NoError(t, err)
	require.Len(t, problems, 1)
	assert.Equal(t, store.BridgeProblem{Part: "take", Key: "empty", Code: "IT002", Reason: problems[0].Reason, Tries: 1, Since: problems[0].Since,
		NextTryAt: problems[0].NextTryAt}, problems[0])
	assert.Contains(t, problems[0].Reason, "neither a prompt nor an input picture")
	for range 6 {
		b.exec(`update imagetasks.bridge_failures set next_try_at = now()`)
		b.sync()
	}
	assert.Equal(t, "failed owed", b.state("empty"))
	b.apply()
	assert.Equal(t, job{State: "failed", Error: "the row has neither a prompt nor an input picture", Refunded: true}, b.job("empty"))
	b.complete(b.claimOneOf(), "https://pictures.example/1.png")
	b.apply()
	b.requireAgreement()
	assert.Equal(t, 9, b.wallet("ann"))
}

// The application's table changes under the bridge: nothing is taken, nothing is lost, and the reason is kept.
func TestBridge_DroppedColumn(t *testing.T) {
	b := newBridged(t)
	b.exec(`alter table public.jobs rename column cost to price`)
	b.buy("job", "ann")
	assert.Zero(t, b.sync().Taken)
	problems, err := b.BridgeProblems(b.ctx, 10)
	require.NoError(t, err)
	require.Len(t, problems, 1)
	assert.Equal(t, "bridge", problems[0].Part)
	assert.Contains(t, problems[0].Reason, "cost")
	b.exec(`alter table public.jobs rename column price to cost; update imagetasks.bridge_failures set next_try_at = now()`)
	assert.Equal(t, 1, b.sync().Taken)
	problems, err = b.BridgeProblems(b.ctx, 10)
	require.NoError(t, err)
	assert.Empty(t, problems)
	b.requireAgreement()
}

// What a trigger did not note is found by comparing.
func TestBridge_Reconcile(t *testing.T) {
	b := newBridged(t)
	b.buy("job 1", "ann")
	b.buy("job 2", "ann")
	b.sync()
	b.exec(`alter table public.jobs disable trigger user; alter table public.wallets disable trigger user`)
	b.buy("job 3", "ann")
	b.exec(`delete from public.jobs where id = 'job 1'`)
	b.exec(`insert into imagetasks.inbox (kind, key) values ('missed', '')`)
	assert.Zero(t, b.sync().Taken)
	differences, err := b.CheckBridge(b.ctx)
	require.NoError(t, err)
	var codes []string
	for _, d := range differences {
		codes = append(codes, d.Code+" "+d.Subject)
	}
	assert.ElementsMatch(t, []string{"not_taken job 3", "not_live job 1", "balance_differs ann"}, codes)
	n, err := b.ReconcileBridge(b.ctx)
	require.NoError(t, err)
	assert.Equal(t, 3, n)
	n, err = b.ReconcileBridge(b.ctx)
	require.NoError(t, err)
	assert.Zero(t, n, "what is noted is not noted again")
	done := b.sync()
	assert.Equal(t, 1, done.Taken)
	assert.Equal(t, 1, done.Superseded)
	b.requireAgreement()
	assert.Equal(t, 7, b.number(`select balance from imagetasks.bridged_users`))
}

// Rows that the application has set to processing: by the rule of the description.
func TestBridge_ProcessingRows(t *testing.T) {
	for moving, want := range map[string]string{"wait": "processing live", "requeue": "pending live", "fail": "failed owed"} {
		t.Run(moving, func(t *testing.T) {
			t.Parallel()
			b := newBridged(t)
			b.exec(`update imagetasks.bridge set moving = $1`, moving)
			b.buy("job", "ann")
			b.exec(`update public.jobs set state = 'processing'`)
			b.sync()
			assert.Equal(t, want, b.state("job"))
			switch moving {
			case "wait":
				assert.Empty(t, b.claim(10), "it is worked elsewhere")
				b.exec(`update imagetasks.tasks set processing_started_at = now() - interval '1 hour'`)
				_, err := b.Sweep(b.ctx, store.Sweep{OlderThan: time.Minute, Limit: 10})
				require.NoError(t, err)
				b.apply()
				assert.Equal(t, 10, b.wallet("ann"))
			case "requeue":
				b.complete(b.claimOneOf(), "https://pictures.example/1.png")
				b.apply()
			case "fail":
				b.apply()
				assert.Equal(t, 10, b.wallet("ann"))
			}
			b.requireAgreement()
		})
	}
}

// A row that the application sets back to pending begins the next run; it is charged again only if it says so.
func TestBridge_ApplicationRetries(t *testing.T) {
	for name, test := range map[string]struct {
		retry   string
		credits int // after the second failure
	}{
		"for nothing":   {`update public.jobs set state = 'pending'`, 10},
		"charged again": {`update public.jobs set state = 'pending', refunded = false; update public.wallets set credits = credits - 1`, 10},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBridged(t)
			b.buy("job", "ann")
			for range 2 {
				b.sync()
				b.fail(b.claimOneOf())
				b.apply()
				assert.Equal(t, 10, b.wallet("ann"))
				b.exec(test.retry)
			}
			b.sync()
			assert.Equal(t, 3, b.number(`select run from imagetasks.tasks`))
			b.complete(b.claimOneOf(), "https://pictures.example/1.png")
			b.apply()
			b.requireAgreement()
		})
	}
}

func TestBridge_Redrive(t *testing.T) {
	b := newBridged(t)
	b.buy("job", "ann")
	b.sync()
	b.fail(b.claimOneOf())
	_, err := b.Redrive(b.ctx, "job", 1)
	require.ErrorIs(t, err, task.ErrWrongState, "its end is still to be written")
	b.apply()
	for range 2 {
		got, err := b.Redrive(b.ctx, "job", 1)
		require.NoError(t, err)
		assert.Equal(t, 2, got.Run)
	}
	assert.Equal(t, job{State: "pending"}, b.job("job"))
	assert.Equal(t, 9, b.wallet("ann"), "charged once")
	b.fail(b.claimOneOf())
	b.apply()
	b.requireAgreement()
	assert.Equal(t, 10, b.wallet("ann"))
	b.exec(`delete from public.wallets`)
	_, err = b.Redrive(b.ctx, "job", 2)
	require.ErrorIs(t, err, task.ErrInsufficientCredits)
	b.exec(`update imagetasks.bridge set charges = false`)
	_, err = b.Redrive(b.ctx, "job", 2)
	require.ErrorIs(t, err, task.ErrWrongState)
	assert.ErrorContains(t, err, "charge in the part [bridge.credits]")
	b.sync()
	b.requireAudit()
}

// A balance that the application computes from what it read before our refund loses the refund. It is reported, with what was written; charges and
// refunds that tasks explain are not.
func TestBridge_LostUpdates(t *testing.T) {
	b := newBridged(t)
	refund := func(id string) {
		b.sync()
		b.fail(b.claimOneOf())
		b.apply()
		require.Equal(t, "failed applied", b.state(id))
	}
	lost := func() int { return b.number(`select count(*) from imagetasks.lost_updates`) }
	b.buy("job 1", "ann")
	refund("job 1")
	b.buy("job 2", "ann") // a charge right after our refund
	refund("job 2")
	b.sync()
	assert.Zero(t, lost())
	require.Equal(t, 10, b.wallet("ann"))

	b.buy("job 3", "ann")
	refund("job 3") // 9 -> 10
	b.exec(`update public.wallets set credits = 8`)
	b.exec(`insert into public.jobs (id, owner, prompt) values ('job 4', 'ann', 'a dog')`)
	b.sync()
	assert.Equal(t, 1, lost(), "it had read 9 and took 1")
	var note string
	require.NoError(t, b.raw.QueryRow(`select before || ' ' || after || ' ' || (ours -> 0 ->> 'amount') from imagetasks.lost_updates`).Scan(&note))
	assert.Equal(t, "10 8 1", note)
	differences, err := b.CheckBridge(b.ctx)
	require.NoError(t, err)
	require.Len(t, differences, 1)
	assert.Equal(t, "lost_update", differences[0].Code)
	assert.Equal(t, "ann", differences[0].Subject)
	b.requireAudit()
	assert.Equal(t, 8, b.number(`select balance from imagetasks.bridged_users`), "their balance stays the truth")
	require.NoError(t, b.AcknowledgeLostUpdates(b.ctx, differences[0].ID))
	b.requireAgreement()

	// A refund of theirs that sets the value which ours has made.
	b.fail(b.claimOneOf())
	b.apply() // 8 -> 9
	b.exec(`insert into public.jobs (id, owner, prompt) values ('job 5', 'ann', 'a dog')`)
	b.sync()
	b.exec(`update public.jobs set state = 'cancelled', refunded = true where id = 'job 5'; update public.wallets set credits = 9`)
	b.sync()
	assert.Equal(t, 2, lost(), "it had read 8 and added 1")
}

// A task explains one change of the balance, where its cost with a refund of ours is another cost, too. A refund of ours explains none of theirs.
func TestBridge_ExplainedOnce(t *testing.T) {
	b := newBridged(t)
	lost := func() int { return b.number(`select count(*) from imagetasks.lost_updates`) }
	b.buy("job 1", "ann")
	b.sync()
	b.fail(b.claimOneOf())
	b.apply() // 9 -> 10
	b.exec(`update public.wallets set credits = credits - 1`)
	b.sync()
	assert.Zero(t, lost(), "the charge of a row that was closed at once")
	b.exec(`update public.wallets set credits = credits - 3; insert into public.jobs (id, owner, prompt, cost) values ('job 3', 'ann', 'x', 3)`)
	b.sync()
	b.exec(`update public.wallets set credits = credits - 2; insert into public.jobs (id, owner, prompt, cost) values ('job 2', 'ann', 'x', 2)`)
	b.sync()
	assert.Zero(t, lost(), "their tasks explain both")
	b.exec(`update public.wallets set credits = credits - 3`)
	b.sync()
	assert.Equal(t, 1, lost(), "it may be a charge of 2 that ignores our refund of 1")
	b.exec(`update public.wallets set credits = credits + 5`)
	b.sync()
	assert.Equal(t, 2, lost(), "no task costs 5")
}

// In a copy of the database nothing is taken or written before an operator resumes.
func TestBridge_CopiedDatabase(t *testing.T) {
	b := newBridged(t)
	b.buy("job 1", "ann")
	b.sync()
	b.fail(b.claimOneOf())
	b.buy("job 2", "ann")
	b.exec(`update imagetasks.control set database_identity = 'another'`)
	done, err := b.SyncBridge(b.ctx, 10)
	require.NoError(t, err)
	assert.Zero(t, done)
	assert.Empty(t, b.apply())
	applied, err := b.ApplyToBridge(b.ctx, "job 1")
	require.NoError(t, err)
	assert.NotEqual(t, store.BridgeApplied, applied.Result)
	noted, err := b.ReconcileBridge(b.ctx)
	require.NoError(t, err)
	assert.Zero(t, noted)
	assert.Equal(t, "pending", b.job("job 1").State)
	require.NoError(t, b.Resume(b.ctx))
	assert.Equal(t, 1, b.sync().Taken)
	assert.Equal(t, map[string]string{"job 1": store.BridgeApplied}, b.apply())
	b.requireAgreement()
}

// Without the bridge its users are users like all others.
func TestBridge_UsersAfterRemoval(t *testing.T) {
	b := newBridged(t)
	b.buy("job", "ann")
	b.sync()
	b.complete(b.claimOneOf(), "https://pictures.example/1.png")
	b.apply()
	b.sync()
	b.exec(`delete from imagetasks.bridge`)
	balance, err := b.GrantCredits(b.ctx, "ann", 5, "gift", "gift-1")
	require.NoError(t, err)
	assert.EqualValues(t, 5, balance)
	_, err = b.Enqueue(b.ctx, store.EnqueueRequest{UserID: "ann", Prompt: "x", Cost: 1})
	require.NoError(t, err)
	b.requireAudit()
}

// Credits of the application's users can't be spent or granted here.
func TestBridge_UsersHaveNoCreditsHere(t *testing.T) {
	b := newBridged(t)
	b.buy("job", "ann")
	b.sync()
	_, err := b.GrantCredits(b.ctx, "ann", 5, "gift", "gift-1")
	require.ErrorIs(t, err, task.ErrInvalid)
	_, err = b.Enqueue(b.ctx, store.EnqueueRequest{UserID: "ann", Prompt: "x", Cost: 1})
	require.ErrorIs(t, err, task.ErrInvalid)
	assert.ErrorContains(t, err, "table of the application")
	_, err = b.Enqueue(b.ctx, store.EnqueueRequest{UserID: "ann", Prompt: "x", Cost: 0})
	require.NoError(t, err)
	err = b.SetLimits(b.ctx, 1, 0)
	require.NoError(t, err)
	b.buy("job 2", "ann")
	b.sync()
	assert.NotEmpty(t, b.claim(10))
	b.requireAgreement()
}

// An owed refund that was lost from the outbox is found by the audit and put back.
func TestBridge_AuditRepairs(t *testing.T) {
	b := newBridged(t)
	b.buy("job", "ann")
	b.sync()
	b.fail(b.claimOneOf())
	b.exec(`delete from imagetasks.outbox`)
	rules, err := b.Audit(b.ctx)
	require.NoError(t, err)
	assert.Equal(t, 1, store.CountViolations(rules))
	paid, err := b.RepairRefunds(b.ctx, 10, uuid.New())
	require.NoError(t, err)
	assert.Empty(t, paid, "the balance is not here")
	for _, want := range []int{1, 0} {
		owed, err := b.OweRefunds(b.ctx, 10)
		require.NoError(t, err)
		assert.Len(t, owed, want)
	}
	b.apply()
	assert.Equal(t, job{State: "failed", Error: "500", Refunded: true}, b.job("job"))
	assert.Equal(t, 10, b.wallet("ann"))
	b.requireAgreement()
}

// Without a bridge its calls do nothing.
func TestBridge_None(t *testing.T) {
	b := fresh(t)
	done, err := b.SyncBridge(b.ctx, 10)
	require.NoError(t, err)
	assert.Zero(t, done)
	due, err := b.BridgeDue(b.ctx, 10)
	require.NoError(t, err)
	assert.Empty(t, due)
	applied, err := b.ApplyToBridge(b.ctx, "job")
	require.NoError(t, err)
	assert.Equal(t, store.BridgeNone, applied.Result)
	later, err := b.WriteBridgeProgress(b.ctx, store.BridgeProgress{TaskID: "job"})
	require.NoError(t, err)
	assert.Empty(t, later)
	n, err := b.ReconcileBridge(b.ctx)
	require.NoError(t, err)
	assert.Zero(t, n)
	state, err := b.Bridge(b.ctx)
	require.NoError(t, err)
	assert.Equal(t, store.BridgeState{}, state)
	differences, err := b.CheckBridge(b.ctx)
	require.NoError(t, err)
	assert.Empty(t, differences)
}

// The application and the bridge change the same row at random moments: one refund each, never two, never none.
func TestBridge_CancelsRace(t *testing.T) {
	b := newBridged(t)
	const jobs = 60
	for i := range jobs {
		b.buy(fmt.Sprint("job ", i), fmt.Sprint("user ", i%7))
	}
	b.sync()
	leases := b.claim(jobs)
	require.Len(t, leases, jobs)
	cancelled := make(chan error, 1)
	go func() {
		for i := range jobs {
			tx, err := b.raw.BeginTx(b.ctx, nil)
			if err == nil {
				var owner string
				err = tx.QueryRow(`update public.jobs set state = 'cancelled', refunded = true where id = $1 and state in ('pending', 'processing') returning owner`,
					fmt.Sprint("job ", (i*37)%jobs)).Scan(&owner)
				if err == nil {
					_, err = tx.Exec(`update public.wallets set credits = credits + 1 where owner = $1`, owner)
				}
			}
			if err == nil {
				err = tx.Commit()
			} else if err == sql.ErrNoRows {
				err = tx.Rollback()
			}
			if err != nil {
				cancelled <- fmt.Errorf("cancel %d: %w", i, err)
				return
			}
		}
		cancelled <- nil
	}()
	for _, held := range leases {
		_, err := b.Fail(b.ctx, held.Lease(), errServer, true)
		if err != nil {
			require.ErrorIs(t, err, task.ErrLeaseLost)
		}
		b.apply()
		_, err = b.SyncBridge(b.ctx, 100)
		require.NoError(t, err)
	}
	require.NoError(t, <-cancelled)
	b.sync()
	for len(b.apply()) > 0 {
	}
	b.requireAgreement()
	assert.Equal(t, jobs, b.number(`select count(*) from public.jobs where refunded`))
	assert.Equal(t, 70, b.number(`select sum(credits) from public.wallets`), "every credit is back, once")
	assert.Equal(t, jobs, b.number(`select count(*) from imagetasks.ledger where kind = 'refund'`))
}

// With many changes to read, a change of a balance is read after the task that explains it.
func TestBridge_LostUpdates_Backlog(t *testing.T) {
	b := newBridged(t)
	b.buy("job 1", "ann")
	b.sync()
	b.fail(b.claimOneOf())
	b.apply()
	b.exec(`insert into public.jobs (id, owner, prompt, charged) select 'other ' || n, 'ben', 'a dog', false from generate_series(1, 150) n`)
	b.exec(`update public.wallets set credits = credits - 3 where owner = 'ann'; insert into public.jobs (id, owner, prompt, cost) values ('job 2', 'ann', 'a cat', 3)`)
	b.exec(`update imagetasks.inbox set at = at - interval '5 minutes'; update imagetasks.bridge_writes set at = at - interval '5 minutes'`)
	b.sync()
	assert.Zero(t, b.number(`select count(*) from imagetasks.lost_updates`))
	assert.Zero(t, b.number(`select count(*) from imagetasks.inbox`))
}
