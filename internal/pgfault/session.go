package pgfault

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
)

// Codes in place of a protocol version in the first packet of a connection.
const (
	cancelRequest = 80877102
	sslRequest    = 80877103
	gssRequest    = 80877104
)

// maxPacket bounds a message.
const maxPacket = 1 << 30

// session is one connection through the proxy.
type session struct {
	proxy  *Proxy
	client *net.TCPConn
	server net.Conn

	mu      sync.Mutex
	changed *sync.Cond
	ended   bool     // the server's side
	muted   bool     // nothing more is passed to the client
	answers []answer // that the server owes, in order; each ends with ReadyForQuery
	status  byte     // of the transaction: I, T or E

	// Of the goroutine that reads from the client.
	group    []byte // messages since the last Sync
	texts    map[string]string
	portals  map[string]string
	executes []string // texts that the group executes
}

// answer is what becomes of an answer of the server: it is passed on, or dropped.
type answer struct{ drop bool }

// serve passes a connection on until either side ends it.
func (p *Proxy) serve(client *net.TCPConn) {
	if !p.pass() {
		return
	}
	first, code, err := readStartup(client)
	if err != nil || !p.pass() {
		return
	}
	server, ok := p.dial()
	if !ok {
		return
	}
	defer p.conns.Drop(server)
	if _, err := server.Write(first); err != nil {
		return
	}
	if code == cancelRequest {
		_, _ = io.Copy(client, server)
		return
	}
	s := &session{proxy: p, client: client, server: server, texts: map[string]string{}, portals: map[string]string{},
		answers: []answer{{}}} // the start of the session ends with ReadyForQuery, too
	s.changed = sync.NewCond(&s.mu)
	done := make(chan struct{})
	p.wg.Go(func() {
		defer close(done)
		s.passAnswers()
	})
	s.passRequests()
	p.conns.Drop(server)
	<-done
}

// readStartup reads the first packet that is no request for encryption.
func readStartup(client io.ReadWriter) (packet []byte, code uint32, err error) {
	for {
		header := make([]byte, 8)
		if _, err := io.ReadFull(client, header); err != nil {
			return nil, 0, err
		}
		size, code := binary.BigEndian.Uint32(header), binary.BigEndian.Uint32(header[4:])
		if size < 8 || size > maxPacket {
			return nil, 0, errors.New("invalid packet")
		}
		packet := append(header, make([]byte, size-8)...)
		if _, err := io.ReadFull(client, packet[8:]); err != nil {
			return nil, 0, err
		}
		if code != sslRequest && code != gssRequest {
			return packet, code, nil
		}
		if _, err := client.Write([]byte{'N'}); err != nil {
			return nil, 0, err
		}
	}
}

// readMessage reads a message, header included.
func readMessage(from io.Reader) ([]byte, error) {
	header := make([]byte, 5)
	if _, err := io.ReadFull(from, header); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(header[1:])
	if size < 4 || size > maxPacket {
		return nil, errors.New("invalid message")
	}
	message := append(header, make([]byte, size-4)...)
	_, err := io.ReadFull(from, message[5:])
	return message, err
}

// passAnswers passes on what the server sends.
func (s *session) passAnswers() {
	defer func() {
		s.mu.Lock()
		s.ended = true
		s.changed.Broadcast()
		s.mu.Unlock()
	}()
	for {
		message, err := readMessage(s.server)
		if err != nil {
			// The server has ended the session: what it said last was passed on. Where a client must not hear of it, it has its own end.
			if a := s.owed(); !a.drop && s.proxy.pass() {
				_ = s.client.Close()
			}
			return
		}
		a := s.owed()
		if !a.drop {
			if !s.proxy.pass() {
				return
			}
			if _, err := s.client.Write(message); err != nil {
				return
			}
		}
		if message[0] == 'Z' {
			s.ready(message[5])
		}
	}
}

// owed returns what becomes of the answer that the server is sending.
func (s *session) owed() answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.muted:
		return answer{drop: true}
	case len(s.answers) == 0:
		return answer{}
	}
	return s.answers[0]
}

// ready notes that an answer has ended, with that status of the transaction.
func (s *session) ready(status byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status = status
	if len(s.answers) > 0 {
		s.answers = s.answers[1:]
	}
	s.changed.Broadcast()
}

// settled waits until the server owes nothing, and returns the status of the transaction, or false if the session ended.
func (s *session) settled() (status byte, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.answers) > 0 && !s.ended {
		s.changed.Wait()
	}
	return s.status, !s.ended
}

// send sends the server something that it answers.
func (s *session) send(request []byte, a answer) bool {
	s.mu.Lock()
	s.answers = append(s.answers, a)
	s.mu.Unlock()
	_, err := s.server.Write(request)
	return err == nil
}

// passRequests passes on what the client sends, and applies faults.
func (s *session) passRequests() {
	for {
		message, err := readMessage(s.client)
		if err != nil || !s.proxy.pass() || !s.request(message) {
			return
		}
	}
}

// request handles a message of the client, and reports whether more may follow.
func (s *session) request(message []byte) bool {
	body := message[5:]
	switch message[0] {
	case 'Q':
		s.group, s.executes = append(s.group, message...), append(s.executes, text(&body))
		return s.flushGroup()
	case 'S', 'F': // Sync; a call by the fast path, which has no text
		s.group = append(s.group, message...)
		return s.flushGroup()
	case 'P':
		name := text(&body)
		s.texts[name] = text(&body)
	case 'B':
		portal := text(&body)
		s.portals[portal] = s.texts[text(&body)]
	case 'E':
		s.executes = append(s.executes, s.portals[text(&body)])
	case 'D', 'C':
	default: // a password, data of COPY, Flush, the end of the session
		_, err := s.server.Write(append(s.group, message...))
		s.group, s.executes = nil, nil
		return err == nil
	}
	s.group = append(s.group, message...)
	return true
}

// text reads a text that ends with a zero byte.
func text(body *[]byte) string {
	before, after, _ := bytes.Cut(*body, []byte{0})
	*body = after
	return string(before)
}

// flushGroup sends the messages up to a Sync to the server, or applies a fault to them.
func (s *session) flushGroup() bool {
	group, executes := s.group, s.executes
	s.group, s.executes = nil, nil
	for _, sql := range executes {
		if rule, ok := s.proxy.apply(sql); ok {
			return s.fault(rule, group)
		}
	}
	return s.send(group, answer{})
}

// fault applies a fault to a group, and reports whether more may follow.
func (s *session) fault(r Rule, group []byte) bool {
	status, ok := s.settled()
	if !ok {
		return false
	}
	switch r.Fault {
	case Cut:
		return false
	case Error:
		return s.refuse(r, status)
	}
	if !s.send(group, answer{drop: true}) {
		return false
	}
	if _, ok := s.settled(); !ok {
		return false
	}
	s.mute()
	switch r.Fault {
	case LostRST:
		_ = s.client.SetLinger(0)
		_ = s.client.Close()
	case LostSilence:
		discard(s.client)
	case Fatal:
		_, _ = s.client.Write(errorResponse("FATAL", "57P01", "terminating connection due to administrator command"))
	}
	return false
}

// mute passes nothing more to the client.
func (s *session) mute() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.muted = true
}

// refuse answers with an error in place of the statement. Within a transaction the server's fails, too.
func (s *session) refuse(r Rule, status byte) bool {
	if status == 'T' {
		failing := append([]byte("select 1/0"), 0)
		if !s.send(append(header('Q', len(failing)), failing...), answer{drop: true}) {
			return false
		}
		if status, _ = s.settled(); status != 'E' {
			return false
		}
	}
	ready := append(header('Z', 1), status)
	_, err := s.client.Write(append(errorResponse("ERROR", r.SQLState, "an error by pgfault"), ready...))
	return err == nil
}

func header(kind byte, size int) []byte {
	return binary.BigEndian.AppendUint32([]byte{kind}, uint32(size+4))
}

func errorResponse(severity, state, message string) []byte {
	body := []byte("S" + severity + "\x00V" + severity + "\x00C" + state + "\x00M" + message + "\x00\x00")
	return append(header('E', len(body)), body...)
}
