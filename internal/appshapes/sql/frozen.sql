create schema app;
create table app.members (
	id uuid primary key,
	nickname text
);
create table app.wallets (
	member_id uuid primary key references app.members (id) on delete cascade,
	available bigint not null default 0 check (available >= 0),
	frozen bigint not null default 0 check (frozen >= 0)
);
create table app.artworks (
	uid uuid primary key,
	member_id uuid not null references app.members (id) on delete cascade,
	kind text not null default 'image',
	prompt text,
	status text not null default 'new' check (status in ('new', 'draw', 'done', 'error', 'void')),
	urls text[],
	error_text text,
	cost integer not null default 3,
	created_at timestamptz not null default now(),
	done_at timestamptz
);
create table app.holds (
	artwork uuid primary key,
	member_id uuid not null references app.members (id) on delete cascade,
	amount bigint not null check (amount > 0),
	state text not null default 'held' check (state in ('held', 'captured', 'released')),
	created_at timestamptz not null default now()
);

-- Freezes credits for a picture. A picture that is made again is held again.
create function app.hold(member uuid, credits bigint, work uuid) returns void language plpgsql security definer as $$
begin
	update app.wallets set available = available - credits, frozen = frozen + credits where member_id = member and available >= credits;
	if not found then
		raise exception 'not enough credits' using errcode = 'P0001';
	end if;
	insert into app.holds (artwork, member_id, amount) values (work, member, credits)
	on conflict (artwork) do update set amount = excluded.amount, state = 'held', created_at = now();
end $$;
create function app.release(member uuid, credits bigint, work uuid) returns boolean language plpgsql security definer as $$
declare
	held bigint;
begin
	perform 1 from app.wallets where member_id = member for update;
	update app.holds set state = 'released' where artwork = work and state = 'held' returning amount into held;
	if held is null then
		return false;
	end if;
	update app.wallets set available = available + held, frozen = frozen - held where member_id = member;
	return true;
end $$;
create function app.capture() returns trigger language plpgsql security definer as $$
declare
	held bigint;
begin
	perform 1 from app.wallets where member_id = new.member_id for update;
	update app.holds set state = 'captured' where artwork = new.uid and state = 'held' returning amount into held;
	if held is not null then
		update app.wallets set frozen = frozen - held where member_id = new.member_id;
	end if;
	return new;
end $$;
create trigger capture after update on app.artworks for each row when (new.status = 'done' and old.status <> 'done') execute function app.capture();

alter table app.artworks enable row level security;
alter table app.wallets enable row level security;
alter table app.holds enable row level security;
create policy own_artworks on app.artworks using (member_id::text = current_setting('app.user', true));
create policy own_wallet on app.wallets using (member_id::text = current_setting('app.user', true));
create policy own_holds on app.holds using (member_id::text = current_setting('app.user', true));
grant usage on schema app to app_writer;
grant select, insert, update, delete on all tables in schema app to app_writer;
