// Package postgres starts a private PostgreSQL for tests and for the demo: a cluster in a
// directory of its own, reached through a unix socket only, gone when it is stopped or when its
// starter dies. PostgreSQL's programs refuse to run as root; started by root, they run as the user
// postgres (or nobody).
package postgres

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/lib/pq"
)

// ErrNotInstalled means that no PostgreSQL server was found.
var ErrNotInstalled = errors.New("the PostgreSQL server is not installed; on Debian or Ubuntu: sudo apt-get install postgresql")

// Config says how a cluster is made. The zero value is a cluster in the temporary directory that
// trades durability for speed.
type Config struct {
	// Dir is where the cluster lives; it is created, and removed by Stop. Empty: a new
	// directory under the system's temporary one.
	Dir string
	// Durable leaves fsync on, as in production; benchmarks want it.
	Durable bool
	// Settings are lines for postgresql.conf, name by name.
	Settings map[string]string
}

// Cluster is a running PostgreSQL. Its methods are safe for concurrent use, but for Stop.
type Cluster struct {
	dir    string // holds data/ and the socket
	bin    string
	cred   *syscall.Credential
	cmd    *exec.Cmd
	exited chan struct{}
	log    string
	conf   Config
}

// Find returns the directory of the newest installed server's programs.
func Find() (string, error) {
	if path, err := exec.LookPath("postgres"); err == nil {
		if _, err := exec.LookPath("initdb"); err == nil {
			return filepath.Dir(path), nil
		}
	}
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil || len(found) == 0 {
		return "", ErrNotInstalled
	}
	sort.Slice(found, func(i, j int) bool { return version(found[i]) < version(found[j]) })
	return filepath.Dir(found[len(found)-1]), nil
}

func version(path string) float64 {
	v, err := strconv.ParseFloat(filepath.Base(filepath.Dir(filepath.Dir(path))), 64)
	if err != nil {
		return 0
	}
	return v
}

// Start makes a cluster and waits until it answers. It returns ErrNotInstalled where there is no
// server, and an error with the end of the server's log where it doesn't come up.
func Start(ctx context.Context, conf Config) (_ *Cluster, err error) {
	c := &Cluster{conf: conf}
	if c.bin, err = Find(); err != nil {
		return nil, err
	}
	if c.cred, err = Unprivileged(); err != nil {
		return nil, err
	}
	if c.dir, err = makeDir(conf.Dir, c.cred); err != nil {
		return nil, fmt.Errorf("private postgresql: %w", err)
	}
	c.log = filepath.Join(c.dir, "server.log")
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Stop())
		}
	}()
	if err := c.initdb(ctx); err != nil {
		return nil, err
	}
	if err := c.Launch(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// Unprivileged returns whom a server that refuses root is to run as: nil for the current user.
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
	return nil, errors.New("postgresql refuses to run as root, and there is no user postgres or nobody to run it as")
}

// maxSocketDir leaves room for "/.s.PGSQL.5432" in a unix socket's path of 107 bytes.
const maxSocketDir = 90

// makeDir creates the cluster's directory. One that the server's user could not reach, or whose
// path is too long for a socket, is made under the temporary directory instead.
func makeDir(dir string, cred *syscall.Credential) (string, error) {
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
	temp := os.TempDir()
	if len(temp) > maxSocketDir-20 || (cred != nil && !reachable(temp)) {
		temp = "/tmp"
	}
	made, err := os.MkdirTemp(temp, "imagetasks-pg-")
	if err != nil {
		return "", err
	}
	return made, own(made, cred)
}

// reachable reports whether everyone may pass through dir and its parents.
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

func (c *Cluster) data() string { return filepath.Join(c.dir, "data") }

func (c *Cluster) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(c.bin, name), args...)
	cmd.Dir = c.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.cred, Setpgid: true}
	// Nothing of the starter's PostgreSQL settings, nor of its secrets, reaches the server.
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
		// Not synchronous_commit: without it a crash of the server alone would lose commits, and
		// with them the epochs that fencing rests on.
		conf["fsync"], conf["full_page_writes"] = "off", "off"
	}
	for name, value := range c.conf.Settings {
		conf[name] = value
	}
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

// Launch starts the server again after Halt, and waits until it answers.
func (c *Cluster) Launch(ctx context.Context) error {
	// Not bound to ctx: the server outlives the call that started it.
	cmd := c.command(context.Background(), "postgres", "-D", c.data(), "-p", "5432")
	log, err := os.OpenFile(c.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr.Pdeathsig = syscall.SIGQUIT

	started, exited := make(chan error), make(chan struct{})
	go func() {
		// The kernel sends Pdeathsig when the starting thread ends, so that thread must last.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
		close(exited)
	}()
	if err := <-started; err != nil {
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
		err := db.PingContext(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-c.exited:
			return fmt.Errorf("postgresql ended at its start: %s", c.tail())
		case <-ctx.Done():
			return fmt.Errorf("postgresql does not answer: %w: %s", err, c.tail())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// URL returns the address of a database of the cluster.
func (c *Cluster) URL(database string) string {
	q := url.Values{"host": {c.dir}, "port": {"5432"}, "sslmode": {"disable"}}
	u := url.URL{Scheme: "postgres", User: url.User("postgres"), Path: "/" + database, RawQuery: q.Encode()}
	return u.String()
}

// SocketDir returns the directory of the server's unix socket.
func (c *Cluster) SocketDir() string { return c.dir }

// CreateDatabase makes a database, a copy of template unless that is empty.
func (c *Cluster) CreateDatabase(ctx context.Context, name, template string) error {
	if template == "" {
		template = "template1"
	}
	return c.exec(ctx, fmt.Sprintf("create database %s template %s",
		pq.QuoteIdentifier(name), pq.QuoteIdentifier(template)))
}

// DropDatabase removes a database and ends its connections.
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

// Halt stops the server at once, as a crash would, and keeps its data.
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
	return errors.Join(c.Halt(), os.RemoveAll(c.dir))
}

func (c *Cluster) tail() string {
	text, err := os.ReadFile(c.log)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(text[max(0, len(text)-2000):]))
}
