package store

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/lib/pq"
)

// Statement returns the text of a statement, for EXPLAIN.
func (s *Store) Statement(name string) string {
	for _, fields := range s.sql.files() {
		if st, ok := fields[name]; ok {
			return st.text()
		}
	}
	panic("no statement " + name)
}

// Statements returns the texts of all statements by name, the audits' as "audit: CODE".
func (s *Store) Statements() map[string]string {
	all := map[string]string{}
	for _, fields := range s.sql.files() {
		for name, st := range fields {
			all[name] = st.text()
		}
	}
	for _, st := range s.sql.audits {
		all["audit: "+st.name] = st.text()
	}
	return all
}

// RepeatSoon shortens the waits before a statement is repeated.
func (s *Store) RepeatSoon() {
	for i := range s.waits {
		s.waits[i] = time.Duration(i+1) * time.Millisecond
	}
}

// WorkerGrants returns one statement for each privilege of a worker role.
func WorkerGrants(schema, role string) []string {
	n, err := newNames(schema)
	if err != nil {
		panic(err)
	}
	out := grants(n, role, nil)
	for _, o := range workerObjects() {
		for _, privilege := range o.privileges {
			out = append(out, object{o.kind, o.name, []string{privilege}}.grant(n, role))
		}
	}
	return out
}

// DB returns the connection pool.
func (s *Store) DB() *sql.DB { return s.db }

// PutAside sets a task aside.
func (s *Store) PutAside(ctx context.Context, id string) error {
	return s.putAside(ctx, id, "claim", &pq.Error{Code: "23514", Constraint: "a_rule"})
}

// Migrations is the number of migrations.
var Migrations = func() int {
	n, err := newNames("")
	if err != nil {
		panic(err)
	}
	all, err := loadMigrations(migrationFiles, n)
	if err != nil {
		panic(err)
	}
	return len(all)
}()

// PruneKeys deletes keys older than age, as Prune does.
func (s *Store) PruneKeys(ctx context.Context, age time.Duration, limit int, call uuid.UUID) (int, error) {
	return s.pruneBatch(ctx, s.sql.pruneKeys, age, limit, newIdentifiedCall(call))
}

// claimOfVersion1 is the function with which programs of version 1 claim.
const claimOfVersion1 = "claim(uuid, text, integer, bigint, integer)"

// MigrateTo creates the schema as the programs of an earlier version did, and grants roles what there was then.
func (s *Store) MigrateTo(ctx context.Context, version int, roles Roles) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	m := migrator{tx: tx, names: s.names, result: MigrateResult{Schema: s.schemaName()}}
	all, err := loadMigrations(migrationFiles, s.names)
	if err != nil {
		return err
	}
	if err := m.createSchema(ctx, nil); err != nil {
		return err
	}
	for _, migration := range all[:version] {
		record := fmt.Sprintf("insert into %s.schema_versions (version, name, compatible_with) values (%d, '%s', %d)",
			s.names.Schema, migration.Version, migration.Name, migration.CompatibleWith)
		for _, text := range []string{migration.SQL, record} {
			if err := m.step(ctx, migration.Name, text, ""); err != nil {
				return err
			}
		}
	}
	if err := m.revokeDefaults(ctx, nil); err != nil {
		return err
	}
	workers := append(workerObjects(), object{"function", claimOfVersion1, []string{"execute"}})
	for _, role := range roles.App {
		if err := m.grantExisting(ctx, role, "app", appObjects()); err != nil {
			return err
		}
	}
	for _, role := range roles.Worker {
		if err := m.grantExisting(ctx, role, "worker", workers); err != nil {
			return err
		}
	}
	return tx.Commit()
}

// grantExisting is grantRole for those of the objects that exist.
func (m *migrator) grantExisting(ctx context.Context, role, kind string, objects []object) error {
	quoted := pq.QuoteIdentifier(role)
	steps := []string{"grant usage on schema " + m.names.Schema + " to " + quoted,
		fmt.Sprintf("insert into %s.roles (role, kind) values (%s, '%s')", m.names.Schema, pq.QuoteLiteral(role), kind)}
	for _, o := range objects {
		lookUp := "to_regclass"
		if o.kind == "function" {
			lookUp = "to_regprocedure"
		}
		var exists bool
		if err := m.tx.QueryRowContext(ctx, "select "+lookUp+"($1) is not null", m.names.Schema+"."+o.name).Scan(&exists); err != nil {
			return err
		}
		if !exists {
			continue
		}
		steps = append(steps, o.grant(m.names, role))
		if kind == "worker" && o.kind == "table" && o.name != "task_status" {
			steps = append(steps, fmt.Sprintf("create policy %s on %s.%s to %s using (true) with check (true)",
				pq.QuoteIdentifier(policyName(role)), m.names.Schema, o.name, quoted))
		}
	}
	for _, text := range steps {
		if err := m.step(ctx, "grant to "+role, text, ""); err != nil {
			return err
		}
	}
	return nil
}

// Prepare makes the connections prepare the statement with that text, too, each again after age, and returns its name on the server. It must be
// called before there are any.
func (s *Store) Prepare(text string, age time.Duration) string {
	s.connector.hot.age = age
	s.connector.hot.names()[text] = preparedName(text)
	return s.connector.hot.names()[text]
}

// HotStatements returns the names of the statements that are prepared.
func (s *Store) HotStatements() (names []string) {
	for _, st := range s.sql.hot() {
		names = append(names, st.name)
	}
	return names
}

// Unprepared is for how long the connections prepare nothing after they met a pooler.
const Unprepared = unpreparedTime

// RecordFiguresBetween records the figures of the minutes between two times.
func (s *Store) RecordFiguresBetween(ctx context.Context, from, to time.Time) error {
	_, err := s.queryTexts(ctx, s.sql.recordFigures, from, to, keepFigures.Milliseconds())
	return err
}
