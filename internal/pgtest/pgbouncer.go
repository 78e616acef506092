package pgtest

import (
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"imagetasks/internal/postgres"
)

// Pooled starts PgBouncer in transaction mode and returns the URL of a new copy of the template, reached through it.
// PgBouncer is stopped when the test ends.
func (s *Server) Pooled(tb testing.TB) string {
	tb.Helper()
	direct := s.Database(tb)
	database := direct[strings.LastIndex(direct[:strings.IndexByte(direct, '?')], "/")+1 : strings.IndexByte(direct, '?')]

	cred, err := postgres.Unprivileged()
	if err != nil {
		tb.Fatal(err)
	}
	dir, err := os.MkdirTemp("/tmp", "imagetasks-pgb-")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	files := map[string]string{
		"users.txt": `"postgres" ""` + "\n",
		"pgbouncer.ini": fmt.Sprintf(`[databases]
%s = host=%s port=5432 user=postgres
[pgbouncer]
listen_addr =
unix_socket_dir = %s
listen_port = 6432
auth_type = any
auth_file = %s/users.txt
pool_mode = transaction
default_pool_size = 4
max_client_conn = 100
ignore_startup_parameters = extra_float_digits
`, database, s.SocketDir(), dir, dir),
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			tb.Fatal(err)
		}
	}
	if cred != nil {
		if err := os.Chown(dir, int(cred.Uid), int(cred.Gid)); err != nil {
			tb.Fatal(err)
		}
	}
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		program = "/usr/sbin/pgbouncer"
	}
	var out strings.Builder
	cmd := exec.Command(program, filepath.Join(dir, "pgbouncer.ini"))
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	exited, err := postgres.StartChild(cmd, syscall.SIGKILL)
	if err != nil {
		tb.Fatalf("start pgbouncer (sudo apt-get install pgbouncer, brew install pgbouncer): %v", err)
	}
	tb.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-exited
	})

	url := fmt.Sprintf("postgres://postgres@/%s?host=%s&port=6432&sslmode=disable", database, dir)
	db, err := sql.Open("postgres", url)
	if err != nil {
		tb.Fatal(err)
	}
	defer db.Close()
	for deadline := time.Now().Add(30 * time.Second); ; {
		if err = db.PingContext(tb.Context()); err == nil {
			return url
		}
		select {
		case <-exited:
			tb.Fatalf("pgbouncer ended while starting: %s", out.String())
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			tb.Fatalf("pgbouncer accepts no connections: %v", err)
		}
	}
}
