package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/lib/pq"
)

// ErrSchema means that the database schema is missing, or of a version that this program does not work with.
var ErrSchema = errors.New("the database schema does not fit this program")

// AccessError means that the role of DATABASE_URL could not see or do what the programs need.
type AccessError struct {
	Problem string
	Fix     string // a statement or a command
}

// Error implements error.
func (e *AccessError) Error() string { return e.Problem + "; " + e.Fix }

var errStandby = &AccessError{"the database is a read-only standby", "set DATABASE_URL to the primary server"}

func errNewerSchema(have, compatible, want int) error {
	return fmt.Errorf("%w: its version is %d, which works with programs for version %d or later, and this one is for %d; install a newer imagetasks",
		ErrSchema, have, compatible, want)
}

// CheckAccess checks that the schema fits this program, and that the role may see and do what it needs: a role that sees no rows must not
// be mistaken for an empty queue. Its errors are an *AccessError or wrap ErrSchema, and name what to do.
func (s *Store) CheckAccess(ctx context.Context) error {
	return s.read(ctx, s.checkAccess)
}

func (s *Store) checkAccess(ctx context.Context) error {
	role, err := s.checkServer(ctx)
	if err != nil {
		return err
	}
	hasRowSecurity, err := s.checkPrivileges(ctx, role)
	if err != nil {
		return err
	}
	if hasRowSecurity {
		if err := s.checkRows(ctx, role); err != nil {
			return err
		}
	}
	return s.checkVersion(ctx)
}

// ask asks one of the questions below.
func (s *Store) ask(ctx context.Context, q question) (*sql.Rows, error) {
	return s.answers.orKeep(s.db, q.text, q.args).QueryContext(ctx, q.text, q.args...)
}

// askRow is ask for a question whose answer is one row.
func (s *Store) askRow(ctx context.Context, q question) *sql.Row {
	return s.answers.orKeep(s.db, q.text, q.args).QueryRowContext(ctx, q.text, q.args...)
}

func (s *Store) serverQuestion() question {
	return question{`
		select current_user, pg_is_in_recovery(), current_setting('transaction_read_only'), to_regnamespace($1) is not null, usage,
		       case when usage then to_regclass($1 || '.schema_versions') is not null else false end
		from coalesce(has_schema_privilege(to_regnamespace($1), 'usage'), false) as usage`, []any{s.names.Schema}}
}

// checkServer checks the server and the schema's existence, and returns the role.
func (s *Store) checkServer(ctx context.Context) (role string, err error) {
	var recovery, exists, usage, versions bool
	var readOnly string
	err = s.askRow(ctx, s.serverQuestion()).Scan(&role, &recovery, &readOnly, &exists, &usage, &versions)
	if err == nil && exists && !usage { // then to_regclass fails
		err = s.db.QueryRowContext(ctx, `
			select exists (select from pg_class where relname = 'schema_versions' and relnamespace = to_regnamespace($1))`, s.names.Schema).Scan(&versions)
	}
	switch {
	case err != nil:
		return "", fmt.Errorf("check the database: %w", err)
	case recovery:
		return "", errStandby
	case readOnly == "on":
		return "", &AccessError{fmt.Sprintf("transactions of the role %s are read-only", role),
			fmt.Sprintf("run as an administrator: alter role %s reset default_transaction_read_only", pq.QuoteIdentifier(role))}
	case !exists, !versions:
		return "", fmt.Errorf("%w: there is no schema %s in this database; run: task-processor migrate", ErrSchema, s.names.Schema)
	case !usage:
		return "", s.grantError(role, "may not use the schema "+s.names.Schema, fmt.Sprintf("grant usage on schema %s to %s", s.names.Schema, pq.QuoteIdentifier(role)))
	}
	return role, nil
}

// grantError names the command that grants a worker role everything, and the statement for what was found missing.
func (s *Store) grantError(role, problem, statement string) error {
	return &AccessError{fmt.Sprintf("the role %s %s", role, problem),
		fmt.Sprintf("run with a DATABASE_URL of the schema's owner: task-processor migrate --worker-role %s (or only: %s)", role, statement)}
}

// rowSecurity is in the place of a privilege where row-level security is active for the role.
const rowSecurity = "row security"

func (s *Store) privilegesQuestion() question {
	var kinds, objects, privileges []string
	needed := workerObjects()
	for _, table := range policyTables() {
		if !slices.ContainsFunc(needed, func(o object) bool { return o.name == table }) {
			needed = append(needed, object{"table", table, nil})
		}
	}
	for _, o := range needed {
		kinds, objects, privileges = append(kinds, o.kind), append(objects, s.names.Schema+"."+o.name), append(privileges, strings.Join(o.privileges, ","))
	}
	return question{`
		select name, privilege, id is not null
		from (
			select name, kind, string_to_array(privileges, ',') || case when kind = 'table' and row_security_active(id) then array[$4::text] end as privileges, id
			from unnest($1::text[], $2::text[], $3::text[]) as needed (kind, name, privileges),
			     lateral (select case when kind = 'function' then to_regprocedure(name)::oid else to_regclass(name)::oid end as id offset 0) found
			offset 0
		) object, unnest(privileges) as privilege
		where privilege = $4 or not coalesce(case kind
			when 'function' then has_function_privilege(id, privilege)
			when 'sequence' then has_sequence_privilege(id, privilege)
			else has_table_privilege(id, privilege) end, false)`,
		[]any{pq.Array(kinds), pq.Array(objects), pq.Array(privileges), rowSecurity}}
}

// checkPrivileges checks the privileges on every object that the programs use, and reports whether row-level security may hide rows.
func (s *Store) checkPrivileges(ctx context.Context, role string) (hasRowSecurity bool, err error) {
	byName := map[string]object{}
	for _, o := range workerObjects() {
		byName[s.names.Schema+"."+o.name] = o
	}
	rows, err := s.ask(ctx, s.privilegesQuestion())
	if err != nil {
		return false, fmt.Errorf("check the privileges: %w", err)
	}
	defer rows.Close()
	var missing, grants []string
	absent := "" // the first object that does not exist
	for rows.Next() {
		var name, privilege string
		var exists bool
		if err := rows.Scan(&name, &privilege, &exists); err != nil {
			return false, fmt.Errorf("check the privileges: %w", err)
		}
		if privilege == rowSecurity {
			hasRowSecurity = true
			continue
		}
		if !exists && absent == "" {
			absent = name
		}
		missing = append(missing, privilege+" on "+name)
		grants = append(grants, object{byName[name].kind, byName[name].name, []string{privilege}}.grant(s.names, role))
	}
	if err := rows.Err(); err != nil {
		return false, fmt.Errorf("check the privileges: %w", err)
	}
	switch {
	case absent != "":
		// A schema of another version has other objects.
		if err := s.checkVersion(ctx); errors.Is(err, ErrSchema) {
			return false, err
		}
		return false, fmt.Errorf("%w: %s is missing; run: task-processor migrate", ErrSchema, absent)
	case len(missing) == 0:
		return hasRowSecurity, nil
	}
	if isApp, err := s.isAppRole(ctx); err != nil || isApp {
		return false, errors.Join(err, &AccessError{fmt.Sprintf("the role %s may call the functions for applications, and not run the programs", role),
			"set DATABASE_URL to the schema's owner, or to a role of its own for the programs: task-processor migrate --worker-role ROLE"})
	}
	return false, s.grantError(role, "lacks the privilege "+listUpTo(missing, 3), listUpTo(grants, 1))
}

// isAppRole reports whether the role has the interface for applications, and can't read tasks: to make it a worker role would give the
// application every table.
func (s *Store) isAppRole(ctx context.Context) (bool, error) {
	var isApp bool
	err := s.db.QueryRowContext(ctx, `
		select coalesce(has_function_privilege(to_regprocedure($1)::oid, 'execute'), false) and has_table_privilege($2::regclass, 'select')
		       and not has_table_privilege($3::regclass, 'select')`,
		s.names.Schema+"."+appObjects()[1].name, s.names.Schema+".task_status", s.names.Schema+".tasks").Scan(&isApp)
	if err != nil {
		return false, fmt.Errorf("check the privileges: %w", err)
	}
	return isApp, nil
}

// listUpTo joins at most n texts.
func listUpTo(texts []string, n int) string {
	if len(texts) <= n {
		return strings.Join(texts, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(texts[:n], ", "), len(texts)-n)
}

// checkRows checks that row-level security hides no rows from the role.
func (s *Store) checkRows(ctx context.Context, role string) error {
	var hidden string
	err := s.db.QueryRowContext(ctx, `
		select coalesce(string_agg(c.relname, ', ' order by c.relname), '')
		from pg_class c join pg_namespace n on n.oid = c.relnamespace
		where n.nspname = $1 and c.relname = any ($2) and row_security_active(c.oid)
		  and (not exists (
				select from pg_policy p
				where p.polrelid = c.oid and p.polpermissive and p.polcmd = '*' and pg_get_expr(p.polqual, c.oid) = 'true'
				  and coalesce(pg_get_expr(p.polwithcheck, c.oid), 'true') = 'true'
				  and (0 = any (p.polroles) or exists (select from unnest(p.polroles) r where pg_has_role(r, 'usage'))))
			or exists (
				select from pg_policy p
				where p.polrelid = c.oid and not p.polpermissive
				  and (0 = any (p.polroles) or exists (select from unnest(p.polroles) r where pg_has_role(r, 'usage')))))`,
		s.schemaName(), pq.Array(policyTables())).Scan(&hidden)
	if err != nil {
		return fmt.Errorf("check row-level security: %w", err)
	}
	if hidden == "" {
		return nil
	}
	table, _, _ := strings.Cut(hidden, ", ")
	return s.grantError(role, "can't see the rows of "+hidden+" because of row-level security",
		fmt.Sprintf("create policy %s on %s.%s to %s using (true) with check (true)", pq.QuoteIdentifier(policyName(role)),
			s.names.Schema, pq.QuoteIdentifier(table), pq.QuoteIdentifier(role)))
}

func (s *Store) versionQuestion() question {
	return question{"select coalesce(max(version), 0), coalesce(max(compatible_with), 0) from " + s.names.Schema + ".schema_versions", nil}
}

// checkVersion checks that the schema is neither too old nor incompatible. A schema that is newer and compatible is accepted, so that
// several hosts can be upgraded one by one.
func (s *Store) checkVersion(ctx context.Context) error {
	var have, compatible int
	err := s.askRow(ctx, s.versionQuestion()).Scan(&have, &compatible)
	if err != nil {
		return fmt.Errorf("read the schema's version: %w", err)
	}
	want, err := newestVersion(migrationFiles)
	switch {
	case err != nil:
		return err
	case have < want:
		return fmt.Errorf("%w: its version is %d, this program needs %d; run: task-processor migrate", ErrSchema, have, want)
	case compatible > want:
		return errNewerSchema(have, compatible, want)
	}
	return nil
}
