-- The bridge to an application's tables: what the inbox and the outbox hold is worked by functions of the schema (migrations/0004_bridge.sql).

-- name: bridge_sync
-- $1 at most so many changes of balances and rows. Takes them from the inbox. Safe to repeat. Locks: the row of bridge, skipped if locked; tasks; users.
select {{.Schema}}.bridge_sync($1);

-- name: bridge_due
-- $1 limit. Tasks whose end is to be written to the application's tables now. Locks: none. Index: "due".
select task_id from {{.Schema}}.outbox
where next_try_at <= now() and exists (select from {{.Schema}}.bridge where active)
  and exists (select from {{.Schema}}.control c where c.database_identity = {{.Schema}}.database_identity())
order by next_try_at
limit $1;

-- name: bridge_apply
-- $1 task. Writes its end there, once; a repeat finds nothing to do. Locks: the task, its row and the balance in the application's tables, the user.
select result, coalesce(reason, ''), refunded from {{.Schema}}.bridge_apply($1);

-- name: bridge_progress
-- $1 tasks, $2 epochs, $3 percentages, $4 stages. Locks: the tasks' rows in the application's table, in order.
select {{.Schema}}.bridge_progress($1, $2, $3, $4);

-- name: bridge_reconcile
-- Notes in the inbox what differs and was not noted. Locks: the row of bridge, skipped if locked.
select {{.Schema}}.bridge_reconcile();

-- name: bridge_state
-- What waits: rows of the inbox, the age of the oldest in ms; ends to be written, of these failing, the age of the oldest that is not in ms; failures; lost
-- updates of a week; time of the application and of the last reconciliation. No row without a bridge. Locks: none.
select b.active, b.applied_at, b.checked_at,
       (select count(*) from {{.Schema}}.inbox), coalesce((select extract(epoch from now() - min(i.at)) * 1000 from {{.Schema}}.inbox i), 0)::bigint,
       (select count(*) from {{.Schema}}.outbox), (select count(*) from {{.Schema}}.outbox where tries > 0),
       coalesce((select extract(epoch from now() - min(o.created_at)) * 1000 from {{.Schema}}.outbox o where o.tries = 0), 0)::bigint,
       (select count(*) from {{.Schema}}.bridge_failures),
       (select count(*) from {{.Schema}}.lost_updates where at > now() - interval '7 days' and acknowledged_at is null)
from {{.Schema}}.bridge b;

-- name: bridge_problems
-- $1 limit. What the bridge could not do and tries again, the oldest first: part, key, SQLSTATE, reason, tries, since, next try. Locks: none.
select part, key, code, reason, tries, since, next_try_at
from (
    select part, key, code, reason, tries, since, next_try_at from {{.Schema}}.bridge_failures
    union all
    select coalesce(parts[1], 'close'), task_id, coalesce(error_code, ''), coalesce(error, ''), tries, created_at, next_try_at from {{.Schema}}.outbox where tries > 0
) problems
order by since
limit $1;

-- name: bridge_check
-- What differs between the two sides. Reads the application's live rows, and the latest closed ones. Locks: none.
select code, subject, detail, coalesce(id, 0) from {{.Schema}}.bridge_check();

-- name: acknowledge_lost_updates
-- $1 ids. They are no differences any more. Locks: the rows. Index: primary key.
update {{.Schema}}.lost_updates set acknowledged_at = coalesce(acknowledged_at, now()) where id = any ($1) returning id::text;
