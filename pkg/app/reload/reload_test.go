package reload

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/overview"
	"imagetasks/pkg/settings"
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
