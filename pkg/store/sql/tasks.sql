-- Statements that show tasks, and that delete what a user's request for deletion names.

-- name: task
-- $1 task. Index: primary key, the ledger's unique index.
select t.task_id, t.run, t.user_id, t.status, t.priority, t.credits_cost, t.credits_deducted, t.credits_refunded, t.attempt_count,
       t.requests_sent, t.unknown_outcomes, t.lost_claims, t.lease_epoch, coalesce(t.leased_by, ''), t.progress_percentage, coalesce(t.current_stage, ''),
       coalesce(t.image_url, ''), coalesce(t.error_code, ''), coalesce(t.error_message, ''), coalesce(t.request_id, ''),
       case when t.status = 'pending' then coalesce(t.waits_for, '') else '' end, t.created_at, t.run_after, t.processing_started_at, t.completed_at,
       {{missingCharge "t"}}, coalesce(t.bridge_state, '')
from {{.Schema}}.tasks t
where t.task_id = $1;

-- name: list_tasks
-- $1 states, $2 user, $3 error code, $4 created at least so many ms ago, $5 at most (each null: any), $6 limit. The newest first.
-- Index: "user" and "lease", or the primary key backward, whose ids begin with the time.
select t.task_id, t.run, t.user_id, t.status, t.priority, t.credits_cost, t.credits_deducted, t.credits_refunded, t.attempt_count,
       t.requests_sent, t.unknown_outcomes, t.lost_claims, t.lease_epoch, coalesce(t.leased_by, ''), t.progress_percentage, coalesce(t.current_stage, ''),
       coalesce(t.image_url, ''), coalesce(t.error_code, ''), coalesce(t.error_message, ''), coalesce(t.request_id, ''),
       case when t.status = 'pending' then coalesce(t.waits_for, '') else '' end, t.created_at, t.run_after, t.processing_started_at, t.completed_at,
       {{missingCharge "t"}}, coalesce(t.bridge_state, '')
from (
    select * from {{.Schema}}.tasks where $2::text is null
    union all
    select * from {{.Schema}}.tasks where user_id = $2 and status <> 'processing'
    union all
    select * from {{.Schema}}.tasks where user_id = $2 and status = 'processing'
) t
where ($1::text[] is null or t.status = any ($1)) and ($3::text is null or t.error_code = $3)
  and ($4::bigint is null or t.created_at <= now() - $4 * interval '1 millisecond')
  and ($5::bigint is null or t.created_at >= now() - $5 * interval '1 millisecond')
order by t.task_id desc
limit $6;

-- name: task_details
-- $1 task. What "task" leaves out. Index: primary key.
select t.prompt, t.options, coalesce(t.model, ''), coalesce(t.endpoint, ''), coalesce(t.max_attempts, 0), {{.Schema}}.attempts_of(t.task_id), t.input_count, t.forgotten_at is not null,
       (select coalesce(jsonb_agg(jsonb_build_object('position', i.position, 'mask', i.mask, 'bytes', octet_length(i.content),
                                                     'url', i.url) order by i.position), '[]')
        from {{.Schema}}.inputs i where i.task_id = t.task_id),
       (select s.queue_position from {{.Schema}}.task_status s where s.task_id = t.task_id),
       (select s.expected_wait_seconds from {{.Schema}}.task_status s where s.task_id = t.task_id),
       coalesce((select s.operation || ': ' || s.reason from {{.Schema}}.set_aside s
                 where s.task_id = t.task_id and t.status in ('pending', 'processing')), ''),
       p.saved_at, coalesce(p.gone, 0)
from {{.Schema}}.tasks t
left join {{.Schema}}.pending_results p on p.task_id = t.task_id and p.run = t.run and t.status in ('pending', 'processing')
where t.task_id = $1;

-- name: task_ledger
-- $1 task. Its ledger entries, the oldest first. Index: the ledger's unique index.
select kind, amount, balance_after, coalesce(task_id, ''), coalesce(run, 0), reason, created_at
from {{.Schema}}.ledger where task_id = $1 order by id;

-- name: live_tasks_of
-- $1 user. Index: "waiting", "lease".
select task_id from {{.Schema}}.tasks where user_id = $1 and status = 'pending'
union all
select task_id from {{.Schema}}.tasks where user_id = $1 and status = 'processing'
order by task_id;

-- name: forget
-- $1 user. Deletes prompts, options and input pictures of the user's closed tasks, and returns the tasks. The ledger stays.
-- Locks: the rows. Index: "user".
with closed as (
    select task_id from {{.Schema}}.tasks
    where user_id = $1 and status in ('completed', 'failed', 'cancelled') and forgotten_at is null
    order by task_id
    for update
), freed as (
    delete from {{.Schema}}.inputs where task_id in (select task_id from closed)
), unfetched as (
    delete from {{.Schema}}.pending_results where task_id in (select task_id from closed)
)
update {{.Schema}}.tasks t
set prompt = '', options = '{}', image_url = null, error_message = null,
    attempts = (select coalesce(jsonb_agg(case jsonb_typeof(a) when 'object' then a - 'message' else a end), '[]') from jsonb_array_elements(t.attempts) a),
    forgotten_at = now(), updated_at = now()
from closed
where t.task_id = closed.task_id
returning t.task_id;

-- name: forgotten
-- $1 user. The tasks whose prompts were deleted, so that a repeat can delete their pictures too. Index: "user".
select task_id from {{.Schema}}.tasks where user_id = $1 and status <> 'processing' and forgotten_at is not null order by task_id;

-- name: unsettled
-- $1 window in ms, $2 limit. Failed and cancelled tasks of the window that say they were charged and not refunded: whether the ledger
-- has the charge. Index: "completed" (BRIN), the ledger's unique index.
select t.task_id, not {{missingCharge "t"}}
from {{.Schema}}.tasks t
where t.completed_at > now() - $1 * interval '1 millisecond' and t.status in ('failed', 'cancelled') and t.credits_deducted > t.credits_refunded
  and t.bridge_state is null -- the outbox has what is owed to the application's users
order by t.completed_at desc
limit $2;
