package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"github.com/pressly/goose/v3"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

const (
	versionTable = "imagetasks_schema_version"
	// migrateLock is the key of the advisory lock that migrations take: "imgtasks" in ASCII.
	migrateLock = 0x696d677461736b73
)

// ErrSchema means that the database schema has a different version than this program needs.
var ErrSchema = errors.New("the database schema has the wrong version")

// Migration is one change of the schema.
type Migration struct {
	Version int64  `json:"version"`
	Name    string `json:"name"`
	SQL     string `json:"-"`
}

// Migrate applies the pending migrations and returns them. Of several concurrent calls, one applies the migrations and
// the others wait for it.
func (s *Store) Migrate(ctx context.Context) ([]Migration, error) {
	files, err := s.migrations()
	if err != nil {
		return nil, err
	}
	// The lock belongs to a separate transaction, so that it also works behind a transaction pooler and is released
	// even if this process crashes.
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("migrate: %w", err)
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(ctx, "select pg_advisory_xact_lock($1)", int64(migrateLock)); err != nil {
		return nil, fmt.Errorf("migrate: wait for another migration: %w", err)
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, s.db, files,
		goose.WithTableName(versionTable), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return nil, fmt.Errorf("migrate: %w", err)
	}
	results, err := provider.Up(ctx)
	if err != nil {
		return nil, fmt.Errorf("migrate: %w", err)
	}
	done := make([]Migration, 0, len(results))
	for _, r := range results {
		done = append(done, Migration{Version: r.Source.Version, Name: path.Base(r.Source.Path)})
	}
	return done, nil
}

// Plan returns the migrations that Migrate would apply, with their SQL. It changes nothing, even in a database that was
// never migrated.
func (s *Store) Plan(ctx context.Context) ([]Migration, error) {
	have, err := s.version(ctx)
	if err != nil {
		return nil, err
	}
	files, err := s.migrations()
	if err != nil {
		return nil, err
	}
	all, err := listMigrations(files)
	if err != nil {
		return nil, err
	}
	var plan []Migration
	for _, m := range all {
		if m.Version > have {
			plan = append(plan, m)
		}
	}
	return plan, nil
}

// CheckSchema returns ErrSchema if the schema is older or newer than this program needs.
func (s *Store) CheckSchema(ctx context.Context) error {
	have, err := s.version(ctx)
	if err != nil {
		return err
	}
	all, err := listMigrations(migrationFiles)
	if err != nil {
		return err
	}
	switch want := all[len(all)-1].Version; {
	case have < want:
		return fmt.Errorf("%w: it is %d, this program needs %d; run: task-processor migrate", ErrSchema, have, want)
	case have > want:
		return fmt.Errorf("%w: it is %d, this program needs %d; install a newer imagetasks", ErrSchema, have, want)
	}
	return nil
}

// version returns the schema's version, 0 if there is no schema yet. It writes nothing.
func (s *Store) version(ctx context.Context) (int64, error) {
	var exists bool
	if err := s.db.QueryRowContext(ctx, "select to_regclass($1) is not null", versionTable).Scan(&exists); err != nil {
		return 0, fmt.Errorf("read the schema version: %w", err)
	}
	if !exists {
		return 0, nil
	}
	var version sql.NullInt64
	err := s.db.QueryRowContext(ctx, "select max(version_id) from "+versionTable+" where is_applied").Scan(&version)
	if err != nil {
		return 0, fmt.Errorf("read the schema version: %w", err)
	}
	return version.Int64, nil
}

// migrations returns the embedded migrations with the tables' names filled in.
func (s *Store) migrations() (fs.FS, error) {
	files, err := fs.Sub(migrationFiles, "migrations")
	return templateFS{files: files, names: s.names}, err
}

// templateFS is a file system of SQL templates, which are executed when they are opened.
type templateFS struct {
	files fs.FS
	names names
}

// Open implements fs.FS.
func (f templateFS) Open(name string) (fs.File, error) {
	file, err := f.files.Open(name)
	if err != nil || path.Ext(name) != ".sql" {
		return file, err
	}
	text, err := io.ReadAll(file)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	filled, err := fill(name, string(text), f.names)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return templateFile{File: file, text: strings.NewReader(filled)}, nil
}

type templateFile struct {
	fs.File
	text io.Reader
}

func (f templateFile) Read(p []byte) (int, error) { return f.text.Read(p) }

// listMigrations returns the migrations ordered by version.
func listMigrations(files fs.FS) ([]Migration, error) {
	var all []Migration
	err := fs.WalkDir(files, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		number, _, _ := strings.Cut(path.Base(name), "_")
		version, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			return fmt.Errorf("migration %s: %w", name, err)
		}
		text, err := fs.ReadFile(files, name)
		if err != nil {
			return err
		}
		up, _, _ := strings.Cut(string(text), "-- +goose Down")
		all = append(all, Migration{Version: version, Name: path.Base(name), SQL: strings.TrimSpace(up) + "\n"})
		return nil
	})
	return all, err
}
