create table public.authors (
	id uuid primary key default gen_random_uuid(),
	email text not null unique,
	name text
);
create table public.posts (
	id bigint generated always as identity primary key,
	author_id uuid not null references public.authors (id) on delete cascade,
	title text not null,
	body text not null,
	status text not null default 'draft' check (status in ('draft', 'published', 'archived')),
	cover_image_url text,
	created_at timestamptz not null default now(),
	updated_at timestamptz not null default now()
);
create table public.comments (
	id bigint generated always as identity primary key,
	post_id bigint not null references public.posts (id) on delete cascade,
	author_id uuid references public.authors (id) on delete set null,
	body text not null,
	approved boolean not null default false,
	created_at timestamptz not null default now()
);
insert into public.authors (email, name) select 'author' || n || '@example.com', 'author ' || n from generate_series(1, 20) n;
insert into public.posts (author_id, title, body, status, cover_image_url)
select (select id from public.authors order by md5(id::text || n) limit 1), 'post ' || n, repeat('text ', 50), case when n % 3 = 0 then 'draft' else 'published' end,
	'https://pictures.example.com/cover/' || n || '.png' from generate_series(1, 200) n;
insert into public.comments (post_id, body, approved) select 1 + n % 200, 'comment ' || n, n % 4 > 0 from generate_series(1, 1000) n;
