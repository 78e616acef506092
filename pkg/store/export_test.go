package store

import (
	"context"
	"database/sql"
	"time"

	"github.com/google/uuid"
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

// Statements returns the texts of all statements by name, the audits' as "audit: CODE".
func (s *Store) Statements() map[string]string {
	all := map[string]string{}
	for _, fields := range s.sql.files() {
		for name, st := range fields {
			all[name] = st.text
		}
	}
	for _, st := range s.sql.audits {
		all["audit: "+st.name] = st.text
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
	return s.pruneBatch(ctx, s.sql.pruneKeys, age, limit, call)
}
