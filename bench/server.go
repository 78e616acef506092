package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"imagetasks/internal/postgres"
)

// serverSettings are the settings in postgresql.conf, the same for all contenders. Those that are not named have PostgreSQL's defaults.
var serverSettings = map[string]string{
	"fsync":              "on",
	"synchronous_commit": "on",
	"full_page_writes":   "on",
	"autovacuum":         "on",
	"autovacuum_naptime": "1min",
	"shared_buffers":     "1GB",
	"max_wal_size":       "8GB",
	"checkpoint_timeout": "15min",
	"max_connections":    "200",
}

func describeSettings() string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(serverSettings)) {
		parts = append(parts, fmt.Sprintf("`%s = %s`", name, serverSettings[name]))
	}
	return strings.Join(parts, ", ")
}

// server is the private PostgreSQL of one run of the benchmarks, and its databases.
type server struct {
	*postgres.Cluster
	admin *pgx.Conn
	made  int
}

func startServer(ctx context.Context, settings map[string]string) (*server, error) {
	cluster, err := postgres.Start(ctx, postgres.Config{Durable: true, Settings: settings})
	if err != nil {
		return nil, err
	}
	admin, err := pgx.Connect(ctx, cluster.URL("postgres"))
	if err != nil {
		_ = cluster.Stop()
		return nil, fmt.Errorf("connect to the private postgresql: %w", err)
	}
	return &server{Cluster: cluster, admin: admin}, nil
}

func (s *server) stop() error {
	_ = s.admin.Close(context.Background())
	return s.Stop()
}

// database creates a database, as a copy of template if that is not empty, and returns its name.
func (s *server) database(ctx context.Context, template string) (string, error) {
	s.made++
	name := fmt.Sprintf("bench_%d", s.made)
	source := "template0"
	if template != "" {
		source = template
	}
	_, err := s.admin.Exec(ctx, fmt.Sprintf("create database %s template %s strategy file_copy", name, source))
	if err != nil {
		return "", fmt.Errorf("create the database %s: %w", name, err)
	}
	return name, nil
}

// drop removes a database.
func (s *server) drop(ctx context.Context, name string) error {
	if _, err := s.admin.Exec(ctx, fmt.Sprintf("drop database if exists %s with (force)", name)); err != nil {
		return fmt.Errorf("drop the database %s: %w", name, err)
	}
	return nil
}

// checkpoint writes all changed pages, so that each run begins with the same state.
func (s *server) checkpoint(ctx context.Context) error {
	if _, err := s.admin.Exec(ctx, "checkpoint"); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	return nil
}

// exec runs SQL in a database.
func (s *server) exec(ctx context.Context, database, text string, args ...any) error {
	conn, err := pgx.Connect(ctx, s.URL(database))
	if err != nil {
		return fmt.Errorf("connect to %s: %w", database, err)
	}
	defer conn.Close(context.Background())
	_, err = conn.Exec(ctx, text, args...)
	return err
}
