-- The tail of every statement that ends a task without a picture: the task is closed and what was
-- charged for it goes back, at most once, in one statement. The refund's amount and user come from
-- the ledger's charge, not from the task's columns. A user whose row is missing gets one, for a
-- refund must never vanish. Users are locked in the order of user_id.
owed as (
    select target.task_id, charge.user_id, -charge.amount as amount
    from target
    join {{.Ledger}} charge on charge.task_id = target.task_id and charge.kind = 'charge'
    where not exists (
        select from {{.Ledger}} refund where refund.task_id = target.task_id and refund.kind = 'refund')
), closed as (
    update {{.Tasks}} t
    set (status, error_code, error_message, request_id) = row ('{{.State}}', {{.Code}}::text, {{.Message}}::text, {{.Request}}),
        credits_refunded = coalesce((select amount from owed where owed.task_id = t.task_id), t.credits_refunded),
        current_stage = 'closed',
        leased_by = null,
        lease_expires_at = null,
        completed_at = now(),
        updated_at = now()
    where t.task_id = any (array(select task_id from target))
    returning t.task_id
), balance as (
    insert into {{.Credits}} as c (user_id, credits)
    select user_id, sum(amount) from owed group by user_id order by user_id
    on conflict (user_id) do update set credits = c.credits + excluded.credits, updated_at = now()
    returning user_id, credits
), refunded as (
    insert into {{.Ledger}} (user_id, task_id, kind, amount, balance_after, reason)
    select owed.user_id, owed.task_id, 'refund', owed.amount,
           balance.credits - sum(owed.amount) over (partition by owed.user_id)
                           + sum(owed.amount) over (partition by owed.user_id order by owed.task_id),
           'task {{.State}}: ' || {{.Code}}::text
    from owed join balance using (user_id)
    order by owed.user_id, owed.task_id
    returning task_id, user_id, amount, balance_after
)
select target.task_id, target.user_id, coalesce(refunded.amount, 0), refunded.balance_after,
       (extract(epoch from now() - target.began) * 1000)::bigint
from target
left join refunded using (task_id)
