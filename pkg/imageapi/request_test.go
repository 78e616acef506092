package imageapi_test

import (
	"encoding/base64"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/simproxy"
	"imagetasks/pkg/imageapi"
	"imagetasks/pkg/proxy"
)

// received is a request as a server got it.
type received struct {
	path   string
	header http.Header
	length int64
	body   string // the boundary of a form is replaced by "B"
}

// startRecorder returns the base URL of an API that makes a picture for every request, and a function that returns the
// next request.
func startRecorder(t *testing.T) (baseURL string, next func() received) {
	t.Helper()
	requests := make(chan received, 1)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		content, err := io.ReadAll(r.Body)
		assert.NoError(t, err)
		body := string(content)
		if _, boundary, isForm := strings.Cut(r.Header.Get("Content-Type"), "; boundary="); isForm {
			body = strings.ReplaceAll(body, boundary, "B")
			r.Header.Set("Content-Type", "multipart/form-data; boundary=B")
		}
		requests <- received{r.Method + " " + r.URL.Path, r.Header, r.ContentLength, body}
		_, _ = io.WriteString(w, `{"data":[{"b64_json":"aGVsbG8="}]}`)
	}))
	t.Cleanup(s.Close)
	return s.URL + "/v1", func() received { return <-requests }
}

// The bodies are those of the official Go client (openai-go v3.96.0), byte for byte, because relays are tested with the
// official clients.
func TestGenerate_RequestBody(t *testing.T) {
	baseURL, next := startRecorder(t)
	c := client(t, baseURL, key, proxy.Config{})
	field := func(name, value string) string {
		return "--B\r\nContent-Disposition: form-data; name=\"" + name + "\"\r\n\r\n" + value + "\r\n"
	}
	file := func(kind, content string) string {
		return "--B\r\nContent-Disposition: form-data; name=\"image\"; filename=\"input." + kind + "\"\r\nContent-Type: image/" + kind +
			"\r\n\r\n" + content + "\r\n"
	}
	const png, jpeg, webp = "\x89PNG\r\n\x1a\n content", "\xff\xd8\xff content", "RIFF\x10\x00\x00\x00WEBPVP8 content"
	for name, test := range map[string]struct {
		request imageapi.Request
		body    string
	}{
		"default model": {imageapi.Request{Prompt: "a cat"}, `{"prompt":"a cat","n":1,"model":"gpt-image-2"}`},
		"escapes": {imageapi.Request{Prompt: "<猫> & \"\n\u2028\xff"},
			`{"prompt":"<猫> & \"\n\u2028\ufffd","n":1,"model":"gpt-image-2"}`},
		"size and style": {imageapi.Request{Prompt: "x", AspectRatio: "16:9", Style: " ink "},
			`{"prompt":"x\n\nStyle: ink","n":1,"model":"gpt-image-2","size":"1536x1024"}`},
		"dall-e-2": {imageapi.Request{Prompt: "x", Model: "dall-e-2", Style: "vivid"},
			`{"prompt":"x\n\nStyle: vivid","n":1,"model":"dall-e-2","response_format":"b64_json"}`},
		"dall-e-3": {imageapi.Request{Prompt: "x", Model: "dall-e-3", Style: "vivid", AspectRatio: "2:3"},
			`{"prompt":"x","n":1,"model":"dall-e-3","response_format":"b64_json","size":"1024x1792","style":"vivid"}`},
		"PNG": {imageapi.Request{Prompt: "x\ny", Input: png},
			file("png", png) + field("model", "gpt-image-2") + field("n", "1") + field("prompt", "x\ny") + "--B--\r\n"},
		"JPEG": {imageapi.Request{Prompt: "x", Model: "dall-e-2", AspectRatio: "1:1", Style: "ink", Input: jpeg},
			file("jpeg", jpeg) + field("model", "dall-e-2") + field("n", "1") + field("prompt", "x\n\nStyle: ink") +
				field("response_format", "b64_json") + field("size", "1024x1024") + "--B--\r\n"},
		"WebP without prompt": {imageapi.Request{Input: webp},
			file("webp", webp) + field("model", "gpt-image-2") + field("n", "1") + field("prompt", "") + "--B--\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			wantPath, wantType := "POST /v1/images/generations", "application/json"
			if test.request.Input != "" {
				wantPath, wantType = "POST /v1/images/edits", "multipart/form-data; boundary=B"
				test.request.Input = base64.StdEncoding.EncodeToString([]byte(test.request.Input))
			}
			_, err := c.Generate(t.Context(), test.request, io.Discard)
			require.NoError(t, err)
			got := next()
			assert.Equal(t, wantPath, got.path)
			assert.Equal(t, wantType, got.header.Get("Content-Type"))
			assert.Equal(t, test.body, got.body)
			assert.Positive(t, got.length, "Content-Length is set")
			assert.Equal(t, "application/json", got.header.Get("Accept"))
			assert.Equal(t, "Bearer "+key, got.header.Get("Authorization"))
			assert.Equal(t, "imagetasks", got.header.Get("User-Agent"))
		})
	}
}

// While no byte was sent the transport sends the whole request through the next proxy.
func TestGenerate_BodyIsRepeatedOnNextProxy(t *testing.T) {
	baseURL, next := startRecorder(t)
	stopped, err := simproxy.Start(simproxy.Config{})
	require.NoError(t, err)
	require.NoError(t, stopped.Close())
	running, err := simproxy.Start(simproxy.Config{})
	require.NoError(t, err)
	defer running.Close()
	c := client(t, baseURL, key, proxy.Config{Env: proxy.Env{OpenAI: []string{stopped.URL(), running.URL()}}})
	png := "\x89PNG\r\n\x1a\n" + strings.Repeat(" content", 100_000)
	_, err = c.Generate(t.Context(), imageapi.Request{Prompt: "x", Input: base64.StdEncoding.EncodeToString([]byte(png))}, io.Discard)
	require.NoError(t, err)
	got := next()
	assert.Contains(t, got.body, "\r\n\r\n"+png+"\r\n--B\r\n")
	assert.True(t, strings.HasSuffix(got.body, "--B--\r\n"))
	assert.Len(t, running.Targets(), 1)
}
