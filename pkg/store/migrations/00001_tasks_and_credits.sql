-- +goose Up

create table {{.Tasks}} (
    task_id               text primary key check (task_id <> ''),
    user_id               uuid not null,
    prompt                text not null check (prompt <> ''),
    style                 text,
    aspect_ratio          text,
    model                 text,
    provider              text,
    image_base64          text,
    status                text not null default 'pending'
                          check (status in ('pending', 'processing', 'completed', 'failed', 'cancelled')),
    credits_cost          integer not null default 1 check (credits_cost >= 0),
    credits_deducted      integer not null default 0 check (credits_deducted >= 0),
    credits_refunded      integer not null default 0 check (credits_refunded >= 0),
    attempt_count         integer not null default 0 check (attempt_count >= 0),
    max_attempts          integer check (max_attempts > 0),
    run_after             timestamptz not null default now(),
    lease_epoch           bigint not null default 0 check (lease_epoch >= 0),
    leased_by             text,
    lease_expires_at      timestamptz,
    progress_percentage   smallint not null default 0 check (progress_percentage between 0 and 100),
    current_stage         text,
    stage_details         jsonb,
    image_url             text,
    error_code            text,
    error_message         text,
    request_id            text,
    created_at            timestamptz not null default now(),
    updated_at            timestamptz not null default now(),
    processing_started_at timestamptz,
    completed_at          timestamptz
);

comment on column {{.Tasks}}.max_attempts is 'null: the MAX_ATTEMPTS of the processor';
comment on column {{.Tasks}}.lease_epoch is 'raised by each claim; an update under an older epoch is rejected';

-- An input picture is base64, which hardly compresses, and is always read whole.
alter table {{.Tasks}} alter column image_base64 set storage external;

-- A row is updated several times within a short time, and never after the task is closed.
alter table {{.Tasks}} set (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);

-- The indexes are partial, on pending and processing tasks, so that their cost does not grow with the history.
-- claim takes the first tasks that are due:
create index {{.Index "pending"}} on {{.Tasks}} (run_after, task_id) where status = 'pending';
-- claim and fail_abandoned take tasks with an expired lease:
create index {{.Index "lease"}} on {{.Tasks}} (lease_expires_at) where lease_expires_at is not null;
-- sweep takes stuck tasks:
create index {{.Index "started"}} on {{.Tasks}} ((coalesce(processing_started_at, updated_at, created_at)))
    where status = 'processing';

create table {{.Credits}} (
    user_id    uuid primary key,
    credits    integer not null default 0 check (credits >= 0),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

-- One row for each change of a balance. amount is signed; a user's balance is the sum of the amounts.
-- There is no foreign key to the tasks, because an application may delete old tasks while the ledger stays.
create table {{.Ledger}} (
    id            bigint generated always as identity primary key,
    user_id       uuid not null,
    task_id       text,
    kind          text not null check (kind in ('grant', 'charge', 'refund')),
    amount        integer not null check (case kind when 'charge' then amount < 0 else amount > 0 end),
    balance_after integer not null check (balance_after >= 0),
    reason        text not null default '',
    created_at    timestamptz not null default now(),
    check ((task_id is null) = (kind = 'grant')),
    -- This index enforces: charged once, refunded at most once.
    constraint {{.LedgerOnce}} unique (task_id, kind)
);
create index {{.LedgerUser}} on {{.Ledger}} (user_id, id);

-- +goose StatementBegin
create function {{.Func "ledger_append_only"}}() returns trigger language plpgsql as $$
begin
    raise exception '% is append-only: % refused', tg_table_name, tg_op
        using errcode = 'restrict_violation', hint = 'Correct a mistake with a grant.';
end
$$;
-- +goose StatementEnd

create trigger append_only before update or delete or truncate on {{.Ledger}}
    for each statement execute function {{.Func "ledger_append_only"}}();

-- One NOTIFY per statement, whatever its number of rows.
-- +goose StatementBegin
create function {{.Func "tasks_arrived"}}() returns trigger language plpgsql as $$
begin
    if exists (select from arrived where status = 'pending') then
        perform pg_notify('{{.Channel}}', '');
    end if;
    return null;
end
$$;
-- +goose StatementEnd

create trigger tasks_arrived after insert on {{.Tasks}}
    referencing new table as arrived
    for each statement execute function {{.Func "tasks_arrived"}}();

-- +goose Down

drop table {{.Tasks}}, {{.Credits}}, {{.Ledger}};
drop function {{.Func "tasks_arrived"}}();
drop function {{.Func "ledger_append_only"}}();
