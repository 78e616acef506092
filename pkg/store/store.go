// Package store contains all SQL of the project. It moves tasks between states, and credits between balances and the
// ledger. Each transition is one guarded transaction: a caller that loses a race changes nothing and gets
// task.ErrLeaseLost. The functions of the schema are in migrations/, and the other statements in sql/, by subject, each with
// its locks and its index.
//
// Error messages of tasks are stored as given. The caller redacts them.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/lib/pq"

	"imagetasks/pkg/task"
)

// Config configures a Store.
type Config struct {
	// URL is a PostgreSQL URL or a key=value string, as pgurl.Parse reads it.
	URL string
	// Schema is the schema of the installation; empty means DefaultSchema.
	Schema string
	// Env looks up the PG* variables, which complete the URL; nil: none is set.
	Env func(name string) (string, bool)
	// Warn is called at most once, by Open, with parameters of the URL that are not used, by name; optional.
	Warn func(message string)
	// ApplicationName is shown in pg_stat_activity.
	ApplicationName string
	// MaxConns is the maximum number of connections; 0 means 8. Heartbeats and renewals of leases use heartbeatConns more, and Listen one.
	MaxConns int
	// ConnectAhead makes Open begin to open a connection in the background, for ReadAhead.
	ConnectAhead bool
	// StatementTimeout bounds a call whose context has no deadline, repeats included; 0 means a minute. Migrations and audits have bounds of
	// their own.
	StatementTimeout time.Duration
}

// heartbeatConns is the number of connections for heartbeats and renewals of leases alone: a statement that hangs, and calls that wait for
// a connection, must not delay them.
const heartbeatConns = 2

// Store is a pool of connections and the statements for it. It is safe for concurrent use.
//
// A statement whose answer was lost is repeated on another connection, up to 4 times in all: every statement is safe to repeat with the same
// arguments. Where no try was answered, the error wraps a *LostAnswerError.
type Store struct {
	db         *sql.DB
	heartbeats *sql.DB
	connector  *connector
	dialer     *dialer
	names      names
	sql        statements
	ahead      *connAhead
	answers    *answers        // see ReadAhead; nil: none
	waits      []time.Duration // before a statement is repeated whose answer was lost
}

// SchemaNameError means that Config.Schema can't be used.
type SchemaNameError struct{ Err error }

// Error implements error.
func (e *SchemaNameError) Error() string { return e.Err.Error() }

// Unwrap returns the reason.
func (e *SchemaNameError) Unwrap() error { return e.Err }

// Open returns a Store. Without ConnectAhead it does not connect; the first statement does. It returns an error if the URL is invalid, which
// does not quote the URL because of the password in it, or if the embedded SQL files do not define exactly the
// statements that the Store uses.
func Open(conf Config) (*Store, error) {
	if conf.StatementTimeout <= 0 {
		conf.StatementTimeout = time.Minute
	}
	connector, d, err := newConnector(conf)
	if err != nil {
		return nil, err
	}
	n, err := newNames(conf.Schema)
	if err != nil {
		return nil, &SchemaNameError{err}
	}
	conns := conf.MaxConns
	if conns <= 0 {
		conns = 8
	}
	s := &Store{db: connector.pool(conns), heartbeats: connector.pool(heartbeatConns), connector: connector, dialer: d, names: n,
		waits: []time.Duration{50 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond}}
	if conf.ConnectAhead {
		s.ahead = connectAhead(s.db)
	}
	if err := s.load(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// load reads the statements.
func (s *Store) load() error {
	files, err := fs.Sub(sqlFiles, "sql")
	if err != nil {
		return err
	}
	if s.sql, err = findStatements(files, s.names); err != nil {
		return fmt.Errorf("load the SQL statements: %w", err)
	}
	s.connector.hot.names = newHotStatements(s.sql.hot()).names
	return nil
}

// Close closes the connections.
func (s *Store) Close() error {
	return errors.Join(s.ahead.close(), s.answers.close(), s.db.Close(), s.heartbeats.Close())
}

// Ping returns nil if the database is reachable and executes a query.
func (s *Store) Ping(ctx context.Context) error { return s.ping(ctx, s.db) }

func (s *Store) ping(ctx context.Context, pool *sql.DB) error {
	return s.read(ctx, func(ctx context.Context) error {
		var one int
		return pool.QueryRowContext(ctx, "select 1").Scan(&one)
	})
}

// refusals are the errors of the schema's functions, by their SQLSTATE.
var refusals = map[string]error{
	"IT001": task.ErrInsufficientCredits,
	"IT002": task.ErrInvalid,
	"IT003": task.ErrKeyReused,
	"IT004": task.ErrNotFound,
	"IT005": task.ErrWrongState,
	"IT006": task.ErrTooManyWaiting,
	"IT007": task.ErrBalanceLimit,
}

// refusal is an error of the schema's functions. Its text is for people.
type refusal struct {
	text string
	kind error
}

// Error implements error.
func (e *refusal) Error() string { return e.text }

// Unwrap returns the sentinel error.
func (e *refusal) Unwrap() error { return e.kind }

// wrap adds the statement's name to an error, and translates those of the schema's functions.
func wrap(st statement, err error) error {
	if err == nil {
		return nil
	}
	if pqErr, ok := errors.AsType[*pq.Error](err); ok {
		if kind := refusals[string(pqErr.Code)]; kind != nil {
			text := pqErr.Message
			if pqErr.Hint != "" {
				text += "; " + strings.ToLower(pqErr.Hint[:1]) + strings.TrimSuffix(pqErr.Hint[1:], ".")
			}
			return &refusal{text, kind}
		}
	}
	if lost, ok := errors.AsType[*LostAnswerError](err); ok && !st.writes() {
		err = lost.ofRead()
	}
	return fmt.Errorf("%s: %w", st, err)
}

// query runs a statement and calls scan for each row. Errors are prefixed with the statement's name.
func (s *Store) query(ctx context.Context, st statement, scan func(*sql.Rows) error, args ...any) error {
	return s.queryOn(ctx, s.db, st, scan, args...)
}

// queryOn is query with the connections of db. No row is scanned twice: a connection returns rows only when it has all of them.
func (s *Store) queryOn(ctx context.Context, db *sql.DB, st statement, scan func(*sql.Rows) error, args ...any) error {
	_, err := s.queryRepeated(ctx, db, st, scan, args...)
	return err
}

// queryRepeated is queryOn. It reports whether an answer was lost, so that the statement may have taken effect before.
func (s *Store) queryRepeated(ctx context.Context, db *sql.DB, st statement, scan func(*sql.Rows) error, args ...any) (bool, error) {
	db = s.answers.or(db, st.text(), args)
	lost, err := s.repeated(ctx, func(ctx context.Context) error {
		rows, err := db.QueryContext(ctx, st.text(), args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			if err := scan(rows); err != nil {
				return err
			}
		}
		return rows.Err()
	})
	return lost, wrap(st, err)
}

// queryRow runs a statement that returns one row. If it returns none, the error wraps sql.ErrNoRows.
func (s *Store) queryRow(ctx context.Context, st statement, args []any, dest ...any) error {
	db := s.answers.or(s.db, st.text(), args)
	return wrap(st, s.repeat(ctx, func(ctx context.Context) error {
		return db.QueryRowContext(ctx, st.text(), args...).Scan(dest...)
	}))
}

// queryTexts runs a statement whose rows have one text column.
func (s *Store) queryTexts(ctx context.Context, st statement, args ...any) ([]string, error) {
	return s.queryTextsOn(ctx, s.db, st, args...)
}

func (s *Store) queryTextsOn(ctx context.Context, db *sql.DB, st statement, args ...any) ([]string, error) {
	var out []string
	err := s.queryOn(ctx, db, st, func(rows *sql.Rows) error {
		var v string
		err := rows.Scan(&v)
		out = append(out, v)
		return err
	}, args...)
	return out, err
}
