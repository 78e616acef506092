-- compatible with: 5
--
-- What a task costs on its path from a claim to its end: each change of its state writes a row into all indexes, so those that are not needed on this
-- path leave out what is processing, and nothing that a worker changes (progress, requests) is in an index.
--
-- Programs of version 5 to 7 go on working; only what they read by a user's tasks or by leases takes longer until they are replaced.

lock table {{.Schema}}.credits, {{.Schema}}.tasks, {{.Schema}}.control in access exclusive mode;

alter table {{.Schema}}.tasks
    add column admitted boolean not null default false,
    add column quiet    boolean not null default false;
comment on column {{.Schema}}.tasks.admitted is 'the task counts for USER_CONCURRENCY while it may start or is processing; false where it was taken up without a limit';
comment on column {{.Schema}}.tasks.quiet is 'no completion event was wanted when the task was closed';

-- A task that somebody else than a claim writes as processing counts for its user, too.
create function {{.Schema}}.open_row() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    new.admitted := true;
    return new;
end
$$;
create trigger open_row before update of status on {{.Schema}}.tasks for each row
    when (new.status = 'processing' and old.status <> 'processing' and new.lease_epoch = old.lease_epoch)
    execute function {{.Schema}}.open_row();
create trigger open_inserted_row before insert on {{.Schema}}.tasks for each row
    when (new.status = 'processing') execute function {{.Schema}}.open_row();
update {{.Schema}}.tasks set admitted = true
where (status = 'processing' or status = 'pending' and waits_for is null) and (select user_concurrency > 0 from {{.Schema}}.control);

drop index {{.Schema}}.tasks_active, {{.Schema}}.tasks_live, {{.Schema}}.tasks_lease, {{.Schema}}.tasks_started, {{.Schema}}.tasks_user;
-- admit counts the tasks of a user that are processing or may start; without USER_CONCURRENCY it is empty:
create index tasks_active on {{.Schema}}.tasks (user_id)
    where admitted and (status = 'processing' or (status = 'pending' and waits_for is null));
-- A new task comes after the last slot of its user; enqueue counts a user's waiting tasks:
create index tasks_waiting on {{.Schema}}.tasks (user_id, priority, slot) where status = 'pending';
-- All that is processing, which is about as much as processors have in flight: claim takes tasks with an expired lease, and sweep reads it all:
create index tasks_lease on {{.Schema}}.tasks (lease_expires_at) where status = 'processing';
-- tasks list, forget and the application read one user's tasks, and those that are processing through tasks_lease:
create index tasks_user on {{.Schema}}.tasks (user_id, created_at) where status <> 'processing';
-- Only what is closed is looked for by this time; without the condition each version of a row has its block looked up.
drop index {{.Schema}}.tasks_completed;
create index tasks_completed on {{.Schema}}.tasks using brin (completed_at) with (pages_per_range = 32, autosummarize = on) where completed_at is not null;
-- Space for the versions of a row that is being worked.
alter table {{.Schema}}.tasks set (fillfactor = 85);

-- As before; a function in SQL would be planned in each call.
create or replace function {{.Schema}}.virtual_time(priority int) returns bigint
language plpgsql stable as $$
begin
    return coalesce(pg_sequence_last_value(({{literal .Schema}} || '.virtual_time_' || priority)::regclass), 0);
end
$$;

-- As before. Slots of tasks that were claimed are at most the virtual time, so they need not be read. The session keeps the plan, which must not be that for
-- a table with a few rows.
create or replace function {{.Schema}}.last_slot(user_id text, priority int) returns bigint
language plpgsql stable
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off as $$
begin
    return coalesce((select t.slot from {{.Schema}}.tasks t
                     where t.user_id = last_slot.user_id and t.priority = last_slot.priority and t.status = 'pending' and t.slot is not null
                     order by t.user_id desc, t.priority desc, t.slot desc limit 1), 0);
end
$$;

-- As before.
create or replace function {{.Schema}}.keep_result(function text, user_id text, key text, result jsonb) returns void
language plpgsql volatile as $$
begin
    update {{.Schema}}.keys k set result = keep_result.result
    where k.function = keep_result.function and k.user_id = keep_result.user_id and k.key = keep_result.key;
end
$$;

-- As before, except that the tasks that count are marked.
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
            where user_id = next_user and admitted and (status = 'processing' or (status = 'pending' and waits_for is null))
            limit allowed) active;
        next_tasks := fetches[1:free];
        next_tasks := next_tasks || array(
            select task_id from {{.Schema}}.tasks
            where status = 'pending' and waits_for = 'user' and user_id = next_user and task_id <> all (aside) and task_id <> all (fetches)
            order by (- priority), slot, backlog, run_after, task_id
            limit free - cardinality(next_tasks)
            for update skip locked);
        begin
            update {{.Schema}}.tasks set waits_for = null, admitted = true where task_id = any (next_tasks);
            get diagnostics changed = row_count;
        exception when data_exception or integrity_constraint_violation or with_check_option_violation or triggered_data_change_violation
                       or triggered_action_exception or plpgsql_error or raise_exception then
            -- One of them can't be changed. It is set aside, and the others start.
            changed := 0;
            foreach next_task in array next_tasks loop
                begin
                    update {{.Schema}}.tasks set waits_for = null, admitted = true where task_id = next_task;
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

-- As before, except that the tasks that count are marked.
create or replace function {{.Schema}}.set_limits(user_concurrency int, user_max_waiting int) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp
-- Shorter than deadlock_timeout, so that no transaction of the application is chosen as the victim of a deadlock with this one.
set lock_timeout = '500ms' as $$
#variable_conflict use_column
declare
    was {{.Schema}}.control;
    many bigint;
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
        -- Until there are no more than allowed: a claim may have taken one that it was not to take. Those that are allowed are not locked here, because a
        -- claim would take the next one of their user instead.
        loop
            with processing as (
                select user_id, count(*) as tasks from {{.Schema}}.tasks where status = 'processing' group by user_id
            ), ranked as (
                select t.task_id, coalesce(processing.tasks, 0) + row_number() over (
                           partition by t.user_id order by (- t.priority), t.slot, t.backlog, t.run_after, t.task_id) <= set_limits.user_concurrency as allowed
                from {{.Schema}}.tasks t left join processing on processing.user_id = t.user_id
                where t.status = 'pending' and t.waits_for is null
            ), beyond as materialized (
                select task_id from ranked where not allowed
            ), moved as (
                update {{.Schema}}.tasks t set waits_for = 'user', admitted = false
                from beyond
                where t.task_id = beyond.task_id and t.status = 'pending' and t.waits_for is null
            )
            select count(*) into many from beyond;
            exit when many = 0;
        end loop;
        update {{.Schema}}.tasks set admitted = true where status = 'pending' and waits_for is null and not admitted;
        -- Those that a claim took in the meantime count, too.
        update {{.Schema}}.tasks set admitted = true where status = 'processing' and not admitted;
    end if;
    return true;
end
$$;

-- As before; what is processing is found in its index.
create or replace function {{.Schema}}.free_endpoints(endpoints jsonb, max_tasks int) returns jsonb
language plpgsql volatile set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off -- as in claim
as $$
#variable_conflict use_column
declare
    limited text[];
    clock timestamptz;
    used jsonb := '{}';
begin
    select array_agg(e ->> 'name') into limited from jsonb_array_elements(endpoints) e
    where e ? 'rate' or e ? 'concurrency';
    if limited is not null then
        insert into {{.Schema}}.endpoints (name)
        select name from unnest(limited) name where name not in (select n.name from {{.Schema}}.endpoints n) order by name
        on conflict do nothing;
        perform from {{.Schema}}.endpoints n where n.name = any (limited) order by n.name for no key update;
        -- The snapshot of the next statement shows what the claim before has taken.
        select coalesce(jsonb_object_agg(t.endpoint, t.n), '{}') into used
        from (select endpoint, count(*) as n from {{.Schema}}.tasks
              where status = 'processing' and lease_expires_at > now() and permit_at is not null and endpoint = any (limited)
              group by endpoint) t;
    end if;
    clock := clock_timestamp();
    -- After the next permit of a claim there is one for each request that waits for its own. A later time is that of another rate, or of a clock that
    -- was ahead.
    update {{.Schema}}.endpoints n
    set rate = given.rate, next_at = least(n.next_at, given.latest)
    from (select e ->> 'name' as name, (e ->> 'rate')::int as rate, clock + {{.Schema}}.permit_interval((e ->> 'rate')::int)
                 * (1 + case when n.rate = (e ->> 'rate')::int then coalesce((used ->> (e ->> 'name'))::int, 0) else 0 end) as latest
          from jsonb_array_elements(endpoints) e join {{.Schema}}.endpoints n on n.name = e ->> 'name'
          where e ? 'rate') given
    where n.name = given.name and (n.rate is distinct from given.rate or n.next_at > given.latest);
    return (
        select jsonb_agg(e || jsonb_build_object('free', greatest(0, least(max_tasks, (e ->> 'max')::int,
            (e ->> 'concurrency')::int - coalesce((used ->> (e ->> 'name'))::int, 0),
            case when e ? 'rate' then
                case when n.next_at > clock then 0
                else 1 + floor(extract(epoch from clock - greatest(n.next_at, clock - interval '1 second'))
                               / extract(epoch from {{.Schema}}.permit_interval((e ->> 'rate')::int)))::int end
            end))) order by position)
        from jsonb_array_elements(endpoints) with ordinality as given (e, position)
        left join {{.Schema}}.endpoints n on n.name = e ->> 'name'
    );
end
$$;

-- As before. Where no task has to be looked at by itself, they are claimed by their place in the table.
{{define "selected" -}}
(not selective or not pending_only and {{.Schema}}.is_model(t.model, skips, onlys)
                   or only_models is null and exists (select from {{.Schema}}.pending_results p where p.task_id = t.task_id and p.run = t.run))
{{- end -}}
{{define "claimed" -}}
status = 'processing',
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
{{- end}}
{{define "returned" -}}
t.task_id, t.run, t.user_id, t.prompt, t.options, coalesce(t.model, '') as model,
                      t.input_count::int as input_count, t.attempt_count + 1 as attempt,
                      coalesce(t.max_attempts, fallback_attempts) as max_attempts, t.lease_epoch,
                      t.requests_sent, t.unknown_outcomes, t.lost_claims, t.endpoint,
                      t.request_endpoint as sent_to,
                      t.priority, t.slot, t.backlog, t.run_after
{{- end}}
{{define "recorded" -}}
advanced as (
            -- Virtual time only moves forward; a race of two claims may lose a step, which costs no task its turn.
            select count(setval(({{literal .Schema}} || '.virtual_time_' || c.priority)::regclass,
                                greatest(max(c.slot), {{.Schema}}.virtual_time(c.priority::int)))) over ()
            from claimed c where c.slot is not null group by c.priority
        ), recorded as (
            insert into {{.Schema}}.calls (call_id, result)
            select claim.call_id, jsonb_build_object('at', now(), 'worker', worker) from claimed c having count(*) > 0
{{- end}}
create or replace function {{.Schema}}.claim(call_id uuid, worker text, max_tasks int, lease_ms bigint, fallback_attempts int, max_lost int,
    max_expired int, after_start_ms bigint, alone boolean, these text[],
    skip_models text[], only_models text[], pending_only boolean, endpoints jsonb, hold boolean)
returns table (task_id text, run int, user_id text, prompt text, options jsonb, model text, input_count int,
               attempt int, max_attempts int, lease_epoch bigint, requests_sent int, unknown_outcomes int, lost_claims int,
               pending_ref text, pending_request text, pending_endpoint text, pending_ms bigint, gone int, gone_ms bigint, pending_usage text,
               endpoint text, sent_to text)
language plpgsql volatile set search_path = pg_catalog, pg_temp
-- The planner does not know the limit, and the statistics may be old: it must not read the whole queue for a few tasks. A plan that it
-- would avoid has a high cost, for which it would compile code. Planning anew in each call would take longer than an empty claim.
set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
#variable_conflict use_column
declare
    take_expired boolean := max_expired > 0 and pg_postmaster_start_time() < now() - after_start_ms * interval '1 millisecond';
    aside text[];
    suspect text;
    only_name text := endpoints -> 0 ->> 'name'; -- where there is one
    -- Where there is one endpoint without limits, each task is for it.
    plain boolean := endpoints is null or jsonb_array_length(endpoints) = 1
        and not endpoints -> 0 ?| array['models', 'rate', 'concurrency', 'max'] and jsonb_array_length(coalesce(endpoints -> 0 -> 'skip', '[]')) = 0;
    models record;    -- claimable_models
    skips text[] := coalesce(skip_models, '{}'); -- with the models of endpoints that are not ready
    onlys text[] := only_models;                 -- as far as they are ready
    free int[];
    taken int[];
    candidate record;
    place int;
    seen int := 0;
    filled boolean; -- an endpoint is full since the last candidate
    chosen text[] := '{}';  -- tasks
    places int[] := '{}';   -- the position of the endpoint of each
    clock timestamptz;
    selective boolean;
begin
    -- A repeat that overtakes the first call would claim other tasks.
    perform pg_advisory_xact_lock(hashtextextended(claim.call_id::text, 0));
    if exists (select from {{.Schema}}.calls c where c.call_id = claim.call_id) then
        return query
            with held as (
                update {{.Schema}}.tasks t
                set lease_expires_at = now() + lease_ms * interval '1 millisecond'
                from {{.Schema}}.calls c
                where c.call_id = claim.call_id and t.status = 'processing' and t.processing_started_at = (c.result ->> 'at')::timestamptz
                  and t.leased_by = c.result ->> 'worker'
                returning {{template "returned" .}}
            )
            select h.task_id, h.run, h.user_id, h.prompt, h.options, h.model, h.input_count, h.attempt, h.max_attempts, h.lease_epoch,
                   h.requests_sent, h.unknown_outcomes, h.lost_claims, p.ref, p.request_id, p.endpoint,
                   (extract(epoch from now() - p.saved_at) * 1000)::bigint, coalesce(p.gone, 0), (extract(epoch from now() - p.gone_since) * 1000)::bigint,
                   p.usage::text, h.endpoint, h.sent_to
            from held h left join {{.Schema}}.pending_results p on p.task_id = h.task_id and p.run = h.run
            order by (- h.priority), h.slot, h.backlog, h.run_after, h.task_id;
        return;
    end if;
    if (select c.paused_at is not null or c.database_identity is distinct from {{.Schema}}.database_identity() from {{.Schema}}.control c) then
        return;
    end if;
    aside := case when exists (select from {{.Schema}}.set_aside) then {{.Schema}}.tasks_set_aside() else '{}' end;
    if not plain and not pending_only then
        -- Nothing is locked before that a claim waits for.
        endpoints := {{.Schema}}.free_endpoints(endpoints, max_tasks);
        select array_agg((e ->> 'free')::int order by position) into free from jsonb_array_elements(endpoints) with ordinality as given (e, position);
        pending_only := 0 = all (free);
        taken := array_fill(0, array[cardinality(free)]);
        models := {{.Schema}}.claimable_models(endpoints, free);
        skips := skips || models.unready;
        onlys := case when models.others then only_models when only_models is null then models.ready
                 else array(select unnest(only_models) intersect select unnest(models.ready)) end;
    end if;
    selective := pending_only or onlys is not null or cardinality(skips) > 0;
    take_expired := take_expired and exists (select from {{.Schema}}.tasks t where t.status = 'processing' and t.lease_expires_at < now());
    if take_expired and alone then
        select t.task_id into suspect
        from {{.Schema}}.tasks t
        where t.status = 'processing' and t.lease_expires_at < now() and t.lost_claims between 1 and max_lost - 1
          and t.task_id <> all (aside) and (these is null or t.task_id = any (these))
          and {{template "selected" .}}
          and (plain or pending_only or {{.Schema}}.choose_endpoint(endpoints, free, t.task_id, t.run, coalesce(t.model, ''),
                   case when t.request_open or t.unknown_outcomes > 0 then t.request_endpoint end) is not null)
        order by t.lease_expires_at
        limit 1
        for update skip locked;
    end if;
    if suspect is null then
        -- A call of a function that has nothing to do costs more than this look.
        if exists (select from {{.Schema}}.tasks where status = 'pending' and waits_for = 'time' and run_after <= now()) then
            perform {{.Schema}}.promote(1000, these);
        end if;
        if not pending_only and (hold and selective or exists (select from {{.Schema}}.tasks where status = 'pending' and waits_for = 'model')) then
            perform {{.Schema}}.hold_models(skips, onlys, max_tasks, hold, '{}');
        end if;
    end if;
    -- The most frequent case: no task has to be looked at by itself.
    if plain and not selective and not take_expired and these is null and aside = '{}'
       and not exists (select from {{.Schema}}.pending_results) and not exists (select from {{.Schema}}.set_aside) then
        return query
            with ready as (
                select t.ctid as place
                from {{.Schema}}.tasks t
                where (select paused_at is null from {{.Schema}}.control)
                  -- In the snapshot that the tasks are read from: a task with a result may have been released since the look above.
                  and not exists (select from {{.Schema}}.pending_results)
                  and t.status = 'pending' and t.waits_for is null
                order by (- t.priority), t.slot, t.backlog, t.run_after, t.task_id
                limit max_tasks
                for update skip locked
            ), claimed as (
                -- A row that was changed between the two looks has another ctid, and is left for the next claim.
                update {{.Schema}}.tasks t
                set {{template "claimed" .}},
                    endpoint = case when not (t.unknown_outcomes > 0 or t.request_open) or not {{.Schema}}.is_elsewhere(endpoints, t.request_endpoint) then only_name end,
                    permit_at = null
                where t.ctid = any (array(select place from ready))
                returning {{template "returned" .}}
            ), {{template "recorded" .}}
            )
            select c.task_id, c.run, c.user_id, c.prompt, c.options, c.model, c.input_count, c.attempt, c.max_attempts, c.lease_epoch,
                   c.requests_sent, c.unknown_outcomes, c.lost_claims, null::text, null::text, null::text, null::bigint, 0, null::bigint, null::text,
                   c.endpoint, c.sent_to
            from claimed c
            where (select count(*) from advanced) >= 0
            order by (- c.priority), c.slot, c.backlog, c.run_after, c.task_id;
        return;
    end if;
    -- A pause is looked up in the snapshot that the tasks are read from: what is enqueued after it is not claimed.
    if plain or pending_only then
        with expired as (
            select t.task_id
            from {{.Schema}}.tasks t
            where (select paused_at is null from {{.Schema}}.control) and take_expired and suspect is null
              and t.status = 'processing' and t.lease_expires_at < now() and t.lost_claims = 0 and max_lost > 0
              and t.task_id <> all (aside) and (these is null or t.task_id = any (these))
              and {{template "selected" .}}
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
              and {{template "selected" .}}
            order by (- t.priority), t.slot, t.backlog, t.run_after, t.task_id
            limit greatest(max_tasks - (select count(*) from expired), 0)
            for update skip locked
        )
        select coalesce(array_agg(t.task_id), '{}') into chosen
        from (select e.task_id from expired e union all select r.task_id from ready r union all select f.task_id from fetchable f
              union all select suspect where suspect is not null) t;
        if endpoints is not null and not pending_only then
            places := array_fill(1, array[cardinality(chosen)]);
        end if;
    else
        -- Expired ones first, as above. A task that is not chosen is left for the next claim.
        for candidate in
            (select t.task_id, t.run, coalesce(t.model, '') as model,
                    case when t.request_open or t.unknown_outcomes > 0 then t.request_endpoint end as bound
             from {{.Schema}}.tasks t
             where (select paused_at is null from {{.Schema}}.control) and take_expired
               and t.status = 'processing' and t.lease_expires_at < now()
               and (t.task_id = suspect or suspect is null and t.lost_claims = 0 and max_lost > 0)
               and t.task_id <> all (aside) and (these is null or t.task_id = any (these))
               and {{template "selected" .}}
             order by t.lease_expires_at
             limit case when suspect is null then least(max_tasks, max_expired) else 1 end
             for update skip locked)
        loop
            place := {{.Schema}}.choose_endpoint(endpoints, free, candidate.task_id, candidate.run, candidate.model, candidate.bound);
            continue when place is null;
            if place > 0 then
                free[place] := free[place] - 1;
                taken[place] := taken[place] + 1;
            end if;
            chosen := chosen || candidate.task_id;
            places := places || place;
        end loop;
        loop
            filled := false;
            for candidate in
                (select t.task_id, t.run, coalesce(t.model, '') as model, case when t.unknown_outcomes > 0 then t.request_endpoint end as bound
                 from {{.Schema}}.tasks t
                 where (select paused_at is null from {{.Schema}}.control) and suspect is null
                   and t.status = 'pending' and t.waits_for is null
                   and t.task_id <> all (aside) and t.task_id <> all (chosen) and (these is null or t.task_id = any (these))
                   and {{template "selected" .}}
                 order by (- t.priority), t.slot, t.backlog, t.run_after, t.task_id
                 for update skip locked)
            loop
                exit when cardinality(chosen) >= max_tasks or 0 = all (free) or seen > max_tasks + 1000;
                seen := seen + 1;
                place := {{.Schema}}.choose_endpoint(endpoints, free, candidate.task_id, candidate.run, candidate.model, candidate.bound);
                continue when place is null;
                if place > 0 then
                    free[place] := free[place] - 1;
                    taken[place] := taken[place] + 1;
                    filled := free[place] = 0;
                end if;
                chosen := chosen || candidate.task_id;
                places := places || place;
                exit when filled;
            end loop;
            exit when not filled or cardinality(chosen) >= max_tasks or 0 = all (free);
            -- Many tasks of the models of an endpoint that is full now must not keep others from their endpoints.
            models := {{.Schema}}.claimable_models(endpoints, free);
            skips := coalesce(skip_models, '{}') || models.unready;
            onlys := case when models.others then only_models when only_models is null then models.ready
                     else array(select unnest(only_models) intersect select unnest(models.ready)) end;
            selective := onlys is not null or cardinality(skips) > 0;
            perform {{.Schema}}.hold_models(skips, onlys, max_tasks, hold, chosen);
        end loop;
        clock := clock_timestamp();
        update {{.Schema}}.endpoints n
        set next_at = greatest(n.next_at, clock - interval '1 second') + taken[given.position] * {{.Schema}}.permit_interval((e ->> 'rate')::int)
        from jsonb_array_elements(endpoints) with ordinality as given (e, position)
        where n.name = e ->> 'name' and e ? 'rate' and taken[given.position] > 0;
    end if;
    if cardinality(chosen) = 0 then
        return;
    end if;
    return query
        with claimed as (
            update {{.Schema}}.tasks t
            set {{template "claimed" .}},
                endpoint = case when not {{.Schema}}.is_elsewhere(endpoints, case when t.unknown_outcomes > 0 or t.request_open then t.request_endpoint end)
                                then endpoints -> (nullif(picked.place, 0) - 1) ->> 'name' end,
                permit_at = case when picked.place > 0 then clock end
            from unnest(chosen, places) as picked (task_id, place)
            where t.task_id = picked.task_id
            returning {{template "returned" .}}
        ), {{template "recorded" .}}
        ), tried_again as (
            delete from {{.Schema}}.set_aside s using claimed c where s.task_id = c.task_id
        )
        select c.task_id, c.run, c.user_id, c.prompt, c.options, c.model, c.input_count, c.attempt, c.max_attempts, c.lease_epoch,
               c.requests_sent, c.unknown_outcomes, c.lost_claims, p.ref, p.request_id, p.endpoint,
               (extract(epoch from now() - p.saved_at) * 1000)::bigint, coalesce(p.gone, 0), (extract(epoch from now() - p.gone_since) * 1000)::bigint,
               p.usage::text, c.endpoint, c.sent_to
        from claimed c
        left join {{.Schema}}.pending_results p on p.task_id = c.task_id and p.run = c.run
        where (select count(*) from advanced) >= 0
        order by (- c.priority), c.slot, c.backlog, c.run_after, c.task_id;
end
$$;

-- The outcomes of a task's claims, with that of the claim that ended with its run, which the row tells where it is not recorded.
create function {{.Schema}}.attempts_of(task_id text) returns jsonb
language sql stable as $$
    select t.attempts || case
        when t.processing_started_at is null or t.status not in ('completed', 'failed') or t.status = 'failed' and t.error_code is null
             or t.attempts @> jsonb_build_array(jsonb_build_object('run', t.run, 'outcome', t.status)) then '[]'
        else jsonb_build_array(jsonb_strip_nulls(jsonb_build_object(
            'run', t.run, 'attempt', t.attempt_count + 1, 'epoch', t.lease_epoch, 'by', case t.status when 'completed' then 'holder' end,
            'outcome', t.status, 'at', t.completed_at,
            'seconds', round(extract(epoch from t.completed_at - t.processing_started_at)::numeric, 3),
            'code', t.error_code, 'message', t.error_message, 'request_id', t.request_id,
            'endpoint', case t.status when 'completed' then t.endpoint end))) end
    from {{.Schema}}.tasks t where t.task_id = attempts_of.task_id
$$;

-- Until the end of the transaction, a wait for a lock ends before deadlock_timeout. What locks many tasks calls it: a transaction of the application that
-- locks the same tasks in another order is not chosen as the victim of a deadlock, and the caller repeats the statement with fewer tasks.
create function {{.Schema}}.limit_waits() returns void
language plpgsql volatile as $$
begin
    perform set_config('lock_timeout', '500ms', true);
end
$$;

-- The row of a task that is reopened does not tell the end of its last run any more.
create function {{.Schema}}.keep_attempts() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    new.attempts := {{.Schema}}.attempts_of(old.task_id);
    if jsonb_array_length(new.attempts) > 50 then
        new.attempts := new.attempts - 0;
    end if;
    return new;
end
$$;
create trigger keep_attempts before update of status on {{.Schema}}.tasks for each row
    when (old.status = 'failed' and new.status in ('pending', 'processing')) execute function {{.Schema}}.keep_attempts();

-- Completes tasks under their leases, and returns those that were completed. A task that was requeued, and that nobody has claimed since, is completed
-- as well: its picture is there. Input pictures are deleted. usages are JSON, or empty.
create function {{.Schema}}.complete(task_ids text[], epochs bigint[], image_urls text[], request_ids text[], endpoints text[], notes text[], usages text[])
returns table (task_id text, lease_epoch bigint)
language plpgsql volatile set search_path = pg_catalog, pg_temp
-- The rows are updated one by one in the order of task_id, so that two calls with the same tasks don't deadlock.
set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
#variable_conflict use_column
declare
    without_events boolean := (select completion_events = '{}' from {{.Schema}}.control);
begin
    if cardinality(task_ids) > 1 then
        perform {{.Schema}}.limit_waits();
    end if;
    return query
        with given as (
            select * from unnest(task_ids, epochs, image_urls, request_ids, endpoints, notes, usages)
                as given (task_id, epoch, image_url, request_id, endpoint, note, usage)
            order by task_id
        ), done as (
            update {{.Schema}}.tasks t
            set status = 'completed',
                image_url = given.image_url,
                request_id = nullif(given.request_id, ''),
                request_open = false,
                request_key = null,
                progress_percentage = 100,
                current_stage = 'completed',
                error_code = null,
                error_message = null,
                leased_by = null,
                lease_expires_at = null,
                -- What the row tells anyway is not told twice (attempts_of). An application may begin another run of its task.
                attempts = case when given.note = '' and given.endpoint in ('', t.endpoint) and t.bridge_state is null then t.attempts
                           else {{noted "completed" "nullif(given.request_id, '')" "nullif(given.endpoint, '')" "nullif(given.note, '')"}} end,
                completed_at = now(),
                updated_at = now(),
                quiet = without_events
            from given
            -- The statistics may be of a time when few tasks were processing; the rows are found by their key.
            where t.task_id = given.task_id and t.lease_epoch = given.epoch and coalesce(t.status, '') in ('processing', 'pending')
            returning t.task_id, t.lease_epoch, t.run, t.user_id, t.input_count,
                      -- A picture that was found has no usage; it was paid for all the same.
                      coalesce(nullif(given.usage, ''), case when t.requests_sent > 0 then jsonb_build_object('endpoint', t.request_endpoint)::text end) as usage
        ), freed as (
            delete from {{.Schema}}.inputs where task_id = any (array(select task_id from done where input_count > 0))
        ), recorded as (
            {{result "completed" "done.task_id, done.run, done.user_id" "done.usage" "from done"}}
            -- What was recorded when its URL was known is as good, apart from the outcome.
            on conflict (task_id, run) do update set outcome = 'completed'
        )
        select done.task_id, done.lease_epoch from done;
end
$$;

-- Records paid requests, as begin_request does for one. Those whose lease is not held are left out.
create function {{.Schema}}.begin_requests(task_ids text[], epochs bigint[], call_ids text[], endpoints text[], rates int[])
returns table (task_id text, lease_epoch bigint, request_key text, wait_ms bigint)
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off -- as in complete
as $$
#variable_conflict use_column
begin
    if cardinality(task_ids) > 1 then
        perform {{.Schema}}.limit_waits();
    end if;
    if exists (select from unnest(rates) rate where rate > 0) then
        -- All tasks are locked before an endpoint, and the endpoints in the order of their names, as in free_endpoints: no claim waits for an endpoint
        -- while this waits for a task, and two calls don't deadlock.
        perform from unnest(task_ids, epochs) as given (task_id, epoch)
        join {{.Schema}}.tasks t on t.task_id = given.task_id and t.lease_epoch = given.epoch and coalesce(t.status, '') = 'processing'
        order by t.task_id
        for no key update of t;
        return query
            select given.task_id, given.epoch, begun.request_key, begun.wait_ms
            from (select * from unnest(task_ids, epochs, call_ids, endpoints, rates) as given (task_id, epoch, call, endpoint, rate)
                  order by endpoint, task_id) given
            cross join lateral {{.Schema}}.begin_request(given.task_id, given.epoch, given.call, given.endpoint, given.rate) begun
            where begun.request_key is not null or begun.wait_ms is not null;
        return;
    end if;
    return query
        with given as (
            select * from unnest(task_ids, epochs, call_ids::uuid[], endpoints) as given (task_id, epoch, call, endpoint) order by task_id
        )
        update {{.Schema}}.tasks t
        set requests_sent = t.requests_sent + case when t.request_call is distinct from given.call or not t.request_open then 1 else 0 end,
            request_key = case when t.request_call = given.call and t.request_open then t.request_key
                               when t.request_open then given.call::text -- the worker goes on after an answer within the same claim
                               else coalesce(t.request_key, given.call::text) end,
            request_open = true,
            request_call = given.call,
            request_endpoint = nullif(given.endpoint, '')
        from given
        where t.task_id = given.task_id and t.lease_epoch = given.epoch and coalesce(t.status, '') = 'processing'
        returning t.task_id, t.lease_epoch, t.request_key, null::bigint;
end
$$;

-- Whether a task has only what can be checked at a glance, which most have. null counts as no.
create function {{.Schema}}.is_plain_task(task jsonb) returns boolean
language sql immutable as $$
    select jsonb_typeof(task) = 'object' and task - array['prompt', 'options', 'cost', 'priority', 'run_at', 'inputs'] = '{}'
        and jsonb_typeof(task -> 'prompt') = 'string' and char_length(task ->> 'prompt') between 1 and 32000
        and (coalesce(task -> 'options', 'null') in ('null', '{}')
             or jsonb_typeof(task -> 'options') = 'object' and (task -> 'options') - 'model' = '{}'
                and jsonb_typeof(task -> 'options' -> 'model') = 'string' and char_length(task -> 'options' ->> 'model') between 1 and 200)
        and coalesce(task -> 'inputs', 'null') in ('null', '[]')
        and coalesce(task -> 'run_at', 'null') = 'null'
        and (coalesce(task -> 'cost', 'null') = 'null' or jsonb_typeof(task -> 'cost') = 'number' and task -> 'cost' between '0' and '1000000000000'
                                                        and strpos(task ->> 'cost', '.') = 0)
        and (coalesce(task -> 'priority', 'null') = 'null' or jsonb_typeof(task -> 'priority') = 'number' and task ->> 'priority' ~ '^[0-9]$')
$$;

-- As before, except that only tasks that are not plain are checked one by one.
create or replace function {{.Schema}}.enqueue_many(
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
    for task in select t from jsonb_array_elements(tasks) t where {{.Schema}}.is_plain_task(t) is not true loop
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

-- As before, with one statement for tasks and ledger.
create or replace function {{.Schema}}.insert_tasks(user_id text, tasks jsonb, out task_ids text[], out balance bigint)
language plpgsql volatile as $$
#variable_conflict use_column
declare
    limits {{.Schema}}.control;
    total numeric;
    stamp text;
begin
    lock table {{.Schema}}.control in row share mode; -- until set_limits has moved the tasks that wait
    select * into limits from {{.Schema}}.control;
    perform {{.Schema}}.check_waiting(insert_tasks.user_id, jsonb_array_length(tasks), limits.user_max_waiting);
    select sum(coalesce((t ->> 'cost')::numeric, 1)) into total from jsonb_array_elements(tasks) t;
    if total > 1000000000000 then
        perform {{.Schema}}.refuse('the tasks cost more than 1000000000000 credits together');
    end if;
    balance := {{.Schema}}.charge(insert_tasks.user_id, total::bigint);
    -- UUIDs of version 7 (RFC 9562): the time, the position in the call and a random part, so that each row comes last in the indexes by task.
    stamp := lpad(to_hex(floor(extract(epoch from clock_timestamp()) * 1000)::bigint), 12, '0');
    stamp := left(stamp, 8) || '-' || right(stamp, 4) || '-7';
    task_ids := array(select stamp || lpad(to_hex(n), 3, '0') || substr(gen_random_uuid()::text, 19)
                      from generate_series(0, jsonb_array_length(tasks) - 1) n);

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
    ), inserted as (
        insert into {{.Schema}}.tasks (task_id, user_id, prompt, options, model, max_attempts, input_count, priority, run_after, waits_for,
                                       slot, backlog, credits_cost, credits_deducted)
        select task_id, insert_tasks.user_id, prompt, options - 'model' - 'max_attempts', options ->> 'model',
               (options ->> 'max_attempts')::numeric::int, input_count, priority, greatest(run_at, now()),
               case when slot is null then 'time' when limits.user_concurrency > 0 then 'user' end,
               slot, slot - virtual_time, cost, cost
        from turns
        order by n
    )
    insert into {{.Schema}}.ledger (user_id, task_id, run, kind, amount, balance_after, reason)
    select insert_tasks.user_id, task_id, 1, 'charge', - cost, balance + total::bigint - sum(cost) over (order by n), 'task enqueued'
    from given
    where cost > 0
    order by n;

    if exists (select from jsonb_array_elements(tasks) t where t -> 'inputs' not in ('null', '[]')) then
        insert into {{.Schema}}.inputs (task_id, position, mask, content, url)
        select g.task_id, i.n, coalesce((i.input -> 'mask')::boolean, false),
               case when i.input ? 'base64' or i.input ->> 'url' like 'data:%' then {{.Schema}}.decode_input(coalesce(i.input ->> 'base64', i.input ->> 'url')) end,
               case when i.input ->> 'url' not like 'data:%' then i.input ->> 'url' end
        from rows from (unnest(task_ids), jsonb_array_elements(tasks)) as g (task_id, t)
        cross join jsonb_array_elements(nullif(g.t -> 'inputs', 'null')) with ordinality as i (input, n);
    end if;

    if limits.user_concurrency > 0 then
        perform {{.Schema}}.admit(array[insert_tasks.user_id], true);
    end if;
    perform pg_notify({{literal .Channel}}, '');
end
$$;

-- A statement that looked up that no event is wanted says so in the row (quiet), so that no trigger has to. What an earlier run has left says nothing.
drop trigger write_events on {{.Schema}}.tasks;
create trigger write_events after update of status on {{.Schema}}.tasks for each row
    when (old.status in ('pending', 'processing') and new.status in ('completed', 'failed', 'cancelled') and (old.quiet or not new.quiet))
    execute function {{.Schema}}.write_events();

-- As before.
create or replace view {{.Schema}}.task_status as
select t.task_id, t.run, t.user_id, t.status, t.priority, t.progress_percentage, t.current_stage, t.image_url,
       t.error_code, t.error_message, t.attempt_count, t.credits_cost, t.credits_deducted, t.credits_refunded,
       t.created_at, t.run_after, t.processing_started_at, t.completed_at, t.updated_at,
       place.position as queue_position,
       case when t.status = 'pending' then
           greatest(extract(epoch from t.run_after - now()), 0)::double precision
               + greatest(coalesce(place.position, 1) * speed.task_seconds / nullif(speed.capacity, 0),
                          place.own * speed.task_seconds / nullif(limits.user_concurrency, 0))
       end as expected_wait_seconds
from (
    -- Each half is found by user in an index of its own.
    select * from {{.Schema}}.tasks where status <> 'processing'
    union all
    select * from {{.Schema}}.tasks where status = 'processing'
) t
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
