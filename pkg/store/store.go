// Package store is the only one that knows SQL. It moves tasks between their states and credits
// between balances and ledger, one guarded statement at a time: who loses a race changes nothing
// and is told so (task.ErrLeaseLost). The statements stand in sql/, each with its locks and index.
//
// The texts of tasks' failures are stored as given: the caller redacts them.
package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"
)

// Config says which database and tables a Store works on.
type Config struct {
	// URL is a PostgreSQL URL or key=value string, as libpq takes them.
	URL string
	// Tables are the application's names for its tables.
	Tables Tables
	// ApplicationName is shown in pg_stat_activity.
	ApplicationName string
	// MaxConns bounds the connections; 0 means 8.
	MaxConns int
}

// Store is a connection pool and the statements for it. It is safe for concurrent use.
type Store struct {
	db     *sql.DB
	dsn    string
	dialer *dialer
	names  names
	sql    statements
}

// Open returns a Store. It does not connect: the first statement does. A URL that can't be parsed is
// refused, with an error that doesn't quote it.
func Open(conf Config) (*Store, error) {
	dsn, err := dataSource(conf.URL, conf.ApplicationName)
	if err != nil {
		return nil, err
	}
	connector, err := pq.NewConnector(dsn)
	if err != nil {
		// The driver's error may quote the URL with its password.
		return nil, errors.New("the database URL can't be used; it looks like postgres://user:password@host:5432/database")
	}
	d := &dialer{}
	connector.Dialer(d)
	n := conf.Tables.names()
	loaded, err := loadStatements(n)
	if err != nil {
		return nil, fmt.Errorf("load the SQL: %w", err)
	}
	db := sql.OpenDB(connector)
	conns := conf.MaxConns
	if conns <= 0 {
		conns = 8
	}
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	db.SetConnMaxIdleTime(5 * time.Minute)
	return &Store{db: db, dsn: dsn, dialer: d, names: n, sql: loaded}, nil
}

// dataSource adds what we rely on, where the operator didn't say otherwise: one round trip for a
// statement (which also is what works behind a transaction pooler), and a bound for connecting.
func dataSource(raw, application string) (string, error) {
	if strings.TrimSpace(raw) == "" {
		return "", errors.New("no database is set; set DATABASE_URL to postgres://user:password@host:5432/database")
	}
	defaults := [][2]string{
		{"binary_parameters", "yes"},
		{"connect_timeout", "10"},
		{"fallback_application_name", application},
	}
	if !strings.Contains(raw, "://") {
		for _, d := range defaults {
			if d[1] != "" && !strings.Contains(raw, d[0]+"=") {
				raw += " " + d[0] + "='" + d[1] + "'"
			}
		}
		return raw, nil
	}
	u, err := url.Parse(raw)
	if err != nil || (u.Scheme != "postgres" && u.Scheme != "postgresql") {
		return "", errors.New("the database URL can't be used; it looks like postgres://user:password@host:5432/database " +
			"(write special characters of the password as %XX)")
	}
	q := u.Query()
	for _, d := range defaults {
		if d[1] != "" && !q.Has(d[0]) {
			q.Set(d[0], d[1])
		}
	}
	u.RawQuery = q.Encode()
	return u.String(), nil
}

// Close closes the connections.
func (s *Store) Close() error { return s.db.Close() }

// Ping returns nil when the database answers.
func (s *Store) Ping(ctx context.Context) error {
	var one int
	return s.db.QueryRowContext(ctx, "select 1").Scan(&one)
}

// IsUnavailable reports whether err says that the database is away (down, starting, out of
// connections, unreachable) or was too busy, so that the same call may succeed later.
func IsUnavailable(err error) bool {
	if pqErr, ok := errors.AsType[*pq.Error](err); ok {
		switch pqErr.Code.Class() {
		case pqerror.ClassConnectionException, pqerror.ClassTransactionRollback,
			pqerror.ClassInsufficientResources, pqerror.ClassOperatorIntervention:
			return true
		}
		return pqErr.Code == pqerror.ReadOnlySQLTransaction // a standby, until it is promoted
	}
	if _, ok := errors.AsType[net.Error](err); ok {
		return true
	}
	for _, sign := range []error{driver.ErrBadConn, sql.ErrConnDone, io.EOF, io.ErrUnexpectedEOF,
		context.DeadlineExceeded, syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EPIPE, syscall.ENOENT} {
		if errors.Is(err, sign) {
			return true
		}
	}
	return false
}

// query runs a statement and hands each row to scan.
func (s *Store) query(ctx context.Context, name string, scan func(*sql.Rows) error, args ...any) error {
	rows, err := s.db.QueryContext(ctx, s.sql.byName[name], args...)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// texts runs a statement whose rows are one text each.
func (s *Store) texts(ctx context.Context, name string, args ...any) ([]string, error) {
	var out []string
	err := s.query(ctx, name, func(rows *sql.Rows) error {
		var v string
		err := rows.Scan(&v)
		out = append(out, v)
		return err
	}, args...)
	return out, err
}
