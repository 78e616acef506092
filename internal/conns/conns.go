// Package conns tracks the connections of a simulator, so that they can be closed together.
package conns

import (
	"net"
	"sync"
)

// Set is a set of connections that are closed together. The zero value is ready; it is safe for concurrent use.
type Set struct {
	mu     sync.Mutex
	closed bool
	conns  map[net.Conn]struct{}
}

// Keep adds a connection. If the set was cut before, Keep closes the connection and returns false.
func (s *Set) Keep(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = c.Close()
		return false
	}
	if s.conns == nil {
		s.conns = map[net.Conn]struct{}{}
	}
	s.conns[c] = struct{}{}
	return true
}

// Drop closes a connection and removes it from the set.
func (s *Set) Drop(c net.Conn) {
	_ = c.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// Len returns the number of connections.
func (s *Set) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// Break closes every connection. Connections that are added later stay open.
func (s *Set) Break() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closeAll()
}

// Cut closes every connection; connections that are added later are closed too. It returns false if the set was cut before.
func (s *Set) Cut() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.closed = true
	s.closeAll()
	return true
}

// closeAll closes every connection. s.mu is held.
func (s *Set) closeAll() {
	for c := range s.conns {
		_ = c.Close()
	}
}
