-- Statements on leases: claim, read the input, renew, retry, release. Each statement is one transaction,
-- guarded by the state and the lease_epoch of the task.
--
-- coalesce(status, '') hides the column from the planner on purpose. The statistics may date from a time when
-- few tasks were processing; the planner would then scan a partial index over all processing tasks instead of
-- looking up the few named ones by primary key.

-- name: claim
-- $1 worker, $2 limit, $3 lease in ms, $4 max_attempts for tasks without their own.
-- Tasks with an expired lease come first, then pending tasks in order.
-- Locks: the claimed rows; rows locked by others are skipped, so concurrent claims never wait for each other.
-- Index: "lease" and "pending". The update finds its rows by primary key through an array, which keeps the plan
-- on the index at every table size.
with expired as (
    select task_id
    from {{.Tasks}}
    where lease_expires_at < now() and coalesce(status, '') = 'processing'
      and attempt_count < coalesce(max_attempts, $4)
    order by lease_expires_at
    limit $2
    for update skip locked
), due as (
    select task_id
    from {{.Tasks}}
    where status = 'pending' and run_after <= now()
    order by run_after, task_id
    limit greatest($2 - (select count(*) from expired), 0)
    for update skip locked
)
update {{.Tasks}}
set status = 'processing',
    attempt_count = attempt_count + 1,
    lease_epoch = lease_epoch + 1,
    leased_by = $1,
    lease_expires_at = now() + $3 * interval '1 millisecond',
    processing_started_at = now(),
    updated_at = now(),
    progress_percentage = 0,
    current_stage = 'claimed'
where task_id = any (array(select task_id from expired union all select task_id from due))
returning task_id, user_id, prompt, coalesce(style, ''), coalesce(aspect_ratio, ''), coalesce(model, ''),
          image_base64 is not null, attempt_count, coalesce(max_attempts, $4), lease_epoch;

-- name: input
-- $1 task, $2 epoch, $3 limit in bytes. The input picture of a leased task as base64; null if it is longer than $3.
-- Locks: none. Index: primary key.
select octet_length(image_base64), case when octet_length(image_base64) <= $3 then image_base64 end
from {{.Tasks}}
where task_id = $1 and lease_epoch = $2 and coalesce(status, '') = 'processing' and image_base64 is not null;

-- name: renew_leases
-- $1 tasks, $2 epochs, $3 progress, $4 stages, $5 lease in ms. Returns the leases that are still held.
-- Locks: the rows of the named leases, in the order of task_id. complete and release use the same order, so
-- these statements cannot deadlock. Index: primary key.
with held as (
    select t.task_id, given.progress, given.stage
    from unnest($1::text[], $2::bigint[], $3::int[], $4::text[]) as given (task_id, epoch, progress, stage)
    join {{.Tasks}} t on t.task_id = given.task_id and t.lease_epoch = given.epoch and coalesce(t.status, '') = 'processing'
    order by t.task_id
    for update of t
)
update {{.Tasks}} t
set lease_expires_at = now() + $5 * interval '1 millisecond',
    updated_at = now(),
    progress_percentage = held.progress,
    current_stage = held.stage
from held
where t.task_id = held.task_id
returning t.task_id, t.lease_epoch;

-- name: retry
-- $1 task, $2 epoch, $3 wait in ms, $4 error code, $5 error message, $6 request id. The attempt is used.
-- Locks: the task. Index: primary key.
update {{.Tasks}}
set status = 'pending',
    run_after = now() + $3 * interval '1 millisecond',
    error_code = $4,
    error_message = $5,
    request_id = nullif($6, ''),
    progress_percentage = 0,
    current_stage = 'waiting to retry',
    leased_by = null,
    lease_expires_at = null,
    processing_started_at = null,
    updated_at = now()
where task_id = $1 and lease_epoch = $2 and coalesce(status, '') = 'processing'
returning task_id;

-- name: release
-- $1 tasks, $2 epochs, $3 waits in ms, $4 error codes, $5 error messages. The attempts are not used. Returns the
-- leases that were released. Other processors are notified if a task is due now.
-- Locks: as renew_leases. Index: primary key.
with held as (
    select t.task_id, given.wait, given.code, given.message
    from unnest($1::text[], $2::bigint[], $3::bigint[], $4::text[], $5::text[])
         as given (task_id, epoch, wait, code, message)
    join {{.Tasks}} t on t.task_id = given.task_id and t.lease_epoch = given.epoch and coalesce(t.status, '') = 'processing'
    order by t.task_id
    for update of t
), released as (
    update {{.Tasks}} t
    set status = 'pending',
        attempt_count = greatest(attempt_count - 1, 0),
        run_after = now() + held.wait * interval '1 millisecond',
        error_code = nullif(held.code, ''),
        error_message = nullif(held.message, ''),
        progress_percentage = 0,
        current_stage = 'released',
        leased_by = null,
        lease_expires_at = null,
        processing_started_at = null,
        updated_at = now()
    from held
    where t.task_id = held.task_id
    returning t.task_id, t.lease_epoch, held.wait
), notified as (
    select pg_notify('{{.Channel}}', '') where exists (select from released where wait = 0)
)
select task_id, lease_epoch from released left join notified on true;
