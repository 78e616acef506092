-- Alerts: which problems are open, and what each receiver was told. The tables: migrations/0011_alerts.sql. They have a few rows each.
{{/* The alert a was not seen for so long that it counts as over. */ -}}
{{define "over"}}(a.cleared_at is not null and a.seen_at < now() - {{.}}::bigint * (1 << a.flaps) * interval '1 millisecond'){{end}}
-- name: observe_alerts
-- $1 what is seen (a JSON array), $2 codes that would have been seen, $3 sources that were looked at, $4 ms after which an alert is over that nobody sees,
-- $5 id of the call. Inserts and updates what is seen, marks what is not seen any more, and deletes what nobody has seen for a week. Returns the number
-- of rows that are seen. Locks: rows of alerts; those of others are skipped. Index: primary key.
with seen as (
    select * from jsonb_to_recordset($1::jsonb)
        as s (fingerprint text, code text, severity text, source text, event boolean, details jsonb, count bigint)
), recorded as (
    insert into {{.Schema}}.alerts as a (fingerprint, code, severity, source, event, details, count, last_call)
    select fingerprint, code, severity, source, event, details, count, $5::uuid from seen order by fingerprint
    on conflict (fingerprint) do update
    set code = excluded.code, severity = excluded.severity, source = excluded.source, event = excluded.event, details = excluded.details,
        count = case when not excluded.event then excluded.count when a.last_call = excluded.last_call then a.count else a.count + excluded.count end,
        began_at = case when {{template "over" "$4"}} then now() else a.began_at end,
        flaps = case when not {{template "over" "$4"}} then a.flaps when a.cleared_at > now() - interval '2 hours' then least(a.flaps + 1, 5) else 0 end,
        seen_at = now(), cleared_at = null, last_call = excluded.last_call
    returning 1
), missing as (
    select fingerprint from {{.Schema}}.alerts a
    where not a.event and a.cleared_at is null and a.code = any ($2::text[]) and a.source = any ($3::text[])
      and a.fingerprint not in (select fingerprint from seen)
    for update skip locked
), cleared as (
    update {{.Schema}}.alerts set cleared_at = now() where fingerprint in (select fingerprint from missing)
), old as (
    select fingerprint from {{.Schema}}.alerts
    where seen_at < now() - interval '7 days' and fingerprint not in (select fingerprint from seen)
      and fingerprint not in (select fingerprint from missing)
    for update skip locked
), deleted as (
    delete from {{.Schema}}.alerts where fingerprint in (select fingerprint from old)
)
select count(*) from recorded;

-- name: take_alert_turn
-- $1 id of the process, $2 ms. Whether this process is the one that looks for problems of the whole installation, for so long. Locks: one row of
-- alert_receivers. Index: primary key.
with taken as (
    insert into {{.Schema}}.alert_receivers as r (receiver, lease, next_at) values ('', $1, now() + $2::bigint * interval '1 millisecond')
    on conflict (receiver) do update set lease = excluded.lease, next_at = excluded.next_at
    where r.lease = excluded.lease or r.next_at <= now()
    returning 1
)
select count(*) from taken;

-- name: claim_alerts
-- $1 receiver, $2 id of the call, $3 ms of its lease, $4 ms that a new problem waits for others, $5 ms after which an open one is told again, $6 ms after
-- which one is over that nobody sees, $7 codes (empty: all), $8 severities (empty: all), $9 limit. If the receiver has to be told something and may be sent to, leases it and
-- returns what: fingerprint, state, details, severity, source, since, until, count since it was told last, count, flaps, failures in a row. Locks: one row of
-- alert_receivers. Index: primary keys.
with known as (
    select max(created_at) as created_at from {{.Schema}}.alert_receivers where receiver = $1
), considered as (
    select a.*, t.told_at, coalesce(t.count, 0) as told_count,
           case
           when a.event then
               case when a.count > coalesce(t.count, 0) and coalesce(t.told_at <= now() - interval '10 minutes', true)
                     and a.seen_at > greatest(coalesce(known.created_at, now()) - interval '1 hour', now() - interval '1 day') then 'happened' end
           when a.cleared_at is null then
               case when t.told_at is null then 'new'
                    when a.seen_at <= now() - interval '30 minutes' then null -- nobody looks any more
                    when t.told_at <= now() - $5::bigint * interval '1 millisecond' then 'open'
                    when a.count > t.count and a.details @> '{"grows": true}' and t.told_at <= now() - interval '10 minutes' then 'more' end
           when {{template "over" "$6"}} then
               case when not t.resolved then 'resolved'
                    -- It would have been told if the receiver had worked.
                    when t.told_at is null and a.seen_at - a.began_at >= $4::bigint * interval '1 millisecond'
                     and a.began_at > coalesce(known.created_at, now()) and a.cleared_at > now() - interval '1 day' then 'resolved' end
           end as state,
           a.began_at <= now() - $4::bigint * interval '1 millisecond' as waited
    from {{.Schema}}.alerts a
    cross join known
    left join {{.Schema}}.alert_told t on t.receiver = $1 and t.fingerprint = a.fingerprint and (a.event or t.began_at = a.began_at)
    where (cardinality($7::text[]) = 0 or a.code = any ($7)) and (cardinality($8::text[]) = 0 or a.severity = any ($8))
), due as (
    select * from considered where state is not null
), receiver as (
    insert into {{.Schema}}.alert_receivers as r (receiver, lease, next_at)
    select $1, $2, now() + $3::bigint * interval '1 millisecond' where exists (select from due where state <> 'new' or waited)
    on conflict (receiver) do update set lease = excluded.lease, next_at = excluded.next_at
    where r.next_at <= now() or r.lease = excluded.lease
    returning failures
)
select fingerprint, state, details, severity, source, began_at, coalesce(cleared_at, seen_at), count - case when event then told_count else 0 end, count, flaps, failures
from due cross join receiver
order by state = 'resolved', array_position(array['error', 'warning', 'info'], severity), began_at, fingerprint
limit $9;

-- name: record_alerts
-- $1 receiver, $2 id of the call that leased it, $3 whether the message was accepted, $4 ms until the next one may be sent, $5 error, $6 what was told (a JSON
-- array). A lease that has gone to another call stays as it is. Returns the number of receivers. Locks: one row of alert_receivers, rows of alert_told. Index: primary keys.
with receiver as (
    update {{.Schema}}.alert_receivers
    set lease = null, next_at = now() + $4::bigint * interval '1 millisecond', error = nullif($5, ''),
        failures = case when $3 then 0 else failures + 1 end, sent_at = case when $3 then now() else sent_at end
    where receiver = $1 and lease = $2
    returning receiver
), told as (
    insert into {{.Schema}}.alert_told as t (receiver, fingerprint, began_at, count, resolved)
    select receiver.receiver, s.fingerprint, s.began_at, s.count, s.resolved
    from receiver
    cross join jsonb_to_recordset($6::jsonb) as s (fingerprint text, began_at timestamptz, count bigint, resolved boolean)
    join {{.Schema}}.alerts using (fingerprint)
    where $3
    order by s.fingerprint
    on conflict (receiver, fingerprint) do update
    set began_at = excluded.began_at, told_at = now(), count = excluded.count, resolved = excluded.resolved
)
select count(*) from receiver;
