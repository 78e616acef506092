-- compatible with: 1
--
-- The tables, indexes and functions of one installation, in a schema of its own.
--
-- Access: the functions that applications call are "security definer" with a fixed search_path, so that an application's role
-- needs no right on a table. Functions that only these and claim, promote, admit and set_limits call run with the search_path of their
-- caller: to set it for each of their calls would cost more than what they do.
-- Nothing is granted here; "task-processor migrate" grants what a role needs (grants.go), and revokes at the end of each migration what
-- default privileges granted to anybody else.
--
-- Lock order: tasks, then rows of credits in the order of user_id, then keys and the ledger. A row of credits is also the lock of its user.

create table {{.Schema}}.tasks (
    task_id               text primary key check ({{id "task_id"}}),
    run                   integer not null default 1 check (run between 1 and 10000),
    user_id               text not null check ({{id "user_id"}}),
    prompt                text not null default '' check (octet_length(prompt) <= 200000),
    options               jsonb not null default '{}' check (jsonb_typeof(options) = 'object' and octet_length(options::text) <= 16384),
    model                 text check (char_length(model) between 1 and 200),
    input_count           smallint not null default 0 check (input_count between 0 and 17),
    status                text not null default 'pending'
                          check (status in ('pending', 'processing', 'completed', 'failed', 'cancelled')),
    priority              smallint not null default 0 check (priority between 0 and 9),
    -- What a pending task waits for before it may be claimed: its time (run_after), or its user's other tasks
    -- (USER_CONCURRENCY). null: nothing. A row inserted by hand waits for its time, and is found there.
    waits_for             text default 'time' check (waits_for in ('time', 'user')),
    -- The turn of the task in its priority, and how far behind the turn of that moment it was when it became due.
    slot                  bigint check (slot between 0 and 1000000000000000),
    backlog               bigint check (backlog >= 0),
    run_after             timestamptz not null default now(),
    attempt_count         integer not null default 0 check (attempt_count between 0 and 1000000),
    max_attempts          integer check (max_attempts between 1 and 100),
    requests_sent         integer not null default 0 check (requests_sent between 0 and 1000000),
    attempts              jsonb not null default '[]' check (jsonb_typeof(attempts) = 'array'),
    lease_epoch           bigint not null default 0 check (lease_epoch between 0 and 1000000000000000),
    leased_by             text,
    lease_expires_at      timestamptz,
    processing_started_at timestamptz,
    credits_cost          bigint not null default 0 check (credits_cost between 0 and 1000000000000),
    credits_deducted      bigint not null default 0 check (credits_deducted between 0 and 1000000000000),
    credits_refunded      bigint not null default 0 check (credits_refunded between 0 and 1000000000000),
    progress_percentage   smallint not null default 0 check (progress_percentage between 0 and 100),
    current_stage         text,
    image_url             text,
    error_code            text,
    error_message         text,
    request_id            text,
    created_at            timestamptz not null default now(),
    updated_at            timestamptz not null default now(),
    completed_at          timestamptz,
    inputs_pruned_at      timestamptz, -- the input pictures were deleted after REDRIVE_WINDOW
    forgotten_at          timestamptz,
    check (prompt <> '' or input_count > 0 or forgotten_at is not null),
    check (isfinite(run_after) and isfinite(lease_expires_at) and isfinite(processing_started_at) and isfinite(created_at)
           and isfinite(updated_at) and isfinite(completed_at) and isfinite(forgotten_at) and isfinite(inputs_pruned_at))
);

comment on column {{.Schema}}.tasks.run is 'what one charge pays for; redrive begins the next run. credits_deducted and credits_refunded are those of this run';
comment on column {{.Schema}}.tasks.max_attempts is 'null: the MAX_ATTEMPTS of the processor';
comment on column {{.Schema}}.tasks.lease_epoch is 'raised by each claim; an update under an older epoch is rejected';
comment on column {{.Schema}}.tasks.attempts is 'the outcome of each claim, the latest last; at most 50';
comment on column {{.Schema}}.tasks.completed_at is 'when the task was closed, whatever its status';

-- A row is updated several times within a short time, and never after the task is closed.
alter table {{.Schema}}.tasks set (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);

-- The indexes are partial, on tasks that are not closed, so that their cost does not grow with the history.
-- claim takes the first tasks that may start:
create index tasks_ready on {{.Schema}}.tasks ((- priority), slot, backlog, run_after, task_id)
    where status = 'pending' and waits_for is null;
-- promote takes the tasks whose time has come:
create index tasks_scheduled on {{.Schema}}.tasks (run_after, task_id) where status = 'pending' and waits_for = 'time';
-- admit takes the first tasks of a user, in the order of claim:
create index tasks_held on {{.Schema}}.tasks (user_id, (- priority), slot, backlog, run_after, task_id)
    where status = 'pending' and waits_for = 'user';
-- admit counts the tasks of a user that are processing or may start:
create index tasks_active on {{.Schema}}.tasks (user_id)
    where status = 'processing' or (status = 'pending' and waits_for is null);
-- A new task comes after the last slot of its user; enqueue counts a user's waiting tasks:
create index tasks_live on {{.Schema}}.tasks (user_id, priority, slot) where status in ('pending', 'processing');
-- The other pending tasks: fail_overdue takes those that have been due the longest. It is not one index with "scheduled", because
-- promote would then read past all of these.
create index tasks_due on {{.Schema}}.tasks (run_after) where status = 'pending' and waits_for is distinct from 'time';
-- claim and fail_abandoned take tasks with an expired lease:
create index tasks_lease on {{.Schema}}.tasks (lease_expires_at) where lease_expires_at is not null;
-- sweep takes stuck tasks:
create index tasks_started on {{.Schema}}.tasks ((coalesce(processing_started_at, updated_at, created_at)))
    where status = 'processing';
-- Failed tasks that still have their input pictures:
create index tasks_inputs on {{.Schema}}.tasks (completed_at) where status = 'failed' and input_count > 0 and inputs_pruned_at is null;
-- Rows are written in the order of this time, so a BRIN index of a few pages is enough to find the last hour, or the oldest.
create index tasks_completed on {{.Schema}}.tasks using brin (completed_at) with (pages_per_range = 32, autosummarize = on);
-- tasks list and forget read one user's tasks:
create index tasks_user on {{.Schema}}.tasks (user_id, created_at);

-- The pictures of a task: images to edit, and at most one mask. Each is stored here or has a URL.
create table {{.Schema}}.inputs (
    task_id  text not null references {{.Schema}}.tasks on delete cascade,
    position smallint not null check (position between 1 and 17),
    mask     boolean not null default false,
    content  bytea check (octet_length(content) between 1 and 26214400),
    url      text check (char_length(url) between 1 and 4000),
    primary key (task_id, position),
    check ((content is null) <> (url is null))
);
create unique index inputs_mask on {{.Schema}}.inputs (task_id) where mask;
-- A picture hardly compresses, and is always read whole.
alter table {{.Schema}}.inputs alter column content set storage external;

create table {{.Schema}}.credits (
    user_id    text primary key check ({{id "user_id"}}),
    credits    bigint not null default 0 check (credits >= 0),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

-- One row for each change of a balance. amount is signed; a user's balance is the sum of the amounts. There is no foreign key
-- to the tasks, because closed tasks are pruned while the ledger stays.
create table {{.Schema}}.ledger (
    id            bigint generated always as identity primary key,
    user_id       text not null,
    task_id       text,
    run           integer,
    kind          text not null check (kind in ('grant', 'charge', 'refund', 'adjust')),
    amount        bigint not null check (case kind when 'charge' then amount < 0 when 'adjust' then true else amount > 0 end),
    balance_after bigint not null check (balance_after >= 0),
    reason        text not null default '',
    created_at    timestamptz not null default now(),
    check ((task_id is null) = (run is null)),
    check (kind <> 'grant' or task_id is null),
    check (kind not in ('charge', 'refund') or task_id is not null),
    -- This index enforces: per run charged once, refunded at most once.
    constraint ledger_once unique (task_id, run, kind)
);
create index ledger_user on {{.Schema}}.ledger (user_id, id);
create index ledger_time on {{.Schema}}.ledger using brin (created_at) with (pages_per_range = 32, autosummarize = on);

create function {{.Schema}}.ledger_append_only() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    raise exception '% is append-only: % refused', tg_table_name, tg_op
        using errcode = 'restrict_violation', hint = 'Correct a mistake with a grant, or with fix-stuck-tasks audit --resolve.';
end
$$;

create trigger append_only before update or delete or truncate on {{.Schema}}.ledger
    for each statement execute function {{.Schema}}.ledger_append_only();

-- Idempotency keys of the application's calls: a repeat returns the first result. Grants are kept for ever, with an empty
-- user_id, so that a key is valid for one grant in the whole installation.
create table {{.Schema}}.keys (
    function   text not null,
    user_id    text not null,
    key        text not null check (char_length(key) between 1 and 200),
    arguments  bytea not null, -- SHA-256 of the arguments as given
    result     jsonb,
    created_at timestamptz not null default now(),
    primary key (function, user_id, key)
);
create index keys_time on {{.Schema}}.keys using brin (created_at) with (pages_per_range = 32, autosummarize = on);

-- Calls of the programs that act on many rows: a call that is repeated because its answer was lost has the same id, and
-- returns the first result. Rows are deleted after an hour.
create table {{.Schema}}.calls (
    call_id    uuid primary key,
    result     jsonb not null,
    created_at timestamptz not null default now()
);
create index calls_time on {{.Schema}}.calls (created_at);

-- One row for each processor that is running, or that ended without deregistering. report is its own status report.
create table {{.Schema}}.processors (
    worker       text primary key,
    host         text not null,
    pid          integer not null,
    version      text not null,
    capacity     integer not null default 0 check (capacity between 0 and 1000000), -- tasks at a time
    -- Of a completed task, a moving average.
    task_seconds double precision check (task_seconds between 0 and 1000000000),
    started_at   timestamptz not null default now() check (isfinite(started_at)),
    beat_at      timestamptz not null default now() check (isfinite(beat_at)),
    report       jsonb not null default '{}' check (jsonb_typeof(report) = 'object')
);

-- What holds for all processors of the installation; one row.
create table {{.Schema}}.control (
    only_row         boolean primary key default true check (only_row),
    user_concurrency integer not null default 0 check (user_concurrency >= 0), -- tasks of one user at a time; 0: any number
    user_max_waiting integer not null default 0 check (user_max_waiting >= 0), -- pending tasks of one user; 0: any number
    paused_at        timestamptz, -- claiming is paused
    paused_by        text,
    paused_reason    text
);
insert into {{.Schema}}.control default values;

-- The roles that migrate granted something, so that a later migration grants them what is new.
create table {{.Schema}}.roles (
    role text,
    kind text check (kind in ('app', 'worker')),
    primary key (role, kind)
);

-- The virtual time of each priority: the slot that was claimed last. Sequences, because claims must not wait for each other.
create sequence {{.Schema}}.virtual_time_0 minvalue 0 start 0;
create sequence {{.Schema}}.virtual_time_1 minvalue 0 start 0;
create sequence {{.Schema}}.virtual_time_2 minvalue 0 start 0;
create sequence {{.Schema}}.virtual_time_3 minvalue 0 start 0;
create sequence {{.Schema}}.virtual_time_4 minvalue 0 start 0;
create sequence {{.Schema}}.virtual_time_5 minvalue 0 start 0;
create sequence {{.Schema}}.virtual_time_6 minvalue 0 start 0;
create sequence {{.Schema}}.virtual_time_7 minvalue 0 start 0;
create sequence {{.Schema}}.virtual_time_8 minvalue 0 start 0;
create sequence {{.Schema}}.virtual_time_9 minvalue 0 start 0;

create function {{.Schema}}.virtual_time(priority int) returns bigint
language sql stable as $$
    select coalesce(pg_sequence_last_value(({{literal .Schema}} || '.virtual_time_' || priority)::regclass), 0)
$$;

-- The last slot of a user's tasks that are not closed, in a priority; 0 if there is none.
create function {{.Schema}}.last_slot(user_id text, priority int) returns bigint
language sql stable as $$
    select coalesce(max(t.slot), 0) from {{.Schema}}.tasks t
    where t.user_id = last_slot.user_id and t.priority = last_slot.priority and t.status in ('pending', 'processing')
$$;

-- The lock of one user's enqueues, grants and admissions, until the end of the transaction: the user's row, which a user without credits
-- gets here. No advisory lock, which any role could hold.
create function {{.Schema}}.lock_user(user_id text) returns void
language plpgsql volatile as $$
#variable_conflict use_column
begin
    perform from {{.Schema}}.credits c where c.user_id = lock_user.user_id for no key update;
    if not found then
        insert into {{.Schema}}.credits (user_id) values (lock_user.user_id) on conflict do nothing;
        perform from {{.Schema}}.credits c where c.user_id = lock_user.user_id for no key update;
    end if;
end
$$;

-- Keeps set_limits from changing the limits until the end of the transaction. Returns false if it is doing so now: what lets tasks start
-- is then left to the next call, because claims must not wait.
create function {{.Schema}}.keep_limits() returns boolean
language plpgsql volatile as $$
begin
    lock table {{.Schema}}.control in row share mode nowait;
    return true;
exception when lock_not_available then
    return false;
end
$$;

-- Lets as many tasks of these users start as USER_CONCURRENCY allows, and returns their number; 1000 or more: another call may find more.
-- The user's lock makes the count exact: a task starts to count here, under that lock, and stops to count whenever it leaves the state
-- "processing". A user whose row is locked is left out, because nobody else's tasks may wait for that; with wait, after a second.
create function {{.Schema}}.admit(user_ids text[], wait boolean) returns int
language plpgsql volatile set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off -- as in claim
set lock_timeout = '1s' as $$
#variable_conflict use_column
declare
    allowed int;
    next_user text;
    changed int;
    total int := 0;
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
            where status = 'pending' and waits_for = 'user' and user_id = any (user_ids)
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
        update {{.Schema}}.tasks
        set waits_for = null
        where task_id = any (array(
            select task_id from {{.Schema}}.tasks
            where status = 'pending' and waits_for = 'user' and user_id = next_user
            order by (- priority), slot, backlog, run_after, task_id
            limit greatest(allowed - (
                select count(*) from (
                    select from {{.Schema}}.tasks
                    where user_id = next_user and (status = 'processing' or (status = 'pending' and waits_for is null))
                    limit allowed) active), 0)
            for update skip locked));
        get diagnostics changed = row_count;
        total := total + changed;
    end loop;
    if total > 0 then
        perform pg_notify({{literal .Channel}}, '');
    end if;
    return total;
end
$$;

-- Gives up to max_tasks tasks whose time has come their turn, and returns their number. A task that had a turn keeps it.
create function {{.Schema}}.promote(max_tasks int) returns int
language plpgsql volatile set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off -- as in claim
as $$
#variable_conflict use_column
declare
    limited boolean;
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

-- Claims up to max_tasks tasks: those with an expired lease first, then those that may start, by priority and turn. A call
-- that is repeated with the same id returns the same leases, as far as they still hold. fallback_attempts is for tasks without
-- max_attempts of their own. Claims never wait for each other: rows locked by others are skipped.
create function {{.Schema}}.claim(call_id uuid, worker text, max_tasks int, lease_ms bigint, fallback_attempts int)
returns table (task_id text, run int, user_id text, prompt text, options jsonb, model text, input_count int,
               attempt_count int, max_attempts int, lease_epoch bigint)
language plpgsql volatile set search_path = pg_catalog, pg_temp
-- The planner does not know the limit, and the statistics may be old: it must not read the whole queue for a few tasks. A plan that it
-- would avoid has a high cost, for which it would compile code.
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
as $$
#variable_conflict use_column
begin
    -- A repeat that overtakes the first call would claim other tasks.
    perform pg_advisory_xact_lock(hashtextextended(claim.call_id::text, 0));
    if exists (select from {{.Schema}}.calls c where c.call_id = claim.call_id) then
        return query
            select t.task_id, t.run, t.user_id, t.prompt, t.options, coalesce(t.model, ''), t.input_count::int,
                   t.attempt_count, coalesce(t.max_attempts, fallback_attempts), t.lease_epoch
            from {{.Schema}}.calls c
            cross join jsonb_each_text(c.result) as held (task_id, epoch)
            join {{.Schema}}.tasks t on t.task_id = held.task_id and t.lease_epoch = held.epoch::bigint
            where c.call_id = claim.call_id and t.status = 'processing' and t.lease_expires_at > now();
        return;
    end if;
    if (select paused_at is not null from {{.Schema}}.control) then
        return;
    end if;
    perform {{.Schema}}.promote(1000);
    return query
        -- A pause is looked up in the snapshot that the tasks are read from: what is enqueued after it is not claimed.
        with expired as (
            select t.task_id
            from {{.Schema}}.tasks t
            where (select paused_at is null from {{.Schema}}.control) and t.lease_expires_at < now() and coalesce(t.status, '') = 'processing'
              and t.attempt_count < coalesce(t.max_attempts, fallback_attempts)
              and t.lease_epoch < 1000000000000000 and t.attempt_count < 1000000 -- a row at its bound can't be claimed again
            order by t.lease_expires_at
            limit max_tasks
            for update skip locked
        ), ready as (
            select t.task_id
            from {{.Schema}}.tasks t
            where (select paused_at is null from {{.Schema}}.control)
              and t.status = 'pending' and t.waits_for is null and t.lease_epoch < 1000000000000000 and t.attempt_count < 1000000
            order by (- t.priority), t.slot, t.backlog, t.run_after, t.task_id
            limit greatest(max_tasks - (select count(*) from expired), 0)
            for update skip locked
        ), claimed as (
            update {{.Schema}}.tasks t
            set status = 'processing',
                attempt_count = t.attempt_count + 1,
                lease_epoch = t.lease_epoch + 1,
                leased_by = worker,
                lease_expires_at = now() + lease_ms * interval '1 millisecond',
                processing_started_at = now(),
                updated_at = now(),
                progress_percentage = 0,
                current_stage = 'claimed'
            where t.task_id = any (array(select e.task_id from expired e union all select r.task_id from ready r))
            returning t.task_id, t.run, t.user_id, t.prompt, t.options, coalesce(t.model, '') as model,
                      t.input_count::int as input_count, t.attempt_count,
                      coalesce(t.max_attempts, fallback_attempts) as max_attempts, t.lease_epoch,
                      t.priority, t.slot, t.backlog, t.run_after
        ), advanced as (
            -- Virtual time only moves forward; a race of two claims may lose a step, which costs no task its turn.
            select count(setval(({{literal .Schema}} || '.virtual_time_' || c.priority)::regclass,
                                greatest(max(c.slot), {{.Schema}}.virtual_time(c.priority::int)))) over ()
            from claimed c where c.slot is not null group by c.priority
        ), recorded as (
            insert into {{.Schema}}.calls (call_id, result)
            select claim.call_id, jsonb_object_agg(c.task_id, c.lease_epoch) from claimed c having count(*) > 0
        )
        select c.task_id, c.run, c.user_id, c.prompt, c.options, c.model, c.input_count, c.attempt_count, c.max_attempts, c.lease_epoch
        from claimed c
        where (select count(*) from advanced) >= 0
        order by (- c.priority), c.slot, c.backlog, c.run_after, c.task_id;
end
$$;

-- Sets the limits for one user's tasks. When USER_CONCURRENCY becomes smaller, tasks beyond it wait again; those that are
-- processing go on. Returns whether anything changed.
create function {{.Schema}}.set_limits(user_concurrency int, user_max_waiting int) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp
-- Shorter than deadlock_timeout, so that no transaction of the application is chosen as the victim of a deadlock with this one.
set lock_timeout = '500ms' as $$
#variable_conflict use_column
declare
    was {{.Schema}}.control;
begin
    select * into was from {{.Schema}}.control;
    if was.user_concurrency = set_limits.user_concurrency and was.user_max_waiting = set_limits.user_max_waiting then
        return false;
    end if;
    -- Waits for enqueues that have read the old limits, and holds back new ones.
    lock table {{.Schema}}.control in exclusive mode;
    select * into was from {{.Schema}}.control;
    if was.user_concurrency = set_limits.user_concurrency and was.user_max_waiting = set_limits.user_max_waiting then
        return false;
    end if;
    update {{.Schema}}.control
    set user_concurrency = set_limits.user_concurrency, user_max_waiting = set_limits.user_max_waiting;
    if set_limits.user_concurrency > 0 and (was.user_concurrency = 0 or was.user_concurrency > set_limits.user_concurrency) then
        with processing as (
            select user_id, count(*) as tasks from {{.Schema}}.tasks where status = 'processing' group by user_id
        ), ranked as (
            select t.task_id, coalesce(processing.tasks, 0) + row_number() over (
                       partition by t.user_id order by (- t.priority), t.slot, t.backlog, t.run_after, t.task_id) as place
            from {{.Schema}}.tasks t left join processing on processing.user_id = t.user_id
            where t.status = 'pending' and t.waits_for is null
        )
        update {{.Schema}}.tasks t set waits_for = 'user'
        from ranked
        where t.task_id = ranked.task_id and ranked.place > set_limits.user_concurrency and t.status = 'pending';
    end if;
    return true;
end
$$;

-- The application's interface. The SQLSTATEs of its errors:
--   IT001 insufficient credits        IT002 an argument can't be used      IT003 the key was used with other arguments
--   IT004 no such task                IT005 not possible in the task's state
--   IT006 too many waiting tasks      IT007 the balance would be too large

-- The id of a new task: a UUID of version 7 (RFC 9562), which begins with the time, so that new rows are neighbours in the index.
create function {{.Schema}}.new_task_id() returns text
language sql volatile as $$
    select encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid())
        placing substring(int8send(floor(extract(epoch from clock_timestamp()) * 1000)::bigint) from 3) from 1 for 6),
        52, 1), 53, 1), 'hex')::uuid::text
$$;

create function {{.Schema}}.refuse(message text, hint text default null) returns void
language plpgsql stable as $$
begin
    if hint is null then
        raise exception '%', message using errcode = 'IT002';
    end if;
    raise exception '%', message using errcode = 'IT002', hint = refuse.hint;
end
$$;

create function {{.Schema}}.check_id(name text, value text) returns void
language plpgsql stable as $$
begin
    if value is null or not ({{id "value"}}) then
        perform {{.Schema}}.refuse(name || ' must be text of 1 to 200 characters without control characters');
    end if;
end
$$;

-- Checks the form of a task's options, and the types of the names that are known. What a model accepts, the processor checks
-- before anything is paid.
create function {{.Schema}}.check_options(options jsonb) returns void
language plpgsql stable as $$
declare
    name text;
    value jsonb;
    expected text;
begin
    if options is null or jsonb_typeof(options) <> 'object' then
        perform {{.Schema}}.refuse('options must be a JSON object');
    elsif octet_length(options::text) > 8192 then
        perform {{.Schema}}.refuse('options must not be longer than 8 KB');
    end if;
    for name, value in select * from jsonb_each(options) loop
        expected := case
            when name in ('model', 'style', 'aspect_ratio', 'quality', 'size', 'background', 'output_format', 'moderation', 'user',
                          'input_fidelity') then 'string'
            when name in ('output_compression', 'max_attempts') then 'number'
            when name = 'extra' then 'object'
        end;
        if expected is not null and jsonb_typeof(value) <> expected then
            perform {{.Schema}}.refuse(format('option %s must be %s %s', name, case expected when 'object' then 'an' else 'a' end, expected));
        elsif expected = 'string' and char_length(value #>> '{}') > 200 then
            perform {{.Schema}}.refuse(format('option %s must not be longer than 200 characters', name));
        elsif name = 'model' and value = '""' then
            perform {{.Schema}}.refuse('option model is empty');
        elsif name = 'output_compression' and (value::numeric not between 0 and 100 or value::numeric <> trunc(value::numeric)) then
            perform {{.Schema}}.refuse('option output_compression must be an integer from 0 to 100');
        elsif name = 'max_attempts' and (value::numeric not between 1 and 100 or value::numeric <> trunc(value::numeric)) then
            perform {{.Schema}}.refuse('option max_attempts must be an integer from 1 to 100');
        end if;
    end loop;
end
$$;

-- The bytes of an input picture that is given as base64 or as a data: URL.
create function {{.Schema}}.decode_input(value text) returns bytea
language plpgsql stable as $$
declare
    encoded text := value;
begin
    if encoded like 'data:%' then
        if position(';base64,' in left(encoded, 200)) = 0 then
            perform {{.Schema}}.refuse('a data: URL of an input must contain base64');
        end if;
        encoded := substring(encoded from position(';base64,' in encoded) + 8);
    end if;
    return decode(encoded, 'base64');
exception when invalid_parameter_value then
    perform {{.Schema}}.refuse('an input is not valid base64');
end
$$;

-- Checks the inputs of a task: an array of {"base64": ...} or {"url": ...}, one of them with "mask": true. At most 16 pictures and a
-- mask, each of 26214400 bytes, together of 52428800 bytes.
create function {{.Schema}}.check_inputs(inputs jsonb) returns void
language plpgsql stable as $$
declare
    input jsonb;
    n int := 0;
    masks int := 0;
    size bigint;
    total bigint := 0;
    unknown text;
begin
    if inputs is null or jsonb_typeof(inputs) <> 'array' then
        perform {{.Schema}}.refuse('inputs must be a JSON array');
    end if;
    for input in select * from jsonb_array_elements(inputs) loop
        n := n + 1;
        if jsonb_typeof(input) <> 'object' then
            perform {{.Schema}}.refuse(format('input %s must be an object with base64 or url', n));
        end if;
        select key into unknown from jsonb_object_keys(input) key where key not in ('base64', 'url', 'mask') limit 1;
        if unknown is not null then
            perform {{.Schema}}.refuse(format('input %s has the unknown name %s; known are base64, url and mask', n, left(unknown, 50)));
        elsif (input ? 'base64') = (input ? 'url') then
            perform {{.Schema}}.refuse(format('input %s must have either base64 or url', n));
        elsif jsonb_typeof(coalesce(input -> 'base64', input -> 'url')) <> 'string' then
            perform {{.Schema}}.refuse(format('input %s must be text', n));
        elsif input ? 'mask' and jsonb_typeof(input -> 'mask') <> 'boolean' then
            perform {{.Schema}}.refuse(format('mask of input %s must be true or false', n));
        end if;
        masks := masks + coalesce((input -> 'mask')::boolean, false)::int;
        if input ? 'base64' or input ->> 'url' like 'data:%' then
            size := octet_length({{.Schema}}.decode_input(coalesce(input ->> 'base64', input ->> 'url')));
            if size not between 1 and 26214400 then
                perform {{.Schema}}.refuse(format('input %s has %s bytes; allowed are 1 to 26214400', n, size));
            end if;
            total := total + size;
        elsif input ->> 'url' !~ '^https?://[^/[:space:]]+' or char_length(input ->> 'url') > 4000 or input ->> 'url' ~ '[[:space:]]' then
            perform {{.Schema}}.refuse(format('url of input %s must be an http or https URL of at most 4000 characters', n));
        end if;
    end loop;
    if masks > 1 then
        perform {{.Schema}}.refuse('only one input can be the mask');
    elsif masks = 1 and n = 1 then
        perform {{.Schema}}.refuse('a mask needs an input picture');
    elsif n - masks > 16 then
        perform {{.Schema}}.refuse('a task takes at most 16 input pictures');
    elsif total > 52428800 then
        perform {{.Schema}}.refuse(format('the inputs have %s bytes together; allowed are 52428800', total));
    end if;
end
$$;

-- Checks one task of enqueue or enqueue_many: an object with prompt, options, cost, priority, run_at and inputs.
create function {{.Schema}}.check_task(task jsonb) returns void
language plpgsql stable as $$
declare
    unknown text;
    run_at timestamptz;
begin
    if jsonb_typeof(task) <> 'object' then
        perform {{.Schema}}.refuse('a task must be a JSON object');
    end if;
    select key into unknown from jsonb_object_keys(task) key
    where key not in ('prompt', 'options', 'cost', 'priority', 'run_at', 'inputs') limit 1;
    if unknown is not null then
        perform {{.Schema}}.refuse(format('a task has no %s; it has prompt, options, cost, priority, run_at and inputs', left(unknown, 50)));
    elsif jsonb_typeof(task -> 'prompt') <> 'string' then
        perform {{.Schema}}.refuse('prompt must be text');
    elsif char_length(task ->> 'prompt') > 32000 then
        perform {{.Schema}}.refuse('prompt must not be longer than 32000 characters');
    end if;
    perform {{.Schema}}.check_options(coalesce(nullif(task -> 'options', 'null'), '{}'));
    perform {{.Schema}}.check_inputs(coalesce(nullif(task -> 'inputs', 'null'), '[]'));
    if coalesce(task ->> 'prompt', '') = '' and coalesce(nullif(nullif(task -> 'inputs', 'null'), '[]'), '[]') = '[]' then
        perform {{.Schema}}.refuse('prompt is empty and there is no input picture');
    elsif jsonb_typeof(task -> 'cost') not in ('number', 'null') or coalesce((task ->> 'cost')::numeric, 1) not between 0 and 1000000000000
          or (task ->> 'cost')::numeric <> trunc((task ->> 'cost')::numeric) then
        perform {{.Schema}}.refuse('cost must be an integer from 0 to 1000000000000');
    elsif jsonb_typeof(task -> 'priority') not in ('number', 'null') or coalesce((task ->> 'priority')::numeric, 0) not in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9) then
        perform {{.Schema}}.refuse('priority must be an integer from 0 to 9');
    elsif nullif(task -> 'run_at', 'null') is not null then
        begin
            run_at := (task ->> 'run_at')::timestamptz;
        exception when others then
            perform {{.Schema}}.refuse('run_at must be a time');
        end;
        if not isfinite(run_at) or run_at > now() + interval '10 years' then
            perform {{.Schema}}.refuse('run_at must be a time, at most 10 years from now');
        end if;
    end if;
end
$$;

-- Reserves an idempotency key. Returns the first result if the key was used with the same arguments, else null, and then the
-- caller stores its result with keep_result. A concurrent call with the same key waits here until the first one has ended. A call that
-- fails keeps nothing, because its transaction is rolled back.
create function {{.Schema}}.first_result(function text, user_id text, key text, arguments jsonb) returns jsonb
language plpgsql volatile as $$
#variable_conflict use_column
declare
    hash bytea := sha256(convert_to(arguments::text, 'UTF8'));
    earlier {{.Schema}}.keys;
begin
    if key is null then
        return null;
    end if;
    perform {{.Schema}}.check_id('idempotency_key', key);
    insert into {{.Schema}}.keys (function, user_id, key, arguments)
    values (first_result.function, first_result.user_id, first_result.key, hash)
    on conflict do nothing;
    if found then
        return null;
    end if;
    select * into earlier from {{.Schema}}.keys k
    where k.function = first_result.function and k.user_id = first_result.user_id and k.key = first_result.key;
    if earlier.arguments is distinct from hash then
        raise exception 'the idempotency_key was used before with other arguments'
            using errcode = 'IT003', hint = 'Use a new key for a new call.';
    end if;
    return earlier.result;
end
$$;

create function {{.Schema}}.keep_result(function text, user_id text, key text, result jsonb) returns void
language sql volatile as $$
    update {{.Schema}}.keys k set result = keep_result.result
    where k.function = keep_result.function and k.user_id = keep_result.user_id and k.key = keep_result.key
$$;

-- Takes credits from a balance and returns what is left.
create function {{.Schema}}.charge(user_id text, amount bigint) returns bigint
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

-- Refuses more waiting tasks of a user than USER_MAX_WAITING (0: any number). The caller holds the user's lock.
create function {{.Schema}}.check_waiting(user_id text, added int, allowed int) returns void
language plpgsql stable as $$
#variable_conflict use_column
declare
    waiting int;
begin
    if allowed > 0 then
        if current_setting('transaction_isolation') <> 'read committed' then
            raise exception 'with USER_MAX_WAITING, a task can be enqueued at the isolation level read committed only' using errcode = 'IT002';
        end if;
        select count(*) into waiting
        from (select from {{.Schema}}.tasks t where t.user_id = check_waiting.user_id and t.status = 'pending' limit allowed) counted;
        if waiting + added > allowed then
            raise exception 'too many waiting tasks: the user has %, allowed are %', waiting, allowed
                using errcode = 'IT006', hint = 'Try again when some of them are done.';
        end if;
    end if;
end
$$;

-- Charges a user for tasks and inserts them, all or none. tasks were checked by check_task; the caller holds the user's lock.
create function {{.Schema}}.insert_tasks(user_id text, tasks jsonb, out task_ids text[], out balance bigint)
language plpgsql volatile as $$
#variable_conflict use_column
declare
    limits {{.Schema}}.control;
    total numeric;
begin
    lock table {{.Schema}}.control in row share mode; -- until set_limits has moved the tasks that wait
    select * into limits from {{.Schema}}.control;
    perform {{.Schema}}.check_waiting(insert_tasks.user_id, jsonb_array_length(tasks), limits.user_max_waiting);
    select sum(coalesce((t ->> 'cost')::numeric, 1)) into total from jsonb_array_elements(tasks) t;
    if total > 1000000000000 then
        perform {{.Schema}}.refuse('the tasks cost more than 1000000000000 credits together');
    end if;
    balance := {{.Schema}}.charge(insert_tasks.user_id, total::bigint);
    select array_agg({{.Schema}}.new_task_id() order by n) into task_ids from generate_series(1, jsonb_array_length(tasks)) n;

    with given as (
        select task_id, n, coalesce(t ->> 'prompt', '') as prompt, coalesce(nullif(t -> 'options', 'null'), '{}') as options,
               coalesce((t ->> 'cost')::numeric::bigint, 1) as cost, coalesce((t ->> 'priority')::numeric::int, 0) as priority,
               coalesce((t ->> 'run_at')::timestamptz, now()) as run_at,
               coalesce(jsonb_array_length(nullif(t -> 'inputs', 'null')), 0) as input_count
        from rows from (unnest(task_ids), jsonb_array_elements(tasks)) with ordinality as given (task_id, t, n)
    ), latest as materialized (
        select priority, {{.Schema}}.virtual_time(priority) as virtual_time, {{.Schema}}.last_slot(insert_tasks.user_id, priority) as slot
        from (select distinct priority from given) priorities
    ), turns as (
        select given.*, latest.virtual_time,
               case when run_at <= now() then
                   least(greatest(latest.virtual_time, latest.slot) + row_number() over (partition by priority, run_at <= now() order by n),
                         1000000000000000)
               end as slot
        from given join latest using (priority)
    )
    insert into {{.Schema}}.tasks (task_id, user_id, prompt, options, model, max_attempts, input_count, priority, run_after, waits_for,
                                   slot, backlog, credits_cost, credits_deducted)
    select task_id, insert_tasks.user_id, prompt, options - 'model' - 'max_attempts', options ->> 'model',
           (options ->> 'max_attempts')::numeric::int, input_count, priority, greatest(run_at, now()),
           case when slot is null then 'time' when limits.user_concurrency > 0 then 'user' end,
           slot, slot - virtual_time, cost, cost
    from turns
    order by n;

    insert into {{.Schema}}.inputs (task_id, position, mask, content, url)
    select g.task_id, i.n, coalesce((i.input -> 'mask')::boolean, false),
           case when i.input ? 'base64' or i.input ->> 'url' like 'data:%' then {{.Schema}}.decode_input(coalesce(i.input ->> 'base64', i.input ->> 'url')) end,
           case when i.input ->> 'url' not like 'data:%' then i.input ->> 'url' end
    from rows from (unnest(task_ids), jsonb_array_elements(tasks)) as g (task_id, t)
    cross join jsonb_array_elements(nullif(g.t -> 'inputs', 'null')) with ordinality as i (input, n);

    insert into {{.Schema}}.ledger (user_id, task_id, run, kind, amount, balance_after, reason)
    select insert_tasks.user_id, task_id, 1, 'charge', - cost, balance + total::bigint - sum(cost) over (order by n), 'task enqueued'
    from (select task_id, coalesce((t ->> 'cost')::numeric::bigint, 1) as cost, n
          from rows from (unnest(task_ids), jsonb_array_elements(tasks)) with ordinality as given (task_id, t, n)) given
    where cost > 0
    order by n;

    if limits.user_concurrency > 0 then
        perform {{.Schema}}.admit(array[insert_tasks.user_id], true);
    end if;
    perform pg_notify({{literal .Channel}}, '');
end
$$;

-- Charges a user and enqueues a task. Errors: IT001, IT002, IT003, IT006.
create function {{.Schema}}.enqueue(
    user_id text, prompt text default '', options jsonb default '{}', cost bigint default 1, idempotency_key text default null,
    priority int default 0, run_at timestamptz default null, inputs jsonb default '[]',
    out task_id text, out balance bigint)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
-- The same arguments have the same hash, whatever the caller's time zone.
set timezone = 'UTC' set datestyle = 'ISO' as $$
#variable_conflict use_column
declare
    task jsonb := jsonb_build_object('prompt', enqueue.prompt, 'options', enqueue.options, 'cost', enqueue.cost,
        'priority', enqueue.priority, 'run_at', enqueue.run_at, 'inputs', enqueue.inputs);
    result jsonb;
    ids text[];
begin
    perform {{.Schema}}.check_id('user_id', enqueue.user_id);
    if enqueue.cost is null or enqueue.prompt is null then
        perform {{.Schema}}.refuse('prompt and cost must not be null');
    end if;
    perform {{.Schema}}.check_task(task);
    perform {{.Schema}}.lock_user(enqueue.user_id);
    result := {{.Schema}}.first_result('enqueue', enqueue.user_id, enqueue.idempotency_key, task);
    if result is null then
        select i.task_ids, i.balance into ids, balance from {{.Schema}}.insert_tasks(enqueue.user_id, jsonb_build_array(task)) i;
        task_id := ids[1];
        perform {{.Schema}}.keep_result('enqueue', enqueue.user_id, enqueue.idempotency_key,
            jsonb_build_object('task_id', task_id, 'balance', balance));
    else
        task_id := result ->> 'task_id';
        balance := result ->> 'balance';
    end if;
end
$$;

-- Charges a user and enqueues 1 to 1000 tasks, all or none. tasks is an array of objects with the names of enqueue's parameters.
-- Errors: as enqueue.
create function {{.Schema}}.enqueue_many(
    user_id text, tasks jsonb default '[]', idempotency_key text default null,
    out task_ids text[], out balance bigint)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
-- The same arguments have the same hash, whatever the caller's time zone.
set timezone = 'UTC' set datestyle = 'ISO' as $$
#variable_conflict use_column
declare
    task jsonb;
    result jsonb;
begin
    perform {{.Schema}}.check_id('user_id', enqueue_many.user_id);
    if tasks is null or jsonb_typeof(tasks) <> 'array' or jsonb_array_length(tasks) not between 1 and 1000 then
        perform {{.Schema}}.refuse('tasks must be a JSON array of 1 to 1000 tasks');
    end if;
    for task in select * from jsonb_array_elements(tasks) loop
        perform {{.Schema}}.check_task(task);
    end loop;
    perform {{.Schema}}.lock_user(enqueue_many.user_id);
    result := {{.Schema}}.first_result('enqueue_many', enqueue_many.user_id, enqueue_many.idempotency_key, tasks);
    if result is null then
        select i.task_ids, i.balance into task_ids, balance from {{.Schema}}.insert_tasks(enqueue_many.user_id, tasks) i;
        perform {{.Schema}}.keep_result('enqueue_many', enqueue_many.user_id, enqueue_many.idempotency_key,
            jsonb_build_object('task_ids', to_jsonb(task_ids), 'balance', balance));
    else
        task_ids := array(select jsonb_array_elements_text(result -> 'task_ids'));
        balance := result ->> 'balance';
    end if;
end
$$;

-- Adds credits to a balance and returns it. The key is required, for example the number of the payment: a payment's callback that
-- comes twice grants once. Errors: IT002, IT003, IT007.
create function {{.Schema}}.grant_credits(
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

-- A user's credits; 0 for a user who never had any.
create function {{.Schema}}.balance(user_id text) returns bigint
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
    select coalesce((select c.credits from {{.Schema}}.credits c where c.user_id = balance.user_id), 0)
$$;

-- Cancels a task that is pending or processing, and refunds it. Returns the task's state, and what is refunded of its run, whether
-- this call did it or an earlier one; a task that is closed already keeps its state. With user_id, only a task of that user.
-- missing_charge: the task says that it was charged, and the ledger has no such charge, so nothing could be refunded. Errors: IT002,
-- IT004.
create function {{.Schema}}.cancel(
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
        if payment.id is not null and not exists (
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
        set status = 'cancelled', credits_refunded = coalesce(- payment.amount, x.credits_refunded), current_stage = 'closed',
            error_code = 'cancelled', error_message = 'cancelled', leased_by = null, lease_expires_at = null,
            completed_at = now(), updated_at = now()
        where x.task_id = t.task_id;
        status := 'cancelled';
    else
        status := t.status;
    end if;
    select coalesce(sum(l.amount), 0) into refunded from {{.Schema}}.ledger l
    where l.task_id = t.task_id and l.run = t.run and l.kind = 'refund';
    select coalesce(max(c.credits), 0) into balance from {{.Schema}}.credits c where c.user_id = t.user_id;
    missing_charge := t.credits_deducted > 0 and payment.id is null;
end
$$;

-- Begins the next run of a failed task: the user is charged again, and the task is pending. run is the number of the run that failed
-- (null: the current one). A repeat with the same number returns the first result and charges nothing. Errors: IT001, IT002, IT004,
-- IT005, IT006.
create function {{.Schema}}.redrive(task_id text, run int default null, out new_run int, out balance bigint)
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
        attempt_count = 0, requests_sent = 0, run_after = now(),
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

-- Tasks as an application shows them. queue_position counts the tasks that start before this one, plus one; it is null for a task
-- that is not due, and 10001 for every later place. expected_wait_seconds is null while no processor runs or none has completed a task.
create view {{.Schema}}.task_status as
select t.task_id, t.run, t.user_id, t.status, t.priority, t.progress_percentage, t.current_stage, t.image_url,
       t.error_code, t.error_message, t.attempt_count, t.credits_cost, t.credits_deducted, t.credits_refunded,
       t.created_at, t.run_after, t.processing_started_at, t.completed_at, t.updated_at,
       place.position as queue_position,
       case when t.status = 'pending' then
           greatest(extract(epoch from t.run_after - now()), 0)::double precision
               + greatest(coalesce(place.position, 1) * speed.task_seconds / nullif(speed.capacity, 0),
                          place.own * speed.task_seconds / nullif(limits.user_concurrency, 0))
       end as expected_wait_seconds
from {{.Schema}}.tasks t
cross join {{.Schema}}.control limits
left join lateral (
    select ahead.tasks + own.tasks + 1 as position, own.tasks + 1 as own
    from (
        select count(*) as tasks from (
            select from {{.Schema}}.tasks q
            where q.status = 'pending' and q.waits_for is null
              and ((- q.priority), q.slot, q.backlog, q.run_after, q.task_id) < ((- t.priority), t.slot, t.backlog, t.run_after, t.task_id)
            limit 10000) q
    ) ahead, (
        -- Own tasks that wait for each other (USER_CONCURRENCY).
        select count(*) as tasks from (
            select from {{.Schema}}.tasks q
            where q.status = 'pending' and q.waits_for = 'user' and q.user_id = t.user_id
              and ((- q.priority), q.slot, q.backlog, q.run_after, q.task_id) < ((- t.priority), t.slot, t.backlog, t.run_after, t.task_id)
            limit 10000) q
    ) own
    where t.status = 'pending' and t.waits_for is distinct from 'time'
) place on true
cross join lateral (
    select sum(p.capacity) as capacity, avg(p.task_seconds) as task_seconds
    from {{.Schema}}.processors p where p.beat_at > now() - interval '1 minute' and t.status = 'pending'
) speed;

-- Row-level security keeps everybody out who has no policy. The owner is exempt from it.
alter table {{.Schema}}.schema_versions enable row level security;
alter table {{.Schema}}.roles enable row level security;
alter table {{.Schema}}.tasks enable row level security;
alter table {{.Schema}}.inputs enable row level security;
alter table {{.Schema}}.credits enable row level security;
alter table {{.Schema}}.ledger enable row level security;
alter table {{.Schema}}.keys enable row level security;
alter table {{.Schema}}.calls enable row level security;
alter table {{.Schema}}.processors enable row level security;
alter table {{.Schema}}.control enable row level security;
