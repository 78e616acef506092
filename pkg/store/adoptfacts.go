package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/lib/pq"

	"imagetasks/pkg/bridge"
)

// adoptionFacts is what the catalog says about the tables and functions that a description names.
type adoptionFacts struct {
	tables     map[bridge.Table]bridge.CatalogTable
	partitions map[bridge.Table][]bridge.Table // of all levels
	routines   []routine
}

// needs is what the bridge does with a table.
type needs struct {
	table      bridge.Table
	privileges []string
}

// neededTables returns the tables that a description names, in order, with the privileges that the owner of the bridge's functions needs.
func neededTables(d bridge.Description) []needs {
	byTable := map[bridge.Table]int{}
	var out []needs
	add := func(t bridge.Table, privileges ...string) {
		if t.IsZero() {
			return
		}
		at, ok := byTable[t]
		if !ok {
			at = len(out)
			byTable[t] = at
			out = append(out, needs{table: t})
		}
		for _, p := range privileges {
			if !slices.Contains(out[at].privileges, p) {
				out[at].privileges = append(out[at].privileges, p)
			}
		}
	}
	add(d.Tasks, "SELECT", "UPDATE", "TRIGGER")
	add(d.Credits.Table, "SELECT", "TRIGGER")
	if !d.Credits.Table.IsZero() && (d.Credits.Refund != "" || d.Credits.Charge != "") {
		add(d.Credits.Table, "UPDATE") // also to lock a row before the application's own function is called
	}
	if d.Log != nil {
		add(d.Log.Table, "INSERT")
	}
	if d.History != nil {
		add(d.History.Table, "INSERT")
	}
	if d.Credits.Charged == "log" && d.Credits.ChargeLog != nil {
		add(d.Credits.ChargeLog.Table, "SELECT", "TRIGGER")
	}
	if d.Credits.RefundLog != nil {
		add(d.Credits.RefundLog.Table, "SELECT", "TRIGGER")
	}
	return out
}

// checkAdopter checks that the schema, the server and the role allow a bridge. Only the owner of the schema may adopt: the functions have its rights.
func checkAdopter(ctx context.Context, tx *sql.Tx, schema string) error {
	var server int
	var version, role, owner, readOnly string
	var recovery bool
	err := tx.QueryRowContext(ctx, `
		select current_setting('server_version_num')::int, current_setting('server_version'), quote_ident(current_user), quote_ident(pg_get_userbyid(nspowner)),
		       pg_is_in_recovery(), current_setting('default_transaction_read_only')
		from pg_namespace where nspname = $1`, schema).Scan(&server, &version, &role, &owner, &recovery, &readOnly)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return fmt.Errorf("%w: there is no schema %s in this database; run: task-processor migrate", ErrSchema, schema)
	case err != nil:
		return err
	case server < minServer:
		return fmt.Errorf("the server is PostgreSQL %s; version 14 or later is needed", version)
	case recovery:
		return errStandby
	case readOnly == "on":
		return &AccessError{fmt.Sprintf("transactions of the role %s are read-only", role),
			fmt.Sprintf("run as an administrator: alter role %s reset default_transaction_read_only", role)}
	case role != owner:
		return &AccessError{fmt.Sprintf("the role %s does not own the schema %s", role, schema),
			fmt.Sprintf("run adopt with a DATABASE_URL of the role %s", owner)}
	}
	return nil
}

// checkProcessors refuses a bridge while a processor runs that does not know it: it would close tasks without writing that to the application.
func checkProcessors(ctx context.Context, tx *sql.Tx, n names) error {
	var worker string
	err := tx.QueryRowContext(ctx, `select coalesce(min(worker), '') from `+n.Schema+`.processors
		where coalesce(schema_version, 0) < 4 and beat_at > now() - interval '2 minutes'`).Scan(&worker)
	if err == nil && worker != "" {
		err = fmt.Errorf("the processor %s is of a version without the bridge; stop it, install this version there, and run adopt again", worker)
	}
	return err
}

// readFacts reads what the catalog says about what a description names, and checks that the role may do with it what the bridge does.
func readFacts(ctx context.Context, tx *sql.Tx, d bridge.Description) (adoptionFacts, error) {
	facts := adoptionFacts{tables: map[bridge.Table]bridge.CatalogTable{}, partitions: map[bridge.Table][]bridge.Table{}}
	for _, need := range neededTables(d) {
		t, err := readAdopted(ctx, tx, need)
		if err != nil {
			return facts, err
		}
		facts.tables[need.table] = t
		if facts.partitions[need.table], err = readPartitions(ctx, tx, need.table); err != nil {
			return facts, err
		}
	}
	if err := checkPath(ctx, tx, d); err != nil {
		return facts, err
	}
	for _, text := range []string{d.Credits.Refund, d.Credits.Charge} {
		if text == "" || text == "balance" {
			continue
		}
		c, err := parseCall(text)
		if err != nil {
			return facts, misfit("credits: %v", err)
		}
		if err := facts.readRoutines(ctx, tx, c); err != nil {
			return facts, err
		}
	}
	return facts, nil
}

// checkPath refuses a search path in which every role may create objects: an operator or function for exactly the types of a statement is preferred to
// PostgreSQL's own, and would run with the rights of the owner of the bridge.
func checkPath(ctx context.Context, tx *sql.Tx, d bridge.Description) error {
	var schema, owner string
	err := tx.QueryRowContext(ctx, `
		select quote_ident(n.nspname), quote_ident(current_user) from pg_namespace n
		where n.nspname = any ($1) and exists (
			select from aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a where a.grantee = 0 and a.privilege_type = 'CREATE')
		order by 1 limit 1`, pq.Array(searchPath(d))).Scan(&schema, &owner)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil
	case err != nil:
		return fmt.Errorf("adopt: read the privileges of schemas: %w", err)
	}
	return &AccessError{fmt.Sprintf("every role may create functions and operators in the schema %s, where the bridge's functions look for names: they would run with the rights of %s", schema, owner),
		fmt.Sprintf("run as the schema's owner, after a grant to the roles that create tables there: revoke create on schema %s from public", schema)}
}

// readAdopted reads a table of the application.
func readAdopted(ctx context.Context, tx *sql.Tx, need needs) (bridge.CatalogTable, error) {
	t := bridge.CatalogTable{Table: need.table}
	var oid int64
	var relkind, role string
	var usage, hidden bool
	var missing []string
	err := tx.QueryRowContext(ctx, `
		select c.oid::bigint, c.relkind, quote_ident(current_user), has_schema_privilege(n.oid, 'usage'),
		       array(select p from unnest($3::text[]) p where not has_table_privilege(c.oid, p)),
		       row_security_active(c.oid) and (not exists (
				select from pg_policy p
				where p.polrelid = c.oid and p.polpermissive and p.polcmd = '*' and pg_get_expr(p.polqual, c.oid) = 'true'
				  and coalesce(pg_get_expr(p.polwithcheck, c.oid), 'true') = 'true'
				  and (0 = any (p.polroles) or exists (select from unnest(p.polroles) r where pg_has_role(r, 'usage'))))
			or exists (
				select from pg_policy p
				where p.polrelid = c.oid and not p.polpermissive
				  and (0 = any (p.polroles) or exists (select from unnest(p.polroles) r where pg_has_role(r, 'usage')))))
		from pg_class c join pg_namespace n on n.oid = c.relnamespace
		where n.nspname = $1 and c.relname = $2 and c.relkind in ('r', 'p', 'v', 'm', 'f')`,
		need.table.Schema, need.table.Name, pq.Array(need.privileges)).Scan(&oid, &relkind, &role, &usage, pq.Array(&missing), &hidden)
	name := qualified(need.table)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return t, misfit("there is no table %s", need.table)
	case err != nil:
		return t, err
	case relkind == "v", relkind == "m":
		return t, misfit("%s is a view; name the table under it: a view has no triggers that see its changes", need.table)
	case relkind == "f":
		return t, misfit("%s is a foreign table: its rows are on another server, where no trigger can note changes; run imagetasks there", need.table)
	case !usage:
		return t, &AccessError{fmt.Sprintf("the role %s may not use the schema %s", role, need.table.Schema),
			fmt.Sprintf("run as its owner: grant usage on schema %s to %s", pq.QuoteIdentifier(need.table.Schema), role)}
	case len(missing) > 0:
		return t, &AccessError{fmt.Sprintf("the role %s lacks the privilege %s on %s", role, strings.Join(missing, ", "), need.table),
			fmt.Sprintf("run as the table's owner: grant %s on %s to %s", strings.ToLower(strings.Join(missing, ", ")), name, role)}
	case hidden:
		return t, &AccessError{fmt.Sprintf("row-level security may hide rows of %s from the role %s, which owns the bridge", need.table, role),
			fmt.Sprintf("run as the table's owner: create policy imagetasks on %s to %s using (true) with check (true)", name, role)}
	}
	t.Kind = "table"
	if relkind == "p" {
		t.Kind = "partitioned"
	}
	return t, readColumns(ctx, tx, []int64{oid}, map[int64]*bridge.CatalogTable{oid: &t})
}

// readPartitions returns the partitions of a table.
func readPartitions(ctx context.Context, tx *sql.Tx, t bridge.Table) ([]bridge.Table, error) {
	rows, err := tx.QueryContext(ctx, `
		select n.nspname, c.relname, c.relkind = 'f'
		from pg_partition_tree(to_regclass($1)) p join pg_class c on c.oid = p.relid join pg_namespace n on n.oid = c.relnamespace
		where p.level > 0 order by 1, 2`, qualified(t))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []bridge.Table
	for rows.Next() {
		var p bridge.Table
		var foreign bool
		if err := rows.Scan(&p.Schema, &p.Name, &foreign); err != nil {
			return nil, err
		}
		if foreign {
			return nil, misfit("the partition %s of %s is a foreign table: statements that change it are refused where a table has the triggers of a bridge", p, t)
		}
		out = append(out, p)
	}
	return out, rows.Err()
}

// readRoutines adds the functions that a call may mean.
func (f *adoptionFacts) readRoutines(ctx context.Context, tx *sql.Tx, c call) error {
	rows, err := tx.QueryContext(ctx, `
		select quote_ident(current_user), has_function_privilege(p.oid, 'execute'),
		       coalesce((select array_agg(coalesce(p.proargnames[i], '')) from generate_series(1, p.pronargs) i), '{}'),
		       coalesce((select array_agg(format_type(t, null) order by n) from unnest(p.proargtypes::oid[]) with ordinality a (t, n)), '{}'),
		       p.pronargdefaults, pg_get_function_identity_arguments(p.oid)
		from pg_proc p join pg_namespace n on n.oid = p.pronamespace
		where n.nspname = $1 and p.proname = $2 and p.prokind = 'f' and p.provariadic = 0`, c.schema, c.name)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var role, arguments string
		var allowed bool
		r := routine{schema: c.schema, name: c.name}
		if err := rows.Scan(&role, &allowed, pq.Array(&r.argNames), pq.Array(&r.argTypes), &r.defaults, &arguments); err != nil {
			return err
		}
		if !allowed {
			function := fmt.Sprintf("%s.%s(%s)", pq.QuoteIdentifier(c.schema), pq.QuoteIdentifier(c.name), arguments)
			return &AccessError{fmt.Sprintf("the role %s may not call %s", role, function),
				fmt.Sprintf("run as the function's owner: grant execute on function %s to %s", function, role)}
		}
		if !slices.ContainsFunc(f.routines, func(o routine) bool {
			return o.schema == r.schema && o.name == r.name && slices.Equal(o.argTypes, r.argTypes)
		}) {
			f.routines = append(f.routines, r)
		}
	}
	return rows.Err()
}

// checkSequences checks that the role may use the sequences from which rows that the bridge inserts get their defaults. Identity columns need nothing.
func checkSequences(ctx context.Context, tx *sql.Tx, inserts ...*bridge.Insert) error {
	for _, in := range inserts {
		if in == nil {
			continue
		}
		var role, sequences string
		err := tx.QueryRowContext(ctx, `
			select quote_ident(current_user), coalesce(string_agg(distinct quote_ident(n.nspname) || '.' || quote_ident(s.relname), ', '), '')
			from pg_attribute a
			join pg_attrdef def on def.adrelid = a.attrelid and def.adnum = a.attnum
			join pg_depend d on d.classid = 'pg_attrdef'::regclass and d.objid = def.oid and d.refclassid = 'pg_class'::regclass
			join pg_class s on s.oid = d.refobjid
			join pg_namespace n on n.oid = s.relnamespace
			where a.attrelid = to_regclass($1)::oid and a.attname <> all ($2)
			  and case when s.relkind = 'S' then not has_sequence_privilege(s.oid, 'usage') else false end`,
			qualified(in.Table), pq.Array(slices.Collect(maps.Keys(in.Columns)))).Scan(&role, &sequences)
		if err != nil {
			return fmt.Errorf("adopt: read the defaults of %s: %w", in.Table, err)
		}
		if sequences != "" {
			return &AccessError{fmt.Sprintf("the role %s may not use a sequence that %s gets a default from", role, in.Table),
				fmt.Sprintf("run as its owner: grant usage on sequence %s to %s", sequences, role)}
		}
	}
	return nil
}

// checkUnique checks that a key finds one row: an update by it would change others, too.
func checkUnique(ctx context.Context, tx *sql.Tx, d bridge.Description) error {
	for _, key := range []struct {
		table  bridge.Table
		column string
	}{{d.Tasks, d.Key}, {d.Credits.Table, d.Credits.Key}} {
		if key.table.IsZero() {
			continue
		}
		var unique bool
		err := tx.QueryRowContext(ctx, `
			select exists (
				select from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
				where i.indrelid = to_regclass($1)::oid and i.indisunique and i.indisvalid and i.indpred is null and i.indexprs is null
				  and i.indnkeyatts = 1 and a.attname = $2)`, qualified(key.table), key.column).Scan(&unique)
		if err != nil {
			return fmt.Errorf("adopt: read the indexes of %s: %w", key.table, err)
		}
		if !unique {
			return misfit("the column %q of the table %s is not unique: name one with a primary key or a unique index of its own", key.column, key.table)
		}
	}
	return nil
}
