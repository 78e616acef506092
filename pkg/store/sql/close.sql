-- The tail of every statement that ends a task without a picture: the task is closed and what was
-- charged for it goes back, at most once, in one statement. The refund's amount and user come from
-- the ledger's charge, not from the task's columns. A user whose row is missing gets one, for a
-- refund must never vanish. Users are locked in the order of user_id.
-- The lateral look at the ledger goes through its unique index row by row, whatever the planner
-- believes of the number of refunds ("offset 0" keeps it from turning that into a join).
closing as (
    select target.task_id, target.user_id, target.began, owed.payer, owed.amount
    from target
    left join lateral (
        select charge.user_id as payer, -charge.amount as amount
        from {{.Ledger}} charge
        where charge.task_id = target.task_id and charge.kind = 'charge'
          and not exists (
              select from {{.Ledger}} refund where refund.task_id = target.task_id and refund.kind = 'refund')
        offset 0
    ) owed on true
), closed as (
    update {{.Tasks}} t
    set (status, error_code, error_message, request_id) = row ('{{.State}}', {{.Code}}::text, {{.Message}}::text, {{.Request}}),
        credits_refunded = coalesce(closing.amount, t.credits_refunded),
        current_stage = 'closed',
        leased_by = null,
        lease_expires_at = null,
        completed_at = now(),
        updated_at = now()
    from closing
    where t.task_id = closing.task_id
    returning t.task_id
), balance as (
    insert into {{.Credits}} as c (user_id, credits)
    select payer, sum(amount) from closing where amount is not null group by payer order by payer
    on conflict (user_id) do update set credits = c.credits + excluded.credits, updated_at = now()
    returning user_id, credits
), refunded as (
    insert into {{.Ledger}} (user_id, task_id, kind, amount, balance_after, reason)
    select balance.user_id, closing.task_id, 'refund', closing.amount,
           balance.credits - sum(closing.amount) over (partition by balance.user_id)
                           + sum(closing.amount) over (partition by balance.user_id order by closing.task_id),
           'task {{.State}}: ' || {{.Code}}::text
    from closing join balance on balance.user_id = closing.payer
    order by balance.user_id, closing.task_id
    returning task_id, amount, balance_after
)
select closing.task_id, closing.user_id, coalesce(refunded.amount, 0), refunded.balance_after,
       (extract(epoch from now() - closing.began) * 1000)::bigint
from closing
left join refunded using (task_id)
