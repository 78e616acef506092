package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql/driver"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"
)

// hotStatements are the statements that each connection prepares, with their names on the server.
type hotStatements struct {
	names func() map[string]string // by text; the first call makes it
	// age is how long a statement is used before it is prepared again. The server keeps a plan until the statistics change: one that was made for an
	// empty table reads all of it when it is not empty any more.
	age time.Duration
}

func newHotStatements(hot []statement) *hotStatements {
	return &hotStatements{age: 10 * time.Second, names: sync.OnceValue(func() map[string]string {
		names := map[string]string{}
		for _, st := range hot {
			names[st.text()] = preparedName(st.text())
		}
		return names
	})}
}

// preparedName returns a statement's name on the server. It is made of the text: where connections share a session (a pooler in transaction mode), a
// name never means another text.
func preparedName(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "imagetasks_" + hex.EncodeToString(sum[:10])
}

// unpreparedTime is how long the connections of a pool prepare nothing after one of them met a session without its statements.
const unpreparedTime = 10 * time.Minute

// preparedStatement is a statement of one connection.
type preparedStatement struct {
	name string
	// planned reports that the session has the statement, since at.
	planned bool
	at      time.Time
	// generation is part of the name. It is raised for each time that the session has the statement and is not to use it any more.
	generation int
}

// renew makes the next call prepare the statement again.
func (p *preparedStatement) renew() {
	p.planned = false
	p.generation++
}

// nameOn returns the name on the server.
func (p *preparedStatement) nameOn() string {
	if p.generation == 0 {
		return p.name
	}
	return fmt.Sprintf("%s_%d", p.name, p.generation)
}

// preparedOn are the statements of one connection. Each is prepared with its first use, in the same round trip: lib/pq sends a statement under the
// empty name, and the connection below it changes the name.
type preparedOn struct {
	hot  *hotStatements
	used map[string]*preparedStatement
	pool *poolState
}

// of returns the statement with that text, or nil if it is to be sent as it is.
func (p *preparedOn) of(text string) *preparedStatement {
	name := p.hot.names()[text]
	if name == "" || !p.pool.prepares() {
		return nil
	}
	st := p.used[text]
	if st == nil {
		if p.used == nil {
			p.used = map[string]*preparedStatement{}
		}
		st = &preparedStatement{name: name}
		p.used[text] = st
	}
	return st
}

// unusable reports whether a statement failed because it was prepared, and must be sent as it is. It notes why. An error of the server means that
// it had no effect.
func (p *preparedOn) unusable(st *preparedStatement, err error) bool {
	pqErr, ok := errors.AsType[*pq.Error](err)
	if !ok {
		return false
	}
	switch pqErr.Code {
	case pqerror.InvalidSQLStatementName, pqerror.DuplicatePstatement, pqerror.ProtocolViolation:
		// The session is another one than that in which the statement was prepared. Only a pooler changes it.
		clear(p.used)
		p.pool.unprepared()
		return true
	case pqerror.FeatureNotSupported:
		// Its result has other columns since a table was altered.
		retry := st.planned
		st.renew()
		return retry
	}
	return false
}

// unpreparedAt holds the time, in nanoseconds, since which the connections of a pool prepare nothing; 0: they do.
type unpreparedAt struct{ at atomic.Int64 }

func (u *unpreparedAt) unprepared() { u.at.Store(time.Now().UnixNano()) }

func (u *unpreparedAt) prepares() bool {
	at := u.at.Load()
	return at == 0 || time.Since(time.Unix(0, at)) > unpreparedTime
}

// parseComplete is the server's answer to the message that prepares a statement.
var parseComplete = []byte{'1', 0, 0, 0, 4}

// rename returns the messages with which lib/pq sends a statement at once, Parse and Bind and others, with a name for the statement; without Parse
// where the session has it. It returns false for other messages. The result is valid until the next call with the same buffer.
func rename(messages []byte, name string, planned bool, buffer *[]byte) ([]byte, bool) {
	parse, rest, ok := cutMessage(messages, 'P')
	if !ok || parse[0] != 0 {
		return nil, false
	}
	bind, after, ok := cutMessage(rest, 'B')
	if !ok || !bytes.HasPrefix(bind, []byte{0, 0}) {
		return nil, false
	}
	out := (*buffer)[:0]
	if !planned {
		out = binary.BigEndian.AppendUint32(append(out, 'P'), uint32(4+len(name)+len(parse)))
		out = append(append(out, name...), parse...)
	}
	out = binary.BigEndian.AppendUint32(append(out, 'B'), uint32(4+len(name)+len(bind)))
	out = append(append(append(out, 0), name...), bind[1:]...)
	out = append(out, after...)
	*buffer = out
	return out, true
}

// cutMessage returns the body of the first message if it is of that kind, and what follows it.
func cutMessage(messages []byte, kind byte) (body, rest []byte, ok bool) {
	if len(messages) < 5 || messages[0] != kind {
		return nil, nil, false
	}
	size := 1 + int(binary.BigEndian.Uint32(messages[1:]))
	if size < 6 || size > len(messages) {
		return nil, nil, false
	}
	return messages[5:size], messages[size:], true
}

// prepared sends a statement, prepared where it is one of the hot statements and no transaction is open in which an error would count.
func prepared[T any](ctx context.Context, c *boundConn, query string, args []driver.NamedValue, send func() (T, error)) (T, error) {
	if len(args) == 0 || c.inTx {
		return send()
	}
	st := c.prepared.of(query)
	if st == nil {
		return send()
	}
	if st.planned && time.Since(st.at) > c.prepared.hot.age {
		old := st.nameOn()
		st.renew()
		if err := c.deallocate(ctx, old); err != nil {
			var none T
			return none, err
		}
	}
	c.wire.use(st)
	result, err := send()
	if c.wire.unuse() {
		st.planned, st.at = true, time.Now()
	}
	if err != nil && c.prepared.unusable(st, err) {
		return send()
	}
	return result, err
}

// deallocate removes a prepared statement from the session. That it is not there is no error.
func (c *boundConn) deallocate(ctx context.Context, name string) error {
	_, err := c.pq.ExecContext(ctx, "deallocate "+name, nil)
	if _, ok := errors.AsType[*pq.Error](err); ok {
		return nil
	}
	return err
}
