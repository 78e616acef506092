-- Read-only statements on the queue: counts and times. None of them locks anything.

-- The endpoints given have one for the task t, or it has something to fetch.
{{define "hasEndpoint" -}}
((case when coalesce(t.model, '') = any (models.ready) then true when coalesce(t.model, '') = any (models.unready) then false else models.others end
                    and (t.unknown_outcomes = 0 and not t.request_open or {{.Schema}}.choose_endpoint((select endpoints from given), (select permits from free),
                         t.task_id, t.run, coalesce(t.model, ''), t.request_endpoint) is not null))
                   or exists (select from {{.Schema}}.pending_results p where p.task_id = t.task_id and p.run = t.run))
{{- end}}
-- name: next_due
-- $1 whether expired leases are taken. Milliseconds until a task may be claimed, at most a day; no row if nothing is pending or leased, or while
-- claiming is paused. While an endpoint or a model is, it is a second or more: what is due may be what waits for it. A task that only a processor that works
-- on nothing else may claim does not count. Index: "ready", the first entry of "scheduled" and of "lease".
select greatest(least(ceil(extract(epoch from next.at - now()) * 1000), 86400000), case when pauses <> '[]' then 1000 end)::bigint
from {{.Schema}}.control, (
    select least(
        (select now() where exists (select from {{.Schema}}.tasks where status = 'pending' and waits_for is null
                                    and task_id <> all ({{.Schema}}.tasks_set_aside()))),
        (select min(run_after) from {{.Schema}}.tasks where status = 'pending' and waits_for = 'time' and task_id <> all ({{.Schema}}.tasks_set_aside())),
        (select min(lease_expires_at) from {{.Schema}}.tasks where status = 'processing' and $1 and lost_claims = 0
         and task_id <> all ({{.Schema}}.tasks_set_aside()))
    ) as at
) next
where paused_at is null and next.at is not null;

-- name: has_pending
-- Whether any task is pending, due or not, or has an expired lease, and is not set aside. Index: "scheduled", "due", "lease".
select exists (select from {{.Schema}}.tasks where status = 'pending' and waits_for = 'time' and task_id <> all ({{.Schema}}.tasks_set_aside()))
    or exists (select from {{.Schema}}.tasks where status = 'pending' and waits_for is distinct from 'time' and task_id <> all ({{.Schema}}.tasks_set_aside()))
    or exists (select from {{.Schema}}.tasks where status = 'processing' and lease_expires_at < now() and task_id <> all ({{.Schema}}.tasks_set_aside()));

-- name: has_pending_for
-- $1 endpoints, each with "free". As has_pending, without tasks that no endpoint can be chosen for and that have nothing to fetch: of their model,
-- because a request of unknown outcome was sent to another, or because of a pause. Index: "scheduled", "due", "model", "lease".
with given as materialized (
    select {{.Schema}}.with_pauses($1::jsonb, pauses) as endpoints from {{.Schema}}.control
), free as materialized (
    select array(select (e ->> 'free')::int from given, jsonb_array_elements(endpoints) with ordinality as each (e, position) order by position) as permits
), models as materialized (
    select m.* from given, free, {{.Schema}}.claimable_models(given.endpoints, free.permits) m
)
select exists (select from {{.Schema}}.tasks t cross join models
               where t.status = 'pending' and t.task_id <> all ({{.Schema}}.tasks_set_aside()) and {{template "hasEndpoint" .}})
    or exists (select from {{.Schema}}.tasks t cross join models
               where t.status = 'processing' and t.lease_expires_at < now() and t.task_id <> all ({{.Schema}}.tasks_set_aside()) and {{template "hasEndpoint" .}});

-- name: queue_stats
-- $1 stuck after, in ms. Pending, of these due, of these held by USER_CONCURRENCY, and because their model is out of order, age of the oldest due task in ms, processing,
-- stuck; pictures that were made and not fetched for a minute, of them the longest time in ms, and its last error with its code. A task that is not promoted yet is due as well.
-- Index: "scheduled", "due", "held", "model", "lease"; pending_results is short.
select due.tasks + scheduled.tasks, due.tasks + scheduled.due,
       (select count(*) from {{.Schema}}.tasks where status = 'pending' and waits_for = 'user'),
       (select count(*) from {{.Schema}}.tasks where status = 'pending' and waits_for = 'model'),
       coalesce(extract(epoch from now() - least(due.oldest, scheduled.oldest)) * 1000, 0)::bigint,
       (select count(*) from {{.Schema}}.tasks where status = 'processing'),
       (select count(*) from {{.Schema}}.tasks where {{stuck "$1"}}),
       unfetched.pictures, coalesce(extract(epoch from now() - unfetched.oldest) * 1000, 0)::bigint, coalesce(unfetched.error, ''), coalesce(unfetched.code, '')
from (
    select count(*) as tasks, min(run_after) as oldest from {{.Schema}}.tasks where status = 'pending' and waits_for is distinct from 'time'
) due, (
    select count(*) as tasks, count(*) filter (where run_after <= now()) as due, min(run_after) filter (where run_after <= now()) as oldest
    from {{.Schema}}.tasks where status = 'pending' and waits_for = 'time'
) scheduled, (
    select count(*) as pictures, min(p.saved_at) as oldest, (array_agg(t.error_message order by p.saved_at) filter (where t.error_message <> ''))[1] as error,
        (array_agg(t.error_code order by p.saved_at) filter (where t.error_message <> ''))[1] as code
    from {{.Schema}}.pending_results p join {{.Schema}}.tasks t on t.task_id = p.task_id and t.run = p.run
    where p.saved_at < now() - interval '1 minute' and t.status in ('pending', 'processing')
) unfetched;

-- name: count_by_state
-- The number of tasks in each state. Reads the whole table once.
select status, count(*) from {{.Schema}}.tasks group by status;

-- name: closed_within
-- $1 window in ms. Tasks closed in it, by state: count, median and 95th percentile of the time since the last claim,
-- in ms. Index: "completed" (BRIN).
select status, count(*),
       coalesce(percentile_cont(0.5) within group (order by took), 0)::bigint,
       coalesce(percentile_cont(0.95) within group (order by took), 0)::bigint
from (
    select status, extract(epoch from completed_at - processing_started_at) * 1000 as took
    from {{.Schema}}.tasks
    where completed_at > now() - $1 * interval '1 millisecond'
) closed
group by status;

-- name: failures_within
-- $1 window in ms. Tasks that failed in it: count by error code, the most frequent first. Index: "completed" (BRIN).
select coalesce(error_code, ''), count(*)
from {{.Schema}}.tasks
where completed_at > now() - $1 * interval '1 millisecond' and status = 'failed'
group by 1
order by 2 desc, 1
limit 20;

-- name: refunds_today
-- Refunds since midnight in the database's time zone: count and sum of credits. Index: the ledger's time (BRIN).
select count(*), least(coalesce(sum(amount), 0), 9223372036854775807) -- the sum is numeric, and may be more than a bigint
from {{.Schema}}.ledger
where created_at >= date_trunc('day', now()) and kind = 'refund';
