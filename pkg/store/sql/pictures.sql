-- What the picture store is compared with. Locks: none.

-- name: installation
select installation_id, picture_secret, database_identity is distinct from {{.Schema}}.database_identity() from {{.Schema}}.control;

-- name: picture_tasks
-- $1 tasks, $2 age in ms: whether they were closed so long ago. The limit keeps the planner from reading the whole table for many tasks.
-- Index: primary key.
select t.*
from unnest($1::text[]) as wanted (task_id)
cross join lateral (
    select t.task_id, t.run, t.status, coalesce(t.image_url, ''), t.forgotten_at is not null,
           coalesce(t.status in ('completed', 'failed', 'cancelled') and {{older "t.completed_at" "$2"}}, false)
    from {{.Schema}}.tasks t
    where t.task_id = wanted.task_id
    limit 1
) t;
