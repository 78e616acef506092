package imageapi_test

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/simapi"
	"imagetasks/pkg/imageapi"
	"imagetasks/pkg/proxy"
	"imagetasks/pkg/task"
)

// The forms of relays over a real connection, several pictures after one another.
func TestGenerate_FromRelays(t *testing.T) {
	api := startAPI(t, simapi.Config{})
	c := client(t, api.URL(), key, proxy.Config{})
	for _, behaviour := range []string{"gzip", "gzip unnamed", "deflate", "bom", "space", "sse", "data url", "chat", "image field", "bytes"} {
		prompt := "[" + behaviour + "] a cat"
		var b bytes.Buffer
		_, err := c.Generate(t.Context(), imageapi.Request{Prompt: prompt}, &b)
		require.NoError(t, err, behaviour)
		assert.Equal(t, simapi.Draw(prompt), b.Bytes(), behaviour)
	}
}

func TestGenerate_FailuresOfRelays(t *testing.T) {
	api := startAPI(t, simapi.Config{})
	c := client(t, api.URL(), key, proxy.Config{})
	for behaviour, want := range map[string]struct {
		code    task.Code
		do      task.Disposition
		scope   task.Scope
		unknown bool
	}{
		"not verified":   {task.CodeModelRefused, task.Pause, task.ScopeModel, false},
		"no access":      {task.CodeModelRefused, task.Pause, task.ScopeModel, false},
		"no channel":     {task.CodeModelRefused, task.Pause, task.ScopeModel, false},
		"no channel zh":  {task.CodeModelRefused, task.Pause, task.ScopeModel, false},
		"no price":       {task.CodeModelRefused, task.Pause, task.ScopeModel, false},
		"user quota":     {task.CodeNoQuota, task.Pause, task.ScopeEndpoint, false},
		"token quota":    {task.CodeNoQuota, task.Pause, task.ScopeEndpoint, false},
		"upstream 401":   {task.CodeServer, task.Retry, task.ScopeEndpoint, false},
		"saturated":      {task.CodeRateLimited, task.Release, task.ScopeEndpoint, false},
		"30011":          {task.CodeNoQuota, task.Pause, task.ScopeEndpoint, false},
		"text error":     {task.CodeServer, task.Retry, task.ScopeEndpoint, false},
		"success false":  {task.CodeServer, task.Retry, task.ScopeEndpoint, false},
		"country":        {task.CodeWrongCountry, task.Pause, task.ScopeProxy, false},
		"cloudflare 521": {task.CodeServer, task.Release, task.ScopeEndpoint, false},
		"cloudflare 524": {task.CodeTimeout, task.Release, task.ScopeEndpoint, true},
		"nginx 502":      {task.CodeServer, task.Release, task.ScopeEndpoint, true},
		"portal":         {task.CodeWebPage, task.Release, task.ScopeEndpoint, true},
	} {
		_, err := c.Generate(t.Context(), imageapi.Request{Prompt: "[" + behaviour + "] a cat"}, &bytes.Buffer{})
		require.Error(t, err, behaviour)
		e := task.AsError(err)
		assert.Equal(t, want.code, e.Code, "%s: %v", behaviour, err)
		assert.Equal(t, want.do, e.Disposition, "%s: %v", behaviour, err)
		assert.Equal(t, want.scope, e.Scope, "%s: %v", behaviour, err)
		assert.Equal(t, want.unknown, e.Unknown, "%s: %v", behaviour, err)
	}
}
