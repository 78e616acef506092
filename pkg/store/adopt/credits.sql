{{define "app_refund" -}}
-- Gives a user the credits of a task back, unless the row shows that it was refunded already, shows no charge any more, or waits again.
create or replace function {{.Schema}}.app_refund(key text, user_id text, amount bigint, reason text)
returns table (result text, before bigint, after bigint)
language plpgsql set search_path = {{.Path}} as {{.Tag}}
#variable_conflict use_column
declare
    done boolean;
    balance_before numeric;
    balance_after numeric;
begin
    perform {{.Schema}}.app_begin();
    perform from {{.TasksTable}} t
    where {{.ThisTask "t" "app_refund.key"}}
    for no key update;
    if not found then
        return query select 'gone', null::bigint, null::bigint;
        return;
    end if;
{{- if .HasBalances}}
    select {{.TheirBalance "b"}} into balance_before
    from {{.BalancesTable}} b where {{.BalanceUser "b"}} = {{.Schema}}.app_user(app_refund.user_id)
    for no key update;
{{- end}}
    -- Read when both rows are locked: a refund that the application was making is seen.
    select {{.RefundedOf "t"}} or coalesce({{.IsLive "t"}}, false){{.OrNotCharged "t"}} into done
    from {{.TasksTable}} t
    where {{.ThisTask "t" "app_refund.key"}};
    if done then
        return query select 'superseded', null::bigint, null::bigint;
        return;
    end if;
{{- if .HasBalances}}
    if balance_before is null then
        raise exception 'the table of balances has no row for the user of this task'
            using errcode = 'no_data_found', hint = 'Insert the row; the refund is tried again.';
    end if;
{{- end}}
{{- if .RefundsByBalance}}
    update {{.BalancesTable}} b set {{.SetBalance "+" "app_refund.amount"}}
    where {{.BalanceUser "b"}} = {{.Schema}}.app_user(app_refund.user_id)
    returning {{.TheirBalance "b"}} into balance_after;
    if not found then
        raise exception 'the balance was not changed: a trigger or a rule of the application prevents it';
    end if;
{{- else}}
{{- with .RefundCall}}
    perform {{.}};
{{- else}}
    raise exception 'the description of the bridge does not say how to refund'
        using errcode = 'IT005', hint = 'Set refund in imagetasks.toml, and run: task-processor adopt --apply';
{{- end}}
{{- if .HasBalances}}
    select {{.TheirBalance "b"}} into balance_after
    from {{.BalancesTable}} b where {{.BalanceUser "b"}} = {{.Schema}}.app_user(app_refund.user_id);
{{- end}}
{{- end}}
{{- with .SetRefunded "app_refund.amount"}}
    update {{$.TasksTable}} t set {{.}}
    where {{$.ThisTask "t" "app_refund.key"}};
{{- end}}
{{- with .RefundLog}}
    insert into {{.Table}} ({{range $i, $c := .Columns}}{{if $i}}, {{end}}{{$c}}{{end}})
    select {{range $i, $v := .Values}}{{if $i}},
           {{end}}{{$v}}{{end}}
    from {{$.TasksTable}} t
    where {{$.ThisTask "t" "app_refund.key"}};
{{- end}}
{{- if .HasBalances}}
    return query select 'refunded', {{.OurBalance "balance_before"}}, {{.OurBalance "balance_after"}};
{{- else}}
    return query select 'refunded', null::bigint, null::bigint;
{{- end}}
end
{{.Tag}}
{{- end}}

{{define "app_charge" -}}
-- Takes the credits of a task from a user, for redrive.
create or replace function {{.Schema}}.app_charge(key text, user_id text, amount bigint, reason text)
returns table (before bigint, after bigint)
language plpgsql set search_path = {{.Path}} as {{.Tag}}
#variable_conflict use_column
declare
    balance_before numeric;
    balance_after numeric;
begin
{{- if not .Credits.Charge}}
    raise exception 'a task of the application is not charged again'
        using errcode = 'IT005', hint = 'Set charge in imagetasks.toml, and run: task-processor adopt --apply';
{{- else}}
    perform {{.Schema}}.app_begin();
    perform from {{.TasksTable}} t
    where {{.ThisTask "t" "app_charge.key"}}
    for no key update;
    if not found then
        raise exception 'the application has no such task' using errcode = 'IT004';
    end if;
{{- if .HasBalances}}
    select {{.TheirBalance "b"}} into balance_before
    from {{.BalancesTable}} b where {{.BalanceUser "b"}} = {{.Schema}}.app_user(app_charge.user_id)
    for no key update;
{{- end}}
{{- if .ChargesByBalance}}
    if not found or balance_before < {{.Theirs "app_charge.amount"}} then
        raise exception 'insufficient credits' using errcode = 'IT001';
    end if;
    update {{.BalancesTable}} b set {{.SetBalance "-" "app_charge.amount"}}
    where {{.BalanceUser "b"}} = {{.Schema}}.app_user(app_charge.user_id)
    returning {{.TheirBalance "b"}} into balance_after;
    if not found then
        raise exception 'the balance was not changed: a trigger or a rule of the application prevents it';
    end if;
{{- else}}
    perform {{.ChargeCall}};
{{- if .HasBalances}}
    select {{.TheirBalance "b"}} into balance_after
    from {{.BalancesTable}} b where {{.BalanceUser "b"}} = {{.Schema}}.app_user(app_charge.user_id);
{{- end}}
{{- end}}
{{- with .SetCharged "app_charge.amount"}}
    update {{$.TasksTable}} t set
            {{.}}
    where {{$.ThisTask "t" "app_charge.key"}};
{{- end}}
{{- if .Credits.RefundLog}}
    -- Refunds of the runs before stay in the log.
    update {{.Schema}}.tasks x set bridge_refunds = (select {{.RefundsLoggedOf "t"}} from {{.TasksTable}} t where {{.ThisTask "t" "app_charge.key"}})
    where x.task_id = app_charge.key;
{{- end}}
{{- if .HasBalances}}
    return query select {{.OurBalance "balance_before"}}, {{.OurBalance "balance_after"}};
{{- else}}
    return query select null::bigint, null::bigint;
{{- end}}
{{- end}}
end
{{.Tag}}
{{- end}}
