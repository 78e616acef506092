-- What holds for all processors. Each statement names the only row. Locks: that row.

-- name: control
-- Locks: none.
select user_concurrency, user_max_waiting, paused_at, coalesce(paused_by, ''), coalesce(paused_reason, ''),
       database_identity is distinct from {{.Schema}}.database_identity() from {{.Schema}}.control;

-- name: pause
-- $1 who, $2 reason, $3 whether the database was restored from a backup in its place, which it can't be seen by. A pause that is in force
-- stays as it is.
update {{.Schema}}.control
set paused_at = coalesce(paused_at, now()), paused_by = case when paused_at is null then $1 else paused_by end,
    paused_reason = case when paused_at is null then $2 else paused_reason end,
    database_identity = case when $3 then null else database_identity end
returning user_concurrency, user_max_waiting, paused_at, coalesce(paused_by, ''), coalesce(paused_reason, ''),
       database_identity is distinct from {{.Schema}}.database_identity();

-- name: resume
-- Ends a pause, and accepts that the database is another one than before. Wakes the processors.
with resumed as (
    update {{.Schema}}.control set paused_at = null, paused_by = null, paused_reason = null,
        accepted_at = case when database_identity = {{.Schema}}.database_identity() then accepted_at else now() end,
        database_identity = {{.Schema}}.database_identity()
    returning 1
)
select count(pg_notify({{literal .Channel}}, '')) from resumed;

-- name: set_limits
-- $1 USER_CONCURRENCY, $2 USER_MAX_WAITING. Returns whether they changed.
select {{.Schema}}.set_limits($1, $2);
