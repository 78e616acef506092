-- +goose Up

-- One row for each processor that lives, or died without a word. What it says of itself is in report.
create table {{.Processors}} (
    worker     text primary key,
    host       text not null,
    pid        integer not null,
    version    text not null,
    started_at timestamptz not null default now(),
    beat_at    timestamptz not null default now(),
    report     jsonb not null default '{}'
);

-- Rows come in the order of their time, so an index of a few pages finds the last hour or day.
create index {{.Index "completed"}} on {{.Tasks}} using brin (completed_at) with (pages_per_range = 32, autosummarize = on);
create index {{.LedgerTime}} on {{.Ledger}} using brin (created_at) with (pages_per_range = 32, autosummarize = on);

-- +goose Down

drop table {{.Processors}};
drop index {{.TasksSchema}}{{.Index "completed"}}, {{.LedgerSchema}}{{.LedgerTime}};
