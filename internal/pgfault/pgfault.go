// Package pgfault is a man in the middle between a client and a PostgreSQL server. It reads the protocol, so that it can apply a fault to one
// statement: lose its answer after the server executed it, answer with an error in its place, or cut the connection before it arrives. It can
// also stop passing anything on, with every connection left open. Tests and the chaos program use it.
//
// TLS is refused, so that the protocol can be read. A statement of the extended protocol counts at the Sync after its Execute. Messages before a
// Flush are passed on at once, without a fault.
package pgfault

import (
	"net"
	"net/url"
	"strings"
	"sync"
	"time"

	"imagetasks/internal/conns"
)

// Fault is what happens to a statement.
type Fault string

// The faults. With those that lose an answer, the server has executed the statement.
const (
	LostFIN     Fault = "answer lost, closed"      // the connection is closed instead of the answer
	LostRST     Fault = "answer lost, reset"       // the connection is reset instead
	LostSilence Fault = "answer lost, silence"     // nothing comes instead, and the connection stays open
	Fatal       Fault = "FATAL"                    // the server ends the session with 57P01 instead of the answer
	Error       Fault = "ERROR"                    // an error in place of the statement, which the server does not get
	Cut         Fault = "cut before the statement" // the connection is closed, and the server does not get the statement
)

// Rule says to which statements a fault is applied.
type Rule struct {
	Fault    Fault
	Contains string                // in the text of the statement; empty: any statement
	Match    func(sql string) bool // optional, in addition
	Skip     int                   // statements that match and are passed on first
	Times    int                   // statements that it is applied to; 0: all
	For      time.Duration         // since it was added, after which it is applied to no more; 0: for ever
	SQLState string                // of Error; default XX000
}

// Injection is a rule in force.
type Injection struct {
	proxy *Proxy
	rule  Rule
	until time.Time
	seen  int // statements that matched
	hits  int
}

// Hits returns how many statements the fault was applied to.
func (i *Injection) Hits() int {
	i.proxy.mu.Lock()
	defer i.proxy.mu.Unlock()
	return i.hits
}

// Remove ends the injection.
func (i *Injection) Remove() {
	i.proxy.mu.Lock()
	defer i.proxy.mu.Unlock()
	for n, other := range i.proxy.injections {
		if other == i {
			i.proxy.injections = append(i.proxy.injections[:n], i.proxy.injections[n+1:]...)
			return
		}
	}
}

// Proxy is a running man in the middle on a port of the loopback interface. It is safe for concurrent use.
type Proxy struct {
	target   string
	listener net.Listener
	conns    conns.Set
	wg       sync.WaitGroup

	mu         sync.Mutex
	changed    *sync.Cond // closed or silent changed
	closed     bool
	silent     bool
	silentNew  bool
	injections []*Injection
	counts     Counts
}

// Counts is what a proxy has done.
type Counts struct {
	Connections int // accepted, requests to cancel a statement included
	Statements  int // that arrived
	Faults      map[Fault]int
}

// Start starts a proxy to the server at target, the path of a unix socket or host:port.
func Start(target string) (*Proxy, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{target: target, listener: listener, counts: Counts{Faults: map[Fault]int{}}}
	p.changed = sync.NewCond(&p.mu)
	p.wg.Go(p.accept)
	return p, nil
}

// StartFor starts a proxy to the server that a URL names, and returns the URL through the proxy.
func StartFor(databaseURL string) (p *Proxy, through string, err error) {
	u, err := url.Parse(databaseURL)
	if err != nil {
		return nil, "", err
	}
	q := u.Query()
	target, port := u.Host, q.Get("port")
	if dir := q.Get("host"); dir != "" {
		if port == "" {
			port = "5432"
		}
		target = dir + "/.s.PGSQL." + port
	}
	if p, err = Start(target); err != nil {
		return nil, "", err
	}
	q.Del("host")
	q.Del("port")
	u.Host, u.RawQuery = p.Addr(), q.Encode()
	return p, u.String(), nil
}

// Addr returns the proxy's host:port.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Add puts a rule in force. Of several rules that match a statement, the one that was added first is applied.
func (p *Proxy) Add(r Rule) *Injection {
	if r.SQLState == "" {
		r.SQLState = "XX000"
	}
	i := &Injection{proxy: p, rule: r}
	if r.For > 0 {
		i.until = time.Now().Add(r.For)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.injections = append(p.injections, i)
	return i
}

// Silence stops passing anything on, in both directions and on every connection, and begins to again. What arrives meanwhile is passed on then.
func (p *Proxy) Silence(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.silent = on
	p.changed.Broadcast()
}

// SilenceNew makes new connections hang: they are accepted, and stay silent until their client closes them.
func (p *Proxy) SilenceNew(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.silentNew = on
}

// Counts returns what the proxy has done so far.
func (p *Proxy) Counts() Counts {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.counts
	c.Faults = map[Fault]int{}
	for fault, n := range p.counts.Faults {
		c.Faults[fault] = n
	}
	return c
}

// Close closes every connection and waits until all is ended.
func (p *Proxy) Close() error {
	p.mu.Lock()
	p.closed = true
	p.changed.Broadcast()
	p.mu.Unlock()
	p.conns.Cut()
	err := p.listener.Close()
	p.wg.Wait()
	return err
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil || !p.conns.Keep(client) {
			return
		}
		p.mu.Lock()
		p.counts.Connections++
		hang := p.silentNew
		p.mu.Unlock()
		p.wg.Go(func() {
			defer p.conns.Drop(client)
			if hang {
				discard(client)
				return
			}
			p.serve(client.(*net.TCPConn))
		})
	}
}

// discard reads until the client closes the connection.
func discard(c net.Conn) {
	buffer := make([]byte, 4096)
	for {
		if _, err := c.Read(buffer); err != nil {
			return
		}
	}
}

// dial connects to the server.
func (p *Proxy) dial() (net.Conn, bool) {
	network := "tcp"
	if strings.HasPrefix(p.target, "/") {
		network = "unix"
	}
	c, err := net.DialTimeout(network, p.target, 10*time.Second)
	return c, err == nil && p.conns.Keep(c)
}

// pass waits while the proxy is silent, and reports false when it is closed.
func (p *Proxy) pass() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.silent && !p.closed {
		p.changed.Wait()
	}
	return !p.closed
}

// apply counts a statement and returns the fault for it, if there is one.
func (p *Proxy) apply(sql string) (Rule, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counts.Statements++
	for _, i := range p.injections {
		r := i.rule
		if !strings.Contains(sql, r.Contains) || r.Match != nil && !r.Match(sql) {
			continue
		}
		i.seen++
		if i.seen <= r.Skip || r.Times > 0 && i.hits >= r.Times || !i.until.IsZero() && time.Now().After(i.until) {
			continue
		}
		i.hits++
		p.counts.Faults[r.Fault]++
		return r, true
	}
	return Rule{}, false
}
