// Package imageapi generates pictures through an OpenAI-compatible Images API
// (https://platform.openai.com/docs/api-reference/images), or the chat endpoint of a relay. It never retries: each error has the disposition of its task (see
// classify.go), and the queue retries.
package imageapi

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
	"unicode"

	"imagetasks/pkg/proxy"
	"imagetasks/pkg/task"
)

// Config configures a Client.
type Config struct {
	BaseURL   string // its query, if any, is part of every request
	URLName   string // what errors call BaseURL; empty: OPENAI_BASE_URL
	FindV1    bool   // a BaseURL without a path may lack its /v1: see findBase
	Key       string
	KeyName   string            // what errors call Key; empty: OPENAI_API_KEY
	Model     string            // for requests without a model
	Transport http.RoundTripper // nil: http.DefaultTransport
	MaxBytes  int64             // the largest picture accepted
	UserAgent string            // of every request; empty: imagetasks

	Mode Mode // empty: ModeImages
	// Stream asks for the answer as a stream, which says how far the API is, and which no gateway ends because it is idle.
	Stream        bool
	PartialImages int // ModeImages with Stream: pictures before the finished one, from 0 to 3; they are only counted
	// Template is the text of a template (text/template) that makes the text of a chat from a TemplateData; empty: DefaultTemplate. A template
	// "system" defined in it makes the system message. The function json returns a value in JSON.
	Template     string
	TemplateName string // for errors, such as the name of its file; empty: "of the settings"

	Download      DownloadRules // see Client.SetDownloadRules
	MaxInputBytes int64         // the largest input picture; those of a request together may be twice as large; 0: 25 MiB
	InputTimeout  time.Duration // for fetching one input picture by its URL; 0: 2m
	// AllowPrivateInputs allows URLs of input pictures whose host is a private or loopback address, for tests.
	AllowPrivateInputs bool
}

// Client generates pictures. It is safe for concurrent use.
type Client struct {
	conf      Config
	transport http.RoundTripper
	http      *http.Client // over transport
	base      *base
	key       atomic.Pointer[string]
	limits    limits
	template  *promptTemplate // of ModeChat
	// uncheckable: the API has answered an incomplete request as if it was a complete one.
	uncheckable atomic.Bool

	downloadRules atomic.Pointer[DownloadRules]
}

// New returns a client, or an error for a missing key, an invalid base URL, or a template that can't be used.
func New(conf Config) (*Client, error) {
	if err := CheckKey(conf.Key); err != nil {
		return nil, err
	}
	if _, err := url.Parse(conf.BaseURL); err != nil {
		return nil, errors.New("OPENAI_BASE_URL is not a URL")
	}
	if conf.UserAgent == "" {
		conf.UserAgent = "imagetasks"
	}
	if conf.MaxInputBytes <= 0 {
		conf.MaxInputBytes = 25 << 20
	}
	if conf.InputTimeout <= 0 {
		conf.InputTimeout = 2 * time.Minute
	}
	transport := conf.Transport
	if transport == nil {
		transport = http.DefaultTransport
	}
	c := &Client{conf: conf, transport: transport, http: &http.Client{
		Transport: checkedLocation{transport},
		// A redirect would turn a POST into a GET, or send the key to another host.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	c.base = newBase(conf)
	c.key.Store(&conf.Key)
	c.SetDownloadRules(conf.Download)
	switch {
	case conf.Mode != "" && conf.Mode != ModeImages && conf.Mode != ModeChat:
		return nil, fmt.Errorf("the mode is %q; it must be %s or %s", conf.Mode, ModeImages, ModeChat)
	case conf.PartialImages < 0 || conf.PartialImages > 3:
		return nil, fmt.Errorf("the number of partial images is %d; it must be from 0 to 3", conf.PartialImages)
	case conf.Mode == ModeChat:
		var err error
		if c.template, err = newPromptTemplate(cmp.Or(conf.TemplateName, "of the settings"), conf.Template); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// CheckKey returns an error for a key that can't be one.
func CheckKey(key string) error {
	if key == "" {
		return errors.New("no API key is set; set OPENAI_API_KEY")
	}
	if strings.ContainsAny(key, " \t\r\n") {
		return errors.New("OPENAI_API_KEY contains white space; copy it again")
	}
	return nil
}

// SetKey makes requests that begin from now on use another key, unless CheckKey refuses it.
func (c *Client) SetKey(key string) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	c.key.Store(&key)
	return nil
}

// Endpoint returns the API's scheme, host and path, without a login.
func (c *Client) Endpoint() string {
	u, err := url.Parse(c.conf.BaseURL)
	if err != nil {
		return ""
	}
	return u.Scheme + "://" + u.Host + u.Path
}

// Result is what the API returned besides the picture.
type Result struct {
	RequestID string // empty if the API gave none
	// URL is where the picture is, if the response did not contain it: then nothing was written. It is an http or https URL of at most
	// 8 KiB, which may hold a secret. What it stands for is paid for.
	URL string
	// Usage is what the API says the request used, an object of at most 4 KiB; nil: it says nothing.
	Usage json.RawMessage
}

// Unusable is the head of a response with a status of success that could not be used, for the operator. It is in the chain of Generate's
// error. The prompt, the task's other private texts and the API key are removed from it.
type Unusable struct {
	ContentType string
	Head        []byte // at most 64 KiB
	Err         error  // the cause; optional
}

// Error implements error. It does not contain the response.
func (u *Unusable) Error() string {
	if u.Err != nil {
		return u.Err.Error()
	}
	return "the API's response can't be used"
}

// Unwrap returns the cause.
func (u *Unusable) Unwrap() error { return u.Err }

// Generate writes the picture for r to w as it arrives, at most Config.MaxBytes. The caller must check that it is a
// picture. Every error is a *task.Error and does not contain the prompt. If the API refuses the address of the proxy that
// the request was sent through, Generate ejects that proxy.
//
// Before that request, which is billed, Generate checks the options and loads the input pictures. An error until then has
// NotSent.
func (c *Client) Generate(ctx context.Context, r Request, w io.Writer) (Result, error) {
	if r.Model == "" {
		r.Model = c.conf.Model
	}
	path, b, err := c.prepare(ctx, r)
	if err != nil {
		return Result{}, err
	}
	if err := c.findBase(ctx, r.Model); err != nil {
		return Result{}, c.named(err)
	}
	key := ""
	if r.BeforeSend != nil {
		if key, err = r.BeforeSend(ctx); err != nil {
			return Result{}, err
		}
	}
	var result Result
	var ids answerIDs
	sending, stop := context.WithCancel(ctx)
	defer stop()
	response, err := c.send(sending, http.MethodPost, path, key, b)
	if err == nil {
		defer response.Body.Close()
		result.RequestID = oneLine(response.Header.Get("X-Request-Id"))
		if isSuccess(response.StatusCode) {
			var a answer
			a, err = c.readPicture(ctx, stop, response, r, b.inputs, w)
			ids, result.Usage = a.ids, a.usage
			if err == nil && !a.wrote {
				result.URL = a.url
			}
		} else {
			err = c.statusError(ctx, response, r.privateTexts())
		}
		err = ejectUpstream(response, c.named(err))
	}
	result.RequestID = cmp.Or(result.RequestID, ids.completion, ids.picture, ids.task)
	return result, withIDs(err, result.RequestID, ids)
}

// named makes an error name the API that is used, and what holds its key and its address.
func (c *Client) named(err error) error {
	e, ok := errors.AsType[*task.Error](err)
	if !ok {
		return err
	}
	named := *e
	replace := func(old, by string) {
		if by != "" {
			named.Message = strings.Replace(named.Message, old, by, 1)
		}
	}
	if c.isChat() {
		replace("there is no Images API at this address", "there is no chat API (/chat/completions) at this address")
	}
	replace("OPENAI_API_KEY", c.conf.KeyName)
	replace("OPENAI_BASE_URL", c.conf.URLName)
	return &named
}

// isSuccess reports whether a status is one of success. The API has 200 only; a relay may have others.
func isSuccess(status int) bool { return status >= 200 && status < 300 }

// withIDs adds the request's ID, and those in the answer, to an error. The wrapped error remains for errors.As; its text must not be shown.
func withIDs(err error, requestID string, ids answerIDs) error {
	if err == nil {
		return nil
	}
	e := *task.AsError(err)
	e.RequestID = requestID
	if words := ids.words(); words != "" {
		e.Message += " (the API's ids: " + words + ")"
	}
	return &e
}

// withoutURL removes the URL that net/http puts before its errors.
func withoutURL(err error) error {
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		return wrapped.Err
	}
	return err
}

// ejectUpstream ejects the proxy that a response came through if err has the scope proxy: another one may have its exit elsewhere. If there is
// another, it returns err with the disposition Release, because the task can be retried at once and nothing has to pause.
func ejectUpstream(response *http.Response, err error) error {
	if err == nil {
		return nil
	}
	e := task.AsError(err)
	if e.Scope == task.ScopeProxy && proxy.EjectUpstream(response, e.Code, e.Message) {
		released := *e
		released.Disposition = task.Release
		return &released
	}
	return err
}

// oneLine makes text from the API fit for a log line and a terminal: without control characters, and those that change the direction of text.
func oneLine(s string) string {
	s = strings.Join(strings.Fields(strings.ToValidUTF8(s, "?")), " ")
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) {
			return '?'
		}
		return r
	}, s)
	if runes := []rune(s); len(runes) > 300 {
		s = string(runes[:300]) + "…"
	}
	return s
}

// maxEnvelope bounds a response without its picture, in bytes.
const maxEnvelope = 1 << 20

var errTooLong = errors.New("the response exceeds the size limit")

// maxReader is a reader that fails at its limit. io.LimitReader would end there without an error.
type maxReader struct {
	r    io.Reader
	left int64
}

func (m *maxReader) Read(p []byte) (int, error) {
	if m.left <= 0 {
		return 0, errTooLong
	}
	n, err := m.r.Read(p[:min(int64(len(p)), m.left)])
	m.left -= int64(n)
	return n, err
}

// readPicture streams the picture of a response with a status of success to w, or returns the picture's URL. Its error is a *task.Error. stop ends
// the request: it is called when there is a picture and the rest of the response does not come.
func (c *Client) readPicture(ctx context.Context, stop func(), response *http.Response, r Request, inputs inputSums, w io.Writer) (answer, error) {
	private := r.privateTexts()
	rest := &restReader{r: response.Body, stop: stop}
	defer rest.end()
	network := &errReader{r: rest}
	head := &headWriter{limit: maxHead + longest(private)}
	a, err := readAnswer(response, network, c.conf.MaxBytes*4/3+maxEnvelope, w, head, source{
		onFound: rest.begin, progress: reporter{report: r.Progress}, partial: c.conf.PartialImages, sent: r.sent(), inputs: inputs})
	if a.wrote {
		return a, nil
	}
	if a.url != "" {
		if r, ok := w.(Resetter); ok && a.begun { // the picture beside the URL is not whole
			if err := r.Reset(); err != nil {
				return a, c.readError(ctx, response, a, nil, &writeError{err}, private)
			}
		}
		return a, nil
	}
	e := c.readError(ctx, response, a, network.err, err, private)
	if _, written := errors.AsType[*writeError](err); !written && !a.failed && len(head.text) > 0 {
		kept := head.text
		if a.form == formEvents && (a.chat || a.text != "") {
			kept = []byte(a.text) // a prompt that the events have in pieces would not be recognized
		}
		e.Err = &Unusable{ContentType: oneLine(response.Header.Get("Content-Type")), Head: c.hideHead(response, kept, private), Err: e.Err}
	}
	return a, e
}

// maxModels bounds the list of models, in bytes.
const maxModels = 4 << 20

// ListModels returns the IDs of the API's models, to be shown: whether the API can be used is what Check tells. If the API has no such list, ListModels checks that its endpoint for
// pictures exists, free of charge, and returns none. Every error is a *task.Error. Like Generate it ejects a proxy whose
// address the API refuses.
func (c *Client) ListModels(ctx context.Context) ([]string, error) {
	ids, err := c.listModels(ctx)
	return ids, c.named(err)
}

func (c *Client) listModels(ctx context.Context) ([]string, error) {
	if err := c.findBase(ctx, ""); err != nil {
		return nil, err
	}
	response, err := c.send(ctx, http.MethodGet, "/models", "", body{})
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	switch {
	case response.StatusCode == http.StatusNotFound || response.StatusCode == http.StatusMethodNotAllowed:
		if err := c.Check(ctx, ""); !errors.Is(err, task.ErrUncheckable) {
			return nil, err
		}
		return nil, nil
	case response.StatusCode >= 300:
		e := asked(c.statusError(ctx, response, nil))
		if e.Code == task.CodeModelRefused { // relays say "model" in it, but the request names none
			e.Code, e.Scope = task.CodeForbidden, task.ScopeEndpoint
			e.Message = strings.Replace(e.Message, modelRefusedMessage, "the API refuses to list its models", 1)
		}
		return nil, ejectUpstream(response, e)
	case isPage(response):
		return nil, asked(newError(response, classifyPage(page{status: response.StatusCode, form: formPage, header: response.Header}), ""))
	}
	var list struct {
		Data []struct {
			ID string `json:"id"`
		} `json:"data"`
	}
	// A relay's list may have another form; a response is enough. It is read to its end so that the connection can be reused.
	content := io.LimitReader(response.Body, maxModels)
	_ = json.NewDecoder(content).Decode(&list)
	_, _ = io.Copy(io.Discard, content)
	var ids []string
	for _, m := range list.Data {
		ids = append(ids, oneLine(m.ID))
	}
	return ids, nil
}
