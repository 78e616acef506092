package proxy_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/simproxy"
	"imagetasks/pkg/proxy"
	"imagetasks/pkg/task"
)

// pair is two proxies in order of preference; the first can be stopped and restarted.
type pair struct {
	first, second *simproxy.Proxy
	env           proxy.Env
}

func startPair(t *testing.T) *pair {
	conf := simproxy.Config{User: user, Password: password}
	p := &pair{first: startProxy(t, conf), second: startProxy(t, conf)}
	p.env.OpenAI = []string{p.first.URL(), p.second.URL()}
	return p
}

func (p *pair) back(t *testing.T) {
	t.Helper()
	again, err := simproxy.StartAt(simproxy.Config{User: user, Password: password}, p.first.Addr())
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, again.Close()) })
	p.first = again
}

func states(t *testing.T, tr *proxy.Transport) []proxy.UpstreamState {
	u, err := url.Parse("https://api.example/v1")
	require.NoError(t, err)
	return tr.States(u)
}

func get(tr *proxy.Transport, url string) error {
	r, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	answer, err := tr.RoundTrip(r)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, answer.Body)
	return errors.Join(err, answer.Body.Close())
}

func TestUpstreams_FirstWorkingServes(t *testing.T) {
	a, p := startAPI(t), startPair(t)
	tr := transport(t, proxy.Config{Env: p.env, RootCAs: a.roots()})
	var mu sync.Mutex
	var told []proxy.UpstreamState
	tr.OnChange(func(s proxy.UpstreamState) { mu.Lock(); defer mu.Unlock(); told = append(told, s) })
	for _, target := range []string{a.plain.URL, a.secure.URL} {
		_, _, err := post(tr, target)
		require.NoError(t, err)
	}
	assert.Empty(t, p.second.Targets(), "the second waits while the first works")

	require.NoError(t, p.first.Close())
	for _, target := range []string{a.plain.URL, a.secure.URL, a.secure.URL} {
		var body string
		require.Eventually(t, func() (ok bool) { // the first one may break on a connection that was kept
			got, _, err := post(tr, target)
			body = got
			return err == nil
		}, time.Minute, time.Millisecond)
		assert.Equal(t, "POST / 1000", body, "the second gets the whole request")
	}
	s := states(t, tr)
	require.Len(t, s, 2)
	assert.True(t, s[0].Ejected)
	assert.Equal(t, task.CodeProxyRefused, s[0].Code)
	assert.Equal(t, "http://"+p.first.Addr(), s[0].Proxy, "without its login")
	assert.WithinRange(t, s[0].RetryAt, s[0].Since, s[0].Since.Add(5*time.Minute))
	assert.False(t, s[1].Ejected)
	assert.GreaterOrEqual(t, s[1].Served, 3)

	p.back(t)
	require.Eventually(t, func() bool { return len(tr.RetryableUpstreams()) == 1 }, time.Minute, time.Millisecond)
	_, _, err := post(tr, a.secure.URL)
	require.NoError(t, err)
	assert.Empty(t, p.first.Targets(), "a request that may be billed tries no ejected proxy")
	require.NoError(t, get(tr.RetryableUpstreams()[0], a.secure.URL))
	assert.False(t, states(t, tr)[0].Ejected)
	assert.Empty(t, tr.RetryableUpstreams())
	_, _, err = post(tr, a.secure.URL)
	require.NoError(t, err)
	assert.NotEmpty(t, p.first.Targets(), "the first serves again")
	mu.Lock()
	defer mu.Unlock()
	require.Len(t, told, 2)
	assert.True(t, told[0].Ejected)
	assert.False(t, told[1].Ejected)
	assert.Equal(t, "http://"+p.first.Addr(), told[1].Proxy)
	for _, s := range told {
		assert.NotContains(t, fmt.Sprintf("%+v", s), "hunter2")
	}
}

func TestUpstreams_AllFailing(t *testing.T) {
	a, p := startAPI(t), startPair(t)
	tr := transport(t, proxy.Config{Env: p.env, RootCAs: a.roots()})
	p.second.SetMode(simproxy.Refuse)
	require.NoError(t, p.first.Close())
	for range 2 {
		_, _, err := post(tr, a.secure.URL)
		var fault *proxy.Error
		require.ErrorAs(t, err, &fault)
		assert.Equal(t, task.CodeProxyForbids, fault.Code())
	}
	for _, s := range states(t, tr) {
		assert.True(t, s.Ejected)
	}
	p.back(t)
	_, _, err := post(tr, a.secure.URL)
	require.NoError(t, err, "with nothing else left, the time to wait is not waited for")
	assert.False(t, states(t, tr)[0].Ejected)
}

// A request that may have reached the API may have been billed.
func TestUpstreams_SentRequestIsNotRepeated(t *testing.T) {
	var seen atomic.Int64
	breaks := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		seen.Add(1)
		panic(http.ErrAbortHandler)
	})
	for name, start := range map[string]func(http.Handler) *httptest.Server{"http": httptest.NewServer, "https": httptest.NewTLSServer} {
		t.Run(name, func(t *testing.T) {
			seen.Store(0)
			api, p := start(breaks), startPair(t)
			defer api.Close()
			conf := proxy.Config{Env: p.env}
			if name == "https" {
				conf.RootCAs = (&simAPI{api}).roots()
			}
			tr := transport(t, conf)
			for range 3 {
				_, _, err := post(tr, api.URL)
				require.Error(t, err)
				var fault *proxy.Error
				assert.False(t, errors.As(err, &fault), "an *Error means that nothing was sent")
			}
			assert.EqualValues(t, 3, seen.Load())
			assert.Empty(t, p.second.Targets())
			assert.True(t, states(t, tr)[0].Ejected, "three broken requests in a row eject a proxy")
			_, _, err := post(tr, api.URL)
			require.Error(t, err)
			assert.EqualValues(t, 4, seen.Load())
			assert.Len(t, p.second.Targets(), 1)
		})
	}
}

func TestUpstreams_BodyWithoutGetBody(t *testing.T) {
	a, p := startAPI(t), startPair(t)
	require.NoError(t, p.first.Close())
	tr := transport(t, proxy.Config{Env: p.env, RootCAs: a.roots()})
	r, err := http.NewRequest(http.MethodPost, a.secure.URL, io.NopCloser(bytes.NewReader(make([]byte, 10))))
	require.NoError(t, err)
	_, err = tr.RoundTrip(r)
	var fault *proxy.Error
	require.ErrorAs(t, err, &fault)
	assert.Equal(t, task.CodeProxyRefused, fault.Code())
	assert.Empty(t, p.second.Targets())
}

func TestUpstreams_CanceledRequestHasNoOutcome(t *testing.T) {
	a, p := startAPI(t), startPair(t)
	p.first.SetMode(simproxy.Hang)
	tr := transport(t, proxy.Config{Env: p.env, RootCAs: a.roots()})
	ctx, cancel := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, a.secure.URL, nil)
	require.NoError(t, err)
	go func() {
		for len(p.first.Targets()) == 0 {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	_, err = tr.RoundTrip(r)
	require.Error(t, err)
	assert.False(t, states(t, tr)[0].Ejected)
	assert.Empty(t, p.second.Targets(), "no other proxy is tried")
}

// A host that is not the API may be down without any fault of the proxies.
func TestUpstreams_OtherTarget(t *testing.T) {
	a, p := startAPI(t), startPair(t)
	tr := transport(t, proxy.Config{Env: p.env, RootCAs: a.roots()})
	getOther := func(target string) error {
		r, err := http.NewRequestWithContext(proxy.WithOtherTarget(t.Context()), http.MethodGet, target, nil)
		require.NoError(t, err)
		answer, err := tr.RoundTrip(r)
		if err == nil {
			err = answer.Body.Close()
		}
		return err
	}
	for range 4 {
		var failed *proxy.Error
		require.ErrorAs(t, getOther("https://127.0.0.1:1/"), &failed)
		assert.False(t, failed.IsProxy(), "%v", failed)
	}
	for _, s := range states(t, tr) {
		assert.False(t, s.Ejected)
	}
	assert.Len(t, p.second.Targets(), 4, "another proxy may reach it")

	require.NoError(t, p.first.Close())
	require.NoError(t, getOther(a.secure.URL))
	s := states(t, tr)
	assert.True(t, s[0].Ejected, "the proxy itself is down")
	assert.Equal(t, task.CodeProxyRefused, s[0].Code)
	require.NoError(t, p.second.Close())
	var failed *proxy.Error
	require.ErrorAs(t, getOther(a.secure.URL), &failed)
	assert.True(t, failed.IsProxy())
}

// A request to another host may not try an ejected proxy, because its success says nothing about the API.
func TestUpstreams_OtherTargetIsNoTrial(t *testing.T) {
	a, p := startAPI(t), startPair(t)
	tr := transport(t, proxy.Config{Env: p.env, RootCAs: a.roots()})
	_, answer, err := post(tr, a.secure.URL)
	require.NoError(t, err)
	require.True(t, proxy.EjectUpstream(answer, task.CodeWrongCountry, "the API doesn't serve that country"))
	require.Eventually(t, func() bool { return len(tr.RetryableUpstreams()) == 1 }, 10*time.Second, 10*time.Millisecond)
	r, err := http.NewRequestWithContext(proxy.WithOtherTarget(t.Context()), http.MethodGet, a.secure.URL, nil)
	require.NoError(t, err)
	other, err := tr.RoundTrip(r)
	require.NoError(t, err)
	require.NoError(t, other.Body.Close())
	assert.True(t, states(t, tr)[0].Ejected)
	assert.Len(t, p.second.Targets(), 1)
}

func TestEjectUpstream(t *testing.T) {
	p := startPair(t)
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p.first.Carried(r.RemoteAddr) {
			w.WriteHeader(http.StatusForbidden)
		}
	}))
	defer api.Close()
	tr := transport(t, proxy.Config{Env: p.env})
	_, answer, err := post(tr, api.URL)
	require.NoError(t, err)
	require.Equal(t, http.StatusForbidden, answer.StatusCode)
	assert.False(t, states(t, tr)[0].Ejected)
	assert.True(t, proxy.EjectUpstream(answer, task.CodeWrongCountry, "the API doesn't serve that country"), "there is another")
	s := states(t, tr)[0]
	assert.True(t, s.Ejected)
	assert.Equal(t, task.CodeWrongCountry, s.Code)
	_, answer, err = post(tr, api.URL)
	require.NoError(t, err)
	assert.Equal(t, http.StatusOK, answer.StatusCode)
	assert.False(t, proxy.EjectUpstream(answer, task.CodeWrongCountry, "nor that one"), "there is none left")
	assert.False(t, proxy.EjectUpstream(&http.Response{}, "", ""), "a response of another transport")
}

// A proxy that rejects the login of a plain request has forwarded nothing: the next proxy is tried.
func TestUpstreams_LoginRefusedForPlainHTTP(t *testing.T) {
	a, p := startAPI(t), startPair(t)
	p.env.OpenAI[0] = "http://u:wrong-password@" + p.first.Addr()
	tr := transport(t, proxy.Config{Env: p.env})
	body, _, err := post(tr, a.plain.URL)
	require.NoError(t, err)
	assert.Equal(t, "POST / 1000", body)
	assert.Equal(t, task.CodeProxyLoginRefused, states(t, tr)[0].Code)
	alone := transport(t, proxy.Config{Env: proxy.Env{OpenAI: []string{"http://" + p.first.Addr()}}})
	_, _, err = post(alone, a.plain.URL)
	var fault *proxy.Error
	require.ErrorAs(t, err, &fault)
	assert.Equal(t, task.CodeProxyLoginMissing, fault.Code())
}

// Under load, while the first proxy is killed and restarted repeatedly, no request arrives twice.
func TestUpstreams_NoRequestTwiceWhileProxyRestarts(t *testing.T) {
	var mu sync.Mutex
	seen := map[string]int{}
	api := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		mu.Lock()
		defer mu.Unlock()
		seen[r.URL.Path]++
		fmt.Fprint(w, "ok")
	}))
	api.EnableHTTP2 = true
	api.StartTLS()
	defer api.Close()
	p := startPair(t)
	tr := transport(t, proxy.Config{Env: p.env, RootCAs: (&simAPI{api}).roots()})
	done := make(chan struct{})
	var load sync.WaitGroup
	answered := 0
	for worker := range 20 {
		load.Go(func() {
			for i := range 100 {
				body, _, err := post(tr, fmt.Sprintf("%s/%d/%d", api.URL, worker, i))
				if err == nil {
					assert.Equal(t, "ok", body)
					mu.Lock()
					answered++
					mu.Unlock()
				}
			}
		})
	}
	go func() { defer close(done); load.Wait() }()
	for running := true; running; {
		require.NoError(t, p.first.Close())
		p.back(t)
		select {
		case <-done:
			running = false
		default:
		}
	}
	for path, n := range seen {
		assert.Equal(t, 1, n, path)
	}
	assert.Positive(t, answered)
	assert.LessOrEqual(t, answered, len(seen))
}

// simAPI is a test server whose certificate is to be trusted.
type simAPI struct{ *httptest.Server }

func (s *simAPI) roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	return pool
}
