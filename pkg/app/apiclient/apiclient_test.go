package apiclient

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/endpoint"
	"imagetasks/pkg/settings"
)

func load(t *testing.T, values map[string]string, endpoints ...endpoint.Endpoint) settings.Settings {
	t.Helper()
	s, err := settings.Load(func(s settings.Setting) (string, bool) { v, ok := values[s.Env]; return v, ok })
	require.NoError(t, err)
	s.Endpoints = endpoints
	return s
}

// Each endpoint has proxies of its own, or those of the environment.
func TestNew_Proxies(t *testing.T) {
	t.Parallel()
	env := map[string]string{"OPENAI_PROXY": "http://u:hunter2@127.0.0.1:1"}
	base := endpoint.Endpoint{BaseURL: "https://a.example/v1", Key: "sk-a"}
	own, direct, shared := base, base, base
	own.Name, own.Proxies = "own", []string{"socks5h://127.0.0.1:2", "http://127.0.0.1:3"}
	direct.Name, direct.Proxies = "direct", []string{endpoint.Direct}
	shared.Name = "shared"
	set, err := New(load(t, env, own, direct, shared))
	require.NoError(t, err)
	defer set.CloseIdleConnections()
	assert.Equal(t, []string{"socks5h://127.0.0.1:2", "http://127.0.0.1:3"}, set[0].Via())
	assert.Empty(t, set[1].Via())
	assert.Equal(t, []string{"http://127.0.0.1:1"}, set[2].Via())

	own.Proxies, shared.Key = []string{"http://127.0.0.1:4"}, "sk-b"
	require.NoError(t, set.Update(load(t, env, shared, own)))
	assert.Equal(t, []string{"http://127.0.0.1:4"}, set[0].Via())
	assert.Empty(t, set[1].Via(), "it is not among the settings any more, and stays until a restart")

	own.Proxies = []string{"gopher://hunter2"}
	for _, err := range []error{set.Update(load(t, env, shared, own)), Check(load(t, env, own)), func() error { _, err := New(load(t, env, own)); return err }()} {
		fault := &settings.Error{}
		require.ErrorAs(t, err, &fault)
		assert.Equal(t, `imagetasks.toml: endpoint "own": proxies`, fault.Name)
		assert.NotContains(t, err.Error(), "hunter2")
	}
	assert.Equal(t, []string{"http://127.0.0.1:4"}, set[0].Via(), "nothing was changed")
}

func TestNew_OfTheEnvironment(t *testing.T) {
	t.Parallel()
	_, err := New(load(t, nil))
	assert.ErrorContains(t, err, "OPENAI_API_KEY: no API key is set")
	set, err := New(load(t, map[string]string{"OPENAI_API_KEY": "sk-a", "OPENAI_BASE_URL": "https://a.example/v1/?x=y"}))
	require.NoError(t, err)
	assert.Equal(t, []string{"https://a.example/v1"}, set.Names())
	assert.Equal(t, set[0].Client.Endpoint(), set[0].Name, "what was recorded before there were several endpoints has this name")
	e, ok := set.Named("")
	require.True(t, ok)
	assert.Equal(t, set[0], e)
	_, ok = set.Named("other")
	assert.False(t, ok)

	s := load(t, nil)
	s.EndpointsError = &settings.Error{Name: "imagetasks.toml", Reason: "bad"}
	_, err = New(s)
	assert.ErrorIs(t, err, s.EndpointsError)
}

func TestDefaultModel(t *testing.T) {
	t.Parallel()
	s := load(t, map[string]string{"OPENAI_MODEL": "m"})
	assert.Equal(t, "m", defaultModel(s, endpoint.Endpoint{}))
	assert.Equal(t, "theirs", defaultModel(s, endpoint.Endpoint{Models: map[string]string{"a": "b", "m": "theirs"}}))
	assert.Equal(t, "b", defaultModel(s, endpoint.Endpoint{Models: map[string]string{"c": "d", "a": "b"}}))
}

// Tasks that name no model would fail, one after another, because of a spelling mistake in the file.
func TestWithoutDefault(t *testing.T) {
	t.Parallel()
	s := load(t, map[string]string{"OPENAI_MODEL": "gpt-image-2"})
	misspelt := &Endpoint{Endpoint: endpoint.Endpoint{Models: map[string]string{"gpt-imgae-2": "x", "b": "y"}}}
	assert.Equal(t, "no endpoint of imagetasks.toml has the model gpt-image-2 in its models, so tasks that name no model will fail; "+
		"add it there, or set OPENAI_MODEL to one of: b, gpt-imgae-2", Set{misspelt}.WithoutDefault(s))
	assert.Empty(t, Set{misspelt, {}}.WithoutDefault(s), "the second has every model")
}

// What differs between hosts without harm, such as proxies and keys, is not part of it.
func TestDigest(t *testing.T) {
	t.Parallel()
	set := func(change func(*endpoint.Endpoint)) Set {
		a := endpoint.Endpoint{Name: "a", BaseURL: "https://a.example/v1", Models: map[string]string{"m": "n", "o": "p"}}
		change(&a)
		return Set{{Endpoint: a}, {Endpoint: endpoint.Endpoint{Name: "b"}}}
	}
	same := set(func(*endpoint.Endpoint) {})
	assert.Equal(t, same.Digest(), Set{same[1], same[0]}.Digest())
	assert.Equal(t, same.Digest(), set(func(e *endpoint.Endpoint) { e.Key, e.Proxies = "k", []string{"direct"} }).Digest())
	for _, change := range []func(*endpoint.Endpoint){func(e *endpoint.Endpoint) { e.Name = "c" }, func(e *endpoint.Endpoint) { e.BaseURL = "https://c.example" },
		func(e *endpoint.Endpoint) { e.Models = nil }, func(e *endpoint.Endpoint) { e.Models["o"] = "q" }} {
		assert.NotEqual(t, same.Digest(), set(change).Digest())
	}
}
