package bridgetest

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/appshapes"
	"imagetasks/pkg/store"
)

// fault is something in the application's database that refuses what the bridge does.
type fault struct {
	name, begin, end string
	part             string // of the problem that is reported; empty: none is expected
	all              bool   // nothing can be written meanwhile
}

var faults = []fault{
	{
		name: "trigger raises", part: "close",
		begin: `create function public.refuse() returns trigger language plpgsql as $$ begin raise exception 'the gallery is full'; end $$;
			create trigger refuse before update on public.ai_images_creator_tasks for each row
				when (new.status = 'completed' and new.task_id ~ '[0-4]$') execute function public.refuse()`,
		end: "drop trigger refuse on public.ai_images_creator_tasks; drop function public.refuse()",
	},
	{
		name: "CHECK refuses the picture", part: "close",
		begin: `alter table public.ai_images_creator_tasks add constraint refused check (result_url !~ '[0-4]-1\.png$') not valid`,
		end:   "alter table public.ai_images_creator_tasks drop constraint refused",
	},
	{
		name: "history refuses the picture", part: "history",
		begin: `alter table public.ai_images_creator_history add constraint refused check (image_url !~ '[0-4]-1\.png$') not valid`,
		end:   "alter table public.ai_images_creator_history drop constraint refused",
	},
	{
		// For the bridge only: it writes as the owner.
		name: "balance refuses the refund", part: "refund",
		begin: `create function public.refuse() returns trigger language plpgsql as $$ begin
				if current_user = 'app_owner' then raise exception 'accounting is closed'; end if;
				return new;
			end $$;
			create trigger refuse before update on public.ai_images_creator_credits for each row execute function public.refuse()`,
		end: "drop trigger refuse on public.ai_images_creator_credits; drop function public.refuse()",
	},
	{
		name: "column dropped", part: "close", all: true,
		begin: "alter table public.ai_images_creator_tasks drop column error_message",
		end:   "alter table public.ai_images_creator_tasks add column error_message text",
	},
	{
		name: "column renamed that is read", part: "bridge", all: true,
		begin: "alter table public.ai_images_creator_tasks rename column image_base64 to image",
		end:   "alter table public.ai_images_creator_tasks rename column image to image_base64",
	},
	{
		name: "log without the column", part: "refund",
		begin: "alter table public.ai_images_creator_credit_logs alter column note type varchar(5)",
		end:   "alter table public.ai_images_creator_credit_logs alter column note type text",
	},
	{
		// The note in the inbox fails, and the application's statement does not.
		name:  "inbox refuses",
		begin: "alter table imagetasks.inbox add constraint refused check (kind = 'x') not valid",
		end:   "alter table imagetasks.inbox drop constraint refused",
	},
}

// While something refuses what the bridge does, the application and other tasks go on; afterwards nothing is missing.
func TestFaults(t *testing.T) {
	t.Parallel()
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			i := install(t, appshapes.Named("supabase"), appshapes.Rows{Users: users, History: 20, Pending: 20, Balance: 1_000_000})
			i.adopt()
			i.exec(f.begin)
			record, stop := i.load()
			i.work(plan{wait: 10 * time.Millisecond, fail: failsSome})
			i.requireProblem(f)
			require.True(t, wait(t.Context(), time.Second), "the application is at work meanwhile")
			if !f.all {
				require.Eventually(t, func() bool {
					return i.number(`select count(*) from public.ai_images_creator_tasks where status = 'completed' and result_url like '%/new/%'`) >= 5 || f.part == ""
				}, 30*time.Second, 20*time.Millisecond, "other tasks go on")
			}
			i.exec(f.end)
			require.True(t, wait(t.Context(), 500*time.Millisecond), "the application goes on")
			stop()
			assert.Empty(t, record.Failures, "the application's statements")
			i.tryAgain()
			i.drained(time.Minute)
			i.checkAfterFault(*record)
		})
	}
}

// load starts the application, and returns when it has noted the balances. stop ends it, after which the record is complete.
func (i *installation) load() (record *appshapes.Record, stop func()) {
	i.t.Helper()
	record = &appshapes.Record{}
	ctx, cancel := context.WithCancel(i.t.Context())
	var loading sync.WaitGroup
	ready, noted := context.WithCancel(ctx)
	loading.Go(func() {
		defer noted()
		r, err := appshapes.Load{Shape: i.shape, URL: i.url, Users: users, Rate: 50, Sessions: 2, Seed: 5, Balance: 10_000, Ready: noted}.Run(ctx)
		assert.NoError(i.t, err)
		*record = r
	})
	stop = sync.OnceFunc(func() { cancel(); loading.Wait() })
	i.t.Cleanup(stop)
	<-ready.Done()
	return record, stop
}

// requireProblem waits until the operator is told.
func (i *installation) requireProblem(f fault) {
	i.t.Helper()
	if f.part == "" {
		return
	}
	var problems []store.BridgeProblem
	require.Eventually(i.t, func() bool {
		var err error
		problems, err = i.BridgeProblems(i.t.Context(), 1000)
		assert.NoError(i.t, err)
		for _, p := range problems {
			if p.Part == f.part {
				assert.NotEmpty(i.t, p.Reason)
				assert.NotContains(i.t, p.Reason, "lantern", "a prompt")
				assert.True(i.t, p.Key != "" || p.Part == "bridge")
				return true
			}
		}
		return false
	}, 30*time.Second, 20*time.Millisecond, "no problem of the part %s is reported", f.part)
}

// tryAgain makes what failed due, and looks for what was not noted, as the service does after five minutes. A failure to write progress ends then, too,
// where no task is in flight any more whose progress could be written.
func (i *installation) tryAgain() {
	i.t.Helper()
	i.exec("update imagetasks.outbox set next_try_at = now(); update imagetasks.bridge_failures set next_try_at = now() - interval '301 seconds'")
	require.Eventually(i.t, func() bool {
		_, err := i.ReconcileBridge(i.t.Context())
		assert.NoError(i.t, err)
		checked := i.number("select count(*) from imagetasks.bridge where checked_at > now() - interval '1 second'")
		return checked == 1
	}, 30*time.Second, 20*time.Millisecond)
}

func (i *installation) checkAfterFault(record appshapes.Record) {
	i.t.Helper()
	after := i.view(users)
	i.checkTasks(record, after)
	i.checkCredits(record, after)
	for _, d := range i.differences() {
		assert.Equal(i.t, "lost_update", d.Code, "%+v", d)
	}
}

// Rows that the application keeps locked hold up nothing else.
func TestFaults_RowsLocked(t *testing.T) {
	t.Parallel()
	i := install(t, appshapes.Named("supabase"), appshapes.Rows{Users: users, History: 20, Pending: 60, Balance: 1_000_000})
	i.adopt()
	// What is locked would hold up the load, too, so that there is none.
	before := i.view(users)
	holder, err := i.raw.Begin()
	require.NoError(t, err)
	_, err = holder.Exec(`select from public.ai_images_creator_tasks where status = 'pending' and task_id ~ '[0-4]$' for update`)
	require.NoError(t, err)
	_, err = holder.Exec(`select from public.ai_images_creator_credits where user_id = $1 for update`, i.shape.User(1))
	require.NoError(t, err)
	locked := i.number(`select count(*) from public.ai_images_creator_tasks where status = 'pending' and (task_id ~ '[0-4]$' or user_id = $1)`, i.shape.User(1))
	require.Positive(t, locked)

	i.work(plan{wait: 10 * time.Millisecond, fail: failsSome})
	live := `select count(*) from public.ai_images_creator_tasks where status in ('pending', 'processing') and task_id !~ '[0-4]$' and user_id <> $1`
	require.Eventually(t, func() bool { return i.number(live, i.shape.User(1)) == 0 }, 30*time.Second, 20*time.Millisecond, "the tasks whose rows are not locked")
	assert.Positive(t, i.number(`select count(*) from public.ai_images_creator_tasks where status = 'pending' and task_id ~ '[0-4]$'`))
	require.NoError(t, holder.Rollback())
	i.drained(time.Minute)

	record := appshapes.Record{Tasks: map[string]appshapes.Task{}, Start: before.balances}
	for key, seen := range before.tasks {
		if seen.State == "pending" {
			record.Tasks[key] = appshapes.Task{User: before.users[key], Cost: seen.Cost, Charged: true}
		}
	}
	i.checkAfterFault(record)
}
