{{define "app_key" -}}
-- A task's key as its column has it: null for a text that is no value of that type.
create or replace function {{.Schema}}.app_key(key text) returns {{.KeyType}}
language sql immutable as {{.Tag}}
    select {{.KeyFromText}}
{{.Tag}}
{{- end}}

{{define "app_user" -}}
-- A user's id as the table of balances has it: null for a text that is no value of that type.
create or replace function {{.Schema}}.app_user(id text) returns {{.UserType}}
language sql immutable as {{.Tag}}
    select {{.UserFromText}}
{{.Tag}}
{{- end}}

{{define "app_rows" -}}
-- The rows of tasks, as the queue understands them.
create or replace function {{.Schema}}.app_rows(keys text[])
returns table (key text, user_id text, prompt text, options jsonb, input_count int, state text, word text, cost bigint, charged boolean, refunded boolean)
language sql stable set search_path = pg_catalog, pg_temp as {{.Tag}}
    select {{.KeyOf "t"}}::text,
           {{.UserOf "t"}}::text,
           {{.PromptOf "t"}},
           {{.OptionsOf "t"}},
           {{.InputCount "t"}},
           {{.StateOf "t"}},
           {{.WordOf "t"}},
           {{.CostOf "t"}},
           {{.ChargedOf "t"}},
           {{.RefundedOf "t"}}
    from {{.TasksTable}} t
    where {{.KeyOf "t"}} = any (array(select {{.Schema}}.app_key(k) from unnest(app_rows.keys) k)){{.AndOnly "t"}}
{{.Tag}}
{{- end}}

{{define "app_live" -}}
-- The keys of all tasks that are pending or processing, in their order.
create or replace function {{.Schema}}.app_live() returns setof text
language sql stable set search_path = pg_catalog, pg_temp as {{.Tag}}
    select {{.KeyOf "t"}}::text
    from {{.TasksTable}} t
    where {{.IsLive "t"}}{{.AndOnly "t"}}
    order by {{.OrderOfCreation "t"}}
{{.Tag}}
{{- end}}

{{define "app_inputs" -}}
-- The input pictures of a task, read when it is worked.
create or replace function {{.Schema}}.app_inputs(key text) returns table (mask boolean, content bytea, url text)
language sql stable set search_path = pg_catalog, pg_temp as {{.Tag}}
{{- if .Inputs}}
    select false,
           case when i.content is not null then i.content
                when lower(left(i.value, 8)) !~ '^https?://' then {{.Schema}}.decode_input(i.value) end,
           case when lower(left(i.value, 8)) ~ '^https?://' then i.value end
    from {{.TasksTable}} t, lateral (
        {{.InputRows "t"}}
    ) i
    where {{.ThisTask "t" "app_inputs.key"}}
      and (octet_length(i.value) > 0 or octet_length(i.content) > 0)
    order by i.place, i.item
{{- else}}
    select false, null::bytea, null::text where false
{{- end}}
{{.Tag}}
{{- end}}

{{define "app_balances" -}}
-- Balances of users, in units of imagetasks. Those that are no number of them, such as NaN, are left out.
create or replace function {{.Schema}}.app_balances(user_ids text[]) returns table (user_id text, balance bigint)
language sql stable set search_path = pg_catalog, pg_temp as {{.Tag}}
{{- if .HasBalances}}
    select {{.BalanceUser "b"}}::text, {{.OurBalance (.TheirBalance "b")}}
    from {{.BalancesTable}} b
    where {{.BalanceUser "b"}} = any (array(select {{.Schema}}.app_user(u) from unnest(app_balances.user_ids) u)){{.AndCountable "b"}}
{{- else}}
    select null::text, null::bigint where false
{{- end}}
{{.Tag}}
{{- end}}
