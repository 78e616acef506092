-- compatible with: 5
--
-- How long a claimed task had been due, and what its run was charged, for the metrics of a processor.

-- It is volatile, so that it sees the row as the claim that the same statement makes has left it: a repeat of the claim returns the same.
create function {{.Schema}}.claimed_facts(task_id text) returns bigint[]
language plpgsql volatile set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
begin
    return (select array[(greatest(extract(epoch from t.processing_started_at - t.run_after), 0) * 1000)::bigint, t.credits_deducted]
            from {{.Schema}}.tasks t where t.task_id = claimed_facts.task_id);
end
$$;
