// Package pgtest provides a separate PostgreSQL database for each test. A test binary starts one cluster, prepares one
// template database, and copies it for each test:
//
//	func TestMain(m *testing.M) { os.Exit(pgtest.Main(m, prepare)) }
package pgtest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"imagetasks/internal/postgres"
)

// Server is the cluster of a test binary.
type Server struct {
	*postgres.Cluster
	created atomic.Int64
}

// Main starts a cluster, calls prepare to set up the template database (nil: it stays empty), sets *server, runs the
// tests, and stops the cluster. It returns the exit code.
func Main(m *testing.M, server **Server, prepare func(ctx context.Context, databaseURL string) error) int {
	ctx := context.Background()
	cluster, err := postgres.Start(ctx, postgres.Config{})
	if err != nil {
		fmt.Fprintln(os.Stderr, "pgtest:", err)
		return 1
	}
	code := 1
	if err := prepareTemplate(ctx, cluster, prepare); err != nil {
		fmt.Fprintln(os.Stderr, "pgtest: prepare the template:", err)
	} else {
		*server = &Server{Cluster: cluster}
		code = m.Run()
	}
	if err := cluster.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, "pgtest:", err)
		return 1
	}
	return code
}

const template = "prepared"

func prepareTemplate(ctx context.Context, c *postgres.Cluster, prepare func(context.Context, string) error) error {
	if err := c.CreateDatabase(ctx, template, ""); err != nil {
		return err
	}
	if prepare == nil {
		return nil
	}
	return prepare(ctx, c.URL(template))
}

// Database returns the URL of a new copy of the template, which is dropped when the test ends.
func (s *Server) Database(tb testing.TB) string {
	tb.Helper()
	url := s.create(tb, template)
	// For a program it is a restored backup, from which nothing is claimed.
	db, err := sql.Open("postgres", url)
	if err == nil {
		_, err = db.ExecContext(tb.Context(), acceptCopy)
		err = errors.Join(err, db.Close())
	}
	if err != nil {
		tb.Fatalf("prepare the database: %v", err)
	}
	return url
}

// acceptCopy does what "task-processor resume" does for a copied database.
const acceptCopy = `do $$ begin
	if to_regprocedure('imagetasks.database_identity()') is not null then
		update imagetasks.control set database_identity = imagetasks.database_identity();
	end if;
end $$`

// Empty returns the URL of a new empty database, which is dropped when the test ends.
func (s *Server) Empty(tb testing.TB) string {
	tb.Helper()
	return s.create(tb, "")
}

func (s *Server) create(tb testing.TB, from string) string {
	tb.Helper()
	name := fmt.Sprintf("test_%d", s.created.Add(1))
	if err := s.CreateDatabase(tb.Context(), name, from); err != nil {
		tb.Fatalf("create a database for %s: %v", strings.TrimSpace(tb.Name()), err)
	}
	tb.Cleanup(func() {
		if err := s.DropDatabase(context.Background(), name); err != nil {
			tb.Errorf("drop the database: %v", err)
		}
	})
	return s.URL(name)
}
