package store_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os/exec"
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

// syncAll takes what the inbox has.
func syncAll(t *testing.T, b *testStore, s *store.Store) (taken int) {
	t.Helper()
	b.exec(`update imagetasks.inbox set at = at - interval '1 minute'`) // changes of balances wait for their tasks
	for {
		done, err := s.SyncBridge(b.ctx, 100)
		require.NoError(t, err)
		require.True(t, done.Active)
		require.Zero(t, done.Failed, "%s", b.text(`select coalesce(jsonb_agg(f), '[]') from imagetasks.bridge_failures f`))
		taken += done.Taken
		if !done.More {
			return taken
		}
	}
}

// With roles that own nothing on the other side, tasks of every shape are taken, completed, failed and refunded, and the rest is handed back.
func TestAdopt_WholeWay(t *testing.T) {
	for name, sh := range shapes() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := fresh(t)
			b.exec(sh.sql)
			role := "worker_" + string(name[0])
			b.role(role)
			_, err := b.Migrate(b.ctx, store.Roles{Worker: []string{role}})
			require.NoError(t, err)
			before := dump(t, b.url)
			_, err = b.Adopt(b.ctx, sh.description, nil)
			require.NoError(t, err)
			worker := b.as(role)
			require.NoError(t, worker.CheckAccess(b.ctx))
			require.Equal(t, 8, syncAll(t, b, worker))

			claimed, err := worker.Claim(b.ctx, store.ClaimRequest{Worker: "w", Limit: 3, Lease: time.Minute, MaxAttempts: 3, Expired: 10, Alone: true})
			require.NoError(t, err)
			require.Len(t, claimed, 3)
			assert.Equal(t, sh.keys[0], claimed[0].ID, "in order")
			for _, c := range claimed {
				_, err := worker.WriteBridgeProgress(b.ctx, store.BridgeProgress{TaskID: c.ID, Epoch: c.Epoch, Percent: 10, Stage: "requesting"})
				require.NoError(t, err)
				_, _, err = worker.BeginRequest(b.ctx, c.Lease(), uuid.New(), "https://api.example", 0)
				require.NoError(t, err)
			}
			b.exec(`update imagetasks.control set paused_at = now()`)
			_, err = b.RemoveBridge(b.ctx, false, nil)
			require.ErrorContains(t, err, "tasks of the application that are being processed: 3")
			_, err = worker.Complete(b.ctx, store.Completion{Lease: claimed[0].Lease(), ImageURL: "https://example.com/1.png"})
			require.NoError(t, err)
			_, err = worker.Fail(b.ctx, claimed[1].Lease(), &task.Error{Code: task.CodeModeration, Message: "refused", Disposition: task.Fail}, true)
			require.NoError(t, err)
			requireHeld(t)(worker.Release(b.ctx, store.ReleaseRequest{Lease: claimed[2].Lease(), Cause: &task.Error{Code: task.CodeServer, Message: "x", Disposition: task.Release, NotSent: true}}))
			_, err = b.RemoveBridge(b.ctx, false, nil)
			require.ErrorContains(t, err, "tasks whose end is not written to the application's tables yet: 2")
			due, err := worker.BridgeDue(b.ctx, 10)
			require.NoError(t, err)
			require.Len(t, due, 2)
			for _, id := range due {
				did, err := worker.ApplyToBridge(b.ctx, id)
				require.NoError(t, err)
				assert.Equal(t, store.BridgeApplied, did.Result, did.Reason)
			}
			assert.Equal(t, "completed", b.text(`select state from imagetasks.app_rows(array[$1::text])`, claimed[0].ID))
			assert.Equal(t, "failed", b.text(`select state from imagetasks.app_rows(array[$1::text])`, claimed[1].ID))
			assert.Equal(t, "true", b.text(`select refunded from imagetasks.app_rows(array[$1::text])`, claimed[1].ID))
			syncAll(t, b, worker)
			differences, err := worker.CheckBridge(b.ctx)
			require.NoError(t, err)
			assert.Empty(t, differences)
			b.requireAudit()

			removed, err := b.RemoveBridge(b.ctx, false, nil)
			require.NoError(t, err)
			assert.Equal(t, 6, removed.HandedBack)
			shows := name == "supabase" || name == "enum" || name == "codes"
			assert.Equal(t, map[bool]int{true: 1, false: 0}[shows], removed.Reset, "the row that was set to processing is pending again")
			assert.Equal(t, before, dump(t, b.url))
			assert.Equal(t, 6, b.number(`select count(*) from imagetasks.tasks where status = 'cancelled' and error_code = 'handed_back' and bridge_state = 'superseded'`))
			b.requireAudit()

			// It may come back.
			if name == "codes" {
				b.exec(`update orders_image set state = 1 where id = 8`) // the old scripts work on it
			}
			_, err = b.Adopt(b.ctx, sh.description, nil)
			require.NoError(t, err)
			assert.Equal(t, 6, syncAll(t, b, worker))
			assert.Equal(t, 6, b.number(`select count(*) from imagetasks.tasks where bridge_state = 'live' and credits_deducted = credits_cost and credits_cost > 0`), "they are still charged")
			if name == "codes" {
				assert.Equal(t, "the application", b.text(`(select leased_by from imagetasks.tasks where task_id = '8' and status = 'processing')`))
			}
			differences, err = worker.CheckBridge(b.ctx)
			require.NoError(t, err)
			assert.Empty(t, differences)
			b.requireAudit()
			b.exec(`update imagetasks.control set paused_at = null`)
			again, err := worker.Claim(b.ctx, store.ClaimRequest{Worker: "w", Limit: 1, Lease: time.Minute, MaxAttempts: 3, Expired: 10, Alone: true})
			require.NoError(t, err)
			require.Len(t, again, 1)
			_, err = worker.Fail(b.ctx, again[0].Lease(), &task.Error{Code: task.CodeModeration, Message: "refused", Disposition: task.Fail}, true)
			require.NoError(t, err)
			did, err := worker.ApplyToBridge(b.ctx, again[0].ID)
			require.NoError(t, err)
			assert.Positive(t, did.Refunded, "its charge was not given back before")
			b.requireAudit()
		})
	}
}

// A description that changes replaces functions, whatever their types, and triggers on tables that are not named any more.
func TestAdopt_ChangedDescription(t *testing.T) {
	t.Parallel()
	b := adopted(t, shapes()["supabase"])
	d := shapes()["supabase"].description
	d.History, d.Log = nil, nil
	done, err := b.Adopt(b.ctx, d, nil)
	require.NoError(t, err)
	assert.NotEmpty(t, done.Steps)
	assert.Equal(t, "null", b.text(`to_regprocedure('imagetasks.app_history(text, text, jsonb)')`))
	assert.Equal(t, "false", b.text(`select history from imagetasks.bridge`))
	assert.Equal(t, 8, b.number(`select count(*) from pg_trigger where tgname like 'imagetasks%'`))

	b.exec(shapes()["enum"].sql)
	syncAll(t, b, b.Store)
	_, err = b.Adopt(b.ctx, shapes()["enum"].description, nil)
	require.ErrorContains(t, err, "run task-processor adopt --remove first")
	b.exec(`delete from imagetasks.tasks`)
	_, err = b.Adopt(b.ctx, shapes()["enum"].description, nil)
	require.NoError(t, err)
	assert.Equal(t, 8, b.number(`select count(*) from pg_trigger t join pg_class c on c.oid = tgrelid where tgname like 'imagetasks%' and relname in ('Order', 'User')`))
	assert.Equal(t, 8, b.number(`select count(*) from pg_trigger where tgname like 'imagetasks%'`))
	plan, err := b.PlanAdoption(b.ctx, shapes()["enum"].description)
	require.NoError(t, err)
	assert.Empty(t, plan.Steps)

	// What somebody switched off or edited is put right.
	b.exec(`alter table "My App"."Order" disable trigger imagetasks_update; drop trigger imagetasks_delete on "My App"."User";
		grant execute on function imagetasks.app_live() to public; alter function imagetasks.app_live() volatile`)
	done, err = b.Adopt(b.ctx, shapes()["enum"].description, nil)
	require.NoError(t, err)
	assert.NotEmpty(t, done.Steps)
	assert.Equal(t, 8, b.number(`select count(*) from pg_trigger where tgname like 'imagetasks%' and tgenabled = 'O'`))
	plan, err = b.PlanAdoption(b.ctx, shapes()["enum"].description)
	require.NoError(t, err)
	assert.Empty(t, plan.Steps)
}

// The bridge is in a backup, and works in the database that is restored from it.
func TestAdopt_RestoredFromBackup(t *testing.T) {
	t.Parallel()
	sh := shapes()["supabase"]
	b := adopted(t, sh)
	restored := open(t, server.Empty(t))
	var out, errs bytes.Buffer
	c := exec.CommandContext(t.Context(), "pg_dump", "--dbname", b.url)
	c.Stdout, c.Stderr = &out, &errs
	require.NoError(t, c.Run(), errs.String())
	load := exec.CommandContext(t.Context(), "psql", "-q", "-v", "ON_ERROR_STOP=1", "--dbname", restored.url)
	load.Stdin, load.Stderr = &out, &errs
	require.NoError(t, load.Run(), errs.String())
	plan, err := restored.PlanAdoption(restored.ctx, sh.description)
	require.NoError(t, err)
	assert.Empty(t, plan.Steps)
	done, err := restored.SyncBridge(restored.ctx, 100)
	require.NoError(t, err)
	assert.False(t, done.Active, "a copy writes nothing before an operator resumes it")
	require.NoError(t, restored.Resume(restored.ctx))
	assert.Equal(t, 8, syncAll(t, restored, restored.Store))
	restored.exec(`update ai_tasks set status = 'cancelled' where task_id = 't1'`)
	syncAll(t, restored, restored.Store)
	assert.Equal(t, "superseded", restored.text(`select bridge_state from imagetasks.tasks where task_id = 't1'`))
}

// A migration of the application may take away what the bridge needs: adopt --check names it, and the monitor hears of missing triggers.
func TestAdopt_Incomplete(t *testing.T) {
	t.Parallel()
	sh := shapes()["codes"]
	b := adopted(t, sh)
	found := func() string {
		t.Helper()
		differences, err := b.CheckWholeBridge(b.ctx)
		require.NoError(t, err)
		var out strings.Builder
		for _, d := range differences {
			fmt.Fprintln(&out, d.Code, d.Subject, d.Detail)
		}
		return out.String()
	}
	problems := func() int {
		t.Helper()
		_, err := b.ReconcileBridge(b.ctx)
		require.NoError(t, err)
		return b.number(`select count(*) from imagetasks.bridge_failures where part = 'triggers'`)
	}
	syncAll(t, b, b.Store)
	require.Empty(t, found())
	require.Zero(t, problems())
	for change, want := range map[string]string{
		"alter table orders_image disable trigger imagetasks_update": "incomplete public.orders_image to do: create the triggers on public.orders_image; run task-processor adopt --apply",
		"drop trigger imagetasks_delete on wallet":                   "create the triggers on public.wallet",
		"alter table orders_image disable trigger all":               "create the triggers on public.orders_image",
	} {
		b.exec(change)
		require.Contains(t, found(), want)
		require.Equal(t, 1, problems(), change)
		_, err := b.Adopt(b.ctx, sh.description, nil)
		require.NoError(t, err)
		b.exec(`alter table orders_image enable trigger no_undo`)
		require.Equal(t, 0, b.number(`select count(*) from imagetasks.bridge_failures`), "it is over at once")
		syncAll(t, b, b.Store)
		require.Empty(t, found())
		require.Zero(t, problems())
	}
	b.exec(`create or replace function imagetasks.app_live() returns setof text language sql as 'select null::text where false'`)
	require.Contains(t, found(), "to do: create the function app_live")
	_, err := b.Adopt(b.ctx, sh.description, nil)
	require.NoError(t, err)

	// What failed is tried at once when the operator repeats adopt --apply, though nothing of the bridge has changed.
	b.exec(`insert into imagetasks.bridge_failures (part, key, code, reason, next_try_at) values ('take', '1', 'IT002', 'x', now() + interval '5 minutes')`)
	assert.NotContains(t, found(), "incomplete")
	again, err := b.Adopt(b.ctx, sh.description, nil)
	require.NoError(t, err)
	require.Len(t, again.Steps, 1)
	assert.Equal(t, 1, b.number(`select count(*) from imagetasks.bridge_failures where next_try_at <= now()`))
	b.exec(`alter table orders_image rename column picture_url to url`)
	assert.Contains(t, found(), `incomplete public.orders_image the description of the application's tables: the table public.orders_image has no column "picture_url"`)
	b.exec(`alter table orders_image rename column url to picture_url; alter table orders_image drop column price`)
	assert.Contains(t, found(), `has no column "price"`)
	assert.NotContains(t, found(), "not_taken", "both sides can't be compared")
	b.exec(`drop table orders_image`)
	assert.Contains(t, found(), `there is no table public.orders_image`)
	role := "nobody_here"
	b.role(role)
	_, err = b.Migrate(b.ctx, store.Roles{Worker: []string{role}})
	require.NoError(t, err)
	differences, err := b.as(role).IncompleteBridge(b.ctx)
	require.NoError(t, err)
	assert.Empty(t, differences, "only the owner can tell")
}

// A description is stored as JSON and read again.
func TestDescription_JSON(t *testing.T) {
	t.Parallel()
	for name, sh := range shapes() {
		text, err := json.Marshal(sh.description)
		require.NoError(t, err)
		var again bridge.Description
		require.NoError(t, json.Unmarshal(text, &again), name)
		assert.Equal(t, sh.description, again)
	}
}

// By force a bridge is removed whatever is in progress; what is given up is in the ledger, and a worker that comes back changes nothing.
func TestRemoveBridge_Force(t *testing.T) {
	t.Parallel()
	sh := shapes()["supabase"]
	b := adopted(t, sh)
	require.Equal(t, 8, syncAll(t, b, b.Store))
	claimed, err := b.Claim(b.ctx, store.ClaimRequest{Worker: "w", Limit: 2, Lease: time.Minute, MaxAttempts: 3, Expired: 10, Alone: true})
	require.NoError(t, err)
	require.Len(t, claimed, 2)
	for _, c := range claimed {
		_, err = b.WriteBridgeProgress(b.ctx, store.BridgeProgress{TaskID: c.ID, Epoch: c.Epoch, Percent: 10, Stage: "requesting"})
		require.NoError(t, err)
	}
	_, err = b.Fail(b.ctx, claimed[0].Lease(), &task.Error{Code: task.CodeModeration, Message: "refused", Disposition: task.Fail}, true)
	require.NoError(t, err)
	_, err = b.RemoveBridge(b.ctx, false, nil)
	require.ErrorContains(t, err, "not paused, tasks of the application that are being processed: 1, tasks whose end is not written")
	removed, err := b.RemoveBridge(b.ctx, true, nil)
	require.NoError(t, err)
	assert.Equal(t, []int{7, 1, 1}, []int{removed.HandedBack, removed.Reset, removed.Dropped})
	assert.Equal(t, "pending", b.text(`select status from ai_tasks where task_id = $1`, claimed[1].ID))
	completed, err := b.Complete(b.ctx, store.Completion{Lease: claimed[1].Lease(), ImageURL: "https://example.com/1.png"})
	require.NoError(t, err)
	assert.Empty(t, completed)
	assert.Equal(t, task.Cancelled, b.row(claimed[1].ID).State)
	assert.Equal(t, 1, b.number(`select count(*) from imagetasks.ledger where kind = 'adjust' and reason = 'the bridge was removed by force'`))
	b.requireAudit()
}
