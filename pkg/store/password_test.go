package store_test

import (
	"net/url"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/store"
)

// SetURL takes the password only. Connections that are open stay.
func TestSetURL_ReplacesThePassword(t *testing.T) {
	servers := startServers(t)
	address := func(password, more string) string {
		u := url.URL{Scheme: "postgres", User: url.UserPassword("alice", password), Host: "127.0.0.1:" + servers.ports["plain"], Path: "/postgres"}
		return u.String() + "?sslmode=disable" + more
	}
	s, err := store.Open(store.Config{URL: address("wrong", ""), MaxConns: 1, ApplicationName: "a test"})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, s.Close()) })
	require.ErrorContains(t, s.Ping(t.Context()), "password authentication failed")
	for _, other := range []string{address(password, "&application_name=x"), address(password, "&connect_timeout=7"),
		"postgres://alice@127.0.0.2/postgres?sslmode=disable"} {
		assert.ErrorIs(t, s.SetURL(other), store.ErrOtherDatabase)
		assert.ErrorIs(t, s.CheckURL(other), store.ErrOtherDatabase)
	}
	assert.Error(t, s.SetURL("not a URL"))
	assert.NoError(t, s.CheckURL(address(password, "")))
	require.ErrorContains(t, s.Ping(t.Context()), "password authentication failed", "a check changes nothing")
	require.NoError(t, s.SetURL(address(password, "")))
	require.NoError(t, s.Ping(t.Context()))
	require.NoError(t, s.SetURL(address("wrong", "")))
	assert.NoError(t, s.Ping(t.Context()), "the open connection stays")
}
