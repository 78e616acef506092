package endpoint_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/endpoint"
)

func TestNormaliseURL(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"https://api.openai.com/v1":                           "https://api.openai.com/v1",
		" https://relay.example/v1/// ":                       "https://relay.example/v1",
		"https://relay.example/v1/chat/completions":           "https://relay.example/v1",
		"https://relay.example/v1/chat/completions/":          "https://relay.example/v1",
		"https://relay.example/v1//images/generations":        "https://relay.example/v1",
		"https://relay.example/images/edits":                  "https://relay.example",
		"https://relay.example":                               "https://relay.example",
		"https://relay.example/":                              "https://relay.example",
		"https://relay.example:8443/v1?":                      "https://relay.example:8443/v1",
		"https://relay.example/a%2Fb/v1/":                     "https://relay.example/a%2Fb/v1",
		"http://127.0.0.1:3000/images":                        "http://127.0.0.1:3000/images",
		"https://a.azure.com/openai/v1/?api-version=preview":  "https://a.azure.com/openai/v1?api-version=preview",
		"https://[::1]:3000/v1/images/generations?a=b/c/&d=e": "https://[::1]:3000/v1?a=b/c/&d=e",
		"https://a.azure.com/openai/deployments/d/images/generations?api-version=2025-04-01-preview": "https://a.azure.com/openai/deployments/d?api-version=2025-04-01-preview",
	} {
		got, err := endpoint.NormaliseURL(text)
		require.NoError(t, err, text)
		assert.Equal(t, want, got, text)
		again, err := endpoint.NormaliseURL(got)
		require.NoError(t, err, text)
		assert.Equal(t, got, again, text)
	}
	for _, text := range []string{"", "relay.example/v1", "ftp://relay.example", "https://", "https://:443/v1", "https://user:hunter2@relay.example/v1",
		"https://relay.example/v1#hunter2", "https://https://relay.example/v1", "http://http:80/v1", "http://[::1", "https://relay.example/hunter2\x00"} {
		_, err := endpoint.NormaliseURL(text)
		require.Error(t, err, text)
		assert.NotContains(t, err.Error(), "hunter2")
	}
}

func FuzzNormaliseURL(f *testing.F) {
	for _, text := range []string{"https://relay.example/v1/images/edits/?a=b", "http://h//chat/completions//", "https://h/%2e/%ff", "http://h/?#"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := endpoint.NormaliseURL(text)
		if err != nil {
			return
		}
		again, err := endpoint.NormaliseURL(got)
		require.NoError(t, err)
		assert.Equal(t, got, again)
	})
}

func TestEndpoint_Models(t *testing.T) {
	t.Parallel()
	e := endpoint.Endpoint{}
	assert.True(t, e.Serves("any"))
	assert.Equal(t, "any", e.ModelThere("any"))
	e.Models = map[string]string{"ours": "theirs"}
	assert.True(t, e.Serves("ours"))
	assert.False(t, e.Serves("theirs"))
	assert.False(t, e.Serves(""))
	assert.Equal(t, "theirs", e.ModelThere("ours"))
}

func TestEndpoint_Cost(t *testing.T) {
	t.Parallel()
	e := endpoint.Endpoint{Currency: "CNY", Prices: []endpoint.Price{
		{Quality: "high", Micros: 1}, {Model: "m", Micros: 2}, {Model: "m", Quality: "high", Micros: 3}}}
	for _, c := range []struct {
		model, quality, currency string
		micros                   int64
	}{
		{"m", "high", "CNY", 3}, {"m", "HIGH", "CNY", 3}, {"m", "low", "CNY", 2}, {"m", "", "CNY", 2}, {"other", "high", "CNY", 1},
		{"other", "low", "", 0}, {"", "", "", 0},
	} {
		micros, currency := e.Cost(c.model, c.quality)
		assert.Equal(t, c.micros, micros, c)
		assert.Equal(t, c.currency, currency, c)
	}
	e.Prices = append(e.Prices, endpoint.Price{})
	_, currency := e.Cost("other", "low")
	assert.Equal(t, "CNY", currency, "a picture that costs nothing has a price, too")
}

func TestEndpoint_Stream(t *testing.T) {
	t.Parallel()
	on, off := true, false
	assert.True(t, endpoint.Endpoint{Mode: endpoint.Chat}.IsStreamed())
	assert.False(t, endpoint.Endpoint{Mode: endpoint.Images}.IsStreamed())
	assert.False(t, endpoint.Endpoint{Mode: endpoint.Chat, Stream: &off}.IsStreamed())
	assert.True(t, endpoint.Endpoint{Mode: endpoint.Images, Stream: &on}.IsStreamed())
}

func TestEndpoint_Address(t *testing.T) {
	t.Parallel()
	assert.Equal(t, "https://a.azure.com/openai/v1", endpoint.Endpoint{BaseURL: "https://a.azure.com/openai/v1?api-version=preview"}.Address())
}
