-- Charging for new tasks and inserting them.

-- name: enqueue
-- $1 user, $2 task ids, $3 cost of each, $4 prompt, $5 style, $6 aspect ratio, $7 model, $8 input picture,
-- $9 max_attempts. All or nothing: if the balance does not cover all tasks, nothing is inserted.
-- Locks: the user's row; the balance is checked again after the row is locked. Index: primary key.
with given as (
    select task_id, n from unnest($2::text[]) with ordinality as g (task_id, n)
), paid as (
    update {{.Credits}}
    set credits = credits - $3::bigint * cardinality($2::text[]), updated_at = now()
    where user_id = $1 and credits >= $3::bigint * cardinality($2::text[])
    returning user_id, credits + $3::bigint * cardinality($2::text[]) as before
), tasks as (
    insert into {{.Tasks}} (task_id, user_id, prompt, style, aspect_ratio, model, image_base64, max_attempts,
                            credits_cost, credits_deducted)
    select given.task_id, paid.user_id, $4, nullif($5, ''), nullif($6, ''), nullif($7, ''), nullif($8, ''),
           nullif($9::int, 0), $3::bigint, $3::bigint
    from paid, given
    returning task_id
)
insert into {{.Ledger}} (user_id, task_id, kind, amount, balance_after, reason)
select paid.user_id, given.task_id, 'charge', -$3::bigint, paid.before - $3::bigint * given.n, 'task enqueued'
from paid, given
order by given.n
returning task_id;
