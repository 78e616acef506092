package proxy_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"imagetasks/pkg/proxy"
)

// HTTP/1.1 has no ping: the kernel must notice a peer that is gone.
func TestDial_SocketOptions(t *testing.T) {
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	tr := transport(t, proxy.Config{})
	seen := 0
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		raw, err := info.Conn.(*net.TCPConn).SyscallConn()
		require.NoError(t, err)
		require.NoError(t, raw.Control(func(fd uintptr) {
			for option, want := range map[int]int{unix.TCP_USER_TIMEOUT: 30_000, unix.TCP_KEEPIDLE: 15, unix.TCP_KEEPINTVL: 5, unix.TCP_KEEPCNT: 3} {
				got, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, option)
				assert.NoError(t, err)
				assert.Equal(t, want, got)
				seen++
			}
		}))
	}})
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, plain.URL, nil)
	require.NoError(t, err)
	response, err := tr.RoundTrip(r)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	assert.Equal(t, 4, seen)
}
