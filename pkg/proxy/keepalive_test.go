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

// hasty detects dead connections within seconds; all other timeouts keep their defaults of minutes.
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

// A request on a half-open connection ends long before its timeout, because the connection is pinged.
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

// An idle half-open connection is detected too, so that the next request uses another.
func TestIdleConnection_HalfOpenIsReplaced(t *testing.T) {
	a := startHTTP2(t, func(http.ResponseWriter, *http.Request) {})
	p := startProxy(t, simproxy.Config{})
	tr := transport(t, hasty(p, a))
	_, answer, err := post(tr, a.URL)
	require.NoError(t, err)
	require.Equal(t, 2, answer.ProtoMajor)
	_, _, err = post(tr, a.URL)
	require.NoError(t, err)
	require.Len(t, p.Targets(), 1, "reused")

	p.SilenceTunnels()
	require.Eventually(t, func() bool { return p.Open() == 0 }, time.Minute, time.Millisecond, "without a request")
	_, _, err = post(tr, a.URL)
	require.NoError(t, err)
	assert.Len(t, p.Targets(), 2)
}

// Each request has its own connection until its end, over HTTP/2 too. Then the connection is reused, unless the response was
// not read to its end.
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
	assert.Len(t, p.Targets(), 5, "reused")

	for range 6 {
		r, err := http.NewRequest(http.MethodGet, a.URL, nil)
		require.NoError(t, err)
		answer, err := tr.RoundTrip(r)
		require.NoError(t, err)
		require.NoError(t, answer.Body.Close())
	}
	assert.Len(t, p.Targets(), 6, "the last request needed a new connection")
}
