// Package conns keeps the connections of a simulator, so that they end with it.
package conns

import (
	"net"
	"sync"
)

// Set is connections that are cut together. The zero value is ready; it is safe for concurrent use.
type Set struct {
	mu     sync.Mutex
	closed bool
	conns  map[net.Conn]struct{}
}

// Keep takes a connection in. Where the set was cut already the connection is closed, and Keep returns false.
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

// Drop closes a connection and forgets it.
func (s *Set) Drop(c net.Conn) {
	_ = c.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// Len returns how many connections there are.
func (s *Set) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// Cut closes every connection, and those that come later. It returns false where that was done before.
func (s *Set) Cut() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.closed = true
	for c := range s.conns {
		_ = c.Close()
	}
	return true
}
