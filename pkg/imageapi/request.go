package imageapi

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"regexp"
	"strings"
	"time"

	"imagetasks/pkg/task"
)

// Request describes one picture.
type Request struct {
	Prompt      string
	Style       string
	AspectRatio string // such as 16:9 or portrait, or a size such as 1536x1024; empty: the API decides
	Model       string // empty: Config.Model
	Input       string // a picture to edit, in base64 or as a data: URL; empty: generate a new one
}

// generation is the body of POST /images/generations.
type generation struct {
	Prompt         string `json:"prompt"`
	N              int    `json:"n"`
	Model          string `json:"model,omitempty"`
	ResponseFormat string `json:"response_format,omitempty"`
	Size           string `json:"size,omitempty"`
	Style          string `json:"style,omitempty"`
}

// Models that OpenAI retired and relays still serve.
const (
	dallE2 = "dall-e-2"
	dallE3 = "dall-e-3"
)

// encode returns the path and the body of the HTTP request for r. Its error is a *task.Error.
func (r Request) encode(defaultModel string) (path string, b body, err error) {
	g := generation{Prompt: r.Prompt, N: 1, Model: r.Model}
	if g.Model == "" {
		g.Model = defaultModel
	}
	if strings.HasPrefix(g.Model, "dall-e") {
		g.ResponseFormat = "b64_json" // other models always return base64 and refuse the parameter
	}
	g.Size = sizeFor(r.AspectRatio, g.Model)
	style := strings.TrimSpace(r.Style)
	nativeStyle := g.Model == dallE3 && (style == "vivid" || style == "natural")
	if style != "" && !nativeStyle {
		g.Prompt += "\n\nStyle: " + style
	}
	if r.Input != "" {
		b, err = g.edit(r.Input)
		return "/images/edits", b, err
	}
	if nativeStyle {
		g.Style = style // /images/edits has no such parameter
	}
	b, err = jsonBody(g)
	return "/images/generations", b, err
}

// edit returns the body of POST /images/edits.
func (g generation) edit(encoded string) (body, error) {
	input, err := inputBytes(encoded)
	kind, known := "", false
	if err == nil {
		kind, known = pictureTypes[http.DetectContentType(input)]
	}
	if err != nil || !known {
		return body{}, &task.Error{Code: task.CodeBadInput, Disposition: task.Fail, Err: err,
			Message: "the input picture (image_base64) is not a PNG, JPEG or WebP in base64"}
	}
	return multipartBody("image", "input."+kind, "image/"+kind, input, [][2]string{
		{"model", g.Model}, {"n", "1"}, {"prompt", g.Prompt}, {"response_format", g.ResponseFormat}, {"size", g.Size},
	})
}

var pictureTypes = map[string]string{"image/png": "png", "image/jpeg": "jpeg", "image/webp": "webp"}

// body is the body of an HTTP request, in parts, so that a large one is held once. The zero value is an empty body.
type body struct {
	contentType string
	parts       [][]byte
}

func (b body) reader() io.ReadCloser {
	readers := make([]io.Reader, len(b.parts))
	for i, part := range b.parts {
		readers[i] = bytes.NewReader(part)
	}
	return io.NopCloser(io.MultiReader(readers...))
}

func jsonBody(v any) (body, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return body{"application/json", [][]byte{bytes.TrimSuffix(buf.Bytes(), []byte("\n"))}}, err
}

// multipartBody returns a form (RFC 7578) of one file and the fields that are not empty or named prompt. The file's
// content is not copied.
func multipartBody(name, file, fileType string, content []byte, fields [][2]string) (body, error) {
	var buf bytes.Buffer
	w := multipart.NewWriter(&buf)
	header := textproto.MIMEHeader{"Content-Type": {fileType}}
	header.Set("Content-Disposition", multipart.FileContentDisposition(name, file))
	if _, err := w.CreatePart(header); err != nil {
		return body{}, err
	}
	contentAt := buf.Len()
	for _, f := range fields {
		if f[1] == "" && f[0] != "prompt" {
			continue
		}
		if err := w.WriteField(f[0], f[1]); err != nil {
			return body{}, err
		}
	}
	if err := w.Close(); err != nil {
		return body{}, err
	}
	text := buf.Bytes()
	return body{w.FormDataContentType(), [][]byte{text[:contentAt], content, text[contentAt:]}}, nil
}

// send sends a request to a path under the base URL and returns the response whatever its status. Its error is a
// *task.Error. The body can be read again: the transport repeats a request on another proxy while no byte was sent.
func (c *Client) send(ctx context.Context, method, path string, b body) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, c.conf.BaseURL+path, nil)
	if err != nil {
		return nil, task.AsError(err)
	}
	for _, part := range b.parts {
		request.ContentLength += int64(len(part))
	}
	if request.ContentLength > 0 {
		request.Body = b.reader()
		request.GetBody = func() (io.ReadCloser, error) { return b.reader(), nil }
		request.Header.Set("Content-Type", b.contentType)
	}
	request.Header.Set("Accept", "application/json")
	request.Header.Set("Authorization", "Bearer "+c.conf.Key)
	request.Header.Set("User-Agent", c.conf.UserAgent)
	response, err := c.http.Do(request)
	if err != nil {
		return nil, connectionError(ctx, withoutURL(err))
	}
	c.limits.update(response.Header, time.Now())
	return response, nil
}

var exactSize = regexp.MustCompile(`^[1-9][0-9]{1,4}x[1-9][0-9]{1,4}$`)

// sizeFor returns the model's size for an aspect ratio such as 16:9 or portrait. A size is returned as it is. For any
// other text it returns "", and the API uses its default.
func sizeFor(ratio, model string) string {
	ratio = strings.ToLower(strings.TrimSpace(ratio))
	wide, tall := "1536x1024", "1024x1536"
	switch model {
	case dallE3:
		wide, tall = "1792x1024", "1024x1792"
	case dallE2:
		wide, tall = "1024x1024", "1024x1024"
	}
	switch ratio {
	case "1:1", "square":
		return "1024x1024"
	case "16:9", "3:2", "4:3", "5:4", "21:9", "landscape":
		return wide
	case "9:16", "2:3", "3:4", "4:5", "9:21", "portrait":
		return tall
	}
	if exactSize.MatchString(ratio) {
		return ratio
	}
	return ""
}
