package pgdial

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// Ping says how the server is asked whether it still responds.
type Ping struct {
	After   time.Duration // without anything received
	Timeout time.Duration // of the response, also that to LISTEN itself
}

// Listen subscribes to a channel and calls wake once it is subscribed and for each notification, until ctx ends or the
// connection breaks. The driver must have opened a session on the connection and must not use it any more. The driver's own
// listener reads the environment and fails on variables that it does not know. Each time that nothing was received for a while, the server is
// asked to respond, so that a connection that broke silently is noticed.
func (c *Conn) Listen(ctx context.Context, channel string, ping Ping, wake func()) error {
	stop := context.AfterFunc(ctx, c.Abort)
	defer stop()
	l := &listener{conn: c, reader: bufio.NewReader(c), ping: ping}
	if err := l.query(`listen "` + strings.ReplaceAll(channel, `"`, `""`) + `"`); err != nil {
		return err
	}
	subscribed := false
	for {
		kind, body, err := l.message()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && !l.asked:
			err = l.query("")
		case errors.Is(err, os.ErrDeadlineExceeded):
			err = fmt.Errorf("the connection that listens: the database did not respond for %s: %w", ping.Timeout, err)
		case err != nil:
			err = fmt.Errorf("the connection that listens: %w", err)
		case kind == 'E':
			err = fmt.Errorf("the connection that listens: %s", serverMessage(body))
		case kind == 'Z':
			err = l.ready()
			if !subscribed {
				subscribed = true
				wake()
			}
		case kind == 'A' && subscribed:
			wake()
		}
		if err != nil {
			return err
		}
	}
}

type listener struct {
	conn   *Conn
	reader *bufio.Reader
	ping   Ping
	asked  bool // the server owes a response
}

// query sends a statement, to which the server must respond in time.
func (l *listener) query(text string) error {
	l.asked = true
	if err := l.conn.SetDeadline(time.Now().Add(l.ping.Timeout)); err != nil {
		return err
	}
	message := binary.BigEndian.AppendUint32([]byte{'Q'}, uint32(len(text)+5))
	_, err := l.conn.Write(append(append(message, text...), 0))
	return err
}

// ready notes that the server has responded.
func (l *listener) ready() error {
	l.asked = false
	return l.conn.SetDeadline(time.Now().Add(l.ping.After))
}

// message reads a message. After an exceeded deadline it may be called again: what was read is kept.
func (l *listener) message() (kind byte, body []byte, err error) {
	header, err := l.reader.Peek(5)
	if err != nil {
		return 0, nil, err
	}
	kind = header[0]
	size := int(binary.BigEndian.Uint32(header[1:])) - 4
	if size < 0 || size > maxMessage {
		return 0, nil, errors.New("the server sent an invalid message")
	}
	if _, err := l.reader.Discard(5); err != nil {
		return 0, nil, err
	}
	body = make([]byte, size)
	if _, err := io.ReadFull(l.reader, body); err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = errors.New("the server stopped within a message")
		}
		return 0, nil, err
	}
	return kind, body, nil
}

// serverMessage returns the message of an error response.
func serverMessage(body []byte) string {
	for field := range strings.SplitSeq(string(body), "\x00") {
		if message, ok := strings.CutPrefix(field, "M"); ok {
			return message
		}
	}
	return "the server sent an error"
}
