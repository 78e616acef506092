-- Statements that correct what an audit found.

-- name: repair_refunds
-- $1 limit, $2 call. Pays the refunds that audit: missing_refund names, except those of the application's users (owe_refunds), and sets
-- credits_refunded where the run is the task's current one. Returns task, user, credits, balance after it. Locks: the tasks, then their users, in order.
with owing as (
    select t.task_id, c.run, c.user_id as payer, -c.amount as amount, t.run = c.run as current
    from {{.Schema}}.tasks t
    join {{.Schema}}.ledger c on c.task_id = t.task_id and c.kind = 'charge' and not c.external
    where (c.run < t.run or t.status in ('failed', 'cancelled'))
      and not exists (select from {{.Schema}}.ledger r where r.task_id = t.task_id and r.run = c.run and r.kind = 'refund')
    order by t.task_id
    limit $1
    for update of t skip locked
), noted as (
    update {{.Schema}}.tasks t set credits_refunded = owing.amount, updated_at = now()
    from owing where t.task_id = owing.task_id and owing.current
), balance as (
    insert into {{.Schema}}.credits as c (user_id, credits)
    select payer, sum(amount) from owing group by payer order by payer
    on conflict (user_id) do update set credits = c.credits + excluded.credits, updated_at = now()
    returning user_id, credits
), refunded as (
    insert into {{.Schema}}.ledger (user_id, task_id, run, kind, amount, balance_after, reason)
    select balance.user_id, owing.task_id, owing.run, 'refund', owing.amount,
           balance.credits - sum(owing.amount) over (partition by balance.user_id)
                           + sum(owing.amount) over (partition by balance.user_id order by owing.task_id, owing.run),
           'owed refund, paid by audit --repair'
    from owing join balance on balance.user_id = owing.payer
    order by balance.user_id, owing.task_id, owing.run
    returning task_id, user_id, amount, balance_after
), result as (
    select task_id, user_id, amount as credits, balance_after as balance, 0::bigint as age, false as missing_charge from refunded
), {{recordedTasks "$2"}}
select task_id, user_id, credits, balance, age, missing_charge, null::text from result;

-- name: owe_refunds
-- $1 limit. Puts the refunds of the application's users that audit: missing_refund names into the outbox. Returns task, user, credits, and the
-- columns of the statements above. Where the end itself was not written, it is owed, too: a row that is live shows no refund. A repeat finds nothing more. Locks: the tasks.
with owing as (
    select t.task_id, t.run, t.status, c.user_id, -c.amount as amount, t.bridge_state
    from {{.Schema}}.tasks t
    join {{.Schema}}.ledger c on c.task_id = t.task_id and c.run = t.run and c.kind = 'charge' and c.external
    where t.status in ('failed', 'cancelled') and not {{refundDone "c"}} and exists (select from {{.Schema}}.bridge)
      and not exists (select from {{.Schema}}.outbox o where o.task_id = t.task_id)
    order by t.task_id
    limit $1
    for update of t skip locked
), noted as (
    update {{.Schema}}.tasks t set bridge_state = 'owed', updated_at = now() from owing where t.task_id = owing.task_id
), owed as (
    insert into {{.Schema}}.outbox (task_id, run, state, parts)
    select task_id, run, status, case bridge_state when 'applied' then array['refund'] else array['close', 'refund'] end from owing
    returning task_id
)
select owing.task_id, owing.user_id, owing.amount, null::bigint, 0::bigint, false, null::text from owing join owed using (task_id);

-- name: resolve
-- $1 task, $2 credits to give the user, 0 or more, $3 reason. Settles a task that says it was charged and has no charge in the
-- ledger: an "adjust" row records the decision, and the task no longer says so. Returns user and balance; no row if the task is not
-- such a task. Locks: the task, then its user.
with target as (
    select t.task_id, t.user_id, t.run from {{.Schema}}.tasks t
    where t.task_id = $1 and {{missingCharge "t"}}
    for update
), settled as (
    update {{.Schema}}.tasks t set credits_deducted = 0, credits_refunded = 0, updated_at = now()
    from target where t.task_id = target.task_id
), balance as (
    insert into {{.Schema}}.credits as c (user_id, credits)
    select user_id, $2::bigint from target
    on conflict (user_id) do update set credits = c.credits + excluded.credits, updated_at = now()
    returning user_id, credits
)
insert into {{.Schema}}.ledger (user_id, task_id, run, kind, amount, balance_after, reason)
select target.user_id, target.task_id, target.run, 'adjust', $2::bigint, balance.credits, $3
from target join balance using (user_id)
returning user_id, balance_after;

-- name: resolved
-- $1 to $3 as in resolve. The result of an earlier call with the same arguments. Locks: none. Index: the ledger's unique index.
select user_id, balance_after from {{.Schema}}.ledger where task_id = $1 and kind = 'adjust' and amount = $2 and reason = $3 order by id desc limit 1;
