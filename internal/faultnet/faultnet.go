// Package faultnet is a TCP relay for tests that simulates a bad network: it delays bytes, cuts them into slices, resets
// connections at a random byte, and makes connections silent. The fault of the nth connection depends only on the seed and
// on n.
package faultnet

import (
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"imagetasks/internal/conns"
)

// Config is the target of a relay and its faults, as percentages of the connections. The remaining connections have no fault.
type Config struct {
	Target string // host:port
	Seed   uint64
	Slice  int           // come through in slices of a few bytes
	Reset  int           // are reset
	Drop   int           // fall silent: both ends stay open and nothing comes through any more
	Within int           // bytes, either way, before which a reset or a silence begins
	Delay  time.Duration // at most, before each piece, on every connection
}

// Fault is what the relay does to a connection.
type Fault string

// The faults.
const (
	None  Fault = "none"
	Slice Fault = "slice"
	Reset Fault = "reset"
	Drop  Fault = "drop"
)

// Relay is a running relay on a port of the loopback interface. It is safe for concurrent use.
type Relay struct {
	conf     Config
	listener net.Listener
	wg       sync.WaitGroup
	conns    conns.Set

	mu     sync.Mutex
	faults map[Fault]int // how often each occurred
}

// Start starts a relay.
func Start(conf Config) (*Relay, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &Relay{conf: conf, listener: listener, faults: map[Fault]int{}}
	r.wg.Go(r.accept)
	return r, nil
}

// Addr returns the relay's host:port.
func (r *Relay) Addr() string { return r.listener.Addr().String() }

// Faults returns how often each fault occurred.
func (r *Relay) Faults() map[Fault]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[Fault]int{}
	for f, n := range r.faults {
		out[f] = n
	}
	return out
}

// Close cuts every connection and waits until they are closed.
func (r *Relay) Close() error {
	r.conns.Cut()
	err := r.listener.Close()
	r.wg.Wait()
	return err
}

func (r *Relay) accept() {
	for n := uint64(0); ; n++ {
		client, err := r.listener.Accept()
		if err != nil || !r.conns.Keep(client) {
			return
		}
		chance := rand.New(rand.NewPCG(r.conf.Seed, n))
		r.wg.Go(func() {
			defer r.conns.Drop(client)
			target, err := net.DialTimeout("tcp", r.conf.Target, 10*time.Second)
			if err != nil || !r.conns.Keep(target) {
				return
			}
			defer r.conns.Drop(target)
			r.relay(client, target, chance)
		})
	}
}

// line is one connection through the relay.
type line struct {
	relay   *Relay
	fault   Fault
	ends    []*net.TCPConn
	mu      sync.Mutex
	left    int // bytes until the fault
	applied bool
}

func (r *Relay) relay(client, target net.Conn, chance *rand.Rand) {
	l := &line{relay: r, fault: r.pick(chance), ends: []*net.TCPConn{client.(*net.TCPConn), target.(*net.TCPConn)}}
	if l.left = 1; r.conf.Within > 1 {
		l.left += chance.IntN(r.conf.Within)
	}
	if l.fault == Slice {
		r.note(Slice)
	}
	up, down := rand.New(rand.NewPCG(chance.Uint64(), 0)), rand.New(rand.NewPCG(chance.Uint64(), 1))
	done := make(chan struct{})
	r.wg.Go(func() { defer close(done); l.carry(target, client, up) })
	l.carry(client, target, down)
	<-done
}

func (r *Relay) pick(chance *rand.Rand) Fault {
	n := chance.IntN(100)
	for _, share := range []struct {
		fault   Fault
		percent int
	}{{Reset, r.conf.Reset}, {Drop, r.conf.Drop}, {Slice, r.conf.Slice}} {
		if n -= share.percent; n < 0 {
			return share.fault
		}
	}
	return None
}

func (r *Relay) note(f Fault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults[f]++
}

// carry copies in one direction until either side ends.
func (l *line) carry(to, from net.Conn, chance *rand.Rand) {
	buffer := make([]byte, 16<<10)
	for {
		n, err := from.Read(buffer)
		for rest := buffer[:n]; len(rest) > 0; {
			piece := rest
			if l.fault == Slice {
				piece = rest[:min(len(rest), 1+chance.IntN(256))]
			}
			rest = rest[len(piece):]
			if most := l.relay.conf.Delay; most > 0 {
				time.Sleep(time.Duration(chance.Int64N(int64(most))))
			}
			if !l.pass(to, piece) {
				return
			}
		}
		if err != nil {
			_ = to.(*net.TCPConn).CloseWrite()
			if err != io.EOF {
				_ = to.Close()
			}
			return
		}
	}
}

// pass forwards a piece as far as the fault allows, and reports whether more may follow.
func (l *line) pass(to io.Writer, piece []byte) bool {
	if l.fault == Reset || l.fault == Drop {
		l.mu.Lock()
		allowed := min(len(piece), l.left)
		l.left -= allowed
		apply := l.left == 0 && !l.applied
		l.applied = l.applied || apply
		l.mu.Unlock()
		if apply {
			l.relay.note(l.fault)
		}
		whole := allowed == len(piece)
		piece = piece[:allowed]
		if l.fault == Reset && (apply || !whole) {
			_, _ = to.Write(piece)
			for _, end := range l.ends {
				_ = end.SetLinger(0)
				_ = end.Close()
			}
			return false
		}
	}
	_, err := to.Write(piece)
	return err == nil
}
