-- compatible with: 5
--
-- Pauses of endpoints and models, and the log of what operators did.

lock table {{.Schema}}.control in access exclusive mode;

-- A row of the only table that each claim reads anyway: a claim costs nothing more while nothing is paused.
alter table {{.Schema}}.control
    add column pauses jsonb not null default '[]' check (jsonb_typeof(pauses) = 'array' and jsonb_array_length(pauses) <= 100);
comment on column {{.Schema}}.control.pauses is 'endpoints and models that no tasks are claimed for: scope, name, since, by, reason';

-- What operators did: like the ledger, a row is never changed and never deleted.
create table {{.Schema}}.operations (
    id           bigint generated always as identity primary key,
    operation_id uuid not null unique, -- of the call: a repeat adds nothing
    at           timestamptz not null default now(),
    who          text not null check (char_length(who) <= 500),
    what         text not null check (char_length(what) between 1 and 100),
    subject      text not null default '' check (char_length(subject) <= 2000),
    detail       text not null default '' check (char_length(detail) <= 2000),
    result       text not null check (char_length(result) <= 2000)
);
alter table {{.Schema}}.operations enable row level security;
comment on table {{.Schema}}.operations is 'what operators did, by the status page or by a command';
comment on column {{.Schema}}.operations.subject is 'the task, user, endpoint or model; empty: the whole queue';

create function {{.Schema}}.operations_append_only() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    raise exception '% is append-only: % refused', tg_table_name, tg_op using errcode = 'restrict_violation';
end
$$;
create trigger append_only before update or delete or truncate on {{.Schema}}.operations
    for each statement execute function {{.Schema}}.operations_append_only();

-- The endpoints of a claim with pauses taken into account: none of a paused endpoint is free, and no tasks of a paused model are for any. "default" of
-- an endpoint is the model of tasks without one.
create function {{.Schema}}.with_pauses(endpoints jsonb, pauses jsonb) returns jsonb
language plpgsql immutable as $$
declare
    models jsonb;
begin
    if pauses = '[]' or endpoints is null then
        return endpoints;
    end if;
    models := (select coalesce(jsonb_agg(p -> 'name'), '[]') from jsonb_array_elements(pauses) p where p ->> 'scope' = 'model');
    return (
        select jsonb_agg(
            e || jsonb_build_object('skip', coalesce(e -> 'skip', '[]') || models || case when models ? (e ->> 'default') then '[""]'::jsonb else '[]' end)
              || case when exists (select from jsonb_array_elements(pauses) p where p ->> 'scope' = 'endpoint' and p ->> 'name' = e ->> 'name')
                      then '{"max": 0, "free": 0}'::jsonb else '{}' end
            order by position)
        from jsonb_array_elements(endpoints) with ordinality as given (e, position)
    );
end
$$;

-- As before, except that a model that every endpoint skips is not ready where none has it, either: while it is paused, its tasks wait.
create or replace function {{.Schema}}.claimable_models(endpoints jsonb, free int[], out ready text[], out unready text[], out others boolean)
language sql immutable as $$
    with given as (
        select e, coalesce(free[position], 0) > 0 as is_free from jsonb_array_elements(endpoints) with ordinality as given (e, position)
    ), named as (
        select distinct model from given
        cross join jsonb_array_elements_text(coalesce(e -> 'models', '[]') || coalesce(e -> 'skip', '[]')) as model
    ), judged as (
        select model, coalesce(bool_or(is_free and not coalesce(e -> 'skip' ? model, false)),
                               exists (select from given g where not coalesce(g.e -> 'skip' ? model, false))) as is_ready
        from named left join given on not e ? 'models' or e -> 'models' ? model
        group by model
    )
    select coalesce(array_agg(model) filter (where is_ready), '{}'), coalesce(array_agg(model) filter (where not is_ready), '{}'),
           (select coalesce(bool_or(is_free), true) from given where not e ? 'models')
    from judged
$$;

-- As before, except that pauses of endpoints and models hold as if those were out of order, and that it returns how long a task had been due and what
-- its run was charged.
drop function {{.Schema}}.claim(uuid, text, int, bigint, int, int, int, bigint, boolean, text[], text[], text[], boolean, jsonb, boolean);
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
                      t.priority, t.slot, t.backlog, t.run_after,
                      (greatest(extract(epoch from t.processing_started_at - t.run_after), 0) * 1000)::bigint as waited_ms, t.credits_deducted
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
create function {{.Schema}}.claim(call_id uuid, worker text, max_tasks int, lease_ms bigint, fallback_attempts int, max_lost int,
    max_expired int, after_start_ms bigint, alone boolean, these text[],
    skip_models text[], only_models text[], pending_only boolean, endpoints jsonb, hold boolean)
returns table (task_id text, run int, user_id text, prompt text, options jsonb, model text, input_count int,
               attempt int, max_attempts int, lease_epoch bigint, requests_sent int, unknown_outcomes int, lost_claims int,
               pending_ref text, pending_request text, pending_endpoint text, pending_ms bigint, gone int, gone_ms bigint, pending_usage text,
               endpoint text, sent_to text, waited_ms bigint, charged bigint)
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
    claim_pauses jsonb; -- of endpoints and models
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
                   p.usage::text, h.endpoint, h.sent_to, h.waited_ms, h.credits_deducted
            from held h left join {{.Schema}}.pending_results p on p.task_id = h.task_id and p.run = h.run
            order by (- h.priority), h.slot, h.backlog, h.run_after, h.task_id;
        return;
    end if;
    select c.pauses into claim_pauses from {{.Schema}}.control c where c.paused_at is null and c.database_identity = {{.Schema}}.database_identity();
    if not found then
        return;
    end if;
    if claim_pauses <> '[]' then
        skips := skips || array(select p ->> 'name' from jsonb_array_elements(claim_pauses) p where p ->> 'scope' = 'model')
            || case when plain and claim_pauses @> jsonb_build_array(jsonb_build_object('scope', 'model', 'name', endpoints -> 0 ->> 'default'))
                    then array[''] else '{}' end;
        -- One endpoint without limits needs no more than that, which costs less.
        if endpoints is not null and not (plain and not claim_pauses @> jsonb_build_array(jsonb_build_object('scope', 'endpoint', 'name', only_name))) then
            plain := false;
            endpoints := {{.Schema}}.with_pauses(endpoints, claim_pauses);
        end if;
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
                where (select c.paused_at is null and c.pauses = claim_pauses from {{.Schema}}.control c)
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
                   c.endpoint, c.sent_to, c.waited_ms, c.credits_deducted
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
            where (select c.paused_at is null and c.pauses = claim_pauses from {{.Schema}}.control c) and take_expired and suspect is null
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
            where pending_only and (select c.paused_at is null and c.pauses = claim_pauses from {{.Schema}}.control c) and suspect is null
              and t.status = 'pending' and t.waits_for is null
              and t.task_id <> all (aside) and (these is null or t.task_id = any (these))
            limit greatest(max_tasks - (select count(*) from expired), 0)
            for update of t skip locked
        ), ready as (
            select t.task_id
            from {{.Schema}}.tasks t
            where not pending_only and (select c.paused_at is null and c.pauses = claim_pauses from {{.Schema}}.control c) and suspect is null
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
        -- Expired ones first, as above. A task that is not chosen is left for the next claim. Those that wait for an endpoint, which may be paused for
        -- days, are passed by.
        for candidate in
            (select t.task_id, t.run, coalesce(t.model, '') as model,
                    case when t.request_open or t.unknown_outcomes > 0 then t.request_endpoint end as bound
             from {{.Schema}}.tasks t
             where (select c.paused_at is null and c.pauses = claim_pauses from {{.Schema}}.control c) and take_expired
               and t.status = 'processing' and t.lease_expires_at < now()
               and (t.task_id = suspect or suspect is null and t.lost_claims = 0 and max_lost > 0)
               and t.task_id <> all (aside) and (these is null or t.task_id = any (these))
               and {{template "selected" .}}
             order by t.lease_expires_at
             limit case when suspect is null then max_tasks + 1000 else 1 end
             for update skip locked)
        loop
            exit when cardinality(chosen) >= least(max_tasks, max_expired);
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
                 where (select c.paused_at is null and c.pauses = claim_pauses from {{.Schema}}.control c) and suspect is null
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
               p.usage::text, c.endpoint, c.sent_to, c.waited_ms, c.credits_deducted
        from claimed c
        left join {{.Schema}}.pending_results p on p.task_id = c.task_id and p.run = c.run
        where (select count(*) from advanced) >= 0
        order by (- c.priority), c.slot, c.backlog, c.run_after, c.task_id;
end
$$;
