-- Roles belong to the cluster: another database may have them, or create them now.
do $$ begin
	create role app_owner login;
exception when duplicate_object or unique_violation then null;
end $$;
do $$ begin
	create role app_writer login nobypassrls;
exception when duplicate_object or unique_violation then null;
end $$;
do $$ begin
	execute format('grant create, connect on database %I to app_owner', current_database());
end $$;
grant create, usage on schema public to app_owner;
grant usage on schema public to app_writer;
