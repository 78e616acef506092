create schema jobs;
create table jobs.queue (
	id bigint generated always as identity primary key,
	kind text not null,
	payload jsonb not null default '{}',
	state text not null default 'available' check (state in ('available', 'running', 'completed', 'retryable', 'discarded', 'cancelled')),
	attempt smallint not null default 0,
	max_attempts smallint not null default 25,
	priority smallint not null default 1,
	errors jsonb[],
	scheduled_at timestamptz not null default now(),
	attempted_at timestamptz,
	finalized_at timestamptz,
	created_at timestamptz not null default now()
);
create table jobs.leader (
	name text primary key,
	leader_id text not null,
	expires_at timestamptz not null
);
insert into jobs.queue (kind, payload, state) select (array['send_email', 'resize_upload', 'purge_cache'])[1 + n % 3], jsonb_build_object('n', n),
	(array['available', 'running', 'completed', 'discarded'])[1 + n % 4] from generate_series(1, 500) n;
