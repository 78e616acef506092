-- What holds for all processors. Each statement names the only row. Locks: that row.
-- The columns of a Control.
{{define "control" -}}
user_concurrency, user_max_waiting, paused_at, coalesce(paused_by, ''), coalesce(paused_reason, ''),
       database_identity is distinct from {{.Schema}}.database_identity(), pauses::text
{{- end}}

-- name: control
-- Locks: none.
select {{template "control" .}} from {{.Schema}}.control;

-- name: pause
-- $1 who, $2 reason, $3 whether the database was restored from a backup in its place, which it can't be seen by, $4 the id of the operation. A pause
-- that is in force stays as it is. Locks: the row. Index: none, one row.
with was as (
    select paused_at is not null as paused from {{.Schema}}.control
), changed as (
    update {{.Schema}}.control
    set paused_at = coalesce(paused_at, now()), paused_by = case when paused_at is null then $1 else paused_by end,
        paused_reason = case when paused_at is null then $2 else paused_reason end,
        database_identity = case when $3 then null else database_identity end
    returning *
), noted as (
    {{operation "$4" "$1" "'pause'" "''" "case when $3 then 'restored: ' else '' end || $2::text" "case when was.paused then 'was paused' else 'paused' end" "was cross join changed"}}
)
select {{template "control" .}} from changed;

-- name: resume
-- $1 the id of the operation (null: it is not noted), $2 who. Ends the pause of the queue, and accepts that the database is another one than before.
-- Pauses of endpoints and models stay. Wakes the processors. Locks: the row. Index: none, one row.
with was as (
    select paused_at is not null as paused from {{.Schema}}.control
), resumed as (
    update {{.Schema}}.control set paused_at = null, paused_by = null, paused_reason = null,
        accepted_at = case when database_identity = {{.Schema}}.database_identity() then accepted_at else now() end,
        database_identity = {{.Schema}}.database_identity()
    returning 1
), noted as (
    {{operation "$1" "$2" "'resume'" "''" "''" "case when was.paused then 'resumed' else 'was not paused' end" "was cross join resumed"}}
)
select count(pg_notify({{literal .Channel}}, '')) from resumed;

-- name: pause_scope
-- $1 endpoint or model, $2 its name, $3 who, $4 reason, of which the beginning is kept, because each claim reads the row, $5 the id of the operation. A pause
-- that is in force stays as it is. Locks: the row.
-- Index: none, one row.
with was as (
    select {{paused "pauses" "$1" "$2"}} as paused from {{.Schema}}.control
), changed as (
    update {{.Schema}}.control
    set pauses = case when {{paused "pauses" "$1" "$2"}} then pauses
                      else pauses || jsonb_build_array(jsonb_build_object('scope', $1::text, 'name', $2::text, 'since', now(), 'by', left($3::text, 500), 'reason', left($4::text, 500))) end
    returning *
), noted as (
    {{operation "$5" "$3" "'pause ' || $1::text" "$2" "$4" "case when was.paused then 'was paused' else 'paused' end" "was cross join changed"}}
)
select {{template "control" .}} from changed;

-- name: resume_scope
-- $1 endpoint or model (null: all of both), $2 its name, $3 the id of the operation, $4 who. Returns whether a pause was in force, and wakes the
-- processors. Locks: the row. Index: none, one row, and the unique one of operation_id.
with was as (
    select (select count(*) from jsonb_array_elements(pauses) p where $1::text is null or p ->> 'scope' = $1 and p ->> 'name' = $2) as paused
    from {{.Schema}}.control
), resumed as (
    update {{.Schema}}.control
    set pauses = coalesce((select jsonb_agg(p order by position) from jsonb_array_elements(pauses) with ordinality as given (p, position)
                           where $1::text is not null and (p ->> 'scope' <> $1 or p ->> 'name' <> $2)), '[]')
    returning 1
), noted as (
    {{operation "$3" "$4" "'resume ' || coalesce($1::text, 'endpoints and models')" "coalesce($2::text, '')" "''" "case was.paused when 0 then 'was not paused' else 'resumed' end" "was cross join resumed"}}
)
-- A repeat tells what the first call did.
select was.paused > 0 or exists (select from {{.Schema}}.operations o where o.operation_id = $3::uuid and o.result = 'resumed'),
       pg_notify({{literal .Channel}}, '')::text
from was cross join resumed;

-- name: set_limits
-- $1 USER_CONCURRENCY, $2 USER_MAX_WAITING. Returns whether they changed.
select {{.Schema}}.set_limits($1, $2);
