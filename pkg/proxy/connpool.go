package proxy

import (
	"io"
	"net/http"
	"sync"
)

// connPool holds the connections of an upstream, one per http.Transport. A connection carries one request at a time and is
// reused for the next, the one used last first. HTTP/2 could carry all requests on one connection. But each request takes a
// minute and is billed, and all of them would fail with that connection, or wait for its lost packets. With one connection
// per request only one request is affected.
type connPool struct {
	newTransport func() *http.Transport

	mu   sync.Mutex
	idle []*http.Transport
}

// maxIdleConns bounds the connections that are kept without a request.
const maxIdleConns = 128

func (p *connPool) get() *http.Transport {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.idle); n > 0 {
		t := p.idle[n-1]
		p.idle = p.idle[:n-1]
		return t
	}
	return p.newTransport()
}

func (p *connPool) put(t *http.Transport) {
	p.mu.Lock()
	kept := len(p.idle) < maxIdleConns
	if kept {
		p.idle = append(p.idle, t)
	}
	p.mu.Unlock()
	if !kept {
		t.CloseIdleConnections()
	}
}

// closeIdle closes the connections that carry no request.
func (p *connPool) closeIdle() {
	p.mu.Lock()
	idle := p.idle
	p.idle = nil
	p.mu.Unlock()
	for _, t := range idle {
		t.CloseIdleConnections()
	}
}

// roundTrip sends a request on a connection that carries nothing else until the response's body is closed. A connection
// whose response was not read to its end is not reused: it may be open and still broken.
func (p *connPool) roundTrip(r *http.Request) (*http.Response, error) {
	t := p.get()
	response, err := t.RoundTrip(r)
	if err != nil {
		t.CloseIdleConnections()
		return nil, err
	}
	body := &pooledBody{ReadCloser: response.Body}
	body.release = sync.OnceFunc(func() {
		if body.complete {
			p.put(t)
			return
		}
		t.CloseIdleConnections()
	})
	response.Body = body
	return response, nil
}

// pooledBody returns its connection to the pool when it is closed. Like any body it is for one goroutine.
type pooledBody struct {
	io.ReadCloser
	complete bool // it was read to its end
	release  func()
}

func (b *pooledBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.complete = b.complete || err == io.EOF
	return n, err
}

func (b *pooledBody) Close() error {
	err := b.ReadCloser.Close()
	b.release()
	return err
}
