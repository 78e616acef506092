package store

import (
	"context"
	"encoding/binary"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// silentServer accepts connections and never responds.
func silentServer(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		var kept []net.Conn
		for {
			c, err := listener.Accept()
			if err != nil {
				break
			}
			kept = append(kept, c)
		}
		for _, c := range kept {
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = listener.Close(); <-done })
	return listener.Addr().String()
}

func TestAbort_EndsAHandshakeWithoutResponse(t *testing.T) {
	s, err := Open(Config{URL: "postgres://u:p@" + silentServer(t) + "/x?connect_timeout=0&sslmode=disable"})
	require.NoError(t, err)
	ended := make(chan error, 1)
	go func() { ended <- s.Ping(context.Background()) }()
	time.Sleep(50 * time.Millisecond)
	s.Abort()
	select {
	case err := <-ended:
		assert.Error(t, err)
	case <-time.After(10 * time.Second):
		t.Fatal("Ping still waits")
	}
	assert.ErrorIs(t, s.Ping(context.Background()), net.ErrClosed)
	require.NoError(t, s.Close())
}

// A connection that is opened in the background, and does not open, delays neither ReadAhead nor Close.
func TestConnectAhead_SilentServer(t *testing.T) {
	s, err := Open(Config{URL: "postgres://u:p@" + silentServer(t) + "/x?connect_timeout=0&sslmode=disable", ConnectAhead: true})
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = s.ReadAhead(ctx, PassQuestions{})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	began := time.Now()
	require.NoError(t, s.Close())
	assert.Less(t, time.Since(began), maxConnect/2)
}

// Connections that database/sql opens in the background have no other bound.
func TestConnector_BoundsConnecting(t *testing.T) {
	for options, want := range map[string]time.Duration{"": 10 * time.Second, "&connect_timeout=0": maxConnect, "&connect_timeout=3": 3 * time.Second,
		"&connect_timeout=600": maxConnect} {
		c, _, err := newConnector(Config{URL: "postgres://u:p@h/x?sslmode=disable" + options})
		require.NoError(t, err)
		assert.Equal(t, want, c.conf.get().ConnectTimeout, options)
	}
}

func TestMessageReader_FindsFatalErrors(t *testing.T) {
	fatal := "SFATAL\x00VFATAL\x00C57P01\x00Mgone\x00\x00"
	stream := message('D', "E\x00\x00") + message('E', "SERROR\x00VERROR\x00C55P03\x00Mlock\x00\x00") + message('Z', "I") + message('E', fatal)
	for size := 1; size <= len(stream); size++ {
		var r messageReader
		var found error
		for rest := stream; rest != ""; {
			n := min(size, len(rest))
			if err := r.read([]byte(rest[:n])); err != nil {
				require.NoError(t, found)
				found = err
			}
			rest = rest[n:]
		}
		assert.EqualError(t, found, "the server ended the connection: gone (57P01)")
	}
	var r messageReader
	assert.NoError(t, r.read([]byte("Ecould not fork new process")), "not a message")
	assert.NoError(t, r.read([]byte(message('E', fatal))))
}

func message(kind byte, body string) string {
	return string(append(binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(body)+4)), body...))
}
