-- compatible with: 5
--
-- redrive of a bridged task does not charge a row that shows a charge which was not given back.

-- As in version 4, except that the row is looked at, when it is locked, before it is charged. The application may have charged it again since its run
-- failed and closed it itself: the row can't show two charges, so the one of the application could not be given back any more.
create or replace function {{.Schema}}.bridge_redrive(task_id text, user_id text, run int, amount bigint) returns bigint
language plpgsql volatile set lock_timeout = '500ms' as $$
#variable_conflict use_column
declare
    b {{.Schema}}.bridge;
    took record;
    row_of record;
    did text;
begin
    select * into b from {{.Schema}}.bridge x where x.active;
    -- It locks the row, and writes nothing to one that is closed.
    did := {{.Schema}}.app_progress(bridge_redrive.task_id, 0, 'redriven');
    if did <> 'superseded' then
        raise exception 'the task''s row in the application''s table is %', case did when 'gone' then 'deleted' else 'not closed' end using errcode = 'IT005';
    end if;
    if amount > 0 then
        select * into row_of from {{.Schema}}.app_rows(array[bridge_redrive.task_id]);
        if b.shows_refunds and row_of.charged and row_of.cost > 0 and not row_of.refunded then
            raise exception 'the task''s row in the application''s table shows a charge that was not given back' using errcode = 'IT005',
                hint = 'Set the row back to pending there: its charge pays for the next run. Or give the credits back there first.';
        end if;
        select * into took from {{.Schema}}.app_charge(bridge_redrive.task_id, bridge_redrive.user_id, amount, 'task redriven');
        perform {{.Schema}}.bridge_entry(bridge_redrive.user_id, bridge_redrive.task_id, bridge_redrive.run, 'charge', - amount, 'task redriven');
    end if;
    did := {{.Schema}}.app_reopen(bridge_redrive.task_id);
    if did <> 'applied' then
        raise exception 'the task''s row in the application''s table is %', case did when 'gone' then 'deleted' else 'not closed' end using errcode = 'IT005';
    end if;
    perform {{.Schema}}.bridge_mark(bridge_redrive.task_id, bridge_redrive.user_id, - amount, b.decimals);
    return coalesce((select a.balance from {{.Schema}}.app_balances(array[bridge_redrive.user_id]) a), 0);
end
$$;
