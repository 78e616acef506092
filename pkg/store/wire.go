package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"

	"imagetasks/pkg/pgdial"
)

// wire is the connection under a session of lib/pq. It notes what lib/pq does not tell: how much was sent, and why the connection broke.
type wire struct {
	*pgdial.Conn
	sent atomic.Int64

	messages messageReader // of the goroutine that reads

	// Of the call in progress.
	prepared *preparedStatement // nil: what is sent stays as it is
	inserted []byte             // that the next Read returns first
	renamed  []byte             // the buffer of what was sent last

	mu  sync.Mutex
	err error
}

// Read implements net.Conn.
func (w *wire) Read(p []byte) (int, error) {
	if len(w.inserted) > 0 {
		n := copy(p, w.inserted)
		w.inserted = w.inserted[n:]
		return n, nil
	}
	n, err := w.Conn.Read(p)
	if fatal := w.messages.read(p[:n]); fatal != nil {
		w.fail(fatal)
	}
	if errors.Is(err, io.EOF) {
		w.fail(errors.New("the server closed the connection"))
	} else if err != nil {
		w.fail(err)
	}
	return n, err
}

// Write implements net.Conn.
func (w *wire) Write(p []byte) (int, error) {
	out := p
	if st := w.prepared; st != nil {
		if renamed, ok := rename(p, st.nameOn(), st.planned, &w.renamed); ok {
			out = renamed
			if st.planned {
				w.inserted = parseComplete
			}
		}
	}
	n, err := w.Conn.Write(out)
	w.sent.Add(int64(n))
	if err != nil {
		w.fail(err)
		return min(n, len(p)), err
	}
	return len(p), nil
}

// use prepares the statement that is sent next, or uses that which the session has.
func (w *wire) use(st *preparedStatement) {
	w.prepared, w.messages.parsed = st, false
}

// unuse ends use, and reports whether the server has prepared a statement since.
func (w *wire) unuse() bool {
	w.prepared, w.inserted = nil, nil
	if cap(w.renamed) > maxRenamed {
		w.renamed = nil
	}
	return w.messages.parsed
}

// maxRenamed bounds the buffer that a connection keeps.
const maxRenamed = 1 << 20

// fail notes the first failure. The connection is of no use any more: closed, it makes nobody wait.
func (w *wire) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
		w.abort()
	}
}

// failure returns why the connection broke, nil if it did not.
func (w *wire) failure() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

func (w *wire) abort() { w.Conn.Abort() }

// stale reports whether the server has ended the connection while it was idle.
func (w *wire) stale() bool { return w.Conn.Stale() }

// fatalError is an error after which the server ends the connection.
type fatalError struct{ code, message string }

// Error implements error.
func (e *fatalError) Error() string {
	return fmt.Sprintf("the server ended the connection: %s (%s)", e.message, e.code)
}

// SQLState returns the code.
func (e *fatalError) SQLState() string { return e.code }

// messageReader finds fatal errors in what a server sends. lib/pq drops their text.
type messageReader struct {
	header  []byte
	body    []byte // of an error
	left    int    // of the body
	parsed  bool   // a statement was prepared
	invalid bool
}

// maxErrorBody bounds an error that is kept.
const maxErrorBody = 30000

// read takes the next bytes, and returns the fatal error that ends with them, if one does.
func (r *messageReader) read(p []byte) (fatal error) {
	for len(p) > 0 && !r.invalid {
		if len(r.header) < 5 {
			n := min(5-len(r.header), len(p))
			r.header, p = append(r.header, p[:n]...), p[n:]
			if len(r.header) < 5 {
				return fatal
			}
			r.left = int(binary.BigEndian.Uint32(r.header[1:])) - 4
			r.invalid = r.left < 0
			r.parsed = r.parsed || r.header[0] == parseComplete[0]
		}
		n := min(r.left, len(p))
		if r.header[0] == 'E' && len(r.body)+n <= maxErrorBody {
			r.body = append(r.body, p[:n]...)
		}
		p, r.left = p[n:], r.left-n
		if r.left > 0 {
			return fatal
		}
		if r.header[0] == 'E' {
			if err := parseFatal(r.body); err != nil {
				fatal = err
			}
			r.body = nil
		}
		r.header = r.header[:0]
	}
	return fatal
}

// parseFatal returns the error if it is fatal.
func parseFatal(body []byte) error {
	var severity, code, message string
	for field := range strings.SplitSeq(string(body), "\x00") {
		if field == "" {
			continue
		}
		switch field[0] {
		case 'V': // not translated
			severity = field[1:]
		case 'C':
			code = field[1:]
		case 'M':
			message = field[1:]
		}
	}
	if isFatal(severity) {
		return &fatalError{code, message}
	}
	return nil
}
