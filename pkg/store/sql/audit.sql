-- The audit: one statement for each money rule. The name after "audit:" is the code of the rule. Each statement returns
-- the rows that violate its rule: user, task, detail, and the total number of such rows. The statements run in one
-- read-only snapshot and take no locks. They read whole tables, so run an audit when load is low, or on a replica.

-- name: audit: duplicate_charge_or_refund
-- A task has one charge and at most one refund. The unique index enforces this, so the statement checks that the
-- index exists, and looks for rows that it would have rejected.
with doubled as (
    select min(user_id::text) as user_id, task_id, kind, count(*) as times
    from {{.Ledger}} where task_id is not null
    group by task_id, kind having count(*) > 1
)
select user_id, task_id, times || ' ledger entries of kind ' || kind, count(*) over () from doubled
union all
select '', '', 'the unique index on (task_id, kind) of the ledger is missing or invalid', 1
where not exists (
    select from pg_index i
    where i.indrelid = '{{.Ledger}}'::regclass and i.indisunique and i.indisvalid and i.indpred is null
      and (select array_agg(a.attname::text order by a.attname) from pg_attribute a
           where a.attrelid = i.indrelid and a.attnum = any (i.indkey::int2[])) = array['kind', 'task_id'])
limit 100;

-- name: audit: refund_without_charge
-- Every refund matches a charge: same task, same user, same amount.
select r.user_id::text, r.task_id,
       case when c.task_id is null then 'refund of ' || r.amount || ' without a charge'
            when c.user_id <> r.user_id then 'charged to user ' || c.user_id || ', refunded to another user'
            else 'charged ' || -c.amount || ', refunded ' || r.amount end,
       count(*) over ()
from {{.Ledger}} r
left join {{.Ledger}} c on c.task_id = r.task_id and c.kind = 'charge'
where r.kind = 'refund' and (c.task_id is null or c.user_id <> r.user_id or -c.amount <> r.amount)
order by r.id
limit 100;

-- name: audit: refund_without_failure
-- Only failed or cancelled tasks are refunded.
select t.user_id::text, t.task_id, 'refunded, but the task is ' || t.status, count(*) over ()
from {{.Ledger}} r join {{.Tasks}} t on t.task_id = r.task_id
where r.kind = 'refund' and t.status not in ('failed', 'cancelled')
order by r.id
limit 100;

-- name: audit: missing_refund
-- Every charged task that failed or was cancelled is refunded.
select t.user_id::text, t.task_id, t.status || ', charged ' || -c.amount || ', not refunded', count(*) over ()
from {{.Tasks}} t
join {{.Ledger}} c on c.task_id = t.task_id and c.kind = 'charge'
where t.status in ('failed', 'cancelled')
  and not exists (select from {{.Ledger}} r where r.task_id = t.task_id and r.kind = 'refund')
order by t.task_id
limit 100;

-- name: audit: task_columns_mismatch
-- The columns credits_deducted and credits_refunded of every task match the ledger. For tasks without ledger entries
-- (an application that does not charge) both must be 0.
select t.user_id::text, t.task_id,
       'task: charged ' || t.credits_deducted || ', refunded ' || t.credits_refunded
           || '; ledger: charged ' || coalesce(l.charged, 0) || ', refunded ' || coalesce(l.refunded, 0),
       count(*) over ()
from {{.Tasks}} t
left join (
    select task_id, -coalesce(sum(amount) filter (where kind = 'charge'), 0) as charged,
           coalesce(sum(amount) filter (where kind = 'refund'), 0) as refunded
    from {{.Ledger}} where task_id is not null group by task_id
) l using (task_id)
where t.credits_deducted <> coalesce(l.charged, 0) or t.credits_refunded <> coalesce(l.refunded, 0)
order by t.task_id
limit 100;

-- name: audit: balance_mismatch
-- Every balance is the sum of the user's ledger entries and is not negative.
select coalesce(c.user_id, l.user_id)::text, '',
       'balance ' || coalesce(c.credits, 0) || ', sum of the ledger ' || coalesce(l.total, 0), count(*) over ()
from {{.Credits}} c
full join (select user_id, sum(amount) as total from {{.Ledger}} group by user_id) l using (user_id)
where coalesce(c.credits, 0) <> coalesce(l.total, 0) or c.credits < 0
order by 1
limit 100;

-- name: audit: broken_ledger_chain
-- Each ledger entry continues from the balance of the entry before it. This finds entries that were inserted or deleted
-- by hand even if the sums still match.
with chain as (
    select id, user_id, task_id, amount, balance_after,
           coalesce(lag(balance_after) over (partition by user_id order by id), 0) as before
    from {{.Ledger}}
)
select user_id::text, coalesce(task_id, ''),
       'ledger entry ' || id || ': balance before ' || before || ', amount ' || amount || ', balance after ' || balance_after,
       count(*) over ()
from chain
where before + amount <> balance_after
order by id
limit 100;
