-- The audit: one statement for each money rule. The name after "audit:" is the code of the rule. Each statement returns
-- the rows that violate its rule: user, task, detail, and the total number of such rows. The statements run in one
-- read-only snapshot and take no locks. They read whole tables, so run an audit when load is low.

-- name: audit: duplicate_charge_or_refund
-- A run of a task has one charge and at most one refund. The unique index enforces this, so the statement checks that the
-- index exists, and looks for rows that it would have rejected.
with doubled as (
    select min(user_id) as user_id, task_id, run, kind, count(*) as times
    from {{.Schema}}.ledger where task_id is not null
    group by task_id, run, kind having count(*) > 1
)
select user_id, task_id, times || ' ledger entries of kind ' || kind || ' in run ' || run, count(*) over () from doubled
union all
select '', '', 'the unique index on (task_id, run, kind) of the ledger is missing or invalid', 1
where not exists (
    select from pg_index i
    where i.indrelid = {{literal (printf "%s.ledger" .Schema)}}::regclass and i.indisunique and i.indisvalid and i.indpred is null
      and (select array_agg(a.attname::text order by a.attname) from pg_attribute a
           where a.attrelid = i.indrelid and a.attnum = any (i.indkey::int2[])) = array['kind', 'run', 'task_id'])
limit 100;

-- name: audit: refund_without_charge
-- Every refund matches a charge: same task, same run, same user, same amount.
select r.user_id, r.task_id,
       case when c.task_id is null then 'refund of ' || r.amount || ' without a charge'
            when c.user_id <> r.user_id then 'charged to user ' || c.user_id || ', refunded to another user'
            else 'charged ' || -c.amount || ', refunded ' || r.amount end,
       count(*) over ()
from {{.Schema}}.ledger r
left join {{.Schema}}.ledger c on c.task_id = r.task_id and c.run = r.run and c.kind = 'charge'
where r.kind = 'refund' and (c.task_id is null or c.user_id <> r.user_id or -c.amount <> r.amount)
order by r.id
limit 100;

-- name: audit: refund_without_failure
-- Only runs that failed or were cancelled are refunded; an earlier run of a task has failed.
select t.user_id, t.task_id, 'run ' || r.run || ' is refunded, but the task is ' || t.status, count(*) over ()
from {{.Schema}}.ledger r join {{.Schema}}.tasks t on t.task_id = r.task_id
where r.kind = 'refund' and (r.run > t.run or (r.run = t.run and t.status not in ('failed', 'cancelled')))
order by r.id
limit 100;

-- name: audit: missing_refund
-- Every charged run that failed or was cancelled is refunded, or its refund is owed in the outbox, or the application ended it and an "adjust" row
-- of the run says so. audit --repair refunds it.
select t.user_id, t.task_id, 'run ' || c.run || case when c.run < t.run then ' failed' else ' is ' || t.status end
       || ', charged ' || -c.amount || ', not refunded', count(*) over ()
from {{.Schema}}.tasks t
join {{.Schema}}.ledger c on c.task_id = t.task_id and c.kind = 'charge'
where (c.run < t.run or t.status in ('failed', 'cancelled'))
  and not {{refundDone "c"}}
  and not exists (select from {{.Schema}}.outbox o where o.task_id = t.task_id and o.run = c.run)
order by t.task_id
limit 100;

-- name: audit: missing_charge
-- A task that says it was charged has a charge in the ledger. audit --resolve settles it.
select t.user_id, t.task_id, 'the task says it was charged ' || t.credits_deducted || ' in run ' || t.run
       || ', and the ledger has no charge', count(*) over ()
from {{.Schema}}.tasks t
where {{missingCharge "t"}}
order by t.task_id
limit 100;

-- name: audit: task_columns_mismatch
-- The columns credits_deducted and credits_refunded of every task match the ledger's entries of its run. Tasks without a charge
-- that say they were charged are in missing_charge.
select t.user_id, t.task_id,
       'task: charged ' || t.credits_deducted || ', refunded ' || t.credits_refunded
           || '; ledger: charged ' || coalesce(l.charged, 0) || ', refunded ' || coalesce(l.refunded, 0),
       count(*) over ()
from {{.Schema}}.tasks t
left join (
    select task_id, run, -coalesce(sum(amount) filter (where kind = 'charge'), 0) as charged,
           coalesce(sum(amount) filter (where kind = 'refund'), 0) as refunded
    from {{.Schema}}.ledger where kind in ('charge', 'refund') group by task_id, run
) l using (task_id, run)
where (t.credits_deducted <> coalesce(l.charged, 0) or t.credits_refunded <> coalesce(l.refunded, 0))
  and not {{missingCharge "t"}}
order by t.task_id
limit 100;

-- name: audit: balance_mismatch
-- Every balance is the sum of the user's ledger entries and is not negative. That of a user of the application is the sum of the external ones.
select coalesce(c.user_id, l.user_id), '',
       'balance ' || coalesce(c.credits, 0) || ', sum of the ledger ' || coalesce(l.total, 0), count(*) over ()
from {{.Schema}}.credits c
full join (select user_id, sum(amount) as total from {{.Schema}}.ledger where not external group by user_id) l using (user_id)
where coalesce(c.credits, 0) <> coalesce(l.total, 0) or c.credits < 0
union all
select coalesce(b.user_id, l.user_id), '',
       'balance of the application ' || coalesce(b.balance, 0) || ', sum of the ledger ' || coalesce(l.total, 0), count(*) over ()
from {{.Schema}}.bridged_users b
full join (select user_id, sum(amount) as total from {{.Schema}}.ledger where external group by user_id) l using (user_id)
where coalesce(b.balance, 0) <> coalesce(l.total, 0)
order by 1
limit 100;

-- name: audit: broken_ledger_chain
-- Each ledger entry continues from the balance of the entry before it. This finds entries that were inserted or deleted
-- by hand even if the sums still match.
with chain as (
    select id, user_id, task_id, amount, balance_after,
           coalesce(lag(balance_after) over (partition by user_id, external order by id), 0) as before
    from {{.Schema}}.ledger
)
select user_id, coalesce(task_id, ''),
       'ledger entry ' || id || ': balance before ' || before || ', amount ' || amount || ', balance after ' || balance_after,
       count(*) over ()
from chain
where before + amount <> balance_after
order by id
limit 100;
