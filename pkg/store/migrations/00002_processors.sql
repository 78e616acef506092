-- +goose Up

-- One row for each processor that is running, or that ended without deregistering. report is its own status report.
create table {{.Processors}} (
    worker     text primary key,
    host       text not null,
    pid        integer not null,
    version    text not null,
    started_at timestamptz not null default now(),
    beat_at    timestamptz not null default now(),
    report     jsonb not null default '{}'
);

-- Rows are written in the order of these times, so a BRIN index of a few pages is enough to find the last hour or day.
create index {{.Index "completed"}} on {{.Tasks}} using brin (completed_at) with (pages_per_range = 32, autosummarize = on);
create index {{.LedgerTime}} on {{.Ledger}} using brin (created_at) with (pages_per_range = 32, autosummarize = on);

-- +goose Down

drop table {{.Processors}};
drop index {{.TasksSchema}}{{.Index "completed"}}, {{.LedgerSchema}}{{.LedgerTime}};
