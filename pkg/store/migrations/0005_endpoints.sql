-- compatible with: 5
--
-- Several endpoints: the claim chooses one for each task and takes a permit of its rate and concurrency, which hold over all processors. What a
-- paid request used is recorded for the task and for reports.
--
-- Programs of version 4 know of no endpoints, so they claim nothing any more; what they have claimed they finish.

-- In the order of an application that enqueues in a transaction of its own, as in version 2.
lock table {{.Schema}}.credits, {{.Schema}}.tasks, {{.Schema}}.pending_results in access exclusive mode;

alter table {{.Schema}}.tasks
    add column endpoint text check (char_length(endpoint) <= 2000),
    add column permit_at timestamptz check (isfinite(permit_at));
comment on column {{.Schema}}.tasks.endpoint is 'the endpoint that the last claim chose for a paid request; null: it needed none, or none has the model';
comment on column {{.Schema}}.tasks.permit_at is 'from when the request of this claim may be sent by the rate of its endpoint; null: it needs no permit';

alter table {{.Schema}}.pending_results
    add column usage jsonb check (jsonb_typeof(usage) = 'object' and octet_length(usage::text) <= 16384);

-- The state of the rates of endpoints. A claim locks the rows of those that have a limit, so that no permit is taken twice.
create table {{.Schema}}.endpoints (
    name    text primary key check (char_length(name) between 1 and 2000),
    rate    integer check (rate > 0),
    next_at timestamptz not null default '-infinity' -- when the next request may be sent
);
alter table {{.Schema}}.endpoints enable row level security;

-- What paid requests used that were answered with a result: one for a run. Like the ledger, the rows stay when tasks are pruned.
create table {{.Schema}}.results (
    task_id  text not null,
    run      integer not null,
    user_id  text not null,
    outcome  text not null check (outcome in ('completed', 'paid')),
    at       timestamptz not null default now(),
    endpoint text check (char_length(endpoint) <= 2000),
    model    text check (char_length(model) <= 1000),
    took_ms  bigint check (took_ms >= 0),
    usage    jsonb check (jsonb_typeof(usage) = 'object'),
    cost     bigint not null default 0 check (cost between 0 and 1000000000000000),
    currency text check (char_length(currency) between 1 and 20),
    primary key (task_id, run)
);
alter table {{.Schema}}.results enable row level security;
comment on table {{.Schema}}.results is 'one row for each run that the API made a result for';
comment on column {{.Schema}}.results.outcome is 'paid: the task has no picture, or not yet';
comment on column {{.Schema}}.results.model is 'as it was sent';
comment on column {{.Schema}}.results.usage is 'what the API says it used';
comment on column {{.Schema}}.results.cost is 'its price in millionths of the currency; 0 where no price is set';
create index results_time on {{.Schema}}.results using brin (at) with (pages_per_range = 32, autosummarize = on);

-- Requests are spread evenly at 95 % of a rate per minute, so that no minute has more than the rate although requests arrive late: a claim may take
-- up what up to a second has left unused, and a request leaves at most a second after its permit. That is less than the 5 % of a minute.
create function {{.Schema}}.permit_interval(rate int) returns interval
language sql immutable as $$ select interval '60 seconds' / (0.95 * rate) $$;

-- Returns the endpoints that are given, each with "free": how many paid requests the next claim may choose it for. It locks the rows of
-- those that have a limit.
--
-- endpoints is an array of objects: name, address (the name that requests were recorded under before it had one), models (of tasks; missing: all),
-- skip (models that are out of order), max (of requests that this claim may choose it for), rate (per minute), concurrency, preference, weight.
create function {{.Schema}}.free_endpoints(endpoints jsonb, max_tasks int) returns jsonb
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
              where coalesce(status, '') = 'processing' and lease_expires_at > now() and permit_at is not null and endpoint = any (limited)
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

-- Which models tasks may have that are claimed, so that no function is called for each row of a long queue: ready and unready are the names in
-- endpoints, others is about all other models. A model is ready if an endpoint with a free permit has it, or none of all has it, so that the task
-- fails. free is by the position of the endpoint.
create function {{.Schema}}.claimable_models(endpoints jsonb, free int[], out ready text[], out unready text[], out others boolean)
language sql immutable as $$
    with given as (
        select e, coalesce(free[position], 0) > 0 as is_free from jsonb_array_elements(endpoints) with ordinality as given (e, position)
    ), named as (
        select distinct model from given
        cross join jsonb_array_elements_text(coalesce(e -> 'models', '[]') || coalesce(e -> 'skip', '[]')) as model
    ), judged as (
        select model, coalesce(bool_or(is_free and not coalesce(e -> 'skip' ? model, false)), true) as is_ready
        from named left join given on not e ? 'models' or e -> 'models' ? model
        group by model
    )
    select coalesce(array_agg(model) filter (where is_ready), '{}'), coalesce(array_agg(model) filter (where not is_ready), '{}'),
           (select coalesce(bool_or(is_free), true) from given where not e ? 'models')
    from judged
$$;

-- Whether a model is none of skip_models, and one of only_models (null: any). It is inlined.
create function {{.Schema}}.is_model(model text, skip_models text[], only_models text[]) returns boolean
language sql immutable as $$ select coalesce(model, '') <> all (skip_models) and (only_models is null or coalesce(model, '') = any (only_models)) $$;

-- Returns the position of the endpoint for a task with that model: of those with the lowest preference that have it and a free permit, one by
-- weight. bound: the endpoint that a request of unknown outcome was sent to: no other may be chosen. 0: the task needs none, because
-- what is paid for is to be fetched or it can't be worked at any. null: none is free.
create function {{.Schema}}.choose_endpoint(endpoints jsonb, free int[], task_id text, run int, model text, bound text) returns int
language plpgsql volatile as $$
declare
    e jsonb;
    best int;
    total double precision;
    weight double precision;
    chosen int;
begin
    if exists (select from {{.Schema}}.pending_results p where p.task_id = choose_endpoint.task_id and p.run = choose_endpoint.run)
       or {{.Schema}}.is_elsewhere(endpoints, bound) or not {{.Schema}}.is_served(endpoints, model) then
        return 0;
    end if;
    for i in 1 .. cardinality(free) loop
        e := endpoints -> (i - 1);
        continue when free[i] <= 0 or e ? 'models' and not e -> 'models' ? model or coalesce(e -> 'skip' ? model, false)
            or bound is not null and bound is distinct from e ->> 'name' and bound is distinct from e ->> 'address';
        weight := coalesce((e ->> 'weight')::double precision, 1);
        if chosen is null or (e ->> 'preference')::int < best then
            best := (e ->> 'preference')::int;
            total := weight;
            chosen := i;
        elsif (e ->> 'preference')::int = best then
            total := total + weight;
            if random() * total < weight then
                chosen := i;
            end if;
        end if;
    end loop;
    return chosen;
end
$$;

drop function {{.Schema}}.claim(uuid, text, int, bigint, int, int, int, bigint, boolean, text[], text[], text[], boolean);
drop function {{.Schema}}.hold_models(text[], text[], int);
drop function {{.Schema}}.is_selected(text, int, text, text[], text[], boolean);

-- Whether an endpoint of all has the model.
create function {{.Schema}}.is_served(endpoints jsonb, model text) returns boolean
language sql immutable as $$
    select exists (select from jsonb_array_elements(endpoints) e where not e ? 'models' or e -> 'models' ? model)
$$;

-- Whether a request of unknown outcome was sent to an endpoint that is not among those given: it is not repeated elsewhere.
create function {{.Schema}}.is_elsewhere(endpoints jsonb, bound text) returns boolean
language sql immutable as $$
    select endpoints is not null and bound is not null
        and not exists (select from jsonb_array_elements(endpoints) e where bound in (e ->> 'name', e ->> 'address'))
$$;

-- Moves tasks of the models skip_models, and with only_models of all but these, out of the way of the next max_tasks others, and back tasks of all
-- other models, so that the next max_tasks of each may start. Their turns stay as they are. hold: tasks are moved out of the way, too, but not
-- those that are chosen.
create function {{.Schema}}.hold_models(skip_models text[], only_models text[], max_tasks int, hold boolean, chosen text[]) returns void
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
            where names.model is not null and {{.Schema}}.is_model(names.model, skip_models, only_models)
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
    if hold and (cardinality(skip_models) > 0 or only_models is not null) then
        for i in 1 .. 20 loop
            select array_agg(ready.task_id) filter (where skipped), count(*) filter (where not skipped) into head, others
            from (
                select t.task_id, not {{.Schema}}.is_model(t.model, skip_models, only_models)
                    and not exists (select from {{.Schema}}.pending_results p where p.task_id = t.task_id and p.run = t.run) as skipped
                from (
                    select task_id, run, model from {{.Schema}}.tasks
                    where status = 'pending' and waits_for is null and task_id <> all (chosen)
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

-- Claims up to max_tasks tasks: those with an expired lease first, then those that may start, by priority and turn. A call
-- that is repeated with the same id returns the same leases, as far as they still hold, for another lease_ms. fallback_attempts is for
-- tasks without max_attempts of their own. Claims never wait for each other, except for permits of endpoints with limits: rows locked by others are
-- skipped.
--
-- max_expired: how many of them may be tasks with an expired lease; after_start_ms: none is, if the server was started within this time, because
-- their owners may come back.
-- alone: the processor works on nothing else. Only then is a task claimed that was lost twice in a row, and nothing with it; one that was lost
-- max_lost times is claimed once more, to look for what is paid for already. these: no other tasks.
--
-- Tasks of the models skip_models are left out, and all but those of only_models (null: all models; '' is the name of a task without one). A task
-- with a pending result needs no model, and is not left out. pending_only: only tasks with a pending result.
--
-- endpoints are all that are configured (see free_endpoints); null: none is chosen. A task gets none whose model none of them has, or whose
-- request of unknown outcome was sent to one that is not configured any more (sent_to). hold: tasks that can't be claimed now are moved out of the
-- way of the others.
{{define "selected" -}}
(not selective or not pending_only and {{.Schema}}.is_model(t.model, skips, onlys)
                   or only_models is null and exists (select from {{.Schema}}.pending_results p where p.task_id = t.task_id and p.run = t.run))
{{- end -}}
create function {{.Schema}}.claim(call_id uuid, worker text, max_tasks int, lease_ms bigint, fallback_attempts int, max_lost int,
    max_expired int, after_start_ms bigint, alone boolean, these text[],
    skip_models text[], only_models text[], pending_only boolean, endpoints jsonb, hold boolean)
returns table (task_id text, run int, user_id text, prompt text, options jsonb, model text, input_count int,
               attempt int, max_attempts int, lease_epoch bigint, requests_sent int, unknown_outcomes int, lost_claims int,
               pending_ref text, pending_request text, pending_endpoint text, pending_ms bigint, gone int, gone_ms bigint, pending_usage text,
               endpoint text, sent_to text)
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
                cross join jsonb_each_text(c.result) as held (task_id, epoch)
                where c.call_id = claim.call_id and t.task_id = held.task_id and t.lease_epoch = held.epoch::bigint and coalesce(t.status, '') = 'processing'
                returning t.task_id, t.run, t.user_id, t.prompt, t.options, coalesce(t.model, '') as model, t.input_count::int as input_count,
                          t.attempt_count + 1 as attempt, coalesce(t.max_attempts, fallback_attempts) as max_attempts, t.lease_epoch,
                          t.requests_sent, t.unknown_outcomes, t.lost_claims, t.endpoint, t.request_endpoint
            )
            select h.task_id, h.run, h.user_id, h.prompt, h.options, h.model, h.input_count, h.attempt, h.max_attempts, h.lease_epoch,
                   h.requests_sent, h.unknown_outcomes, h.lost_claims, p.ref, p.request_id, p.endpoint,
                   (extract(epoch from now() - p.saved_at) * 1000)::bigint, coalesce(p.gone, 0), (extract(epoch from now() - p.gone_since) * 1000)::bigint,
                   p.usage::text, h.endpoint, h.request_endpoint
            from held h left join {{.Schema}}.pending_results p on p.task_id = h.task_id and p.run = h.run;
        return;
    end if;
    if (select c.paused_at is not null or c.database_identity is distinct from {{.Schema}}.database_identity() from {{.Schema}}.control c) then
        return;
    end if;
    aside := {{.Schema}}.tasks_set_aside();
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
    if take_expired and alone then
        select t.task_id into suspect
        from {{.Schema}}.tasks t
        where coalesce(t.status, '') = 'processing' and t.lease_expires_at < now() and t.lost_claims between 1 and max_lost - 1
          and t.task_id <> all (aside) and (these is null or t.task_id = any (these))
          and {{template "selected" .}}
          and (plain or pending_only or {{.Schema}}.choose_endpoint(endpoints, free, t.task_id, t.run, coalesce(t.model, ''),
                   case when t.request_open or t.unknown_outcomes > 0 then t.request_endpoint end) is not null)
        order by t.lease_expires_at
        limit 1
        for update skip locked;
    end if;
    if suspect is null then
        perform {{.Schema}}.promote(1000, these);
        if not pending_only then
            perform {{.Schema}}.hold_models(skips, onlys, max_tasks, hold, '{}');
        end if;
    end if;
    -- A pause is looked up in the snapshot that the tasks are read from: what is enqueued after it is not claimed.
    if plain or pending_only then
        with expired as (
            select t.task_id
            from {{.Schema}}.tasks t
            where (select paused_at is null from {{.Schema}}.control) and take_expired and suspect is null
              and coalesce(t.status, '') = 'processing' and t.lease_expires_at < now() and t.lost_claims = 0 and max_lost > 0
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
               and coalesce(t.status, '') = 'processing' and t.lease_expires_at < now()
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
                current_stage = 'claimed',
                endpoint = case when not {{.Schema}}.is_elsewhere(endpoints, case when t.unknown_outcomes > 0 or t.request_open then t.request_endpoint end)
                                then endpoints -> (nullif(places[array_position(chosen, t.task_id)], 0) - 1) ->> 'name' end,
                permit_at = case when places[array_position(chosen, t.task_id)] > 0 then clock end
            where t.task_id = any (chosen)
            returning t.task_id, t.run, t.user_id, t.prompt, t.options, coalesce(t.model, '') as model,
                      t.input_count::int as input_count, t.attempt_count + 1 as attempt,
                      coalesce(t.max_attempts, fallback_attempts) as max_attempts, t.lease_epoch,
                      t.requests_sent, t.unknown_outcomes, t.lost_claims, t.endpoint,
                      t.request_endpoint as sent_to,
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
                   (extract(epoch from now() - p.saved_at) * 1000)::bigint, coalesce(p.gone, 0), (extract(epoch from now() - p.gone_since) * 1000)::bigint, p.usage::text, c.endpoint, c.sent_to
        from claimed c
        left join {{.Schema}}.pending_results p on p.task_id = c.task_id and p.run = c.run
        where (select count(*) from advanced) >= 0
        order by (- c.priority), c.slot, c.backlog, c.run_after, c.task_id;
end
$$;

-- Records a paid request before it is sent, and returns its idempotency key: that of the last request as long as its outcome is unknown, else a
-- new one. A repeat of the call records nothing more. Without a key the lease is not held, or, with wait_ms, the permit of the claim is too old:
-- the task has a new one from then on. rate: of the endpoint, 0: no limit.
create function {{.Schema}}.begin_request(task_id text, epoch bigint, call_id text, endpoint text, rate int, out request_key text, out wait_ms bigint)
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    held record;
    clock timestamptz;
    next timestamptz;
begin
    if begin_request.rate > 0 then
        select t.permit_at, t.request_open and t.request_call = begin_request.call_id::uuid as recorded into held
        from {{.Schema}}.tasks t
        where t.task_id = begin_request.task_id and t.lease_epoch = epoch and coalesce(t.status, '') = 'processing'
        for no key update;
        if not found then
            return;
        end if;
        if not coalesce(held.recorded, false) then
            clock := clock_timestamp();
            -- One in the future was taken by a call before. If that is after the next one, the rate was raised, or a clock was ahead.
            if held.permit_at is null or held.permit_at < clock - interval '1 second'
               or held.permit_at > clock and held.permit_at >= (select n.next_at from {{.Schema}}.endpoints n where n.name = begin_request.endpoint) then
                insert into {{.Schema}}.endpoints (name) values (begin_request.endpoint) on conflict do nothing;
                select greatest(n.next_at, clock_timestamp() - interval '1 second') into next
                from {{.Schema}}.endpoints n where n.name = begin_request.endpoint for no key update;
                update {{.Schema}}.endpoints n set next_at = next + {{.Schema}}.permit_interval(begin_request.rate) where n.name = begin_request.endpoint;
                clock := clock_timestamp();
                held.permit_at := greatest(next, clock);
                update {{.Schema}}.tasks t set permit_at = held.permit_at where t.task_id = begin_request.task_id;
            end if;
            if held.permit_at > clock then
                wait_ms := ceil(extract(epoch from held.permit_at - clock) * 1000);
                return;
            end if;
        end if;
    end if;
    update {{.Schema}}.tasks t
    set requests_sent = t.requests_sent + case when t.request_call is distinct from begin_request.call_id::uuid or not t.request_open then 1 else 0 end,
        request_key = case when t.request_call = begin_request.call_id::uuid and t.request_open then t.request_key
                           when t.request_open then begin_request.call_id -- the worker goes on after an answer within the same claim
                           else coalesce(t.request_key, begin_request.call_id) end,
        request_open = true,
        request_call = begin_request.call_id::uuid,
        request_endpoint = nullif(begin_request.endpoint, '')
    where t.task_id = begin_request.task_id and t.lease_epoch = epoch and coalesce(t.status, '') = 'processing'
    returning t.request_key into begin_request.request_key;
end
$$;

-- As in version 4, except that a row that says cancelled where its task has failed is no difference: the application may have set a row back to pending
-- whose refund was still owed, and cancelled it before that was looked at.
create or replace function {{.Schema}}.bridge_check() returns table (code text, subject text, detail text, id bigint)
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
        select case when a.state is distinct from c.status and not (c.status in ('failed', 'cancelled') and a.state in ('failed', 'cancelled')) then 'state_differs' else 'refund_not_shown' end,
               c.task_id, 'the task is ' || c.status || ', its row says ' || coalesce(a.word, 'null'), null::bigint
        from closed c join {{.Schema}}.app_rows(array(select x.task_id from closed x)) a on a.key = c.task_id
        where (a.state is distinct from c.status and not (c.status in ('failed', 'cancelled') and a.state in ('failed', 'cancelled')))
           or (b.shows_refunds and not a.refunded and c.task_id in (select r.task_id from refunds r));
    return query select 'lost_update', l.user_id, 'at ' || l.at || ': ' || coalesce(l.before::text, 'none') || ' -> ' || coalesce(l.after::text, 'none') || ', after ours: ' || l.ours, l.id
        from {{.Schema}}.lost_updates l where l.at > now() - interval '7 days' and l.acknowledged_at is null order by l.id desc limit 100;
end
$$;
