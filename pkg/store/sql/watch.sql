-- What those who watch ask and say. Only the database's clock is used.

-- name: alive
-- $1 worker, $2 host, $3 pid, $4 version, $5 report as JSON. A processor's sign of life.
-- Locks: its own row. Index: primary key.
insert into {{.Processors}} as p (worker, host, pid, version, report)
values ($1, $2, $3, $4, $5)
on conflict (worker) do update set beat_at = now(), report = excluded.report
returning p.worker;

-- name: leave
-- $1 worker. A processor that stopped in order. Locks: its own row. Index: primary key.
delete from {{.Processors}} where worker = $1 returning worker;

-- name: processors
-- Those that live, and those that fell silent within a day. Locks: none. Reads the table: a row per process.
select worker, host, pid, version, started_at, beat_at,
       (extract(epoch from now() - beat_at) * 1000)::bigint, report
from {{.Processors}}
where beat_at > now() - interval '1 day'
order by beat_at desc;

-- name: forget
-- Removes processors that fell silent more than a day ago. Locks: their rows; skips what others hold.
delete from {{.Processors}}
where worker in (
    select worker from {{.Processors}} where beat_at < now() - interval '1 day' for update skip locked)
returning worker;

-- name: recent
-- $1 window in ms. What was closed in it, by state, with the median and the 95th percentile of the time
-- from the last claim, in ms. Locks: none. Index: "completed" (BRIN).
select status, count(*),
       coalesce(percentile_cont(0.5) within group (order by took), 0)::bigint,
       coalesce(percentile_cont(0.95) within group (order by took), 0)::bigint
from (
    select status, extract(epoch from completed_at - processing_started_at) * 1000 as took
    from {{.Tasks}}
    where completed_at > now() - $1 * interval '1 millisecond'
) closed
group by status;

-- name: refunds
-- Refunds of today, as the database's time zone has it: how many, and their credits.
-- Locks: none. Index: the ledger's time (BRIN).
select count(*), coalesce(sum(amount), 0)
from {{.Ledger}}
where created_at >= date_trunc('day', now()) and kind = 'refund';

-- name: failures
-- $1 window in ms. How many tasks failed in it, by error code, the most frequent first.
-- Locks: none. Index: "completed" (BRIN).
select coalesce(error_code, ''), count(*)
from {{.Tasks}}
where completed_at > now() - $1 * interval '1 millisecond' and status = 'failed'
group by 1
order by 2 desc, 1
limit 20;
