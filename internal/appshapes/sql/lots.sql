create table public.customers (
	id uuid primary key,
	name text
);
create table public.picture_orders (
	id uuid primary key,
	customer_id uuid not null references public.customers (id) on delete cascade,
	prompt text not null,
	state text not null default 'waiting' check (state in ('waiting', 'working', 'ready', 'error', 'withdrawn')),
	picture text,
	message text,
	credits_charged integer not null default 0,
	credits_returned integer not null default 0,
	options jsonb not null default '{}',
	created_at timestamptz not null default now(),
	changed_at timestamptz
);
-- Credits are bought in lots that expire. The lot that expires first is used first.
create table public.credit_lots (
	id bigint generated always as identity primary key,
	customer_id uuid not null references public.customers (id) on delete cascade,
	bought integer not null check (bought > 0),
	remaining integer not null check (remaining >= 0),
	expires_at timestamptz not null default now() + interval '1 year',
	created_at timestamptz not null default now()
);
create index credit_lots_customer on public.credit_lots (customer_id, expires_at);

create function public.charge_lots(customer uuid, amount integer, picture_order uuid) returns void language plpgsql security definer as $$
declare
	lot record;
	wanted integer := amount;
	used integer;
begin
	for lot in select id, remaining from public.credit_lots where customer_id = customer and remaining > 0 and expires_at > now() order by expires_at, id for update loop
		exit when wanted = 0;
		used := least(wanted, lot.remaining);
		update public.credit_lots set remaining = remaining - used where id = lot.id;
		wanted := wanted - used;
	end loop;
	if wanted > 0 then
		raise exception 'not enough credits' using errcode = 'P0001';
	end if;
end $$;
-- What is returned is a lot of its own.
create function public.refund_lots(customer uuid, amount integer, picture_order uuid) returns void language plpgsql security definer as $$
begin
	insert into public.credit_lots (customer_id, bought, remaining) values (customer, amount, amount);
end $$;

alter table public.picture_orders enable row level security;
alter table public.credit_lots enable row level security;
create policy own_orders on public.picture_orders using (customer_id::text = current_setting('app.user', true));
create policy own_lots on public.credit_lots using (customer_id::text = current_setting('app.user', true));
grant select, insert, update, delete on all tables in schema public to app_writer;
