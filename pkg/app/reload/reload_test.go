package reload

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/overview"
	"imagetasks/pkg/settings"
	"imagetasks/pkg/status"
	"imagetasks/pkg/store"
)

func load(t *testing.T, values map[string]string) settings.Settings {
	t.Helper()
	s, err := settings.Load(func(s settings.Setting) (string, bool) {
		v, ok := values[s.Env]
		return v, ok
	})
	require.NoError(t, err)
	return s
}

// An env file that was read while it was being written may lack the proxy: connections to the API don't become direct by that.
func TestApply_ProxyIsGone(t *testing.T) {
	const database = "postgres://localhost/x"
	before := load(t, map[string]string{"DATABASE_URL": database, "OPENAI_API_KEY": "key-1", "OPENAI_PROXY": "http://127.0.0.1:1"})
	st, err := store.Open(store.Config{URL: database})
	require.NoError(t, err)
	defer st.Close()
	var used []settings.Settings
	targets := Targets{Store: st, Processor: true,
		CheckAPI: func(settings.Settings) error { return nil },
		SetAPI:   func(s settings.Settings) error { used = append(used, s); return nil }}
	r := &Reloader{}
	r.settings.Store(&before)
	err = r.apply(targets, load(t, map[string]string{"DATABASE_URL": database, "OPENAI_API_KEY": "key-2"}), &overview.Reload{})
	require.ErrorContains(t, err, "no proxy is set any more")
	assert.Empty(t, used)
	now := r.Settings()
	assert.Equal(t, "key-1", now.APIKey)

	require.NoError(t, r.apply(targets, load(t, map[string]string{"DATABASE_URL": database, "OPENAI_API_KEY": "key-2", "HTTPS_PROXY": "http://127.0.0.1:2"}),
		&overview.Reload{}))
	require.Len(t, used, 1)
	assert.Equal(t, "key-2", used[0].APIKey)
}

// A new token of the status page is taken over, and ends the sessions of the old one; one that is removed needs a restart.
func TestApply_StatusToken(t *testing.T) {
	const database, first, second = "postgres://localhost/x", "the-first-token-1", "the-second-token-2"
	before := load(t, map[string]string{"DATABASE_URL": database, "STATUS_TOKEN": first})
	st, err := store.Open(store.Config{URL: database})
	require.NoError(t, err)
	defer st.Close()
	access, err := status.NewAccess(status.AccessConfig{Addr: "127.0.0.1:0", Token: first})
	require.NoError(t, err)
	server, err := status.Serve(http.NotFoundHandler(), access)
	require.NoError(t, err)
	defer func() { assert.NoError(t, server.Close()) }()
	accepts := func(token string) bool {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+server.Addr()+"/api/operations", nil)
		require.NoError(t, err)
		r.Header.Set("Authorization", "Bearer "+token)
		answer, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		require.NoError(t, answer.Body.Close())
		return answer.StatusCode == http.StatusNotFound // it was passed on
	}
	require.True(t, accepts(first))
	r := &Reloader{}
	r.settings.Store(&before)
	targets := Targets{Store: st, Access: access}
	var done overview.Reload
	require.NoError(t, r.apply(targets, load(t, map[string]string{"DATABASE_URL": database, "STATUS_TOKEN": second}), &done))
	assert.Equal(t, []string{"STATUS_TOKEN"}, done.Changed)
	assert.True(t, accepts(second))
	assert.False(t, accepts(first))

	done = overview.Reload{}
	require.NoError(t, r.apply(targets, load(t, map[string]string{"DATABASE_URL": database}), &done))
	assert.Equal(t, []string{"STATUS_TOKEN"}, done.NeedsRestart)
	assert.True(t, accepts(second))
	done = overview.Reload{}
	require.NoError(t, r.apply(Targets{Store: st}, load(t, map[string]string{"DATABASE_URL": database}), &done))
	assert.Empty(t, done.NeedsRestart, "a program without a page")
}
