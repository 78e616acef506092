-- Read-only statements on tasks: one task, counts, and times. None of them locks anything.

-- name: task
-- $1 task. Index: primary key.
select task_id, user_id, status, credits_cost, credits_deducted, credits_refunded, attempt_count, lease_epoch,
       coalesce(leased_by, ''), progress_percentage, coalesce(current_stage, ''), coalesce(image_url, ''),
       coalesce(error_code, ''), coalesce(error_message, ''), coalesce(request_id, '')
from {{.Tasks}}
where task_id = $1;

-- name: next_due
-- Milliseconds until the first pending task is due or the first lease expires; null if there is neither.
-- Index: the first entry of "pending" and of "lease".
select ceil(extract(epoch from least(
    (select min(run_after) from {{.Tasks}} where status = 'pending'),
    (select min(lease_expires_at) from {{.Tasks}} where lease_expires_at is not null)
) - now()) * 1000)::bigint;

-- name: has_pending
-- Whether any task is pending, due or not. Index: "pending".
select exists (select from {{.Tasks}} where status = 'pending');

-- name: queue_stats
-- $1 stuck after, in ms. Pending, due, age of the oldest due task in ms, processing, stuck.
-- Index: "pending" and "started".
select (select count(*) from {{.Tasks}} where status = 'pending'),
       (select count(*) from {{.Tasks}} where status = 'pending' and run_after <= now()),
       (select coalesce(extract(epoch from now() - min(run_after)) * 1000, 0)::bigint
          from {{.Tasks}} where status = 'pending' and run_after <= now()),
       (select count(*) from {{.Tasks}} where status = 'processing'),
       (select count(*) from {{.Tasks}} where {{stuck "$1"}});

-- name: count_by_state
-- The number of tasks in each state. Reads the whole table once.
select status, count(*) from {{.Tasks}} group by status;

-- name: closed_within
-- $1 window in ms. Tasks closed in it, by state: count, median and 95th percentile of the time since the last claim,
-- in ms. Index: "completed" (BRIN).
select status, count(*),
       coalesce(percentile_cont(0.5) within group (order by took), 0)::bigint,
       coalesce(percentile_cont(0.95) within group (order by took), 0)::bigint
from (
    select status, extract(epoch from completed_at - processing_started_at) * 1000 as took
    from {{.Tasks}}
    where completed_at > now() - $1 * interval '1 millisecond'
) closed
group by status;

-- name: failures_within
-- $1 window in ms. Tasks that failed in it: count by error code, the most frequent first. Index: "completed" (BRIN).
select coalesce(error_code, ''), count(*)
from {{.Tasks}}
where completed_at > now() - $1 * interval '1 millisecond' and status = 'failed'
group by 1
order by 2 desc, 1
limit 20;

-- name: refunds_today
-- Refunds since midnight in the database's time zone: count and sum of credits. Index: the ledger's time (BRIN).
select count(*), coalesce(sum(amount), 0)
from {{.Ledger}}
where created_at >= date_trunc('day', now()) and kind = 'refund';
