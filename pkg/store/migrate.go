package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// migrateLockTimeout bounds how long a migration waits for a lock: statements of the application queue up behind it.
const migrateLockTimeout = 5 * time.Second

// endWhenIdle makes the server end a transaction of several statements when this program went silent within it, so that its locks
// do not outlive a broken connection.
const endWhenIdle = "set local idle_in_transaction_session_timeout = '10s'"

// minServer is the oldest version of PostgreSQL that the schema works with.
const minServer = 140000

// schemaVersion is the version that these programs work with: the number of migrations.
const schemaVersion = 11

// Migration is one change of the schema.
type Migration struct {
	Version int    `json:"version"`
	Name    string `json:"name"`
	// CompatibleWith is the oldest version whose programs work with the schema after this migration.
	CompatibleWith int    `json:"compatible_with"`
	SQL            string `json:"-"`
}

// MigrateResult is what Migrate did, or what Plan would do.
type MigrateResult struct {
	Schema     string      `json:"schema"`
	Version    int         `json:"version"`    // before it; 0: there was no schema
	Migrations []Migration `json:"migrations"` // those that ran
	Steps      []Step      `json:"steps"`      // every statement that ran, in order
	Supabase   bool        `json:"supabase"`   // the database has Supabase's roles
	Revoked    []string    `json:"revoked"`    // roles that default privileges had granted something on new objects
	Roles      Roles       `json:"roles"`      // the roles that have privileges now
	// Drift names objects that are missing or were changed by hand. Only a plan for an up-to-date schema looks for them.
	Drift []string `json:"drift,omitempty"`
}

// Step is one statement, or one migration, with what it is for.
type Step struct {
	What string `json:"what"`
	SQL  string `json:"sql"`
}

// MigrateError means that a step of a migration failed. Everything before it was rolled back.
type MigrateError struct {
	Step Step
	Err  error
	Hint string // what to do; may be empty
}

// Error implements error.
func (e *MigrateError) Error() string {
	text := fmt.Sprintf("migrate: %s: %v; nothing was changed", e.Step.What, e.Err)
	if e.Hint != "" {
		text += "; " + e.Hint
	}
	return text
}

// Unwrap returns the database's error.
func (e *MigrateError) Unwrap() error { return e.Err }

// Migrate creates the schema or brings it to this program's version, and grants the roles what they need, all in one transaction.
// Roles that were named in earlier calls keep their privileges, and get those on new objects. Of several concurrent calls, one
// works and the others wait for it. A schema that is newer is not changed.
func (s *Store) Migrate(ctx context.Context, roles Roles) (MigrateResult, error) {
	return s.migrate(ctx, roles, true)
}

// Plan runs what Migrate would run and rolls it back: the result is exactly what Migrate would do now, and an error is the one that
// it would meet. It takes the same locks for that moment.
func (s *Store) Plan(ctx context.Context, roles Roles) (MigrateResult, error) {
	return s.migrate(ctx, roles, false)
}

// migrateTimeout bounds a migration: on a large table it may take long.
const migrateTimeout = time.Hour

func (s *Store) migrate(ctx context.Context, roles Roles, commit bool) (MigrateResult, error) {
	if err := s.read(ctx, s.checkMigratable); err != nil {
		return MigrateResult{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, migrateTimeout)
	defer cancel()
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return MigrateResult{}, fmt.Errorf("migrate: %w", err)
	}
	defer tx.Rollback()
	m := migrator{tx: tx, names: s.names, result: MigrateResult{Schema: s.schemaName(), Migrations: []Migration{}, Steps: []Step{}, Revoked: []string{}}}
	if err := m.run(ctx, roles); err != nil {
		return m.result, err
	}
	if !commit {
		// What this transaction has just created can't differ.
		if m.result.Version > 0 && len(m.result.Migrations) == 0 {
			m.result.Drift, err = m.findDrift(ctx)
		}
		return m.result, err
	}
	if err := tx.Commit(); err != nil {
		if isLostAnswer(err) {
			return m.result, fmt.Errorf("migrate: commit: %w; run it again, which does what is left to do", err)
		}
		return m.result, fmt.Errorf("migrate: commit: %w", err)
	}
	return m.result, nil
}

// schemaName returns the schema's name without quotes.
func (s *Store) schemaName() string { return strings.TrimSuffix(s.names.Channel, channelSuffix) }

// migrator runs the steps of a migration in a transaction.
type migrator struct {
	tx     *sql.Tx
	names  names
	result MigrateResult
}

func (m *migrator) run(ctx context.Context, roles Roles) error {
	if err := m.prepare(ctx); err != nil {
		return err
	}
	var err error
	if m.result.Version, err = m.version(ctx); err != nil {
		return err
	}
	all, err := loadMigrations(migrationFiles, m.names)
	if err != nil {
		return err
	}
	if m.result.Version > len(all) {
		return m.checkNewer(ctx, len(all), roles)
	}
	before, err := m.objects(ctx)
	if err != nil {
		return err
	}
	if m.result.Version == 0 {
		if err := m.createSchema(ctx, before); err != nil {
			return err
		}
	}
	if err := m.revokeFromSchema(ctx); err != nil {
		return err
	}
	for _, migration := range all {
		if migration.Version <= m.result.Version {
			continue
		}
		if err := m.step(ctx, "migration "+migration.Name, migration.SQL, ""); err != nil {
			return err
		}
		record := fmt.Sprintf("insert into %s.schema_versions (version, name, compatible_with) values (%d, %s, %d)", m.names.Schema,
			migration.Version, pq.QuoteLiteral(migration.Name), migration.CompatibleWith)
		if err := m.step(ctx, "record the version", record, ""); err != nil {
			return err
		}
		m.result.Migrations = append(m.result.Migrations, migration)
	}
	if err := m.revokeDefaults(ctx, before); err != nil {
		return err
	}
	return m.grantRoles(ctx, roles)
}

// checkMigratable checks the server and the role before a transaction is opened: lib/pq's transactions are read-write, which a standby
// refuses, and which would override a role that is read-only on purpose.
func (s *Store) checkMigratable(ctx context.Context) error {
	var server int
	var recovery, foreign bool
	var readOnly, version, role, owner string
	err := s.db.QueryRowContext(ctx, `
		select current_setting('server_version_num')::int, current_setting('server_version'), pg_is_in_recovery(),
		       current_setting('default_transaction_read_only'), quote_ident(current_user),
		       coalesce(quote_ident(pg_get_userbyid(n.nspowner)), ''),
		       coalesce(not pg_has_role(n.nspowner, 'usage')
		                and exists (select from pg_class c where c.relnamespace = n.oid and c.relname = 'schema_versions'), false)
		from (select) one left join pg_namespace n on n.nspname = $1`, s.schemaName()).
		Scan(&server, &version, &recovery, &readOnly, &role, &owner, &foreign)
	switch {
	case err != nil:
		return fmt.Errorf("migrate: %w", err)
	case server < minServer:
		return fmt.Errorf("migrate: the server is PostgreSQL %s; version 14 or later is needed", version)
	case recovery:
		return errStandby
	case readOnly == "on":
		return &AccessError{fmt.Sprintf("transactions of the role %s are read-only", role),
			fmt.Sprintf("run as an administrator: alter role %s reset default_transaction_read_only", role)}
	case foreign:
		return &AccessError{fmt.Sprintf("the role %s does not own the schema %s", role, s.names.Schema),
			fmt.Sprintf("run it with a DATABASE_URL of the role %s", owner)}
	}
	return nil
}

// checkNewer returns an error if the schema is newer than this program and not compatible with it, or if roles are named: this program
// does not know what they need. Else the schema stays as it is.
func (m *migrator) checkNewer(ctx context.Context, want int, roles Roles) error {
	var compatible int
	err := m.tx.QueryRowContext(ctx, "select max(compatible_with) from "+m.names.Schema+".schema_versions").Scan(&compatible)
	switch {
	case err != nil:
		return wrapMigrate("read the version", err)
	case compatible <= want && len(roles.App)+len(roles.Worker) > 0:
		return fmt.Errorf("%w: its version is %d, this program knows %d; grant roles with the programs of that version", ErrSchema, m.result.Version, want)
	case compatible <= want:
		return nil
	}
	return errNewerSchema(m.result.Version, compatible, want)
}

// prepare takes the lock against concurrent migrations.
func (m *migrator) prepare(ctx context.Context) error {
	limits := fmt.Sprintf("set local lock_timeout = %d; %s", migrateLockTimeout.Milliseconds(), endWhenIdle)
	if _, err := m.tx.ExecContext(ctx, limits); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte("imagetasks migrate " + m.names.Schema))
	if _, err := m.tx.ExecContext(ctx, "select pg_advisory_xact_lock($1)", int64(h.Sum64())); err != nil {
		return fmt.Errorf("migrate: wait for another migration: %w", err)
	}
	return nil
}

// version returns the schema's version, 0 if there is none.
func (m *migrator) version(ctx context.Context) (int, error) {
	var exists bool
	err := m.tx.QueryRowContext(ctx, `select exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace
		where n.nspname = $1 and c.relname = 'schema_versions')`, m.result.Schema).Scan(&exists)
	if err != nil || !exists {
		return 0, wrapMigrate("read the version", err)
	}
	var version sql.NullInt64
	err = m.tx.QueryRowContext(ctx, "select max(version) from "+m.names.Schema+".schema_versions").Scan(&version)
	return int(version.Int64), wrapMigrate("read the version", err)
}

func wrapMigrate(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("migrate: %s: %w", what, err)
}

// createSchema creates the schema, or uses an empty one that an administrator created.
func (m *migrator) createSchema(ctx context.Context, existing map[schemaObject]bool) error {
	if len(existing) > 0 {
		return &AccessError{fmt.Sprintf("the schema %s exists and holds tables or functions of something else", m.names.Schema),
			"set DATABASE_SCHEMA to another name"}
	}
	var exists bool
	if err := m.tx.QueryRowContext(ctx, "select exists (select from pg_namespace where nspname = $1)", m.result.Schema).Scan(&exists); err != nil {
		return wrapMigrate("look for the schema", err)
	}
	if !exists {
		hint := "run as the database's owner: grant create on database " + m.currentDatabase(ctx) + " to " + m.currentRole(ctx)
		if err := m.step(ctx, "create the schema", "create schema "+m.names.Schema, hint); err != nil {
			return err
		}
	} else if err := m.checkOwner(ctx); err != nil {
		return err
	}
	return m.createVersions(ctx)
}

// checkOwner refuses a schema of somebody else, who could replace the functions in it, which have the rights of their owner.
func (m *migrator) checkOwner(ctx context.Context) error {
	var owner string
	var mine bool
	err := m.tx.QueryRowContext(ctx, "select quote_ident(pg_get_userbyid(nspowner)), pg_has_role(nspowner, 'usage') from pg_namespace where nspname = $1",
		m.result.Schema).Scan(&owner, &mine)
	if err != nil {
		return wrapMigrate("read the schema's owner", err)
	}
	if !mine {
		return &AccessError{fmt.Sprintf("the schema %s exists and belongs to the role %s", m.names.Schema, owner),
			fmt.Sprintf("run as an administrator: alter schema %s owner to %s", m.names.Schema, m.currentRole(ctx))}
	}
	return nil
}

// currentRole and currentDatabase return quoted names for hints.
func (m *migrator) currentRole(ctx context.Context) string {
	var name string
	if err := m.tx.QueryRowContext(ctx, "select quote_ident(current_user)").Scan(&name); err != nil {
		return "this role"
	}
	return name
}

func (m *migrator) currentDatabase(ctx context.Context) string {
	var name string
	if err := m.tx.QueryRowContext(ctx, "select quote_ident(current_database())").Scan(&name); err != nil {
		return "this database"
	}
	return name
}

// step runs a statement and notes it.
func (m *migrator) step(ctx context.Context, what, text, hint string) error {
	step := Step{What: what, SQL: text}
	m.result.Steps = append(m.result.Steps, step)
	if _, err := m.tx.ExecContext(ctx, text); err != nil {
		if pq.As(err, pqerror.LockNotAvailable) != nil || pq.As(err, pqerror.TRDeadlockDetected) != nil {
			hint = "another transaction holds a lock on the table; run it again when that has ended"
		} else if pq.As(err, pqerror.InsufficientPrivilege) == nil && pq.As(err, pqerror.UndefinedObject) == nil {
			hint = ""
		}
		return &MigrateError{Step: step, Err: err, Hint: hint}
	}
	return nil
}

// loadMigrations returns the migrations ordered by version, with the schema's name filled in. The first line of each file says which
// versions of the programs work with the result.
func loadMigrations(files fs.FS, n names) ([]Migration, error) {
	paths, err := migrationPaths(files)
	if err != nil {
		return nil, err
	}
	var all []Migration
	for _, file := range paths {
		text, err := fs.ReadFile(files, file)
		if err != nil {
			return nil, err
		}
		name := strings.TrimSuffix(path.Base(file), ".sql")
		number, _, _ := strings.Cut(name, "_")
		version, err := strconv.Atoi(number)
		if err != nil {
			return nil, fmt.Errorf("migration %s: %w", name, err)
		}
		header, _, _ := strings.Cut(string(text), "\n")
		compatible, err := strconv.Atoi(strings.TrimPrefix(header, "-- compatible with: "))
		if err != nil || compatible < 1 || compatible > version {
			return nil, fmt.Errorf("migration %s: the first line must be: -- compatible with: VERSION", name)
		}
		if version != len(all)+1 {
			return nil, fmt.Errorf("migration %s: the version after %d must be %d", name, len(all), len(all)+1)
		}
		filled, err := fill(name, string(text), n)
		if err != nil {
			return nil, fmt.Errorf("migration %s: %w", name, err)
		}
		all = append(all, Migration{Version: version, Name: name, CompatibleWith: compatible, SQL: filled})
	}
	return all, nil
}

// migrationPaths returns the files of the migrations in their order.
func migrationPaths(files fs.FS) ([]string, error) {
	paths, err := fs.Glob(files, "migrations/*.sql")
	if err == nil && len(paths) == 0 {
		err = errors.New("no migration is embedded")
	}
	slices.Sort(paths)
	return paths, err
}

// newestVersion returns the version of the last migration, without reading any: each program does it at its start.
func newestVersion(files fs.FS) (int, error) {
	paths, err := migrationPaths(files)
	return len(paths), err
}
