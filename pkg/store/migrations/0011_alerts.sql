-- compatible with: 5
--
-- Alerts: which problems are open, and what each receiver was told about them. All processes of an installation share these rows, so that none tells
-- what another one has told. Nothing is sent while a transaction is open.
--
-- Lock order: alerts by fingerprint, alert_receivers, alert_told. Rows of alerts that are locked are skipped where their order is not known.

create table {{.Schema}}.alerts (
    fingerprint text primary key check (char_length(fingerprint) between 1 and 400),
    code        text not null,
    severity    text not null check (severity in ('error', 'warning', 'info')),
    source      text not null,               -- who can see whether it is over: a host; empty: every program of the installation
    event       boolean not null,            -- something that happened: it is told and never over
    details     jsonb not null,              -- the finding, without secrets
    count       bigint not null default 0,   -- of an event: how often, since the row was made
    began_at    timestamptz not null default now(),
    seen_at     timestamptz not null default now(),
    cleared_at  timestamptz,                 -- a program that would have seen it did not; it is over when nobody has seen it for a while
    flaps       integer not null default 0,  -- how often it came back soon: each doubles the time after which it is over
    last_call   uuid                         -- that counted an event
);
comment on table {{.Schema}}.alerts is 'problems and events that receivers of alerts are told about';

create table {{.Schema}}.alert_receivers (
    receiver   text primary key check (char_length(receiver) <= 100), -- empty: not a receiver, but the turn to look for problems
    created_at timestamptz not null default now(),
    lease      uuid,                         -- of the call that sends to it
    next_at    timestamptz not null default now(), -- when something may be sent; while it is leased: the end of the lease
    failures   integer not null default 0,   -- in a row
    error      text,                         -- of the last one
    sent_at    timestamptz                   -- the last message
);
comment on table {{.Schema}}.alert_receivers is 'receivers of alerts, each sent to by one process at a time';

create table {{.Schema}}.alert_told (
    receiver    text not null references {{.Schema}}.alert_receivers on delete cascade,
    fingerprint text not null references {{.Schema}}.alerts on delete cascade,
    began_at    timestamptz not null,        -- of the alert as it was told
    told_at     timestamptz not null default now(),
    count       bigint not null,
    resolved    boolean not null,            -- it was told that it is over
    primary key (receiver, fingerprint)
);
comment on table {{.Schema}}.alert_told is 'what receivers of alerts were told last about each alert';
create index alert_told_fingerprint on {{.Schema}}.alert_told (fingerprint);

alter table {{.Schema}}.alerts enable row level security;
alter table {{.Schema}}.alert_receivers enable row level security;
alter table {{.Schema}}.alert_told enable row level security;
