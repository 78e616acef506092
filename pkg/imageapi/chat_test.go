package imageapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/task"
)

// answersOf returns a chat's answer with that text, streamed and not. Its pieces end in the middle of words.
func answersOf(text string) map[string]sample {
	var pieces []string
	for rest := text; rest != ""; {
		n := min(7, len(rest))
		pieces = append(pieces, fmt.Sprintf(`{"id":"chatcmpl-1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":%s}}]}`, quoteJSON(rest[:n])))
		rest = rest[n:]
	}
	last := `{"id":"chatcmpl-1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null}`
	used := `{"id":"chatcmpl-1","choices":[],"usage":{"prompt_tokens":10,"completion_tokens":20,"details":{"image_tokens":5,"note":"a wish"},"model":"a wish"}}`
	whole := fmt.Sprintf(`{"id":"chatcmpl-1","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":%s},"finish_reason":"stop"}],`+
		`"usage":{"prompt_tokens":10,"completion_tokens":20,"details":{"image_tokens":5,"note":"a wish"},"model":"a wish"}}`, quoteJSON(text))
	return map[string]sample{
		"streamed":           {200, content(stream), events(append(pieces, last, used, "[DONE]")...)},
		"streamed, no words": {200, content(stream), events(append(pieces, "[DONE]")...)},
		"whole":              {200, content("application/json"), whole},
	}
}

// quoteJSON writes a piece of a text as a JSON string. Unlike json.Marshal it keeps what is cut within a character.
func quoteJSON(text string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\r", `\r`).Replace(text) + `"`
}

// relayText is what the relay of an application says.
const relayText = "```json\n{\n  \"prompt\": \"a red lantern, https://example.com/sent.png\",\n  \"ratio\": \"3:4\"\n}\n```\n\n> ID: `task_01jqk8`\n> 排队中.\n> 生成中..\n" +
	"> 进度 14%.\n> 进度 41%..\n> 进度 97%.\n> 生成完成 ✅\n\n> gen_id: `gen_01jqkz`\n\n![gen_01jqkz](" + pictureURL + ")\n"

// chats are texts with a picture.
var chats = map[string]string{
	"relay":                      relayText,
	"older relay":                ">🕐 排队中.\n\n>⚡ 生成中.....\n\n>🏃‍ 进度 14..23..58..[100](" + pictureURL + ") ✅\n\n![image](" + pictureURL + ")\n\n[点击下载](https://cdn.example.com/download/1)\n",
	"English":                    "> Queued\n> Generating...\nProgress: 14%\nProgress: 60.5%\n> Generation complete\n![image](" + pictureURL + ")",
	"several, the last is final": "![draft](https://cdn.example.com/d/1.png)\n\n> 进度 60%\n\n![draft](https://cdn.example.com/d/2.png)\n\n![final](" + pictureURL + ")\n",
	"the picture, then a link":   "![final](" + pictureURL + ")\n\n[下载](https://cdn.example.com/other.png) [more](https://cdn.example.com/)\n",
	"a bare URL":                 "> 排队中\n> 进度 50%\n" + strings.TrimSuffix(pictureURL, "x"),
	"a bare URL without a name":  "> ID: `task_1`\n> 生成完成 ✅\nhttps://cdn.example.com/p/1.png?sig=abc%2F\n",
	"JSON":                       `{"url": "https:\/\/cdn.example.com\/p\/1.png?sig=abc%2F", "prompt": "https://example.com/sent.png"}`,
	"JSON in a block":            "> 生成完成 ✅\n```json\n{\"prompt\":\"x\",\"images\":[{\"url\":\"" + pictureURL + "\"}]}\n```",
	"JSON of the prompt only":    "```\n{\"prompt\":\"x\",\"ratio\":\"1:1\"}\n```\n" + pictureURL,
	"HTML":                       "<p>done</p><img alt=\"x\" src=\"" + pictureURL + "\"/>",
	"an echo of the input":       "![input](https://example.com/sent.png)\n![output](" + pictureURL + ")\n![input](https://example.com/sent.png)",
}

var wish = Request{Prompt: "a wish about https://example.com/sent.png"}

func TestGenerate_PictureInAChat(t *testing.T) {
	for name, text := range chats {
		for how, s := range answersOf(text) {
			for pace, reader := range map[string]func(io.Reader) io.Reader{"whole": func(r io.Reader) io.Reader { return r }, "byte by byte": iotest.OneByteReader} {
				c := chatClient(t, func() *http.Response {
					response := s.response()
					response.Body = io.NopCloser(reader(response.Body))
					return response
				}, Config{})
				var w resettable
				result, err := c.Generate(t.Context(), wish, &w)
				if assert.NoError(t, err, "%s, %s, %s", name, how, pace) {
					assert.Equal(t, pictureURL, result.URL, "%s, %s, %s", name, how, pace)
					assert.Equal(t, "chatcmpl-1", result.RequestID)
					if how != "streamed, no words" {
						assert.JSONEq(t, `{"prompt_tokens":10,"completion_tokens":20,"details":{"image_tokens":5}}`, string(result.Usage))
					}
				}
				assert.Zero(t, w.Len())
			}
		}
	}
}

func chatClient(t testing.TB, respond func() *http.Response, conf Config) *Client {
	t.Helper()
	conf.BaseURL, conf.Key, conf.Mode, conf.Stream, conf.MaxBytes = "https://api.example.com/v1", sampleKey, ModeChat, true, 1<<20
	conf.Transport = transportFunc(func(r *http.Request) (*http.Response, error) {
		response := respond()
		response.Request = r
		return response, nil
	})
	c, err := New(conf)
	require.NoError(t, err)
	return c
}

// Pictures within the text, and beside it. A draft that is whole counts when the picture after it is not.
func TestGenerate_InlinePicturesInAChat(t *testing.T) {
	draft := "data:image/png;base64," + other
	parts := func(parts string) map[string]sample {
		return map[string]sample{
			"whole":    {200, nil, `{"choices":[{"message":{"content":"Here","images":[` + parts + `]}}]}`},
			"streamed": {200, content(stream), events(chunk("Here"), `{"choices":[{"delta":{"content":"","images":[`+parts+`]},"finish_reason":"stop"}]}`, "[DONE]")},
		}
	}
	part := func(url string) string { return `{"type":"image_url","image_url":{"url":"` + url + `"}}` }
	for name, samples := range map[string]map[string]sample{
		"data URL":         answersOf("> 进度 50%\n![x](" + dataURL + ")\n"),
		"bare data URL":    answersOf(dataURL),
		"bare base64":      answersOf(b64),
		"base64 in JSON":   answersOf(`{"b64_json":"` + b64 + `"}`),
		"several":          answersOf("![draft](" + draft + ") ![x](" + dataURL + ") [all](https://x.example/a.png)"),
		"after a URL":      answersOf("![draft](" + pictureURL + ") ![x](" + dataURL + ")"),
		"corrupt after":    answersOf("![x](" + dataURL + ") ![x](" + draft[:400] + "%%%)"),
		"images":           parts(part(dataURL)),
		"images, several":  parts(part(draft) + "," + part(pictureURL) + "," + part(dataURL)),
		"images, corrupt":  parts(part(dataURL) + "," + part(draft[:400]+"%%")),
		"cut in the next":  {"": {200, content(stream), events(chunk("![x]("+dataURL+")"), chunk(" ![y]("+draft[:600]))}},
		"cut in the image": {"": {200, content(stream), events(`{"choices":[{"delta":{"images":[`+part(dataURL)+`]}}]}`, `{"choices":[{"delta":{"images":[`+part(draft)[:900])}},
	} {
		for how, s := range samples {
			var w resettable
			result, err := chatClient(t, s.response, Config{}).Generate(t.Context(), wish, &w)
			if assert.NoError(t, err, "%s, %s", name, how) {
				assert.Empty(t, result.URL, "%s, %s", name, how)
				assert.True(t, bytes.Equal(drawn, w.Bytes()), "%s, %s: %d bytes", name, how, w.Len())
			}
		}
	}
	for how, s := range answersOf("![draft](" + draft + ")\n![x](" + pictureURL + ")\n") {
		var w resettable
		result, err := chatClient(t, s.response, Config{}).Generate(t.Context(), wish, &w)
		require.NoError(t, err, how)
		assert.Equal(t, pictureURL, result.URL, how)
		assert.Zero(t, w.Len(), how)
	}
}

// What becomes of a chat without a picture.
func TestGenerate_ChatWithoutAPicture(t *testing.T) {
	event := func(data string) sample {
		return sample{200, content(stream), events(chunk("> 排队中.\n> 进度 14%\n"), data)}
	}
	for name, c := range map[string]struct {
		samples map[string]sample
		code    task.Code
		do      task.Disposition
		unknown bool
		shows   string
	}{
		"refusal":        {answersOf("I can't help with that request. It violates our content policies."), task.CodeModeration, task.Fail, false, "content policies"},
		"Chinese":        {answersOf("> 排队中.\n抱歉，您的请求违反了内容政策，无法生成图片。"), task.CodeModeration, task.Fail, false, "违反了内容政策"},
		"moderation":     {answersOf("> 生成中..\n> 生成失败 ❌\n> 失败原因：output_moderation，内容违规\n"), task.CodeModeration, task.Fail, false, "失败原因"},
		"other words":    {answersOf("> 进度 14%\nWhat would you like me to draw?"), task.CodeBadAnswer, task.Fail, false, "contains no picture: What would"},
		"failure":        {answersOf("> 进度 14%\n> 生成失败 ❌ 上游超时，请稍后再试\n"), task.CodeServer, task.Retry, false, "上游超时"},
		"English":        {answersOf("> Generating\n\nError: the generation failed, try again"), task.CodeServer, task.Retry, false, "try again"},
		"no quota":       {answersOf("错误：用户额度不足"), task.CodeNoQuota, task.Pause, false, "额度不足"},
		"saturated":      {answersOf("生成失败：当前分组上游负载已饱和"), task.CodeRateLimited, task.Release, false, "饱和"},
		"nothing":        {answersOf(""), task.CodeBadAnswer, task.Fail, false, "no picture"},
		"only progress":  {answersOf("> 排队中.\n> 进度 14%\n"), task.CodeBadAnswer, task.Fail, false, "no picture"},
		"filtered":       {map[string]sample{"": event(`{"choices":[{"delta":{},"finish_reason":"content_filter"}]}`)}, task.CodeModeration, task.Fail, false, ""},
		"error event":    {map[string]sample{"": event(`{"error":{"message":"overloaded","type":"server_error"}}`)}, task.CodeServer, task.Retry, false, "overloaded"},
		"error, quota":   {map[string]sample{"": event(`{"error":{"message":"x","code":"insufficient_user_quota"}}`)}, task.CodeNoQuota, task.Pause, false, ""},
		"failed, no end": {map[string]sample{"": event(chunk("> 生成失败 ❌\n"))}, task.CodeServer, task.Retry, false, "生成失败"},
		"early end":      {map[string]sample{"": event(chunk("> 进度 20%\n"))}, task.CodeCutOff, task.Release, true, ""},
		"ends at once":   {map[string]sample{"": {200, content(stream), events(`{"id":"chatcmpl-1","choices":[{"delta":{"role":"assistant"}}]}`)}}, task.CodeCutOff, task.Release, true, "chatcmpl-1"},
		"cut in the URL": {map[string]sample{"": event(chunk("![x](https://cdn.example.com/p/1.png"))}, task.CodeCutOff, task.Release, true, ""},
	} {
		for how, s := range c.samples {
			_, err := chatClient(t, s.response, Config{}).Generate(t.Context(), wish, &resettable{})
			e, ok := errors.AsType[*task.Error](err)
			if !assert.True(t, ok, "%s, %s: %v", name, how, err) {
				continue
			}
			assert.Equal(t, []any{c.code, c.do, c.unknown}, []any{e.Code, e.Disposition, e.Unknown}, "%s, %s: %v", name, how, err)
			assert.Contains(t, e.Message, c.shows, "%s, %s", name, how)
			assert.NotContains(t, e.Message, "进度", "%s, %s", name, how)
			assert.False(t, e.Paid || e.NotSent)
		}
	}
}

// A stream that ends early, however it ends, may be paid for: its ids are kept. A picture that is whole until then is used.
func TestGenerate_ChatEndsEarly(t *testing.T) {
	for _, how := range []string{"ends", "breaks"} {
		until := func(text string) func() *http.Response {
			s := answersOf(text)["streamed"]
			body := s.body[:strings.Index(s.body, `data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{},"finish_reason"`)]
			return func() *http.Response {
				response := sample{200, s.header, body}.response()
				if how == "breaks" {
					response.Body = io.NopCloser(io.MultiReader(response.Body, iotest.ErrReader(errors.New("connection reset by peer"))))
				}
				return response
			}
		}
		_, err := chatClient(t, until(relayText[:strings.Index(relayText, "![gen")]), Config{}).Generate(t.Context(), wish, &resettable{})
		e := task.AsError(err)
		assert.Equal(t, []any{task.CodeCutOff, task.Release, true, "chatcmpl-1"}, []any{e.Code, e.Disposition, e.Unknown, e.RequestID}, "%s: %v", how, err)
		assert.Contains(t, e.Message, "id chatcmpl-1, task task_01jqk8, gen_id gen_01jqkz", how)

		result, err := chatClient(t, until(relayText), Config{}).Generate(t.Context(), wish, &resettable{})
		require.NoError(t, err, how)
		assert.Equal(t, []string{pictureURL, "chatcmpl-1"}, []string{result.URL, result.RequestID})
	}
}

// A prompt that a chat repeats in pieces is in nothing that is kept.
func TestGenerate_PromptInPieces(t *testing.T) {
	const prompt = "a very private wish that nobody may read"
	for _, end := range []string{`{"choices":[{"delta":{},"finish_reason":"stop"}]}`, `{"choices":[{"delta":{"reasoning_content":"about a very private wi"}}]}`} {
		var pieces []string
		for _, word := range strings.SplitAfter("```json\n{\"prompt\":\""+prompt+"\"}\n```\nIt is "+prompt+". Or what", " ") {
			pieces = append(pieces, chunk(word))
		}
		s := sample{200, content(stream), events(append(pieces, end)...)}
		_, err := chatClient(t, s.response, Config{}).Generate(t.Context(), Request{Prompt: prompt}, &resettable{})
		require.Error(t, err)
		kept := err.Error()
		if u, ok := errors.AsType[*Unusable](err); ok {
			kept += string(u.Head)
		}
		for _, word := range []string{"very", "private", "nobody"} {
			assert.NotContains(t, kept, word)
		}
	}
}

// report is a call of Request.Progress.
type report struct {
	percent int
	stage   string
}

func TestGenerate_ProgressOfAChat(t *testing.T) {
	for text, want := range map[string][]report{
		relayText: {{0, StageQueuing}, {0, StageGenerating}, {14, StageGenerating}, {41, StageGenerating}, {97, StageGenerating}, {99, StageReceiving}},
		">🕐 排队中.\n>⚡ 生成中.....\n>🏃‍ 进度 14..23..58..\n![x](" + pictureURL + ")":             {{0, StageQueuing}, {0, StageGenerating}, {23, StageGenerating}, {58, StageGenerating}},
		"Queued\nGenerating image\nProgress: 14%\nProgress: 5%\n![x](" + pictureURL + ")": {{0, StageQueuing}, {0, StageGenerating}, {14, StageGenerating}},
		"🕐\n🎨\n[####----] 40%\n█████ 75 %\n✅ Done\n![x](" + pictureURL + ")":              {{0, StageQueuing}, {0, StageGenerating}, {40, StageGenerating}, {75, StageGenerating}, {99, StageReceiving}},
		"A picture of 100% cotton, 50 people waiting\n![x](" + pictureURL + ")":           nil,
	} {
		for _, reader := range []func(io.Reader) io.Reader{func(r io.Reader) io.Reader { return r }, iotest.OneByteReader} {
			s := answersOf(text)["streamed"]
			var got []report
			r := wish
			r.Progress = func(percent int, stage string) {
				assert.Contains(t, Stages(), stage)
				got = append(got, report{percent, stage})
			}
			_, err := chatClient(t, func() *http.Response {
				response := s.response()
				response.Body = io.NopCloser(reader(response.Body))
				return response
			}, Config{}).Generate(t.Context(), r, &resettable{})
			require.NoError(t, err)
			assert.Equal(t, want, got, text)
		}
	}
}

// Partial pictures become progress, and are not the answer, though the stream ends after them.
func TestGenerate_StreamedImages(t *testing.T) {
	partial := func(i int) string {
		return fmt.Sprintf(`{"type":"image_generation.partial_image","b64_json":"%s","partial_image_index":%d}`, other, i)
	}
	final := `{"type":"image_edit.completed","b64_json":"` + b64 + `","usage":{"total_tokens":7,"input_tokens_details":{"text_tokens":3}}}`
	var got []report
	r := Request{Prompt: "x", Progress: func(percent int, stage string) { got = append(got, report{percent, stage}) }}
	generate := func(w io.Writer, data ...string) (Result, error) {
		c := sampleClient(t, sample{200, content(stream), events(data...)}.response)
		c.conf.Stream, c.conf.PartialImages = true, 2
		return c.Generate(t.Context(), r, w)
	}
	var b bytes.Buffer
	result, err := generate(&b, partial(0), partial(1), final)
	require.NoError(t, err)
	assert.Equal(t, drawn, b.Bytes())
	assert.JSONEq(t, `{"total_tokens":7,"input_tokens_details":{"text_tokens":3}}`, string(result.Usage))
	assert.Equal(t, []report{{33, StageGenerating}, {66, StageGenerating}}, got)

	_, err = generate(io.Discard, partial(0), partial(1))
	assert.Equal(t, []any{task.CodeCutOff, true}, []any{task.AsError(err).Code, task.AsError(err).Unknown})
	_, err = generate(io.Discard, partial(0), `{"type":"error","error":{"code":"moderation_blocked","message":"no"}}`)
	assert.Equal(t, task.CodeModeration, task.AsError(err).Code)
}

func TestGenerate_UsageHasNoTexts(t *testing.T) {
	for usage, want := range map[string]string{
		`{"total_tokens":12,"cost":0.042,"n":-1.5e-3}`:                                          `{"total_tokens":12,"cost":0.042,"n":-1.5e-3}`,
		`{"a":{"b":{"c":{"d":{"e":1}},"x":2}},"list":[1,2],"t":"a wish","ok":true,"null":null}`: `{"a":{"b":{"x":2}}}`,
		`{"a wish":1,"text":"a wish"}`:                                                          ``,
		`{}`:                                                                                    ``,
		`null`:                                                                                  ``,
		`[1]`:                                                                                   ``,
		`{"n":1e999999,"m":1e-999999,"l":1E+100,"k":2e10}`:      `{"k":2e10}`,
		`{"n":` + strings.Repeat("1", 400) + `,"m":2}`:          `{"m":2}`,
		`{` + strings.Repeat(`"aaaaaaaaaa":1,`, 500) + `"b":1}`: ``,
	} {
		var b bytes.Buffer
		result, err := sampleClient(t, sample{200, nil, `{"data":[{"b64_json":"` + b64 + `"}],"usage":` + usage + `}`}.response).Generate(t.Context(), Request{Prompt: "x"}, &b)
		require.NoError(t, err)
		assert.Equal(t, want, string(result.Usage), "%.60s", usage)
		assert.True(t, result.Usage == nil || json.Valid(result.Usage))
	}
}

// An Images endpoint that answers as a chat, and the other direction.
func TestGenerate_AnswerOfTheOtherMode(t *testing.T) {
	for how, s := range answersOf(relayText) {
		result, err := sampleClient(t, s.response).Generate(t.Context(), wish, &resettable{})
		require.NoError(t, err, how)
		assert.Equal(t, pictureURL, result.URL, how)
	}
	for name, s := range withPicture(t) {
		var b bytes.Buffer
		_, err := chatClient(t, s.response, Config{}).Generate(t.Context(), Request{Prompt: "x"}, &b)
		require.NoError(t, err, name)
		assert.True(t, bytes.Equal(drawn, b.Bytes()), name)
	}
}
