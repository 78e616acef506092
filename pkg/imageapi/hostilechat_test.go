package imageapi

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/simapi"
	"imagetasks/pkg/task"
)

// generateFrom makes a picture from an answer that arrives whole, and one that arrives byte by byte.
func generateFrom(t *testing.T, r Request, s sample, check func(how string, result Result, content []byte, err error)) {
	t.Helper()
	for how, reader := range map[string]func(io.Reader) io.Reader{"whole": func(r io.Reader) io.Reader { return r }, "byte by byte": iotest.OneByteReader} {
		var w resettable
		c := chatClient(t, func() *http.Response {
			response := s.response()
			response.Body = io.NopCloser(reader(response.Body))
			return response
		}, Config{})
		result, err := c.Generate(t.Context(), r, &w)
		check(how, result, w.Bytes(), err)
	}
}

// Markdown that hides which URL is the picture's.
func TestGenerate_PictureInOddMarkdown(t *testing.T) {
	for name, text := range map[string]string{
		"an image that is a link":       "[![x](" + pictureURL + ")](https://x.example/page)",
		"and the link is a picture":     "[![x](" + pictureURL + ")](https://x.example/large.png)",
		"the prompt as its text":        "![" + strings.Repeat("一只灯笼", 500) + "](" + pictureURL + ")",
		"brackets in its text":          "![a [red] lantern](" + pictureURL + ")",
		"the prompt as its text, HTML":  `<img alt="` + strings.Repeat("一只灯笼", 500) + `" src="` + pictureURL + `">`,
		"the text repeated, cumulative": "![x](https://cdn.exa![x](" + pictureURL + ")",
	} {
		for how, s := range answersOf(text) {
			generateFrom(t, wish, s, func(pace string, result Result, _ []byte, err error) {
				assert.NoError(t, err, "%s, %s, %s", name, how, pace)
				assert.Equal(t, pictureURL, result.URL, "%s, %s, %s", name, how, pace)
			})
		}
	}
}

// Words after a picture in base64 may look as its next characters.
func TestGenerate_TextAfterBase64(t *testing.T) {
	t.Parallel()
	for padding := range 3 {
		content := append(bytes.Clone(drawn), make([]byte, padding)...)
		encoded := base64.StdEncoding.EncodeToString(content)
		var lines strings.Builder
		for rest := encoded; rest != ""; {
			n := min(76, len(rest))
			lines.WriteString(rest[:n] + "\r\n")
			rest = rest[n:]
		}
		for _, picture := range []string{encoded, lines.String()} {
			for _, after := range []string{"", "\nHere is your picture", "\r\n\r\nEnjoy", "\nEnjoy!", "\n生成完成 ✅\n"} {
				for how, s := range answersOf("> 进度 50%\ndata:image/png;base64," + picture + after) {
					generateFrom(t, wish, s, func(pace string, _ Result, got []byte, err error) {
						assert.NoError(t, err, "%d, %q, %s, %s", padding, after, how, pace)
						assert.True(t, bytes.Equal(content, got), "%d, %q, %s, %s: %d bytes", padding, after, how, pace, len(got))
					})
				}
			}
		}
	}
}

// An input picture that a chat repeats, in base64 or by its URL as it was sent, is not its picture.
func TestGenerate_EchoOfAnInput(t *testing.T) {
	input := simapi.Draw("the input")
	r := Request{Prompt: "a wish", Inputs: []Input{{Content: input}, {URL: "https://example.com/图 片.png?a=1&b=2"}}}
	data := "![in](data:image/png;base64," + base64.StdEncoding.EncodeToString(input) + ")\n"
	address := "![in](https://example.com/%E5%9B%BE%20%E7%89%87.png?a=1&b=2)\n"
	picture := "![out](" + dataURL + ")\n"
	for _, text := range []string{data, address, data + address} {
		for how, s := range answersOf(text + "抱歉，您的请求违反了内容政策") {
			generateFrom(t, r, s, func(pace string, _ Result, got []byte, err error) {
				assert.Equal(t, task.CodeModeration, task.AsError(err).Code, "%s, %s: %v", how, pace, err)
				assert.Empty(t, got)
			})
		}
	}
	for _, text := range []string{data + picture, picture + data, address + picture + data + address} {
		for how, s := range answersOf(text) {
			generateFrom(t, r, s, func(pace string, result Result, got []byte, err error) {
				require.NoError(t, err, "%s, %s", how, pace)
				assert.Empty(t, result.URL)
				assert.True(t, bytes.Equal(drawn, got), "%s, %s", how, pace)
			})
		}
	}
}

// A stream is whole when it says so. What ends without a word may be paid for.
func TestGenerate_EndOfAStream(t *testing.T) {
	progress := `{"choices":[{"delta":{"content":"> 进度 14%\n"},"finish_reason":"null"}]}`
	for name, c := range map[string]struct {
		body    string
		code    task.Code
		unknown bool
	}{
		"only comments":         {": keep-alive\n\n: keep-alive\n\n", task.CodeCutOff, true},
		"comments and the end":  {": keep-alive\n\ndata: [DONE]\n\n", task.CodeBadAnswer, false},
		"in progress":           {events(`{"type":"image_generation.in_progress"}`), task.CodeCutOff, true},
		"keep-alive":            {events(`{"type":"keepalive"}`), task.CodeCutOff, true},
		"completed, no picture": {events(`{"type":"image_generation.completed"}`), task.CodeBadAnswer, false},
		"no reason as a text":   {events(progress), task.CodeCutOff, true},
		"success of a piece":    {events(`{"status":"success","choices":[{"delta":{"content":"> 进度 3%"}}]}`), task.CodeCutOff, true},
		"a prompt of errors":    {events(chunk("> Error 404 poster\n> 错误的画\n"), progress), task.CodeCutOff, true},
		"an error in words":     {"event: error\ndata: upstream is overloaded\n\n", task.CodeServer, false},
	} {
		for _, clients := range []func(testing.TB, func() *http.Response) *Client{
			func(t testing.TB, respond func() *http.Response) *Client { return chatClient(t, respond, Config{}) },
			func(t testing.TB, respond func() *http.Response) *Client { return sampleClient(t, respond) },
		} {
			client := clients(t, sample{200, content(stream), c.body}.response)
			_, err := client.Generate(t.Context(), Request{Prompt: "Error 404 poster\n错误的画"}, &resettable{})
			e, ok := errors.AsType[*task.Error](err)
			if assert.True(t, ok, "%s: %v", name, err) {
				assert.Equal(t, []any{c.code, c.unknown}, []any{e.Code, e.Unknown}, "%s: %v", name, err)
			}
		}
	}
}

// The pieces of several choices are not mixed.
func TestGenerate_ChoicesOfAStream(t *testing.T) {
	piece := func(index, text string) string {
		return `{"choices":[{"index":` + index + `,"delta":{"content":` + quoteJSON(text) + `}}]}`
	}
	for _, first := range []string{"0", "1"} {
		second := string('1' - (first[0] - '0'))
		s := sample{200, content(stream), events(piece(first, "![a]("+pictureURL[:20]), piece(second, "![b](https://x.example/q/"),
			`{"choices":[{"index":`+second+`,"delta":{},"finish_reason":"stop"}]}`, piece(first, pictureURL[20:]+")"), piece(second, "2.png)"), "[DONE]")}
		generateFrom(t, wish, s, func(_ string, result Result, _ []byte, err error) {
			require.NoError(t, err)
			assert.Equal(t, pictureURL, result.URL)
		})
	}
}

// What goes to the database is text and numbers that it takes.
func TestGenerate_FitForTheDatabase(t *testing.T) {
	for how, s := range answersOf("![x](https://cdn.example.com/\xb3\xc9.png?n=\xff)") {
		generateFrom(t, wish, s, func(_ string, result Result, _ []byte, err error) {
			require.NoError(t, err, how)
			assert.Equal(t, "https://cdn.example.com/%B3%C9.png?n=%FF", result.URL, how)
		})
	}
	body := `{"data":[{"b64_json":"` + b64 + `"}],"usage":{"a":1e999999,"b":2,"c":1e-99999,"d":1.5E+9,"e":` + strings.Repeat("9", 31) + `}}`
	result, err := sampleClient(t, sample{200, nil, body}.response).Generate(t.Context(), Request{Prompt: "x"}, io.Discard)
	require.NoError(t, err)
	assert.Equal(t, `{"b":2,"d":1.5E+9}`, string(result.Usage))
}
