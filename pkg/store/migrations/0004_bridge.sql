-- compatible with: 4
--
-- The bridge to an application that has tables of its own: what happens there is noted in an inbox, what happens here is written there from an
-- outbox. Nothing here names a table of the application: "task-processor adopt" generates functions with names that begin with app_, which
-- do (docs/adopting.md), and the triggers on the application's tables, which only fill the inbox.
--
-- Lock order: the row of bridge, tasks, rows of the application (its task, then its balance), rows of bridged_users, the ledger. Nothing of
-- the application ever waits for a lock of ours, and ours give up after a moment, before a deadlock is looked for.

-- In the order of an application that enqueues in a transaction of its own, as in version 2.
lock table {{.Schema}}.credits, {{.Schema}}.tasks, {{.Schema}}.ledger in access exclusive mode;

alter table {{.Schema}}.tasks
    add column bridge_state text check (bridge_state in ('live', 'owed', 'applied', 'superseded')),
    add column bridge_refunds bigint,
    add column bridge_deleted boolean;
comment on column {{.Schema}}.tasks.bridge_state is
    'null: a task of ours alone. live: its row in the application''s table follows it; owed: its end is still to be written there; applied: it was; superseded: the application had closed or deleted the row';
comment on column {{.Schema}}.tasks.bridge_refunds is 'how many refunds the application''s log had for the task when it was redriven last: they are of earlier runs';
comment on column {{.Schema}}.tasks.bridge_deleted is 'the application deleted the row: one with the same key is a new one';
create index tasks_bridged on {{.Schema}}.tasks (task_id) where bridge_state in ('live', 'owed');

-- External entries are of users whose balance is in the application's table, which may be negative.
alter table {{.Schema}}.ledger add column external boolean not null default false;
comment on column {{.Schema}}.ledger.external is 'the balance is in a table of the application; balance_after follows it';
alter table {{.Schema}}.ledger drop constraint ledger_balance_after_check;
-- The rows that exist passed the check that it replaces.
alter table {{.Schema}}.ledger add constraint ledger_balance_after_check check (balance_after >= 0 or external) not valid;
create index ledger_external on {{.Schema}}.ledger (user_id, id) where external;

-- Programs of version 3 don't set it: adopt waits until none runs.
alter table {{.Schema}}.processors add column schema_version integer;

-- What adopt has applied; no row: there is no bridge. The row is also the lock of those who read the inbox.
create table {{.Schema}}.bridge (
    only_row    boolean primary key default true check (only_row),
    description jsonb not null,
    moving      text not null check (moving in ('wait', 'requeue', 'fail')), -- what becomes of rows that the application has set to processing
    refunds     boolean not null,  -- app_refund gives credits back
    charges     boolean not null,  -- app_charge takes credits
    balances    boolean not null,  -- app_balances shows them
    history     boolean not null,  -- app_history writes a row for each picture
    shows_charges boolean not null, -- by a column or a log: app_rows tells whether a row was charged
    shows_refunds boolean not null, -- app_rows tells whether a row was refunded
    decimals    integer not null check (decimals between 0 and 6), -- our unit is 10^-decimals of their credit
    triggers    jsonb not null default '[]', -- those that note changes: [table, name]; each partition has its own
    active      boolean not null default false,
    applied_at  timestamptz not null default now(),
    checked_at  timestamptz        -- of the last bridge_reconcile
);

-- What has happened in the application's tables: keys of tasks to look at, and changes of balances. Its triggers insert into it. No constraint
-- may refuse a row, and nothing may wait.
create table {{.Schema}}.inbox (
    id     bigint generated always as identity,
    kind   text,     -- task, balance, or missed: something was not noted
    key    text,     -- of the task, or the user
    before numeric,  -- the balance, in the application's unit; null: there was no row
    after  numeric,
    ours   boolean not null default false, -- it is a change by bridge_apply or redrive
    xid    xid8 default pg_current_xact_id(),
    at     timestamptz default clock_timestamp()
);
create index inbox_order on {{.Schema}}.inbox (kind, id);
create index inbox_xid on {{.Schema}}.inbox (xid);
alter table {{.Schema}}.inbox set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
    vacuum_truncate = off); -- it takes a lock that the application's statements would meet

-- Ends of tasks that are still to be written to the application's tables.
create table {{.Schema}}.outbox (
    task_id     text primary key references {{.Schema}}.tasks on delete cascade,
    run         integer not null,
    state       text not null check (state in ('completed', 'failed', 'cancelled')),
    parts       text[] not null, -- what is left to do: close, refund, history
    created_at  timestamptz not null default now(),
    tries       integer not null default 0,
    next_try_at timestamptz not null default now(),
    error_code  text,            -- SQLSTATE of the last failure
    error       text
);
create index outbox_due on {{.Schema}}.outbox (next_try_at);

-- Users whose balance is in the application's table. A row is also the lock of its user.
create table {{.Schema}}.bridged_users (
    user_id text primary key,
    balance bigint not null default 0, -- after the user's last entry in the ledger
    seen    numeric,                   -- the balance after the last change that was read from the inbox, in the application's unit
    seen_at timestamptz
);

-- What the bridge wrote to balances in the last hour.
create table {{.Schema}}.bridge_writes (
    id      bigint primary key, -- that of its row in the inbox: their order is that of the changes of one balance
    user_id text not null,
    amount  bigint not null,
    before  numeric,
    after   numeric,
    at      timestamptz not null
);
create index bridge_writes_user on {{.Schema}}.bridge_writes (user_id, id);

-- Which change of a balance a run explains, of the last hour: its charge, or the application's refund, explains one change.
create table {{.Schema}}.bridge_explained (
    task_id text not null,
    run     integer not null,
    kind    text not null check (kind in ('charge', 'refund')),
    at      timestamptz not null,
    primary key (task_id, run, kind)
);

-- What the bridge could not do, by what it is (take, balance, progress, triggers, bridge) and the row's key or the table. It is tried again, and deleted
-- when it worked.
create table {{.Schema}}.bridge_failures (
    part        text not null,
    key         text not null,
    code        text not null, -- SQLSTATE, or refused
    reason      text not null,
    tries       integer not null default 1,
    since       timestamptz not null default now(),
    next_try_at timestamptz not null default now() + interval '5 seconds',
    primary key (part, key)
);

-- Balances that the application set soon after the bridge had changed them, to a value that no task explains: it may have read the balance before
-- and written it back.
create table {{.Schema}}.lost_updates (
    id      bigint generated always as identity primary key,
    user_id text not null,
    at      timestamptz not null,
    before  numeric,
    after   numeric,
    ours    jsonb not null, -- the writes of the bridge in the time before, the latest first: amount, before, after, at
    note    text not null,
    acknowledged_at timestamptz
);

alter table {{.Schema}}.bridge enable row level security;
alter table {{.Schema}}.inbox enable row level security;
alter table {{.Schema}}.outbox enable row level security;
alter table {{.Schema}}.bridged_users enable row level security;
alter table {{.Schema}}.bridge_writes enable row level security;
alter table {{.Schema}}.bridge_explained enable row level security;
alter table {{.Schema}}.bridge_failures enable row level security;
alter table {{.Schema}}.lost_updates enable row level security;

-- The end of a bridged task is written to the outbox in the statement that closes the task, whichever that is.
create function {{.Schema}}.owe_application() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    new.bridge_state := 'owed';
    insert into {{.Schema}}.outbox (task_id, run, state, parts)
    values (new.task_id, new.run, new.status, case new.status when 'completed' then array['close', 'history'] else array['close', 'refund'] end)
    on conflict (task_id) do update
    set run = excluded.run, state = excluded.state, parts = excluded.parts, created_at = now(), tries = 0, next_try_at = now(), error_code = null, error = null;
    return new;
end
$$;
create trigger owe_application before update of status on {{.Schema}}.tasks for each row
    when (new.bridge_state = 'live' and old.status in ('pending', 'processing') and new.status in ('completed', 'failed', 'cancelled'))
    execute function {{.Schema}}.owe_application();

-- As in version 1, except that the lock of a user whose balance is the application's is the row in bridged_users.
create or replace function {{.Schema}}.lock_user(user_id text) returns void
language plpgsql volatile as $$
#variable_conflict use_column
begin
    perform from {{.Schema}}.credits c where c.user_id = lock_user.user_id for no key update;
    if not found then
        perform from {{.Schema}}.bridged_users b where b.user_id = lock_user.user_id for no key update;
    end if;
    if not found then
        insert into {{.Schema}}.credits (user_id) values (lock_user.user_id) on conflict do nothing;
        perform from {{.Schema}}.credits c where c.user_id = lock_user.user_id for no key update;
    end if;
end
$$;

-- As in version 1, except that credits of the application's users can't be used here.
create or replace function {{.Schema}}.charge(user_id text, amount bigint) returns bigint
language plpgsql volatile as $$
#variable_conflict use_column
declare
    balance bigint;
begin
    if amount > 0 then
        update {{.Schema}}.credits c set credits = c.credits - amount, updated_at = now()
        where c.user_id = charge.user_id and c.credits >= amount
        returning c.credits into balance;
        if found then
            return balance;
        end if;
        if exists (select from {{.Schema}}.bridge) and exists (select from {{.Schema}}.bridged_users b where b.user_id = charge.user_id) then
            perform {{.Schema}}.refuse('the credits of this user are in a table of the application',
                                       'Insert the task into the application''s table, or enqueue it at cost 0.');
        end if;
    end if;
    select c.credits into balance from {{.Schema}}.credits c where c.user_id = charge.user_id;
    balance := coalesce(balance, 0);
    if amount > 0 then
        raise exception 'insufficient credits: the balance is %, needed are %', balance, amount
            using errcode = 'IT001', detail = json_build_object('balance', balance, 'needed', amount)::text;
    end if;
    return balance;
end
$$;

-- As in version 1, except for users whose credits are in a table of the application.
create or replace function {{.Schema}}.grant_credits(
    user_id text, credits bigint default null, reason text default '', idempotency_key text default null) returns bigint
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    result jsonb;
    balance bigint;
begin
    perform {{.Schema}}.check_id('user_id', grant_credits.user_id);
    if grant_credits.credits is null or grant_credits.credits not between 1 and 1000000000000 then
        perform {{.Schema}}.refuse('credits must be an integer from 1 to 1000000000000');
    elsif grant_credits.idempotency_key is null then
        perform {{.Schema}}.refuse('idempotency_key is missing', 'Use the number of the payment or order, so that a repeated callback grants once.');
    elsif reason is null or char_length(reason) > 1000 then
        perform {{.Schema}}.refuse('reason must be text of at most 1000 characters');
    elsif exists (select from {{.Schema}}.bridge) and exists (select from {{.Schema}}.bridged_users b where b.user_id = grant_credits.user_id) then
        perform {{.Schema}}.refuse('the credits of this user are in a table of the application', 'Change them there.');
    end if;
    perform {{.Schema}}.lock_user(grant_credits.user_id);
    result := {{.Schema}}.first_result('grant_credits', '', grant_credits.idempotency_key,
        jsonb_build_object('user_id', grant_credits.user_id, 'credits', grant_credits.credits, 'reason', reason));
    if result is not null then
        return (result ->> 'balance')::bigint;
    end if;
    insert into {{.Schema}}.credits as c (user_id, credits)
    values (grant_credits.user_id, grant_credits.credits)
    on conflict (user_id) do update set credits = c.credits + excluded.credits, updated_at = now()
    returning c.credits into balance;
    if balance > 1000000000000000 then
        raise exception 'the balance would be more than 1000000000000000 credits' using errcode = 'IT007';
    end if;
    insert into {{.Schema}}.ledger (user_id, kind, amount, balance_after, reason)
    values (grant_credits.user_id, 'grant', grant_credits.credits, balance, grant_credits.reason);
    perform {{.Schema}}.keep_result('grant_credits', '', grant_credits.idempotency_key, jsonb_build_object('balance', balance));
    return balance;
end
$$;

-- A user's credits; 0 for a user who never had any. Of users of the application, what its table says.
create or replace function {{.Schema}}.balance(user_id text) returns bigint
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
    if exists (select from {{.Schema}}.bridged_users b where b.user_id = balance.user_id)
       and exists (select from {{.Schema}}.bridge b where b.active and b.balances) then
        return coalesce((select a.balance from {{.Schema}}.app_balances(array[balance.user_id]) a), 0);
    end if;
    return coalesce((select c.credits from {{.Schema}}.credits c where c.user_id = balance.user_id), 0);
end
$$;

-- As in version 1. Of a bridged task the refund is owed: bridge_apply gives it when it writes the end to the application's table. refunded counts it.
create or replace function {{.Schema}}.cancel(
    task_id text, user_id text default null, out status text, out refunded bigint, out balance bigint, out missing_charge boolean)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    t {{.Schema}}.tasks;
    payment {{.Schema}}.ledger;
begin
    perform {{.Schema}}.check_id('task_id', cancel.task_id);
    select * into t from {{.Schema}}.tasks x
    where x.task_id = cancel.task_id and (cancel.user_id is null or x.user_id = cancel.user_id)
    for update;
    if not found then
        raise exception 'there is no such task' using errcode = 'IT004';
    end if;
    select * into payment from {{.Schema}}.ledger l where l.task_id = t.task_id and l.run = t.run and l.kind = 'charge';
    if t.status in ('pending', 'processing') then
        if payment.id is not null and not payment.external and not exists (
            select from {{.Schema}}.ledger l where l.task_id = t.task_id and l.run = t.run and l.kind = 'refund'
        ) then
            insert into {{.Schema}}.credits as c (user_id, credits) values (payment.user_id, - payment.amount)
            on conflict (user_id) do update set credits = c.credits + excluded.credits, updated_at = now()
            returning c.credits into balance;
            insert into {{.Schema}}.ledger (user_id, task_id, run, kind, amount, balance_after, reason)
            values (payment.user_id, t.task_id, t.run, 'refund', - payment.amount, balance, 'task cancelled');
        end if;
        delete from {{.Schema}}.inputs i where i.task_id = t.task_id;
        update {{.Schema}}.tasks x
        set status = 'cancelled', credits_refunded = case when payment.external then x.credits_refunded else coalesce(- payment.amount, x.credits_refunded) end,
            current_stage = 'closed', error_code = 'cancelled', error_message = 'cancelled', leased_by = null, lease_expires_at = null,
            completed_at = now(), updated_at = now()
        where x.task_id = t.task_id;
        status := 'cancelled';
    else
        status := t.status;
    end if;
    select coalesce(sum(l.amount), 0) into refunded from {{.Schema}}.ledger l
    where l.task_id = t.task_id and l.run = t.run and l.kind = 'refund';
    if payment.external and refunded = 0 and exists (select from {{.Schema}}.outbox o where o.task_id = t.task_id and o.run = t.run) then
        refunded := - payment.amount; -- owed
    end if;
    balance := {{.Schema}}.balance(t.user_id);
    missing_charge := t.credits_deducted > 0 and payment.id is null;
end
$$;

-- As in version 2. A bridged task is charged in the application's table, where its row becomes pending again.
create or replace function {{.Schema}}.redrive(task_id text, run int default null, out new_run int, out balance bigint)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    t {{.Schema}}.tasks;
    limits {{.Schema}}.control;
    b {{.Schema}}.bridge;
    latest bigint;
    reached bigint;
begin
    perform {{.Schema}}.check_id('task_id', redrive.task_id);
    select * into t from {{.Schema}}.tasks x where x.task_id = redrive.task_id for update;
    if not found then
        raise exception 'there is no such task' using errcode = 'IT004';
    end if;
    new_run := t.run;
    if redrive.run < 1 or t.run >= 10000 then
        raise exception 'the task has no run % to redrive', coalesce(redrive.run, t.run) using errcode = 'IT005';
    elsif redrive.run = t.run - 1 then
        select l.balance_after into balance from {{.Schema}}.ledger l where l.task_id = t.task_id and l.run = t.run and l.kind = 'charge';
        balance := coalesce(balance, {{.Schema}}.balance(t.user_id));
        return;
    elsif redrive.run <> t.run then
        raise exception 'the task is in run %, not %', t.run, redrive.run using errcode = 'IT005';
    elsif t.status <> 'failed' then
        raise exception 'the task is %; only failed tasks can be redriven', t.status using errcode = 'IT005';
    elsif t.forgotten_at is not null or t.inputs_pruned_at is not null
          or t.bridge_state is null and (select count(*) from {{.Schema}}.inputs i where i.task_id = t.task_id) < t.input_count then
        raise exception 'the prompt or the input pictures of the task were deleted' using errcode = 'IT005',
            hint = 'Enqueue a new task.';
    elsif t.bridge_state is null and t.credits_deducted > t.credits_refunded then
        raise exception 'the refund of the run that failed is still owed' using errcode = 'IT005',
            hint = 'Run fix-stuck-tasks audit --repair.';
    end if;
    if t.bridge_state is not null then
        select * into b from {{.Schema}}.bridge x where x.active;
        if not found then
            raise exception 'the task is of an application whose bridge was removed' using errcode = 'IT005';
        elsif t.bridge_state = 'owed' then
            raise exception 'the end of the run that failed is still to be written to the application''s table' using errcode = 'IT005',
                hint = 'Run task-processor adopt --check.';
        elsif t.bridge_state = 'superseded' then
            raise exception 'the application has closed the task''s row itself' using errcode = 'IT005';
        elsif t.credits_cost > 0 and not b.charges then
            raise exception 'the bridge can''t charge the user again' using errcode = 'IT005',
                hint = 'Set charge in the part [bridge.credits] of imagetasks.toml, and run task-processor adopt --apply.';
        end if;
    end if;
    perform {{.Schema}}.lock_user(t.user_id);
    lock table {{.Schema}}.control in row share mode; -- as in insert_tasks
    select * into limits from {{.Schema}}.control;
    perform {{.Schema}}.check_waiting(t.user_id, 1, limits.user_max_waiting);
    new_run := t.run + 1;
    if t.bridge_state is null then
        balance := {{.Schema}}.charge(t.user_id, t.credits_cost);
        if t.credits_cost > 0 then
            insert into {{.Schema}}.ledger (user_id, task_id, run, kind, amount, balance_after, reason)
            values (t.user_id, t.task_id, new_run, 'charge', - t.credits_cost, balance, 'task redriven');
        end if;
    else
        balance := {{.Schema}}.bridge_redrive(t.task_id, t.user_id, new_run, t.credits_cost);
    end if;
    reached := {{.Schema}}.virtual_time(t.priority::int);
    latest := {{.Schema}}.last_slot(t.user_id, t.priority::int);
    update {{.Schema}}.tasks x
    set status = 'pending', run = new_run, credits_deducted = t.credits_cost, credits_refunded = 0,
        bridge_state = case when x.bridge_state is not null then 'live' end,
        attempt_count = 0, requests_sent = 0, unknown_outcomes = 0, lost_claims = 0,
        request_open = false, request_call = null, request_key = null, request_endpoint = null,
        lease_epoch = x.lease_epoch + 1, -- a worker of the run before can't complete this one
        run_after = now(),
        waits_for = case when limits.user_concurrency > 0 then 'user' end,
        slot = least(greatest(reached, latest) + 1, 1000000000000000), backlog = greatest(reached, latest) + 1 - reached,
        progress_percentage = 0, current_stage = 'redriven', image_url = null, error_code = null, error_message = null, request_id = null,
        processing_started_at = null, completed_at = null, updated_at = now()
    where x.task_id = t.task_id;
    if limits.user_concurrency > 0 then
        perform {{.Schema}}.admit(array[t.user_id], true);
    end if;
    perform pg_notify({{literal .Channel}}, '');
end
$$;

-- Whether this is the database that the installation works in: a copy of it must not write to its copy of the application's tables before an
-- operator has resumed it.
create function {{.Schema}}.bridge_is_here() returns boolean
language sql stable as $$
    select exists (select from {{.Schema}}.control c where c.database_identity = {{.Schema}}.database_identity())
$$;

-- A balance of the application in our unit. Rounded down, so that the differences of all changes add up to the balance.
create function {{.Schema}}.bridge_units(value numeric, decimals int) returns bigint
language sql immutable as $$
    select floor(coalesce(value, 0) * power(10::numeric, decimals))::bigint
$$;

-- Writes an entry of a user whose balance is the application's.
create function {{.Schema}}.bridge_entry(user_id text, task_id text, run int, kind text, amount bigint, reason text) returns bigint
language plpgsql volatile as $$
#variable_conflict use_column
declare
    balance bigint;
begin
    insert into {{.Schema}}.bridged_users as u (user_id, balance) values (bridge_entry.user_id, amount)
    on conflict (user_id) do update set balance = u.balance + amount
    returning u.balance into balance;
    insert into {{.Schema}}.ledger (user_id, task_id, run, kind, amount, balance_after, reason, external)
    values (bridge_entry.user_id, bridge_entry.task_id, bridge_entry.run, bridge_entry.kind, amount, balance, bridge_entry.reason, true);
    return balance;
end
$$;

-- Records that the application has charged a task. Its change of the balance is an entry of its own, so that the charge is followed by an entry that
-- takes it out again: the sum is the application's balance, whether or not it changed it in one step.
create function {{.Schema}}.bridge_charged(task_id text, user_id text, run int, amount bigint) returns void
language plpgsql volatile as $$
#variable_conflict use_column
declare
    balance bigint;
begin
    insert into {{.Schema}}.bridged_users (user_id) values (bridge_charged.user_id) on conflict do nothing;
    select u.balance into balance from {{.Schema}}.bridged_users u where u.user_id = bridge_charged.user_id for no key update;
    insert into {{.Schema}}.ledger (user_id, task_id, run, kind, amount, balance_after, reason, external)
    values (bridge_charged.user_id, bridge_charged.task_id, bridge_charged.run, 'charge', - amount, balance - amount, 'charged by the application', true),
           (bridge_charged.user_id, null, null, 'adjust', amount, balance, 'the charge of task ' || bridge_charged.task_id || ' is in a change by the application', true);
end
$$;

-- Records that a charged run ended without a refund by the bridge. refunded: the application shows one of its own; that of a completed run is only
-- a change of the balance.
create function {{.Schema}}.bridge_not_refunded(task_id text, run int, refunded boolean, reason text) returns void
language plpgsql volatile as $$
#variable_conflict use_column
declare
    payment {{.Schema}}.ledger;
begin
    select * into payment from {{.Schema}}.ledger l
    where l.task_id = bridge_not_refunded.task_id and l.run = bridge_not_refunded.run and l.kind = 'charge';
    if not found or exists (select from {{.Schema}}.ledger l
            where l.task_id = bridge_not_refunded.task_id and l.run = bridge_not_refunded.run and l.kind = 'refund') then
        return;
    end if;
    if refunded and not exists (select from {{.Schema}}.tasks t where t.task_id = payment.task_id and t.run = payment.run and t.status = 'completed') then
        perform {{.Schema}}.bridge_entry(payment.user_id, payment.task_id, payment.run, 'refund', - payment.amount, 'refunded by the application');
        perform {{.Schema}}.bridge_entry(payment.user_id, null, null, 'adjust', payment.amount,
            'the refund of task ' || payment.task_id || ' is in a change by the application');
        update {{.Schema}}.tasks t set credits_refunded = - payment.amount where t.task_id = payment.task_id and t.run = payment.run;
    elsif not exists (select from {{.Schema}}.ledger l where l.task_id = payment.task_id and l.run = payment.run and l.kind = 'adjust') then
        perform {{.Schema}}.bridge_entry(payment.user_id, payment.task_id, payment.run, 'adjust', 0, reason);
    end if;
end
$$;

-- What an error says, without values: a prompt may be among them.
create function {{.Schema}}.bridge_reason(code text, message text, relation text, col text, con text, hidden text) returns text
language sql immutable as $$
    select case
        when code like '22%' then 'a value was refused (SQLSTATE ' || code || ')' || case when col <> '' then ', column ' || col else '' end
        when code like '23%' then case when con <> '' then 'the constraint ' || con else 'a constraint' end || ' was violated'
             || case when relation <> '' then ', table ' || relation else '' end || case when col <> '' then ', column ' || col else '' end
        when char_length(hidden) > 3 and strpos(message, left(hidden, 12)) > 0 then 'SQLSTATE ' || code
        else left(message, 300) || ' (SQLSTATE ' || code || ')'
    end
$$;

create function {{.Schema}}.bridge_failed(part text, key text, code text, reason text) returns void
language sql volatile as $$
    insert into {{.Schema}}.bridge_failures as f (part, key, code, reason)
    values (bridge_failed.part, bridge_failed.key, bridge_failed.code, bridge_failed.reason)
    on conflict on constraint bridge_failures_pkey do update
    set code = excluded.code, reason = excluded.reason, tries = f.tries + 1,
        next_try_at = now() + least(interval '5 seconds' * power(2, least(f.tries, 10)), interval '5 minutes')
$$;

-- Takes one change of a balance into the ledger, in the order of the inbox, which is that of the changes of one user. seen follows the
-- application's values; a gap is a change that was not noted.
create function {{.Schema}}.bridge_take_balance(event {{.Schema}}.inbox, decimals int) returns void
language plpgsql volatile as $$
declare
    u {{.Schema}}.bridged_users;
    delta bigint := {{.Schema}}.bridge_units(event.after, decimals) - {{.Schema}}.bridge_units(event.before, decimals);
    gap bigint;
    writes jsonb;
    amounts bigint[];
    costs bigint[];
    explained boolean := false;
begin
    insert into {{.Schema}}.bridged_users (user_id) values (event.key) on conflict do nothing;
    select * into u from {{.Schema}}.bridged_users x where x.user_id = event.key for no key update;
    gap := {{.Schema}}.bridge_units(event.before, decimals) - {{.Schema}}.bridge_units(u.seen, decimals);
    if gap <> 0 then
        perform {{.Schema}}.bridge_entry(event.key, null, null, 'adjust', gap,
            case when u.seen is null then 'the balance in the application''s table' else 'a change by the application that was not noted' end);
    end if;
    if not event.ours then
        if delta <> 0 then
            perform {{.Schema}}.bridge_entry(event.key, null, null, 'adjust', delta, 'changed by the application');
            -- Explained is the charge of a task, or of a next run, of that time, or the refund of one that the application closed.
            insert into {{.Schema}}.bridge_explained (task_id, run, kind, at)
            select t.task_id, t.run, case when delta < 0 then 'charge' else 'refund' end, event.at
            from {{.Schema}}.tasks t
            where t.user_id = event.key and t.bridge_state is not null and t.credits_cost = abs(delta)
              and case when delta < 0 then t.run = 1 and t.created_at > event.at - interval '10 seconds'
                           or exists (select from {{.Schema}}.ledger l where l.task_id = t.task_id and l.run = t.run and l.kind = 'charge'
                                      and l.reason = 'charged by the application'
                                      and l.created_at > event.at - interval '10 seconds')
                       else t.bridge_state = 'superseded' and t.updated_at > event.at - interval '10 seconds' end
              and not exists (select from {{.Schema}}.bridge_explained e
                              where e.task_id = t.task_id and e.run = t.run and e.kind = case when delta < 0 then 'charge' else 'refund' end)
            order by case when delta < 0 then t.created_at else t.updated_at end -- the one that can't explain later changes
            limit 1;
            explained := found;
        end if;
        if not explained then
            -- A change that follows one of ours closely may have been computed from the balance before it; so may a write that leaves the balance
            -- as it is, where a refund by the application explains that.
            select jsonb_agg(jsonb_build_object('amount', w.amount, 'before', w.before, 'after', w.after, 'at', w.at) order by w.id desc), array_agg(w.amount order by w.id desc)
            into writes, amounts
            from {{.Schema}}.bridge_writes w where w.user_id = event.key and w.id < event.id and w.at > event.at - interval '30 seconds';
            -- A row that was closed before it was taken has no task: a change by what the user's tasks cost is taken for its charge or refund, unless
            -- it is one of these together with ours, too.
            costs := array(select distinct t.credits_cost from {{.Schema}}.tasks t
                           where t.user_id = event.key and t.bridge_state is not null and t.created_at > event.at - interval '1 hour');
            explained := delta <> 0 and abs(delta) = any (costs) and not exists (
                select from (select sum(w.amount) over (order by w.n) as total from unnest(amounts) with ordinality as w (amount, n)) ours
                where sign(delta + ours.total) = sign(delta) and abs(delta + ours.total) = any (costs));
            if writes is not null and not explained and (delta <> 0 or exists (
                select from {{.Schema}}.tasks t
                where t.user_id = event.key and t.bridge_state = 'superseded' and t.credits_cost = any (amounts)
                  and t.updated_at > event.at - interval '10 seconds'
                  and not exists (select from {{.Schema}}.bridge_explained e where e.task_id = t.task_id and e.run = t.run and e.kind = 'refund')))
            then
                insert into {{.Schema}}.lost_updates (user_id, at, before, after, ours, note)
                values (event.key, event.at, event.before, event.after, writes,
                        'the balance was set soon after a change by the bridge, and no task explains the difference');
            end if;
        end if;
    end if;
    update {{.Schema}}.bridged_users x set seen = coalesce(event.after, 0), seen_at = event.at where x.user_id = event.key;
end
$$;

-- Closes a task whose row the application has closed or deleted. The application gives back what it took.
create function {{.Schema}}.bridge_supersede(task_id text, refunded boolean, reason text) returns void
language plpgsql volatile as $$
#variable_conflict use_column
declare
    t {{.Schema}}.tasks;
begin
    update {{.Schema}}.tasks x
    set status = 'cancelled', bridge_state = 'superseded', error_code = 'superseded', error_message = reason, current_stage = 'closed',
        leased_by = null, lease_expires_at = null, completed_at = now(), updated_at = now()
    where x.task_id = bridge_supersede.task_id and x.status in ('pending', 'processing')
    returning * into t;
    if found then
        delete from {{.Schema}}.inputs i where i.task_id = t.task_id;
        perform {{.Schema}}.bridge_not_refunded(t.task_id, t.run, refunded, reason);
    end if;
end
$$;

-- Compares a task with its row in the application's table, and follows it. r is null where there is no row. Returns what it did.
create function {{.Schema}}.bridge_take_task(key text, r record, moving text) returns text
language plpgsql volatile as $$
#variable_conflict use_column
declare
    t {{.Schema}}.tasks;
    problem text;
    waited boolean;
    superseded boolean := false;
    next_run int;
    charged bigint;
    word text := coalesce(r.word, 'null');
begin
    -- The users that earlier rows of this call have locked are locked after tasks elsewhere: nothing is waited for here.
    select * into t from {{.Schema}}.tasks x where x.task_id = bridge_take_task.key for update nowait;
    if t.task_id is not null then
        -- The row was read before the task was locked: the end of its run may have been written in between, or the next run have begun.
        select a.*, b.shows_charges and b.shows_refunds and not a.refunded as charge_shown, b.shows_refunds as refunds_shown into r
        from {{.Schema}}.app_rows(array[bridge_take_task.key]) a cross join {{.Schema}}.bridge b;
        word := coalesce(r.word, 'null');
    end if;
    if t.task_id is not null and t.bridge_state is null then
        raise exception 'a task of ours has the same id as the row' using errcode = 'IT002';
    elsif t.bridge_state = 'owed' then
        return 'unchanged'; -- bridge_apply meets the row as it is
    elsif r.key is null then
        if t.status in ('pending', 'processing') then
            perform {{.Schema}}.bridge_supersede(t.task_id, false, 'the application deleted the row');
            superseded := true;
        end if;
        update {{.Schema}}.tasks x set bridge_deleted = true where x.task_id = t.task_id;
        return case when superseded then 'superseded' else 'unchanged' end;
    elsif t.status in ('pending', 'processing') then
        if r.state is null or r.state not in ('pending', 'processing') then
            perform {{.Schema}}.bridge_supersede(t.task_id, r.refunded, 'the application closed the row (' || left(word, 100) || ')');
            return 'superseded';
        end if;
        if r.charged and r.cost > 0 and t.credits_deducted = 0 and (t.run = 1 or r.charge_shown) then
            perform {{.Schema}}.bridge_charged(t.task_id, t.user_id, t.run, r.cost);
            update {{.Schema}}.tasks x set credits_cost = r.cost, credits_deducted = r.cost where x.task_id = t.task_id;
        end if;
        -- An edit before the work has begun.
        if t.status = 'pending' and t.requests_sent = 0 and (t.prompt <> r.prompt or t.options || jsonb_strip_nulls(jsonb_build_object('model', t.model)) <> r.options)
           and (r.prompt <> '' or r.input_count > 0) then
            update {{.Schema}}.tasks x
            set prompt = r.prompt, options = r.options - 'model', model = r.options ->> 'model', input_count = least(r.input_count, 17), updated_at = now()
            where x.task_id = t.task_id;
        end if;
        return 'unchanged';
    end if;
    if t.task_id is not null and t.bridge_state = 'superseded' and r.refunded then
        perform {{.Schema}}.bridge_not_refunded(t.task_id, t.run, true, 'refunded by the application');
    end if;
    if r.state is null or r.state not in ('pending', 'processing') then
        return 'unchanged';
    end if;

    -- A new row, or one that the application has set back to pending, and perhaps to processing since, which begins the next run.
    problem := case
        when r.user_id is null then 'the row has no user'
        when char_length(r.user_id) not between 1 and 200 or r.user_id ~ '[\u0001-\u001f\u007f-\u009f]' then 'the user''s id is not 1 to 200 characters without control characters'
        when r.prompt = '' and r.input_count = 0 then 'the row has neither a prompt nor an input picture'
        when octet_length(r.prompt) > 200000 then 'the prompt is longer than 200000 bytes'
        when char_length(r.options ->> 'model') > 200 then 'the name of the model is longer than 200 characters'
        when octet_length(r.options::text) > 8192 then 'style, ratio and model are longer than 8 KB'
        when r.input_count > 17 then 'the row has more than 16 input pictures'
        when r.cost is null or r.cost not between 0 and 1000000000000 then 'the cost is not between 0 and 1000000000000'
    end;
    if problem is not null then
        -- The application may still be writing the row.
        select f.tries >= 5 into waited from {{.Schema}}.bridge_failures f where f.part = 'take' and f.key = bridge_take_task.key;
        if problem like '% user%' or not coalesce(waited, false) then
            raise exception '%', problem using errcode = 'IT002';
        end if;
    end if;
    next_run := coalesce((select max(l.run) from {{.Schema}}.ledger l where l.task_id = bridge_take_task.key), 0) + 1;
    next_run := greatest(next_run, t.run + 1);
    -- A row that comes back was charged again only if it says so itself: it shows its charge, and that this was not given back. Where nothing tells that,
    -- the charge of the run before pays for this one, if the bridge had to give it back and has not, or the row was not worked here.
    charged := case when r.cost between 0 and 1000000000000 and r.charged and (next_run = 1 or t.bridge_deleted or r.charge_shown or not r.refunded
        and t.status in ('failed', 'cancelled') and (t.bridge_state = 'applied' or t.error_code = 'handed_back' or r.refunds_shown)
        and exists (select from {{.Schema}}.ledger l where l.task_id = t.task_id and l.run = t.run and l.kind = 'charge')
        and not exists (select from {{.Schema}}.ledger l where l.task_id = t.task_id and l.run = t.run and l.kind = 'refund')) then r.cost else 0 end;
    perform {{.Schema}}.bridge_not_refunded(bridge_take_task.key, next_run - 1, false, 'the application began the next run');
    insert into {{.Schema}}.bridged_users (user_id) values (r.user_id) on conflict do nothing;
    insert into {{.Schema}}.tasks as x (task_id, run, user_id, prompt, options, model, input_count, status, run_after, waits_for, credits_cost, credits_deducted,
                                        bridge_state)
    values (bridge_take_task.key, next_run, r.user_id, case when problem is null then r.prompt else '-' end,
            case when problem is null then r.options - 'model' else '{}' end, case when problem is null then r.options ->> 'model' end,
            least(r.input_count, 17), 'pending', clock_timestamp(), 'time', case when r.cost between 0 and 1000000000000 then r.cost else 0 end, charged, 'live')
    on conflict (task_id) do update
    set run = excluded.run, user_id = excluded.user_id, prompt = excluded.prompt, options = excluded.options, model = excluded.model,
        input_count = excluded.input_count, status = 'pending', run_after = excluded.run_after, waits_for = 'time', slot = null, backlog = null,
        credits_cost = excluded.credits_cost, credits_deducted = excluded.credits_deducted, credits_refunded = 0, bridge_state = 'live',
        attempt_count = 0, requests_sent = 0, unknown_outcomes = 0, lost_claims = 0,
        request_open = false, request_call = null, request_key = null, request_endpoint = null, lease_epoch = x.lease_epoch + 1,
        progress_percentage = 0, current_stage = null, image_url = null, error_code = null, error_message = null, request_id = null,
        processing_started_at = null, completed_at = null, inputs_pruned_at = null, forgotten_at = null, bridge_deleted = null, updated_at = now();
    if charged > 0 then
        perform {{.Schema}}.bridge_charged(bridge_take_task.key, r.user_id, next_run, charged);
    end if;
    if problem is not null then
        update {{.Schema}}.tasks x set status = 'failed', error_code = 'bad_options', error_message = problem, current_stage = 'closed', updated_at = now()
        where x.task_id = bridge_take_task.key;
    elsif r.state = 'processing' and moving = 'wait' then
        -- It is worked elsewhere, without a lease. If it is not closed there within STUCK_AFTER, it is stuck.
        update {{.Schema}}.tasks x
        set status = 'processing', waits_for = null, processing_started_at = now(), leased_by = 'the application', current_stage = 'in the application', updated_at = now()
        where x.task_id = bridge_take_task.key;
    elsif r.state = 'processing' and moving = 'fail' then
        update {{.Schema}}.tasks x
        set status = 'failed', error_code = 'stuck', error_message = 'the task was being processed when the application moved', current_stage = 'closed', updated_at = now()
        where x.task_id = bridge_take_task.key;
    end if;
    return 'taken';
end
$$;

-- Takes these rows. An error of one row is noted, and the others go on; one of app_rows itself is raised.
create function {{.Schema}}.bridge_take(keys text[], moving text, out taken int, out superseded int, out failed int)
language plpgsql volatile as $$
#variable_conflict use_column
declare
    r record;
    did text;
    code text; message text; relation text; col text; con text;
begin
    taken := 0; superseded := 0; failed := 0;
    for r in
        select k.key as wanted, a.*, b.shows_charges and b.shows_refunds and not a.refunded as charge_shown, b.shows_refunds as refunds_shown
        from unnest(keys) with ordinality as k (key, n)
        left join {{.Schema}}.app_rows(keys) a on a.key = k.key
        cross join {{.Schema}}.bridge b
        order by k.n
    loop
        begin
            did := {{.Schema}}.bridge_take_task(r.wanted, r, moving);
            taken := taken + (did = 'taken')::int;
            superseded := superseded + (did = 'superseded')::int;
            delete from {{.Schema}}.bridge_failures f where f.part = 'take' and f.key = r.wanted;
        exception when lock_not_available or deadlock_detected then
            insert into {{.Schema}}.inbox (kind, key) values ('task', r.wanted);
        when others then
            get stacked diagnostics code = returned_sqlstate, message = message_text, relation = table_name, col = column_name, con = constraint_name;
            perform {{.Schema}}.bridge_failed('take', coalesce(r.wanted, ''), code, {{.Schema}}.bridge_reason(code, message, relation, col, con, r.prompt));
            failed := failed + 1;
        end;
    end loop;
end
$$;

-- Takes what the inbox has: up to max_keys rows of tasks, then as many changes of balances. One call at a time does that: another one returns at once.
-- Safe to repeat. Returns counts, and whether more is waiting.
create function {{.Schema}}.bridge_sync(max_keys int) returns jsonb
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
set lock_timeout = '500ms' as $$
#variable_conflict use_column
declare
    b {{.Schema}}.bridge;
    event {{.Schema}}.inbox;
    next_task timestamptz;
    ids bigint[];
    keys text[];
    next_key text;
    got record;
    taken int := 0; superseded int := 0; failed int := 0; balances int := 0;
    more boolean := false;
    code text; message text; relation text; col text; con text;
begin
    select * into b from {{.Schema}}.bridge x where x.active and {{.Schema}}.bridge_is_here() for update skip locked;
    if not found then
        return jsonb_build_object('active', exists (select from {{.Schema}}.bridge x where x.active) and {{.Schema}}.bridge_is_here());
    elsif exists (select from {{.Schema}}.bridge_failures f where f.part = 'bridge' and f.next_try_at > now()) then
        return jsonb_build_object('active', true);
    end if;
    -- The rows are read after the inbox: what commits in between leaves its own row there.
    select array_agg(x.id), array_agg(distinct x.key) into ids, keys
    from (select i.id, i.key from {{.Schema}}.inbox i where i.kind = 'task' order by i.id limit max_keys) x;
    -- In the order in which they came; array_agg(distinct) sorts.
    select array_agg(x.key order by x.first) into keys
    from (select i.key, min(i.id) as first from {{.Schema}}.inbox i where i.kind = 'task' and i.id = any (ids) and i.key is not null group by i.key) x;
    keys := coalesce(keys, '{}') || array(
        select f.key from {{.Schema}}.bridge_failures f where f.part = 'take' and f.next_try_at <= now() and f.key <> all (coalesce(keys, '{}'))
        order by f.next_try_at limit max_keys);
    if keys <> '{}' then
        begin
            select * into got from {{.Schema}}.bridge_take(keys, b.moving);
            taken := got.taken; superseded := got.superseded; failed := failed + got.failed;
            delete from {{.Schema}}.bridge_failures f where f.part = 'bridge';
        exception when others then
            get stacked diagnostics code = returned_sqlstate, message = message_text, relation = table_name, col = column_name, con = constraint_name;
            if code not like '22%' and code <> 'P0001' then
                -- A column or a table is missing, or a privilege, or the table is locked: the inbox stays as it is.
                perform {{.Schema}}.bridge_failed('bridge', '', code, {{.Schema}}.bridge_reason(code, message, relation, col, con, ''));
                return jsonb_build_object('active', true, 'failed', failed + 1);
            end if;
            -- A value of one row.
            foreach next_key in array keys loop
                begin
                    select * into got from {{.Schema}}.bridge_take(array[next_key], b.moving);
                    taken := taken + got.taken; superseded := superseded + got.superseded; failed := failed + got.failed;
                exception when others then
                    get stacked diagnostics code = returned_sqlstate, message = message_text, relation = table_name, col = column_name, con = constraint_name;
                    perform {{.Schema}}.bridge_failed('take', next_key, code, {{.Schema}}.bridge_reason(code, message, relation, col, con, ''));
                    failed := failed + 1;
                end;
            end loop;
        end;
    end if;
    delete from {{.Schema}}.inbox i where i.kind = 'task' and i.id = any (ids);

    -- The task that explains a change has been taken before it, that of two seconds later, too.
    select i.at into next_task from {{.Schema}}.inbox i where i.kind = 'task' order by i.id limit 1;
    for event in
        select * from {{.Schema}}.inbox i
        where i.kind = 'balance' and i.at < least(next_task, clock_timestamp()) - interval '2 seconds'
          -- What ends of the user's tasks explain is seen when they are written. All changes of a user stay in order.
          and (i.at < clock_timestamp() - interval '1 minute'
               or not exists (select from {{.Schema}}.outbox o join {{.Schema}}.tasks t on t.task_id = o.task_id where o.tries = 0 and t.user_id = i.key))
        order by i.id limit max_keys
    loop
        begin
            perform {{.Schema}}.bridge_take_balance(event, b.decimals);
            delete from {{.Schema}}.bridge_failures f where f.part = 'balance' and f.key = coalesce(event.key, '');
        exception when others then
            get stacked diagnostics code = returned_sqlstate, message = message_text, relation = table_name, col = column_name, con = constraint_name;
            if code in ('55P03', '40P01') then
                exit; -- the user is locked; the rest stays in order
            end if;
            perform {{.Schema}}.bridge_failed('balance', coalesce(event.key, ''), code, {{.Schema}}.bridge_reason(code, message, relation, col, con, ''));
            failed := failed + 1;
        end;
        delete from {{.Schema}}.inbox i where i.kind = 'balance' and i.id = event.id;
        balances := balances + 1;
    end loop;
    more := coalesce(cardinality(ids), 0) >= max_keys or balances >= max_keys;
    if taken > 0 then
        perform pg_notify({{literal .Channel}}, '');
    end if;
    return jsonb_build_object('active', true, 'taken', taken, 'superseded', superseded, 'failed', failed, 'balances', balances, 'more', more,
                              'missed', exists (select from {{.Schema}}.inbox i where i.kind = 'missed'));
end
$$;

-- Marks what this transaction has changed in the application's tables as ours: the task's row needs no look, and changes of the balance are no changes by
-- the application. expected: what the ledger says. The difference is what the application's own triggers or functions did with it. Other rows that
-- these changed are looked at.
create function {{.Schema}}.bridge_mark(task_id text, user_id text, expected bigint, decimals int) returns void
language plpgsql volatile as $$
#variable_conflict use_column
declare
    changed bigint;
begin
    delete from {{.Schema}}.inbox i where i.xid = pg_current_xact_id() and i.kind = 'task' and i.key = bridge_mark.task_id;
    update {{.Schema}}.inbox i set ours = true where i.xid = pg_current_xact_id() and i.kind = 'balance' and i.key = bridge_mark.user_id;
    insert into {{.Schema}}.bridge_writes (id, user_id, amount, before, after, at)
    select i.id, i.key, {{.Schema}}.bridge_units(i.after, decimals) - {{.Schema}}.bridge_units(i.before, decimals), i.before, i.after, i.at
    from {{.Schema}}.inbox i where i.xid = pg_current_xact_id() and i.kind = 'balance' and i.key = bridge_mark.user_id
    order by i.id;
    select sum({{.Schema}}.bridge_units(i.after, decimals) - {{.Schema}}.bridge_units(i.before, decimals)) into changed
    from {{.Schema}}.inbox i where i.xid = pg_current_xact_id() and i.kind = 'balance' and i.key = bridge_mark.user_id;
    if coalesce(changed, 0) <> expected then
        perform {{.Schema}}.bridge_entry(bridge_mark.user_id, null, null, 'adjust', coalesce(changed, 0) - expected,
            'the application''s table shows ' || coalesce(changed, 0) || ' instead of ' || expected);
    end if;
end
$$;

-- Writes the end of a task to the application's tables: its row, the refund, the history. One transaction; a part that fails is noted and tried again,
-- the parts before it stand. A row that the application has closed stays as it is. Safe to repeat.
-- result: applied, superseded, waiting (a part failed), busy (a row is locked: nothing was changed), or none (there is nothing to do).
create function {{.Schema}}.bridge_apply(task_id text, out result text, out reason text, out refunded bigint)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
set lock_timeout = '500ms' as $$
#variable_conflict use_column
declare
    b {{.Schema}}.bridge;
    o {{.Schema}}.outbox;
    t {{.Schema}}.tasks;
    row_of record;
    payment {{.Schema}}.ledger;
    gave record;
    did text;
    todo text[];
    again boolean;
    details jsonb;
    code text; message text; relation text; col text; con text;
begin
    -- What a crash of the server takes back stands in the outbox again. An application that notifies in a trigger lets one transaction at a time commit.
    perform set_config('synchronous_commit', 'off', true);
    refunded := 0;
    select * into b from {{.Schema}}.bridge x where x.active and {{.Schema}}.bridge_is_here();
    select * into o from {{.Schema}}.outbox x where x.task_id = bridge_apply.task_id for update skip locked;
    if o.task_id is null or b.only_row is null then
        result := case when exists (select from {{.Schema}}.outbox x where x.task_id = bridge_apply.task_id) then 'busy' else 'none' end;
        return;
    end if;
    begin
        select * into t from {{.Schema}}.tasks x where x.task_id = o.task_id for update;
        todo := o.parts;
        details := jsonb_build_object('error_code', t.error_code, 'request_id', t.request_id, 'model', t.model, 'run', t.run, 'size', t.options ->> 'size');
        if 'close' = any (todo) then
            did := {{.Schema}}.app_close(t.task_id, o.state, t.image_url, t.error_message, details);
            todo := array_remove(todo, 'close');
            if did <> 'applied' then
                select * into row_of from {{.Schema}}.app_rows(array[t.task_id]);
                reason := case did when 'gone' then 'the application deleted the row' else 'the application closed the row (' || left(coalesce(row_of.word, 'null'), 100) || ')' end;
                perform {{.Schema}}.bridge_not_refunded(t.task_id, t.run, coalesce(row_of.refunded, false), reason);
                perform {{.Schema}}.bridge_mark(t.task_id, t.user_id, 0, b.decimals);
                update {{.Schema}}.tasks x set bridge_state = 'superseded', bridge_deleted = did = 'gone', updated_at = now() where x.task_id = t.task_id;
                delete from {{.Schema}}.outbox x where x.task_id = t.task_id;
                result := 'superseded';
                return;
            end if;
        end if;
    exception when others then
        get stacked diagnostics code = returned_sqlstate, message = message_text, relation = table_name, col = column_name, con = constraint_name;
        reason := {{.Schema}}.bridge_reason(code, message, relation, col, con, t.prompt);
        todo := o.parts;
    end;

    if code is null and 'refund' = any (todo) then
        begin
            select * into payment from {{.Schema}}.ledger l where l.task_id = t.task_id and l.run = t.run and l.kind = 'charge';
            if payment.id is null then
                -- The charge may have come after the task was taken.
                select * into row_of from {{.Schema}}.app_rows(array[t.task_id]);
                if row_of.charged and row_of.cost > 0 and (t.run = 1 or b.shows_charges and b.shows_refunds and not row_of.refunded) then
                    perform {{.Schema}}.bridge_charged(t.task_id, t.user_id, t.run, row_of.cost);
                    update {{.Schema}}.tasks x set credits_cost = row_of.cost, credits_deducted = row_of.cost where x.task_id = t.task_id;
                    select * into payment from {{.Schema}}.ledger l where l.task_id = t.task_id and l.run = t.run and l.kind = 'charge';
                end if;
            end if;
            if payment.id is null or exists (select from {{.Schema}}.ledger l where l.task_id = t.task_id and l.run = t.run and l.kind = 'refund') then
                null;
            elsif not b.refunds then
                perform {{.Schema}}.bridge_not_refunded(t.task_id, t.run, false, 'refunds are off in the description of the bridge');
            else
                select * into gave from {{.Schema}}.app_refund(t.task_id, payment.user_id, - payment.amount, 'task ' || o.state || ': ' || coalesce(t.error_code, ''));
                if gave.result = 'refunded' then
                    refunded := - payment.amount;
                    perform {{.Schema}}.bridge_entry(payment.user_id, t.task_id, t.run, 'refund', refunded, 'task ' || o.state || ': ' || coalesce(t.error_code, ''));
                    update {{.Schema}}.tasks x set credits_refunded = refunded where x.task_id = t.task_id;
                else
                    select * into row_of from {{.Schema}}.app_rows(array[t.task_id]);
                    again := row_of.state in ('pending', 'processing');
                    perform {{.Schema}}.bridge_not_refunded(t.task_id, t.run, coalesce(row_of.refunded, false),
                        case when gave.result = 'gone' then 'the application deleted the row' when again then 'the application tries the task again'
                             else 'the row shows no charge any more' end);
                end if;
            end if;
            todo := array_remove(todo, 'refund');
        exception when others then
            refunded := 0;
            get stacked diagnostics code = returned_sqlstate, message = message_text, relation = table_name, col = column_name, con = constraint_name;
            reason := {{.Schema}}.bridge_reason(code, message, relation, col, con, t.prompt);
        end;
    end if;

    if code is null and 'history' = any (todo) then
        begin
            if b.history then
                perform {{.Schema}}.app_history(t.task_id, t.image_url, details);
            end if;
            todo := array_remove(todo, 'history');
        exception when others then
            get stacked diagnostics code = returned_sqlstate, message = message_text, relation = table_name, col = column_name, con = constraint_name;
            reason := {{.Schema}}.bridge_reason(code, message, relation, col, con, t.prompt);
        end;
    end if;

    -- A lock that was not free undoes everything: the application, too, may be waiting, for what this holds.
    if code in ('55P03', '40P01', '40001') then
        raise exception using errcode = code, message = 'a row is locked';
    end if;
    perform {{.Schema}}.bridge_mark(t.task_id, coalesce(payment.user_id, t.user_id), refunded, b.decimals);
    if code is null then
        update {{.Schema}}.tasks x set bridge_state = 'applied', updated_at = now() where x.task_id = t.task_id;
        delete from {{.Schema}}.outbox x where x.task_id = t.task_id;
        if again or o.tries > 0 then
            -- What the application did with the row while its end was owed was not looked at.
            insert into {{.Schema}}.inbox (kind, key) values ('task', t.task_id);
        end if;
        result := 'applied';
    else
        update {{.Schema}}.outbox x
        set parts = todo, tries = x.tries + 1, error_code = code, error = bridge_apply.reason,
            next_try_at = now() + least(interval '5 seconds' * power(2, least(x.tries, 10)), interval '5 minutes')
        where x.task_id = o.task_id;
        result := 'waiting';
    end if;
exception when lock_not_available or deadlock_detected or serialization_failure then
    result := 'busy'; refunded := 0; reason := 'a row is locked';
end
$$;

-- Charges a bridged task again and sets its row back to pending, for redrive. Returns the balance.
create function {{.Schema}}.bridge_redrive(task_id text, user_id text, run int, amount bigint) returns bigint
language plpgsql volatile set lock_timeout = '500ms' as $$
#variable_conflict use_column
declare
    b {{.Schema}}.bridge;
    took record;
    did text;
begin
    select * into b from {{.Schema}}.bridge x where x.active;
    if amount > 0 then
        select * into took from {{.Schema}}.app_charge(bridge_redrive.task_id, bridge_redrive.user_id, amount, 'task redriven');
        perform {{.Schema}}.bridge_entry(bridge_redrive.user_id, bridge_redrive.task_id, bridge_redrive.run, 'charge', - amount, 'task redriven');
    end if;
    did := {{.Schema}}.app_reopen(bridge_redrive.task_id);
    if did <> 'applied' then
        raise exception 'the task''s row in the application''s table is %', case did when 'gone' then 'deleted' else 'not closed' end using errcode = 'IT005';
    end if;
    perform {{.Schema}}.bridge_mark(bridge_redrive.task_id, bridge_redrive.user_id, - amount, b.decimals);
    return coalesce((select a.balance from {{.Schema}}.app_balances(array[bridge_redrive.user_id]) a), 0);
end
$$;

-- Writes the progress of leased tasks to the application's rows. A task whose row is not live any more is noted in the inbox. Returns the tasks whose
-- progress is still to be written: their rows are locked, or there was no time left. Locks: the rows, in the order of the keys, until the call ends.
-- That has to be soon, and long before the application looks for a deadlock: no row is waited for, and after a moment no other one is begun.
create function {{.Schema}}.bridge_progress(task_ids text[], epochs bigint[], percents int[], stages text[]) returns text[]
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    moment double precision := least(100, extract(epoch from current_setting('deadlock_timeout')::interval) * 500); -- ms
    ends timestamptz := clock_timestamp() + moment * interval '1 millisecond';
    r record;
    did text;
    later text[] := '{}';
    code text; message text; relation text; col text; con text;
begin
    perform set_config('lock_timeout', greatest(moment / 20, 1)::int || 'ms', true);
    -- As in bridge_apply.
    perform set_config('synchronous_commit', 'off', true);
    if not exists (select from {{.Schema}}.bridge b where b.active) or not {{.Schema}}.bridge_is_here() then
        return later;
    end if;
    for r in
        select g.* from unnest(task_ids, epochs, percents, stages) as g (task_id, epoch, percent, stage)
        join {{.Schema}}.tasks t on t.task_id = g.task_id and t.lease_epoch = g.epoch and t.status = 'processing' and t.bridge_state = 'live'
        order by g.task_id
    loop
        if clock_timestamp() > ends then
            later := later || r.task_id;
            continue;
        end if;
        begin
            did := {{.Schema}}.app_progress(r.task_id, r.percent, r.stage);
            if did <> 'written' then
                insert into {{.Schema}}.inbox (kind, key) values ('task', r.task_id);
            end if;
            delete from {{.Schema}}.inbox i where i.xid = pg_current_xact_id() and i.kind = 'task' and i.key = r.task_id and did = 'written';
            delete from {{.Schema}}.bridge_failures f where f.part = 'progress';
        exception when lock_not_available then
            later := later || r.task_id;
        when others then
            get stacked diagnostics code = returned_sqlstate, message = message_text, relation = table_name, col = column_name, con = constraint_name;
            perform {{.Schema}}.bridge_failed('progress', '', code, {{.Schema}}.bridge_reason(code, message, relation, col, con, ''));
        end;
    end loop;
    return later;
end
$$;

-- Notes in the inbox what differs between the two sides and was not noted: a trigger may have been off, or something else have gone wrong there.
-- Returns the number of rows noted. Reads the application's live rows.
create function {{.Schema}}.bridge_reconcile() returns int
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
set lock_timeout = '500ms' as $$
#variable_conflict use_column
declare
    b {{.Schema}}.bridge;
    missed bigint[];
    noted int;
    more int;
    code text; message text; relation text; col text; con text;
begin
    select * into b from {{.Schema}}.bridge x where x.active and {{.Schema}}.bridge_is_here() for update skip locked;
    if not found then
        return 0;
    end if;
    missed := array(select i.id from {{.Schema}}.inbox i where i.kind = 'missed');
    begin
        -- The application may have another table under that name by now, a new partition, or have left triggers disabled.
        with lacking as (
            select r.relation::regclass::text as key, string_agg(x ->> 1, ', ' order by x ->> 1) as triggers
            from jsonb_array_elements(b.triggers) x,
                 lateral (select to_regclass(x ->> 0)::oid union select p.relid from pg_partition_tree(to_regclass(x ->> 0)) p) r (relation)
            where r.relation is not null
              and not exists (select from pg_trigger t where t.tgrelid = r.relation and t.tgname = x ->> 1 and t.tgenabled in ('O', 'A'))
            group by r.relation
        ), there_again as (
            delete from {{.Schema}}.bridge_failures f where f.part = 'triggers' and f.key not in (select l.key from lacking l)
        )
        select count({{.Schema}}.bridge_failed('triggers', l.key, 'missing', 'changes are noticed late: the table lacks ' || l.triggers
                     || ', or they are disabled; run task-processor adopt --apply')) into more
        from lacking l;
        with there as materialized (
            select l as key from {{.Schema}}.app_live() l
        ), here as materialized (
            select t.task_id as key from {{.Schema}}.tasks t where t.bridge_state in ('live', 'owed')
        ), differing as (
            (select key from there except select key from here)
            union
            select h.key from here h join {{.Schema}}.tasks t on t.task_id = h.key and t.bridge_state = 'live'
            where not exists (select from there where there.key = h.key)
        )
        insert into {{.Schema}}.inbox (kind, key)
        select 'task', d.key from differing d
        where not exists (select from {{.Schema}}.inbox i where i.kind = 'task' and i.key = d.key)
          and not exists (select from {{.Schema}}.bridge_failures f where f.part = 'take' and f.key = d.key);
        get diagnostics noted = row_count;
        -- Of each user: once an hour, where nothing says that a change was missed.
        if b.balances and (missed <> '{}' or more > 0 or coalesce(b.checked_at < date_trunc('hour', now()), true)
                           or exists (select from {{.Schema}}.bridge_failures f where f.part = 'balance')) then
            insert into {{.Schema}}.inbox (kind, key, before, after)
            select 'balance', u.user_id, u.seen, a.balance / power(10::numeric, b.decimals)
            from {{.Schema}}.bridged_users u
            join {{.Schema}}.app_balances(array(select x.user_id from {{.Schema}}.bridged_users x where x.seen is not null)) a on a.user_id = u.user_id
            where {{.Schema}}.bridge_units(u.seen, b.decimals) <> a.balance
              and not exists (select from {{.Schema}}.inbox i where i.kind = 'balance' and i.key = u.user_id);
            get diagnostics more = row_count;
            noted := noted + more;
        end if;
        delete from {{.Schema}}.inbox i where i.kind = 'missed' and i.id = any (missed);
        delete from {{.Schema}}.bridge_writes w where w.at < now() - interval '1 hour';
        delete from {{.Schema}}.bridge_explained e where e.at < now() - interval '1 hour';
        -- Progress is written again only while there is work.
        delete from {{.Schema}}.bridge_failures f where f.part = 'progress' and f.next_try_at < now() - interval '5 minutes';
        delete from {{.Schema}}.lost_updates l where l.at < now() - interval '90 days';
        update {{.Schema}}.bridge x set checked_at = now();
    exception when others then
        get stacked diagnostics code = returned_sqlstate, message = message_text, relation = table_name, col = column_name, con = constraint_name;
        perform {{.Schema}}.bridge_failed('bridge', '', code, {{.Schema}}.bridge_reason(code, message, relation, col, con, ''));
        noted := 0;
    end;
    return noted;
end
$$;

-- The input pictures of a bridged task, from the application's row.
create function {{.Schema}}.bridge_inputs(task_id text) returns table (mask boolean, content bytea, url text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
    if exists (select from {{.Schema}}.tasks t where t.task_id = bridge_inputs.task_id and t.bridge_state = 'live' and t.status = 'processing') then
        return query select a.mask, a.content, a.url from {{.Schema}}.app_inputs(bridge_inputs.task_id) a;
    end if;
end
$$;

-- What differs between the two sides: code, the task or user, details, and the id of a lost update. While the queue is at work, what is on its way may be among it.
create function {{.Schema}}.bridge_check() returns table (code text, subject text, detail text, id bigint)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    b {{.Schema}}.bridge;
begin
    select * into b from {{.Schema}}.bridge x;
    if not found then
        return;
    end if;
    return query select 'not_applied', o.task_id, array_to_string(o.parts, ', ') || coalesce(': ' || o.error, ''), null::bigint
        from {{.Schema}}.outbox o where o.created_at < now() - interval '10 seconds' order by o.created_at;
    return query select 'failing', f.key, f.part || ': ' || f.reason, null::bigint from {{.Schema}}.bridge_failures f order by f.since;
    return query select 'not_read', coalesce(i.key, ''), i.kind || ' since ' || i.at, null::bigint from {{.Schema}}.inbox i where i.at < now() - interval '10 seconds' order by i.id limit 100;
    return query
        with there as materialized (select l as key from {{.Schema}}.app_live() l)
        select 'not_taken', x.key, 'the row is live and has no live task', null::bigint from there x
        where not exists (select from {{.Schema}}.tasks t where t.task_id = x.key and t.bridge_state in ('live', 'owed'))
          and not exists (select from {{.Schema}}.inbox i where i.kind = 'task' and i.key = x.key)
          and not exists (select from {{.Schema}}.bridge_failures f where f.part = 'take' and f.key = x.key)
        union all
        select 'not_live', t.task_id, 'the task is ' || t.status || ' and its row is not live', null::bigint from {{.Schema}}.tasks t
        where t.bridge_state = 'live' and not exists (select from there where there.key = t.task_id)
          and not exists (select from {{.Schema}}.inbox i where i.kind = 'task' and i.key = t.task_id);
    if b.balances then
        return query
            select 'balance_differs', u.user_id, 'in the application''s table ' || a.balance || ', in the ledger ' || u.balance, null::bigint
            from {{.Schema}}.bridged_users u
            join {{.Schema}}.app_balances(array(select x.user_id from {{.Schema}}.bridged_users x where x.seen is not null)) a on a.user_id = u.user_id
            where a.balance <> u.balance and not exists (select from {{.Schema}}.inbox i where i.kind = 'balance' and i.key = u.user_id);
    end if;
    return query
        with closed as materialized (
            select t.* from {{.Schema}}.tasks t where t.bridge_state = 'applied' and t.completed_at > now() - interval '7 days' order by t.completed_at desc limit 20000
        ), refunds as materialized (
            select c.task_id from closed c where exists (select from {{.Schema}}.ledger l where l.task_id = c.task_id and l.run = c.run and l.kind = 'refund')
        )
        select case when a.state is distinct from c.status and not (c.status = 'cancelled' and a.state = 'failed') then 'state_differs' else 'refund_not_shown' end,
               c.task_id, 'the task is ' || c.status || ', its row says ' || coalesce(a.word, 'null'), null::bigint
        from closed c join {{.Schema}}.app_rows(array(select x.task_id from closed x)) a on a.key = c.task_id
        where (a.state is distinct from c.status and not (c.status = 'cancelled' and a.state = 'failed'))
           or (b.shows_refunds and not a.refunded and c.task_id in (select r.task_id from refunds r));
    return query select 'lost_update', l.user_id, 'at ' || l.at || ': ' || coalesce(l.before::text, 'none') || ' -> ' || coalesce(l.after::text, 'none') || ', after ours: ' || l.ours, l.id
        from {{.Schema}}.lost_updates l where l.at > now() - interval '7 days' and l.acknowledged_at is null order by l.id desc limit 100;
end
$$;
