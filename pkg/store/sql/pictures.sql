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

-- name: move_pictures
-- $1 tasks, $2 URLs, $3 names of pictures. The image_url of a completed task that names its picture becomes the URL. Returns those that have
-- it now, and whether each is a task of the bridge; a repeat returns the same. Locks: the tasks, in order. Index: primary key.
with given as (
    select * from unnest($1::text[], $2::text[], $3::text[]) as g (task_id, url, name)
),
held as (
    select t.task_id, given.url, t.bridge_state is not null as bridged
    from {{.Schema}}.tasks t join given on given.task_id = t.task_id
    where t.task_id = any ($1) and t.status = 'completed' and strpos(t.image_url, given.name) > 0
    order by t.task_id
    for update of t
),
moved as (
    update {{.Schema}}.tasks t
    set image_url = held.url
    from held
    where t.task_id = any ($1) and t.task_id = held.task_id and t.image_url <> held.url
    returning t.task_id
)
select task_id, bridged from held;
