package simapi

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// The chat endpoint is that of a relay of image models. It answers with lines of progress and the URL of the picture in Markdown. Its behaviours, besides
// errors instead of an answer:
//
//	[cut]                a broken connection after some progress
//	[early]              the answer ends after some progress
//	[cut after picture]  a broken connection after the picture
//	[error event]        an error object after some progress
//	[error text]         a line that says that it failed
//	[refusal]            words that refuse the prompt
//	[several]            drafts, then the picture
//	[bare url]           the URL without Markdown
//	[data url]           a data: URL in Markdown
//	[json]               JSON with the URL
//	[parts]              the picture in the field images of the message
//	[older] [english]    other lines of progress

func (c Call) isChat() bool { return strings.HasSuffix(c.Path, "/chat/completions") }

// isStreamed reports whether a request asks for a stream.
func (c Call) isStreamed() bool { return c.Options["stream"] == "true" }

// HoldChats makes streamed chats wait in the middle of their progress, at 41%, until the returned function is called, once.
func (s *Server) HoldChats() (release func()) {
	gate := make(chan struct{})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.chatGate = gate
	return func() {
		s.mu.Lock()
		s.chatGate = nil
		s.mu.Unlock()
		close(gate)
	}
}

func (s *Server) chats(w http.ResponseWriter, r *http.Request) {
	c, err := readChat(r)
	if err != nil || c.Prompt == "" && len(c.Inputs)+len(c.InputURLs) == 0 {
		s.incomplete(w, r, c)
		return
	}
	s.serve(w, r, c, nil)
}

// chatMessage is a message whose content is a text or parts.
type chatMessage struct {
	Role    string          `json:"role"`
	Content json.RawMessage `json:"content"`
}

type chatPart struct {
	Type     string `json:"type"`
	Text     string `json:"text"`
	ImageURL struct {
		URL string `json:"url"`
	} `json:"image_url"`
}

// readChat returns the request in a body of /chat/completions.
func readChat(r *http.Request) (Call, error) {
	var values map[string]json.RawMessage
	if err := json.NewDecoder(r.Body).Decode(&values); err != nil {
		return Call{}, err
	}
	fields := map[string]string{}
	for name, value := range values {
		text := ""
		if json.Unmarshal(value, &text) != nil {
			text = string(value)
		}
		fields[name] = text
	}
	delete(fields, "messages")
	c := newCall(fields)
	var messages []chatMessage
	if err := json.Unmarshal(values["messages"], &messages); err != nil {
		return c, err
	}
	for _, m := range messages {
		if err := c.addMessage(m); err != nil {
			return c, err
		}
	}
	c.Prompt = c.Text
	var form struct {
		Prompt string `json:"prompt"`
	}
	if json.Unmarshal([]byte(c.Text), &form) == nil && form.Prompt != "" {
		c.Prompt = form.Prompt
	}
	return c, nil
}

func (c *Call) addMessage(m chatMessage) error {
	var parts []chatPart
	text := ""
	if json.Unmarshal(m.Content, &text) != nil {
		if err := json.Unmarshal(m.Content, &parts); err != nil {
			return err
		}
	}
	for _, p := range parts {
		switch p.Type {
		case "text":
			text += p.Text
		case "image_url":
			if err := c.addPicture(p.ImageURL.URL); err != nil {
				return err
			}
		default:
			return fmt.Errorf("there is no part of the type %q", p.Type)
		}
	}
	if m.Role == "system" {
		c.System = text
	} else {
		c.Text = text
	}
	return nil
}

func (c *Call) addPicture(url string) error {
	encoded, ok := strings.CutPrefix(url, "data:image/")
	if !ok {
		c.InputURLs = append(c.InputURLs, url)
		return nil
	}
	_, encoded, _ = strings.Cut(encoded, ";base64,")
	content, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return err
	}
	format := strings.TrimPrefix(http.DetectContentType(content), "image/")
	c.Inputs = append(c.Inputs, Picture{Format: format, Content: content})
	c.Input = c.Inputs[0].Content
	return nil
}

// The lines of a relay. heldLine is where HoldChats takes effect.
const (
	heldLine = "> 进度 41%..\n"
	echoLine = "```json\n{\n  \"prompt\": %s,\n  \"ratio\": \"3:4\"\n}\n```\n\n"
	idLine   = "> ID: `task_%s`\n"
	begun    = "> 排队中.\n> 生成中..\n> 进度 14%.\n" + heldLine
	ended    = "> 进度 97%.\n> 生成完成 ✅\n\n"
	genLine  = "> gen_id: `gen_%s`\n\n"
)

// behaveInChat responds as the chat endpoint, unless the behaviour is an error instead of an answer.
func (s *Server) behaveInChat(w http.ResponseWriter, r *http.Request, c Call, behaviour string) bool {
	id := strconv.Itoa(len(s.Calls()))
	echoed, err := json.Marshal(c.Prompt)
	if err != nil {
		return false
	}
	progress := fmt.Sprintf(echoLine+idLine, echoed, id) + begun
	url := s.PictureURL(c.Prompt)
	picture := "![gen_" + id + "](" + url + ")\n"
	a := &chatAnswer{server: s, w: w, r: r, call: c, id: "chatcmpl-" + id}
	switch behaviour {
	case "":
		a.send(progress+ended+fmt.Sprintf(genLine, id)+picture, chatDone)
	case "cut":
		a.send(progress, chatBroken)
	case "early":
		a.send(progress, chatEnds)
	case "cut after picture":
		a.send(progress+ended+picture, chatBroken)
	case "error event":
		a.send(progress, chatError)
	case "error text":
		a.send(progress+"> 生成失败 ❌ 上游超时，请稍后再试\n", chatDone)
	case "refusal":
		a.send(progress+"I can't help with that. It violates our content policies.\n", chatDone)
	case "several":
		a.send(progress+"![draft]("+s.PictureURL("a draft of "+c.Prompt)+")\n"+ended+picture, chatDone)
	case "bare url":
		a.send(progress+ended+url+"\n", chatDone)
	case "data url":
		a.send(progress+ended+"![x](data:image/png;base64,"+s.encoded(c)+")\n", chatDone)
	case "json":
		a.send(`{"status":"succeeded","url":"`+strings.ReplaceAll(url, "/", `\/`)+`"}`, chatDone)
	case "parts":
		a.images = []any{map[string]any{"type": "image_url", "image_url": map[string]string{"url": url}}}
		a.send(progress+ended, chatDone)
	case "older":
		a.send(">🕐 排队中.\n\n>⚡ 生成中...\n\n>🏃‍ 进度 14..41..97..\n"+picture, chatDone)
	case "english":
		a.send("> Queued\n> Generating...\nProgress: 41%\nGeneration complete\n"+picture, chatDone)
	default:
		return false
	}
	return true
}

// chatEnd is how a chat's answer ends.
type chatEnd int

const (
	chatDone   chatEnd = iota
	chatEnds           // without a word
	chatBroken         // with the connection
	chatError          // with an error object
)

type chatAnswer struct {
	server *Server
	w      http.ResponseWriter
	r      *http.Request
	call   Call
	id     string
	images []any
}

const (
	chatUsage   = `{"prompt_tokens":11,"completion_tokens":22,"total_tokens":33}`
	chatFailure = `{"error":{"message":"upstream overloaded","type":"server_error","code":null}}`
)

// send sends an answer, streamed or not, and may end with a panic that breaks the connection.
func (a *chatAnswer) send(text string, end chatEnd) {
	if a.call.isStreamed() {
		a.stream(text, end)
		return
	}
	message := map[string]any{"role": "assistant", "content": text}
	if a.images != nil {
		message["images"] = a.images
	}
	body, err := json.Marshal(map[string]any{"id": a.id, "object": "chat.completion",
		"choices": []any{map[string]any{"index": 0, "message": message, "finish_reason": "stop"}}, "usage": json.RawMessage(chatUsage)})
	switch {
	case err != nil:
		fail(a.w, http.StatusInternalServerError, "", err.Error())
	case end == chatError:
		send(a.w, []byte(chatFailure))
	case end == chatEnds:
		send(a.w, body[:len(body)/2])
	case end == chatBroken:
		a.w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = a.w.Write(body[:len(body)/2])
		_ = http.NewResponseController(a.w).Flush()
		panic(http.ErrAbortHandler)
	default:
		send(a.w, body)
	}
}

func (a *chatAnswer) stream(text string, end chatEnd) {
	a.w.Header().Set("Content-Type", "text/event-stream")
	a.chunk(map[string]any{"role": "assistant", "content": ""}, nil)
	for line := range strings.Lines(text) {
		// Relays send what they have: a line may come in pieces.
		characters := []rune(line)
		half := len(characters) / 2
		a.chunk(map[string]any{"content": string(characters[:half])}, nil)
		a.chunk(map[string]any{"content": string(characters[half:])}, nil)
		if !a.wait(a.r.Context(), line == heldLine) {
			return
		}
	}
	switch end {
	case chatEnds:
		return
	case chatBroken:
		panic(http.ErrAbortHandler)
	case chatError:
		a.event(chatFailure)
		return
	case chatDone:
	}
	if a.images != nil {
		a.chunk(map[string]any{"content": "", "images": a.images}, nil)
	}
	a.chunk(map[string]any{}, "stop")
	if strings.Contains(a.call.Options["stream_options"], `"include_usage":true`) {
		a.event(`{"id":"` + a.id + `","object":"chat.completion.chunk","choices":[],"usage":` + chatUsage + `}`)
	}
	a.event("[DONE]")
}

// wait waits between two lines, and reports false if the client has gone.
func (a *chatAnswer) wait(ctx context.Context, held bool) bool {
	if a.server.conf.ChatStep > 0 {
		select {
		case <-time.After(a.server.conf.ChatStep):
		case <-ctx.Done():
			return false
		}
	}
	a.server.mu.Lock()
	gate := a.server.chatGate
	a.server.mu.Unlock()
	if gate == nil || !held {
		return true
	}
	select {
	case <-gate:
		return true
	case <-ctx.Done():
		return false
	}
}

func (a *chatAnswer) chunk(delta map[string]any, finish any) {
	text, err := json.Marshal(map[string]any{"id": a.id, "object": "chat.completion.chunk",
		"choices": []any{map[string]any{"index": 0, "delta": delta, "finish_reason": finish}}})
	if err == nil {
		a.event(string(text))
	}
}

func (a *chatAnswer) event(data string) {
	_, _ = io.WriteString(a.w, "data: "+data+"\n\n")
	_ = http.NewResponseController(a.w).Flush()
}

// stream responds to a request of the Images API for a stream, unless the behaviour is another one.
func (s *Server) stream(w http.ResponseWriter, c Call, behaviour string) bool {
	if behaviour != "" && behaviour != "cut" && behaviour != "early" {
		return false
	}
	kind := "image_generation"
	if strings.HasSuffix(c.Path, "/edits") {
		kind = "image_edit"
	}
	w.Header().Set("Content-Type", "text/event-stream")
	event := func(name, fields string) {
		fmt.Fprintf(w, "event: %[1]s.%[2]s\ndata: {\"type\":\"%[1]s.%[2]s\",%[3]s}\n\n", kind, name, fields)
		_ = http.NewResponseController(w).Flush()
	}
	partial := base64.StdEncoding.EncodeToString(Draw("a partial image"))
	n, _ := strconv.Atoi(c.Options["partial_images"])
	for i := range n {
		event("partial_image", fmt.Sprintf(`"b64_json":"%s","partial_image_index":%d`, partial, i))
		switch behaviour {
		case "cut":
			panic(http.ErrAbortHandler)
		case "early":
			return true
		}
	}
	event("completed", `"b64_json":"`+s.encoded(c)+`","usage":{"total_tokens":1}`)
	return true
}
