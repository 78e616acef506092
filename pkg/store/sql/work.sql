-- The way of a task: claimed, renewed, completed, or sent back. Each statement is a transaction of
-- its own, guarded by the state and the lease_epoch that it leaves.
--
-- coalesce(status, '') is status, hidden from the planner. Its statistics are of a moment when few tasks
-- were in processing, so it would read all of those through a partial index rather than the few named.

-- name: claim
-- $1 worker, $2 how many, $3 lease in ms, $4 max_attempts where the task has none of its own.
-- Locks: the rows it takes, and skips those that others hold, so claimers never wait for each other.
-- Index: "lease" for tasks whose worker fell silent, which come first; then "pending", in order.
-- The update finds its rows by primary key through an array, which keeps the plan on the index
-- whatever the table's size.
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
-- $1 task, $2 epoch. The input picture of a task in hand, as base64, unless it is longer than $3 bytes.
-- Locks: none. Index: primary key.
select octet_length(image_base64), case when octet_length(image_base64) <= $3 then image_base64 end
from {{.Tasks}}
where task_id = $1 and lease_epoch = $2 and coalesce(status, '') = 'processing' and image_base64 is not null;

-- name: heartbeat
-- $1 tasks, $2 epochs, $3 progress, $4 stages, $5 lease in ms. Returns the leases still held.
-- Locks: the rows of this process's own leases, in the order of task_id, as complete and release
-- do, so that two of them can't wait for each other. Index: primary key.
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

-- name: complete
-- $1 tasks, $2 epochs, $3 image URLs, $4 request ids. Returns the leases that it completed.
-- Locks: as heartbeat. Index: primary key.
with held as (
    select t.task_id, given.image_url, given.request_id
    from unnest($1::text[], $2::bigint[], $3::text[], $4::text[]) as given (task_id, epoch, image_url, request_id)
    join {{.Tasks}} t on t.task_id = given.task_id and t.lease_epoch = given.epoch and coalesce(t.status, '') = 'processing'
    order by t.task_id
    for update of t
)
update {{.Tasks}} t
set status = 'completed',
    image_url = held.image_url,
    request_id = nullif(held.request_id, ''),
    progress_percentage = 100,
    current_stage = 'completed',
    error_code = null,
    error_message = null,
    leased_by = null,
    lease_expires_at = null,
    completed_at = now(),
    updated_at = now()
from held
where t.task_id = held.task_id
returning t.task_id, t.lease_epoch;

-- name: completed
-- $1 tasks, $2 epochs. Which of them were completed under that epoch: a worker that lost the
-- answer to its complete asks here. Locks: none. Index: primary key.
select t.task_id, t.lease_epoch
from unnest($1::text[], $2::bigint[]) as given (task_id, epoch)
join {{.Tasks}} t on t.task_id = given.task_id and t.lease_epoch = given.epoch and t.status = 'completed';

-- name: retry
-- $1 task, $2 epoch, $3 wait in ms, $4 error code, $5 error message, $6 request id.
-- Locks: one row. Index: primary key.
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
-- $1 tasks, $2 epochs, $3 waits in ms, $4 error codes, $5 error messages. Gives attempts back
-- unused. Locks: as heartbeat. Index: primary key. Other processors are woken for what is due now.
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
), woken as (
    select pg_notify('{{.Channel}}', '') where exists (select from released where wait = 0)
)
select task_id, lease_epoch from released left join woken on true;

-- name: next
-- Milliseconds until the first pending task is due, or the first lease runs out; null: none waits.
-- Locks: none. Index: the first entry of "pending" and of "lease".
select ceil(extract(epoch from least(
    (select min(run_after) from {{.Tasks}} where status = 'pending'),
    (select min(lease_expires_at) from {{.Tasks}} where lease_expires_at is not null)
) - now()) * 1000)::bigint;

-- name: outstanding
-- Whether a task is pending, due or not. Locks: none. Index: "pending".
select exists (select from {{.Tasks}} where status = 'pending');

-- name: task
-- $1 task. Locks: none. Index: primary key.
select task_id, user_id, status, credits_cost, credits_deducted, credits_refunded, attempt_count, lease_epoch,
       coalesce(leased_by, ''), progress_percentage, coalesce(current_stage, ''), coalesce(image_url, ''),
       coalesce(error_code, ''), coalesce(error_message, ''), coalesce(request_id, '')
from {{.Tasks}}
where task_id = $1;

-- name: states
-- How many tasks there are in each state. Locks: none. Reads the whole table, once.
select status, count(*) from {{.Tasks}} group by status;

-- name: queue
-- Depth, due now, age of the oldest due in ms, in processing, stuck ($1 ms). Locks: none.
-- Index: "pending" and "started".
select (select count(*) from {{.Tasks}} where status = 'pending'),
       (select count(*) from {{.Tasks}} where status = 'pending' and run_after <= now()),
       (select coalesce(extract(epoch from now() - min(run_after)) * 1000, 0)::bigint
          from {{.Tasks}} where status = 'pending' and run_after <= now()),
       (select count(*) from {{.Tasks}} where status = 'processing'),
       (select count(*) from {{.Tasks}} where status = 'processing'
          and {{.Began}} < now() - $1 * interval '1 millisecond');
