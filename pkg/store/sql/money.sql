-- Where credits move. The balance moves in the same statement as the ledger row, by adding to it.
-- "stuck" is what stuck means: in processing for longer than $1 ms; its arguments are the filters by task and user.
-- Order of locks, everywhere: tasks, then users in the order of user_id, then the ledger.

-- name: grant
-- $1 user, $2 credits, $3 reason. Locks: the user's row. Index: primary key.
with balance as (
    insert into {{.Credits}} as c (user_id, credits)
    values ($1, $2)
    on conflict (user_id) do update set credits = c.credits + excluded.credits, updated_at = now()
    returning user_id, credits
)
insert into {{.Ledger}} (user_id, kind, amount, balance_after, reason)
select user_id, 'grant', $2, credits, $3 from balance
returning balance_after;

-- name: balance
-- $1 user. Locks: none. Index: primary key.
select credits from {{.Credits}} where user_id = $1;

-- name: ledger
-- $1 user, $2 how many. The latest movements. Locks: none. Index: the ledger's (user_id, id).
select kind, amount, balance_after, coalesce(task_id, ''), reason, created_at
from {{.Ledger}} where user_id = $1 order by id desc limit $2;

-- name: enqueue
-- $1 user, $2 task ids, $3 cost of each, $4 prompt, $5 style, $6 aspect ratio, $7 model, $8 input
-- picture, $9 max_attempts. All or nothing: a balance that doesn't cover them all inserts nothing.
-- Locks: the user's row; the guard is tested again on it once it is locked. Index: primary key.
with given as (
    select task_id, n from unnest($2::text[]) with ordinality as g (task_id, n)
), paid as (
    update {{.Credits}}
    set credits = credits - $3::bigint * cardinality($2::text[]), updated_at = now()
    where user_id = $1 and credits >= $3::bigint * cardinality($2::text[])
    returning user_id, credits + $3::bigint * cardinality($2::text[]) as before
), tasks as (
    insert into {{.Tasks}} (task_id, user_id, prompt, style, aspect_ratio, model, image_base64, max_attempts,
                            credits_cost, credits_deducted)
    select given.task_id, paid.user_id, $4, nullif($5, ''), nullif($6, ''), nullif($7, ''), nullif($8, ''),
           nullif($9::int, 0), $3::bigint, $3::bigint
    from paid, given
    returning task_id
)
insert into {{.Ledger}} (user_id, task_id, kind, amount, balance_after, reason)
select paid.user_id, given.task_id, 'charge', -$3::bigint, paid.before - $3::bigint * given.n, 'task enqueued'
from paid, given
order by given.n
returning task_id;

-- name: fail
-- $1 task, $2 epoch, $3 error code, $4 error message, $5 request id.
-- Locks: the task, its user. Index: primary key, ledger's unique.
with target as (
    select task_id, user_id, {{.Began}} as began
    from {{.Tasks}}
    where task_id = $1 and lease_epoch = $2 and coalesce(status, '') = 'processing'
    for update
), {{close "failed" "$3" "$4" "nullif($5::text, '')"}};

-- name: cancel
-- $1 task, $2 error code, $3 error message. Locks: the task, its user. Index: primary key.
with target as (
    select task_id, user_id, {{.Began}} as began
    from {{.Tasks}}
    where task_id = $1 and status in ('pending', 'processing')
    for update
), {{close "cancelled" "$2" "$3" "t.request_id"}};

-- name: reap
-- $1 max_attempts where the task has none, $2 how many, $3 error code, $4 error message.
-- Fails tasks whose worker fell silent in its last attempt. Locks: skips those that others hold.
-- Index: "lease".
with target as (
    select task_id, user_id, {{.Began}} as began
    from {{.Tasks}}
    where lease_expires_at < now() and coalesce(status, '') = 'processing'
      and attempt_count >= coalesce(max_attempts, $1)
    order by lease_expires_at
    limit $2
    for update skip locked
), {{close "failed" "$3" "$4" "t.request_id"}};

-- name: expire
-- $1 due for longer than this, in ms, $2 how many, $3 error code, $4 error message. Fails tasks that nobody began, the
-- oldest first; what kept them is added to the message. Locks: skips those that others hold. Index: "pending".
with target as (
    select task_id, user_id, run_after as began
    from {{.Tasks}}
    where status = 'pending' and run_after < now() - $1 * interval '1 millisecond'
    order by run_after, task_id
    limit $2
    for update skip locked
), {{close "failed" "$3" "($4 || coalesce('; ' || t.error_message, ''))" "t.request_id"}};

-- name: count expired
-- $1 as $1 of expire. How many it would take. Locks: none. Index: "pending".
select count(*) from {{.Tasks}} where status = 'pending' and run_after < now() - $1 * interval '1 millisecond';

-- name: sweep
-- $1 stuck after, in ms, $2 how many, $3 error code, $4 error message, $5 only these tasks, $6 only
-- this user's; null: all. Fails stuck tasks, the oldest first.
-- Locks: skips those that others hold, so sweepers share the work. Index: "started".
with target as (
    select task_id, user_id, {{.Began}} as began
    from {{.Tasks}}
    where {{stuck "$5" "$6"}}
    order by {{.Began}}
    limit $2
    for update skip locked
), {{close "failed" "$3" "$4" "t.request_id"}};

-- name: requeue
-- $1 to $6 as sweep. Puts stuck tasks back into the queue instead: the attempt counts as unused, nothing is
-- refunded. Whoever had one finds it no longer in processing. Locks and index: as sweep.
with target as (
    select task_id, user_id, {{.Began}} as began
    from {{.Tasks}}
    where {{stuck "$5" "$6"}}
    order by {{.Began}}
    limit $2
    for update skip locked
), requeued as (
    update {{.Tasks}} t
    set status = 'pending',
        attempt_count = greatest(attempt_count - 1, 0),
        run_after = now(),
        error_code = $3,
        error_message = $4,
        progress_percentage = 0,
        current_stage = 'requeued',
        leased_by = null,
        lease_expires_at = null,
        processing_started_at = null,
        updated_at = now()
    from target
    where t.task_id = target.task_id
    returning t.task_id
), woken as (
    select pg_notify('{{.Channel}}', '') where exists (select from requeued)
)
select target.task_id, target.user_id, 0, null::int, (extract(epoch from now() - target.began) * 1000)::bigint
from target left join woken on true;

-- name: stuck
-- $1 stuck after, in ms, $2 how many, $3 only these tasks, $4 only this user's; null: all. What a sweep
-- would take. Locks: none. Index: "started".
with stuck as (
    select task_id, user_id, {{.Began}} as began
    from {{.Tasks}}
    where {{stuck "$3" "$4"}}
    order by {{.Began}}
    limit $2
)
select stuck.task_id, stuck.user_id, coalesce(-charge.amount, 0), null::int,
       (extract(epoch from now() - stuck.began) * 1000)::bigint
from stuck
left join {{.Ledger}} charge on charge.task_id = stuck.task_id and charge.kind = 'charge'
order by stuck.began;

-- name: count stuck
-- $1, $2, $3 as $1, $3 and $4 of stuck. How many there are. Locks: none. Index: "started".
select count(*)
from {{.Tasks}}
where {{stuck "$2" "$3"}};
