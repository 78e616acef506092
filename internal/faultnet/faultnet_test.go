package faultnet_test

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/faultnet"
)

// echo returns the address of a server that returns what it receives.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer conn.Close(); _, _ = io.Copy(conn, conn) }()
		}
	}()
	return l.Addr().String()
}

func start(t *testing.T, conf faultnet.Config) (*faultnet.Relay, net.Conn) {
	t.Helper()
	conf.Target = echo(t)
	r, err := faultnet.Start(conf)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, r.Close()) })
	conn, err := net.Dial("tcp", r.Addr())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return r, conn
}

func TestConn_SlicesAndDelays(t *testing.T) {
	r, conn := start(t, faultnet.Config{Slice: 100, Delay: time.Millisecond})
	sent := bytes.Repeat([]byte("lantern "), 1000)
	go func() { _, _ = conn.Write(sent); _ = conn.(*net.TCPConn).CloseWrite() }()
	got, err := io.ReadAll(conn)
	require.NoError(t, err)
	assert.Equal(t, sent, got)
	assert.Equal(t, map[faultnet.Fault]int{faultnet.Slice: 1}, r.Faults())
}

func TestConn_ResetsWithinBytes(t *testing.T) {
	r, conn := start(t, faultnet.Config{Reset: 100, Within: 1000})
	go func() { _, _ = conn.Write(make([]byte, 5000)) }()
	got, err := io.ReadAll(conn)
	assert.ErrorContains(t, err, "reset")
	assert.LessOrEqual(t, len(got), 1000)
	assert.Equal(t, 1, r.Faults()[faultnet.Reset])
}

func TestConn_SilentStaysOpen(t *testing.T) {
	r, conn := start(t, faultnet.Config{Drop: 100, Within: 1})
	_, err := conn.Write([]byte("hello"))
	require.NoError(t, err)
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(200*time.Millisecond)))
	n, err := conn.Read(make([]byte, 10))
	assert.Zero(t, n)
	var timeout net.Error
	require.ErrorAs(t, err, &timeout)
	assert.True(t, timeout.Timeout())
	assert.Equal(t, 1, r.Faults()[faultnet.Drop])
}
