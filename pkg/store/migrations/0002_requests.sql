-- compatible with: 2
--
-- Paid requests are recorded before they are sent, an attempt is used by a failure of the task's own only, rows that no statement can
-- change are set aside, and a copy of the database is recognized.
--
-- A processor of version 1 that is still running loses its claims of new tasks here, and finishes those that it has.

-- All locks are taken first, in the order of an application that enqueues in a transaction of its own: while this waits for it, it waits for
-- nothing that this holds.
lock table {{.Schema}}.credits, {{.Schema}}.tasks, {{.Schema}}.control in access exclusive mode;

-- What is known of the paid requests of a run. While request_open is true the outcome of the last request is not recorded; a claim that
-- finds it so counts it as unknown. request_key is the idempotency key of the last request, kept until the API has answered it.
alter table {{.Schema}}.tasks
    add column request_open     boolean not null default false,
    add column request_call     uuid,
    add column request_key      text,
    add column request_endpoint text,
    add column unknown_outcomes integer not null default 0 check (unknown_outcomes between 0 and 1000000),
    add column lost_claims      integer not null default 0 check (lost_claims between 0 and 1000000);

comment on column {{.Schema}}.tasks.requests_sent is 'paid requests of this run that were recorded; those that were not sent after all do not count';
comment on column {{.Schema}}.tasks.unknown_outcomes is 'paid requests of this run without an answer of the API that was read whole';
comment on column {{.Schema}}.tasks.lost_claims is 'claims in a row that ended without a recorded outcome, because the processor ended or lost the database';
comment on column {{.Schema}}.tasks.attempt_count is 'claims of this run that ended with a failure of the task''s own';

-- Until now a claim used an attempt at its beginning.
update {{.Schema}}.tasks set attempt_count = greatest(attempt_count - 1, 0) where status = 'processing';

-- Far above what grants allow, and far below the type's bound, so that no refund can overflow.
alter table {{.Schema}}.credits add check (credits <= 1000000000000000000);
alter table {{.Schema}}.tasks add check (backlog <= 1000000000000000000);

-- An application may close a task by SQL. The row then keeps no lease, and has the time that retention goes by.
create function {{.Schema}}.close_row() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    new.leased_by := null;
    new.lease_expires_at := null;
    new.completed_at := coalesce(new.completed_at, now());
    return new;
end
$$;
create trigger close_row before insert or update of status on {{.Schema}}.tasks for each row
    when (new.status in ('completed', 'failed', 'cancelled') and (new.lease_expires_at is not null or new.completed_at is null))
    execute function {{.Schema}}.close_row();
update {{.Schema}}.tasks set leased_by = null, lease_expires_at = null, completed_at = coalesce(completed_at, updated_at)
where status in ('completed', 'failed', 'cancelled') and (lease_expires_at is not null or completed_at is null);
alter table {{.Schema}}.tasks add check (status in ('pending', 'processing') or lease_expires_at is null);

-- Tasks that a claim or a sweep could not change. They are left out until tried_at is an hour ago.
create table {{.Schema}}.set_aside (
    task_id   text primary key,
    operation text not null,
    reason    text not null,
    since     timestamptz not null default now(),
    tried_at  timestamptz not null default now()
);
alter table {{.Schema}}.set_aside enable row level security;

-- Which database this is: of a copy, or of a dump that was restored, here or elsewhere, it is another. A physical backup of the whole server is
-- not known as one.
create function {{.Schema}}.database_identity() returns text
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
    system text := '';
begin
    -- Some services withhold this function.
    if has_function_privilege('pg_control_system()', 'execute') then
        select system_identifier::text into system from pg_control_system();
    end if;
    return system || '/' || (select oid from pg_database where datname = current_database()) || '/' || ({{literal .Schema}} || '.control')::regclass::oid;
end
$$;

alter table {{.Schema}}.control
    -- The installation, in the names and directories of its pictures.
    add column installation_id   uuid not null default gen_random_uuid(),
    add column picture_secret    bytea not null default sha256(convert_to(gen_random_uuid()::text || gen_random_uuid()::text, 'UTF8')),
    -- Where another database has this row, nothing is claimed or closed until an operator resumes: its tasks may have been paid for elsewhere.
    add column database_identity text,
    -- When that was. No task counts as stuck or overdue until it could have been worked since then.
    add column accepted_at       timestamptz;
update {{.Schema}}.control set database_identity = {{.Schema}}.database_identity();

-- Tasks that are left out for now.
create function {{.Schema}}.tasks_set_aside() returns text[]
language sql stable as $$
    select array(select task_id from {{.Schema}}.set_aside where tried_at > now() - interval '1 hour')
$$;

-- As in version 1, except that a task that can't be changed is set aside, and the others start: those of its user, and of all other users.
create or replace function {{.Schema}}.admit(user_ids text[], wait boolean) returns int
language plpgsql volatile set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off -- as in claim
set lock_timeout = '1s' as $$
#variable_conflict use_column
declare
    allowed int;
    next_user text;
    changed int;
    total int := 0;
    aside text[] := {{.Schema}}.tasks_set_aside();
    next_tasks text[];
    next_task text;
begin
    if not {{.Schema}}.keep_limits() then
        return 0;
    end if;
    select user_concurrency into allowed from {{.Schema}}.control;
    if allowed = 0 then
        update {{.Schema}}.tasks
        set waits_for = null
        where task_id = any (array(
            select task_id from {{.Schema}}.tasks
            where status = 'pending' and waits_for = 'user' and user_id = any (user_ids) and task_id <> all (aside)
            limit 1000
            for update skip locked));
        get diagnostics total = row_count;
        if total > 0 then
            perform pg_notify({{literal .Channel}}, '');
        end if;
        return total;
    end if;
    -- Under an older snapshot the count could miss a task that was admitted since.
    if current_setting('transaction_isolation') <> 'read committed' then
        return 0;
    end if;
    for next_user in select distinct u from unnest(user_ids) u order by u loop
        begin
            if wait or not exists (select from {{.Schema}}.credits where user_id = next_user) then
                perform {{.Schema}}.lock_user(next_user);
            else
                perform from {{.Schema}}.credits where user_id = next_user for no key update skip locked;
                continue when not found;
            end if;
        exception when lock_not_available then
            continue;
        end;
        next_tasks := array(
            select task_id from {{.Schema}}.tasks
            where status = 'pending' and waits_for = 'user' and user_id = next_user and task_id <> all (aside)
            order by (- priority), slot, backlog, run_after, task_id
            limit greatest(allowed - (
                select count(*) from (
                    select from {{.Schema}}.tasks
                    where user_id = next_user and (status = 'processing' or (status = 'pending' and waits_for is null))
                    limit allowed) active), 0)
            for update skip locked);
        begin
            update {{.Schema}}.tasks set waits_for = null where task_id = any (next_tasks);
            get diagnostics changed = row_count;
        exception when data_exception or integrity_constraint_violation or with_check_option_violation or triggered_data_change_violation
                       or triggered_action_exception or plpgsql_error or raise_exception then
            -- One of them can't be changed. It is set aside, and the others start.
            changed := 0;
            foreach next_task in array next_tasks loop
                begin
                    update {{.Schema}}.tasks set waits_for = null where task_id = next_task;
                    changed := changed + 1;
                exception when data_exception or integrity_constraint_violation or with_check_option_violation or triggered_data_change_violation
                               or triggered_action_exception or plpgsql_error or raise_exception then
                    insert into {{.Schema}}.set_aside as s (task_id, operation, reason) values (next_task, 'admit', 'SQLSTATE ' || sqlstate)
                    on conflict on constraint set_aside_pkey do update set operation = excluded.operation, reason = excluded.reason, tried_at = now();
                end;
            end loop;
        end;
        total := total + changed;
    end loop;
    if total > 0 then
        perform pg_notify({{literal .Channel}}, '');
    end if;
    return total;
end
$$;

-- As in version 1, without tasks that are set aside. these: no other tasks (null: all).
drop function {{.Schema}}.promote(int);
create function {{.Schema}}.promote(max_tasks int, these text[]) returns int
language plpgsql volatile set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off -- as in claim
as $$
#variable_conflict use_column
declare
    limited boolean;
    aside text[] := {{.Schema}}.tasks_set_aside();
    users text[];
    total int;
begin
    if not exists (select from {{.Schema}}.tasks where status = 'pending' and waits_for = 'time' and run_after <= now())
       or not {{.Schema}}.keep_limits() then
        return 0;
    end if;
    select user_concurrency > 0 into limited from {{.Schema}}.control;
    with due as (
        select task_id, user_id, priority, run_after, slot
        from {{.Schema}}.tasks
        where status = 'pending' and waits_for = 'time' and run_after <= now()
          and task_id <> all (aside) and (these is null or task_id = any (these))
        order by run_after, task_id
        limit max_tasks
        for update skip locked
    ), latest as materialized (
        select user_id, priority, {{.Schema}}.virtual_time(priority::int) as virtual_time, {{.Schema}}.last_slot(user_id, priority::int) as slot
        from (select distinct user_id, priority from due where slot is null) due
    ), turns as (
        select task_id,
               least(greatest(latest.virtual_time, latest.slot)
                   + row_number() over (partition by user_id, priority order by due.run_after, task_id), 1000000000000000) as slot,
               latest.virtual_time
        from due join latest using (user_id, priority)
        where due.slot is null
    ), promoted as (
        update {{.Schema}}.tasks t
        set waits_for = case when limited then 'user' end,
            slot = coalesce(t.slot, (select turns.slot from turns where turns.task_id = t.task_id)),
            backlog = coalesce(t.backlog, (select turns.slot - turns.virtual_time from turns where turns.task_id = t.task_id))
        where task_id = any (array(select task_id from due))
        returning user_id
    )
    select array_agg(distinct user_id), count(*) into users, total from promoted;
    if limited then
        perform {{.Schema}}.admit(users, false);
    end if;
    return total;
end
$$;

drop function {{.Schema}}.claim(uuid, text, int, bigint, int);

-- Claims up to max_tasks tasks: those with an expired lease first, then those that may start, by priority and turn. A call
-- that is repeated with the same id returns the same leases, as far as they still hold, for another lease_ms. fallback_attempts is for
-- tasks without max_attempts of their own. Claims never wait for each other: rows locked by others are skipped.
--
-- max_expired: how many of them may be tasks with an expired lease; after_start_ms: none is, if the server was started within this time, because
-- their owners may come back.
-- alone: the processor works on nothing else. Only then is a task claimed that was lost twice in a row, and nothing with it; one that was lost
-- max_lost times is claimed once more, to look for what is paid for already. these: no other tasks.
create function {{.Schema}}.claim(call_id uuid, worker text, max_tasks int, lease_ms bigint, fallback_attempts int, max_lost int,
    max_expired int, after_start_ms bigint, alone boolean, these text[])
returns table (task_id text, run int, user_id text, prompt text, options jsonb, model text, input_count int,
               attempt int, max_attempts int, lease_epoch bigint, requests_sent int, unknown_outcomes int, lost_claims int)
language plpgsql volatile set search_path = pg_catalog, pg_temp
-- The planner does not know the limit, and the statistics may be old: it must not read the whole queue for a few tasks. A plan that it
-- would avoid has a high cost, for which it would compile code.
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
as $$
#variable_conflict use_column
declare
    take_expired boolean := max_expired > 0 and pg_postmaster_start_time() < now() - after_start_ms * interval '1 millisecond';
    aside text[];
    suspect text;
begin
    -- A repeat that overtakes the first call would claim other tasks.
    perform pg_advisory_xact_lock(hashtextextended(claim.call_id::text, 0));
    if exists (select from {{.Schema}}.calls c where c.call_id = claim.call_id) then
        return query
            update {{.Schema}}.tasks t
            set lease_expires_at = now() + lease_ms * interval '1 millisecond'
            from {{.Schema}}.calls c
            cross join jsonb_each_text(c.result) as held (task_id, epoch)
            where c.call_id = claim.call_id and t.task_id = held.task_id and t.lease_epoch = held.epoch::bigint and coalesce(t.status, '') = 'processing'
            returning t.task_id, t.run, t.user_id, t.prompt, t.options, coalesce(t.model, ''), t.input_count::int,
                      t.attempt_count + 1, coalesce(t.max_attempts, fallback_attempts), t.lease_epoch, t.requests_sent, t.unknown_outcomes, t.lost_claims;
        return;
    end if;
    if (select c.paused_at is not null or c.database_identity is distinct from {{.Schema}}.database_identity() from {{.Schema}}.control c) then
        return;
    end if;
    aside := {{.Schema}}.tasks_set_aside();
    if take_expired and alone then
        select t.task_id into suspect
        from {{.Schema}}.tasks t
        where coalesce(t.status, '') = 'processing' and t.lease_expires_at < now() and t.lost_claims between 1 and max_lost - 1
          and t.task_id <> all (aside) and (these is null or t.task_id = any (these))
        order by t.lease_expires_at
        limit 1
        for update skip locked;
    end if;
    if suspect is null then
        perform {{.Schema}}.promote(1000, these);
    end if;
    return query
        -- A pause is looked up in the snapshot that the tasks are read from: what is enqueued after it is not claimed.
        with expired as (
            select t.task_id
            from {{.Schema}}.tasks t
            where (select paused_at is null from {{.Schema}}.control) and take_expired and suspect is null
              and coalesce(t.status, '') = 'processing' and t.lease_expires_at < now() and t.lost_claims = 0 and max_lost > 0
              and t.task_id <> all (aside) and (these is null or t.task_id = any (these))
            order by t.lease_expires_at
            limit least(max_tasks, max_expired)
            for update skip locked
        ), ready as (
            select t.task_id
            from {{.Schema}}.tasks t
            where (select paused_at is null from {{.Schema}}.control) and suspect is null
              and t.status = 'pending' and t.waits_for is null
              and t.task_id <> all (aside) and (these is null or t.task_id = any (these))
            order by (- t.priority), t.slot, t.backlog, t.run_after, t.task_id
            limit greatest(max_tasks - (select count(*) from expired), 0)
            for update skip locked
        ), claimed as (
            update {{.Schema}}.tasks t
            set status = 'processing',
                lost_claims = case when t.status = 'processing' then t.lost_claims + 1 else t.lost_claims end,
                unknown_outcomes = t.unknown_outcomes + t.request_open::int,
                request_open = false,
                lease_epoch = t.lease_epoch + 1,
                leased_by = worker,
                lease_expires_at = now() + lease_ms * interval '1 millisecond',
                processing_started_at = now(),
                updated_at = now(),
                progress_percentage = 0,
                current_stage = 'claimed'
            where t.task_id = any (array(select e.task_id from expired e union all select r.task_id from ready r
                                         union all select suspect where suspect is not null))
            returning t.task_id, t.run, t.user_id, t.prompt, t.options, coalesce(t.model, '') as model,
                      t.input_count::int as input_count, t.attempt_count + 1 as attempt,
                      coalesce(t.max_attempts, fallback_attempts) as max_attempts, t.lease_epoch,
                      t.requests_sent, t.unknown_outcomes, t.lost_claims,
                      t.priority, t.slot, t.backlog, t.run_after
        ), advanced as (
            -- Virtual time only moves forward; a race of two claims may lose a step, which costs no task its turn.
            select count(setval(({{literal .Schema}} || '.virtual_time_' || c.priority)::regclass,
                                greatest(max(c.slot), {{.Schema}}.virtual_time(c.priority::int)))) over ()
            from claimed c where c.slot is not null group by c.priority
        ), tried_again as (
            delete from {{.Schema}}.set_aside s using claimed c where s.task_id = c.task_id
        ), recorded as (
            insert into {{.Schema}}.calls (call_id, result)
            select claim.call_id, jsonb_object_agg(c.task_id, c.lease_epoch) from claimed c having count(*) > 0
        )
        select c.task_id, c.run, c.user_id, c.prompt, c.options, c.model, c.input_count, c.attempt, c.max_attempts, c.lease_epoch,
               c.requests_sent, c.unknown_outcomes, c.lost_claims
        from claimed c
        where (select count(*) from advanced) >= 0
        order by (- c.priority), c.slot, c.backlog, c.run_after, c.task_id;
end
$$;

-- Begins the next run of a failed task: the user is charged again, and the task is pending. run is the number of the run that failed
-- (null: the current one). A repeat with the same number returns the first result and charges nothing. Errors: IT001, IT002, IT004,
-- IT005, IT006.
create or replace function {{.Schema}}.redrive(task_id text, run int default null, out new_run int, out balance bigint)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    t {{.Schema}}.tasks;
    limits {{.Schema}}.control;
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
    elsif t.forgotten_at is not null or t.inputs_pruned_at is not null or (select count(*) from {{.Schema}}.inputs i where i.task_id = t.task_id) < t.input_count then
        raise exception 'the prompt or the input pictures of the task were deleted' using errcode = 'IT005',
            hint = 'Enqueue a new task.';
    elsif t.credits_deducted > t.credits_refunded then
        raise exception 'the refund of the run that failed is still owed' using errcode = 'IT005',
            hint = 'Run fix-stuck-tasks audit --repair.';
    end if;
    perform {{.Schema}}.lock_user(t.user_id);
    lock table {{.Schema}}.control in row share mode; -- as in insert_tasks
    select * into limits from {{.Schema}}.control;
    perform {{.Schema}}.check_waiting(t.user_id, 1, limits.user_max_waiting);
    balance := {{.Schema}}.charge(t.user_id, t.credits_cost);
    new_run := t.run + 1;
    if t.credits_cost > 0 then
        insert into {{.Schema}}.ledger (user_id, task_id, run, kind, amount, balance_after, reason)
        values (t.user_id, t.task_id, new_run, 'charge', - t.credits_cost, balance, 'task redriven');
    end if;
    reached := {{.Schema}}.virtual_time(t.priority::int);
    latest := {{.Schema}}.last_slot(t.user_id, t.priority::int);
    update {{.Schema}}.tasks x
    set status = 'pending', run = new_run, credits_deducted = t.credits_cost, credits_refunded = 0,
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
