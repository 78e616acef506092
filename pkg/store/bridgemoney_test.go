package store_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/bridge"
	"imagetasks/pkg/store"
)

// rules changes what the rows of the small application tell: whether they were charged, and whether they were refunded.
func (b bridged) rules(charges, refunds bool) {
	b.exec(`update imagetasks.bridge set shows_charges = $1, shows_refunds = $2`, charges, refunds)
	if !charges {
		b.exec(`alter table public.jobs drop column charged; alter table public.jobs add column charged boolean not null generated always as (true) stored`)
	}
	if !refunds {
		b.exec(`create function public.forget_refund() returns trigger language plpgsql as $$ begin new.refunded := false; return new; end $$;
			create trigger forget_refund before update on public.jobs for each row execute function public.forget_refund()`)
	}
}

// end fails the only task in the queue and writes its end.
func (b bridged) end() {
	b.tb.Helper()
	b.fail(b.claimOneOf())
	b.apply()
}

// The application cancels and refunds while a completion is on its way: that is no refund of a completed run by us.
func TestBridgeMoney_CancelledBeforeTheCompletionIsWritten(t *testing.T) {
	b := newBridged(t)
	b.buy("job", "ann")
	b.sync()
	b.complete(b.claimOneOf(), "https://pictures.example/1.png")
	b.exec(`update public.jobs set state = 'cancelled', refunded = true; update public.wallets set credits = credits + 1`)
	b.sync()
	b.apply()
	assert.Equal(t, "completed superseded", b.state("job"))
	b.exec(`update public.jobs set refunded = false; update public.jobs set refunded = true`)
	b.requireAgreement()
	assert.Equal(t, 10, b.wallet("ann"))
}

// Balances with more digits than our unit has are added up without a difference.
func TestBridgeMoney_MoreDigitsThanOurUnit(t *testing.T) {
	b := newBridged(t)
	b.exec(`alter table public.wallets alter column credits type numeric;
		create or replace function imagetasks.app_balances(user_ids text[]) returns table (user_id text, balance bigint) language sql stable as $$
			select owner, floor(credits)::bigint from public.wallets where owner = any (user_ids)
		$$`)
	b.exec(`insert into public.wallets values ('ann', 0.4)`)
	for range 3 {
		b.exec(`update public.wallets set credits = credits + 0.4`)
	}
	for range 6 {
		b.exec(`update public.wallets set credits = credits - 0.4`)
	}
	b.buy("job", "ann")
	b.requireAgreement()
	b.end()
	b.requireAgreement()
	require.Zero(t, b.number(`select count(*) from imagetasks.ledger where reason like 'the application''s table shows%'`))
}

// A trigger of the application on its closed rows starts other work: that is noted.
func TestBridgeMoney_WorkStartedByATrigger(t *testing.T) {
	b := newBridged(t)
	b.exec(`create function public.follow() returns trigger language plpgsql as $$ begin
			insert into public.jobs (id, owner, prompt) values (new.id || ' again', new.owner, 'larger');
			return null;
		end $$;
		create trigger follow after update of state on public.jobs for each row when (new.state in ('completed', 'failed') and new.id not like '% again') execute function public.follow()`)
	b.buy("job", "ann")
	b.sync()
	b.complete(b.claimOneOf(), "https://pictures.example/1.png")
	b.apply()
	assert.Equal(t, 1, b.sync().Taken)
	assert.Equal(t, "job again", b.claimOneOf().ID)
}

// A charge is given back once, however often the application sets the row back to pending for nothing.
func TestBridgeMoney_RetriedForNothing(t *testing.T) {
	for name, shows := range map[string][2]bool{"charged always": {false, false}, "charged always, refunds shown": {false, true},
		"charges shown": {true, false}, "both shown": {true, true}} {
		t.Run(name, func(t *testing.T) {
			b := newBridged(t)
			b.rules(shows[0], shows[1])
			b.buy("job", "ann")
			for range 3 {
				b.sync()
				b.end()
				assert.Equal(t, 10, b.wallet("ann"))
				b.exec(`update public.jobs set state = 'pending'`)
				b.sync()
				b.exec(`update public.jobs set prompt = 'a dog'`) // is looked at again
			}
			b.sync()
			b.end()
			b.exec(`delete from imagetasks.tasks`) // pruned
			b.exec(`update public.jobs set state = 'pending'`)
			b.sync()
			b.end()
			b.requireAgreement()
			assert.Equal(t, 10, b.wallet("ann"))
		})
	}
}

// A refund that could not be given yet is not lost when the application tries the row again: the next run is what the charge pays for.
func TestBridgeMoney_RetriedBeforeTheRefund(t *testing.T) {
	for name, shows := range map[string][2]bool{"charged always": {false, false}, "charged always, refunds shown": {false, true},
		"charges shown": {true, false}, "both shown": {true, true}} {
		t.Run(name, func(t *testing.T) {
			b := newBridged(t)
			b.rules(shows[0], shows[1])
			b.buy("job", "ann")
			b.sync()
			b.exec(`alter table public.wallets rename to purses`)
			b.fail(b.claimOneOf())
			assert.Equal(t, map[string]string{"job": store.BridgeWaiting}, b.apply())
			b.exec(`alter table public.purses rename to wallets; update imagetasks.outbox set next_try_at = now(); update public.jobs set state = 'pending'`)
			b.sync()
			assert.Equal(t, map[string]string{"job": store.BridgeApplied}, b.apply())
			assert.Equal(t, 9, b.wallet("ann"))
			assert.Equal(t, 1, b.sync().Taken, "without a comparison of both sides")
			b.requireAudit()
			b.end()
			assert.Equal(t, 10, b.wallet("ann"))
			b.requireAgreement()
		})
	}
}

// A completed run that the application repeats is no refund that is missing.
func TestBridgeMoney_RepeatedAfterCompletion(t *testing.T) {
	for name, again := range map[string]string{"for nothing": ``, "charged": `update public.wallets set credits = credits - 1`} {
		t.Run(name, func(t *testing.T) {
			b := newBridged(t)
			b.rules(again != "", true)
			b.buy("job", "ann")
			b.sync()
			b.complete(b.claimOneOf(), "https://pictures.example/1.png")
			b.apply()
			b.exec(`update public.jobs set state = 'pending', url = null; ` + again)
			b.sync()
			b.requireAudit()
			b.end()
			assert.Equal(t, 9, b.wallet("ann"))
			b.requireAgreement()
		})
	}
}

// The application charged a row again that had failed, and cancelled it, before a redrive: a row can't show two charges.
func TestBridgeMoney_RedrivenAfterAChargeByTheApplication(t *testing.T) {
	t.Parallel()
	for name, looked := range map[string]bool{"seen": true, "not seen": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := bridged{adopted(t, randomShape(true, true))}
			b.exec(`insert into wallets values ('ann', 9); insert into jobs (id, owner) values ('job', 'ann')`)
			b.sync()
			b.end()
			require.Equal(t, 10, b.wallet("ann"))
			b.exec(`update jobs set state = 'pending', refunded = false; update wallets set credits = credits - 1`)
			b.exec(`update jobs set state = 'cancelled'`)
			if looked {
				b.sync()
			}
			_, err := b.Redrive(b.ctx, "job", 1)
			require.ErrorContains(t, err, "shows a charge that was not given back")
			assert.Equal(t, 9, b.wallet("ann"))
			assert.Equal(t, 1, b.row("job").Run)

			// Set back to pending, the row has paid for its next run.
			b.exec(`update jobs set state = 'pending'`)
			b.sync()
			b.end()
			assert.Equal(t, 10, b.wallet("ann"))
			b.requireAgreement()

			// With its credits given back, it can be redriven.
			b.exec(`update jobs set state = 'pending', refunded = false; update wallets set credits = credits - 1`)
			b.exec(`update jobs set state = 'cancelled'`)
			b.exec(`update jobs set refunded = true; update wallets set credits = credits + 1`)
			b.sync()
			_, err = b.Redrive(b.ctx, "job", 2)
			require.NoError(t, err)
			assert.Equal(t, 9, b.wallet("ann"))
			b.end()
			assert.Equal(t, 10, b.wallet("ann"))
			b.exec(`delete from imagetasks.lost_updates`)
			b.requireAgreement()
		})
	}
}

// ledgerShape is an application that shows charges and refunds only in a log.
func ledgerShape() shape {
	log := bridge.Table{Schema: "public", Name: "log"}
	match := func(kind string) *bridge.Match {
		return &bridge.Match{Table: log, Task: "job", Where: map[string][]string{"kind": {kind}}}
	}
	return shape{
		sql: `create table public.jobs (id text primary key, owner text not null, prompt text, state text not null default 'pending', url text);
			create table public.wallets (owner text primary key, credits numeric not null);
			create table public.log (job text, kind text, amount numeric);
			insert into public.wallets values ('ann', 9);
			insert into public.jobs values ('job', 'ann', 'a cat');
			insert into public.log values ('job', 'use', -1)`,
		description: bridge.Description{
			Tasks: bridge.Table{Schema: "public", Name: "jobs"}, Key: "id", User: "owner", Prompt: "prompt", Result: "url",
			Status: bridge.Status{Column: "state", Pending: []string{"pending"}, Processing: []string{"processing"}, Completed: []string{"completed"}, Failed: []string{"failed"}},
			Credits: bridge.Credits{Cost: 1, Charged: "log", ChargeLog: match("use"), RefundLog: match("refund"),
				Table: bridge.Table{Schema: "public", Name: "wallets"}, Key: "owner", Column: "credits", Refund: "balance", Charge: "balance"},
			Log: &bridge.Insert{Table: log, Columns: map[string]string{"job": "{task}", "kind": "refund", "amount": "{amount}"}},
		},
	}
}

func adoptedApplication(t *testing.T, sh shape) bridged {
	b := bridged{adopted(t, sh)}
	b.sync()
	return b
}

// A log keeps the refund of a run that failed. It is none of the run that a redrive begins.
func TestBridgeMoney_RedrivenWithALogOfRefunds(t *testing.T) {
	t.Parallel()
	b := adoptedApplication(t, ledgerShape())
	for run := 1; run <= 2; run++ {
		b.end()
		assert.Equal(t, 10, b.wallet("ann"))
		_, err := b.Redrive(b.ctx, "job", run)
		require.NoError(t, err)
		assert.Equal(t, 9, b.wallet("ann"))
	}
	// The application refunds the third run itself.
	b.exec(`update public.jobs set state = 'failed'; update public.wallets set credits = credits + 1; insert into public.log values ('job', 'refund', 1)`)
	b.exec(`delete from imagetasks.bridge_writes`) // a lost update is not meant here
	b.sync()
	assert.Equal(t, "1", b.text(`select credits_refunded from imagetasks.tasks`))
	b.requireAgreement()
	assert.Equal(t, 10, b.wallet("ann"))
	assert.Equal(t, 3, b.number(`select count(*) from public.log where kind = 'refund'`))
}

// The application makes its refund while the bridge waits for the balance: it is seen.
func TestBridgeMoney_ApplicationRefundsMeanwhile(t *testing.T) {
	t.Parallel()
	b := adoptedApplication(t, ledgerShape())
	b.fail(b.claimOneOf())
	b.exec(`alter table public.log add constraint closed check (kind <> 'refund')`)
	assert.Equal(t, map[string]string{"job": store.BridgeWaiting}, b.apply())
	b.exec(`alter table public.log drop constraint closed; update imagetasks.outbox set next_try_at = now()`)
	tx, err := b.raw.BeginTx(b.ctx, nil)
	require.NoError(t, err)
	_, err = tx.ExecContext(b.ctx, `update public.wallets set credits = credits + 1`)
	require.NoError(t, err)
	applied := make(chan string, 1)
	go func() {
		done, err := b.ApplyToBridge(b.ctx, "job")
		applied <- done.Result
		assert.NoError(t, err)
	}()
	require.Eventually(t, func() bool {
		return b.number(`select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`) == 1
	}, 10*time.Second, time.Millisecond)
	_, err = tx.ExecContext(b.ctx, `insert into public.log values ('job', 'refund', 1)`)
	require.NoError(t, err)
	require.NoError(t, tx.Commit())
	if <-applied == store.BridgeBusy { // the commit took longer than the bridge waits
		b.apply()
	}
	assert.Equal(t, 10, b.wallet("ann"))
	b.requireAgreement()
}

// A balance that is no number of credits stops nothing else.
func TestBridgeMoney_BalancesOutOfRange(t *testing.T) {
	t.Parallel()
	b := adoptedApplication(t, ledgerShape())
	for owner, balance := range map[string]string{"nan": "NaN", "infinite": "Infinity", "negative": "-Infinity", "huge": "1e30"} {
		b.exec(`insert into public.wallets values ($1, 1)`, owner)
		b.sync()
		b.exec(`update public.wallets set credits = $1 where owner = $2`, balance, owner)
	}
	b.sync()
	b.exec(`insert into public.jobs values ('job 2', 'ann', 'a dog'); delete from imagetasks.inbox; insert into imagetasks.inbox (kind, key) values ('missed', '')`)
	_, err := b.ReconcileBridge(b.ctx)
	require.NoError(t, err)
	assert.Equal(t, 1, b.sync().Taken)
	differences, err := b.CheckBridge(b.ctx)
	require.NoError(t, err)
	codes := map[string]string{}
	for _, d := range differences {
		codes[d.Subject] = d.Code
	}
	assert.Equal(t, map[string]string{"nan": "failing", "infinite": "failing", "negative": "failing", "huge": "failing"}, codes)
	_, err = b.Balance(b.ctx, "nan")
	require.NoError(t, err)
	b.exec(`update public.wallets set credits = 3 where owner <> 'ann'; update public.wallets set credits = 4 where owner <> 'ann'`)
	b.sync()
	b.requireAgreement()
}

// A row that is inserted again after it was deleted is a new one, with a charge of its own.
func TestBridgeMoney_InsertedAgain(t *testing.T) {
	for _, moment := range []string{"pending", "owed", "completed", "failed"} {
		t.Run(moment, func(t *testing.T) {
			b := newBridged(t)
			b.rules(false, true)
			b.buy("job", "ann")
			b.sync()
			if moment != "pending" {
				if held := b.claimOneOf(); moment == "completed" {
					b.complete(held, "https://pictures.example/1.png")
				} else {
					b.fail(held)
				}
			}
			if moment != "owed" {
				b.apply()
			}
			b.exec(`delete from public.jobs`)
			b.sync()
			b.apply()
			before := b.wallet("ann")
			b.buy("job", "ann")
			b.sync()
			b.end()
			assert.Equal(t, before, b.wallet("ann"))
			b.requireAgreement()
		})
	}
}

// A mark of a charge that the application takes back is its refund.
func TestBridgeMoney_ChargeTakenBack(t *testing.T) {
	t.Parallel()
	b := adoptedApplication(t, randomShape(true, false))
	b.exec(`insert into public.wallets values ('ann', 9); insert into public.jobs (id, owner) values ('job', 'ann')`)
	b.sync()
	b.exec(`update public.jobs set charged = false; update public.wallets set credits = credits + 1`)
	b.sync()
	b.end()
	assert.Equal(t, 10, b.wallet("ann"))
	b.requireAgreement()
}

// A closed row that the application tries again may be marked as processing before it is looked at: the rule for such rows applies.
func TestBridgeMoney_RetriedAndProcessing(t *testing.T) {
	b := newBridged(t)
	b.buy("job", "ann")
	b.sync()
	b.end()
	b.exec(`update imagetasks.bridge set moving = 'requeue'; update public.jobs set state = 'pending'; update public.jobs set state = 'processing'`)
	assert.Equal(t, 1, b.sync().Taken)
	b.complete(b.claimOneOf(), "https://pictures.example/1.png")
	b.apply()
	b.requireAgreement()
}

// A change of a balance that no trigger noted is found within an hour, also where nothing says that one was missed.
func TestBridgeMoney_BalanceNotNoted(t *testing.T) {
	b := newBridged(t)
	b.buy("job", "ann")
	b.sync()
	_, err := b.ReconcileBridge(b.ctx)
	require.NoError(t, err)
	b.exec(`alter table public.wallets disable trigger user; update public.wallets set credits = 100; alter table public.wallets enable trigger user;
		update imagetasks.bridge set checked_at = checked_at - interval '1 hour'`)
	n, err := b.ReconcileBridge(b.ctx)
	require.NoError(t, err)
	assert.Equal(t, 1, n)
	b.requireAgreement()
}

// A change of a balance is judged when what may explain it was looked at, however far the bridge is behind.
func TestBridgeMoney_ChangeBeforeItsExplanation(t *testing.T) {
	b := newBridged(t)
	b.buy("job 1", "ann")
	b.sync()
	b.end() // a write of ours
	b.buy("job 2", "ann")
	b.sync()
	b.fail(b.claimOneOf())
	b.exec(`update public.jobs set state = 'cancelled', refunded = true where id = 'job 2'; update public.wallets set credits = credits + 1`)
	assert.Zero(t, b.sync().Balances, "the end of its task is still to be written")
	assert.Equal(t, map[string]string{"job 2": store.BridgeSuperseded}, b.apply())
	assert.Equal(t, 1, b.sync().Balances)
	b.requireAgreement() // without a lost update
}
