package imageapi

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/simapi"
	"imagetasks/pkg/task"
)

var (
	drawn   = simapi.Draw("a lantern")
	b64     = base64.StdEncoding.EncodeToString(drawn)
	dataURL = "data:image/png;base64," + b64
	other   = base64.StdEncoding.EncodeToString(simapi.Draw("another"))
)

const (
	pictureURL = "https://cdn.example.com/p/1.png?sig=abc%2F"
	stream     = "text/event-stream"
)

func packed(t testing.TB, kind, text string) string {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	switch kind {
	case "gzip":
		w = gzip.NewWriter(&b)
	case "zlib":
		w = zlib.NewWriter(&b)
	case "flate":
		var err error
		w, err = flate.NewWriter(&b, 5)
		require.NoError(t, err)
	}
	_, err := io.WriteString(w, text)
	require.NoError(t, errors.Join(err, w.Close()))
	return b.String()
}

func encoding(name string) http.Header { return http.Header{"Content-Encoding": {name}} }

func content(media string) http.Header { return http.Header{"Content-Type": {media}} }

// events returns an event stream with that data.
func events(data ...string) string {
	var b strings.Builder
	for _, d := range data {
		fmt.Fprintf(&b, "data: %s\n\n", d)
	}
	return b.String()
}

func chunk(text string) string {
	return fmt.Sprintf(`{"choices":[{"index":0,"delta":{"content":%q}}]}`, text)
}

// withPicture are answers whose picture is drawn.
func withPicture(t testing.TB) map[string]sample {
	t.Helper()
	plain := `{"created":1,"data":[{"b64_json":"` + b64 + `"}]}`
	url64 := strings.NewReplacer("+", "-", "/", "_", "=", "").Replace(b64)
	return map[string]sample{
		"plain":                        {200, nil, plain},
		"gzip":                         {200, encoding("gzip"), packed(t, "gzip", plain)},
		"gzip without a header":        {200, nil, packed(t, "gzip", plain)},
		"gzip twice":                   {200, encoding("gzip"), packed(t, "gzip", packed(t, "gzip", plain))},
		"a header without gzip":        {200, encoding("gzip"), plain},
		"deflate":                      {200, encoding("deflate"), packed(t, "zlib", plain)},
		"deflate without a header":     {200, nil, packed(t, "zlib", plain)},
		"deflate without zlib":         {200, encoding("deflate"), packed(t, "flate", plain)},
		"gzip of bytes":                {200, content("image/png"), packed(t, "gzip", string(drawn))},
		"byte-order mark":              {200, nil, "\ufeff" + plain},
		"white space":                  {200, nil, strings.Repeat(" \r\n", 50000) + plain},
		"byte-order mark, white space": {200, nil, "\ufeff \n" + plain},
		"comments":                     {200, content("application/json"), strings.Repeat(": keep-alive\n\n", 1000) + events(plain)},
		"JSON as a page":               {200, content("text/html; charset=utf-8"), plain},
		"data URL":                     {200, nil, `{"data":[{"url":"` + dataURL + `"}]}`},
		"data URL in b64_json":         {200, nil, `{"data":[{"b64_json":"` + dataURL + `"}]}`},
		"data URL with parameters":     {200, nil, `{"data":[{"url":"DATA:image/png;name=x.png;BASE64, ` + b64 + `"}]}`},
		"base64 for URLs":              {200, nil, `{"data":[{"b64_json":"` + url64 + `"}]}`},
		"an object as data":            {200, nil, `{"data":{"b64_json":"` + b64 + `"}}`},
		"data in data":                 {200, nil, `{"code":200,"msg":"success","data":{"data":[{"b64_json":"` + b64 + `"}]}}`},
		"a string as data":             {200, nil, `{"data":"` + b64 + `"}`},
		"strings in data":              {200, nil, `{"data":["` + b64 + `"]}`},
		"image":                        {200, nil, `{"image":"` + b64 + `"}`},
		"images":                       {200, nil, `{"images":["` + dataURL + `"]}`},
		"image_base64":                 {200, nil, `{"data":{"image_base64":["` + b64 + `"]},"base_resp":{"status_code":0}}`},
		"base64":                       {200, nil, `{"artifacts":[{"base64":"` + b64 + `","finishReason":"SUCCESS"}]}`},
		"output":                       {200, nil, `{"output":[{"type":"image_generation_call","status":"completed","result":"` + b64 + `"}]}`},
		"result":                       {200, nil, `{"result":{"image":"` + b64 + `"},"success":true,"errors":[],"messages":[]}`},
		"Gemini":                       {200, nil, `{"candidates":[{"content":{"parts":[{"text":"Here"},{"inlineData":{"mimeType":"image/png","data":"` + b64 + `"}}]},"finishReason":"STOP"}]}`},
		"chat images":                  {200, nil, `{"choices":[{"message":{"content":"","images":[{"type":"image_url","image_url":{"url":"` + dataURL + `"}}]}}]}`},
		"chat parts":                   {200, nil, `{"choices":[{"message":{"content":[{"type":"text","text":"Here"},{"type":"image_url","image_url":{"url":"` + dataURL + `"}}]}}]}`},
		"chat markdown":                {200, nil, `{"choices":[{"message":{"content":"Here: ![x](` + dataURL + `) done"}}]}`},
		"the first of several":         {200, nil, `{"data":[{"b64_json":"` + b64 + `"},{"b64_json":"` + other + `"}]}`},
		"empty ones before":            {200, nil, `{"data":[{"url":"","b64_json":null},{"url":null,"b64_json":""},{"b64_json":"` + b64 + `"}]}`},
		"null error":                   {200, nil, `{"error":null,"data":[{"b64_json":"` + b64 + `"}]}`},
		"empty error":                  {200, nil, `{"error":{},"data":[{"b64_json":"` + b64 + `"}]}`},
		"error before":                 {200, nil, `{"error":{"message":"partly failed"},"data":[{"b64_json":"` + b64 + `"}]}`},
		"error after":                  {200, nil, `{"data":[{"b64_json":"` + b64 + `"}],"error":{"message":"partly failed","code":"insufficient_quota"}}`},
		"rest is missing":              {200, nil, `{"data":[{"b64_json":"` + b64 + `"`},
		"rest is garbage":              {200, nil, plain + "<html>"},
		"bytes":                        {200, content("image/png"), string(drawn)},
		"bytes without a type":         {200, content("application/octet-stream"), string(drawn)},
		"201":                          {201, nil, plain},
		"events of the API": {200, content(stream), ": hi\n\nevent: image_generation.partial_image\ndata: {\"type\":\"image_generation.partial_image\",\"b64_json\":\"" + other +
			"\",\"partial_image_index\":0}\n\nevent: image_generation.completed\ndata: {\"type\":\"image_generation.completed\",\"b64_json\":\"" + b64 + "\"}\n\n"},
		"events, the type last": {200, content(stream), events(`{"b64_json":"`+other+`","type":"image_generation.partial_image"}`,
			`{"b64_json":"`+other+`","partial_image_index":1}`, `{"b64_json":"`+b64+`","type":"image_generation.completed"}`, "[DONE]")},
		"events without a header":      {200, nil, "event: x\n" + events(plain)},
		"events with CR":               {200, content(stream), strings.ReplaceAll("event: x\n"+events(plain, "[DONE]"), "\n", "\r\n")},
		"events on several lines":      {200, content(stream), "data: {\"data\":\ndata: [{\"b64_json\":\ndata: \"" + b64 + "\"}]}\n\n"},
		"events without empty lines":   {200, content(stream), "data: {\"object\":\"x\"}\ndata: " + plain + "\ndata: [DONE]\n"},
		"events, one is broken":        {200, content(stream), events("{\"a\":", "{!}", "hello", plain)},
		"JSON that is called a stream": {200, content(stream), plain},
		"chat chunks":                  {200, content(stream), events(chunk("![x](data:ima"), chunk("ge/png;base"), chunk("64,"+b64[:1001]), chunk(b64[1001:2002]), chunk(b64[2002:]+") "), chunk("Enjoy"), "[DONE]")},
		"chat chunks, image_url":       {200, content(stream), events(`{"choices":[{"delta":{"images":[{"image_url":{"url":"`+dataURL+`"}}]}}]}`, "[DONE]")},
		"Responses API":                {200, content(stream), events(`{"type":"response.image_generation_call.partial_image","partial_image_b64":"`+other+`"}`, `{"type":"response.output_item.done","item":{"type":"image_generation_call","result":"`+b64+`"}}`)},
	}
}

func TestGenerate_PictureInEveryForm(t *testing.T) {
	for name, s := range withPicture(t) {
		for how, reader := range map[string]func(io.Reader) io.Reader{"whole": func(r io.Reader) io.Reader { return r }, "byte by byte": iotest.OneByteReader} {
			var b bytes.Buffer
			result, err := sampleClient(t, func() *http.Response {
				response := s.response()
				response.Body = io.NopCloser(reader(response.Body))
				return response
			}).Generate(t.Context(), Request{Prompt: "x"}, &b)
			assert.NoError(t, err, "%s, %s", name, how)
			assert.Empty(t, result.URL, "%s, %s", name, how)
			assert.True(t, bytes.Equal(drawn, b.Bytes()), "%s, %s: %d bytes", name, how, b.Len())
		}
	}
}

// withURL are answers that return the URL of a picture.
var withURL = map[string]sample{
	"url":                  {200, nil, `{"data":[{"url":"` + pictureURL + `"}]}`},
	"url in b64_json":      {200, nil, `{"data":[{"b64_json":"` + pictureURL + `"}]}`},
	"strings":              {200, nil, `{"data":["` + pictureURL + `"]}`},
	"image_url":            {200, nil, `{"image_url":"` + pictureURL + `"}`},
	"image_url object":     {200, nil, `{"image_url":{"url":"` + pictureURL + `"}}`},
	"images":               {200, nil, `{"images":[{"url":"` + pictureURL + `"}],"timings":{"inference":1}}`},
	"output":               {200, nil, `{"status":"succeeded","output":["` + pictureURL + `"]}`},
	"output results":       {200, nil, `{"output":{"results":[{"url":"` + pictureURL + `"}]},"request_id":"x"}`},
	"the first of several": {200, nil, `{"data":[{"url":"` + pictureURL + `"},{"url":"https://x.example/2.png"}]}`},
	"error, too":           {200, nil, `{"error":{"message":"x"},"data":[{"url":"` + pictureURL + `"}]}`},
	"rest is missing":      {200, nil, `{"data":[{"url":"` + pictureURL + `"`},
	"relative":             {200, nil, `{"data":[{"url":"/p/1.png"}]}`},
	"without a scheme":     {200, nil, `{"data":[{"url":"//cdn.example.com/p/1.png?sig=abc%2F"}]}`},
	"markdown":             {200, nil, `{"choices":[{"message":{"content":"> 100%\n\n![x y](` + pictureURL + `)\n\n[download](https://x.example/d)"}}]}`},
	"markdown parts":       {200, nil, `{"choices":[{"message":{"content":[{"type":"text","text":"![](` + pictureURL + `)"}]}}]}`},
	"HTML":                 {200, nil, `{"choices":[{"message":{"content":"<img alt=\"x\" src=\"` + pictureURL + `\">"}}]}`},
	"a text that is a URL": {200, nil, `{"choices":[{"message":{"content":" ` + pictureURL + `\n"}}]}`},
	"after other links":    {200, nil, `{"choices":[{"message":{"content":"See https://docs.example.com/policy. ![x](` + pictureURL + `)"}}]}`},
	"chunks":               {200, content(stream), events(chunk("![x](https://cdn.exa"), chunk("mple.com/p/1.p"), chunk("ng?sig=abc%2F)"), "[DONE]")},
	"chunks, the last":     {200, content(stream), events(chunk("https://cdn.exa"), chunk("mple.com/p/1.png?sig=abc%2F"), "[DONE]")},
	"events":               {200, content(stream), events(`{"type":"image_generation.partial_succeeded","image_index":0,"url":"`+pictureURL+`"}`, `{"type":"image_generation.completed"}`)},
}

func TestGenerate_URLInEveryForm(t *testing.T) {
	for name, s := range withURL {
		var b bytes.Buffer
		want := pictureURL
		if name == "relative" {
			want = "https://api.example.com/p/1.png"
		}
		a, err := readAnswerOf(s, &b)
		assert.True(t, a.found(), "%s: %v", name, err)
		assert.Equal(t, want, a.url, name)
		assert.Zero(t, b.Len(), name)
	}
}

func readAnswerOf(s sample, w io.Writer) (answer, error) {
	response := s.response()
	request, err := http.NewRequest(http.MethodPost, "https://api.example.com/v1/images/generations", nil)
	if err != nil {
		return answer{}, err
	}
	response.Request = request
	return readAnswer(response, response.Body, 1<<20, w, nil, source{})
}

// unusable are answers with a status of success and neither a picture nor an error.
var unusable = map[string]struct {
	sample
	code    task.Code
	do      task.Disposition
	unknown bool
}{
	"no data":                {sample{200, nil, `{"data":[]}`}, task.CodeBadAnswer, task.Fail, false},
	"null":                   {sample{200, nil, `null`}, task.CodeBadAnswer, task.Release, true},
	"partial images only":    {sample{200, content(stream), events(`{"b64_json":"`+other+`","type":"image_generation.partial_image"}`, "[DONE]")}, task.CodeBadAnswer, task.Fail, false},
	"a refusal in a chat":    {sample{200, nil, `{"choices":[{"message":{"content":"I can't draw that, see https://example.com/rules"},"finish_reason":"stop"}]}`}, task.CodeBadAnswer, task.Fail, false},
	"a job":                  {sample{200, nil, `{"id":"1","status":"queued"}`}, task.CodeBadAnswer, task.Fail, false},
	"a long URL":             {sample{200, nil, `{"data":[{"url":"https://x/` + strings.Repeat("y", 9000) + `"}]}`}, task.CodeBadAnswer, task.Fail, false},
	"a URL of another kind":  {sample{200, nil, `{"data":[{"url":"https://user:secret@x/y.png"}]}`}, task.CodeBadAnswer, task.Fail, false},
	"an SVG as a data URL":   {sample{200, nil, `{"data":[{"url":"data:image/svg+xml,%3Csvg%3E"}]}`}, task.CodeBadAnswer, task.Fail, false},
	"corrupt base64":         {sample{200, nil, `{"data":[{"b64_json":"` + strings.Repeat("A", 8000) + `%%"}]}`}, task.CodeBadAnswer, task.Fail, false},
	"gzip that is cut":       {sample{200, nil, packedOnce[:len(packedOnce)/2]}, task.CodeCutOff, task.Release, true},
	"gzip that is corrupt":   {sample{200, nil, packedOnce[:20] + "xxxx" + packedOnce[24:]}, task.CodeBadAnswer, task.Release, true},
	"zstd":                   {sample{200, nil, "\x28\xb5\x2f\xfd\x04"}, task.CodeBadAnswer, task.Release, true},
	"an unknown compression": {sample{200, encoding("br"), "\x0b\x05\x80abc"}, task.CodeBadAnswer, task.Release, true},
	"events that are cut":    {sample{200, content(stream), "data: {\"b64_json\":\"" + b64[:100]}, task.CodeCutOff, task.Release, true},
	"a chat that is cut":     {sample{200, content(stream), events(chunk("![x](" + dataURL[:len(dataURL)-100]))}, task.CodeCutOff, task.Release, true},
	"a chat cut in a URL":    {sample{200, content(stream), events(chunk("![x](https://cdn.example.com/p/1.png"))}, task.CodeCutOff, task.Release, true},
	"too large":              {sample{200, nil, `{"x":"` + strings.Repeat("y", 3<<20) + `"}`}, task.CodeBadAnswer, task.Fail, false},
	"a bomb":                 {sample{200, nil, bomb}, task.CodeBadAnswer, task.Fail, false},
}

var (
	packedOnce = packed(&testing.T{}, "gzip", `{"data":[{"b64_json":"`+b64+`"}]}`)
	bomb       = packed(&testing.T{}, "gzip", `{"x":"`+strings.Repeat("y", 100<<20)+`"}`)
)

func TestGenerate_Unusable(t *testing.T) {
	for name, c := range unusable {
		_, err := sampleClient(t, c.response).Generate(t.Context(), Request{Prompt: "a wish"}, io.Discard)
		e, ok := errors.AsType[*task.Error](err)
		if !assert.True(t, ok, name) {
			continue
		}
		assert.Equal(t, c.code, e.Code, "%s: %v", name, err)
		assert.Equal(t, c.do, e.Disposition, "%s: %v", name, err)
		assert.Equal(t, c.unknown, e.Unknown, "%s: %v", name, err)
		u, ok := errors.AsType[*Unusable](err)
		if strings.Contains(name, "gzip") || name == "an unknown compression" || name == "zstd" {
			continue // there may be nothing that can be read
		}
		if assert.True(t, ok, name) {
			assert.Equal(t, c.header.Get("Content-Type"), u.ContentType, name)
			assert.NotEmpty(t, u.Head, name)
			assert.LessOrEqual(t, len(u.Head), maxHead, name)
			switch {
			case strings.HasPrefix(name, "a chat"): // its text: a prompt that comes in pieces would not be recognized
				assert.True(t, strings.HasPrefix("![x]("+dataURL, string(u.Head)) || strings.HasPrefix(string(u.Head), "![x](https://cdn.example.com/"), "%s: %s", name, u.Head)
			case name != "a bomb" && !strings.Contains(c.body, "secret"):
				assert.True(t, bytes.HasPrefix([]byte(c.body), u.Head), name)
			}
		}
	}
}

// Answers that are not ones of success, errors of the API, and pictures leave nothing behind.
func TestGenerate_UsableLeavesNothing(t *testing.T) {
	for _, s := range []sample{{502, nil, nginxPage}, {200, nil, `{"error":{"message":"busy"}}`}} {
		_, err := sampleClient(t, s.response).Generate(t.Context(), Request{Prompt: "x"}, io.Discard)
		_, ok := errors.AsType[*Unusable](err)
		assert.False(t, ok, "%s", s.body)
	}
}

// What is private is in no text of an error and not in what is kept of an answer: not the prompt, whole, cut or escaped, nor a key, nor the secret
// part of a URL.
func TestGenerate_PrivateTexts(t *testing.T) {
	prompt := "a very private wish of mine: 一只戴着红色围巾的猫 \"in\" the\nsun " + strings.Repeat("and so on ", 400)
	quoted := func(s string) string { return strings.ReplaceAll(strings.ReplaceAll(s, `"`, `\"`), "\n", `\n`) }
	ascii := strings.Trim(strconv.QuoteToASCII(prompt), `"`)
	secrets := []string{"private wish", "红色围巾", `\u7ea2`, "sk-other", sampleKey, "hunter2", "so on and so on"}
	for _, body := range []string{
		`{"x":"` + quoted(prompt) + `"}`,
		`{"message":"Not possible: ` + quoted(prompt) + `"}`,
		`{"message":"Not possible: ` + quoted(prompt[:60]) + `..."}`,
		`{"revised_prompt":"a wish that is private wish","message":"no ` + ascii + `"}`,
		`{"message":"` + ascii[:200] + `"`,
		`{"message":"key ` + sampleKey + ` or sk-other0123456789 at https://x.example/p?sig=hunter2"}`,
		`{"data":[{"url":"https://x.example/p?sig=hunter2` + strings.Repeat("z", 9000) + `"}]}`,
		strings.Repeat("x", maxHead-40) + ascii,
		`{"error":{"message":"` + quoted(prompt) + `"}}`,
		`{"error":{"message":"` + ascii + ` key sk-other0123456789 https://x.example/p?sig=hunter2"}}`,
		`<html><title>` + prompt[:80] + `</title></html>`,
	} {
		for _, status := range []int{200, 400, 500, 403} {
			_, err := sampleClient(t, sample{status, nil, body}.response).Generate(t.Context(), Request{Prompt: prompt}, io.Discard)
			require.Error(t, err)
			shown := err.Error()
			if u, ok := errors.AsType[*Unusable](err); ok {
				shown += string(u.Head) + u.Error()
			}
			for _, secret := range secrets {
				assert.NotContains(t, shown, secret, "%d %.80s", status, body)
			}
		}
	}
}

// What the API says can't control a terminal, and shows no part of a key.
func TestGenerate_WordsOfTheAPI(t *testing.T) {
	for _, s := range []sample{
		{400, nil, `{"error":{"message":"bad \u001b[2J \u202e 坏的 key sk-sampl***wxyz, sk-pr...wxyz\u0000"}}`},
		{500, nil, "bad \x1b[2J 坏的 \x07 sk-sampl***wxyz"},
		{200, nil, "\x00\x01bad \xff 坏的 sk-sampl***wxyz"},
	} {
		_, err := sampleClient(t, s.response).Generate(t.Context(), Request{Prompt: "x"}, io.Discard)
		require.Error(t, err)
		assert.Contains(t, err.Error(), "坏的")
		for _, c := range []string{"\x1b", "\u202e", "\x00", "\x07", "\xff", "sampl", "wxyz"} {
			assert.NotContains(t, err.Error(), c, "%q", s.body)
		}
	}
}

// A prompt that reads like an error of the API does not become one.
func TestGenerate_QuotedPromptIsNoCause(t *testing.T) {
	prompt := "insufficient balance, invalid token, model x not found, 无可用渠道, safety system"
	body := `{"error":{"message":"Invalid value: '` + prompt + `'"}}`
	_, err := sampleClient(t, sample{400, nil, body}.response).Generate(t.Context(), Request{Prompt: prompt}, io.Discard)
	assert.Equal(t, task.CodeBadRequest, task.AsError(err).Code)
}

// slowBody sends its text, then nothing until its request ends.
type slowBody struct {
	io.Reader
	ctx context.Context
}

func (b *slowBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if errors.Is(err, io.EOF) {
		<-b.ctx.Done()
		return 0, b.ctx.Err()
	}
	return n, err
}

func (*slowBody) Close() error { return nil }

// A complete picture is used although its response never ends.
func TestGenerate_ResponseThatNeverEnds(t *testing.T) {
	for name, s := range map[string]sample{
		"JSON":                     {200, nil, `{"data":[{"b64_json":"` + b64 + `"`},
		"events":                   {200, content(stream), events(`{"type":"image_generation.completed","b64_json":"` + b64 + `"}`)},
		"chat":                     {200, content(stream), events(chunk("![x]("+dataURL+")"), chunk("."))},
		"a chat that has finished": {200, content(stream), events(chunk("![x]("+dataURL+")"), `{"choices":[{"delta":{},"finish_reason":"stop"}]}`)},
	} {
		synctest.Test(t, func(t *testing.T) {
			c, err := New(Config{BaseURL: "https://api.example.com/v1", Key: sampleKey, MaxBytes: 1 << 20,
				Transport: transportFunc(func(r *http.Request) (*http.Response, error) {
					response := s.response()
					response.Body, response.Request = &slowBody{strings.NewReader(s.body), r.Context()}, r
					return response, nil
				})})
			require.NoError(t, err)
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			began := time.Now()
			var b bytes.Buffer
			_, err = c.Generate(ctx, Request{Prompt: "x"}, &b)
			assert.NoError(t, err, "%.50s", s.body)
			assert.NoError(t, ctx.Err())
			assert.True(t, bytes.Equal(drawn, b.Bytes()))
			wait := restIdle
			if name == "chat" { // the picture may be a draft
				wait = draftIdle
			}
			assert.Equal(t, wait, time.Since(began), name)
		})
	}
}

// However a picture is sent, it is not held in memory.
func TestGenerate_MemoryOfALargePicture(t *testing.T) {
	const size = 8 << 20
	large := base64.StdEncoding.EncodeToString(append([]byte("\x89PNG\r\n\x1a\n"), make([]byte, size)...))
	for name, parts := range map[string][]string{
		"b64_json": {`{"data":[{"b64_json":"`, large, `"}]}`},
		"data URL": {`{"data":[{"url":"data:image/png;base64,`, large, `"}]}`},
		"markdown": {`{"choices":[{"message":{"content":"![x](data:image/png;base64,`, large, `)"}}]}`},
		"events":   {"event: image_generation.completed\ndata: {\"b64_json\":\"", large, "\"}\n\n"},
	} {
		c := sampleClient(t, func() *http.Response {
			readers := make([]io.Reader, len(parts))
			for i, part := range parts {
				readers[i] = strings.NewReader(part)
			}
			return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(io.MultiReader(readers...))}
		})
		c.conf.MaxBytes = 2 * size
		n := &byteCounter{}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := c.Generate(t.Context(), Request{Prompt: "x"}, n)
		runtime.ReadMemStats(&after)
		require.NoError(t, err, name)
		assert.Equal(t, size+8, n.n, name)
		allocated := after.TotalAlloc - before.TotalAlloc
		assert.Less(t, allocated, uint64(2<<20), name)
		t.Logf("%s: %d KB for a picture of %d MB", name, allocated>>10, size>>20)
	}
}

type byteCounter struct{ n int }

func (w *byteCounter) Write(p []byte) (int, error) { w.n += len(p); return len(p), nil }

// Answers that take a reader much time if it is careless: pieces of one byte, URLs that don't end, beginnings of the prompt.
func TestGenerate_TimeIsBounded(t *testing.T) {
	prompt := strings.Repeat("a private wish and ", 500)
	var pieces strings.Builder
	pieces.WriteString("data: " + chunk("https://x.example/") + "\n\n")
	for range 4000 {
		pieces.WriteString("data: " + chunk("x") + "\n\n")
	}
	for name, body := range map[string]string{
		"pieces":     pieces.String(),
		"URLs":       `{"choices":[{"message":{"content":"` + strings.Repeat("https://x)", 100000) + `"}}]}`,
		"data URLs":  `{"choices":[{"message":{"content":"` + strings.Repeat("data:image/", 100000) + `"}}]}`,
		"beginnings": strings.Repeat(prompt[:leastQuote]+"!", 5000),
		"brackets":   `{"choices":[{"message":{"content":"` + strings.Repeat("![", 100000) + `"}}]}`,
		"nested":     strings.Repeat("[", 1<<20),
		"keys":       `{` + strings.Repeat(`"a":1,`, 100000) + `"b":2}`,
	} {
		c := sampleClient(t, sample{200, nil, body}.response)
		c.conf.MaxBytes = 8 << 20
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		_, _ = c.Generate(ctx, Request{Prompt: prompt}, io.Discard) // what it returns is tested elsewhere
		assert.NoError(t, ctx.Err(), "%s took too long", name)
		cancel()
	}
}
