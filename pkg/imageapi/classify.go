package imageapi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"imagetasks/pkg/pattern"
	"imagetasks/pkg/proxy"
	"imagetasks/pkg/redact"
	"imagetasks/pkg/task"
)

// classify returns the outcome of an error of the API. key is the one that was sent.
func classify(status int, e apiError, key string) outcome {
	status = errorStatus(status, e)
	o := answerLine(status, e, key).outcome
	if isTimeout(status) { // the answer to the request did not reach the server that reports this
		o.unknown = true
		if o.do != task.Pause {
			o.do = task.Release
		}
	}
	return withStatus(o, status)
}

// errorStatus returns the status of an error: that of the response, or the error's code if the response's is not one of an error.
func errorStatus(status int, e apiError) int {
	if code, err := strconv.Atoi(e.Code); err == nil && status < 400 && code >= 400 && code < 600 {
		return code
	}
	return status
}

// answerLine returns the line of the table that applies to an error of the API.
func answerLine(status int, e apiError, key string) line {
	e = apiError{Code: strings.ToLower(strings.TrimSpace(e.Code)), Type: strings.ToLower(strings.TrimSpace(e.Type)), Message: strings.ToLower(e.Message)}
	if namesAnotherKey(e.Message, strings.ToLower(key)) {
		e.Code, e.Type = foreignKey, ""
	}
	return answers[slices.IndexFunc(answers, func(l line) bool { return l.matches(status, e) })] // the last line matches everything
}

// pageOf returns the line of the table that applies to a response that is not the API's.
func pageOf(p page) pageLine {
	return pages[slices.IndexFunc(pages, func(l pageLine) bool { return l.matches(p) })] // the last line matches everything
}

// isTimeout reports whether a status leaves open what became of the request, regardless of its sender.
func isTimeout(status int) bool {
	switch status {
	case http.StatusRequestTimeout, statusClientClosed, http.StatusGatewayTimeout, statusTimeout:
		return true
	}
	return false
}

// classifyPage returns the outcome of a response that is not the API's.
func classifyPage(p page) outcome {
	o := pageOf(p).outcome
	if !isSuccess(p.status) {
		o = withStatus(o, p.status)
	}
	return o
}

func withStatus(o outcome, status int) outcome {
	if text := fmt.Sprintf("(%d)", status); !strings.Contains(o.message, text) {
		o.message += " " + text
	}
	return o
}

// maskedKey matches a key that the API quotes in part.
var maskedKey = pattern.New(`\bsk-([a-z0-9_-]*)(?:\*{3,}|\.{3,}|…)([a-z0-9_-]*)`)

// namesAnotherKey reports whether a message about a key quotes another one than ours: a relay passes on what its upstream answers. Both texts are
// in lower case.
func namesAnotherKey(message, key string) bool {
	quoted := maskedKey().FindStringSubmatch(message)
	if quoted == nil || key == "" || !strings.Contains(message, "key") {
		return false
	}
	return !strings.HasPrefix(strings.TrimPrefix(key, "sk-"), quoted[1]) || !strings.HasSuffix(key, quoted[2])
}

// connectionError classifies a request without a response. If no connection could be made, the API is unreachable and the
// request was not sent (Pause). Otherwise the API may have worked on it and billed it: the outcome is unknown.
//
// What breaks after the request was sent has the scope endpoint: whether the API, the proxy or something between them broke it is not known here.
func connectionError(ctx context.Context, err error) *task.Error {
	if own := ownProxyResponse(err); own != nil {
		return own
	}
	unreachable, notSent := errors.AsType[*proxy.Error](err)
	if errors.Is(ctx.Err(), context.Canceled) {
		return &task.Error{Code: task.CodeShutdown, Disposition: task.Release, Scope: task.ScopeAll, Message: "the attempt was interrupted",
			Unknown: !notSent, NotSent: notSent, Err: err}
	}
	if notSent {
		return &task.Error{Code: unreachable.Code(), Disposition: task.Pause, Scope: task.ScopeProxy, Message: unreachable.Error(), NotSent: true, Err: err}
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return &task.Error{Code: task.CodeTimeout, Disposition: task.Release, Scope: task.ScopeEndpoint,
			Message: "the attempt exceeded TASK_TIMEOUT", Unknown: true, Err: err}
	}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		return &task.Error{Code: task.CodeTimeout, Disposition: task.Release, Scope: task.ScopeEndpoint,
			Message: "the API did not respond in time: " + err.Error(), Unknown: true, Err: err}
	}
	return &task.Error{Code: task.CodeNetwork, Disposition: task.Release, Scope: task.ScopeEndpoint,
		Message: "the connection to the API broke: " + err.Error(), Unknown: true, Err: err}
}

// maxErrorBody bounds the body of an error response, in bytes, before and after its decompression.
const maxErrorBody = 64 << 10

// statusError classifies a response with a status that is not one of success. The API may quote the prompt and other private texts: they are
// removed.
func (c *Client) statusError(ctx context.Context, response *http.Response, private []string) *task.Error {
	network := &errReader{r: response.Body}
	a, err := readAnswer(response, network, maxErrorBody, nil, nil, source{})
	if network.err != nil && ctx.Err() != nil {
		e := connectionError(ctx, network.err)
		e.Unknown = true
		return e
	}
	whole := network.err == nil && (err == nil || errors.Is(err, errTooLong))
	answered := a.form == formJSON || a.form == formEvents
	if answered && (a.failed || a.apiError.Message != "" || response.StatusCode >= 400 && response.StatusCode < 500) {
		e := c.answerError(response, a.apiError, private)
		cut := !whole && response.StatusCode >= 500                                                          // what it says may not be its cause
		gateways := response.StatusCode == http.StatusBadGateway && !a.failed && e.Disposition == task.Retry // a message without an error
		if cut || gateways {
			e.Unknown, e.Disposition = true, task.Release
		}
		return e
	}
	return c.pageError(response, a, private)
}

// answerError classifies an error of the API. Private texts are removed from the API's text before it is compared with the tables and becomes part
// of our own: a prompt must not decide what an error means, nor a short one damage our words.
func (c *Client) answerError(response *http.Response, e apiError, private []string) *task.Error {
	e.Message = hide(e.Message, private)
	return newError(response, classify(response.StatusCode, e, keyOf(response)), c.shown(response, e.Message))
}

// pageError classifies a response that is not the API's.
func (c *Client) pageError(response *http.Response, a answer, private []string) *task.Error {
	text := hide(a.said, private)
	p := newPage(response, a.form, text)
	said := ""
	switch {
	case p.form == formText:
		said = c.shown(response, text)
	case p.form == formPage:
		said = c.shown(response, pageTitle(text))
	}
	e := newError(response, redirected(response, classifyPage(p)), said)
	e.Message += doubt(response)
	return e
}

func newPage(response *http.Response, form bodyForm, text string) page {
	p := page{status: response.StatusCode, form: form, header: response.Header, said: text, text: strings.ToLower(text)}
	if p.form == formText && (isPage(response) || strings.Contains(p.text, "<html")) {
		p.form = formPage
	}
	return p
}

// isPage reports whether a response says that it is a web page.
func isPage(response *http.Response) bool { return mediaType(response.Header) == "text/html" }

var title = pattern.New(`(?is)<title[^>]*>(.{1,200}?)</title>`)

// pageTitle returns the title of a page, or "".
func pageTitle(text string) string {
	if m := title().FindStringSubmatch(text); m != nil {
		return m[1]
	}
	return ""
}

// newError returns the error of a response. said are its own words, without what is private.
func newError(response *http.Response, o outcome, said string) *task.Error {
	e := &task.Error{Code: o.code, Disposition: o.do, Scope: o.scope, Unknown: o.unknown, InProgress: o.working, Message: o.message}
	if said != "" {
		e.Message += ": " + said
	}
	if o.do != task.Fail {
		e.RetryAfter = retryAfter(response.Header, time.Now())
	}
	return e
}

// shown makes words of the API fit to be shown: without keys and the secret part of URLs, in one line, cut.
func (c *Client) shown(response *http.Response, text string) string {
	return oneLine(c.withoutSecrets(response, text))
}

// withoutSecrets removes keys, and the queries of URLs, from a text of the API.
func (c *Client) withoutSecrets(response *http.Response, text string) string {
	text = redact.New(keyOf(response), *c.key.Load()).String(text)
	return urlQuery().ReplaceAllString(partOfKey().ReplaceAllString(text, redact.Mask), "$1?"+redact.Mask)
}

// keyOf returns the key that the request of a response was sent with. The client's may be another one by now.
func keyOf(response *http.Response) string {
	if response.Request == nil {
		return ""
	}
	return strings.TrimPrefix(response.Request.Header.Get("Authorization"), "Bearer ")
}

// partOfKey matches a key that is quoted in part.
var partOfKey = pattern.New(`\bsk-[A-Za-z0-9_-]{0,8}[A-Za-z0-9_*.…-]{4,}`)

// urlQuery matches URLs with a query, which is a secret in signed ones.
var urlQuery = pattern.New(`(?i)(https?://[^\s"'<>?\\]+)\?[^\s"'<>)\]\\]+`)

// readError classifies a failure to read a picture from a response with a status of success. network is the error of the connection, if there was
// one, and err that of reading; nil: the response was read whole.
func (c *Client) readError(ctx context.Context, response *http.Response, a answer, network, err error, private []string) *task.Error {
	if w, ok := errors.AsType[*writeError](err); ok {
		e := *task.AsError(w.err)
		e.Paid = true
		return &e
	}
	if network != nil {
		e := connectionError(ctx, network)
		if e.Code == task.CodeNetwork {
			e.Code, e.Message = task.CodeCutOff, "the API's response was cut off: "+network.Error()
		}
		return e
	}
	_, packed := errors.AsType[*encodingFault](err)
	bad := func(do task.Disposition, scope task.Scope, unknown bool, message string) *task.Error {
		return &task.Error{Code: task.CodeBadAnswer, Disposition: do, Scope: scope, Unknown: unknown, Message: message, Err: err}
	}
	switch {
	case errors.Is(err, errTooLong):
		return bad(task.Fail, task.ScopeTask, false, "the API's response is larger than any picture allowed")
	case errors.Is(err, errNotBase64):
		return bad(task.Fail, task.ScopeEndpoint, false, "the picture in the API's response can't be decoded: "+err.Error())
	case errors.Is(err, io.ErrUnexpectedEOF) && (a.form != formEmpty || packed):
		e := bad(task.Release, task.ScopeEndpoint, true, "the API's response is incomplete")
		e.Code = task.CodeCutOff
		return e
	case packed:
		return bad(task.Release, task.ScopeEndpoint, true, err.Error())
	case a.failed:
		return c.answerError(response, a.apiError, private)
	case err != nil || a.form == formEmpty || a.form == formPage || a.form == formText:
		e := c.pageError(response, a, private)
		e.Err = err
		return e
	case a.badURL:
		e := bad(task.Fail, task.ScopeEndpoint, false, "the URL in the API's response can't be used")
		e.Paid = true
		return e
	}
	if said := hide(a.said, private); a.chat {
		switch lower := strings.ToLower(said); {
		case failure().MatchString(lower):
			return c.answerError(response, apiError{Message: said}, nil)
		case refusal().MatchString(lower):
			return c.answerError(response, apiError{Code: "content_filter", Message: said}, nil)
		}
	}
	// A whole answer of the API without a picture and without an error may have been billed: it is not asked for again.
	e := bad(task.Fail, task.ScopeEndpoint, false, "the API's response contains no picture")
	if said := cmp.Or(a.apiError.Message, a.said); said != "" {
		e.Scope = task.ScopeTask // words about this request
		e.Message += ": " + c.shown(response, hide(said, private))
	}
	return e
}

// maxRetryAfter bounds the wait that the API may ask for. A longer one is a mistake of the API.
const maxRetryAfter = time.Hour

// retryAfter parses Retry-After-Ms, or Retry-After in seconds or as a date (RFC 9110, section 10.2.3).
func retryAfter(h http.Header, now time.Time) time.Duration {
	var wait time.Duration
	text := strings.TrimSpace(h.Get("Retry-After"))
	if ms, err := strconv.ParseFloat(strings.TrimSpace(h.Get("Retry-After-Ms")), 64); err == nil && ms > 0 {
		wait = asDuration(ms, time.Millisecond)
	} else if seconds, err := strconv.ParseFloat(text, 64); err == nil && seconds > 0 {
		wait = asDuration(seconds, time.Second)
	} else if at, err := http.ParseTime(text); err == nil {
		wait = at.Sub(now)
	}
	return min(max(wait, 0), maxRetryAfter)
}

// asDuration multiplies without overflow, and returns 0 for NaN.
func asDuration(n float64, unit time.Duration) time.Duration {
	d := n * float64(unit)
	switch {
	case d > float64(maxRetryAfter):
		return maxRetryAfter
	case d > 0:
		return time.Duration(d)
	}
	return 0
}
