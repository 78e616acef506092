package imageapi_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/assert"

	"imagetasks/pkg/imageapi"
	"imagetasks/pkg/proxy"
)

func TestGenerate_ErrorWithoutThePromptAndWithOurWords(t *testing.T) {
	for prompt, want := range map[string]string{
		"p":                 `the API refused the request (400): Invalid value: '[prompt]'`,
		"the":               `the API refused the request (400): Invalid value: '[prompt]'`,
		"the API refused":   `the API refused the request (400): Invalid value: '[prompt]'`,
		"a cat\nin the sun": `the API refused the request (400): Invalid value: '[prompt]'`,
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(http.StatusBadRequest)
			quoted := map[string]string{"a cat\nin the sun": `a cat\nin the sun`}[prompt]
			if quoted == "" {
				quoted = prompt
			}
			_, _ = w.Write([]byte(`{"error":{"message":"Invalid value: '` + quoted + `'"}}`))
		}))
		_, err := client(t, server.URL+"/v1", key, proxy.Config{}).Generate(t.Context(), imageapi.Request{Prompt: prompt}, io.Discard)
		assert.EqualError(t, err, want)
		server.Close()
	}
}
