create table public.customers (
	id uuid primary key default gen_random_uuid(),
	email text not null unique,
	store_credit numeric(10,2) not null default 0
);
create table public.products (
	id bigint generated always as identity primary key,
	title text not null,
	image_url text,
	price numeric(10,2) not null
);
create table public.orders (
	id uuid primary key default gen_random_uuid(),
	customer_id uuid not null references public.customers (id),
	status text not null default 'pending' check (status in ('pending', 'processing', 'shipped', 'delivered', 'cancelled')),
	total numeric(10,2) not null,
	refunded boolean not null default false,
	created_at timestamptz not null default now(),
	completed_at timestamptz
);
create table public.order_lines (
	order_id uuid not null references public.orders (id) on delete cascade,
	product_id bigint not null references public.products (id),
	quantity integer not null default 1,
	primary key (order_id, product_id)
);
insert into public.customers (email, store_credit) select 'customer' || n || '@example.com', n from generate_series(1, 20) n;
insert into public.products (title, image_url, price) select 'product ' || n, 'https://pictures.example.com/product/' || n || '.png', n from generate_series(1, 50) n;
insert into public.orders (customer_id, status, total)
select (select id from public.customers order by md5(id::text || n) limit 1), (array['pending', 'processing', 'shipped', 'delivered', 'cancelled'])[1 + n % 5], n
from generate_series(1, 200) n;
insert into public.order_lines (order_id, product_id) select id, 1 + (row_number() over ()) % 50 from public.orders;
