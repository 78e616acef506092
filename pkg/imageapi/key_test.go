package imageapi_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/simapi"
	"imagetasks/pkg/proxy"
)

func TestSetKey_NextRequestUsesIt(t *testing.T) {
	api := startAPI(t, simapi.Config{})
	c := client(t, api.URL(), "test-key-of-yesterday", proxy.Config{})
	require.ErrorContains(t, c.Check(t.Context(), ""), "refuses the key")
	for _, wrong := range []string{"", "two words"} {
		assert.Error(t, c.SetKey(wrong))
	}
	require.ErrorContains(t, c.Check(t.Context(), ""), "refuses the key")
	require.NoError(t, c.SetKey(key))
	assert.NoError(t, c.Check(t.Context(), ""))
}
