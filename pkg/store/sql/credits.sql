-- Grants, balances and the ledger. A balance changes only by addition, in the same statement as its ledger row.

-- name: grant_credits
-- $1 user, $2 credits, $3 reason, $4 idempotency key, $5 the id of the operation (null: it is not noted), $6 who. Returns the balance.
-- Locks: the key, the user's row. Index: primary keys.
with was as (
    select exists (select from {{.Schema}}.keys where function = 'grant_credits' and user_id = '' and key = $4) as granted
), done as materialized (
    select {{.Schema}}.grant_credits($1, $2, $3, $4) as balance
), noted as (
    {{operation "$5" "$6" "'grant'" "$1" "$2::bigint || ' credits: ' || $3::text" "case when was.granted then 'was granted, ' else '' end || 'balance ' || balance" "was cross join done"}}
)
select balance from done;

-- name: balance
-- $1 user. Locks: none. Index: primary key.
select {{.Schema}}.balance($1);

-- name: ledger
-- $1 user, $2 limit. The user's ledger entries, the newest first. Locks: none. Index: the ledger's (user_id, id).
select kind, amount, balance_after, coalesce(task_id, ''), coalesce(run, 0), reason, created_at
from {{.Schema}}.ledger where user_id = $1 order by id desc limit $2;
