package store

import (
	"context"
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
