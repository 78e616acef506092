-- The figures of each minute, and what the status page shows. Except for record_figures, all of them only read, and lock nothing. What was closed is read from
-- the table "figures" as far as it goes, and from there on in the tasks: so that the cost does not grow with the history.

-- The columns of a task that was searched for.
{{define "found"}}t.task_id, t.user_id, t.status, t.run, coalesce(t.model, ''), coalesce(t.endpoint, ''), t.created_at, t.completed_at,
       coalesce(t.error_code, ''), coalesce(t.error_message, ''), t.credits_cost, t.credits_refunded{{end}}

-- name: figures_bounds
-- $1 how long ago a minute must have ended, in ms, $2 how long ago the first one may be, in ms. The first minute that is not recorded, and the end of the
-- last that can be. A transaction that takes longer than $1 is not counted in its minute. Minutes that are still to come were recorded while the clock was
-- ahead. Index: primary key.
select greatest((select max(minute) + interval '1 minute' from {{.Schema}}.figures where minute <= now()),
                date_bin('1 minute', now() - $2 * interval '1 millisecond', 'epoch')),
       date_bin('1 minute', now() - $1 * interval '1 millisecond', 'epoch');

-- name: record_figures
-- $1 first minute, $2 end of the last, $3 how long rows are kept, in ms. Records the minutes that are not recorded, and deletes old ones and
-- those that are still to come. Tasks that arrived are closed since then, or pending and due since then, or processing. Locks: the rows, which nothing else changes. Index: "completed" (BRIN), "due",
-- "scheduled", "lease", the ledger's time (BRIN).
with pruned as (
    delete from {{.Schema}}.figures where minute = any (array(
        (select minute from {{.Schema}}.figures where {{older "minute" "$3"}} order by minute limit 10000)
        union all
        (select minute from {{.Schema}}.figures where minute > now() order by minute limit 10000)))
), closed as materialized (
    select date_bin('1 minute', completed_at, 'epoch') as minute, created_at, completed_at, status, task_id, coalesce(left(error_code, 200), '') as code,
           extract(epoch from completed_at - processing_started_at) * 1000 as took
    from {{.Schema}}.tasks where completed_at >= $1::timestamptz
), arrived as (
    select date_bin('1 minute', created_at, 'epoch') as minute, count(*) as tasks
    from (
        select created_at from closed
        union all
        select created_at from {{.Schema}}.tasks where status = 'pending' and waits_for is distinct from 'time' and run_after >= $1::timestamptz
        union all
        select created_at from {{.Schema}}.tasks where status = 'pending' and waits_for = 'time' and run_after >= $1::timestamptz
        union all
        select created_at from {{.Schema}}.tasks where status = 'processing'
    ) t
    where created_at >= $1::timestamptz and created_at < $2::timestamptz
    group by 1
), ended as (
    select minute, count(*) filter (where status = 'completed') as completed, count(*) filter (where status = 'failed') as failed,
           count(*) filter (where status = 'cancelled') as cancelled,
           percentile_cont(0.5) within group (order by took) filter (where status = 'completed')::bigint as p50,
           percentile_cont(0.95) within group (order by took) filter (where status = 'completed')::bigint as p95
    from closed where completed_at < $2::timestamptz
    group by minute
), failures as (
    select minute, jsonb_object_agg(code, jsonb_build_object('count', tasks, 'tasks', last)) as codes
    from (
        select minute, code, count(*) as tasks, to_jsonb((array_agg(task_id order by completed_at desc))[1:10]) as last,
               row_number() over (partition by minute order by count(*) desc, code) as place
        from closed where status = 'failed' and completed_at < $2::timestamptz
        group by minute, code
    ) c
    where place <= 50
    group by minute
), booked as (
    select date_bin('1 minute', created_at, 'epoch') as minute, - sum(amount) filter (where kind = 'charge') as charged, sum(amount) filter (where kind = 'refund') as refunded
    from {{.Schema}}.ledger
    where created_at >= $1::timestamptz and created_at < $2::timestamptz and kind in ('charge', 'refund')
    group by 1
), waiting as materialized (
    select d.tasks + s.tasks as due, (select count(*) from {{.Schema}}.tasks where status = 'processing') as processing,
           coalesce(extract(epoch from now() - least(d.oldest, s.oldest)) * 1000, 0)::bigint as oldest
    from (select count(*) as tasks, min(run_after) as oldest from {{.Schema}}.tasks where status = 'pending' and waits_for is distinct from 'time') d,
         (select count(*) as tasks, min(run_after) as oldest from {{.Schema}}.tasks where status = 'pending' and waits_for = 'time' and run_after <= now()) s
    where $2::timestamptz > now() - interval '2 minutes'
)
insert into {{.Schema}}.figures (minute, arrived, completed, failed, cancelled, charged, refunded, p50_ms, p95_ms, failures, due, processing, oldest_due_ms)
select m.minute, coalesce(a.tasks, 0), coalesce(e.completed, 0), coalesce(e.failed, 0), coalesce(e.cancelled, 0),
       least(coalesce(b.charged, 0), 9223372036854775807), least(coalesce(b.refunded, 0), 9223372036854775807), e.p50, e.p95, coalesce(f.codes, '{}'),
       w.due, w.processing, w.oldest
from generate_series($1::timestamptz, $2::timestamptz - interval '1 minute', interval '1 minute') m (minute)
left join arrived a on a.minute = m.minute
left join ended e on e.minute = m.minute
left join failures f on f.minute = m.minute
left join booked b on b.minute = m.minute
left join waiting w on m.minute = $2::timestamptz - interval '1 minute'
on conflict (minute) do nothing;

-- name: figures
-- $1 window in ms, $2 step in ms. The figures of the steps that end within the window, the first first; of several minutes: sums, of the times the mean by
-- the number of tasks, of the rest the last. Index: primary key.
select date_bin($2 * interval '1 millisecond', minute, 'epoch') as step, sum(arrived), sum(completed), sum(failed), sum(cancelled),
       least(sum(charged), 9223372036854775807), least(sum(refunded), 9223372036854775807),
       (sum(p50_ms * completed) / nullif(sum(completed) filter (where p50_ms is not null), 0))::bigint,
       (sum(p95_ms * completed) / nullif(sum(completed) filter (where p95_ms is not null), 0))::bigint,
       (array_agg(due order by minute desc) filter (where due is not null))[1],
       (array_agg(processing order by minute desc) filter (where processing is not null))[1],
       (array_agg(oldest_due_ms order by minute desc) filter (where oldest_due_ms is not null))[1]
from {{.Schema}}.figures
where minute >= date_bin($2 * interval '1 millisecond', now() - $1 * interval '1 millisecond', 'epoch')
group by 1
order by 1;

-- name: closed_figures
-- $1 from (null: so long ago as $2 says), $2 window in ms, $3 how many, $4 to (null: now). Of the recorded minutes from then on: how many, tasks that completed, failed and were
-- cancelled; the end of the last; a minute from which on at least $3 tasks were closed; the first moment of the window, and now. Index: primary key.
select count(f.minute), coalesce(sum(f.completed), 0), coalesce(sum(f.failed), 0), coalesce(sum(f.cancelled), 0),
       coalesce(max(f.minute) + interval '1 minute', w.start), coalesce(max(f.minute) filter (where f.closed >= $3), w.start), w.start, now()
from (select date_bin('1 minute', coalesce($1::timestamptz, now() - $2 * interval '1 millisecond'), 'epoch') as start) w
left join lateral (
    select minute, completed, failed, cancelled, sum(completed + failed + cancelled) over (order by minute desc) as closed
    from {{.Schema}}.figures where minute >= w.start and minute < coalesce($4::timestamptz, 'infinity')
) f on true
group by w.start;

-- name: failure_figures
-- $1 from. Of the recorded minutes from then on, by error code: how many tasks failed, and arrays of the ids of the last. Index: primary key.
select e.code, sum((e.of ->> 'count')::bigint) as tasks, to_jsonb((array_agg(e.of -> 'tasks' order by f.minute desc))[1:3])
from {{.Schema}}.figures f cross join lateral jsonb_each(f.failures) as e (code, of)
where f.minute >= $1::timestamptz
group by e.code
order by tasks desc, e.code;

-- name: failed_ids
-- $1 error code, $2 limit. The ids of the last tasks of each recorded minute that failed with it, the latest first. Index: primary key.
select id
from {{.Schema}}.figures f cross join lateral jsonb_array_elements_text(f.failures -> $1 -> 'tasks') with ordinality as t (id, place)
where f.failures ? $1
order by f.minute desc, t.place
limit $2;

-- name: closed_since
-- $1 from, $2 ids. Tasks that were closed from then on, by state and error code: how many, and the ids of the last $2. Index: "completed" (BRIN).
select status, case when status = 'failed' then coalesce(left(error_code, 200), '') else '' end as code, count(*),
       case when status = 'failed' then to_jsonb((array_agg(task_id order by completed_at desc))[1:$2::int]) else '[]' end
from {{.Schema}}.tasks
where completed_at >= $1::timestamptz
group by status, code;

-- name: closed_between
-- $1 from, $2 to. Tasks that completed, failed, and were cancelled. Index: "completed" (BRIN).
select count(*) filter (where status = 'completed'), count(*) filter (where status = 'failed'), count(*) filter (where status = 'cancelled')
from {{.Schema}}.tasks
where completed_at >= $1::timestamptz and completed_at < $2::timestamptz;

-- name: booked_between
-- $1 from, $2 to. Credits charged and refunded, costs by currency in millionths. Index: the ledger's and the results' time (BRIN).
select least(coalesce(- sum(amount) filter (where kind = 'charge'), 0), 9223372036854775807), least(coalesce(sum(amount) filter (where kind = 'refund'), 0), 9223372036854775807),
       (select coalesce(jsonb_object_agg(currency, cost), '{}')
        from (select currency, sum(cost)::text as cost from {{.Schema}}.results
              where at >= $1::timestamptz and at < $2::timestamptz and currency is not null group by currency) c)
from {{.Schema}}.ledger
where created_at >= $1::timestamptz and created_at < $2::timestamptz and kind in ('charge', 'refund');

-- name: recent_closed
-- $1 from, $2 limit. Tasks that were closed from then on, the latest first. Index: "completed" (BRIN).
select task_id, user_id, status, coalesce(model, ''), coalesce(error_code, ''), coalesce(extract(epoch from completed_at - processing_started_at) * 1000, 0)::bigint,
       completed_at, status = 'completed' and coalesce(image_url, '') <> ''
from {{.Schema}}.tasks
where completed_at >= $1::timestamptz
order by completed_at desc, task_id
limit $2;

-- name: find_ids
-- $1 tasks. Index: primary key.
select {{template "found"}} from {{.Schema}}.tasks t where t.task_id = any ($1) order by t.created_at desc, t.task_id;

-- name: find_prefix
-- $1 the first UUID that begins with $3, $2 the last, $4 limit. Tasks whose id begins with $3, the newest first. Index: primary key.
select {{template "found"}} from {{.Schema}}.tasks t
where t.task_id >= $1 and t.task_id <= $2 and starts_with(t.task_id, $3)
order by t.task_id desc
limit $4;

-- name: find_user
-- $1 user, $2 limit. The user's tasks, the newest first. Index: "user", "lease".
select {{template "found"}}
from (
    (select * from {{.Schema}}.tasks where user_id = $1 and status <> 'processing' order by created_at desc limit $2)
    union all
    (select * from {{.Schema}}.tasks where user_id = $1 and status = 'processing')
) t
order by t.created_at desc, t.task_id
limit $2;
