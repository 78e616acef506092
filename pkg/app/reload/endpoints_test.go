package reload

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/endpoint"
	"imagetasks/pkg/overview"
	"imagetasks/pkg/settings"
	"imagetasks/pkg/store"
)

// Keys and proxies of endpoints are taken over; everything else of them is named and stays as it is.
func TestApply_Endpoints(t *testing.T) {
	t.Parallel()
	const database = "postgres://localhost/x"
	on := true
	st, err := store.Open(store.Config{URL: database})
	require.NoError(t, err)
	defer st.Close()
	with := func(endpoints ...endpoint.Endpoint) settings.Settings {
		s := load(t, map[string]string{"DATABASE_URL": database, "OPENAI_PROXY": "http://127.0.0.1:1"})
		s.Endpoints = endpoints
		return s
	}
	a := endpoint.Endpoint{Name: "a", Key: "key-a", KeyEnv: "A", Rate: 30, Stream: &on}
	b := endpoint.Endpoint{Name: "b", Key: "key-b", KeyEnv: "B", Proxies: []string{"http://127.0.0.1:2"}}
	changed := func(e endpoint.Endpoint, change func(*endpoint.Endpoint)) endpoint.Endpoint { change(&e); return e }
	alsoOn := true
	for name, c := range map[string]struct {
		fresh         []endpoint.Endpoint
		inUse         []endpoint.Endpoint
		changed, wait []string
	}{
		"nothing":   {[]endpoint.Endpoint{changed(a, func(e *endpoint.Endpoint) { e.Stream = &alsoOn }), b}, nil, nil, nil},
		"a key":     {[]endpoint.Endpoint{a, changed(b, func(e *endpoint.Endpoint) { e.Key = "key-2" })}, []endpoint.Endpoint{a, changed(b, func(e *endpoint.Endpoint) { e.Key = "key-2" })}, []string{"endpoint b (its key)"}, nil},
		"a proxy":   {[]endpoint.Endpoint{changed(a, func(e *endpoint.Endpoint) { e.Proxies = []string{"direct"} }), b}, []endpoint.Endpoint{changed(a, func(e *endpoint.Endpoint) { e.Proxies = []string{"direct"} }), b}, []string{"endpoint a (its proxies)"}, nil},
		"a rate":    {[]endpoint.Endpoint{changed(a, func(e *endpoint.Endpoint) { e.Rate = 1 }), b}, nil, nil, []string{"endpoint a"}},
		"the order": {[]endpoint.Endpoint{b, a}, nil, nil, nil},
		"both":      {[]endpoint.Endpoint{changed(a, func(e *endpoint.Endpoint) { e.Rate, e.Key = 1, "key-2" }), b}, []endpoint.Endpoint{changed(a, func(e *endpoint.Endpoint) { e.Key = "key-2" }), b}, []string{"endpoint a (its key)"}, []string{"endpoint a"}},
		"one more":  {[]endpoint.Endpoint{a, b, {Name: "c"}}, nil, nil, []string{"endpoint c"}},
		"one less":  {[]endpoint.Endpoint{b}, nil, nil, []string{"endpoint a"}},
		"none":      {nil, nil, nil, []string{"endpoint a", "endpoint b"}},
	} {
		var used []settings.Settings
		targets := Targets{Store: st, Processor: true, CheckAPI: func(settings.Settings) error { return nil },
			SetAPI: func(s settings.Settings) error { used = append(used, s); return nil }}
		before := with(a, b)
		r := &Reloader{}
		r.settings.Store(&before)
		var result overview.Reload
		require.NoError(t, r.apply(targets, with(c.fresh...), &result), name)
		assert.Equal(t, c.changed, result.Changed, name)
		assert.Equal(t, c.wait, result.NeedsRestart, name)
		if c.inUse == nil {
			assert.Empty(t, used, name)
			c.inUse = []endpoint.Endpoint{a, b}
		} else if assert.Len(t, used, 1, name) {
			assert.Equal(t, c.inUse, used[0].Endpoints, name)
		}
		now := r.Settings()
		assert.Equal(t, c.inUse, now.Endpoints, name)
	}
}

// A file that can't be used changes nothing, and neither does one whose proxies are gone.
func TestApply_EndpointsRefused(t *testing.T) {
	t.Parallel()
	before := load(t, nil)
	before.Endpoints = []endpoint.Endpoint{{Name: "a", Key: "key-a", Proxies: []string{"http://127.0.0.1:1"}}}
	r := &Reloader{}
	r.settings.Store(&before)
	st, err := store.Open(store.Config{URL: "postgres://localhost/x"})
	require.NoError(t, err)
	defer st.Close()
	targets := Targets{Store: st, CheckAPI: func(settings.Settings) error { return nil }, SetAPI: func(settings.Settings) error { t.Error("nothing is set"); return nil }}
	fresh := load(t, nil)
	fresh.EndpointsError = &settings.Error{Name: "imagetasks.toml", Reason: "bad"}
	require.ErrorIs(t, r.apply(targets, fresh, &overview.Reload{}), fresh.EndpointsError)
	fresh = load(t, nil)
	fresh.Endpoints = []endpoint.Endpoint{{Name: "a", Key: "key-2"}}
	require.ErrorContains(t, r.apply(targets, fresh, &overview.Reload{}), `endpoint "a": proxies: no proxy is set any more`)
	now := r.Settings()
	assert.Equal(t, before.Endpoints, now.Endpoints)
}
