-- compatible with: 3
--
-- A result that is paid for and still has to be fetched is recorded, tasks of a model that is out of order are kept out of the way of the
-- others, and the form of aspect_ratio is checked.
--
-- Programs of version 2 would pay again for a result that is recorded here, so they claim nothing any more; what they have claimed they finish.

-- In the order of an application that enqueues in a transaction of its own, as in version 2.
lock table {{.Schema}}.credits, {{.Schema}}.tasks, {{.Schema}}.control in access exclusive mode;

-- Results that the API has made and that still have to be fetched, of runs that are not closed. Rows of other runs mean nothing, and are pruned.
create table {{.Schema}}.pending_results (
    task_id    text primary key references {{.Schema}}.tasks on delete cascade,
    run        integer not null,
    ref        text not null check (octet_length(ref) between 1 and 16384),
    request_id text,
    endpoint   text,
    saved_at   timestamptz not null default now(),
    gone       integer not null default 0 check (gone between 0 and 1000000),
    gone_since timestamptz
);
alter table {{.Schema}}.pending_results enable row level security;
comment on column {{.Schema}}.pending_results.gone is 'claims that ended because the host of the picture responded that it does not have it';

-- Models that have made a picture at an endpoint.
create table {{.Schema}}.models (
    endpoint  text not null check (char_length(endpoint) <= 2000),
    model     text not null check (char_length(model) <= 200),
    worked_at timestamptz not null default now(),
    primary key (endpoint, model)
);
alter table {{.Schema}}.models enable row level security;

-- Tasks whose model is out of order wait for it, outside the index of those that may start.
alter table {{.Schema}}.tasks drop constraint tasks_waits_for_check;
alter table {{.Schema}}.tasks add constraint tasks_waits_for_check check (waits_for in ('time', 'user', 'model'));
create index tasks_model on {{.Schema}}.tasks ((coalesce(model, '')), (- priority), slot, backlog, run_after, task_id)
    where status = 'pending' and waits_for = 'model';

-- As in version 2, except that what is paid for does not wait for tasks of its user that have not begun: they would keep it from being fetched
-- while the API is out of reach.
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
    fetches text[];
    next_tasks text[];
    next_task text;
    free int;
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
        fetches := array(
            select t.task_id
            from {{.Schema}}.pending_results p
            join {{.Schema}}.tasks t on t.task_id = p.task_id and t.run = p.run
            where t.user_id = next_user and t.status = 'pending' and t.waits_for = 'user' and t.task_id <> all (aside)
            limit allowed
            for update of t skip locked);
        if fetches <> '{}' then
            update {{.Schema}}.tasks set waits_for = 'user'
            where task_id = any (array(
                select t.task_id from {{.Schema}}.tasks t
                where t.user_id = next_user and t.status = 'pending' and t.waits_for is null and t.task_id <> all (aside)
                  and not exists (select from {{.Schema}}.pending_results p where p.task_id = t.task_id and p.run = t.run)
                order by t.priority, t.slot desc
                limit cardinality(fetches)
                for update skip locked));
        end if;
        select greatest(allowed - count(*), 0) into free
        from (
            select from {{.Schema}}.tasks
            where user_id = next_user and (status = 'processing' or (status = 'pending' and waits_for is null))
            limit allowed) active;
        next_tasks := fetches[1:free];
        next_tasks := next_tasks || array(
            select task_id from {{.Schema}}.tasks
            where status = 'pending' and waits_for = 'user' and user_id = next_user and task_id <> all (aside) and task_id <> all (fetches)
            order by (- priority), slot, backlog, run_after, task_id
            limit free - cardinality(next_tasks)
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

-- Whether claim may take a task, by its model and whether it has a pending result.
create function {{.Schema}}.is_selected(task_id text, run int, model text, skip_models text[], only_models text[], pending_only boolean) returns boolean
language sql stable as $$
    select not pending_only and coalesce(model, '') <> all (coalesce(skip_models, '{}'))
           and (only_models is null or coalesce(model, '') = any (only_models))
        or only_models is null and exists (select from {{.Schema}}.pending_results p where p.task_id = is_selected.task_id and p.run = is_selected.run)
$$;

-- Moves tasks of the models skip_models out of the way of the next max_tasks others, and back tasks of models that are not among them (with
-- only_models: of these), so that the next max_tasks of each may start. Their turns stay as they are.
create function {{.Schema}}.hold_models(skip_models text[], only_models text[], max_tasks int) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off -- as in claim
as $$
#variable_conflict use_column
declare
    limited boolean;
    users text[];
    head text[];
    others int;
begin
    if exists (select from {{.Schema}}.tasks where status = 'pending' and waits_for = 'model') and {{.Schema}}.keep_limits() then
        select user_concurrency > 0 into limited from {{.Schema}}.control;
        with recursive names (model, n) as (
            select (select coalesce(model, '') from {{.Schema}}.tasks where status = 'pending' and waits_for = 'model'
                    order by coalesce(model, '') limit 1), 1
            union all
            select (select coalesce(t.model, '') from {{.Schema}}.tasks t
                    where t.status = 'pending' and t.waits_for = 'model' and coalesce(t.model, '') > names.model
                    order by coalesce(t.model, '') limit 1), names.n + 1
            from names where names.model is not null and names.n < 1000
        ), back as (
            select t.task_id
            from names cross join lateral (
                select task_id from {{.Schema}}.tasks
                where status = 'pending' and waits_for = 'model' and coalesce(model, '') = names.model
                order by (- priority), slot, backlog, run_after, task_id
                limit max_tasks
                for update skip locked) t
            where names.model is not null and names.model <> all (coalesce(skip_models, '{}'))
              and (only_models is null or names.model = any (only_models))
        ), moved as (
            update {{.Schema}}.tasks set waits_for = case when limited then 'user' end
            where task_id = any (array(select task_id from back))
            returning user_id
        )
        select array_agg(distinct user_id) into users from moved;
        if limited and users is not null then
            perform {{.Schema}}.admit(users, false);
        end if;
    end if;
    if cardinality(skip_models) > 0 then
        for i in 1 .. 20 loop
            select array_agg(ready.task_id) filter (where skipped), count(*) filter (where not skipped) into head, others
            from (
                select t.task_id, coalesce(t.model, '') = any (skip_models)
                    and not exists (select from {{.Schema}}.pending_results p where p.task_id = t.task_id and p.run = t.run) as skipped
                from (
                    select task_id, run, model from {{.Schema}}.tasks
                    where status = 'pending' and waits_for is null
                    order by (- priority), slot, backlog, run_after, task_id
                    limit 1000) t) ready;
            exit when head is null;
            with moving as (
                select task_id from {{.Schema}}.tasks
                where task_id = any (head) and coalesce(status, '') = 'pending' and waits_for is null
                for update skip locked
            ), moved as (
                update {{.Schema}}.tasks set waits_for = 'model' where task_id = any (array(select task_id from moving)) returning user_id
            )
            select array_agg(distinct user_id) into users from moved;
            -- The next tasks of their users may be of other models.
            if users is not null and (select user_concurrency > 0 from {{.Schema}}.control) then
                perform {{.Schema}}.admit(users, false);
            end if;
            exit when users is null or others >= max_tasks;
        end loop;
    end if;
end
$$;

drop function {{.Schema}}.claim(uuid, text, int, bigint, int, int, int, bigint, boolean, text[]);

-- Claims up to max_tasks tasks: those with an expired lease first, then those that may start, by priority and turn. A call
-- that is repeated with the same id returns the same leases, as far as they still hold, for another lease_ms. fallback_attempts is for
-- tasks without max_attempts of their own. Claims never wait for each other: rows locked by others are skipped.
--
-- max_expired: how many of them may be tasks with an expired lease; after_start_ms: none is, if the server was started within this time, because
-- their owners may come back.
-- alone: the processor works on nothing else. Only then is a task claimed that was lost twice in a row, and nothing with it; one that was lost
-- max_lost times is claimed once more, to look for what is paid for already. these: no other tasks.
--
-- Tasks of the models skip_models are left out, and all but those of only_models (null: all models; '' is the name of a task without one). A task
-- with a pending result needs no model, and is not left out. pending_only: only tasks with a pending result.
create function {{.Schema}}.claim(call_id uuid, worker text, max_tasks int, lease_ms bigint, fallback_attempts int, max_lost int,
    max_expired int, after_start_ms bigint, alone boolean, these text[],
    skip_models text[], only_models text[], pending_only boolean)
returns table (task_id text, run int, user_id text, prompt text, options jsonb, model text, input_count int,
               attempt int, max_attempts int, lease_epoch bigint, requests_sent int, unknown_outcomes int, lost_claims int,
               pending_ref text, pending_request text, pending_endpoint text, pending_ms bigint, gone int, gone_ms bigint)
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
    selective boolean := pending_only or only_models is not null or cardinality(skip_models) > 0;
begin
    -- A repeat that overtakes the first call would claim other tasks.
    perform pg_advisory_xact_lock(hashtextextended(claim.call_id::text, 0));
    if exists (select from {{.Schema}}.calls c where c.call_id = claim.call_id) then
        return query
            with held as (
                update {{.Schema}}.tasks t
                set lease_expires_at = now() + lease_ms * interval '1 millisecond'
                from {{.Schema}}.calls c
                cross join jsonb_each_text(c.result) as held (task_id, epoch)
                where c.call_id = claim.call_id and t.task_id = held.task_id and t.lease_epoch = held.epoch::bigint and coalesce(t.status, '') = 'processing'
                returning t.task_id, t.run, t.user_id, t.prompt, t.options, coalesce(t.model, '') as model, t.input_count::int as input_count,
                          t.attempt_count + 1 as attempt, coalesce(t.max_attempts, fallback_attempts) as max_attempts, t.lease_epoch,
                          t.requests_sent, t.unknown_outcomes, t.lost_claims
            )
            select h.*, p.ref, p.request_id, p.endpoint,
                   (extract(epoch from now() - p.saved_at) * 1000)::bigint, coalesce(p.gone, 0), (extract(epoch from now() - p.gone_since) * 1000)::bigint
            from held h left join {{.Schema}}.pending_results p on p.task_id = h.task_id and p.run = h.run;
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
          and (not selective or {{.Schema}}.is_selected(t.task_id, t.run, t.model, skip_models, only_models, pending_only))
        order by t.lease_expires_at
        limit 1
        for update skip locked;
    end if;
    if suspect is null then
        perform {{.Schema}}.promote(1000, these);
        if not pending_only then
            perform {{.Schema}}.hold_models(skip_models, only_models, max_tasks);
        end if;
    end if;
    return query
        -- A pause is looked up in the snapshot that the tasks are read from: what is enqueued after it is not claimed.
        with expired as (
            select t.task_id
            from {{.Schema}}.tasks t
            where (select paused_at is null from {{.Schema}}.control) and take_expired and suspect is null
              and coalesce(t.status, '') = 'processing' and t.lease_expires_at < now() and t.lost_claims = 0 and max_lost > 0
              and t.task_id <> all (aside) and (these is null or t.task_id = any (these))
              and (not selective or {{.Schema}}.is_selected(t.task_id, t.run, t.model, skip_models, only_models, pending_only))
            order by t.lease_expires_at
            limit least(max_tasks, max_expired)
            for update skip locked
        ), fetchable as (
            -- There are few of them, so the others need not be read.
            select t.task_id
            from {{.Schema}}.pending_results p
            join {{.Schema}}.tasks t on t.task_id = p.task_id and t.run = p.run
            where pending_only and (select paused_at is null from {{.Schema}}.control) and suspect is null
              and t.status = 'pending' and t.waits_for is null
              and t.task_id <> all (aside) and (these is null or t.task_id = any (these))
            limit greatest(max_tasks - (select count(*) from expired), 0)
            for update of t skip locked
        ), ready as (
            select t.task_id
            from {{.Schema}}.tasks t
            where not pending_only and (select paused_at is null from {{.Schema}}.control) and suspect is null
              and t.status = 'pending' and t.waits_for is null
              and t.task_id <> all (aside) and (these is null or t.task_id = any (these))
              and (not selective or {{.Schema}}.is_selected(t.task_id, t.run, t.model, skip_models, only_models, false))
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
            where t.task_id = any (array(select e.task_id from expired e union all select r.task_id from ready r union all select f.task_id from fetchable f
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
               c.requests_sent, c.unknown_outcomes, c.lost_claims, p.ref, p.request_id, p.endpoint,
                   (extract(epoch from now() - p.saved_at) * 1000)::bigint, coalesce(p.gone, 0), (extract(epoch from now() - p.gone_since) * 1000)::bigint
        from claimed c
        left join {{.Schema}}.pending_results p on p.task_id = c.task_id and p.run = c.run
        where (select count(*) from advanced) >= 0
        order by (- c.priority), c.slot, c.backlog, c.run_after, c.task_id;
end
$$;

-- Whether a text is an aspect ratio: two numbers with one of : / x * and the like between them, a size, or one of a few words.
create function {{.Schema}}.is_ratio(value text) returns boolean
language sql immutable as $$
    select ratio in ('', 'auto', 'square', 'landscape', 'portrait')
        or coalesce((numbers[1])::numeric > 0 and (numbers[2])::numeric > 0, false)
    from (select lower(btrim(value, E' \t\r\n')) as ratio) given
    left join lateral regexp_match(ratio, '^([0-9]{1,5}(?:\.[0-9]{1,4})?)\s*[:：x×*/]\s*([0-9]{1,5}(?:\.[0-9]{1,4})?)$') as numbers on true
$$;

-- As in version 1, and the form of aspect_ratio is checked.
create or replace function {{.Schema}}.check_options(options jsonb) returns void
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
        elsif name = 'aspect_ratio' and not {{.Schema}}.is_ratio(value #>> '{}') then
            perform {{.Schema}}.refuse('option aspect_ratio must be a ratio such as 16:9 or 1.91:1, a size such as 1536x1024, or square, landscape, portrait or auto');
        elsif name = 'output_compression' and (value::numeric not between 0 and 100 or value::numeric <> trunc(value::numeric)) then
            perform {{.Schema}}.refuse('option output_compression must be an integer from 0 to 100');
        elsif name = 'max_attempts' and (value::numeric not between 1 and 100 or value::numeric <> trunc(value::numeric)) then
            perform {{.Schema}}.refuse('option max_attempts must be an integer from 1 to 100');
        end if;
    end loop;
end
$$;
