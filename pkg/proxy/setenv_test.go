package proxy_test

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/simproxy"
	"imagetasks/pkg/proxy"
	"imagetasks/pkg/settings"
)

func TestSetEnv_ReplacesProxiesWhileRequestsRun(t *testing.T) {
	a, p := startAPI(t), startPair(t)
	third := startProxy(t, simproxy.Config{User: user, Password: password})
	tr := transport(t, proxy.Config{Env: p.env, RootCAs: a.roots()})
	var mu sync.Mutex
	var changes []proxy.UpstreamState
	tr.OnChange(func(s proxy.UpstreamState) {
		mu.Lock()
		defer mu.Unlock()
		changes = append(changes, s)
	})
	lists := [][]string{p.env.OpenAI, {third.URL()}, {third.URL(), p.second.URL()}}
	var running sync.WaitGroup
	for range 4 {
		running.Go(func() {
			for range 30 {
				assert.NoError(t, get(tr, a.secure.URL))
			}
		})
	}
	running.Go(func() {
		for n := range 30 {
			assert.NoError(t, tr.SetEnv(proxy.Env{OpenAI: lists[n%len(lists)]}))
		}
	})
	running.Wait()
	require.NoError(t, tr.SetEnv(proxy.Env{OpenAI: lists[2]}))
	require.NoError(t, get(tr, a.secure.URL))
	assert.Len(t, states(t, tr), 2)

	// A proxy that stays keeps its state, and its changes are reported.
	tr.CloseIdleConnections()
	require.NoError(t, third.Close())
	require.NoError(t, get(tr, a.secure.URL))
	assert.True(t, states(t, tr)[0].Ejected)
	require.NoError(t, tr.SetEnv(proxy.Env{OpenAI: []string{third.URL(), p.first.URL()}}))
	assert.True(t, states(t, tr)[0].Ejected)
	mu.Lock()
	defer mu.Unlock()
	require.NotEmpty(t, changes)
	assert.True(t, changes[len(changes)-1].Ejected)
}

func TestSetEnv_InvalidChangesNothing(t *testing.T) {
	a, p := startAPI(t), startPair(t)
	tr := transport(t, proxy.Config{Env: p.env, RootCAs: a.roots()})
	err := tr.SetEnv(proxy.Env{OpenAI: []string{"ftp://user:hunter2@nowhere"}})
	assert.ErrorAs(t, err, new(*settings.Error))
	assert.NotContains(t, err.Error(), "hunter2")
	assert.ErrorAs(t, proxy.CheckEnv(proxy.Env{HTTPS: "ftp://nowhere"}), new(*settings.Error))
	assert.Len(t, states(t, tr), 2)
	require.NoError(t, get(tr, a.secure.URL))
}
