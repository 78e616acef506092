create table public.profiles (
	id uuid primary key default gen_random_uuid(),
	username text,
	credits integer not null default 0 check (credits >= 0),
	created_at timestamptz not null default now()
);
create table public.generations (
	id uuid primary key default gen_random_uuid(),
	user_id uuid not null references public.profiles (id) on delete cascade,
	prompt text not null,
	status text not null default 'pending' check (status in ('pending', 'processing', 'completed', 'failed')),
	output_url text,
	error text,
	seed integer,
	created_at timestamptz not null default now(),
	updated_at timestamptz not null default now()
);
create index generations_user on public.generations (user_id, created_at desc);
create table public.credit_transactions (
	id uuid primary key default gen_random_uuid(),
	user_id uuid not null references public.profiles (id) on delete cascade,
	amount integer not null,
	type text not null check (type in ('purchase', 'usage', 'bonus', 'refund')),
	generation_id uuid references public.generations (id) on delete set null,
	created_at timestamptz not null default now()
);
create index credit_transactions_generation on public.credit_transactions (generation_id);

alter table public.profiles enable row level security;
alter table public.generations enable row level security;
alter table public.credit_transactions enable row level security;
create policy own_profile on public.profiles using (id::text = current_setting('app.user', true));
create policy own_generations on public.generations using (user_id::text = current_setting('app.user', true));
create policy own_transactions on public.credit_transactions using (user_id::text = current_setting('app.user', true));
grant select, insert, update, delete on all tables in schema public to app_writer;
