-- Copies every closed task with its user, credits and ledger, $copies$ times over, under other ids: a history without the time it takes to
-- work it. Columns that a migration adds are copied as well. The triggers and the foreign keys would check row by row what is a copy.
set session_replication_role = replica;
do $$
declare
    copied record;
begin
    for copied in
        select c.table_name,
               string_agg(quote_ident(c.column_name), ', ' order by c.ordinal_position) as columns,
               string_agg(case when c.column_name in ('task_id', 'user_id') then format('%I || ''-'' || copy', c.column_name) else quote_ident(c.column_name) end,
                          ', ' order by c.ordinal_position) as selected
        from information_schema.columns c
        join information_schema.tables t using (table_schema, table_name)
        where c.table_schema = 'imagetasks' and t.table_type = 'BASE TABLE' and c.is_identity = 'NO' and c.is_generated = 'NEVER'
          and c.table_name in ('tasks', 'results', 'ledger', 'credits')
        group by c.table_name
    loop
        -- The rows of a ledger are in the order of their ids, which are given anew.
        execute format('insert into imagetasks.%I (%s) select %s from generate_series(1, {{copies}}) copy, imagetasks.%I order by copy, %s',
                       copied.table_name, copied.columns, copied.selected, copied.table_name, case copied.table_name when 'ledger' then 'id' else '1' end);
    end loop;
end
$$;
reset session_replication_role;
