package store

import (
	"context"
	"database/sql"
	"fmt"
	"strings"

	"github.com/lib/pq"
)

// referenceSuffix makes the name of the schema that a plan compares with. It exists only within the plan's transaction.
const referenceSuffix = "__reference"

// definitions selects the definition of every object of a schema, without the reference's suffix.
const definitions = `
with s as (select oid from pg_namespace where nspname = $1), objects as (
	select 'column' as kind, c.relname || '.' || a.attname as name,
	       format_type(a.atttypid, a.atttypmod) || case when a.attnotnull then ' not null' else '' end || coalesce(' default ' || pg_get_expr(d.adbin, d.adrelid), '') as definition
	from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
	left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
	where c.relnamespace = (select oid from s) and c.relkind = 'r'
	union all
	select 'constraint', c.relname || '.' || o.conname, pg_get_constraintdef(o.oid)
	from pg_constraint o join pg_class c on c.oid = o.conrelid where c.relnamespace = (select oid from s)
	union all
	select 'index', c.relname, pg_get_indexdef(c.oid) || case when i.indisvalid then '' else ' (invalid)' end
	from pg_class c join pg_index i on i.indexrelid = c.oid where c.relnamespace = (select oid from s)
	union all
	select 'function', p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')', pg_get_functiondef(p.oid)
	from pg_proc p where p.pronamespace = (select oid from s)
	union all
	select 'trigger', c.relname || '.' || t.tgname, pg_get_triggerdef(t.oid) || case t.tgenabled when 'O' then '' else ' (disabled)' end
	from pg_trigger t join pg_class c on c.oid = t.tgrelid where c.relnamespace = (select oid from s) and not t.tgisinternal
	union all
	select 'view', c.relname, pg_get_viewdef(c.oid) from pg_class c where c.relnamespace = (select oid from s) and c.relkind = 'v'
	union all
	select 'sequence', c.relname, '' from pg_class c where c.relnamespace = (select oid from s) and c.relkind = 'S'
	union all
	select 'row-level security of table', c.relname, c.relrowsecurity::text from pg_class c where c.relnamespace = (select oid from s) and c.relkind = 'r'
)
select kind || ' ' || name, replace(definition, '` + referenceSuffix + `', '') from objects`

// findDrift compares the schema with a new one made by the same migrations, and returns what is missing or was changed by hand.
// The new schema is rolled back. Where the role may not create one, nothing is compared.
func (m *migrator) findDrift(ctx context.Context) ([]string, error) {
	if _, err := m.tx.ExecContext(ctx, "savepoint drift"); err != nil {
		return nil, wrapMigrate("compare the schema", err)
	}
	drift, err := m.compare(ctx)
	if _, rollbackErr := m.tx.ExecContext(ctx, "rollback to savepoint drift"); rollbackErr != nil {
		return nil, wrapMigrate("compare the schema", rollbackErr)
	}
	return drift, err
}

func (m *migrator) compare(ctx context.Context) ([]string, error) {
	// Definitions leave out the names of schemas that are in the search path.
	if _, err := m.tx.ExecContext(ctx, "set local search_path = pg_catalog"); err != nil {
		return nil, wrapMigrate("compare the schema", err)
	}
	have, err := m.definitions(ctx, m.result.Schema)
	if err != nil {
		return nil, err
	}
	reference := migrator{tx: m.tx, names: m.names, result: MigrateResult{Schema: m.result.Schema + referenceSuffix}}
	reference.names.Schema = pq.QuoteIdentifier(reference.result.Schema)
	reference.names.Channel = reference.result.Schema + channelSuffix
	reference.names.EventChannel = reference.result.Schema + eventChannelSuffix
	if _, err := m.tx.ExecContext(ctx, "create schema "+reference.names.Schema); err != nil {
		return nil, nil // not allowed: it can't be compared
	}
	if err := reference.createVersions(ctx); err != nil {
		return nil, err
	}
	all, err := loadMigrations(migrationFiles, reference.names)
	if err != nil {
		return nil, err
	}
	for _, migration := range all {
		if err := reference.step(ctx, migration.Name, migration.SQL, ""); err != nil {
			return nil, err
		}
	}
	want, err := m.definitions(ctx, reference.result.Schema)
	if err != nil {
		return nil, err
	}
	var drift []string
	for _, object := range want.order {
		switch definition, exists := have.byObject[object]; {
		case !exists:
			drift = append(drift, object+" is missing")
		case definition != want.byObject[object]:
			drift = append(drift, object+" was changed")
		}
	}
	return drift, nil
}

// schemaDefinitions are the definitions of a schema's objects.
type schemaDefinitions struct {
	byObject map[string]string
	order    []string
}

func (m *migrator) definitions(ctx context.Context, schema string) (schemaDefinitions, error) {
	d := schemaDefinitions{byObject: map[string]string{}}
	rows, err := m.tx.QueryContext(ctx, definitions+" order by 1", schema)
	if err != nil {
		return d, wrapMigrate("compare the schema", err)
	}
	defer rows.Close()
	for rows.Next() {
		var object string
		var definition sql.NullString
		if err := rows.Scan(&object, &definition); err != nil {
			return d, wrapMigrate("compare the schema", err)
		}
		object = strings.ReplaceAll(object, referenceSuffix, "")
		d.byObject[object] = definition.String
		d.order = append(d.order, object)
	}
	return d, wrapMigrate("compare the schema", rows.Err())
}

// createVersions creates the table of versions.
func (m *migrator) createVersions(ctx context.Context) error {
	return m.step(ctx, "create the table of versions", "create table "+m.names.Schema+`.schema_versions (
    version         integer primary key,
    name            text not null,
    compatible_with integer not null, -- the oldest version whose programs work with this schema
    applied_at      timestamptz not null default now()
)`, fmt.Sprintf("run as the schema's owner: grant create on schema %s to %s", m.names.Schema, m.currentRole(ctx)))
}
