package proxy_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/simproxy"
	"imagetasks/pkg/proxy"
)

// hasty finds dead connections sooner than a test's patience ends; everything else has its defaults, minutes.
func hasty(p *simproxy.Proxy, a *simAPI) proxy.Config {
	return proxy.Config{Env: proxy.Env{OpenAI: []string{p.URL()}}, RootCAs: a.roots(),
		PingAfter: 50 * time.Millisecond, PingTimeout: 500 * time.Millisecond, IdleTimeout: time.Hour}
}

func startHTTP2(t *testing.T, handler http.HandlerFunc) *simAPI {
	t.Helper()
	s := httptest.NewUnstartedServer(handler)
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	return &simAPI{s}
}

// A request whose connection went half-open ends long before its own bound: the connection is pinged.
func TestPing_FindsHalfOpenConnection(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	a := startHTTP2(t, func(http.ResponseWriter, *http.Request) { arrived <- struct{}{}; <-release })
	defer close(release)
	p := startProxy(t, simproxy.Config{})
	tr := transport(t, hasty(p, a))
	failed := make(chan error)
	go func() {
		_, _, err := post(tr, a.URL)
		failed <- err
	}()
	<-arrived
	p.SilenceTunnels()
	err := <-failed
	require.Error(t, err)
	var fault *proxy.Error
	assert.False(t, errors.As(err, &fault), "it was sent: %v", err)
}

// One that nobody uses is found as well, so that the next request has another.
func TestIdleConnection_HalfOpenIsReplaced(t *testing.T) {
	a := startHTTP2(t, func(http.ResponseWriter, *http.Request) {})
	p := startProxy(t, simproxy.Config{})
	tr := transport(t, hasty(p, a))
	_, answer, err := post(tr, a.URL)
	require.NoError(t, err)
	require.Equal(t, 2, answer.ProtoMajor)
	_, _, err = post(tr, a.URL)
	require.NoError(t, err)
	require.Len(t, p.Targets(), 1, "kept and used again")

	p.SilenceTunnels()
	require.Eventually(t, func() bool { return p.Open() == 0 }, time.Minute, time.Millisecond, "nobody asked for anything")
	_, _, err = post(tr, a.URL)
	require.NoError(t, err)
	assert.Len(t, p.Targets(), 2)
}

// Each request has a connection of its own while it is under way, over HTTP/2 too; afterwards the connections are used
// again, but not one whose answer was not read to its end.
func TestConnPool_OneRequestPerConnection(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	a := startHTTP2(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hold" {
			arrived <- struct{}{}
			<-release
		}
		_, _ = w.Write(make([]byte, 100<<10))
	})
	p := startProxy(t, simproxy.Config{})
	tr := transport(t, hasty(p, a))
	var all sync.WaitGroup
	for range 5 {
		all.Go(func() {
			_, _, err := post(tr, a.URL+"/hold")
			assert.NoError(t, err)
		})
	}
	for range 5 {
		<-arrived
	}
	assert.Len(t, p.Targets(), 5)
	close(release)
	all.Wait()
	for range 10 {
		_, _, err := post(tr, a.URL)
		require.NoError(t, err)
	}
	assert.Len(t, p.Targets(), 5, "kept and used again")

	for range 6 {
		r, err := http.NewRequest(http.MethodGet, a.URL, nil)
		require.NoError(t, err)
		answer, err := tr.RoundTrip(r)
		require.NoError(t, err)
		require.NoError(t, answer.Body.Close())
	}
	assert.Len(t, p.Targets(), 6, "the last of them needed another")
}
