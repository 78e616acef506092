// Package imageapi makes pictures through an OpenAI-compatible Images API
// (https://platform.openai.com/docs/api-reference/images). It never retries: each failure says what should become of the task (see classify.go), and
// the queue does the rest.
package imageapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"imagetasks/pkg/proxy"
	"imagetasks/pkg/redact"
	"imagetasks/pkg/task"
)

// Config says where the API is.
type Config struct {
	BaseURL   string // with its /v1
	Key       string
	Model     string // for tasks that name none
	Transport http.RoundTripper
	MaxBytes  int64  // the largest picture accepted
	UserAgent string // of every request; empty: imagetasks
}

// Client makes pictures. It is safe for concurrent use.
type Client struct {
	conf   Config
	http   *http.Client
	limits limits
}

// New returns a client, or an error for a missing key or a base URL that is none.
func New(conf Config) (*Client, error) {
	if conf.Key == "" {
		return nil, errors.New("no API key is set; set OPENAI_API_KEY")
	}
	if strings.ContainsAny(conf.Key, " \t\r\n") {
		return nil, errors.New("OPENAI_API_KEY holds white space; copy it again")
	}
	if _, err := url.Parse(conf.BaseURL); err != nil {
		return nil, errors.New("OPENAI_BASE_URL is not a URL")
	}
	if conf.UserAgent == "" {
		conf.UserAgent = "imagetasks"
	}
	c := &Client{conf: conf}
	c.http = &http.Client{
		Transport: &errorBodyLimiter{next: conf.Transport, limits: &c.limits},
		// A redirect would turn a POST into a GET, or carry the key elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c, nil
}

// maxErrorBody bounds the body of an error answer, which the client reads whole.
const maxErrorBody = 64 << 10

// errorBodyLimiter cuts the bodies of error answers, and notes what every answer says of the rate limits.
type errorBodyLimiter struct {
	next   http.RoundTripper
	limits *limits
}

func (e *errorBodyLimiter) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := e.next.RoundTrip(r)
	if err == nil {
		e.limits.note(answer.Header, time.Now())
	}
	if err == nil && answer.StatusCode >= 400 {
		answer.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(answer.Body, maxErrorBody), answer.Body}
	}
	return answer, err
}

// Result is what the API said beside the picture.
type Result struct {
	RequestID string
}

// Generate writes the picture for r to w as it arrives; w gets no more than Config.MaxBytes. Whether what
// it wrote is a picture is for the caller to prove. Every error is a *task.Error; none holds the prompt.
func (c *Client) Generate(ctx context.Context, r Request, w io.Writer) (Result, error) {
	path, b, err := r.encode(c.conf.Model)
	if err != nil {
		return Result{}, err
	}
	var result Result
	response, err := c.send(ctx, http.MethodPost, path, b)
	if err == nil {
		defer response.Body.Close()
		result.RequestID = oneLine(response.Header.Get("X-Request-Id"))
		if response.StatusCode == http.StatusOK {
			err = c.read(ctx, response, r.Prompt, w)
		} else {
			err = c.refusal(response, r.Prompt)
		}
	}
	return result, finish(err, result.RequestID)
}

// finish adds the request's id. The wrapped error stays for errors.As; its text is not for showing.
func finish(err error, requestID string) error {
	if err == nil {
		return nil
	}
	e := *task.AsError(err)
	e.RequestID = requestID
	return &e
}

// withoutURL takes off the URL that net/http puts before its errors: it says nothing new.
func withoutURL(err error) error {
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		return wrapped.Err
	}
	return err
}

// refusal classifies an answer that isn't a success.
func (c *Client) refusal(response *http.Response, prompt string) *task.Error {
	content, _ := io.ReadAll(io.LimitReader(response.Body, maxErrorBody)) // whole, so that the connection can be used again
	problem, _ := readProblem(bytes.NewReader(content))
	return ejectUpstream(response, problemError(response, problem, prompt))
}

// ejectUpstream leaves out the proxy that a refusal of its exit came through: another's may be in another place. Where
// there is one, the task may go there, and nobody has to stop.
func ejectUpstream(response *http.Response, e *task.Error) *task.Error {
	switch e.Code {
	case task.CodeWrongCountry, task.CodeForbidden, task.CodeWebPage:
		if proxy.EjectUpstream(response, e.Code, e.Message) {
			e.Disposition = task.Release
		}
	}
	return e
}

// problemError turns the API's error into a task's. The API may quote the prompt: that is taken out of its text, before our
// words are added to it.
func problemError(response *http.Response, problem apiProblem, prompt string) *task.Error {
	v := classify(response.StatusCode, problem)
	e := &task.Error{Code: v.code, Disposition: v.do, Message: v.says}
	if problem.Message != "" {
		e.Message += ": " + oneLine(redact.Prompt(problem.Message, prompt))
	}
	if v.do != task.Fail {
		e.RetryAfter = retryAfter(response.Header, time.Now())
	}
	return e
}

// oneLine makes foreign text fit for a log line.
func oneLine(s string) string {
	s = strings.Join(strings.Fields(strings.ReplaceAll(strings.ToValidUTF8(s, "?"), "\x00", "?")), " ")
	if runes := []rune(s); len(runes) > 300 {
		s = string(runes[:300]) + "…"
	}
	return s
}

// maxEnvelope is what an answer may hold besides the picture, in bytes.
const maxEnvelope = 1 << 20

var errTooLong = errors.New("the answer has no end")

// maxReader is a reader that fails, rather than ends, at its bound.
type maxReader struct {
	r    io.Reader
	left int64
}

func (c *maxReader) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, errTooLong
	}
	n, err := c.r.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	return n, err
}

// read streams the picture out of a success.
func (c *Client) read(ctx context.Context, response *http.Response, prompt string, w io.Writer) error {
	network := &errReader{r: response.Body}
	body := &maxReader{r: network, left: c.conf.MaxBytes*4/3 + maxEnvelope}
	a, err := readAnswer(body, w)
	if err == nil && a.failed && !a.wrote {
		return problemError(response, a.problem, prompt)
	}
	if err == nil && !a.wrote && a.url != "" {
		return c.download(ctx, a.url, w)
	}
	if err == nil && a.wrote {
		return nil
	}
	return c.unreadable(ctx, response, network.err, a, err)
}

// unreadable says why an answer with status 200 gave no picture.
func (c *Client) unreadable(ctx context.Context, response *http.Response, network error, a answer, err error) error {
	if own, ok := errors.AsType[*errPicture](err); ok {
		return own.err
	}
	if network != nil {
		e := connectionError(ctx, network)
		if e.Code == task.CodeNetwork {
			e.Code, e.Message = task.CodeCutOff, "the API's answer was cut off: "+network.Error()
		}
		return e
	}
	bad := &task.Error{Code: task.CodeBadAnswer, Disposition: task.Fail, Err: err}
	switch {
	case err == nil:
		bad.Message = "the API's answer holds no picture"
	case errors.Is(err, errTooLong):
		bad.Message = "the API's answer is longer than any picture allowed"
	case errors.Is(err, io.ErrUnexpectedEOF):
		bad.Code, bad.Message = task.CodeCutOff, "the API's answer is cut off"
	case isWebPage(response):
		bad.Code, bad.Message = task.CodeWebPage, saysWebPage
		return ejectUpstream(response, bad)
	default:
		bad.Message = "the API's answer can't be read: " + oneLine(err.Error())
	}
	return bad
}

const saysWebPage = "the API answered with a web page; something between it and us does, or OPENAI_BASE_URL is wrong"

func isWebPage(response *http.Response) bool {
	contentType, _, _ := strings.Cut(response.Header.Get("Content-Type"), ";")
	return strings.EqualFold(strings.TrimSpace(contentType), "text/html")
}

// download fetches a picture that the API left at a URL, through the same transport, without the key.
func (c *Client) download(ctx context.Context, address string, w io.Writer) error {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || (u.Scheme != "https" && (u.Scheme != "http" || strings.HasPrefix(c.conf.BaseURL, "https"))) {
		return &task.Error{Code: task.CodeBadAnswer, Disposition: task.Fail, Message: "the API's answer points to no https URL"}
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return &task.Error{Code: task.CodeBadAnswer, Disposition: task.Fail, Message: "the API's answer points to no https URL"}
	}
	response, err := c.http.Do(request)
	if err != nil {
		return connectionError(ctx, withoutURL(err))
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		do := task.Fail
		if response.StatusCode >= 500 || response.StatusCode == http.StatusTooManyRequests {
			do = task.Retry
		}
		return &task.Error{Code: task.CodeBadAnswer, Disposition: do,
			Message: fmt.Sprintf("the picture's URL answers %d", response.StatusCode)}
	}
	network := &errReader{r: response.Body}
	if _, err := io.Copy(pictureWriter{w}, network); err != nil {
		return c.unreadable(ctx, response, network.err, answer{}, err)
	}
	return nil
}

// Probe asks for the list of models, which costs nothing: nil when the way to the API is open, else a
// *task.Error. An API that is there but has no such list is open. Where the connection breaks it asks once more:
// one that breaks says little of the next.
func (c *Client) Probe(ctx context.Context) error {
	_, err := c.ListModels(ctx)
	if broke, ok := errors.AsType[*task.Error](err); ok && (broke.Code == task.CodeNetwork || broke.Code == task.CodeCutOff) {
		_, err = c.ListModels(ctx)
	}
	if refused, ok := errors.AsType[*task.Error](err); ok && refused.Disposition == task.Fail {
		return nil
	}
	return err
}

// maxModels bounds the list of models, in bytes.
const maxModels = 4 << 20

// ListModels returns the ids of the API's models. Where it has no such list it makes sure, with a request that asks for
// nothing and costs nothing, that pictures can be asked for at all, and returns none. Every error is a *task.Error.
func (c *Client) ListModels(ctx context.Context) ([]string, error) {
	response, err := c.send(ctx, http.MethodGet, "/models", body{})
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	switch {
	case response.StatusCode == http.StatusNotFound || response.StatusCode == http.StatusMethodNotAllowed:
		return nil, c.takesRequests(ctx)
	case response.StatusCode >= 300:
		return nil, c.refusal(response, "")
	case isWebPage(response):
		return nil, ejectUpstream(response, &task.Error{Code: task.CodeWebPage, Disposition: task.Pause, Message: saysWebPage})
	}
	var list struct {
		Data []struct {
			ID string `json:"id"`
		} `json:"data"`
	}
	// A relay's list may look otherwise: that it answered is enough. It is read to its end, so that the connection can
	// be used again.
	body := io.LimitReader(response.Body, maxModels)
	_ = json.NewDecoder(body).Decode(&list)
	_, _ = io.Copy(io.Discard, body)
	var ids []string
	for _, m := range list.Data {
		ids = append(ids, oneLine(m.ID))
	}
	return ids, nil
}

// takesRequests asks for a picture of nothing: an API that makes pictures refuses that as incomplete, and nothing is
// made. What stands elsewhere doesn't know the address.
func (c *Client) takesRequests(ctx context.Context) error {
	response, err := c.send(ctx, http.MethodPost, "/images/generations", body{"application/json", [][]byte{[]byte("{}")}})
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode < 300 {
		return nil
	}
	if e := c.refusal(response, ""); e.Code != task.CodeBadRequest {
		return e
	}
	return nil
}
