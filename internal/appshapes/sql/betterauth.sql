create table public."user" (
	id text primary key,
	name text not null,
	email text not null unique,
	created_at timestamp not null default now()
);
create table public.generation (
	id text primary key,
	user_id text not null references public."user" (id) on delete cascade,
	status text not null default 'pending',
	prompt text not null,
	style_image_url text not null,
	generated_image_url text,
	created_at timestamp not null default now(),
	updated_at timestamp not null default now()
);
create index generation_user on public.generation (user_id);
create table public.user_credits (
	id text primary key default gen_random_uuid()::text,
	user_id text not null unique references public."user" (id) on delete cascade,
	credits integer not null default 0,
	total_credits_used integer not null default 0,
	updated_at timestamp not null default now()
);

alter table public.generation enable row level security;
alter table public.user_credits enable row level security;
create policy own_generation on public.generation using (user_id = current_setting('app.user', true));
create policy own_credits on public.user_credits using (user_id = current_setting('app.user', true));
grant select, insert, update, delete on all tables in schema public to app_writer;
