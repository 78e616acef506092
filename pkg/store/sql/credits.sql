-- Grants, balances and the ledger. A balance changes only by addition, in the same statement as its ledger row.

-- name: grant_credits
-- $1 user, $2 credits, $3 reason. Returns the new balance. Locks: the user's row. Index: primary key.
with balance as (
    insert into {{.Credits}} as c (user_id, credits)
    values ($1, $2)
    on conflict (user_id) do update set credits = c.credits + excluded.credits, updated_at = now()
    returning user_id, credits
)
insert into {{.Ledger}} (user_id, kind, amount, balance_after, reason)
select user_id, 'grant', $2, credits, $3 from balance
returning balance_after;

-- name: balance
-- $1 user. Locks: none. Index: primary key.
select credits from {{.Credits}} where user_id = $1;

-- name: ledger
-- $1 user, $2 limit. The user's ledger entries, the newest first. Locks: none. Index: the ledger's (user_id, id).
select kind, amount, balance_after, coalesce(task_id, ''), reason, created_at
from {{.Ledger}} where user_id = $1 order by id desc limit $2;
