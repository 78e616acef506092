-- A small application, and functions for its tables as adopt generates them, written by hand: tests of the bridge's own rules use it.
create table public.jobs (
    id text primary key, owner text not null, prompt text, state text not null default 'pending', url text, error text, stage text, percent int,
    cost int not null default 1, charged boolean not null default true, refunded boolean not null default false, picture text, created timestamptz default clock_timestamp());
create table public.wallets (owner text primary key, credits int not null);
create table public.gallery (job text, url text check (url like 'https://%'));

create function imagetasks.app_rows(keys text[])
returns table (key text, user_id text, prompt text, options jsonb, input_count int, state text, word text, cost bigint, charged boolean, refunded boolean)
language sql stable as $$
    select id, owner, coalesce(j.prompt, ''), '{}'::jsonb, (picture is not null)::int,
           case when j.state in ('pending', 'processing', 'completed', 'failed', 'cancelled') then j.state end, j.state, j.cost::bigint, j.charged, j.refunded
    from public.jobs j where id = any (keys)
$$;
create function imagetasks.app_live() returns setof text language sql stable as $$
    select id from public.jobs where state in ('pending', 'processing') order by created
$$;
create function imagetasks.app_inputs(key text) returns table (mask boolean, content bytea, url text) language sql stable as $$
    select false, imagetasks.decode_input(picture), null::text from public.jobs where id = key
$$;
create function imagetasks.app_progress(key text, percent int, stage text) returns text language plpgsql as $$
declare was text;
begin
    perform set_config('lock_timeout', '100ms', true);
    select state into was from public.jobs where id = key for no key update;
    if not found then return 'gone'; elsif was not in ('pending', 'processing') then return 'superseded'; end if;
    update public.jobs set state = 'processing', percent = app_progress.percent, stage = app_progress.stage where id = key;
    return 'written';
end $$;
create function imagetasks.app_close(key text, state text, url text, message text, details jsonb) returns text language plpgsql as $$
declare was text;
begin
    perform set_config('lock_timeout', '100ms', true);
    select j.state into was from public.jobs j where id = key for no key update;
    if not found then return 'gone'; elsif was not in ('pending', 'processing') then return 'superseded'; end if;
    update public.jobs j set state = app_close.state, url = app_close.url, error = case when app_close.state = 'completed' then null else message end where id = key;
    return 'applied';
end $$;
create function imagetasks.app_refund(key text, user_id text, amount bigint, reason text, out result text, out before bigint, out after bigint) language plpgsql as $$
declare row_of public.jobs;
begin
    perform set_config('lock_timeout', '100ms', true);
    select * into row_of from public.jobs where id = key for no key update;
    if not found then result := 'gone'; return;
    elsif row_of.refunded or row_of.state in ('pending', 'processing') then result := 'superseded'; return; end if;
    update public.wallets set credits = credits + amount where owner = user_id returning credits - amount, credits into before, after;
    if not found then raise exception 'the user has no balance'; end if;
    update public.jobs set refunded = true where id = key;
    result := 'refunded';
end $$;
create function imagetasks.app_history(key text, url text, details jsonb) returns void language sql as $$
    insert into public.gallery values (key, url)
$$;
create function imagetasks.app_balances(user_ids text[]) returns table (user_id text, balance bigint) language sql stable as $$
    select owner, credits::bigint from public.wallets where owner = any (user_ids)
$$;
create function imagetasks.app_charge(key text, user_id text, amount bigint, reason text, out before bigint, out after bigint) language plpgsql as $$
begin
    update public.wallets set credits = credits - amount where owner = user_id and credits >= amount returning credits + amount, credits into before, after;
    if not found then raise exception 'insufficient credits' using errcode = 'IT001'; end if;
    update public.jobs set charged = true, refunded = false where id = key;
end $$;
create function imagetasks.app_reopen(key text) returns text language plpgsql as $$
declare was text;
begin
    select state into was from public.jobs where id = key for no key update;
    if not found then return 'gone'; elsif was in ('pending', 'processing') then return 'superseded'; end if;
    update public.jobs set state = 'pending', url = null, error = null where id = key;
    return 'applied';
end $$;

create function imagetasks.app_task_changed() returns trigger language plpgsql security definer as $$
begin
    insert into imagetasks.inbox (kind, key) values ('task', coalesce(new.id, old.id));
    return null;
end $$;
create function imagetasks.app_balance_changed() returns trigger language plpgsql security definer as $$
begin
    insert into imagetasks.inbox (kind, key, before, after) values ('balance', coalesce(new.owner, old.owner), old.credits, new.credits);
    return null;
end $$;
create trigger imagetasks_task after insert or update or delete on public.jobs for each row execute function imagetasks.app_task_changed();
create trigger imagetasks_balance after insert or update or delete on public.wallets for each row execute function imagetasks.app_balance_changed();

insert into imagetasks.bridge (description, moving, refunds, charges, balances, history, shows_charges, shows_refunds, decimals, active)
values ('{}', 'wait', true, true, true, true, true, true, 0, true);
