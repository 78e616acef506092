package imageapi_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/simapi"
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

// The bodies are those of the official Go client (openai-go v3.98.0), byte for byte apart from the order of extra parameters,
// because relays are tested with the official clients.
func TestGenerate_RequestBody(t *testing.T) {
	baseURL, next := startRecorder(t)
	c := client(t, baseURL, key, proxy.Config{})
	field := func(name, value string) string {
		return "--B\r\nContent-Disposition: form-data; name=\"" + name + "\"\r\n\r\n" + value + "\r\n"
	}
	file := func(name, fileName, kind, content string) string {
		return "--B\r\nContent-Disposition: form-data; name=\"" + name + "\"; filename=\"" + fileName + "." + kind +
			"\"\r\nContent-Type: image/" + kind + "\r\n\r\n" + content + "\r\n"
	}
	const (
		pngText, jpegText = "\x89PNG\r\n\x1a\n content", "\xff\xd8\xff content"
		webpText          = "RIFF\x10\x00\x00\x00WEBPVP8 content"
	)
	inputs := func(texts ...string) (out []imageapi.Input) {
		for _, text := range texts {
			out = append(out, imageapi.Input{Content: []byte(text)})
		}
		return out
	}
	square := string(simapi.Draw("before"))
	compression := 50
	every := imageapi.Options{Quality: "high", Size: "1024x1024", Background: "opaque", OutputFormat: "webp", OutputCompression: &compression,
		Moderation: "low", User: "u-1", Style: "ink", Extra: map[string]json.RawMessage{
			"seed": []byte("1"), "negative_prompt": []byte(`"<blur>"`), "more": []byte(`{ "a": [1, null] }`), "off": []byte("null"), "on": []byte("true"),
		}}
	everyEdit := every
	everyEdit.InputFidelity = "high"
	everyEdit.Style = ""
	for name, test := range map[string]struct {
		request imageapi.Request
		body    string
	}{
		"default model": {imageapi.Request{Prompt: "a cat"}, `{"prompt":"a cat","n":1,"model":"gpt-image-2"}`},
		"escapes": {imageapi.Request{Prompt: "<猫> & \"\n\u2028\xff"},
			`{"prompt":"<猫> & \"\n\u2028\ufffd","n":1,"model":"gpt-image-2"}`},
		"size and style": {imageapi.Request{Prompt: "x", Options: imageapi.Options{AspectRatio: "16:9", Style: " ink "}},
			`{"prompt":"x\n\nStyle: ink","n":1,"model":"gpt-image-2","size":"1536x864"}`},
		"dall-e-2": {imageapi.Request{Prompt: "x", Model: "dall-e-2", Options: imageapi.Options{Style: "vivid"}},
			`{"prompt":"x\n\nStyle: vivid","n":1,"model":"dall-e-2","response_format":"b64_json"}`},
		"dall-e-3": {imageapi.Request{Prompt: "x", Model: "dall-e-3", Options: imageapi.Options{Style: "vivid", AspectRatio: "2:3"}},
			`{"prompt":"x","n":1,"model":"dall-e-3","response_format":"b64_json","size":"1024x1792","style":"vivid"}`},
		"options": {imageapi.Request{Prompt: "x", Model: "gpt-image-1", Options: every},
			`{"prompt":"x\n\nStyle: ink","n":1,"output_compression":50,"user":"u-1","background":"opaque","model":"gpt-image-1",` +
				`"moderation":"low","output_format":"webp","quality":"high","size":"1024x1024",` +
				`"more":{"a":[1,null]},"negative_prompt":"<blur>","off":null,"on":true,"seed":1}`},
		"complexity": {imageapi.Request{Prompt: "x", Model: "gpt-image-2.6-flare", Options: imageapi.Options{Background: "auto", Complexity: "low"}},
			`{"prompt":"x","n":1,"background":"auto","complexity":"low","model":"gpt-image-2.6-flare"}`},
		"PNG": {imageapi.Request{Prompt: "x\ny", Inputs: inputs(pngText)},
			file("image", "input", "png", pngText) + field("model", "gpt-image-2") + field("n", "1") + field("prompt", "x\ny") + "--B--\r\n"},
		"JPEG": {imageapi.Request{Prompt: "x", Options: imageapi.Options{AspectRatio: "1:1", Style: "ink"}, Inputs: inputs(jpegText)},
			file("image", "input", "jpeg", jpegText) + field("model", "gpt-image-2") + field("n", "1") + field("prompt", "x\n\nStyle: ink") +
				field("size", "1024x1024") + "--B--\r\n"},
		"WebP without prompt": {imageapi.Request{Inputs: inputs(webpText)},
			file("image", "input", "webp", webpText) + field("model", "gpt-image-2") + field("n", "1") + field("prompt", "") + "--B--\r\n"},
		"dall-e-2 with mask": {imageapi.Request{Prompt: "x", Model: "dall-e-2", Inputs: inputs(square), Mask: &imageapi.Input{Content: []byte(square)}},
			file("image", "input", "png", square) + file("mask", "mask", "png", square) + field("model", "dall-e-2") + field("n", "1") +
				field("prompt", "x") + field("response_format", "b64_json") + "--B--\r\n"},
		"several pictures, options": {imageapi.Request{Prompt: "x", Model: "gpt-image-1.5", Options: everyEdit,
			Inputs: inputs(pngText, jpegText, webpText), Mask: &imageapi.Input{Content: []byte(pngText)}},
			field("background", "opaque") + file("image[]", "input-1", "png", pngText) + file("image[]", "input-2", "jpeg", jpegText) +
				file("image[]", "input-3", "webp", webpText) + field("input_fidelity", "high") + file("mask", "mask", "png", pngText) +
				field("model", "gpt-image-1.5") + field("moderation", "low") + field("n", "1") + field("output_compression", "50") +
				field("output_format", "webp") + field("prompt", "x") + field("quality", "high") + field("size", "1024x1024") + field("user", "u-1") +
				field("more", `{ "a": [1, null] }`) + field("negative_prompt", "<blur>") + field("on", "true") + field("seed", "1") + "--B--\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			wantPath, wantType := "POST /v1/images/generations", "application/json"
			if len(test.request.Inputs) > 0 {
				wantPath, wantType = "POST /v1/images/edits", "multipart/form-data; boundary=B"
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
	_, err = c.Generate(t.Context(), imageapi.Request{Prompt: "x", Inputs: []imageapi.Input{{Content: []byte(png)}}}, io.Discard)
	require.NoError(t, err)
	got := next()
	assert.Contains(t, got.body, "\r\n\r\n"+png+"\r\n--B\r\n")
	assert.True(t, strings.HasSuffix(got.body, "--B--\r\n"))
	assert.Len(t, running.Targets(), 1)
}
