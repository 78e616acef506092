package main

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/jackc/pgx/v5"
)

// graphileVersion is the version of graphile-worker that is measured.
const graphileVersion = "0.18.0"

//go:embed graphile/worker.mjs
var graphileWorker []byte

// installGraphile installs graphile-worker with npm into the user's cache directory, if it is not there yet, and returns the directory.
func installGraphile(ctx context.Context) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "imagetasks-bench", "graphile-worker-"+graphileVersion)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, "worker.mjs"), graphileWorker, 0o644); err != nil {
		return "", err
	}
	if _, err := os.Stat(filepath.Join(dir, "installed")); err == nil {
		return dir, nil
	}
	cmd := exec.CommandContext(ctx, "npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--prefix", dir, "graphile-worker@"+graphileVersion)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("install graphile-worker with npm: %w: %s", err, out)
	}
	return dir, os.WriteFile(filepath.Join(dir, "installed"), nil, 0o644)
}

// newGraphile creates a database with graphile-worker's schema and n jobs.
func newGraphile(ctx context.Context, s *server, dir string, n int) (string, error) {
	name, err := s.database(ctx, "")
	if err != nil {
		return "", err
	}
	if out, err := exec.CommandContext(ctx, "node", filepath.Join(dir, "worker.mjs"), "migrate", s.URL(name)).CombinedOutput(); err != nil {
		return "", fmt.Errorf("create graphile-worker's schema: %w: %s", err, out)
	}
	conn, err := pgx.Connect(ctx, s.URL(name))
	if err != nil {
		return "", err
	}
	defer conn.Close(context.Background())
	for left := n; left > 0; left -= 1000 {
		_, err := conn.Exec(ctx, `select from graphile_worker.add_jobs(array(
			select json_populate_record(null::graphile_worker.job_spec,
				json_build_object('identifier', 'picture', 'payload', json_build_object('user', 'user-' || n % 50, 'prompt', $2::text)))
			from generate_series(1, $1) n))`, min(left, 1000), prompt)
		if err != nil {
			return "", fmt.Errorf("add graphile-worker's jobs: %w", err)
		}
	}
	return name, s.exec(ctx, name, "vacuum analyze")
}
