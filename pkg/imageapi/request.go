package imageapi

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
	"time"

	"imagetasks/pkg/task"
)

// Request describes one picture.
type Request struct {
	Prompt  string
	Model   string // empty: Config.Model
	Options Options
	Inputs  []Input // pictures to edit, at most 16; none: generate a new one
	Mask    *Input  // marks what to edit in the first input; optional
	// BeforeSend is called right before the request that is billed leaves, and returns its idempotency key. After an error nothing is
	// sent, and Generate returns that error; optional.
	BeforeSend func(context.Context) (idempotencyKey string, err error)
	// Progress is called while the answer arrives, when the API says how far it is: percent is from 0 to 100, and stage one of the words of
	// Stages. It must return at once. Optional.
	Progress func(percent int, stage string)
}

// parameters are the parameters that both endpoints have in common, in the order of the official Go client.
type parameters struct {
	Prompt            string `json:"prompt"`
	N                 int    `json:"n"`
	OutputCompression *int   `json:"output_compression,omitempty"`
	User              string `json:"user,omitempty"`
	Background        string `json:"background,omitempty"`
	Complexity        string `json:"complexity,omitempty"`
	Model             string `json:"model,omitempty"`
	Moderation        string `json:"moderation,omitempty"`
	OutputFormat      string `json:"output_format,omitempty"`
	Quality           string `json:"quality,omitempty"`
	ResponseFormat    string `json:"response_format,omitempty"`
	Size              string `json:"size,omitempty"`
	Style             string `json:"style,omitempty"`
	InputFidelity     string `json:"input_fidelity,omitempty"`
	Stream            bool   `json:"stream,omitempty"`
	PartialImages     int    `json:"partial_images,omitempty"`
}

// parameters returns the parameters of the HTTP request for r. Its options must have passed Options.Check.
func (r Request) parameters(model string) parameters {
	o := r.Options
	p := parameters{
		Prompt: r.Prompt, N: 1, OutputCompression: o.OutputCompression, User: o.User, Background: o.Background, Model: model,
		Moderation: o.Moderation, OutputFormat: o.OutputFormat, Quality: o.Quality, Size: o.size(model), InputFidelity: o.InputFidelity,
		Complexity: o.Complexity,
	}
	if strings.HasPrefix(model, "dall-e") {
		p.ResponseFormat = "b64_json" // other models always return base64 and refuse the parameter
	}
	style := strings.TrimSpace(o.Style)
	switch {
	case style == "":
	case model == dallE3 && (style == "vivid" || style == "natural"):
		p.Style = style
	default:
		p.Prompt += "\n\nStyle: " + style
	}
	return p
}

// encode returns the path and the body of the HTTP request for r with its pictures, which were loaded.
func (r Request) encode(s streaming, pictures []inputPicture, mask *inputPicture) (path string, b body, err error) {
	p := r.parameters(r.Model)
	p.Stream, p.PartialImages = s.on, s.partial
	if len(pictures) == 0 {
		b, err = jsonBody(p, r.Options.Extra)
		return pathGenerations, b, err
	}
	b, err = p.form(pictures, mask, r.Options.extraFields())
	return pathEdits, b, err
}

// form returns the body of POST /images/edits, sorted by name as that of the official Go client.
func (p parameters) form(pictures []inputPicture, mask *inputPicture, extra []formField) (body, error) {
	f := newForm()
	f.field("background", p.Background)
	f.field("complexity", p.Complexity)
	name := "image"
	if len(pictures) > 1 {
		name = "image[]" // the API refuses a name that is repeated without brackets
	}
	for i, picture := range pictures {
		file := "input"
		if len(pictures) > 1 {
			file += "-" + strconv.Itoa(i+1)
		}
		f.file(name, file, picture)
	}
	f.field("input_fidelity", p.InputFidelity)
	if mask != nil {
		f.file("mask", "mask", *mask)
	}
	f.field("model", p.Model)
	f.field("moderation", p.Moderation)
	f.field("n", strconv.Itoa(p.N))
	if p.OutputCompression != nil {
		f.field(nameCompression, strconv.Itoa(*p.OutputCompression))
	}
	f.field("output_format", p.OutputFormat)
	if p.PartialImages > 0 {
		f.field("partial_images", strconv.Itoa(p.PartialImages))
	}
	f.always("prompt", p.Prompt)
	f.field("quality", p.Quality)
	f.field("response_format", p.ResponseFormat)
	f.field("size", p.Size)
	if p.Stream {
		f.field("stream", "true")
	}
	f.field("style", p.Style)
	f.field("user", p.User)
	for _, e := range extra {
		f.always(e.name, e.value)
	}
	return f.body()
}

// body is the body of an HTTP request, in parts, so that a large one is held once. The zero value is an empty body.
type body struct {
	contentType string
	parts       [][]byte
	inputs      inputSums // of a chat
}

func (b body) reader() io.ReadCloser {
	readers := make([]io.Reader, len(b.parts))
	for i, part := range b.parts {
		readers[i] = bytes.NewReader(part)
	}
	return io.NopCloser(io.MultiReader(readers...))
}

// jsonBody returns p as a JSON object, with the parameters in extra after those of p.
func jsonBody(p parameters, extra map[string]json.RawMessage) (body, error) {
	object, err := encodeJSON(p)
	if err == nil && len(extra) > 0 {
		var more []byte
		more, err = encodeJSON(extra)
		object = append(append(object[:len(object)-1], ','), bytes.TrimPrefix(more, []byte("{"))...)
	}
	return body{contentType: "application/json", parts: [][]byte{object}}, err
}

func encodeJSON(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), err
}

type formField struct{ name, value string }

// form builds a form (RFC 7578) whose files are not copied.
type form struct {
	text   bytes.Buffer
	writer *multipart.Writer
	files  []formFile
	err    error // the first one
}

// formFile is a file of a form.
type formFile struct {
	at      int // its position in the text
	content []byte
}

func newForm() *form {
	f := &form{}
	f.writer = multipart.NewWriter(&f.text)
	return f
}

// field adds a field unless its value is empty.
func (f *form) field(name, value string) {
	if value != "" {
		f.always(name, value)
	}
}

// always adds a field.
func (f *form) always(name, value string) {
	if f.err == nil {
		f.err = f.writer.WriteField(name, value)
	}
}

// file adds a picture as a file. fileName has no extension.
func (f *form) file(name, fileName string, p inputPicture) {
	if f.err != nil {
		return
	}
	header := textproto.MIMEHeader{"Content-Type": {"image/" + p.kind}}
	header.Set("Content-Disposition", multipart.FileContentDisposition(name, fileName+"."+p.kind))
	_, f.err = f.writer.CreatePart(header)
	f.files = append(f.files, formFile{f.text.Len(), p.content})
}

func (f *form) body() (body, error) {
	if f.err == nil {
		f.err = f.writer.Close()
	}
	b := body{contentType: f.writer.FormDataContentType()}
	text, from := f.text.Bytes(), 0
	for _, file := range f.files {
		b.parts = append(b.parts, text[from:file.at], file.content)
		from = file.at
	}
	b.parts = append(b.parts, text[from:])
	return b, f.err
}

// send sends a request to a path under the base URL and returns the response whatever its status. Its error is a
// *task.Error. The body can be read again: the transport repeats a request on another proxy while no byte was sent.
func (c *Client) send(ctx context.Context, method, path, idempotencyKey string, b body) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, c.address(path), nil)
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
	if c.conf.Stream && method == http.MethodPost {
		request.Header.Set("Accept", "text/event-stream, application/json")
	}
	request.Header.Set("Authorization", "Bearer "+*c.key.Load())
	request.Header.Set("User-Agent", c.conf.UserAgent)
	if idempotencyKey != "" {
		// In lower case on purpose: net/http repeats a request by itself that has this header in its usual form, and each may be billed.
		request.Header["idempotency-key"] = []string{idempotencyKey}
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, connectionError(ctx, withoutURL(err))
	}
	c.limits.update(response.Header, time.Now())
	return response, nil
}
