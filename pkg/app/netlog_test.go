package app

import (
	"bufio"
	"io"
	"log"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

type lines chan string

func (l lines) Write(p []byte) (int, error) {
	l <- string(p)
	return len(p), nil
}

// A server that sends more than the length of its response says: net/http logs the rest.
func TestWithoutContent_HidesWhatNetHTTPQuotes(t *testing.T) {
	logged := make(lines, 10)
	before := log.Writer()
	log.SetOutput(withoutContent{logged})
	t.Cleanup(func() { log.SetOutput(before) })
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}https://cdn.example/a.png?sig=secret")
			_, _ = io.Copy(io.Discard, conn)
		}
	}()
	t.Cleanup(func() { _ = listener.Close(); <-done })
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	response, err := (&http.Client{Transport: transport}).Get("http://" + listener.Addr().String())
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, response.Body)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	select {
	case line := <-logged:
		assert.Contains(t, line, "Unsolicited response received on idle HTTP channel\n")
		assert.NotContains(t, line, "secret")
	case <-time.After(10 * time.Second):
		t.Fatal("net/http logged nothing")
	}
}
