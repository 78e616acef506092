-- Processors and their heartbeats. Only the database's clock is used.

-- name: record_heartbeat
-- $1 worker, $2 host, $3 pid, $4 version, $5 report as JSON, $6 tasks at a time, $7 seconds a task (null: none yet), $8 version of the schema that it
-- works with. Inserts the processor or updates its heartbeat and report.
-- Locks: the processor's row. Index: primary key.
insert into {{.Schema}}.processors as p (worker, host, pid, version, report, capacity, task_seconds, schema_version)
values ($1, $2, $3, $4, $5, $6, $7, $8)
on conflict (worker) do update set beat_at = now(), report = excluded.report, capacity = excluded.capacity,
    task_seconds = coalesce(excluded.task_seconds, p.task_seconds)
returning p.worker;

-- name: deregister
-- $1 worker. Deletes a processor that has stopped. Locks: the processor's row. Index: primary key.
delete from {{.Schema}}.processors where worker = $1 returning worker;

-- name: processors
-- Processors with a heartbeat within the last day, the latest heartbeat first.
-- Locks: none. Reads the whole table, which has one row per process.
select worker, host, pid, version, started_at, beat_at,
       (extract(epoch from now() - beat_at) * 1000)::bigint, report
from {{.Schema}}.processors
where beat_at > now() - interval '1 day'
order by beat_at desc;
