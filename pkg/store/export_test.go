package store

import (
	"context"
	"database/sql"

	"github.com/lib/pq"
)

// Statement returns the text of a statement, for EXPLAIN.
func (s *Store) Statement(name string) string {
	for _, fields := range s.sql.files() {
		if st, ok := fields[name]; ok {
			return st.text
		}
	}
	panic("no statement " + name)
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
