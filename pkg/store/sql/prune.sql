-- Deletes what is not needed any more, in small batches. Locks: the deleted rows; rows locked by others are skipped. Each
-- statement returns how many rows it deleted, and records that under the id of the call.

-- The blocks say which rows are pruned; their argument is the age in ms.
{{define "inputs"}}t.status = 'failed' and t.input_count > 0 and {{older "t.completed_at" .}} and t.inputs_pruned_at is null{{end -}}
{{define "pending"}}{{older "p.saved_at" .}} and (t.run <> p.run or t.status not in ('pending', 'processing')){{end -}}
{{define "keys"}}{{older "created_at" .}} and function <> 'grant_credits'{{end -}}
{{define "set_aside"}}{{older "s.since" .}} and (t.status is null or t.status not in ('pending', 'processing')){{end -}}
{{define "events"}}{{older "created_at" .}} and (state = 'delivered' or created_at < now() - interval '30 days'){{end}}

-- name: prune_tasks
-- $1 age in ms, $2 limit, $3 call. Closed tasks; the ledger and the pictures stay. A task whose refund is owed, or whose charge is missing,
-- stays too: an audit could not find it any more. Index: "completed" (BRIN), the ledger's unique index.
with closed as (
    select t.task_id from {{.Schema}}.tasks t
    where {{older "t.completed_at" "$1"}} and t.status in ('completed', 'failed', 'cancelled')
      and not {{missingCharge "t"}} and t.bridge_state is distinct from 'owed'
      and not exists (
          select from {{.Schema}}.ledger c
          where c.task_id = t.task_id and c.kind = 'charge' and (c.run < t.run or t.status <> 'completed')
            and not {{refundDone "c"}})
    limit $2
    for update skip locked
), deleted as (
    delete from {{.Schema}}.tasks where task_id = any (array(select task_id from closed)) returning 1
), {{recordedCount "deleted" "$3"}};

-- name: prune_inputs
-- $1 age in ms, $2 limit, $3 call. Input pictures of tasks that failed so long ago. Index: "inputs".
with failed as (
    select t.task_id from {{.Schema}}.tasks t
    where {{template "inputs" "$1"}}
    limit $2
    for update skip locked
), deleted as (
    delete from {{.Schema}}.inputs where task_id = any (array(select task_id from failed))
), noted as (
    -- The update makes a redrive that read the row before fail, at any isolation level.
    update {{.Schema}}.tasks t set inputs_pruned_at = now() from failed where t.task_id = failed.task_id returning 1
), {{recordedCount "noted" "$3"}};

-- name: prune_pending
-- $1 age in ms, $2 limit, $3 call. Results to be fetched of runs that are closed. Index: primary keys.
with old as (
    select p.task_id from {{.Schema}}.pending_results p
    join {{.Schema}}.tasks t using (task_id)
    where {{template "pending" "$1"}}
    limit $2
    for update of p skip locked
), deleted as (
    delete from {{.Schema}}.pending_results where task_id = any (array(select task_id from old)) returning 1
), {{recordedCount "deleted" "$3"}};

-- name: prune_keys
-- $1 age in ms, $2 limit, $3 call. Keys of enqueue; those of grants are kept for ever. Index: "keys_time" (BRIN).
with old as (
    select function, user_id, key from {{.Schema}}.keys
    where {{template "keys" "$1"}}
    limit $2
), deleted as (
    delete from {{.Schema}}.keys k using old where k.function = old.function and k.user_id = old.user_id and k.key = old.key returning 1
), {{recordedCount "deleted" "$3"}};

-- name: prune_calls
-- $1 age in ms, $2 limit, $3 call. Index: "calls_time".
with old as (
    select call_id from {{.Schema}}.calls where {{older "created_at" "$1"}} order by created_at limit $2
), deleted as (
    delete from {{.Schema}}.calls where call_id = any (array(select call_id from old)) returning 1
), {{recordedCount "deleted" "$3"}};

-- name: prune_processors
-- $1 age in ms of the last heartbeat, $2 limit, $3 call.
with old as (
    select worker from {{.Schema}}.processors where {{older "beat_at" "$1"}} limit $2
), deleted as (
    delete from {{.Schema}}.processors where worker = any (array(select worker from old)) returning 1
), {{recordedCount "deleted" "$3"}};

-- name: prune_set_aside
-- $1 age in ms, $2 limit, $3 call. Notes on tasks that are closed or gone. Index: primary keys.
with old as (
    select s.task_id from {{.Schema}}.set_aside s
    left join {{.Schema}}.tasks t using (task_id)
    where {{template "set_aside" "$1"}}
    limit $2
), deleted as (
    delete from {{.Schema}}.set_aside where task_id = any (array(select task_id from old)) returning 1
), {{recordedCount "deleted" "$3"}};

-- name: prune_events
-- $1 age in ms, $2 limit, $3 call. Completion events that were delivered, and after 30 days all others. Index: "events_time".
with old as (
    select event_id, receiver from {{.Schema}}.events
    where {{template "events" "$1"}}
    order by created_at limit $2
    for update skip locked
), deleted as (
    delete from {{.Schema}}.events e using old where e.event_id = old.event_id and e.receiver = old.receiver returning 1
), {{recordedCount "deleted" "$3"}};

-- name: prunable
-- $1 age in ms of inputs, $2 of keys, $3 of calls, $4 of the last heartbeat, $5 of events. Whether a statement above would find rows: inputs, keys,
-- calls, processors, notes on tasks that were set aside, results to be fetched, events. Locks: none. Index: "inputs", "keys_time" (BRIN),
-- "calls_time", "events_time"; the other tables are short.
select exists (select from {{.Schema}}.tasks t where {{template "inputs" "$1"}}),
       exists (select from {{.Schema}}.keys where {{template "keys" "$2"}}),
       exists (select from {{.Schema}}.calls where {{older "created_at" "$3"}}),
       exists (select from {{.Schema}}.processors where {{older "beat_at" "$4"}}),
       exists (select from {{.Schema}}.set_aside s left join {{.Schema}}.tasks t using (task_id) where {{template "set_aside" "0"}}),
       exists (select from {{.Schema}}.pending_results p join {{.Schema}}.tasks t using (task_id) where {{template "pending" "0"}}),
       exists (select from {{.Schema}}.events where {{template "events" "$5"}});

-- name: recorded_count
-- $1 call. What a statement above recorded. Index: primary key.
select (result ->> 'count')::int from {{.Schema}}.calls where call_id = $1;
