package store

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"
)

// LostAnswerError means that a statement was sent and its answer did not arrive: it may have taken effect or not. Each statement of a
// Store may be repeated with the same arguments, ids of calls and idempotency keys included.
type LostAnswerError struct {
	// Err is why; never driver.ErrBadConn, which would make database/sql repeat the statement.
	Err error
	// Silence is how long the database was waited for; 0: the connection broke.
	Silence time.Duration
	// Reads reports that the statement changes nothing.
	Reads bool
}

// Error implements error.
func (e *LostAnswerError) Error() string {
	text := "the database's answer was lost: " + e.Err.Error()
	if e.Silence > 0 {
		text = fmt.Sprintf("the database did not respond for %s", e.Silence)
	}
	if !e.Reads {
		text += "; whether it took effect is unknown"
	}
	return text
}

// ofRead returns the error for a statement that changes nothing.
func (e *LostAnswerError) ofRead() *LostAnswerError {
	read := *e
	read.Reads = true
	return &read
}

// afterRepeat returns the error where a repeat failed in a way that does not tell what became of the statement.
func (e *LostAnswerError) afterRepeat(err error) *LostAnswerError {
	repeated := *e
	if e.Silence == 0 && !errors.Is(err, driver.ErrBadConn) {
		repeated.Err = fmt.Errorf("%w, and its repeat failed: %w", e.Err, err)
	}
	return &repeated
}

// Unwrap returns why the answer was lost.
func (e *LostAnswerError) Unwrap() error { return e.Err }

// maxGrace is how much longer than its context a call may take: the time in which the server responds to the request that cancels the
// statement, which tells that it had no effect.
const maxGrace = time.Second

// graceOf returns the grace of a call with that limit.
func graceOf(limit time.Duration) time.Duration { return min(max(limit/4, maxGrace/10), maxGrace) }

// closeTimeout bounds the message that ends a session.
const closeTimeout = time.Second

// pqConn is a connection of lib/pq.
type pqConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.NamedValueChecker
	driver.Pinger
	driver.QueryerContext
	driver.SessionResetter
	driver.Validator
}

// boundConn is a connection of lib/pq whose calls end in time, whatever the server does, and say so when an answer was lost. lib/pq only
// asks the server to cancel a statement when a context ends, and reads on without a bound; and database/sql repeats a statement when
// lib/pq says that the connection broke, although the statement may have taken effect.
type boundConn struct {
	pq       pqConn
	wire     *wire
	deadline deadline
	limit    time.Duration // of a call whose context has no deadline
	pool     *poolState
	prepared preparedOn

	bad        bool
	inTx       bool
	answeredAt time.Time
}

// poolState is what the connections of a pool share.
type poolState struct {
	silentAt atomic.Int64 // when a call began that was not answered in time, in nanoseconds
	unpreparedAt
}

func newBoundConn(c driver.Conn, w *wire, limit time.Duration, hot *hotStatements, pool *poolState) (*boundConn, error) {
	pqc, ok := c.(pqConn)
	if !ok {
		return nil, fmt.Errorf("lib/pq's connection is a %T, which lacks methods that are needed", c)
	}
	return &boundConn{pq: pqc, wire: w, deadline: deadline{conn: w}, limit: limit, pool: pool,
		prepared: preparedOn{hot: hot, pool: pool}, answeredAt: time.Now()}, nil
}

// deadline is that of the connection. It is safe for concurrent use.
type deadline struct {
	conn interface{ SetDeadline(time.Time) error }

	mu   sync.Mutex
	call int       // the number of the call in progress
	at   time.Time // of the call in progress; zero: none is
	tx   time.Time // of the transaction whose context has ended; zero: none
}

// begin starts a call, and returns its number.
func (d *deadline) begin(at time.Time) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.call++
	d.at = at
	if !d.tx.IsZero() && d.tx.Before(at) {
		d.at = d.tx
	}
	_ = d.conn.SetDeadline(d.at)
	return d.call
}

// shorten makes a call end sooner.
func (d *deadline) shorten(call int, at time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.call == call {
		d.apply(at)
	}
}

// shortenTx makes all calls of the transaction end sooner.
func (d *deadline) shortenTx(at time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tx = at
	d.apply(at)
}

func (d *deadline) apply(at time.Time) {
	if !d.at.IsZero() && at.Before(d.at) {
		d.at = at
		_ = d.conn.SetDeadline(at)
	}
}

// end ends a call: the connection may be idle for any time.
func (d *deadline) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.at = time.Time{}
	_ = d.conn.SetDeadline(d.at)
}

func (d *deadline) endTx() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tx = time.Time{}
}

// begin bounds a call by its context, and by limit where that has no deadline. The function that it returns ends the call: it takes the
// driver's error, and returns that of the call.
func (c *boundConn) begin(ctx context.Context, limit time.Duration) func(error) error {
	began, sent := time.Now(), c.wire.sent.Load()
	if at, ok := ctx.Deadline(); ok {
		limit = max(time.Until(at), 0)
	}
	call := c.deadline.begin(began.Add(limit + graceOf(limit)))
	stop := context.AfterFunc(ctx, func() { c.deadline.shorten(call, time.Now().Add(graceOf(limit))) })
	return func(err error) error {
		stop()
		c.deadline.end()
		if err == nil {
			c.answeredAt = time.Now()
			return nil
		}
		_, ended := errors.AsType[*fatalError](c.wire.failure())
		if pqErr, ok := errors.AsType[*pq.Error](err); ok && !ended {
			return c.answered(ctx, pqErr, limit)
		}
		return c.failed(ctx, err, began, limit, c.wire.sent.Load() > sent)
	}
}

// isFatal reports whether the server ends the connection after an error of that severity.
func isFatal(severity string) bool {
	return severity == pqerror.SeverityFatal || severity == pqerror.SeverityPanic
}

// answered handles an error with which the server answered: the statement had no effect.
func (c *boundConn) answered(ctx context.Context, err *pq.Error, limit time.Duration) error {
	c.answeredAt = time.Now()
	switch {
	case err.Code == pqerror.ReadOnlySQLTransaction:
		// The server was the primary once. The next connection may find the new one.
		c.bad = true
	case err.Code == pqerror.QueryCanceled && errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("the statement was cancelled after %s: %w", rounded(limit), err)
	}
	return err
}

// failed handles the failure of a call without an answer.
func (c *boundConn) failed(ctx context.Context, err error, began time.Time, limit time.Duration, sent bool) error {
	broken := c.wire.failure()
	if broken == nil && !errors.Is(err, driver.ErrBadConn) && ctx.Err() == nil && c.pq.IsValid() {
		return err // of the driver itself, for example about an argument
	}
	c.bad = true
	c.wire.abort()
	silent := errors.Is(broken, os.ErrDeadlineExceeded)
	if silent {
		c.pool.silentAt.Store(began.UnixNano())
	}
	if !sent {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return driver.ErrBadConn // another connection may do it
	}
	lost := &LostAnswerError{Err: err}
	switch {
	case silent && errors.Is(ctx.Err(), context.Canceled), broken == nil && ctx.Err() != nil:
		lost.Err = ctx.Err()
	case silent:
		lost.Err, lost.Silence = broken, rounded(limit)
	case broken != nil:
		lost.Err = broken
	case errors.Is(err, driver.ErrBadConn):
		lost.Err = errors.New("the driver gave up the connection")
	}
	return lost
}

// rounded returns a limit as people read it.
func rounded(d time.Duration) time.Duration {
	if d < time.Second {
		return max(d.Round(time.Millisecond), time.Millisecond)
	}
	return d.Round(time.Second)
}

// ResetSession returns driver.ErrBadConn if the connection must not be used again.
func (c *boundConn) ResetSession(ctx context.Context) error {
	if !c.IsValid() || c.wire.stale() {
		return driver.ErrBadConn
	}
	return c.pq.ResetSession(ctx)
}

// IsValid reports whether the connection may be used again. lib/pq itself does not notice a deadline that was exceeded over TLS. After one
// connection was silent, those are not used either that have not answered since: the network may have dropped them all.
func (c *boundConn) IsValid() bool {
	return !c.bad && c.wire.failure() == nil && c.pq.IsValid() && c.answeredAt.UnixNano() >= c.pool.silentAt.Load()
}

// Close ends the session.
func (c *boundConn) Close() error {
	if c.bad || c.wire.failure() != nil {
		c.wire.abort()
	}
	c.deadline.begin(time.Now().Add(closeTimeout))
	return c.pq.Close()
}

// CheckNamedValue implements driver.NamedValueChecker.
func (c *boundConn) CheckNamedValue(v *driver.NamedValue) error { return c.pq.CheckNamedValue(v) }

// Ping implements driver.Pinger.
func (c *boundConn) Ping(ctx context.Context) error {
	end := c.begin(ctx, c.limit)
	return end(c.pq.Ping(ctx))
}

// ExecContext implements driver.ExecerContext.
func (c *boundConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	end := c.begin(ctx, c.limit)
	result, err := prepared(ctx, c, query, args, func() (driver.Result, error) { return c.pq.ExecContext(ctx, query, args) })
	if err := end(err); err != nil {
		return nil, err
	}
	return result, nil
}

// QueryContext returns all rows, after the server has reported the success of the statement: rows that were seen can't be lost any more, and
// a repeat can't double them.
func (c *boundConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	end := c.begin(ctx, c.limit)
	rows, err := prepared(ctx, c, query, args, func() (*bufferedRows, error) { return readRows(c.pq.QueryContext(ctx, query, args)) })
	if err := end(err); err != nil {
		return nil, err
	}
	return rows, nil
}

// bufferedRows are rows that were read whole: of several statements in one text, those of each, in their order.
type bufferedRows struct {
	columns []string
	values  [][]driver.Value
	next    *bufferedRows // of the statement after it; nil: there is none
}

func readRows(from driver.Rows, err error) (*bufferedRows, error) {
	if err != nil {
		return nil, err
	}
	rows, err := readResult(from)
	for last := rows; errors.Is(err, io.EOF); last = last.next {
		several, ok := from.(driver.RowsNextResultSet)
		if !ok || !several.HasNextResultSet() {
			break
		}
		if err = several.NextResultSet(); err == nil {
			last.next, err = readResult(from)
		}
	}
	closeErr := from.Close()
	if errors.Is(err, io.EOF) {
		err = closeErr
	}
	return rows, err
}

// readResult reads the rows of one statement. It returns an error in every case: io.EOF after the last row.
func readResult(from driver.Rows) (*bufferedRows, error) {
	rows := &bufferedRows{columns: from.Columns()}
	for {
		row := make([]driver.Value, len(rows.columns))
		if err := from.Next(row); err != nil {
			return rows, err
		}
		for i, value := range row {
			if b, ok := value.([]byte); ok {
				row[i] = append([]byte{}, b...) // valid until the next row only
			}
		}
		rows.values = append(rows.values, row)
	}
}

// Columns implements driver.Rows.
func (r *bufferedRows) Columns() []string { return r.columns }

// Next implements driver.Rows.
func (r *bufferedRows) Next(dest []driver.Value) error {
	if len(r.values) == 0 {
		return io.EOF
	}
	copy(dest, r.values[0])
	r.values = r.values[1:]
	return nil
}

// HasNextResultSet implements driver.RowsNextResultSet.
func (r *bufferedRows) HasNextResultSet() bool { return r.next != nil }

// NextResultSet implements driver.RowsNextResultSet.
func (r *bufferedRows) NextResultSet() error {
	if r.next == nil {
		return io.EOF
	}
	*r = *r.next
	return nil
}

// Close implements driver.Rows.
func (r *bufferedRows) Close() error {
	*r = bufferedRows{columns: r.columns}
	return nil
}

// Prepare implements driver.Conn.
func (c *boundConn) Prepare(query string) (driver.Stmt, error) {
	return c.PrepareContext(context.Background(), query)
}

// PrepareContext implements driver.ConnPrepareContext.
func (c *boundConn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	end := c.begin(ctx, c.limit)
	st, err := c.pq.PrepareContext(ctx, query)
	if err := end(err); err != nil {
		return nil, harmless(ctx, err)
	}
	return &boundStmt{st, c}, nil
}

// harmless is for calls that change nothing that outlives the connection: where the connection broke, another may do it.
func harmless(ctx context.Context, err error) error {
	if lost, ok := errors.AsType[*LostAnswerError](err); ok && lost.Silence == 0 && ctx.Err() == nil {
		return driver.ErrBadConn
	}
	return err
}

// boundStmt is a prepared statement.
type boundStmt struct {
	driver.Stmt
	conn *boundConn
}

// Close implements driver.Stmt.
func (s *boundStmt) Close() error {
	end := s.conn.begin(context.Background(), s.conn.limit)
	return end(s.Stmt.Close())
}

// ExecContext implements driver.StmtExecContext.
func (s *boundStmt) ExecContext(ctx context.Context, args []driver.NamedValue) (result driver.Result, err error) {
	end := s.conn.begin(ctx, s.conn.limit)
	if st, ok := s.Stmt.(driver.StmtExecContext); ok {
		result, err = st.ExecContext(ctx, args)
	} else {
		//lint:ignore SA1019 the statement of COPY has no other method
		result, err = s.Stmt.Exec(unnamed(args))
	}
	if err := end(err); err != nil {
		return nil, err
	}
	return result, nil
}

// QueryContext implements driver.StmtQueryContext.
func (s *boundStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	st, ok := s.Stmt.(driver.StmtQueryContext)
	if !ok {
		return nil, errors.New("this statement returns no rows")
	}
	end := s.conn.begin(ctx, s.conn.limit)
	rows, err := readRows(st.QueryContext(ctx, args))
	if err := end(err); err != nil {
		return nil, err
	}
	return rows, nil
}

func unnamed(args []driver.NamedValue) []driver.Value {
	values := make([]driver.Value, len(args))
	for i, a := range args {
		values[i] = a.Value
	}
	return values
}

// Begin implements driver.Conn.
func (c *boundConn) Begin() (driver.Tx, error) {
	return c.BeginTx(context.Background(), driver.TxOptions{})
}

// BeginTx implements driver.ConnBeginTx. Until the transaction ends, each of its calls is bounded by ctx, too.
func (c *boundConn) BeginTx(ctx context.Context, options driver.TxOptions) (driver.Tx, error) {
	end := c.begin(ctx, c.limit)
	tx, err := c.pq.BeginTx(ctx, options)
	if err := end(err); err != nil {
		return nil, harmless(ctx, err)
	}
	c.inTx = true
	bound := &boundTx{tx: tx, conn: c, limit: c.limit}
	if at, ok := ctx.Deadline(); ok {
		bound.limit = max(time.Until(at), 0)
	}
	bound.stop = context.AfterFunc(ctx, func() { c.deadline.shortenTx(time.Now().Add(maxGrace)) })
	return bound, nil
}

// boundTx is a transaction.
type boundTx struct {
	tx    driver.Tx
	conn  *boundConn
	limit time.Duration
	stop  func() bool
}

// Commit implements driver.Tx.
func (t *boundTx) Commit() error { return t.end(t.tx.Commit) }

// Rollback implements driver.Tx.
func (t *boundTx) Rollback() error { return t.end(t.tx.Rollback) }

func (t *boundTx) end(call func() error) error {
	end := t.conn.begin(context.Background(), t.limit)
	err := end(call())
	t.stop()
	t.conn.inTx = false
	t.conn.deadline.endTx()
	return err
}
