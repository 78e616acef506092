-- The proof of the money rules. Each statement returns the rows that break one rule: user, task,
-- what is wrong, and how many such rows there are in all. They run in one read-only snapshot, take no
-- locks, and read the whole tables: an audit is for a quiet hour or a replica.

-- name: audit: one charge and at most one refund for each task
-- The unique index is the rule; so the index itself is looked for, and what it would have refused.
with doubled as (
    select min(user_id::text) as user_id, task_id, kind, count(*) as times
    from {{.Ledger}} where task_id is not null
    group by task_id, kind having count(*) > 1
)
select user_id, task_id, kind || ' stands ' || times || ' times in the ledger', count(*) over () from doubled
union all
select '', '', 'the unique index on (task_id, kind) of the ledger is missing or invalid', 1
where not exists (
    select from pg_index i
    where i.indrelid = '{{.Ledger}}'::regclass and i.indisunique and i.indisvalid and i.indpred is null
      and (select array_agg(a.attname::text order by a.attname) from pg_attribute a
           where a.attrelid = i.indrelid and a.attnum = any (i.indkey::int2[])) = array['kind', 'task_id'])
limit 100;

-- name: audit: nothing is refunded that was not charged
select r.user_id::text, r.task_id,
       case when c.task_id is null then 'refund of ' || r.amount || ' without a charge'
            when c.user_id <> r.user_id then 'charged to ' || c.user_id || ', refunded to another'
            else 'charged ' || -c.amount || ', refunded ' || r.amount end,
       count(*) over ()
from {{.Ledger}} r
left join {{.Ledger}} c on c.task_id = r.task_id and c.kind = 'charge'
where r.kind = 'refund' and (c.task_id is null or c.user_id <> r.user_id or -c.amount <> r.amount)
order by r.id
limit 100;

-- name: audit: no task is refunded but a failed or cancelled one
select t.user_id::text, t.task_id, 'refunded while ' || t.status, count(*) over ()
from {{.Ledger}} r join {{.Tasks}} t on t.task_id = r.task_id
where r.kind = 'refund' and t.status not in ('failed', 'cancelled')
order by r.id
limit 100;

-- name: audit: every failed or cancelled task that was charged is refunded
select t.user_id::text, t.task_id, t.status || ', charged ' || -c.amount || ', not refunded', count(*) over ()
from {{.Tasks}} t
join {{.Ledger}} c on c.task_id = t.task_id and c.kind = 'charge'
where t.status in ('failed', 'cancelled')
  and not exists (select from {{.Ledger}} r where r.task_id = t.task_id and r.kind = 'refund')
order by t.task_id
limit 100;

-- name: audit: every task's columns say what the ledger says
-- Tasks that were never in the ledger (an application that doesn't charge) must claim nothing.
select t.user_id::text, t.task_id,
       'the task says charged ' || t.credits_deducted || ', refunded ' || t.credits_refunded
           || '; the ledger says ' || coalesce(l.charged, 0) || ' and ' || coalesce(l.refunded, 0),
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

-- name: audit: every balance is the sum of its ledger, and not negative
select coalesce(c.user_id, l.user_id)::text, '',
       'balance ' || coalesce(c.credits, 0) || ', the ledger sums to ' || coalesce(l.total, 0), count(*) over ()
from {{.Credits}} c
full join (select user_id, sum(amount) as total from {{.Ledger}} group by user_id) l using (user_id)
where coalesce(c.credits, 0) <> coalesce(l.total, 0) or c.credits < 0
order by 1
limit 100;

-- name: audit: every ledger row follows from the one before it
-- Rows that were added or taken out behind the ledger's back show here, even where sums agree.
with chain as (
    select id, user_id, task_id, amount, balance_after,
           coalesce(lag(balance_after) over (partition by user_id order by id), 0) as before
    from {{.Ledger}}
)
select user_id::text, coalesce(task_id, ''),
       'ledger row ' || id || ': ' || before || ' and ' || amount || ' do not make ' || balance_after, count(*) over ()
from chain
where before + amount <> balance_after
order by id
limit 100;
