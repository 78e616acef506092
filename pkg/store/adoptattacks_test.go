package store_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/store"
)

// While the application holds most rows for long, writing progress holds the others for a moment only: not until the application looks for a deadlock.
func TestAdopt_ProgressHoldsRowsBriefly(t *testing.T) {
	t.Parallel()
	b := adopted(t, shapes()["supabase"])
	syncAll(t, b, b.Store)
	var progress []store.BridgeProgress
	for _, held := range b.claim(8) {
		progress = append(progress, store.BridgeProgress{TaskID: held.ID, Epoch: held.Epoch, Percent: 10, Stage: "requesting"})
	}
	tx := b.openTransaction(`update ai_tasks set style = 'held' where task_id > 't1'`)
	began := time.Now()
	later, err := b.WriteBridgeProgress(b.ctx, progress...)
	require.NoError(t, err)
	assert.Less(t, time.Since(began), 500*time.Millisecond, "it waited for each")
	assert.Equal(t, []string{"t2", "t3", "t4", "t5", "t6", "t7", "t8"}, later, "they are tried again")
	require.NoError(t, tx.Rollback())
	later, err = b.WriteBridgeProgress(b.ctx, progress...)
	require.NoError(t, err)
	assert.Empty(t, later)
	assert.Equal(t, 8, b.number(`select count(*) from ai_tasks where status = 'processing'`))

	// Triggers that take long.
	b.exec(`create function public.slow() returns trigger language plpgsql as $$ begin perform pg_sleep(0.05); return new; end $$;
		create trigger a_slow before update on ai_tasks for each row execute function public.slow()`)
	for i := range progress {
		progress[i].Percent = 20
	}
	later, err = b.WriteBridgeProgress(b.ctx, progress...)
	require.NoError(t, err)
	assert.NotEmpty(t, later)
	assert.Less(t, len(later), 8)
}

// An application that notifies in a trigger lets one transaction at a time commit, so that ours don't wait for the disk there.
func TestAdopt_WritesDontWaitForTheDisk(t *testing.T) {
	t.Parallel()
	b := adopted(t, shapes()["supabase"])
	syncAll(t, b, b.Store)
	held := b.claim(1)[0]
	for _, call := range []string{
		fmt.Sprintf(`select imagetasks.bridge_progress('{%s}', '{%d}', '{1}', '{requesting}')`, held.ID, held.Epoch),
		fmt.Sprintf(`select imagetasks.bridge_apply('%s')`, held.ID),
	} {
		tx := b.openTransaction(call)
		var committing string
		require.NoError(t, tx.QueryRow(`show synchronous_commit`).Scan(&committing))
		assert.Equal(t, "off", committing, call)
		require.NoError(t, tx.Rollback())
	}
}

// The trigger's plan is kept by the session. One that was made for a statement on many rows is not compiled anew for each statement on one row.
func TestAdopt_TriggersOnOneRowAfterMany(t *testing.T) {
	t.Parallel()
	b := adopted(t, shapes()["supabase"])
	// On a server that compiles nothing this holds anyway.
	b.exec(`insert into ai_credits (user_id, credits) select gen_random_uuid(), 5 from generate_series(1, 5000); analyze ai_credits`)
	conn, err := b.raw.Conn(b.ctx)
	require.NoError(t, err)
	defer conn.Close()
	// As for 50,000 rows without it.
	_, err = conn.ExecContext(b.ctx, `set jit_above_cost = 1000; set jit_inline_above_cost = 1000; set jit_optimize_above_cost = 1000; update ai_credits set credits = credits + 1`)
	require.NoError(t, err)
	fastest := time.Hour
	for range 5 {
		began := time.Now()
		_, err = conn.ExecContext(b.ctx, `update ai_credits set credits = credits + 1 where user_id = '11111111-1111-1111-1111-111111111111'`)
		require.NoError(t, err)
		fastest = min(fastest, time.Since(began))
	}
	assert.Less(t, fastest, 50*time.Millisecond)
}

// A table that is replaced under its name, a disabled trigger and a new partition are reported, until adopt was applied again.
func TestAdopt_ReportsTriggersThatAreMissing(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]string{
		"supabase": `create table ai_tasks_new (like ai_tasks including all); insert into ai_tasks_new select * from ai_tasks;
			alter table ai_tasks rename to ai_tasks_old; alter table ai_tasks_new rename to ai_tasks`,
		"enum":      `alter table "My App"."Order" disable trigger imagetasks_update`,
		"text keys": `create table public.generation_new (like public.generation); alter table public.generation detach partition public.generation_1; alter table public.generation attach partition public.generation_new for values with (modulus 2, remainder 1)`,
	} {
		sh := shapes()[name]
		b := adopted(t, sh)
		failures := func() string {
			t.Helper()
			_, err := b.ReconcileBridge(b.ctx)
			require.NoError(t, err)
			return b.text(`select coalesce(string_agg(key || ': ' || reason, ' / '), '') from imagetasks.bridge_failures where part = 'triggers'`)
		}
		require.Empty(t, failures(), name)
		b.exec(change)
		require.Contains(t, failures(), "imagetasks_update", name)
		_, err := b.Adopt(b.ctx, sh.description, nil)
		require.NoError(t, err)
		assert.Empty(t, failures(), name)
		again, err := b.PlanAdoption(b.ctx, sh.description)
		require.NoError(t, err)
		assert.Empty(t, again.Steps, name)
		b.exec(`update imagetasks.control set paused_at = now()`)
		_, err = b.RemoveBridge(b.ctx, false, nil)
		require.NoError(t, err)
		assert.Zero(t, b.number(`select count(*) from pg_trigger where tgname like 'imagetasks%'`), name)
	}
}

// A statement that names a partition is noted, too.
func TestAdopt_StatementsOnPartitions(t *testing.T) {
	t.Parallel()
	b := adopted(t, shapes()["text keys"])
	b.exec(`delete from imagetasks.inbox; update generation_0 set prompt = 'y'; update generation_1 set prompt = 'y'`)
	assert.Equal(t, 8, b.number(`select count(distinct key) from imagetasks.inbox where kind = 'task'`))
	b.exec(`delete from imagetasks.inbox; update generation set prompt = 'z'`)
	assert.Equal(t, 8, b.number(`select count(*) from imagetasks.inbox`), "once")
}

// A partition on another server would refuse the application's statements.
func TestAdopt_ForeignPartition(t *testing.T) {
	t.Parallel()
	sh := shapes()["text keys"]
	b := fresh(t)
	b.exec(sh.sql)
	b.exec(`create foreign data wrapper elsewhere; create server elsewhere foreign data wrapper elsewhere;
		alter table public.generation detach partition public.generation_1;
		alter table public.generation drop constraint generation_pkey;
		create foreign table public.elsewhere partition of public.generation for values with (modulus 2, remainder 1) server elsewhere`)
	_, err := b.PlanAdoption(b.ctx, sh.description)
	require.ErrorContains(t, err, "the partition public.elsewhere of public.generation is a foreign table")
}

// A role that may create objects where the bridge's functions look for names could run code with the rights of their owner.
func TestAdopt_SearchPath(t *testing.T) {
	t.Parallel()
	sh := shapes()["supabase"]
	b := fresh(t)
	b.exec(sh.sql)
	b.exec(`alter table ai_tasks alter status type varchar(20); grant create on schema public to public`)
	_, err := b.Adopt(b.ctx, sh.description, nil)
	require.ErrorContains(t, err, "revoke create on schema public from public")
	b.exec(`revoke create on schema public from public`)
	_, err = b.Adopt(b.ctx, sh.description, nil)
	require.NoError(t, err)
}
