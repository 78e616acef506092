-- compatible with: 5
--
-- Completion events: who is to hear that a task was closed. The statement that closes a task writes its events, whichever that is, so that none is
-- sent of a transaction that was rolled back and none is lost. Processors deliver them (pkg/webhook).
--
-- Lock order: tasks, outbox, events. Nothing waits for a row of events: each statement skips those that are locked, or names rows that it leased.

alter table {{.Schema}}.control add column completion_events text[] not null default '{}';
comment on column {{.Schema}}.control.completion_events is
    'what is written when a task is closed: webhook (COMPLETION_WEBHOOK_URL), task (options.webhook_url), notify (COMPLETION_NOTIFY); empty: nothing';

-- One row for each receiver of an event. All rows of one event have its id.
create table {{.Schema}}.events (
    event_id     text not null,
    receiver     text not null check (receiver in ('webhook', 'task', 'notify')),
    type         text not null,
    task_id      text not null,
    run          integer not null,
    data         jsonb not null,    -- the task as it was closed, without its prompt
    url          text,              -- of the task; null: the address is a setting
    host         text not null,     -- of url, for fair turns; empty: the address is a setting
    created_at   timestamptz not null default now(),
    state        text not null default 'due' check (state in ('due', 'delivered', 'undelivered', 'discarded')),
    held         boolean not null default false, -- until the end of the task is written to the application's table
    attempts     integer not null default 0,
    first_at     timestamptz,       -- of the first attempt
    next_at      timestamptz not null default now(), -- of the next attempt; while it is leased: the end of the lease
    lease        uuid,              -- the call that leased it
    ended_at     timestamptz,       -- it was delivered, or given up
    status       integer,           -- of the last response; null: there was none
    reason       text,              -- why the last attempt failed
    primary key (event_id, receiver)
);
comment on table {{.Schema}}.events is 'completion events and their delivery';

-- claim_events takes those that are due, host by host, and the hosts of those that have waited longest:
create index events_due on {{.Schema}}.events (host, next_at) where state = 'due' and not held and receiver <> 'notify';
create index events_waiting on {{.Schema}}.events (next_at) where state = 'due' and not held and receiver <> 'notify';
create index events_notify on {{.Schema}}.events (created_at) where state = 'due' and not held and receiver = 'notify';
create index events_held on {{.Schema}}.events (task_id) where held;
create index events_leased on {{.Schema}}.events (lease) where lease is not null;
create index events_undelivered on {{.Schema}}.events (created_at) where state = 'undelivered';
-- prune_events takes old ones, "webhooks list" the latest:
create index events_time on {{.Schema}}.events (created_at);
-- A row is updated twice and deleted some days later.
alter table {{.Schema}}.events set (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);

alter table {{.Schema}}.events enable row level security;

-- The host of a URL, with its port, in lower case. What is longer than any host is cut: an index takes no long texts, and the end of a task must not
-- depend on a URL.
create function {{.Schema}}.url_host(url text) returns text
language sql immutable as $$
    select left(lower(coalesce(substring(url from '^[A-Za-z][A-Za-z0-9+.-]*://(?:[^/?#@]*@)?([^/?#]*)'), '')), 300)
$$;

create function {{.Schema}}.write_events() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    wanted text[] := (select c.completion_events from {{.Schema}}.control c);
    url text;
begin
    if wanted is null or wanted = '{}' then
        return null;
    end if;
    if jsonb_typeof(new.options -> 'webhook_url') = 'string' then
        url := new.options ->> 'webhook_url';
    end if;
    insert into {{.Schema}}.events (event_id, receiver, type, task_id, run, data, url, host, held)
    select e.id, w.receiver, 'task.' || new.status, new.task_id, new.run,
           jsonb_build_object('user_id', new.user_id, 'status', new.status, 'model', new.model, 'image_url', new.image_url,
               'error_code', new.error_code, 'error_message', new.error_message, 'attempts', new.attempt_count,
               'credits_cost', new.credits_cost, 'credits_refunded', new.credits_refunded,
               'created_at', new.created_at, 'completed_at', new.completed_at),
           case when w.receiver = 'task' then url end, case when w.receiver = 'task' then {{.Schema}}.url_host(url) else '' end,
           new.bridge_state is not distinct from 'owed'
    from unnest(wanted) as w (receiver)
    cross join (select 'evt_' || replace(gen_random_uuid()::text, '-', '') as id) e
    where w.receiver <> 'task' or url is not null;
    return null;
end
$$;
create trigger write_events after update of status on {{.Schema}}.tasks for each row
    when (old.status in ('pending', 'processing') and new.status in ('completed', 'failed', 'cancelled'))
    execute function {{.Schema}}.write_events();

-- The events of a bridged task are delivered when its end stands in the application's table. The refund was given there.
create function {{.Schema}}.release_events() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    update {{.Schema}}.events e
    set held = false, next_at = now(),
        data = e.data || jsonb_build_object('credits_refunded', coalesce((
            select sum(l.amount) from {{.Schema}}.ledger l where l.task_id = e.task_id and l.run = e.run and l.kind = 'refund'), 0))
    where e.task_id = old.task_id and e.held;
    return null;
end
$$;
create trigger release_events after delete on {{.Schema}}.outbox for each row execute function {{.Schema}}.release_events();

-- Leases up to max_events events that are due for lease_ms, the oldest first, and of one host at most per_host, or what limits says of it. A call that
-- is repeated with the same id returns the same events. Reads up to 1000 hosts, and those of the 1000 events that have waited longest, so that more
-- hosts with events of a later time hold up nobody. In a copy of the database nothing is leased.
create function {{.Schema}}.claim_events(call_id uuid, max_events int, per_host int, lease_ms bigint, limited text[], limits int[])
returns table (event_id text, receiver text, type text, task_id text, run int, data jsonb, url text, host text, created_at timestamptz, attempts int)
language plpgsql volatile set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = on set jit = off -- as in claim
as $$
#variable_conflict use_column
begin
    perform pg_advisory_xact_lock(hashtextextended(claim_events.call_id::text, 0));
    if exists (select from {{.Schema}}.events e where e.lease = claim_events.call_id) then
        return query
            update {{.Schema}}.events e set next_at = now() + lease_ms * interval '1 millisecond'
            where e.lease = claim_events.call_id
            returning e.event_id, e.receiver, e.type, e.task_id, e.run, e.data, e.url, e.host, e.created_at, e.attempts;
        return;
    end if;
    if not {{.Schema}}.bridge_is_here() then
        return;
    end if;
    return query
        with recursive hosts as (
            select (select min(e.host) from {{.Schema}}.events e where e.state = 'due' and not e.held and e.receiver <> 'notify') as host, 1 as n
            union all
            select (select min(e.host) from {{.Schema}}.events e
                    where e.state = 'due' and not e.held and e.receiver <> 'notify' and e.host > hosts.host), n + 1
            from hosts where hosts.host is not null and n < 1000
        ), asked as (
            select host from hosts where host is not null
            union
            select w.host from (
                select e.host from {{.Schema}}.events e
                where e.state = 'due' and not e.held and e.receiver <> 'notify' and e.next_at <= now()
                order by e.next_at
                limit 1000) w
        ), due as (
            select d.event_id, d.receiver
            from asked cross join lateral (
                select e.event_id, e.receiver, e.next_at
                from {{.Schema}}.events e
                where e.state = 'due' and not e.held and e.receiver <> 'notify' and e.host = asked.host and e.next_at <= now()
                order by e.next_at
                limit coalesce((select l.n from unnest(limited, limits) as l (host, n) where l.host = asked.host), per_host)
                for update skip locked) d
            order by d.next_at
            limit max_events
        )
        update {{.Schema}}.events e
        set lease = claim_events.call_id, first_at = coalesce(e.first_at, now()), next_at = now() + lease_ms * interval '1 millisecond'
        from due
        where e.event_id = due.event_id and e.receiver = due.receiver
        returning e.event_id, e.receiver, e.type, e.task_id, e.run, e.data, e.url, e.host, e.created_at, e.attempts;
end
$$;

-- As before, with the option webhook_url. Whether its host is allowed is a setting of the processors, which look when they deliver.
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
                          'input_fidelity', 'webhook_url') then 'string'
            when name in ('output_compression', 'max_attempts') then 'number'
            when name = 'extra' then 'object'
        end;
        if expected is not null and jsonb_typeof(value) <> expected then
            perform {{.Schema}}.refuse(format('option %s must be %s %s', name, case expected when 'object' then 'an' else 'a' end, expected));
        elsif name = 'webhook_url' and not ((value #>> '{}') ~* '^https?://[^[:space:][:cntrl:]]+$' and char_length(value #>> '{}') <= 2000) then
            perform {{.Schema}}.refuse('option webhook_url must be an http or https URL of at most 2000 characters');
        elsif expected = 'string' and name <> 'webhook_url' and char_length(value #>> '{}') > 200 then
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
