package status

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/finding"
	"imagetasks/pkg/overview"
	"imagetasks/pkg/store"
)

// A request that never arrives whole does not hold a connection for ever, whoever sends it and wherever it is refused.
func TestServer_BodyThatNeverArrives(t *testing.T) {
	t.Parallel()
	access, err := NewAccess(AccessConfig{Addr: "127.0.0.1:0", Token: testToken})
	require.NoError(t, err)
	server, err := serve(http.NotFoundHandler(), access, time.Second)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, server.Close()) })
	for _, request := range []string{
		"POST /api/session HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 9000\r\n", // read in part
		"POST /api/actions/cancel HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 9000\r\n",
		"GET /healthz HTTP/1.1\r\nContent-Length: 9000\r\n",
	} {
		t.Run(request[:strings.Index(request, " HTTP")], func(t *testing.T) {
			t.Parallel()
			c, err := net.Dial("tcp", server.Addr())
			require.NoError(t, err)
			defer c.Close()
			_, err = fmt.Fprintf(c, "%sHost: localhost\r\nX-Forwarded-For: 203.0.113.7\r\n\r\n%s", request, strings.Repeat("x", 8000))
			require.NoError(t, err)
			require.NoError(t, c.SetReadDeadline(time.Now().Add(bodyTimeout+5*time.Second)))
			_, err = io.Copy(io.Discard, c)
			assert.NoError(t, err, "the server closes the connection")
		})
	}
}

// There is a bound on the connections, whatever they send.
func TestServer_BoundOfConnections(t *testing.T) {
	access, err := NewAccess(AccessConfig{Addr: "127.0.0.1:0"})
	require.NoError(t, err)
	server, err := Serve(http.HandlerFunc(healthz), access)
	require.NoError(t, err)
	defer server.Close()
	var open []net.Conn
	for range maxConnections {
		c, err := net.Dial("tcp", server.Addr())
		require.NoError(t, err)
		defer c.Close()
		open = append(open, c)
	}
	one, err := net.Dial("tcp", server.Addr())
	require.NoError(t, err)
	defer one.Close()
	_, err = fmt.Fprint(one, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
	require.NoError(t, err)
	require.NoError(t, one.SetReadDeadline(time.Now().Add(200*time.Millisecond)))
	_, err = one.Read(make([]byte, 1))
	require.ErrorContains(t, err, "timeout")
	require.NoError(t, open[0].Close())
	require.NoError(t, one.SetReadDeadline(time.Now().Add(10*time.Second)))
	_, err = one.Read(make([]byte, 1))
	assert.NoError(t, err)
}

// A session that begins while the token is being replaced was begun with the old one, and is none.
func TestAccess_SessionOfTheOldToken(t *testing.T) {
	s := newSite(t, AccessConfig{Token: testToken})
	asked := 0
	s.now = func() time.Time {
		if asked++; asked == 2 { // the old token has just been compared
			s.SetToken("another-token-of-the-tests")
		}
		return time.Now()
	}
	answer := s.ask(t, "POST", "/api/session", `{"token":"`+testToken+`"}`, "Content-Type: application/json")
	require.GreaterOrEqual(t, asked, 2)
	for _, c := range answer.Cookies() {
		assert.Equal(t, 401, s.code(t, "GET", "/api/operations", "Cookie: "+c.Name+"="+c.Value))
	}
	assert.Equal(t, 401, s.code(t, "GET", "/api/operations", "Authorization: Bearer "+testToken))
}

// The page of somebody who may not read any more gets nothing more.
func TestEvents_EndWithTheRightToRead(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		bearer bool
		end    func(s *Server, session string)
		ends   bool
	}{
		"token replaced, bearer":  {bearer: true, end: func(s *Server, _ string) { s.access.SetToken("another-token-of-the-tests") }, ends: true},
		"token replaced, session": {end: func(s *Server, _ string) { s.access.SetToken("another-token-of-the-tests") }, ends: true},
		"signed out":              {end: func(s *Server, session string) { s.access.sessions.end(session) }, ends: true},
		"same token":              {end: func(s *Server, _ string) { s.access.SetToken(testToken) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, server := pageServer(t, nil)
			server.access.SetToken(testToken)
			id, _ := server.access.sessions.begin(server.access.digest(testToken), time.Now())
			r, err := http.NewRequest("GET", "http://"+server.Addr()+"/api/events", nil)
			require.NoError(t, err)
			r.Header.Set("X-Forwarded-For", "203.0.113.7")
			if c.bearer {
				r.Header.Set("Authorization", "Bearer "+testToken)
			} else {
				r.AddCookie(&http.Cookie{Name: server.access.cookie, Value: id})
			}
			answer, err := http.DefaultClient.Do(r)
			require.NoError(t, err)
			defer answer.Body.Close()
			require.Equal(t, 200, answer.StatusCode)
			_, err = answer.Body.Read(make([]byte, 10))
			require.NoError(t, err)
			c.end(server, id)
			ended := make(chan struct{})
			go func() { defer close(ended); _, _ = io.Copy(io.Discard, answer.Body) }()
			select {
			case <-ended:
				assert.True(t, c.ends)
			case <-time.After(3 * streamInterval):
				assert.False(t, c.ends, "it goes on")
			}
		})
	}
}

// Strangers may ask whether the program is ready as often as they like: the database is asked once for all.
func TestReadyz_StrangersDoNotLoadTheDatabase(t *testing.T) {
	t.Parallel()
	var queries atomic.Int32
	access, err := NewAccess(AccessConfig{Addr: "127.0.0.1:0", Token: testToken})
	require.NoError(t, err)
	server, err := Start(Source{Redact: func(s string) string { return s }, CommandLine: func(finding.Command) string { return "" },
		Processor: func() overview.ProcessorReport { return overview.ProcessorReport{} },
		Queue: func(context.Context) (store.QueueStats, error) {
			queries.Add(1)
			time.Sleep(100 * time.Millisecond)
			return store.QueueStats{}, nil
		}}, access)
	require.NoError(t, err)
	defer server.Close()
	var asking sync.WaitGroup
	for range 50 {
		asking.Go(func() {
			r, _ := http.NewRequest("GET", "http://"+server.Addr()+"/readyz", nil)
			r.Header.Set("X-Forwarded-For", "203.0.113.7")
			answer, err := http.DefaultClient.Do(r)
			if assert.NoError(t, err) {
				assert.Equal(t, 200, answer.StatusCode)
				assert.NoError(t, answer.Body.Close())
			}
		})
	}
	asking.Wait()
	assert.LessOrEqual(t, queries.Load(), int32(2))
}
