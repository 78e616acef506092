{{define "app_begin" -}}
-- Called first by the functions that write. In a deadlock with the application it is this side that gives up, before PostgreSQL looks for a
-- victim; what was done is undone, and tried again.
create or replace function {{.Schema}}.app_begin() returns void
language plpgsql set search_path = pg_catalog, pg_temp as {{.Tag}}
declare
    longest int := greatest(least(100, extract(epoch from current_setting('deadlock_timeout')::interval) * 500), 1)::int;
    present int := (extract(epoch from current_setting('lock_timeout')::interval) * 1000)::int;
begin
    if present = 0 or present > longest then
        perform set_config('lock_timeout', longest || 'ms', true);
    end if;
{{- range .SetSettings}}
    perform set_config({{index . 0}}, {{index . 1}}, true);
{{- end}}
end
{{.Tag}}
{{- end}}

{{define "app_progress" -}}
-- Writes the progress of a task that is being processed, unless the application has closed the row.
create or replace function {{.Schema}}.app_progress(key text, percent int, stage text) returns text
language plpgsql set search_path = {{.Path}} as {{.Tag}}
#variable_conflict use_column
declare
    live boolean;
begin
    perform {{.Schema}}.app_begin();
    select {{.IsLive "t"}} into live
    from {{.TasksTable}} t
    where {{.ThisTask "t" "app_progress.key"}}
    for no key update;
    if not found then
        return 'gone';
    elsif live is not true then
        return 'superseded';
    end if;
{{- with .MayStart "t"}}
    update {{$.TasksTable}} t set
            {{$.SetStarted}}
    where {{$.ThisTask "t" "app_progress.key"}} and {{.}};
    if found then
        return 'written';
    end if;
{{- end}}
{{- with .SetProgressed}}
    update {{$.TasksTable}} t set
            {{.}}
    where {{$.ThisTask "t" "app_progress.key"}}
      and ({{$.Progressed}});
{{- end}}
    return 'written';
end
{{.Tag}}
{{- end}}

{{define "app_close" -}}
-- Closes a row that is still pending or processing: state is completed, failed or cancelled. Credits are not touched here.
create or replace function {{.Schema}}.app_close(key text, state text, url text, message text, details jsonb) returns text
language plpgsql set search_path = {{.Path}} as {{.Tag}}
#variable_conflict use_column
declare
    live boolean;
begin
    perform {{.Schema}}.app_begin();
    select {{.IsLive "t"}} into live
    from {{.TasksTable}} t
    where {{.ThisTask "t" "app_close.key"}}
    for no key update;
    if not found then
        return 'gone';
    elsif live is not true then
        return 'superseded';
    end if;
    if app_close.state = 'completed' then
        update {{.TasksTable}} t set
            {{.SetClosed "completed"}}
        where {{.ThisTask "t" "app_close.key"}};
    elsif app_close.state = 'failed' then
        update {{.TasksTable}} t set
            {{.SetClosed "failed"}}
        where {{.ThisTask "t" "app_close.key"}};
    elsif app_close.state = 'cancelled' then
        update {{.TasksTable}} t set
            {{.SetClosed "cancelled"}}
        where {{.ThisTask "t" "app_close.key"}};
    else
        raise exception 'app_close: % is not a closed state', app_close.state;
    end if;
    if not found then
        raise exception 'the row was not changed: a trigger or a rule of the application prevents it';
    end if;
{{- if .Notify}}
    perform pg_notify({{literal .Notify}}, jsonb_build_object('task', app_close.key, 'status', app_close.state,
        'image_url', case when octet_length(app_close.url) < 6000 then app_close.url end, 'error_code', app_close.details ->> 'error_code')::text);
{{- end}}
    return 'applied';
end
{{.Tag}}
{{- end}}

{{define "app_reopen" -}}
-- Makes a closed row pending again, for redrive.
create or replace function {{.Schema}}.app_reopen(key text) returns text
language plpgsql set search_path = {{.Path}} as {{.Tag}}
#variable_conflict use_column
declare
    present text;
begin
    perform {{.Schema}}.app_begin();
    select {{.StateOf "t"}}
    into present
    from {{.TasksTable}} t
    where {{.ThisTask "t" "app_reopen.key"}}
    for no key update;
    if not found then
        return 'gone';
    elsif present is null or present in ('pending', 'processing') then
        return 'superseded';
    end if;
    update {{.TasksTable}} t set
            {{.SetPending true}}
    where {{.ThisTask "t" "app_reopen.key"}};
    if not found then
        raise exception 'the row was not changed: a trigger or a rule of the application prevents it';
    end if;
    return 'applied';
end
{{.Tag}}
{{- end}}

{{define "app_hand_back" -}}
-- Makes a row that imagetasks set to processing pending again, when the bridge is removed.
create or replace function {{.Schema}}.app_hand_back(key text) returns text
language plpgsql set search_path = {{.Path}} as {{.Tag}}
#variable_conflict use_column
declare
    present text;
begin
{{- if .HandsBack}}
    perform {{.Schema}}.app_begin();
    select {{.StateOf "t"}}
    into present
    from {{.TasksTable}} t
    where {{.ThisTask "t" "app_hand_back.key"}}
    for no key update;
    if not found then
        return 'gone';
    elsif present is distinct from 'processing' then
        return 'superseded';
    end if;
    update {{.TasksTable}} t set
            {{.SetPending false}}
    where {{.ThisTask "t" "app_hand_back.key"}};
    if not found then
        raise exception 'the row was not changed: a trigger or a rule of the application prevents it';
    end if;
    return 'applied';
{{- else}}
    return 'superseded'; -- the table does not show what is processing
{{- end}}
end
{{.Tag}}
{{- end}}

{{define "app_history" -}}
-- Records a completed task where users look for their pictures.
create or replace function {{.Schema}}.app_history(key text, url text, details jsonb) returns void
language plpgsql set search_path = {{.Path}} as {{.Tag}}
#variable_conflict use_column
begin
    perform {{.Schema}}.app_begin();
{{- with .HistoryRow}}
    insert into {{.Table}} ({{range $i, $c := .Columns}}{{if $i}}, {{end}}{{$c}}{{end}})
    select {{range $i, $v := .Values}}{{if $i}},
           {{end}}{{$v}}{{end}}
    from {{$.TasksTable}} t
    where {{$.ThisTask "t" "app_history.key"}};
{{- end}}
end
{{.Tag}}
{{- end}}
