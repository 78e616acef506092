{{/* What all trigger functions have in common. They note what changed, and nothing else: the statement of the application must not fail, and not wait
for a lock for long. A plan is kept for statements of one row and of many: no nested loops, which suit one, and no compilation, which suits many. */}}
{{define "settings" -}}
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '50ms' set enable_nestloop = off set jit = off
{{- end}}

{{define "missed" -}}
exception when others then
    -- The statement of the application goes on. What it changed is found by comparing all rows.
    begin
        lock table {{.Schema}}.inbox in row exclusive mode nowait;
        insert into {{.Schema}}.inbox (kind, key) values ('missed', '');
    exception when others then
        null;
    end;
    return null;
{{- end}}

{{define "app_task_changed" -}}
-- Notes which tasks of the application changed. It never fails, and waits for no lock for long.
create or replace function {{.Schema}}.app_task_changed() returns trigger
{{template "settings" .}} as {{.Tag}}
begin
    if tg_op = 'INSERT' then
        insert into {{.Schema}}.inbox (kind, key)
        select 'task', {{.KeyOf "n"}}::text
        from new_rows n
        where {{.KeyOf "n"}} is not null and {{.IsLive "n"}}{{.AndOnly "n"}};
    elsif tg_op = 'UPDATE' then
        insert into {{.Schema}}.inbox (kind, key)
        select 'task', coalesce({{.KeyOf "n"}}, {{.KeyOf "o"}})::text
        from old_rows o full join new_rows n on {{.KeyOf "n"}} = {{.KeyOf "o"}}
        where coalesce({{.KeyOf "n"}}, {{.KeyOf "o"}}) is not null
          and ({{.KeyOf "n"}} is null or {{.KeyOf "o"}} is null
           or {{.Compared}}){{.EitherOnly}};
    elsif tg_op = 'DELETE' then
        insert into {{.Schema}}.inbox (kind, key)
        select 'task', {{.KeyOf "o"}}::text
        from old_rows o
        where {{.KeyOf "o"}} is not null{{.AndOnly "o"}};
    else
        insert into {{.Schema}}.inbox (kind, key) values ('missed', '');
    end if;
    return null;
{{template "missed" .}}
end
{{.Tag}}
{{- end}}

{{define "app_balance_changed" -}}
-- Notes which balances of the application changed. It never fails, and waits for no lock for long.
create or replace function {{.Schema}}.app_balance_changed() returns trigger
{{template "settings" .}} as {{.Tag}}
begin
    if tg_op = 'INSERT' then
        insert into {{.Schema}}.inbox (kind, key, before, after)
        select 'balance', {{.BalanceUser "n"}}::text, null, {{.TheirBalance "n"}}
        from new_rows n where {{.BalanceUser "n"}} is not null;
    elsif tg_op = 'UPDATE' then
        insert into {{.Schema}}.inbox (kind, key, before, after)
        select 'balance', coalesce({{.BalanceUser "n"}}, {{.BalanceUser "o"}})::text,
               case when {{.BalanceUser "o"}} is not null then {{.TheirBalance "o"}} end,
               case when {{.BalanceUser "n"}} is not null then {{.TheirBalance "n"}} end
        from old_rows o full join new_rows n on {{.BalanceUser "n"}} = {{.BalanceUser "o"}}
        where coalesce({{.BalanceUser "n"}}, {{.BalanceUser "o"}}) is not null
          and ({{.BalanceUser "n"}} is null or {{.BalanceUser "o"}} is null or {{.TheirBalance "n"}} <> {{.TheirBalance "o"}}
               -- A write of the value that is there soon after a change by the bridge may be one that ignores it.
               or {{.BalanceUser "n"}}::text in (select w.user_id from {{.Schema}}.bridge_writes w where w.at > now() - interval '30 seconds'));
    elsif tg_op = 'DELETE' then
        insert into {{.Schema}}.inbox (kind, key, before, after)
        select 'balance', {{.BalanceUser "o"}}::text, {{.TheirBalance "o"}}, null
        from old_rows o where {{.BalanceUser "o"}} is not null;
    else
        insert into {{.Schema}}.inbox (kind, key) values ('missed', '');
    end if;
    return null;
{{template "missed" .}}
end
{{.Tag}}
{{- end}}

{{define "app_charge_logged" -}}
-- Notes for which tasks the application logged a charge. It never fails, and waits for no lock for long.
create or replace function {{.Schema}}.app_charge_logged() returns trigger
{{template "settings" .}} as {{.Tag}}
begin
    insert into {{.Schema}}.inbox (kind, key)
        {{.ChargesLogged}};
    return null;
{{template "missed" .}}
end
{{.Tag}}
{{- end}}

{{define "app_refund_logged" -}}
-- Notes for which tasks the application logged a refund. It never fails, and waits for no lock for long.
create or replace function {{.Schema}}.app_refund_logged() returns trigger
{{template "settings" .}} as {{.Tag}}
begin
    insert into {{.Schema}}.inbox (kind, key)
        {{.RefundsLogged}};
    return null;
{{template "missed" .}}
end
{{.Tag}}
{{- end}}
