create schema "Studio";
create schema "Billing";
create table "Studio"."People" (
	"personId" uuid primary key,
	"Display Name" text
);
create type "Studio"."Job State" as enum ('Queued', 'Running', 'Done', 'Broken');
create table "Studio"."Image Jobs" (
	"jobId" uuid primary key,
	"ownerId" uuid not null references "Studio"."People" ("personId") on delete cascade,
	"State" "Studio"."Job State" not null default 'Queued',
	"Text" text not null,
	"Shape" text not null default 'square',
	"Output URL" text,
	"Why" varchar(80),
	"Percent" smallint not null default 0,
	"Price" numeric(10,2) not null default 2.50,
	"order" integer,
	"createdAt" timestamptz not null default now(),
	"finishedAt" timestamptz
);
create table "Billing"."Accounts" (
	"Person" uuid primary key references "Studio"."People" ("personId") on delete cascade,
	"Amount" numeric(10,2) not null default 0 check ("Amount" >= 0),
	"Currency" text not null default 'credits'
);
create table "Billing"."Entries" (
	"entryId" bigint generated always as identity primary key,
	"Person" uuid not null references "Studio"."People" ("personId") on delete cascade,
	"Amount" numeric(10,2) not null,
	"Kind" text not null check ("Kind" in ('Job', 'Refund', 'Top-up')),
	"Job Ref" text,
	"at" timestamptz not null default now()
);
create index "Entries by job" on "Billing"."Entries" ("Job Ref");

alter table "Studio"."Image Jobs" enable row level security;
alter table "Billing"."Accounts" enable row level security;
alter table "Billing"."Entries" enable row level security;
create policy "own jobs" on "Studio"."Image Jobs" using ("ownerId"::text = current_setting('app.user', true));
create policy "own account" on "Billing"."Accounts" using ("Person"::text = current_setting('app.user', true));
create policy "own entries" on "Billing"."Entries" using ("Person"::text = current_setting('app.user', true));
grant usage on schema "Studio", "Billing" to app_writer;
grant select, insert, update, delete on all tables in schema "Studio", "Billing" to app_writer;
