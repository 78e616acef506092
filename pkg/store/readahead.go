package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/lib/pq"

	"imagetasks/pkg/pattern"
)

// PassQuestions says what a pass of the monitor asks in any case. See ReadAhead.
type PassQuestions struct {
	Sweep           Sweep
	PendingTimeout  time.Duration // 0: overdue tasks are not counted
	UnsettledWindow time.Duration
	Limit           int // of unsettled tasks, and of those that are set aside
	Prune           PruneConfig
}

const (
	// readAheadTimeout bounds ReadAhead: a caller that gets no answers asks one question after the other.
	readAheadTimeout = 5 * time.Second
	// answersAge is how long the answers are used.
	answersAge = 5 * time.Second
)

// ReadAhead asks in one round trip what CheckAccess and a pass of the monitor ask one after the other. It returns a Store that has the answers: it
// asks the database all the same once it has sent another statement, which may change them, and a few seconds later. It is for one pass, and closes
// s. An error means only that all is to be asked as usual.
func (s *Store) ReadAhead(ctx context.Context, p PassQuestions) (*Store, error) {
	ctx, cancel := context.WithTimeout(ctx, readAheadTimeout)
	defer cancel()
	known, err := s.askAll(ctx, s.passQuestions(p))
	if err != nil {
		return nil, fmt.Errorf("read ahead: %w", err)
	}
	with := *s
	with.answers = &answers{db: sql.OpenDB(answersConnector{known}), known: known, until: time.Now().Add(answersAge)}
	return &with, nil
}

// question is a statement that changes nothing, with its arguments.
type question struct {
	text string
	args []any
}

// key identifies a question.
func key(text string, args []any) string {
	for _, arg := range args {
		text += fmt.Sprintf("\x00%v", arg)
	}
	return text
}

func (s *Store) passQuestions(p PassQuestions) []question {
	tasks, user := p.Sweep.filters()
	all := []question{
		s.serverQuestion(), s.privilegesQuestion(), s.versionQuestion(),
		{s.sql.countStuck.text(), []any{p.Sweep.OlderThan.Milliseconds(), tasks, user}},
		{s.sql.tasksAside.text(), []any{p.Limit}},
		{s.sql.queueStats.text(), []any{p.Sweep.OlderThan.Milliseconds()}},
		{s.sql.unsettled.text(), []any{p.UnsettledWindow.Milliseconds(), p.Limit}},
		{s.sql.control.text(), nil}, {s.sql.bridgeState.text(), nil}, {s.sql.processors.text(), nil}, {s.sql.eventCounts.text(), nil},
		{s.sql.prunable.text(), prunableArgs(p.Prune)},
	}
	if p.PendingTimeout > 0 {
		all = append(all, question{s.sql.countOverdue.text(), []any{p.PendingTimeout.Milliseconds()}})
	}
	return all
}

// askAll sends questions in one message, and returns the answers by key.
func (s *Store) askAll(ctx context.Context, all []question) (map[string]*bufferedRows, error) {
	var message strings.Builder
	for _, q := range all {
		text, err := q.literal()
		if err != nil {
			return nil, err
		}
		message.WriteString(text + ";\n")
	}
	conn, err := s.ahead.get(ctx, s.db)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	rows, err := conn.QueryContext(ctx, message.String())
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	found := map[string]*bufferedRows{}
	for i, q := range all {
		if i > 0 && !rows.NextResultSet() {
			return nil, errors.Join(rows.Err(), fmt.Errorf("%d of %d answers came", i, len(all)))
		}
		if found[key(q.text, q.args)], err = keepRows(rows); err != nil {
			return nil, err
		}
	}
	return found, rows.Err()
}

// keepRows reads the rows of one statement.
func keepRows(rows *sql.Rows) (*bufferedRows, error) {
	columns, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	kept := &bufferedRows{columns: columns}
	for rows.Next() {
		values, into := make([]any, len(columns)), make([]any, len(columns))
		for i := range values {
			into[i] = &values[i]
		}
		if err := rows.Scan(into...); err != nil {
			return nil, err
		}
		row := make([]driver.Value, len(columns))
		for i, v := range values {
			row[i] = v
		}
		kept.values = append(kept.values, row)
	}
	return kept, rows.Err()
}

var parameter = pattern.New(`\$\d+`)

// literal returns the text with the arguments in it: a message of several statements has no others.
func (q question) literal() (string, error) {
	if len(q.args) == 0 {
		return q.text, nil
	}
	literals := make([]string, len(q.args))
	for i, arg := range q.args {
		if valuer, ok := arg.(driver.Valuer); ok {
			var err error
			if arg, err = valuer.Value(); err != nil {
				return "", err
			}
		}
		switch v := arg.(type) {
		case nil:
			literals[i] = "null"
		case int:
			literals[i] = strconv.Itoa(v)
		case int64:
			literals[i] = strconv.FormatInt(v, 10)
		case string:
			literals[i] = pq.QuoteLiteral(v)
		default:
			return "", fmt.Errorf("an argument is a %T", v)
		}
	}
	var err error
	text := parameter().ReplaceAllStringFunc(q.text, func(found string) string {
		n, _ := strconv.Atoi(found[1:])
		if n < 1 || n > len(literals) {
			err = fmt.Errorf("the argument %s is missing", found)
			return found
		}
		return literals[n-1]
	})
	return text, err
}

// answers are the rows of statements that were read ahead.
type answers struct {
	db    *sql.DB // of which statements get them; it has no server
	known map[string]*bufferedRows
	until time.Time

	mu   sync.Mutex
	over bool // another statement was sent, which may have changed something
}

// or returns the pool that answers a statement: its own, or else db. Then the answers are not used any more.
func (a *answers) or(db *sql.DB, text string, args []any) *sql.DB {
	if a == nil {
		return db
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.has(text, args) {
		a.over = true
		return db
	}
	return a.db
}

// orKeep is or for a statement that changes nothing: the other answers stay in use.
func (a *answers) orKeep(db *sql.DB, text string, args []any) *sql.DB {
	if a == nil {
		return db
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.has(text, args) {
		return db
	}
	return a.db
}

func (a *answers) has(text string, args []any) bool {
	return !a.over && time.Now().Before(a.until) && a.known[key(text, args)] != nil
}

func (a *answers) close() error {
	if a == nil {
		return nil
	}
	return a.db.Close()
}

// answersConnector opens connections that have answers, and no server.
type answersConnector struct{ known map[string]*bufferedRows }

// Connect implements driver.Connector.
func (c answersConnector) Connect(context.Context) (driver.Conn, error) { return answersConn(c), nil }

// Driver implements driver.Connector.
func (c answersConnector) Driver() driver.Driver { return &pq.Driver{} }

type answersConn struct{ known map[string]*bufferedRows }

var errOnlyAnswers = errors.New("this connection has only what was read ahead")

// CheckNamedValue implements driver.NamedValueChecker: arguments only identify the question.
func (answersConn) CheckNamedValue(*driver.NamedValue) error { return nil }

// QueryContext implements driver.QueryerContext.
func (c answersConn) QueryContext(_ context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	values := make([]any, len(args))
	for i, arg := range args {
		values[i] = arg.Value
	}
	rows := c.known[key(query, values)]
	if rows == nil {
		return nil, errOnlyAnswers
	}
	return &bufferedRows{columns: rows.columns, values: rows.values}, nil
}

// Prepare implements driver.Conn.
func (answersConn) Prepare(string) (driver.Stmt, error) { return nil, errOnlyAnswers }

// Begin implements driver.Conn.
func (answersConn) Begin() (driver.Tx, error) { return nil, errOnlyAnswers }

// Close implements driver.Conn.
func (answersConn) Close() error { return nil }

// connAhead is a connection that is opened before it is needed. nil: there is none.
type connAhead struct {
	opened chan openedConn // at most one, which is the result of opening it, until somebody gets it
	cancel context.CancelFunc
}

type openedConn struct {
	*sql.Conn
	err error
}

// connectAhead begins to open a connection.
func connectAhead(db *sql.DB) *connAhead {
	ctx, cancel := context.WithCancel(context.Background())
	c := &connAhead{opened: make(chan openedConn, 1), cancel: cancel}
	go func() {
		defer close(c.opened)
		conn, err := db.Conn(ctx)
		c.opened <- openedConn{conn, err}
	}()
	return c
}

// get waits for the connection. After the first call it returns another one, of db.
func (c *connAhead) get(ctx context.Context, db *sql.DB) (*sql.Conn, error) {
	if c == nil {
		return db.Conn(ctx)
	}
	select {
	case o, ok := <-c.opened:
		if !ok {
			return db.Conn(ctx)
		}
		return o.Conn, o.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// close closes the connection if nobody got it, and waits until it is not being opened any more.
func (c *connAhead) close() error {
	if c == nil {
		return nil
	}
	c.cancel()
	if o, ok := <-c.opened; ok && o.err == nil {
		return o.Close()
	}
	return nil
}
