package proxy

import (
	"io"
	"net/http"
	"sync"
)

// connPool are the connections of a way. Each carries one request at a time and is used again for the next, the one used
// last first. HTTP/2 could carry all requests on one connection; but what it carries takes a minute each, is paid
// for, and on a bad line comes no faster than that connection does. So one that breaks breaks one request, and none waits
// for the lost packets of another.
type connPool struct {
	make func() *http.Transport

	mu   sync.Mutex
	free []*http.Transport
}

// mostFree bounds the lanes that are kept while nobody uses them.
const mostFree = 128

func (l *connPool) take() *http.Transport {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.free); n > 0 {
		lane := l.free[n-1]
		l.free = l.free[:n-1]
		return lane
	}
	return l.make()
}

func (l *connPool) put(lane *http.Transport) {
	l.mu.Lock()
	kept := len(l.free) < mostFree
	if kept {
		l.free = append(l.free, lane)
	}
	l.mu.Unlock()
	if !kept {
		lane.CloseIdleConnections()
	}
}

// closeIdle closes the connections that no request uses.
func (l *connPool) closeIdle() {
	l.mu.Lock()
	free := l.free
	l.free = nil
	l.mu.Unlock()
	for _, lane := range free {
		lane.CloseIdleConnections()
	}
}

// roundTrip sends a request on a lane, which is its own until the answer's body is closed. A lane whose answer did
// not come whole is not used again: its connection may be open still, and lead nowhere.
func (l *connPool) roundTrip(r *http.Request) (*http.Response, error) {
	lane := l.take()
	answer, err := lane.RoundTrip(r)
	if err != nil {
		lane.CloseIdleConnections()
		return nil, err
	}
	body := &pooledBody{ReadCloser: answer.Body}
	body.end = sync.OnceFunc(func() {
		if body.whole {
			l.put(lane)
			return
		}
		lane.CloseIdleConnections()
	})
	answer.Body = body
	return answer, nil
}

// pooledBody gives its lane back when it is closed. Like any body it is for one goroutine.
type pooledBody struct {
	io.ReadCloser
	whole bool
	end   func()
}

func (b *pooledBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.whole = b.whole || err == io.EOF
	return n, err
}

func (b *pooledBody) Close() error {
	err := b.ReadCloser.Close()
	b.end()
	return err
}
