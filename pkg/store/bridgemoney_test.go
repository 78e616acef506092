package store_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

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
