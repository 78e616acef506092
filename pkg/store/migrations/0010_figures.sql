-- compatible with: 5
--
-- The figures of each minute, from which the charts of the status page are drawn.

create table {{.Schema}}.figures (
    minute        timestamptz primary key check (isfinite(minute)),
    arrived       bigint not null check (arrived >= 0),
    completed     bigint not null check (completed >= 0),
    failed        bigint not null check (failed >= 0),
    cancelled     bigint not null check (cancelled >= 0),
    charged       bigint not null check (charged >= 0),
    refunded      bigint not null check (refunded >= 0),
    p50_ms        bigint,
    p95_ms        bigint,
    failures      jsonb not null default '{}' check (jsonb_typeof(failures) = 'object'),
    due           bigint,
    processing    bigint,
    oldest_due_ms bigint
);
alter table {{.Schema}}.figures enable row level security;
comment on table {{.Schema}}.figures is 'one row for each minute that has ended; charged and refunded are credits';
comment on column {{.Schema}}.figures.p50_ms is 'median of the times from the last claim of a task to its completion; null: none completed';
comment on column {{.Schema}}.figures.failures is 'by error code: how many tasks failed, and the ids of the last of them';
comment on column {{.Schema}}.figures.due is 'at the end of the minute, as processing and oldest_due_ms; null: it was recorded later';
