-- The application's interface for new tasks.

-- name: enqueue
-- $1 user, $2 tasks as a JSON array, $3 idempotency key. All or nothing.
-- Locks: the user's credits, the key. Index: primary keys, "live".
select task_ids, balance from {{.Schema}}.enqueue_many($1, $2, $3);
