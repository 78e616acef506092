package imageapi

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/task"
)

// exchange is a client whose requests are kept.
type exchange struct {
	*Client
	requests []*http.Request
	bodies   []map[string]any
	status   int
	answer   string
}

func newExchange(t *testing.T, conf Config) *exchange {
	t.Helper()
	x := &exchange{status: 200, answer: `{"choices":[{"message":{"content":"` + pictureURL + `"}}]}`}
	conf.Key, conf.MaxBytes = sampleKey, 1<<20
	if conf.BaseURL == "" {
		conf.BaseURL = "https://api.example.com/v1"
	}
	conf.Transport = transportFunc(func(r *http.Request) (*http.Response, error) {
		if r.Method == http.MethodGet {
			return sample{200, content("image/png"), string(drawn)}.response(), nil
		}
		text, err := io.ReadAll(r.Body)
		require.NoError(t, err)
		assert.EqualValues(t, r.ContentLength, len(text))
		var sent map[string]any
		if strings.HasPrefix(r.Header.Get("Content-Type"), "application/json") {
			require.NoError(t, json.Unmarshal(text, &sent), "%s", text)
		} else {
			sent = map[string]any{"form": string(text)}
		}
		x.requests, x.bodies = append(x.requests, r), append(x.bodies, sent)
		response := sample{x.status, nil, x.answer}.response()
		response.Request = r
		return response, nil
	})
	c, err := New(conf)
	require.NoError(t, err)
	x.Client = c
	return x
}

// idempotencyKeyOf returns the key, whose header is in lower case.
func idempotencyKeyOf(r *http.Request) string {
	for name, values := range r.Header {
		if name == "idempotency-key" {
			return values[0]
		}
	}
	return ""
}

func (x *exchange) last() map[string]any { return x.bodies[len(x.bodies)-1] }

func TestGenerate_WhatAChatIsSent(t *testing.T) {
	x := newExchange(t, Config{Mode: ModeChat, Stream: true, Model: "m", BaseURL: "https://api.example.com/v1?api-version=2026-01-01"})
	r := Request{Prompt: `a <cat> & "dog"`, BeforeSend: func(context.Context) (string, error) { return "key-1", nil }}
	_, err := x.Generate(t.Context(), r, io.Discard)
	require.NoError(t, err)
	assert.Equal(t, map[string]any{"model": "m", "stream": true, "stream_options": map[string]any{"include_usage": true},
		"messages": []any{map[string]any{"role": "user", "content": `a <cat> & "dog"`}}}, x.last())
	sent := x.requests[0]
	assert.Equal(t, "https://api.example.com/v1/chat/completions?api-version=2026-01-01", sent.URL.String())
	assert.Equal(t, "key-1", idempotencyKeyOf(sent))
	assert.Contains(t, sent.Header.Get("Accept"), "text/event-stream")

	// The form of a relay with a ratio, and parameters of the task's own.
	r.Options = Options{AspectRatio: "3：4", Style: " ink ", User: "u", Extra: map[string]json.RawMessage{"modalities": json.RawMessage(`["image"]`)}}
	_, err = x.Generate(t.Context(), r, io.Discard)
	require.NoError(t, err)
	assert.Equal(t, []any{[]any{"image"}, "u"}, []any{x.last()["modalities"], x.last()["user"]})
	text := x.last()["messages"].([]any)[0].(map[string]any)["content"].(string) //nolint:forcetypeassert // as it was sent
	var form map[string]string
	require.NoError(t, json.Unmarshal([]byte(text), &form))
	assert.Equal(t, map[string]string{"prompt": "a <cat> & \"dog\"\n\nStyle: ink\n\nAspect ratio: 3:4 (portrait)", "ratio": "3:4"}, form)
}

// An https URL is passed on as it is. What else there is, the request contains.
func TestGenerate_InputsOfAChat(t *testing.T) {
	x := newExchange(t, Config{Mode: ModeChat, AllowPrivateInputs: true})
	signed := "https://pictures.example.com/a.png?sig=secret"
	_, err := x.Generate(t.Context(), Request{Prompt: "a cat", Model: "gpt-image-2", Options: Options{Size: "1024x1536", Quality: "any"},
		Inputs: []Input{{URL: signed}, {Content: drawn}, {URL: dataURL}, {URL: "http://pictures.example.com/b.png"}}}, io.Discard)
	require.NoError(t, err)
	picture := func(url string) map[string]any {
		return map[string]any{"type": "image_url", "image_url": map[string]any{"url": url}}
	}
	assert.Equal(t, map[string]any{"model": "gpt-image-2", "stream": false, "messages": []any{map[string]any{"role": "user", "content": []any{
		map[string]any{"type": "text", "text": "a cat\n\nAspect ratio: 2:3 (portrait)"}, picture(signed), picture(dataURL), picture(dataURL), picture(dataURL)}}}}, x.last())

	_, err = x.Generate(t.Context(), Request{Inputs: []Input{{Content: drawn}}}, io.Discard)
	require.NoError(t, err)
	assert.Equal(t, []any{picture(dataURL)}, x.last()["messages"].([]any)[0].(map[string]any)["content"]) //nolint:forcetypeassert // as it was sent
}

// What a chat can't be asked for is refused before anything is sent.
func TestGenerate_NotSentInAChat(t *testing.T) {
	x := newExchange(t, Config{Mode: ModeChat})
	for text, r := range map[string]Request{
		"chat endpoints take none":         {Prompt: "x", Inputs: []Input{{Content: drawn}}, Mask: &Input{Content: drawn}},
		"neither a prompt nor":             {},
		"is not on the public Internet":    {Prompt: "x", Inputs: []Input{{URL: "https://10.0.0.1/a.png"}}},
		"contains a login":                 {Prompt: "x", Inputs: []Input{{URL: "https://u:secret@x.example.com/a.png"}}},
		`has the name "messages"`:          {Prompt: "x", Options: Options{Extra: map[string]json.RawMessage{"messages": json.RawMessage(`[]`)}}},
		`has the name "Stream_Options"`:    {Prompt: "x", Options: Options{Extra: map[string]json.RawMessage{"Stream_Options": json.RawMessage(`{}`)}}},
		"is not a PNG, JPEG or WebP":       {Prompt: "x", Inputs: []Input{{Content: []byte("GIF89a")}}},
		"option aspect_ratio is \"squared": {Prompt: "x", Options: Options{AspectRatio: "squared"}},
	} {
		_, err := x.Generate(t.Context(), r, io.Discard)
		e := task.AsError(err)
		assert.Contains(t, e.Message, text)
		assert.True(t, e.NotSent)
		assert.Equal(t, task.Fail, e.Disposition)
		assert.NotContains(t, e.Message, "secret")
	}
	assert.Empty(t, x.requests)
}

func TestNew_Template(t *testing.T) {
	for text, want := range map[string]string{
		"{{.Prompt":                           "the chat template relay.tmpl can't be used: template: relay.tmpl:1: unclosed action",
		"{{.Promt}}":                          "can't evaluate field Promt",
		"draw it":                             "its text does not contain the prompt",
		"{{range 100000000}}xxxxxxxxx{{end}}": "its text is too long",
		"{{json .}}{{nope}}":                  `function "nope" not defined`,
	} {
		_, err := New(Config{Key: sampleKey, Mode: ModeChat, Template: text, TemplateName: "relay.tmpl"})
		require.Error(t, err, text)
		assert.Contains(t, err.Error(), want)
		assert.Contains(t, err.Error(), "relay.tmpl")
	}
	_, err := New(Config{Key: sampleKey, Mode: "chats"})
	assert.ErrorContains(t, err, `the mode is "chats"`)
	_, err = New(Config{Key: sampleKey, PartialImages: 4})
	assert.ErrorContains(t, err, "from 0 to 3")

	x := newExchange(t, Config{Mode: ModeChat, Template: `{{define "system"}}You draw. Quality {{.Quality}}{{.Options.none}}.{{end -}}
{{.Prompt}}, {{.Ratio}} {{.Orientation}} {{.Size}} {{.Background}} {{.Inputs}} {{.Options.output_compression}} {{.Model}}`})
	n := 90
	_, err = x.Generate(t.Context(), Request{Prompt: "a cat", Model: "m", Options: Options{Size: "1536x1024", Quality: "high", Background: "opaque", OutputCompression: &n}}, io.Discard)
	require.NoError(t, err)
	assert.Equal(t, []any{map[string]any{"role": "system", "content": "You draw. Quality high."},
		map[string]any{"role": "user", "content": "a cat, 3:2 landscape 1536x1024 opaque 0 90 m"}}, x.last()["messages"])
}

func TestOptions_Ratio(t *testing.T) {
	for _, c := range []struct{ aspect, size, ratio, orientation string }{
		{"", "", "", ""}, {"auto", "", "", ""}, {"", "auto", "", ""}, {"square", "", "1:1", square}, {"landscape", "", "3:2", landscape},
		{"portrait", "", "2:3", portrait}, {"16：9", "", "16:9", landscape}, {"1.91:1", "", "1.91:1", landscape}, {"4:8", "", "1:2", portrait},
		{"1024x768", "", "4:3", landscape}, {"", "1024x1024", "1:1", square}, {"3:4", "768x1024", "3:4", portrait},
	} {
		o := Options{AspectRatio: c.aspect, Size: c.size}
		ratio, orientation := o.ratio()
		assert.Equal(t, []string{c.ratio, c.orientation}, []string{ratio, orientation}, "%+v", c)
	}
}

// Images mode asks for a stream in both of its forms. The dall-e models refuse the parameter.
func TestGenerate_AsksForAStream(t *testing.T) {
	x := newExchange(t, Config{Stream: true, PartialImages: 2, Model: "gpt-image-2"})
	_, err := x.Generate(t.Context(), Request{Prompt: "a cat"}, io.Discard)
	require.NoError(t, err)
	assert.Equal(t, map[string]any{"prompt": "a cat", "n": 1.0, "model": "gpt-image-2", "stream": true, "partial_images": 2.0}, x.last())
	_, err = x.Generate(t.Context(), Request{Prompt: "a cat", Inputs: []Input{{Content: drawn}}}, io.Discard)
	require.NoError(t, err)
	for _, field := range []string{"name=\"stream\"\r\n\r\ntrue\r\n", "name=\"partial_images\"\r\n\r\n2\r\n"} {
		assert.Contains(t, x.last()["form"], field)
	}
	_, err = x.Generate(t.Context(), Request{Prompt: "a cat", Model: "dall-e-3"}, io.Discard)
	require.NoError(t, err)
	assert.NotContains(t, x.last(), "stream")
}

// The check in chat mode asks the endpoint for chats, and pays nothing.
func TestCheck_Chat(t *testing.T) {
	x := newExchange(t, Config{Mode: ModeChat, Stream: true, Model: "m"})
	for _, c := range []struct {
		status int
		answer string
	}{
		{400, `{"error":{"message":"Invalid type for 'messages': expected an array of objects, but got a string instead.","code":"invalid_type"}}`},
		{500, `{"error":{"message":"json: cannot unmarshal string into Go struct field GeneralOpenAIRequest.messages of type []dto.Message","code":"invalid_request"}}`},
		{422, `{"detail":[{"loc":["body","messages"],"msg":"value is not a valid list"}]}`},
	} {
		x.status, x.answer = c.status, c.answer
		assert.NoError(t, x.Check(t.Context(), ""), c.answer)
	}
	assert.Equal(t, map[string]any{"model": "m", "messages": "none"}, x.last())
	assert.Equal(t, "/v1/chat/completions", x.requests[0].URL.Path)
	assert.Empty(t, idempotencyKeyOf(x.requests[0]))

	x.status, x.answer = 404, `404 page not found`
	err := x.Check(t.Context(), "")
	assert.Equal(t, task.CodeWrongAddress, task.AsError(err).Code)
	assert.ErrorContains(t, err, "no chat API (/chat/completions)")
	x.status, x.answer = 503, `{"error":{"code":"model_not_found","message":"No available channel for model m under group default"}}`
	assert.Equal(t, task.CodeModelRefused, task.AsError(x.Check(t.Context(), "")).Code)

	x.status, x.answer = 200, `{"choices":[{"message":{"content":"What would you like?"}}]}`
	assert.ErrorIs(t, x.Check(t.Context(), ""), task.ErrUncheckable)
	n := len(x.requests)
	assert.ErrorIs(t, x.Check(t.Context(), ""), task.ErrUncheckable)
	assert.Len(t, x.requests, n, "it is never asked in this way again")
}

// A large input picture is held once beside its form on the wire.
func TestEncodeChat_Parts(t *testing.T) {
	large := append([]byte("\x89PNG\r\n\x1a\n"), make([]byte, 1<<20)...)
	b, err := encodeChat(chatRequest{text: chatText{user: "x"}, pictures: []chatPicture{{inputPicture: inputPicture{kind: "png", content: large}}}})
	require.NoError(t, err)
	require.Len(t, b.parts, 3)
	assert.Len(t, b.parts[1], base64.StdEncoding.EncodedLen(len(large)))
	assert.Less(t, len(b.parts[0])+len(b.parts[2]), 500)
}
