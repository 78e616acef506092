-- Completion events and their delivery. The trigger that writes them, and how they are leased: migrations/0006_webhooks.sql.

-- name: set_completion_events
-- $1 what is written when a task is closed. Locks: the row of control, if that changes.
with changed as (
    update {{.Schema}}.control set completion_events = $1 where completion_events <> $1::text[] returning 1
)
select count(*) from changed;

-- name: claim_events
-- $1 call, $2 limit, $3 limit of one host, $4 lease in ms, $5 hosts with a limit of their own, $6 these limits. Locks: the events; those locked by others
-- are skipped. Index: "events_due", "events_waiting".
select event_id, receiver, type, task_id, run, data, coalesce(url, ''), host, created_at, attempts
from {{.Schema}}.claim_events($1, $2, $3, $4, $5, $6) order by created_at, event_id, receiver;

-- name: record_events
-- What became of leased events: $1 ids, $2 receivers, $3 leases, $4 results (delivered, retry, undelivered or released), $5 ms until the next attempt, $6 status of
-- the response or 0, $7 reasons, $8 ms after the first attempt in which there may be another. An event that is leased to another call stays as it is. Locks: the events. Index: primary key.
with results as (
    select * from unnest($1::text[], $2::text[], $3::uuid[], $4::text[], $5::bigint[], $6::int[], $7::text[])
        as r (event_id, receiver, lease, result, wait_ms, status, reason)
), recorded as (
    update {{.Schema}}.events e
    set state = case when r.result in ('delivered', 'undelivered') then r.result when r.result = 'retry' and {{older "e.first_at" "$8::bigint"}} then 'undelivered' else 'due' end,
        ended_at = case when r.result in ('delivered', 'undelivered') or r.result = 'retry' and {{older "e.first_at" "$8::bigint"}} then now() end,
        attempts = e.attempts + (r.result <> 'released')::int,
        next_at = now() + r.wait_ms * interval '1 millisecond',
        status = case when r.result = 'released' then e.status else nullif(r.status, 0) end,
        reason = case when r.result = 'released' then e.reason else nullif(r.reason, '') end,
        lease = null
    from results r
    where e.event_id = r.event_id and e.receiver = r.receiver and e.lease = r.lease
    returning 1
)
select count(*) from recorded;

-- name: notify_events
-- $1 limit, $2 call. Sends the ids of closed tasks on the channel of events, and deletes these events. Returns their number, and records it under the id of the
-- call. Locks: the events; those locked by others are skipped. Index: "events_notify".
with due as (
    select event_id from {{.Schema}}.events
    where state = 'due' and not held and receiver = 'notify' and {{.Schema}}.bridge_is_here()
    order by created_at limit $1
    for update skip locked
), sent as (
    delete from {{.Schema}}.events where receiver = 'notify' and event_id = any (array(select event_id from due)) returning task_id
), notified as (
    select pg_notify({{literal .EventChannel}}, task_id) from sent
), {{recordedCount "notified" "$2"}};

-- name: event_counts
-- Events that are waiting, held until the bridge wrote the task's end, failing, or were given up; ms since the oldest waiting one became due. Locks: none. Index: partial ones.
select count(*) filter (where state = 'due' and not held), count(*) filter (where held), count(*) filter (where state = 'due' and attempts > 0),
       count(*) filter (where state = 'undelivered'),
       coalesce(extract(epoch from now() - min(created_at) filter (where state = 'due' and not held)) * 1000, 0)::bigint
from {{.Schema}}.events
where receiver <> 'notify' and (state = 'due' and not held or held or state = 'undelivered');

-- name: failing_receivers
-- $1 limit. Hosts with events that failed and are tried again, the one that has failed for longest first: host, events, first attempt, status and reason of the latest. Locks: none. Index: "events_due".
select host, count(*), min(first_at), coalesce((array_agg(status order by next_at desc))[1], 0), coalesce((array_agg(reason order by next_at desc))[1], '')
from {{.Schema}}.events
where state = 'due' and not held and receiver <> 'notify' and attempts > 0
group by host order by min(first_at) limit $1;

-- name: list_events
-- $1 state or null for all, $2 limit. The latest first, without data and URL. Locks: none. Index: "events_undelivered", "events_time".
select event_id, receiver, type, task_id, run, host, state, held, attempts, created_at, first_at, next_at, ended_at, coalesce(status, 0), coalesce(reason, '')
from {{.Schema}}.events
where receiver <> 'notify' and ($1::text is null or state = $1)
order by created_at desc, event_id, receiver limit $2;

-- name: set_events
-- $1 ids or null for all that were given up, $2 the state that they get, due or discarded, $3 call. Returns their number, and records it under the id of the call. Locks: the events.
with changed as (
    update {{.Schema}}.events
    set state = $2, attempts = 0, first_at = null, next_at = now(), lease = null, ended_at = case when $2 = 'due' then null else now() end
    where receiver <> 'notify' and case when $1::text[] is null then state = 'undelivered' else event_id = any ($1) end
    returning 1
), {{recordedCount "changed" "$3"}};
