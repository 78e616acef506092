-- Statements on leases: claim, read the input, renew, retry, release. Each statement is one transaction,
-- guarded by the state and the lease_epoch of the task.
--
-- coalesce(status, '') hides the column from the planner on purpose. The statistics may date from a time when
-- few tasks were processing; the planner would then scan a partial index over all processing tasks instead of
-- looking up the few named ones by primary key.

-- name: claim
-- $1 call, $2 worker, $3 limit, $4 lease in ms, $5 max_attempts for tasks without their own, $6 MAX_LOST_CLAIMS, $7 maximum of tasks with an
-- expired lease, $8 which are taken so many ms after a start of the server, $9 whether nothing else is in flight, $10 only these tasks (null: all), $11 not these
-- models, $12 only these models (null: all), $13 only tasks with a pending result, $14 endpoints (null: none is chosen), $15 whether tasks that can't be
-- claimed are moved out of the way. The function is in the schema, so that one round trip promotes
-- tasks whose time has come, claims, and records the call.
-- Locks: the rows of endpoints with limits, the claimed rows; rows of tasks locked by others are skipped. Index: "scheduled", "lease", "ready", "model".
select task_id, run, user_id, prompt, options, model, input_count, attempt, max_attempts, lease_epoch, requests_sent, unknown_outcomes, lost_claims,
       coalesce(pending_ref, ''), coalesce(pending_request, ''), coalesce(pending_endpoint, ''), coalesce(pending_ms, 0), coalesce(gone, 0), coalesce(gone_ms, 0),
       coalesce(pending_usage, ''), coalesce(endpoint, ''), coalesce(sent_to, ''), coalesce(waited_ms, 0), coalesce(charged, 0)
from {{.Schema}}.claim($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15);

-- name: permit_wait
-- $1 endpoints. Milliseconds until the next request may be sent to one of them by its rate. Locks: none. Index: primary key.
select coalesce(min(extract(epoch from greatest(next_at, clock_timestamp()) - clock_timestamp()) * 1000), 0)::bigint
from {{.Schema}}.endpoints where name = any ($1);

-- name: claimable
-- $1 limit. The tasks that the next claims would take or promote, in no particular order, to find the one that makes a claim fail. Locks: none.
-- Index: "lease", "ready", "scheduled".
(select task_id from {{.Schema}}.tasks
 where status = 'processing' and lease_expires_at < now() and task_id <> all ({{.Schema}}.tasks_set_aside())
 order by lease_expires_at limit $1)
union all
(select task_id from {{.Schema}}.tasks
 where status = 'pending' and waits_for is null and task_id <> all ({{.Schema}}.tasks_set_aside())
 order by (- priority), slot, backlog, run_after, task_id limit $1)
union all
(select task_id from {{.Schema}}.tasks
 where status = 'pending' and waits_for = 'time' and run_after <= now() and task_id <> all ({{.Schema}}.tasks_set_aside())
 order by run_after, task_id limit $1);

-- name: has_suspect
-- $1 MAX_LOST_CLAIMS. Whether a task waits for a processor that works on nothing else. One whose row somebody else has locked can't be
-- claimed, so nobody waits for it, and neither for one of a paused model, or whose request may still be worked at a paused endpoint. Locks: the task, shared, for the time of the statement. Index: "lease".
select count(*) > 0 from (
    select from {{.Schema}}.tasks
    where status = 'processing' and lease_expires_at < now() and lost_claims between 1 and $1 - 1
      and task_id <> all ({{.Schema}}.tasks_set_aside())
      and not exists (select from {{.Schema}}.control c where {{paused "c.pauses" "'model'" "model"}}
                      or (request_open or unknown_outcomes > 0) and {{paused "c.pauses" "'endpoint'" "request_endpoint"}})
    limit 1
    for share skip locked) suspect;

-- name: begin_requests
-- $1 tasks, $2 epochs, $3 ids of these calls, $4 endpoints, $5 their rates (0: no limit). Records paid requests before they are
-- sent; without a key it is how many ms a request must wait. Locks: the tasks in the order of task_id, the rows of endpoints with a rate. Index: primary keys.
select task_id, lease_epoch, coalesce(request_key, ''), coalesce(wait_ms, 0) from {{.Schema}}.begin_requests($1, $2, $3, $4, $5);

-- name: save_pending
-- $1 task, $2 epoch, $3 what is to be fetched, $4 request id, $5 endpoint, $6 usage. Records a result that is paid for and still has to be fetched; the API
-- has answered the request that is open. A repeat changes nothing. Locks: the task. Index: primary keys.
with answered as (
    update {{.Schema}}.tasks t
    set request_open = false,
        request_key = null,
        request_id = nullif($4, ''),
        updated_at = now()
    where task_id = $1 and lease_epoch = $2 and coalesce(status, '') = 'processing'
    returning task_id, run, user_id
), paid as (
    {{result "paid" "answered.task_id, answered.run, answered.user_id" "$6::text" "from answered"}}
    on conflict (task_id, run) do nothing
)
insert into {{.Schema}}.pending_results as p (task_id, run, ref, request_id, endpoint, usage)
select task_id, run, $3, nullif($4, ''), nullif($5, ''), nullif($6::text, '')::jsonb from answered
on conflict (task_id) do update
set run = excluded.run, ref = excluded.ref, request_id = excluded.request_id, endpoint = excluded.endpoint, usage = excluded.usage,
    saved_at = case when p.run = excluded.run then p.saved_at else now() end,
    gone = case when p.run = excluded.run then p.gone else 0 end,
    gone_since = case when p.run = excluded.run then p.gone_since end
returning task_id;

-- name: record_model
-- $1 endpoint, $2 model, $3 the number of rows from which on none is added: a relay may take any name that users think of. Locks: the row.
insert into {{.Schema}}.models (endpoint, model) select $1::text, $2::text
where (select count(*) from {{.Schema}}.models) < $3
on conflict (endpoint, model) do update set worked_at = now()
returning 1;

-- name: worked_models
-- $1 limit. The models that record_model has recorded, the latest first. Locks: none.
select endpoint, model from {{.Schema}}.models order by worked_at desc limit $1;

-- name: admit
-- $1 users, $2 whether to wait for the lock of a user. Lets their next tasks start and returns how many.
-- Locks: each user's row, in order. Index: "held", "active".
select {{.Schema}}.admit($1, $2);

-- name: held_users
-- $1 after this user, $2 limit. Users with tasks that wait for USER_CONCURRENCY. Index: "held", once for each user.
with recursive held (user_id, n) as (
    select (select min(user_id) from {{.Schema}}.tasks where status = 'pending' and waits_for = 'user' and user_id > $1), 1
    union all
    select (select min(t.user_id) from {{.Schema}}.tasks t
            where t.status = 'pending' and t.waits_for = 'user' and t.user_id > held.user_id), held.n + 1
    from held where held.user_id is not null and held.n < $2
)
select user_id from held where user_id is not null order by user_id;

-- name: inputs
-- $1 task, $2 epoch. The input pictures of a leased task; one row without a picture if it has none. Those of a bridged task are in the application's
-- row. Locks: none. Index: primary keys.
select coalesce(i.mask, false), i.content, coalesce(i.url, ''), i.task_id is not null
from {{.Schema}}.tasks t
left join lateral (
    select i.task_id, i.position::bigint, i.mask, i.content, i.url from {{.Schema}}.inputs i where i.task_id = t.task_id
    union all
    select t.task_id, b.position, b.mask, b.content, b.url
    from {{.Schema}}.bridge_inputs(case when t.bridge_state is not null and t.input_count > 0 then t.task_id end) with ordinality as b (mask, content, url, position)
) i on true
where t.task_id = $1 and t.lease_epoch = $2 and coalesce(t.status, '') = 'processing'
order by i.position;

-- name: renew_leases
-- $1 tasks, $2 epochs, $3 progress, $4 stages, $5 lease in ms. Returns the leases that are still held, and whether each was renewed: a
-- row that somebody else has locked is left out, because it must not keep the leases of all other tasks from being renewed.
-- Locks: the rows of the named leases; skips rows locked by others. Index: primary key.
with given as (
    select * from unnest($1::text[], $2::bigint[], $3::int[], $4::text[]) as given (task_id, epoch, progress, stage)
), held as (
    select t.task_id, given.progress, given.stage
    from given
    join {{.Schema}}.tasks t on t.task_id = given.task_id and t.lease_epoch = given.epoch and coalesce(t.status, '') = 'processing'
    for update of t skip locked
), renewed as (
    update {{.Schema}}.tasks t
    set lease_expires_at = now() + $5 * interval '1 millisecond',
        updated_at = now(),
        progress_percentage = held.progress,
        current_stage = held.stage
    from held
    where t.task_id = held.task_id
    returning t.task_id, t.lease_epoch
)
select task_id, lease_epoch, true from renewed
union all
select t.task_id, t.lease_epoch, false
from given
join {{.Schema}}.tasks t on t.task_id = given.task_id and t.lease_epoch = given.epoch and coalesce(t.status, '') = 'processing'
where not exists (select from renewed where renewed.task_id = t.task_id);

-- name: save_progress
-- $1 tasks, $2 epochs, $3 progress, $4 stages. Locks: the rows of the named leases; skips rows locked by others. Index: primary key.
with held as (
    select t.task_id, given.progress, given.stage
    from unnest($1::text[], $2::bigint[], $3::int[], $4::text[]) as given (task_id, epoch, progress, stage)
    join {{.Schema}}.tasks t on t.task_id = given.task_id and t.lease_epoch = given.epoch and coalesce(t.status, '') = 'processing'
    for update of t skip locked
)
update {{.Schema}}.tasks t
set progress_percentage = held.progress, current_stage = held.stage, updated_at = now()
from held
where t.task_id = held.task_id
returning t.task_id;

-- name: retry
-- $1 task, $2 epoch, $3 wait in ms, $4 error code, $5 error message, $6 request id, $7 endpoint, $8 answer. The attempt is used.
-- Locks: the task. Index: primary key.
update {{.Schema}}.tasks t
set status = 'pending',
    run_after = now() + $3 * interval '1 millisecond',
    waits_for = 'time',
    attempt_count = attempt_count + 1,
    lost_claims = 0,
    {{requestAnswered "$8::text"}},
    error_code = $4,
    error_message = $5,
    request_id = nullif($6, ''),
    progress_percentage = 0,
    current_stage = 'waiting to retry',
    leased_by = null,
    lease_expires_at = null,
    attempts = {{outcome "retry" "$4" "$5" "nullif($6::text, '')" "nullif($7::text, '')"}},
    processing_started_at = null,
    updated_at = now()
where task_id = $1 and lease_epoch = $2 and coalesce(status, '') = 'processing'
returning task_id;

-- name: release
-- $1 tasks, $2 epochs, $3 waits in ms, $4 error codes, $5 error messages, $6 request ids, $7 endpoints, $8 answers, $9 whether the claim
-- was lost, because the work panicked (null: nothing was begun), $10 whether what is to be fetched was not there. The attempts are not used. Returns the leases that were released. Other processors are notified if a task is due now.
-- Locks: the rows of the named leases, in the order of task_id, so that these statements cannot deadlock. Index: primary key.
with limited as materialized (
    select {{.Schema}}.limit_waits() where cardinality($1::text[]) > 1
), held as (
    select t.task_id, given.wait, given.code, given.message, given.request_id, given.endpoint, given.answer, given.lost, given.gone,
           exists (select from {{.Schema}}.pending_results p where p.task_id = t.task_id and p.run = t.run) as pending
    from unnest($1::text[], $2::bigint[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::boolean[], $10::boolean[])
         as given (task_id, epoch, wait, code, message, request_id, endpoint, answer, lost, gone)
    join {{.Schema}}.tasks t on t.task_id = given.task_id and t.lease_epoch = given.epoch and coalesce(t.status, '') = 'processing'
    where (select count(*) from limited) >= 0
    order by t.task_id
    for update of t
), counted as (
    update {{.Schema}}.pending_results p
    set gone = p.gone + 1, gone_since = coalesce(p.gone_since, now())
    from held
    where p.task_id = held.task_id and held.gone
), released as (
    update {{.Schema}}.tasks t
    set status = 'pending',
        lost_claims = case when held.lost then t.lost_claims + 1 when held.lost is null then t.lost_claims else 0 end,
        {{requestAnswered "held.answer"}},
        run_after = now() + held.wait * interval '1 millisecond',
        -- The next claim promotes it, with the limits of that moment; it keeps its turn.
        waits_for = 'time',
        error_code = nullif(held.code, ''),
        error_message = nullif(held.message, ''),
        progress_percentage = 0,
        current_stage = case when held.pending then 'fetching the picture' else 'released' end,
        leased_by = null,
        lease_expires_at = null,
        attempts = {{outcome "release" "nullif(held.code, '')" "nullif(held.message, '')" "nullif(held.request_id, '')" "nullif(held.endpoint, '')"}},
        processing_started_at = null,
        updated_at = now()
    from held
    where t.task_id = held.task_id
    returning t.task_id, t.lease_epoch, held.wait
), notified as (
    select pg_notify({{literal .Channel}}, '') where exists (select from released where wait = 0)
)
select task_id, lease_epoch from released left join notified on true;

-- name: recorded_outcomes
-- $1 tasks, $2 epochs, $3 outcome. The leases whose holder has recorded this outcome: retry and release are repeatable with it after
-- their answer was lost. Locks: none. Index: primary key.
select t.task_id, t.lease_epoch_given
from (
    select given.task_id, given.epoch as lease_epoch_given, t.attempts
    from unnest($1::text[], $2::bigint[]) as given (task_id, epoch)
    join {{.Schema}}.tasks t on t.task_id = given.task_id
) t
where t.attempts @> jsonb_build_array(jsonb_build_object('outcome', $3::text, 'epoch', t.lease_epoch_given, 'by', 'holder'));
