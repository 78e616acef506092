package status

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func statusOf(t *testing.T, addr, request string) int {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer c.Close()
	_, err = io.WriteString(c, request)
	require.NoError(t, err)
	response, err := http.ReadResponse(bufio.NewReader(c), nil)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	if response.StatusCode == http.StatusForbidden {
		assert.Contains(t, string(body), "STATUS_HOSTS")
		assert.Contains(t, response.Header.Get("Content-Type"), "text/plain")
	}
	return response.StatusCode
}

func TestServe_HostHeader(t *testing.T) {
	access, err := NewAccess(AccessConfig{Addr: "127.0.0.1:0", Hosts: []string{"Status.Example", "with-port.example:8443", "192.0.2.9", "2001:db8::1"}})
	require.NoError(t, err)
	s, err := Serve(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), access)
	require.NoError(t, err)
	defer func() { assert.NoError(t, s.Close()) }()
	for host, want := range map[string]int{
		s.Addr(): 200, "127.0.0.1": 200, "localhost": 200, "localhost:9": 200, "LOCALHOST.:9": 200, "127.8.7.6:80": 200, "[::1]": 200, "[::1]:9464": 200,
		"status.example": 200, "STATUS.example.:443": 200, "with-port.example:8443": 200, "192.0.2.9:1": 200, "[2001:db8::1]:1": 200,
		"attacker.example": 403, "attacker.example:9464": 403, "localhost.attacker.example": 403, "127.0.0.1.attacker.example": 403,
		"with-port.example": 403, "with-port.example:1": 403, "x.status.example": 403, "192.0.2.1": 403, "0.0.0.0": 403, "": 403, ":9464": 403,
	} {
		assert.Equal(t, want, statusOf(t, s.Addr(), fmt.Sprintf("GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", host)), "%q", host)
	}
	assert.Equal(t, 403, statusOf(t, s.Addr(), "GET / HTTP/1.0\r\n\r\n"), "a request without a Host header")
	assert.Equal(t, 403, statusOf(t, s.Addr(), "GET http://attacker.example/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
}

func TestServe_HostHeaderOfAnAddressThatIsNotLoopback(t *testing.T) {
	access, err := NewAccess(AccessConfig{Addr: "0.0.0.0:0", Token: "0123456789abcdef"})
	require.NoError(t, err)
	s, err := Serve(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), access)
	require.NoError(t, err)
	defer func() { assert.NoError(t, s.Close()) }()
	_, port, err := net.SplitHostPort(s.Addr())
	require.NoError(t, err)
	addresses, err := net.InterfaceAddrs()
	require.NoError(t, err)
	for _, a := range addresses {
		ip, _, err := net.ParseCIDR(a.String())
		if err != nil || ip.To4() == nil {
			continue
		}
		at := net.JoinHostPort(ip.String(), port)
		assert.Equal(t, 200, statusOf(t, at, "GET / HTTP/1.1\r\nHost: "+at+"\r\nConnection: close\r\n\r\n"), at)
		assert.Equal(t, 403, statusOf(t, at, "GET / HTTP/1.1\r\nHost: attacker.example\r\nConnection: close\r\n\r\n"), at)
	}
	at := net.JoinHostPort("127.0.0.1", port)
	assert.Equal(t, 200, statusOf(t, at, "GET / HTTP/1.1\r\nHost: 0.0.0.0:"+port+"\r\nConnection: close\r\n\r\n"), "as STATUS_ADDR has it")
}
