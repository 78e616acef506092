-- The application's interface for new tasks.

-- name: enqueue
-- $1 user, $2 tasks as a JSON array, $3 idempotency key (null: none). All or nothing.
-- Locks: the user's advisory lock, the key, the user's credits. Index: primary keys, "live".
select task_ids, balance from {{.Schema}}.enqueue_many($1, $2, $3);
