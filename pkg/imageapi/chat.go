package imageapi

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"

	"imagetasks/pkg/task"
)

// Mode says which of an API's endpoints makes the pictures.
type Mode string

// The modes.
const (
	ModeImages Mode = "images" // /images/generations and /images/edits
	ModeChat   Mode = "chat"   // /chat/completions
)

// The paths of the endpoints.
const (
	pathGenerations = "/images/generations"
	pathEdits       = "/images/edits"
	pathChat        = "/chat/completions"
)

func (c *Client) isChat() bool { return c.conf.Mode == ModeChat }

// prepare returns the path and the body of the HTTP request for r. It loads the input pictures that have to be sent.
func (c *Client) prepare(ctx context.Context, r Request) (path string, b body, err error) {
	if c.isChat() {
		b, err = c.prepareChat(ctx, r)
		return pathChat, b, err
	}
	if err := r.Options.Check(r.Model, len(r.Inputs), r.Mask != nil); err != nil {
		return "", body{}, err
	}
	pictures, mask, err := c.loadInputs(ctx, r)
	if err != nil {
		return "", body{}, err
	}
	return r.encode(c.streaming(r.Model), pictures, mask)
}

func (c *Client) prepareChat(ctx context.Context, r Request) (body, error) {
	if r.Mask != nil {
		return body{}, badOptions("the task has a mask, and chat endpoints take none: remove the mask, or use an endpoint in the mode images")
	}
	// The tables of models are about the Images API.
	if err := r.Options.Check("", len(r.Inputs), false); err != nil {
		return body{}, err
	}
	text, err := c.template.text(r)
	if err != nil {
		return body{}, &task.Error{Code: task.CodeBadOptions, Disposition: task.Fail, NotSent: true, Err: err,
			Message: "the template can't be used for this task: " + oneLine(hide(err.Error(), r.privateTexts()))}
	}
	if text.user == "" && len(r.Inputs) == 0 {
		return body{}, badOptions("the task has neither a prompt nor an input picture")
	}
	pictures, err := c.chatPictures(ctx, r)
	if err != nil {
		return body{}, err
	}
	b, err := encodeChat(chatRequest{model: r.Model, text: text, pictures: pictures, stream: c.conf.Stream, user: r.Options.User, extra: r.Options.Extra})
	if err != nil {
		return body{}, task.AsError(err)
	}
	b.inputs = sums(pictures)
	return b, nil
}

// chatPicture is an input picture of a chat: a URL that the API fetches, or the picture.
type chatPicture struct {
	url string
	inputPicture
}

// chatPictures returns the input pictures of a request. An https URL is passed on: the API fetches it. The others are loaded.
func (c *Client) chatPictures(ctx context.Context, r Request) ([]chatPicture, error) {
	var all []chatPicture
	left := 2 * c.conf.MaxInputBytes
	for i, in := range r.Inputs {
		name := fmt.Sprintf("input picture %d", i+1)
		if u, err := url.Parse(in.URL); err == nil && u.Scheme == "https" && len(in.Content) == 0 && len(in.URL) <= maxURL {
			if reason := c.refusesURL(u); reason != "" {
				return nil, badInput(name, "has a URL that is not allowed: %s", reason)
			}
			all = append(all, chatPicture{url: u.String()})
			continue
		}
		p, err := c.loadInput(ctx, name, in, &left)
		if err != nil {
			return nil, err
		}
		all = append(all, chatPicture{inputPicture: p})
	}
	return all, nil
}

type chatRequest struct {
	model    string
	text     chatText
	pictures []chatPicture
	stream   bool
	user     string
	extra    map[string]json.RawMessage
}

// encodeChat returns the body of POST /chat/completions. The pictures are parts of their own, so that each is held once.
func encodeChat(r chatRequest) (body, error) {
	w := &chatWriter{}
	w.raw(`{`)
	if r.model != "" {
		w.raw(`"model":`).value(r.model).raw(`,`)
	}
	w.raw(`"messages":[`)
	if r.text.system != "" {
		w.raw(`{"role":"system","content":`).value(r.text.system).raw(`},`)
	}
	w.raw(`{"role":"user","content":`)
	if len(r.pictures) == 0 {
		w.value(r.text.user)
	} else {
		w.content(r.text.user, r.pictures)
	}
	w.raw(`}],"stream":`).value(r.stream)
	if r.stream {
		w.raw(`,"stream_options":{"include_usage":true}`)
	}
	if r.user != "" {
		w.raw(`,"user":`).value(r.user)
	}
	if len(r.extra) > 0 {
		more, err := encodeJSON(r.extra)
		if err != nil {
			return body{}, err
		}
		w.raw(`,`).raw(string(bytes.TrimSuffix(bytes.TrimPrefix(more, []byte("{")), []byte("}"))))
	}
	w.raw(`}`)
	w.cut()
	return body{contentType: "application/json", parts: w.done}, w.err
}

// chatWriter writes the JSON of a chat in parts.
type chatWriter struct {
	text bytes.Buffer
	done [][]byte
	err  error // the first one
}

func (w *chatWriter) raw(text string) *chatWriter {
	w.text.WriteString(text)
	return w
}

func (w *chatWriter) value(v any) *chatWriter {
	text, err := encodeJSON(v)
	if w.err == nil {
		w.err = err
	}
	w.text.Write(text)
	return w
}

// cut ends a part.
func (w *chatWriter) cut() {
	w.done = append(w.done, bytes.Clone(w.text.Bytes()))
	w.text.Reset()
}

// content writes a content of a text and pictures.
func (w *chatWriter) content(text string, pictures []chatPicture) {
	w.raw(`[`)
	if text != "" {
		w.raw(`{"type":"text","text":`).value(text).raw(`},`)
	}
	for i, p := range pictures {
		if i > 0 {
			w.raw(`,`)
		}
		w.raw(`{"type":"image_url","image_url":{"url":`)
		if p.url != "" {
			w.value(p.url)
		} else {
			w.raw(`"data:image/` + p.kind + `;base64,`)
			w.cut()
			encoded := make([]byte, base64.StdEncoding.EncodedLen(len(p.content)))
			base64.StdEncoding.Encode(encoded, p.content)
			w.done = append(w.done, encoded)
			w.raw(`"`)
		}
		w.raw(`}}`)
	}
	w.raw(`]`)
}

// streaming is how the Images API is asked for a stream. The zero value asks for none.
type streaming struct {
	on      bool
	partial int // pictures before the finished one
}

// streaming returns how a model is asked for a stream. The dall-e models refuse the parameter.
func (c *Client) streaming(model string) streaming {
	if !c.conf.Stream || strings.HasPrefix(model, "dall-e") {
		return streaming{}
	}
	return streaming{true, c.conf.PartialImages}
}

// sent returns the addresses that a request contains: an answer that repeats one of them has not made it.
func (r Request) sent() []string {
	texts := []string{r.Prompt}
	for _, in := range r.Inputs {
		if in.URL != "" && !isDataURL(in.URL) {
			texts = append(texts, in.URL)
			if u, err := url.Parse(in.URL); err == nil {
				texts = append(texts, u.String()) // as it was sent
			}
		}
	}
	return texts
}
