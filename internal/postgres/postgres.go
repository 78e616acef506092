// Package postgres starts a private PostgreSQL server for tests and for the demo. The cluster has its own directory and
// listens on a unix socket, and on 127.0.0.1 only if a port is configured. Stop removes it; on Linux the server also ends if the process that started it ends.
// PostgreSQL's programs refuse to run as root: if the current user is root, they run as the user postgres or nobody.
package postgres

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/lib/pq"
)

// Config configures a cluster. The zero value is a cluster without durable writes.
type Config struct {
	// Dir is the cluster's directory, which Start creates and Stop removes. If it is too long for a unix socket, or not accessible for the server's
	// user, a new directory under the system's temporary one is used instead. If it is empty, too, but without Durable it is in memory where there is
	// enough: PostgreSQL makes 400 files for each database, and ext4 reuses the inodes of deleted files slowly.
	Dir string
	// Durable keeps fsync on, as in production. Benchmarks need it.
	Durable bool
	// Port is a TCP port of 127.0.0.1, and the port in the name of the socket; 0: the server has no TCP port.
	Port int
	// Settings are settings for postgresql.conf by name.
	Settings map[string]string
}

// Cluster is a running PostgreSQL server. Its methods are safe for concurrent use, except Launch, Halt and Stop.
type Cluster struct {
	dir    string // contains data/ and the socket
	bin    string
	cred   *syscall.Credential
	cmd    *exec.Cmd
	exited <-chan struct{}
	log    string
	major  int      // version of the server
	lock   *os.File // optional: of a directory in memory
	conf   Config
}

// Start creates a cluster and waits until it accepts connections, for at most a minute. It returns ErrNotInstalled if no
// server is installed, and an error with the end of the server's log if the server does not start.
func Start(ctx context.Context, conf Config) (_ *Cluster, err error) {
	c := &Cluster{conf: conf}
	if c.bin, err = Find(); err != nil {
		return nil, err
	}
	if c.cred, err = Unprivileged(); err != nil {
		return nil, err
	}
	memory := ""
	if conf.Dir == "" && !conf.Durable {
		memory = inMemory()
	}
	if c.dir, err = makeDir(conf.Dir, cmp.Or(memory, os.TempDir()), c.cred); err != nil {
		return nil, fmt.Errorf("private postgresql: %w", err)
	}
	c.log = filepath.Join(c.dir, "server.log")
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Stop())
		}
	}()
	if memory != "" {
		if c.lock, err = lockDir(c.dir); err != nil {
			return nil, fmt.Errorf("private postgresql: lock %s: %w", c.dir, err)
		}
	}
	if err := c.initdb(ctx); err != nil {
		return nil, err
	}
	if err := c.Launch(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// Unprivileged returns the credential for a server that refuses to run as root, or nil for the current user.
func Unprivileged() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, uidErr := strconv.ParseUint(u.Uid, 10, 32)
		gid, gidErr := strconv.ParseUint(u.Gid, 10, 32)
		if uidErr == nil && gidErr == nil {
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
		}
	}
	return nil, errors.New("postgresql refuses to run as root, and neither the user postgres nor nobody exists")
}

const (
	// maxSocketDir leaves room for "/.s.PGSQL.5432" in the path of a unix socket, which has at most 103 bytes on macOS
	// and FreeBSD, and 107 on Linux.
	maxSocketDir = 103 - len("/.s.PGSQL.5432")
	tempPrefix   = "imagetasks-pg-" // MkdirTemp adds up to 10 digits
)

// makeDir creates the cluster's directory. If the server's user can't access dir, or its path is too long for a socket,
// the directory is created under temp instead.
func makeDir(dir, temp string, cred *syscall.Credential) (string, error) {
	if dir != "" {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return "", err
		}
		if err := os.MkdirAll(filepath.Dir(abs), 0o755); err != nil {
			return "", err
		}
		if err := os.Mkdir(abs, 0o700); err != nil {
			return "", err
		}
		if len(abs) <= maxSocketDir && (cred == nil || reachable(filepath.Dir(abs))) {
			return abs, own(abs, cred)
		}
		if err := os.Remove(abs); err != nil {
			return "", err
		}
	}
	if len(temp)+len("/"+tempPrefix)+10 > maxSocketDir || (cred != nil && !reachable(temp)) {
		temp = "/tmp"
	}
	made, err := os.MkdirTemp(temp, tempPrefix)
	if err != nil {
		return "", err
	}
	return made, own(made, cred)
}

// reachable reports whether every user may pass through dir and its parents.
func reachable(dir string) bool {
	for {
		info, err := os.Stat(dir)
		if err != nil || info.Mode().Perm()&0o001 == 0 {
			return false
		}
		if dir == filepath.Dir(dir) {
			return true
		}
		dir = filepath.Dir(dir)
	}
}

func own(dir string, cred *syscall.Credential) error {
	if cred == nil {
		return nil
	}
	return os.Chown(dir, int(cred.Uid), int(cred.Gid))
}

func (c *Cluster) port() string {
	if c.conf.Port == 0 {
		return "5432"
	}
	return strconv.Itoa(c.conf.Port)
}

func (c *Cluster) data() string { return filepath.Join(c.dir, "data") }

func (c *Cluster) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(c.bin, name), args...)
	cmd.Dir = c.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.cred, Setpgid: true}
	// The environment of this process is not passed on: it may have PostgreSQL settings and secrets.
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"}
	return cmd
}

func (c *Cluster) initdb(ctx context.Context) error {
	cmd := c.command(ctx, "initdb", "-D", c.data(), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, bytes.TrimSpace(out))
	}
	conf := map[string]string{
		"listen_addresses":        "''",
		"unix_socket_directories": "'" + strings.ReplaceAll(c.dir, "'", "''") + "'",
		"unix_socket_permissions": "0777",
		"shared_buffers":          "64MB",
		"max_connections":         "200",
		"autovacuum_naptime":      "5s",
	}
	if !c.conf.Durable {
		// synchronous_commit stays on. Without it, a crash of the server alone would lose commits, and with them the
		// lease epochs that fencing depends on.
		conf["fsync"], conf["full_page_writes"], conf["max_wal_size"] = "off", "off", "256MB"
	}
	if c.conf.Port != 0 {
		conf["listen_addresses"] = "'127.0.0.1'"
	}
	maps.Copy(conf, c.conf.Settings)
	var lines strings.Builder
	for name, value := range conf {
		fmt.Fprintf(&lines, "%s = %s\n", name, value)
	}
	f, err := os.OpenFile(filepath.Join(c.data(), "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(lines.String())
	return errors.Join(err, f.Close())
}

// Launch starts the server again after Halt, and waits until it accepts connections, for at most a minute.
func (c *Cluster) Launch(ctx context.Context) error {
	// The command has no context because the server outlives this call.
	cmd := c.command(context.Background(), "postgres", "-D", c.data(), "-p", c.port())
	log, err := os.OpenFile(c.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	exited, err := StartChild(cmd, syscall.SIGQUIT)
	if err != nil {
		return fmt.Errorf("start postgresql: %w", err)
	}
	c.cmd, c.exited = cmd, exited
	return c.await(ctx)
}

func (c *Cluster) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	db, err := sql.Open("postgres", c.URL("postgres"))
	if err != nil {
		return err
	}
	defer db.Close()
	for {
		err := db.QueryRowContext(ctx, "select current_setting('server_version_num')::int / 10000").Scan(&c.major)
		if err == nil {
			return nil
		}
		select {
		case <-c.exited:
			return fmt.Errorf("postgresql ended while starting: %s", c.tail())
		case <-ctx.Done():
			return fmt.Errorf("postgresql accepts no connections: %w: %s", err, c.tail())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// URL returns the address of a database of the cluster.
func (c *Cluster) URL(database string) string {
	q := url.Values{"host": {c.dir}, "port": {c.port()}, "sslmode": {"disable"}}
	u := url.URL{Scheme: "postgres", User: url.User("postgres"), Path: "/" + database, RawQuery: q.Encode()}
	return u.String()
}

// SocketDir returns the directory of the server's unix socket.
func (c *Cluster) SocketDir() string { return c.dir }

// CreateDatabase creates a database as a copy of template, or an empty database if template is empty.
func (c *Cluster) CreateDatabase(ctx context.Context, name, template string) error {
	if template == "" {
		template = "template1"
	}
	statement := fmt.Sprintf("create database %s template %s", pq.QuoteIdentifier(name), pq.QuoteIdentifier(template))
	// The default since PostgreSQL 15, one record of the log for each page, takes twice the time of copying the files.
	if c.major >= 15 {
		statement += " strategy file_copy"
	}
	return c.exec(ctx, statement)
}

// DropDatabase drops a database and ends its connections.
func (c *Cluster) DropDatabase(ctx context.Context, name string) error {
	return c.exec(ctx, fmt.Sprintf("drop database if exists %s with (force)", pq.QuoteIdentifier(name)))
}

func (c *Cluster) exec(ctx context.Context, statement string) error {
	db, err := sql.Open("postgres", c.URL("postgres"))
	if err != nil {
		return err
	}
	defer db.Close()
	_, err = db.ExecContext(ctx, statement)
	return err
}

// Halt stops the server immediately, like a crash, and keeps its data.
func (c *Cluster) Halt() error {
	if c.cmd == nil {
		return nil
	}
	if err := c.cmd.Process.Signal(syscall.SIGQUIT); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-c.exited
	c.cmd = nil
	return nil
}

// Stop stops the server and removes the cluster.
func (c *Cluster) Stop() error {
	err := errors.Join(c.Halt(), os.RemoveAll(c.dir))
	if c.lock != nil {
		err = errors.Join(err, c.lock.Close())
		c.lock = nil
	}
	return err
}

func (c *Cluster) tail() string {
	text, err := os.ReadFile(c.log)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(text[max(0, len(text)-2000):]))
}
