package proxy

import (
	"io"
	"net/http"
	"sync"
)

// lanes are the connections of a way. Each carries one request at a time and is used again for the next, the one used
// last first. HTTP/2 could carry all requests on one connection; but what it carries takes a minute each, is paid
// for, and on a bad line comes no faster than that connection does. So one that breaks breaks one request, and none waits
// for the lost packets of another.
type lanes struct {
	make func() *http.Transport

	mu   sync.Mutex
	free []*http.Transport
}

// mostFree bounds the lanes that are kept while nobody uses them.
const mostFree = 128

func (l *lanes) take() *http.Transport {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.free); n > 0 {
		lane := l.free[n-1]
		l.free = l.free[:n-1]
		return lane
	}
	return l.make()
}

func (l *lanes) put(lane *http.Transport) {
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
func (l *lanes) closeIdle() {
	l.mu.Lock()
	free := l.free
	l.free = nil
	l.mu.Unlock()
	for _, lane := range free {
		lane.CloseIdleConnections()
	}
}

// roundTrip sends a request on a lane, which is its own until the answer's body is closed.
func (l *lanes) roundTrip(r *http.Request) (*http.Response, error) {
	lane := l.take()
	answer, err := lane.RoundTrip(r)
	if err != nil {
		l.put(lane)
		return nil, err
	}
	answer.Body = &laneBody{ReadCloser: answer.Body, put: sync.OnceFunc(func() { l.put(lane) })}
	return answer, nil
}

// laneBody gives its lane back when it is closed.
type laneBody struct {
	io.ReadCloser
	put func()
}

func (b *laneBody) Close() error {
	defer b.put()
	return b.ReadCloser.Close()
}
