-- The least that fails and refunds all stuck tasks, in one statement: no call id, no check for refunds that were given before, no list of what was
-- done. It is the limit for the sweep of the Store, and its result passes the same audit.
with stuck as (
    select task_id, run, user_id, credits_deducted from imagetasks.tasks
    where status = 'processing' and processing_started_at < now() - interval '20 minutes'
    order by task_id
    for update
), closed as (
    update imagetasks.tasks t
    set status = 'failed', error_code = 'stuck', error_message = 'processing for longer than 20m0s', credits_refunded = stuck.credits_deducted,
        current_stage = 'closed', leased_by = null, lease_expires_at = null, completed_at = now(), updated_at = now()
    from stuck
    where t.task_id = stuck.task_id
), balance as (
    update imagetasks.credits c
    set credits = c.credits + owed.amount, updated_at = now()
    from (select user_id, sum(credits_deducted) as amount from stuck group by user_id) owed
    where c.user_id = owed.user_id
    returning c.user_id, c.credits
)
insert into imagetasks.ledger (user_id, task_id, run, kind, amount, balance_after, reason)
select balance.user_id, stuck.task_id, stuck.run, 'refund', stuck.credits_deducted,
       balance.credits - sum(stuck.credits_deducted) over (partition by balance.user_id)
                       + sum(stuck.credits_deducted) over (partition by balance.user_id order by stuck.task_id),
       'task failed: stuck'
from stuck join balance on balance.user_id = stuck.user_id
order by balance.user_id, stuck.task_id
