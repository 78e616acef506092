-- Statements that close tasks: complete, fail, cancel, and those on tasks that are abandoned, overdue or stuck.
-- Each statement is one transaction, guarded by the state of the task and, where a worker calls it, by the lease_epoch.
-- Lock order in all statements: tasks, then users in the order of user_id, then the ledger.
-- coalesce(status, '') hides the column from the planner, see lease.sql.
--
-- Template functions (statements.go): stuck and overdue are the only definitions of these conditions, selected filters by
-- task and user, and close inserts the block below.

-- The block "close" ends every statement that closes a task without a picture. It expects "target" (task_id, user_id,
-- run, credits_deducted, since), locked. The task is closed and the charge of its run is refunded, at most once, in one statement. Amount and user of the
-- refund come from the charge in the ledger, not from the task's columns. A user without a row gets one, because a refund
-- must never be lost. Users are locked in the order of user_id.
-- The outcome of the claim is recorded for its holder only; else the row tells it (attempts_of).
-- The lateral subquery looks up the ledger through its unique index, row by row, whatever number of refunds the planner
-- expects ("offset 0" prevents it from becoming a join).
-- With a call id, the result is recorded under it: a repeat of the call violates the primary key of "calls", is rolled back,
-- and returns the recorded result (recorded_result). Tasks of a user whose row is locked are left out, and the user is returned in
-- locked_user: the caller repeats the statement without these users, so that many tasks of one user don't fill its limit.
{{define "close" -}}
found as (
    select target.task_id, target.user_id, target.since, target.run, paid.payer,
           -- Where the balance is the application's, the bridge gives the refund.
           case when not paid.refunded and not paid.external then paid.amount end as amount,
           case when not paid.refunded and paid.external then paid.amount end as owed,
           target.credits_deducted > 0 and paid.payer is null as missing_charge
    from target
    left join lateral (
        select charge.user_id as payer, -charge.amount as amount, charge.external, refund.id is not null as refunded
        from {{.Schema}}.ledger charge
        left join {{.Schema}}.ledger refund on refund.task_id = target.task_id and refund.run = target.run and refund.kind = 'refund'
        where charge.task_id = target.task_id and charge.run = target.run and charge.kind = 'charge'
        offset 0
    ) paid on true
), {{if .Call}}free as (
    -- A user whose row is locked must not keep the tasks of all others from being closed: those of that user wait for the next call.
    select user_id from {{.Schema}}.credits
    where user_id in (select payer from found where amount is not null)
    order by user_id
    for no key update skip locked
), closing as (
    select found.* from found
    where amount is null or payer in (select user_id from free)
       or not exists (select from {{.Schema}}.credits c where c.user_id = found.payer)
{{else}}closing as (
    select * from found
{{end}}), closed as (
    update {{.Schema}}.tasks t
    set (status, error_code, error_message, request_id) = row ('{{.State}}', {{.Code}}::text, {{.Message}}::text, {{.Request}}),
        credits_refunded = coalesce(closing.amount, t.credits_refunded),
        attempt_count = t.attempt_count + {{.Attempts}},
        {{requestAnswered .Answer}},
        current_stage = 'closed',
        leased_by = null,
        lease_expires_at = null,
        {{if .Held}}attempts = {{outcome .State .Code .Message .Request .Endpoint}},
        {{end}}completed_at = now(),
        updated_at = now(),
        quiet = (select completion_events = '{}' from {{.Schema}}.control)
    from closing
    -- A row that was redriven since the snapshot of this statement has a charge that the snapshot does not show: it is skipped. The array and the case keep
    -- the planner from a join that reads the whole table.
    where t.task_id = any (array[closing.task_id]) and case t.run when closing.run then true else false end
    returning closing.*
), balance as (
    insert into {{.Schema}}.credits as c (user_id, credits)
    select payer, sum(amount) from closed where amount is not null group by payer order by payer
    on conflict (user_id) do update set credits = c.credits + excluded.credits, updated_at = now()
    returning user_id, credits
), entries as (
    select closed.*, case when amount is not null then
               balance.credits - sum(amount) over (partition by balance.user_id) + sum(amount) over (partition by balance.user_id order by task_id)
           end as balance_after
    from closed left join balance on balance.user_id = closed.payer and amount is not null
    order by balance.user_id, task_id
), refunded as (
    insert into {{.Schema}}.ledger (user_id, task_id, run, kind, amount, balance_after, reason)
    select payer, task_id, run, 'refund', amount, balance_after, 'task {{.State}}: ' || {{.Code}}::text from entries where amount is not null
), result as (
    select task_id, user_id, coalesce(amount, owed, 0) as credits, balance_after as balance,
           (extract(epoch from now() - since) * 1000)::bigint as age, missing_charge
    from entries
){{if .Call}}, {{recordedTasks .Call}}{{end}}
select task_id, user_id, credits, balance, age, missing_charge, null as locked_user from result
{{- if .Call}}
union all
select '', '', 0, null, 0, false, payer
from (select distinct payer from found where amount is not null and task_id not in (select task_id from closing)) skipped
{{- end}}
{{- end}}

-- name: complete
-- $1 tasks, $2 epochs, $3 image URLs, $4 request ids, $5 endpoints, $6 notes, $7 usages. Returns the leases that were completed.
-- Locks: the tasks in the order of task_id. Index: primary key.
select task_id, lease_epoch from {{.Schema}}.complete($1, $2, $3, $4, $5, $6, $7);

-- name: completed
-- $1 tasks, $2 epochs. Returns the leases under which a task was completed. This makes complete repeatable after its
-- result was lost. Locks: none. Index: primary key.
select t.task_id, t.lease_epoch
from unnest($1::text[], $2::bigint[]) as given (task_id, epoch)
join {{.Schema}}.tasks t on t.task_id = given.task_id and t.lease_epoch = given.epoch and t.status = 'completed';

-- name: fail
-- $1 task, $2 epoch, $3 error code, $4 error message, $5 request id, $6 endpoint, $7 answer, $8 attempts used (0 or 1), $9 usage of what is paid
-- for.
-- Locks: the task, its user. Index: primary key, the ledger's unique index.
with target as (
    select task_id, user_id, run, credits_deducted, {{.StartedAt}} as since
    from {{.Schema}}.tasks
    where task_id = $1 and lease_epoch = $2 and coalesce(status, '') = 'processing'
    for update
), paid as (
    {{result "paid" "target.task_id, target.run, target.user_id" "$9::text" "from target"}}
    on conflict (task_id, run) do nothing
), {{closeHeld "failed" "$3" "$4" "nullif($5::text, '')" "nullif($6::text, '')" "$7::text" "$8::int"}};

-- name: recorded_failure
-- $1 task, $2 epoch. What fail returned, if the holder of this lease has failed the task: fail is repeatable with it after its answer was lost.
-- Locks: none. Index: primary key, the ledger's unique index.
select t.task_id, t.user_id, coalesce(refund.amount, -owed.amount, 0), refund.balance_after,
       (extract(epoch from t.completed_at - t.processing_started_at) * 1000)::bigint, {{missingCharge "t"}}, null::text
from {{.Schema}}.tasks t
left join {{.Schema}}.ledger owed on owed.task_id = t.task_id and owed.run = t.run and owed.kind = 'charge' and owed.external
left join {{.Schema}}.ledger refund on refund.task_id = t.task_id and refund.run = t.run and refund.kind = 'refund'
where t.task_id = $1 and t.lease_epoch = $2 and t.status = 'failed'
  and t.attempts @> jsonb_build_array(jsonb_build_object('outcome', 'failed', 'epoch', $2::bigint, 'by', 'holder'));

-- name: cancel
-- $1 task, $2 user (null: any), $3 the id of the operation (null: it is not noted), $4 who. Locks: the task, its user. Index: primary key.
with was as (
    select status in ('pending', 'processing') as open from {{.Schema}}.tasks where task_id = $1
), done as materialized (
    select status, refunded, balance, missing_charge from {{.Schema}}.cancel($1, $2)
), noted as (
    {{operation "$3" "$4" "'cancel'" "$1" "'refunded ' || refunded || ', balance ' || balance" "case when was.open then '' else 'was ' end || status" "was cross join done"}}
)
select status, refunded, balance, missing_charge from done;

-- name: redrive
-- $1 task, $2 run (null: the current one), $3 the id of the operation (null: it is not noted), $4 who. Locks: the task, its user. Index: primary key.
with was as (
    select run from {{.Schema}}.tasks where task_id = $1
), done as materialized (
    select new_run, balance from {{.Schema}}.redrive($1, $2)
), noted as (
    {{operation "$3" "$4" "'redrive'" "$1" "'balance ' || balance" "case when new_run = was.run then 'was ' else '' end || 'run ' || new_run" "was cross join done"}}
)
select new_run, balance from done;

-- name: recorded_result
-- $1 call. The result that a sweep recorded. Locks: none. Index: primary key.
select r.task_id, r.user_id, r.credits::bigint, r.balance::bigint, r.age::bigint, r.missing_charge::boolean, null::text
from {{.Schema}}.calls c
cross join lateral rows from (
    jsonb_array_elements_text(c.result -> 'task_id'), jsonb_array_elements_text(c.result -> 'user_id'), jsonb_array_elements_text(c.result -> 'credits'),
    jsonb_array_elements_text(c.result -> 'balance'), jsonb_array_elements_text(c.result -> 'age'), jsonb_array_elements_text(c.result -> 'missing_charge')
) as r (task_id, user_id, credits, balance, age, missing_charge)
where c.call_id = $1;

-- name: fail_abandoned
-- $1 MAX_LOST_CLAIMS, $2 wait after a start of the server in ms, $3 limit, $4 error code, $5 error message, $6 only these tasks (null: all),
-- $7 not these users, $8 call.
-- Fails tasks whose lease expired in the claim after the last one that may be lost. Locks: skips rows locked by others. Index: "lease".
with target as (
    select task_id, user_id, run, credits_deducted, {{.StartedAt}} as since
    from {{.Schema}}.tasks
    where status = 'processing' and lease_expires_at < now() and lost_claims >= $1 and {{settled "$2"}} and {{accepted "$2"}}
      and {{selected "$6" "null"}} and {{notAside}}
      and user_id <> all ($7::text[])
    order by lease_expires_at
    limit $3
    for update skip locked
), {{close "failed" "$4" "$5" "t.request_id" "$8"}};

-- name: abandoned
-- $1 MAX_LOST_CLAIMS, $2 limit. The tasks that fail_abandoned would take. Locks: none. Index: "lease".
select task_id from {{.Schema}}.tasks
where status = 'processing' and lease_expires_at < now() and lost_claims >= $1 and {{notAside}}
order by lease_expires_at
limit $2;

-- name: fail_overdue
-- $1 pending timeout in ms, $2 limit, $3 error code, $4 error message, $5 only these tasks (null: all), $6 not these users, $7 call. Fails
-- overdue tasks, the oldest first. The error
-- of an earlier attempt is appended to the message. Locks: skips rows locked by others. Index: "scheduled", "due".
with unpromoted as (
    select task_id, user_id, run, credits_deducted, run_after as since
    from {{.Schema}}.tasks
    where {{overdue "$1"}} and {{accepted "$1"}} and waits_for = 'time' and {{selected "$5" "null"}} and {{notAside}}
      and user_id <> all ($6::text[])
    order by run_after
    limit $2
    for update skip locked
), waiting as (
    select task_id, user_id, run, credits_deducted, run_after as since
    from {{.Schema}}.tasks
    where {{overdue "$1"}} and {{accepted "$1"}} and waits_for is distinct from 'time' and {{selected "$5" "null"}} and {{notAside}}
      and user_id <> all ($6::text[])
    order by run_after
    limit greatest($2 - (select count(*) from unpromoted), 0)
    for update skip locked
), target as (
    select * from unpromoted union all select * from waiting
), {{close "failed" "$3" "($4 || coalesce('; ' || t.error_message, ''))" "t.request_id" "$7"}};

-- name: overdue
-- $1 pending timeout in ms, $2 limit. The tasks that fail_overdue would take. Locks: none. Index: "scheduled", "due".
(select task_id from {{.Schema}}.tasks
 where {{overdue "$1"}} and waits_for = 'time' and {{notAside}}
 order by run_after limit $2)
union all
(select task_id from {{.Schema}}.tasks
 where {{overdue "$1"}} and waits_for is distinct from 'time' and {{notAside}}
 order by run_after limit $2)
limit $2;

-- name: count_overdue
-- $1 as in fail_overdue. The number of tasks it would fail without a limit. Locks: none. Index: "scheduled", "due".
select (select count(*) from {{.Schema}}.tasks where {{overdue "$1"}} and waits_for = 'time')
     + (select count(*) from {{.Schema}}.tasks where {{overdue "$1"}} and waits_for is distinct from 'time');

-- name: sweep
-- $1 stuck after, in ms, $2 limit, $3 error code, $4 error message, $5 only this user's tasks (null: all), $6 wait after a start of the
-- server in ms, $7 only these tasks (null: all), $8 not these users, $9 call. Fails stuck tasks, the oldest first.
-- Locks: skips rows locked by others, so concurrent sweeps share the work. Index: "lease".
with target as (
    select task_id, user_id, run, credits_deducted, {{.StartedAt}} as since
    from {{.Schema}}.tasks
    where {{stuck "$1"}} and {{settled "$6"}} and {{accepted "$1"}}
      and {{selected "$7" "$5"}} and {{notAside}}
      and user_id <> all ($8::text[])
    order by {{.StartedAt}}
    limit $2
    for update skip locked
), {{close "failed" "$3" "$4" "t.request_id" "$9"}};

-- name: requeue
-- $1 to $9 as in sweep. Returns stuck tasks to the queue. No attempt is used and nothing is refunded. The lease of
-- the former worker is lost, because the task is no longer processing. Locks and index: as sweep.
with target as (
    select task_id, user_id, run, credits_deducted, {{.StartedAt}} as since
    from {{.Schema}}.tasks
    where {{stuck "$1"}} and {{settled "$6"}} and {{accepted "$1"}}
      and {{selected "$7" "$5"}} and {{notAside}}
      and user_id <> all ($8::text[])
    order by {{.StartedAt}}
    limit $2
    for update skip locked
), requeued as (
    update {{.Schema}}.tasks t
    set status = 'pending',
        lost_claims = 0,
        run_after = now(),
        waits_for = 'time',
        error_code = $3,
        error_message = $4,
        progress_percentage = 0,
        current_stage = 'requeued',
        leased_by = null,
        lease_expires_at = null,
        processing_started_at = null,
        attempts = {{outcomeBy "null" "requeued" "$3" "$4" "t.request_id" "null"}},
        updated_at = now()
    from target
    where t.task_id = target.task_id
    returning t.task_id
), notified as (
    select pg_notify({{literal .Channel}}, '') where exists (select from requeued)
), result as (
    select task_id, user_id, 0::bigint as credits, null::bigint as balance,
           (extract(epoch from now() - since) * 1000)::bigint as age, {{missingCharge "target"}} as missing_charge
    from target
), {{recordedTasks "$9"}}
select result.task_id, result.user_id, result.credits, result.balance, result.age, result.missing_charge, null::text
from result left join notified on true;

-- name: stuck
-- $1 stuck after, in ms, $2 limit, $3 only these tasks, $4 only this user's tasks (null: all). The tasks that a sweep
-- would take. Locks: none. Index: "lease".
with stuck as (
    select task_id, user_id, run, credits_deducted, {{.StartedAt}} as since
    from {{.Schema}}.tasks
    where {{stuck "$1"}}
      and {{selected "$3" "$4"}} and {{notAside}}
    order by {{.StartedAt}}
    limit $2
)
select stuck.task_id, stuck.user_id, coalesce(-charge.amount, 0), null::bigint,
       (extract(epoch from now() - stuck.since) * 1000)::bigint, stuck.credits_deducted > 0 and charge.id is null, null::text
from stuck
left join {{.Schema}}.ledger charge on charge.task_id = stuck.task_id and charge.run = stuck.run and charge.kind = 'charge'
order by stuck.since;

-- name: stuck_ids
-- $1 to $4 as in stuck. The ids of these tasks, user by user. Locks: none. Index: "lease".
select task_id from (
    select task_id, user_id
    from {{.Schema}}.tasks
    where {{stuck "$1"}} and {{selected "$3" "$4"}} and {{notAside}}
    order by {{.StartedAt}}
    limit $2
) stuck
order by user_id;

-- name: count_stuck
-- $1 stuck after, in ms, $2 only these tasks, $3 only this user's tasks (null: all). The number of stuck tasks.
-- Locks: none. Index: "lease".
select count(*)
from {{.Schema}}.tasks
where {{stuck "$1"}}
  and {{selected "$2" "$3"}};

-- name: set_aside
-- $1 task, $2 operation, $3 reason. Leaves a task out of claims and sweeps for an hour. Locks: the row of set_aside.
insert into {{.Schema}}.set_aside as s (task_id, operation, reason) values ($1, $2, $3)
on conflict (task_id) do update set operation = excluded.operation, reason = excluded.reason, tried_at = now()
returning task_id;

-- name: tasks_aside
-- $1 limit. Tasks that are set aside and not closed, the oldest first. Locks: none.
select s.task_id, s.operation, s.reason, s.since
from {{.Schema}}.set_aside s join {{.Schema}}.tasks t using (task_id)
where t.status in ('pending', 'processing')
order by s.since
limit $1;

-- name: fail_set_aside
-- $1 set aside for at least so many ms, $2 limit, $3 error code, $4 only these tasks (null: all), $5 not these users, $6 call. Fails tasks that are set aside for so
-- long and whose lease nobody holds. Locks: skips rows locked by others. Index: primary keys.
with target as (
    select t.task_id, t.user_id, t.run, t.credits_deducted, s.since, s.operation || ': ' || s.reason as why
    from {{.Schema}}.set_aside s
    join {{.Schema}}.tasks t using (task_id)
    where {{older "s.since" "$1"}} and {{accepted "$1"}} and coalesce(t.status, '') in ('pending', 'processing')
      and (t.lease_expires_at is null or t.lease_expires_at < now())
      and ($4::text[] is null or t.task_id = any ($4)) and t.user_id <> all ($5::text[])
    order by s.since
    limit $2
    for update of t skip locked
), {{close "failed" "$3" "('the task was set aside, because the database refused to change it: ' || (select why from target where target.task_id = t.task_id))" "t.request_id" "$6"}};
