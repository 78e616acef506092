package store_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/bridge"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// randomShape is an application whose users have one row each, so that a balance tells what was charged and refunded for it: spent is what they have
// paid for pictures, or for cancelling.
func randomShape(charges, refunds bool) shape {
	d := bridge.Description{
		Tasks: bridge.Table{Schema: "public", Name: "jobs"}, Key: "id", User: "owner", Prompt: "prompt", Result: "url",
		Status: bridge.Status{Column: "state", Pending: []string{"pending"}, Processing: []string{"processing"}, Completed: []string{"completed"},
			Failed: []string{"failed"}, Cancelled: []string{"cancelled"}},
		Moving: bridge.Moving{Processing: "requeue"},
		Credits: bridge.Credits{Cost: 1, Charged: "always", Table: bridge.Table{Schema: "public", Name: "wallets"}, Key: "owner", Column: "credits",
			Refund: "balance", Charge: "balance"},
	}
	if charges {
		d.Credits.Charged, d.Credits.ChargedColumn = "column", "charged"
	}
	if refunds {
		d.Credits.RefundedColumn = "refunded"
	}
	return shape{description: d, sql: `create table public.jobs (id text primary key, owner text not null, prompt text not null default 'a cat', state text not null default 'pending',
			url text, charged boolean not null default true, refunded boolean not null default false);
		create table public.wallets (owner text primary key, credits int not null, spent int not null default 0);
		create table public.broken (what text);
		create function public.refuse() returns trigger language plpgsql as $$ begin
			if exists (select from broken) and new.credits > old.credits then raise exception 'broken'; end if;
			return new;
		end $$;
		create trigger refuse before update on public.wallets for each row execute function public.refuse();
		-- What happened, for the report of a failure.
		create table public.changes (id bigint generated always as identity, xid xid8 default pg_current_xact_id(), at timestamptz default clock_timestamp(), owner text, change text, statement text);
		create function public.note_change() returns trigger language plpgsql security definer as $$ begin
			insert into public.changes (owner, change, statement) values (coalesce(new.owner, old.owner), tg_table_name || ': ' || coalesce(to_jsonb(old)::text, 'none') || ' -> ' || coalesce(to_jsonb(new)::text, 'none'),
				regexp_replace(left(current_query(), 200), '\s+', ' ', 'g'));
			return null;
		end $$;
		create trigger changes after insert or update or delete on public.jobs for each row execute function public.note_change();
		create trigger changes after insert or update or delete on public.wallets for each row execute function public.note_change();
		alter table public.jobs enable always trigger changes;
		alter table public.wallets enable always trigger changes`}
}

// applicationSteps are what an application does that shows charges and refunds truly. Each is one transaction; $1 is the row.
func applicationSteps(charges, refunds bool) []string {
	const live, refundIt = `state in ('pending', 'processing')`, `refunded = charged or refunded`
	giveBack := func(where string) string {
		return `with closed as (update jobs set state = case when ` + live + ` then 'cancelled' else state end, ` + refundIt + ` from (select id, charged and not refunded as owed from jobs where id = $1 for no key update) old
			where jobs.id = old.id and ` + where + ` returning owner, owed)
			update wallets w set credits = credits + owed::int from closed where w.owner = closed.owner`
	}
	steps := []string{
		// A new row, charged.
		`with new as (insert into jobs (id, owner) select $1, $1 where not exists (select from wallets where owner = $1) on conflict do nothing returning owner)
			insert into wallets select owner, 9 from new`,
		`update jobs set state = 'processing' where id = $1 and state = 'pending'`,
		`update jobs set state = 'pending' where id = $1 and state = 'processing'`,
		`update jobs set prompt = prompt || '.' where id = $1`,
		// Tried again for nothing, after our refund.
		`update jobs set state = 'pending' where id = $1 and state = 'failed'`,
	}
	if refunds {
		steps = append(steps, giveBack(live), giveBack(live),
			// Deleted before it was worked, with its credit.
			`with gone as (delete from jobs where id = $1 and `+live+` returning owner, charged and not refunded as owed)
				update wallets w set credits = credits + owed::int from gone where w.owner = gone.owner`,
			`update jobs set state = 'cancelled' where id = $1 and `+live, // no refund, or later
			giveBack(`state in ('cancelled', 'failed')`),
			`update jobs set state = 'pending' where id = $1 and state = 'cancelled'`)
	}
	if refunds && charges {
		steps = append(steps,
			// A new row with the key of one that was deleted.
			`with new as (insert into jobs (id, owner) select owner, owner from wallets where owner = $1 on conflict do nothing returning owner)
				update wallets w set credits = credits - 1 from new where w.owner = new.owner`,
			// Charged later, or never.
			`with new as (insert into jobs (id, owner, charged) values ($1, $1, false) on conflict do nothing returning owner)
				insert into wallets select owner, 10 from new on conflict do nothing`,
			`with late as (update jobs set charged = true where id = $1 and not charged and `+live+` returning owner)
				update wallets w set credits = credits - 1 from late where w.owner = late.owner`,
			// Tried again, and charged again.
			`with again as (update jobs set state = 'pending', charged = true, refunded = false from (select id, state as was from jobs where id = $1 for no key update) old
				where jobs.id = old.id and (was = 'completed' and charged and not refunded or was in ('failed', 'cancelled') and (refunded or not charged)) returning owner, was)
				update wallets w set credits = credits - 1, spent = spent + (was = 'completed')::int from again where w.owner = again.owner`)
	}
	return steps
}

// The application and the queue do what they like, in any order, with faults. Nothing is refunded twice and no refund is lost; the audit passes always.
func TestBridge_RandomSteps(t *testing.T) {
	seeds, steps := 1, 250
	if n, err := strconv.Atoi(os.Getenv("BRIDGE_RANDOM_SEEDS")); err == nil {
		seeds, steps = n, 600
	}
	for _, mode := range []struct{ charges, refunds bool }{{true, true}, {false, true}, {false, false}} {
		for range seeds {
			seed := rand.Uint64()
			t.Run(fmt.Sprintf("charges %v refunds %v seed %d", mode.charges, mode.refunds, seed), func(t *testing.T) {
				t.Parallel()
				b := bridged{adopted(t, randomShape(mode.charges, mode.refunds))}
				r := &randomRun{bridged: b, Rand: rand.New(rand.NewPCG(seed, 1)), application: applicationSteps(mode.charges, mode.refunds)}
				for range steps {
					r.step()
					r.neverTwice()
				}
				r.finish()
			})
		}
	}
}

type randomRun struct {
	bridged
	*rand.Rand
	application []string
	held        []task.Task
	log         []string
}

func (r *randomRun) note(format string, args ...any) {
	r.log = append(r.log, fmt.Sprintf(format, args...))
}

func (r *randomRun) key() string { return fmt.Sprint("job ", r.IntN(6)) }

func (r *randomRun) step() {
	switch n := r.IntN(100); {
	case n < 45:
		statement, key := r.application[r.IntN(len(r.application))], r.key()
		tx, err := r.raw.BeginTx(r.ctx, nil)
		require.NoError(r.tb, err)
		quiet := r.IntN(10) == 0
		if quiet {
			_, err = tx.Exec(`set local session_replication_role = replica`)
			require.NoError(r.tb, err)
		}
		result, err := tx.Exec(statement, key)
		if err != nil {
			assert.ErrorContains(r.tb, err, "broken")
			_ = tx.Rollback()
			return
		}
		if r.IntN(10) == 0 {
			require.NoError(r.tb, tx.Rollback())
			return
		}
		require.NoError(r.tb, tx.Commit())
		if n, err := result.RowsAffected(); err == nil && n > 0 {
			r.note("application (quiet %v) %s: %s", quiet, key, statement)
		}
	case n < 60:
		done, err := r.SyncBridge(r.ctx, 1+r.IntN(5))
		require.NoError(r.tb, err)
		r.note("sync %+v", done)
	case n < 70:
		due, err := r.BridgeDue(r.ctx, 10)
		require.NoError(r.tb, err)
		for _, id := range due {
			done, err := r.ApplyToBridge(r.ctx, id)
			require.NoError(r.tb, err)
			r.note("apply %s %+v", id, done)
		}
	case n < 78:
		for _, held := range r.claim(3) {
			r.held = append(r.held, held)
			r.note("claim %s run %d", held.ID, held.Run)
		}
	case n < 88:
		if len(r.held) > 0 {
			r.work(r.held[0], r.IntN(4))
			r.held = r.held[1:]
		}
	case n < 90:
		key := r.key()
		got, err := r.Cancel(r.ctx, key, "")
		r.note("cancel %s %+v %v", key, got, err)
	case n < 92:
		key := r.key()
		got, err := r.Redrive(r.ctx, key, 0)
		r.note("redrive %s %+v %v", key, got, err)
	case n < 94:
		r.update("tasks", `processing_started_at = now() - interval '1 hour'`, `processing_started_at is not null`)
		done, err := r.Sweep(r.ctx, store.Sweep{OlderThan: time.Minute, Limit: 10, Requeue: r.IntN(2) == 0})
		require.NoError(r.tb, err)
		r.note("sweep %+v", done)
	case n < 95:
		_, err := r.ReconcileBridge(r.ctx)
		require.NoError(r.tb, err)
		r.note("reconcile")
	case n < 96:
		r.exec(`insert into broken values ('wallets')`)
		r.note("broken")
	case n < 98:
		r.exec(`delete from broken`)
		r.update("outbox", `next_try_at = now()`, `true`)
		r.note("works")
	case n < 99:
		r.update("tasks", `completed_at = completed_at - interval '1 year'`, `completed_at is not null`)
		done, err := r.Prune(r.ctx, store.PruneConfig{Retention: time.Hour})
		require.NoError(r.tb, err)
		r.note("prune %+v", done)
	default:
		_, err := r.RepairRefunds(r.ctx, 10, uuid.New())
		require.NoError(r.tb, err)
		owed, err := r.OweRefunds(r.ctx, 10)
		require.NoError(r.tb, err)
		require.Empty(r.tb, owed, r.log)
	}
}

// update changes rows of a table of ours, which it locks in their order: several runs do that at a time.
func (r *randomRun) update(table, set, where string) {
	r.exec(`update imagetasks.` + table + ` set ` + set + ` where task_id = any (array(select task_id from imagetasks.` + table + ` where ` + where + ` order by task_id for update))`)
}

// work ends a claim, or gives it up.
func (r *randomRun) work(held task.Task, how int) {
	var err error
	switch how {
	case 0:
		_, err = r.Complete(r.ctx, store.Completion{Lease: held.Lease(), ImageURL: "https://pictures.example/1.png"})
	case 1, 2:
		_, err = r.Fail(r.ctx, held.Lease(), errServer, true)
	default:
		err = r.Retry(r.ctx, held.Lease(), 0, errServer)
	}
	r.note("work %s run %d how %d: %v", held.ID, held.Run, how, err)
	if err != nil {
		require.ErrorIs(r.tb, err, task.ErrLeaseLost)
	}
}

// neverTwice checks that nobody has more credits than without the bridge, and the books.
func (r *randomRun) neverTwice() {
	if owner := r.text(`select min(owner) from wallets where credits > 10 - spent`); owner != "null" {
		r.failed("refunded twice", owner)
	}
	if r.IntN(20) == 0 {
		rules, err := r.Audit(r.ctx)
		require.NoError(r.tb, err)
		if store.CountViolations(rules) > 0 {
			r.failed(fmt.Sprintf("audit: %+v", rules), "job")
		}
	}
}

func (r *randomRun) failed(what, key string) {
	r.tb.Helper()
	for _, line := range r.log {
		if strings.Contains(line, key) {
			r.tb.Log(line)
		}
	}
	r.tb.Fatalf("%s\n%s\n%s\n%s", what,
		r.text(`select string_agg(concat_ws(' ', xid, to_char(at, 'MI:SS.US'), change, '|', statement), E'\n' order by id) from changes where owner ~ $1`, key),
		r.text(`select string_agg((to_jsonb(j) || to_jsonb(w))::text, E'\n') from jobs j full join wallets w using (owner) where owner ~ $1`, key),
		r.text(`select string_agg(to_jsonb(l)::text, E'\n' order by id) from imagetasks.ledger l where user_id ~ $1`, key))
}

// finish lets everything come to rest: what is neither completed nor cancelled without a refund has cost nothing.
func (r *randomRun) finish() {
	r.exec(`delete from broken`)
	for try := 0; ; try++ {
		require.Less(r.tb, try, 50, "it does not come to rest")
		r.exec(`update imagetasks.outbox set next_try_at = now(); update imagetasks.bridge_failures set next_try_at = now();
			update imagetasks.tasks set run_after = now() where status = 'pending'`)
		r.exec(`update imagetasks.bridge set checked_at = null`)
		noted, err := r.ReconcileBridge(r.ctx)
		require.NoError(r.tb, err)
		r.sync()
		r.apply()
		held := r.claim(10)
		for _, h := range held {
			r.work(h, 1)
		}
		if try > 0 && noted == 0 && len(held) == 0 && r.number(`select (select count(*) from imagetasks.outbox) + (select count(*) from imagetasks.inbox)
				+ (select count(*) from imagetasks.tasks where status in ('pending', 'processing'))`) == 0 {
			break
		}
		r.exec(`update imagetasks.tasks set status = 'pending', leased_by = null, lease_expires_at = null, processing_started_at = null where status = 'processing'`)
	}
	r.note("at rest")
	if owner := r.text(`select min(owner) from wallets w left join jobs j using (owner)
			where case when j.state = 'failed' then credits <> 10 - spent
			           when j.state = 'completed' then credits not in (10 - spent, 9 - spent)
			           when j.state = 'cancelled' then credits <> 10 - spent and not (not refunded and credits = 9 - spent)
			           else credits not in (10 - spent, 9 - spent) end`); owner != "null" {
		r.failed("at rest", owner)
	}
	r.exec(`delete from imagetasks.lost_updates`)
	// The only difference that may be left: the application paid again for a row that was completed, and cancelled it before that was looked at.
	const repaid = `(select j.id from jobs j join imagetasks.tasks t on t.task_id = j.id
		where j.state = 'cancelled' and j.url is not null and t.status = 'completed')`
	const problems = `(select c from imagetasks.bridge_check() c where not (c.code = 'state_differs' and c.subject in ` + repaid + `)) problems`
	if owner := r.text(`select min((c).subject) from ` + problems); owner != "null" {
		r.failed("differs: "+r.text(`select jsonb_agg(c) from `+problems)+r.text(`select jsonb_agg(u) from imagetasks.bridged_users u`), owner)
	}
	r.exec(`update jobs set state = 'completed' where id in ` + repaid)
	r.requireAgreement()
}
