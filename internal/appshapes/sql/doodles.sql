create table public.users (
	id uuid primary key default gen_random_uuid(),
	name text
);
create table public.doodles (
	id uuid primary key default gen_random_uuid(),
	user_id uuid not null references public.users (id) on delete cascade,
	status text not null default 'generating',
	doodle_url text not null,
	image_url text,
	run_id text not null,
	created_at timestamptz not null default now(),
	updated_at timestamptz not null default now()
);
create table public.user_credits (
	user_id uuid primary key references public.users (id) on delete cascade,
	balance integer not null default 0,
	updated_at timestamptz not null default now()
);
create table public.credit_purchases (
	id uuid primary key default gen_random_uuid(),
	user_id uuid not null references public.users (id) on delete cascade,
	credits integer not null,
	created_at timestamptz not null default now()
);

alter table public.doodles enable row level security;
alter table public.user_credits enable row level security;
create policy own_doodles on public.doodles using (user_id::text = current_setting('app.user', true));
create policy own_credits on public.user_credits using (user_id::text = current_setting('app.user', true));
grant select, insert, update, delete on all tables in schema public to app_writer;
