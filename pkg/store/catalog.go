package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lib/pq"

	"imagetasks/pkg/bridge"
)

// Only "task-processor adopt" reads the catalog: its queries stand here and not among the statements of a Store, because those on the
// application's tables are made from the names of their columns.

const (
	catalogTimeout = 30 * time.Second // of everything that is read of the system catalogs
	sampleTimeout  = 5 * time.Second  // of the sample of one table
	sampleRows     = 4000             // about so many rows of a large table are looked at
	countedRows    = 20_000           // up to this number the rows are counted
	wordLength     = 40               // longer texts are no words
	maxValues      = 30               // a column with more different words has none that mean something
)

// Catalog returns what the database says about the application's tables, and what samples of their rows hold. It changes nothing, and does
// not read large values whole. What could not be read of a table is said in its Note.
func (s *Store) Catalog(ctx context.Context) (bridge.Catalog, error) {
	var c bridge.Catalog
	err := s.read(ctx, func(ctx context.Context) error {
		var err error
		c, err = s.readCatalog(ctx)
		return err
	})
	if err != nil {
		return bridge.Catalog{}, fmt.Errorf("read the catalog: %w", err)
	}
	for i := range c.Tables {
		if err := s.sampleTable(ctx, &c.Tables[i], c.Schemas[c.Tables[i].Table.Schema]); err != nil {
			return bridge.Catalog{}, err
		}
	}
	return c, nil
}

// catalogSchemas selects the schemas that may hold tables of the application: not those of PostgreSQL, of Supabase itself, and of installations
// of imagetasks.
const catalogSchemas = `
	select n.oid, n.nspname from pg_namespace n
	where n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
	  and not exists (select from pg_depend d where d.classid = 'pg_namespace'::regclass and d.objid = n.oid and d.deptype = 'e')
	  and not exists (
		select from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'lease_epoch'
		where c.relnamespace = n.oid and c.relname = 'tasks'
		  and exists (select from pg_class v where v.relnamespace = n.oid and v.relname = 'schema_versions'))
	  and not ($1 and n.nspname in ('auth', 'cron', 'extensions', 'graphql', 'graphql_public', 'net', 'pgbouncer', 'pgmq', 'pgsodium', 'pgsodium_masks', 'pgtle',
	                                'realtime', '_realtime', 'storage', 'supabase_functions', 'supabase_migrations', 'vault', '_analytics'))`

// catalogTables selects the application's tables. Partitions are seen through their parent.
const catalogTables = `
	select c.oid, n.nspname, c.relname, c.relkind, c.reltuples, c.relrowsecurity, c.relispartition
	from pg_class c join (` + catalogSchemas + `) n on n.oid = c.relnamespace
	where c.relkind in ('r', 'p', 'f') and not c.relispartition and c.relpersistence <> 't'
	  and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')`

func (s *Store) readCatalog(ctx context.Context) (bridge.Catalog, error) {
	tx, err := s.beginCatalog(ctx, catalogTimeout)
	if err != nil {
		return bridge.Catalog{}, err
	}
	defer func() { _ = tx.Rollback() }()
	return catalogOf(ctx, tx)
}

// catalogOf reads the catalog in a transaction whose search path is that of the system.
func catalogOf(ctx context.Context, tx *sql.Tx) (bridge.Catalog, error) {
	c := bridge.Catalog{Schemas: map[string]bool{}}
	err := tx.QueryRowContext(ctx, `
		select current_database(), current_user,
		       (select count(*) = 3 from pg_roles where rolname in ('anon', 'authenticated', 'service_role'))`).Scan(&c.Database, &c.Role, &c.Supabase)
	if err != nil {
		return c, err
	}
	byOID := map[int64]*bridge.CatalogTable{}
	var oids []int64
	for _, part := range []func() error{
		func() error { return readSchemas(ctx, tx, &c) },
		func() error { oids, err = readTables(ctx, tx, &c, byOID); return err },
		func() error { return readColumns(ctx, tx, oids, byOID) },
		func() error { return readUnique(ctx, tx, oids, byOID) },
		func() error { return readConstraints(ctx, tx, oids, byOID) },
		func() error { return readTriggers(ctx, tx, oids, byOID) },
		func() error { return readFunctions(ctx, tx, &c) },
	} {
		if err := part(); err != nil {
			return c, err
		}
	}
	return c, nil
}

// beginCatalog begins a transaction that changes nothing and whose statements are bounded.
func (s *Store) beginCatalog(ctx context.Context, limit time.Duration) (*sql.Tx, error) {
	tx, err := s.db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	_, err = tx.ExecContext(ctx, fmt.Sprintf(
		"set local statement_timeout = %d; set local lock_timeout = '500ms'; set local search_path = pg_catalog; set local jit = off", limit.Milliseconds()))
	if err != nil {
		_ = tx.Rollback()
		return nil, err
	}
	return tx, nil
}

// scanRows runs a query and calls scan for each of its rows.
func scanRows(ctx context.Context, tx *sql.Tx, query string, scan func(*sql.Rows) error, args ...any) error {
	rows, err := tx.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

func readSchemas(ctx context.Context, tx *sql.Tx, c *bridge.Catalog) error {
	return scanRows(ctx, tx, `select n.nspname, has_schema_privilege(n.oid, 'usage') from pg_namespace n
		where n.nspname !~ '^pg_' and n.nspname <> 'information_schema'`, func(rows *sql.Rows) error {
		var name string
		var usage bool
		err := rows.Scan(&name, &usage)
		c.Schemas[name] = usage
		return err
	})
}

// readTables reads the tables in the order of their names. The pointers of byOID are into c.Tables.
func readTables(ctx context.Context, tx *sql.Tx, c *bridge.Catalog, byOID map[int64]*bridge.CatalogTable) ([]int64, error) {
	var oids []int64
	err := scanRows(ctx, tx, `
		select t.oid::bigint, t.nspname, t.relname, case t.relkind when 'p' then 'partitioned' when 'f' then 'foreign' else 'table' end,
		       greatest(t.reltuples, 0)::bigint, t.relrowsecurity,
		       row_security_active(t.oid) and (not exists (
				select from pg_policy p
				where p.polrelid = t.oid and p.polpermissive and p.polcmd = '*' and pg_get_expr(p.polqual, t.oid) = 'true'
				  and coalesce(pg_get_expr(p.polwithcheck, t.oid), 'true') = 'true'
				  and (0 = any (p.polroles) or exists (select from unnest(p.polroles) r where pg_has_role(r, 'usage'))))
			or exists (
				select from pg_policy p where p.polrelid = t.oid and not p.polpermissive
				  and (0 = any (p.polroles) or exists (select from unnest(p.polroles) r where pg_has_role(r, 'usage'))))),
		       array(select p from unnest(array['SELECT', 'INSERT', 'UPDATE', 'TRIGGER']) p where not has_table_privilege(t.oid, p))
		from (`+catalogTables+`) t order by t.nspname, t.relname`, func(rows *sql.Rows) error {
		var t bridge.CatalogTable
		var oid int64
		err := rows.Scan(&oid, &t.Table.Schema, &t.Table.Name, &t.Kind, &t.Rows, &t.Secured, &t.RowLevel, pq.Array(&t.Missing))
		oids, c.Tables = append(oids, oid), append(c.Tables, t)
		return err
	}, c.Supabase)
	for i, oid := range oids {
		byOID[oid] = &c.Tables[i]
	}
	return oids, err
}

func readColumns(ctx context.Context, tx *sql.Tx, oids []int64, byOID map[int64]*bridge.CatalogTable) error {
	// A domain is as the type that it is made of.
	return scanRows(ctx, tx, `
		with recursive columns as (
			select a.attrelid, a.attnum, a.attname, a.atttypid as declared, a.atttypmod as declared_mod, a.attnotnull, a.attgenerated, a.attidentity,
			       pg_get_expr(d.adbin, d.adrelid) as default_expr, a.atttypid as typid, a.atttypmod as typmod
			from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
			where a.attrelid = any ($1::oid[]) and a.attnum > 0 and not a.attisdropped
			union all
			select c.attrelid, c.attnum, c.attname, c.declared, c.declared_mod, c.attnotnull or t.typnotnull, c.attgenerated, c.attidentity,
			       coalesce(c.default_expr, t.typdefault), t.typbasetype, t.typtypmod
			from columns c join pg_type t on t.oid = c.typid and t.typtype = 'd'
		)
		select c.attrelid::bigint, c.attname, format_type(c.declared, c.declared_mod), case t.typtype when 'e' then 'enum' else t.typname end,
		       array(select e.enumlabel::text from pg_enum e where e.enumtypid = t.oid order by e.enumsortorder),
		       c.attnotnull and c.attgenerated = '', coalesce(c.default_expr, ''), c.attgenerated <> '' or c.attidentity = 'a', c.attidentity <> '',
		       case when t.typname in ('varchar', 'bpchar') and c.typmod >= 4 then c.typmod - 4 else 0 end,
		       case when t.typname = 'numeric' and c.typmod >= 4 then (((c.typmod - 4) & 2047) # 1024) - 1024 when t.typname = 'numeric' then -1 else 0 end
		from columns c join pg_type t on t.oid = c.typid
		where t.typtype <> 'd' order by c.attrelid, c.attnum`, func(rows *sql.Rows) error {
		var oid int64
		var col bridge.CatalogColumn
		err := rows.Scan(&oid, &col.Name, &col.Type, &col.Base, pq.Array(&col.Labels), &col.NotNull, &col.Default, &col.Generated, &col.Identity,
			&col.MaxLength, &col.Scale)
		if t := byOID[oid]; t != nil {
			t.Columns = append(t.Columns, col)
		}
		return err
	}, pq.Array(oids))
}

func readUnique(ctx context.Context, tx *sql.Tx, oids []int64, byOID map[int64]*bridge.CatalogTable) error {
	return scanRows(ctx, tx, `
		select i.indrelid::bigint, array(
			select a.attname::text from unnest(i.indkey::int2[]) with ordinality k (attnum, n)
			join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum where k.n <= i.indnkeyatts order by k.n)
		from pg_index i
		where i.indrelid = any ($1::oid[]) and i.indisunique and i.indisvalid and i.indpred is null and i.indexprs is null and i.indimmediate
		order by i.indrelid, i.indisprimary desc, i.indexrelid`, func(rows *sql.Rows) error {
		var oid int64
		var columns []string
		err := rows.Scan(&oid, pq.Array(&columns))
		if t := byOID[oid]; t != nil {
			t.Unique = append(t.Unique, columns)
		}
		return err
	}, pq.Array(oids))
}

func readConstraints(ctx context.Context, tx *sql.Tx, oids []int64, byOID map[int64]*bridge.CatalogTable) error {
	err := scanRows(ctx, tx, `
		select o.conrelid::bigint, array(select a.attname::text from unnest(o.conkey) with ordinality k (attnum, n)
		                                 join pg_attribute a on a.attrelid = o.conrelid and a.attnum = k.attnum order by k.n),
		       n.nspname, c.relname,
		       array(select a.attname::text from unnest(o.confkey) with ordinality k (attnum, n)
		             join pg_attribute a on a.attrelid = o.confrelid and a.attnum = k.attnum order by k.n),
		       case o.confdeltype when 'c' then 'cascade' when 'n' then 'set null' when 'r' then 'restrict' when 'd' then 'set default' else 'no action' end
		from pg_constraint o join pg_class c on c.oid = o.confrelid join pg_namespace n on n.oid = c.relnamespace
		where o.contype = 'f' and o.conrelid = any ($1::oid[]) order by o.conrelid, o.conname`, func(rows *sql.Rows) error {
		var oid int64
		var k bridge.ForeignKey
		err := rows.Scan(&oid, pq.Array(&k.Columns), &k.To.Schema, &k.To.Name, pq.Array(&k.Referred), &k.OnDelete)
		if t := byOID[oid]; t != nil {
			t.Keys = append(t.Keys, k)
		}
		return err
	}, pq.Array(oids))
	if err != nil {
		return err
	}
	return scanRows(ctx, tx, `select o.conrelid::bigint, pg_get_constraintdef(o.oid) from pg_constraint o
		where o.contype = 'c' and o.conrelid = any ($1::oid[]) order by o.conrelid, o.conname`, func(rows *sql.Rows) error {
		var oid int64
		var definition string
		err := rows.Scan(&oid, &definition)
		if t := byOID[oid]; t != nil {
			t.Checks = append(t.Checks, definition)
		}
		return err
	}, pq.Array(oids))
}

func readTriggers(ctx context.Context, tx *sql.Tx, oids []int64, byOID map[int64]*bridge.CatalogTable) error {
	return scanRows(ctx, tx, `
		select t.tgrelid::bigint, t.tgname, pg_get_triggerdef(t.oid), quote_ident(n.nspname) || '.' || quote_ident(p.proname), t.tgenabled <> 'D'
		from pg_trigger t join pg_proc p on p.oid = t.tgfoid join pg_namespace n on n.oid = p.pronamespace
		where t.tgrelid = any ($1::oid[]) and not t.tgisinternal and t.tgname !~ '^imagetasks_'
		order by t.tgrelid, t.tgname`, func(rows *sql.Rows) error {
		var oid int64
		var trigger bridge.CatalogTrig
		err := rows.Scan(&oid, &trigger.Name, &trigger.Definition, &trigger.Function, &trigger.Enabled)
		if t := byOID[oid]; t != nil {
			t.Triggers = append(t.Triggers, trigger)
		}
		return err
	}, pq.Array(oids))
}

func readFunctions(ctx context.Context, tx *sql.Tx, c *bridge.Catalog) error {
	return scanRows(ctx, tx, `
		select n.nspname, p.proname, pg_get_function_identity_arguments(p.oid), pg_get_function_result(p.oid)
		from pg_proc p join (`+catalogSchemas+`) n on n.oid = p.pronamespace
		where p.prokind = 'f' and p.prorettype not in ('trigger'::regtype, 'event_trigger'::regtype)
		  and not exists (select from pg_depend d where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')
		order by 1, 2, 3 limit 2000`, func(rows *sql.Rows) error {
		var f bridge.CatalogFunc
		err := rows.Scan(&f.Schema, &f.Name, &f.Arguments, &f.Result)
		c.Routines = append(c.Routines, f)
		return err
	}, c.Supabase)
}

// sampleTable adds the number of rows of a table and what a sample of them holds. What the database refuses goes to t.Note; only the end
// of ctx and a lost connection are errors.
func (s *Store) sampleTable(ctx context.Context, t *bridge.CatalogTable, usage bool) error {
	switch {
	case !usage:
		t.Note = "not read: this role lacks the privilege USAGE on the schema " + t.Table.Schema
		return nil
	case slices.Contains(t.Missing, "SELECT"):
		t.Note = "not read: this role lacks the privilege SELECT"
		return nil
	case t.Kind == "foreign":
		t.Note = "not read: a foreign table"
		return nil
	}
	err := s.read(ctx, func(ctx context.Context) error { return s.countTable(ctx, t) })
	if err == nil {
		err = s.read(ctx, func(ctx context.Context) error { return s.readSample(ctx, t) })
	}
	if err == nil {
		return nil
	}
	pqErr := pq.As(err)
	if pqErr == nil || ctx.Err() != nil {
		return fmt.Errorf("read a sample of %s: %w", t.Table, err)
	}
	switch pqErr.Code.Name() {
	case "query_canceled":
		t.Note = fmt.Sprintf("no sample: it took longer than %s", sampleTimeout)
	case "lock_not_available":
		t.Note = "no sample: another session holds an exclusive lock on the table"
	default:
		t.Note = fmt.Sprintf("no sample: the database refused it (SQLSTATE %s)", pqErr.Code) // its message may quote a value
	}
	return nil
}

// countTable counts the rows of a small table. For a large one it takes the planner's estimate, which knows the table's present size.
func (s *Store) countTable(ctx context.Context, t *bridge.CatalogTable) error {
	tx, err := s.beginCatalog(ctx, sampleTimeout)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	var n int64
	if err := tx.QueryRowContext(ctx, fmt.Sprintf("select count(*) from (select from %s limit %d) t", quoteTable(t.Table), countedRows+1)).Scan(&n); err != nil {
		return err
	}
	if n <= countedRows {
		t.Rows, t.Exact = n, true
		return nil
	}
	var text []byte
	if err := tx.QueryRowContext(ctx, "explain (format json) select from "+quoteTable(t.Table)).Scan(&text); err != nil {
		return err
	}
	var plans []struct {
		Plan struct {
			Rows int64 `json:"Plan Rows"`
		}
	}
	if err := json.Unmarshal(text, &plans); err != nil || len(plans) == 0 {
		return fmt.Errorf("the plan for %s can't be read", t.Table)
	}
	t.Rows, t.Exact = max(plans[0].Plan.Rows, n), false
	return nil
}

// quoteTable returns a table's name for SQL.
func quoteTable(t bridge.Table) string {
	return pq.QuoteIdentifier(t.Schema) + "." + pq.QuoteIdentifier(t.Name)
}

// sampleOf returns the query of the rows that are looked at: all of a small table; of a large one its first rows, its last ones, which
// are the newest in a table that grows, and some from everywhere.
func sampleOf(t *bridge.CatalogTable, columns string) string {
	table := quoteTable(t.Table)
	if t.Exact {
		return fmt.Sprintf("select %s from %s", columns, table)
	}
	percent := min(100, 200*float64(sampleRows)/float64(max(t.Rows, 1)))
	everywhere := fmt.Sprintf("(select %s from %s tablesample system (%.6f) limit %d)", columns, table, percent, sampleRows/2)
	first := fmt.Sprintf("(select %s from %s limit %d)", columns, table, sampleRows/4)
	if t.Kind == "partitioned" {
		return first + " union all " + everywhere
	}
	last := fmt.Sprintf("(select %s from %s where ctid >= format('(%%s,0)', greatest(pg_relation_size(%s::regclass) / current_setting('block_size')::int - 100, 0))::tid order by ctid desc limit %d)",
		columns, table, pq.QuoteLiteral(table), sampleRows/2)
	return first + " union all " + last + " union all " + everywhere
}

const shownLength = 120 // characters of a value that are looked at

// shownValue returns an expression for the beginning of a value, for which no large value is read whole.
func shownValue(c bridge.CatalogColumn) string {
	name := pq.QuoteIdentifier(c.Name)
	switch {
	case c.Base == "text", c.Base == "varchar", c.Base == "bpchar":
		return fmt.Sprintf("left(%s::text, %d)", name, shownLength)
	case c.Base == "jsonb", c.Base == "json":
		return fmt.Sprintf("case when %s is null then null when pg_column_size(%[1]s) > 2000 then '{' when %[2]s_typeof(%[1]s) = 'array' then left(%[1]s ->> 0, %[3]d) "+
			"when %[2]s_typeof(%[1]s) = 'string' then left(%[1]s #>> '{}', %[3]d) else left(%[1]s::text, %[3]d) end", name, c.Base, shownLength)
	case c.Base == "bytea":
		return fmt.Sprintf("case when %s is null then null when length(%[1]s) = 0 then '' else 'bytes' end", name)
	case strings.HasPrefix(c.Base, "_"):
		return fmt.Sprintf("case when %s is null then null when pg_column_size(%[1]s) > 2000 then '-' else left((%[1]s)[array_lower(%[1]s, 1)]::text, %[2]d) end", name, shownLength)
	}
	return fmt.Sprintf("left(%s::text, %d)", name, shownLength)
}

// likes are the forms of values, and the regular expressions that tell them.
var likes = []struct{ name, pattern string }{
	{"url", `^https?://`},
	{"data_url", `^data:`},
	{"uuid", `^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$`},
	{"number", `^-?[0-9]+([.][0-9]+)?$`},
	{"email", `^[^[:space:]@]+@[^[:space:]@]+[.][^[:space:]@]+$`},
	{"file", `^[^[:space:]:?*]+[.](png|jpe?g|webp|gif|avif|svg|bmp|heic)$`},
	{"base64", `^[A-Za-z0-9+/_-]{100,}$`},
	{"json", `^[[:space:]]*[\[{]`},
}

func (s *Store) readSample(ctx context.Context, t *bridge.CatalogTable) error {
	if len(t.Columns) == 0 {
		return nil
	}
	tx, err := s.beginCatalog(ctx, sampleTimeout)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	columns := make([]string, len(t.Columns))
	parts := make([]string, len(t.Columns))
	for i, c := range t.Columns {
		columns[i] = fmt.Sprintf("%s as c%d", shownValue(c), i)
		var counts []string
		for _, like := range likes {
			counts = append(counts, fmt.Sprintf("count(*) filter (where c%d ~ %s)", i, pq.QuoteLiteral(like.pattern)))
		}
		digits, form := "0", "null"
		if c.Base == "jsonb" || c.Base == "json" {
			columns[i] += fmt.Sprintf(", case when pg_column_size(%s) <= 2000 then %[1]s::text end as f%[2]d", pq.QuoteIdentifier(c.Name), i)
			form = fmt.Sprintf("(select f%d from sample where f%[1]d ~ 'https?://' limit 1)", i)
		}
		if c.Base == "numeric" {
			digits = fmt.Sprintf("coalesce(max(scale(trim_scale(c%d::numeric))) filter (where c%[1]d ~ '^-?[0-9.]+$'), 0)", i)
		}
		parts[i] = fmt.Sprintf("select %[1]d, count(*), count(*) filter (where c%[1]d <> ''), count(distinct c%[1]d) filter (where c%[1]d <> ''), "+
			"coalesce(max(length(c%[1]d)), 0), %[2]s, array[%[3]s]::bigint[], (select jsonb_agg(jsonb_build_object('value', v, 'rows', n) order by n desc, v) "+
			"from (select c%[1]d as v, count(*) as n from sample where c%[1]d <> '' group by 1 order by 2 desc, 1 limit %[4]d) top), %[5]s from sample",
			i, digits, strings.Join(counts, ", "), maxValues+1, form)
	}
	query := "with sample as materialized (" + sampleOf(t, strings.Join(columns, ", ")) + ")\n" + strings.Join(parts, "\nunion all\n")
	return scanRows(ctx, tx, query, func(rows *sql.Rows) error {
		var i, digits int
		var all, filled, distinct, longest int64
		var forms []int64
		var text, form []byte
		if err := rows.Scan(&i, &all, &filled, &distinct, &longest, &digits, pq.Array(&forms), &text, &form); err != nil {
			return err
		}
		var values []bridge.CatalogValue
		if text != nil {
			if err := json.Unmarshal(text, &values); err != nil {
				return err
			}
		}
		c := &t.Columns[i]
		c.Digits, c.Like, c.Form = digits, "", bridge.FormOf(form)
		if all > 0 {
			c.Filled = float64(filled) / float64(all)
		}
		if filled > 0 {
			c.Distinct = float64(distinct) / float64(filled)
		}
		for n, like := range likes {
			if c.Like == "" && filled > 0 && float64(forms[n]) >= 0.8*float64(filled) {
				c.Like = like.name
			}
		}
		c.Values = keepWords(*c, values, filled, longest)
		return nil
	})
}

// keepWords returns the values of a column that holds words, and none of a column that may hold what people wrote.
func keepWords(c bridge.CatalogColumn, values []bridge.CatalogValue, filled, longest int64) []bridge.CatalogValue {
	switch c.Base {
	case "bool", "enum":
		return values
	case "int2", "int4", "int8", "numeric":
		if len(values) <= maxValues/2 && filled >= int64(2*len(values)) {
			return values
		}
		return nil
	case "text", "varchar", "bpchar":
	default:
		return nil
	}
	if longest > wordLength || len(values) > maxValues || c.Like != "" {
		return nil
	}
	if filled >= int64(3*len(values)) && !bridge.HoldsText(c.Name) {
		return values
	}
	// Mostly different values: only known words, of which a small table may hold each once.
	for _, v := range values {
		if !bridge.KnownWord(v.Value) {
			return nil
		}
	}
	return values
}
