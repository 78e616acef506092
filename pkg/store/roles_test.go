package store_test

import (
	"net/url"

	"github.com/lib/pq"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/store"
)

// role creates a role that may log in, and drops it when the test ends.
func (b *testStore) role(name string) {
	b.tb.Helper()
	quoted := pq.QuoteIdentifier(name)
	b.exec("create role " + quoted + " login")
	b.tb.Cleanup(func() {
		_, err := b.raw.Exec("drop owned by " + quoted + "; drop role " + quoted)
		require.NoError(b.tb, err)
	})
}

// as returns a Store that connects as another role.
func (b *testStore) as(role string) *store.Store {
	b.tb.Helper()
	u, err := url.Parse(b.url)
	require.NoError(b.tb, err)
	u.User = url.User(role)
	s, err := store.Open(store.Config{URL: u.String(), MaxConns: 4})
	require.NoError(b.tb, err)
	b.tb.Cleanup(func() { _ = s.Close() })
	return s
}
