package imageapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"imagetasks/pkg/proxy"
	"imagetasks/pkg/redact"
	"imagetasks/pkg/task"
)

// outcome is the classification of an error response.
type outcome struct {
	code    task.Code
	do      task.Disposition
	message string
}

// Wildcards of the table.
const anyStatus, anyCode = 0, ""

// table classifies error responses: the first matching line applies. Status 200 is a response with an error object. code is
// compared with the code and the type of the error object.
var table = []struct {
	status int
	code   string
	outcome
}{
	{anyStatus, "moderation_blocked", outcome{task.CodeModeration, task.Fail, "moderation refused the prompt"}},
	{anyStatus, "content_policy_violation", outcome{task.CodeModeration, task.Fail, "moderation refused the prompt"}},
	{anyStatus, "insufficient_quota", outcome{task.CodeNoQuota, task.Pause, "the API account has no quota left; add credit to it"}},
	{anyStatus, "billing_hard_limit_reached", outcome{task.CodeNoQuota, task.Pause, "the API account's billing limit is reached; raise it"}},
	{anyStatus, "unsupported_country_region_territory", outcome{task.CodeWrongCountry, task.Pause, "the API does not serve the country of this IP address; use a proxy in another country"}},
	{anyStatus, "invalid_api_key", outcome{task.CodeUnauthorized, task.Pause, "the API refuses the key; check OPENAI_API_KEY"}},
	{200, anyCode, outcome{task.CodeBadAnswer, task.Fail, "the API returned an error with status 200"}},
	{401, anyCode, outcome{task.CodeUnauthorized, task.Pause, "the API refuses the key (401); check OPENAI_API_KEY"}},
	{403, anyCode, outcome{task.CodeForbidden, task.Pause, "the API refuses access (403)"}},
	{404, "model_not_found", outcome{task.CodeBadRequest, task.Fail, "the API does not have this model"}},
	{404, anyCode, outcome{task.CodeWrongAddress, task.Pause, "there is no Images API at this address (404); check OPENAI_BASE_URL, which ends in /v1"}},
	{407, anyCode, outcome{task.CodeProxyLoginMissing, task.Pause, "the proxy requires a login or refuses it (407)"}},
	{408, anyCode, outcome{task.CodeTimeout, task.Retry, "the API timed out (408)"}},
	{409, anyCode, outcome{task.CodeServer, task.Retry, "the API reports a conflict (409)"}},
	{429, anyCode, outcome{task.CodeRateLimited, task.Release, "the API's rate limit is reached (429)"}},
}

// classify returns the outcome of an error response. It has no side effects.
func classify(status int, e apiError) outcome {
	if isSuccess(status) {
		status = http.StatusOK
	}
	for _, line := range table {
		if (line.status == anyStatus || line.status == status) &&
			(line.code == anyCode || line.code == e.Code || line.code == e.Type) {
			return line.outcome
		}
	}
	switch {
	case status >= 500:
		return outcome{task.CodeServer, task.Retry, fmt.Sprintf("the API failed (%d)", status)}
	case status >= 400:
		return outcome{task.CodeBadRequest, task.Fail, fmt.Sprintf("the API refused the request (%d)", status)}
	}
	// Redirects and the like come from captive portals and wrong addresses.
	return outcome{task.CodeWrongAddress, task.Pause, fmt.Sprintf("the API's address returned status %d; check OPENAI_BASE_URL and the proxy", status)}
}

// connectionError classifies a request without a response. If no connection could be made, the API is unreachable and the
// request was not sent (Pause). Otherwise the API may have worked on it and billed it: the outcome is unknown.
func connectionError(ctx context.Context, err error) *task.Error {
	if own := ownProxyResponse(err); own != nil {
		return own
	}
	unreachable, notSent := errors.AsType[*proxy.Error](err)
	if errors.Is(ctx.Err(), context.Canceled) {
		return &task.Error{Code: task.CodeShutdown, Disposition: task.Release, Message: "the attempt was interrupted",
			Unknown: !notSent, NotSent: notSent, Err: err}
	}
	if notSent {
		return &task.Error{Code: unreachable.Code(), Disposition: task.Pause, Message: unreachable.Error(), NotSent: true, Err: err}
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return &task.Error{Code: task.CodeTimeout, Disposition: task.Retry,
			Message: "the attempt exceeded TASK_TIMEOUT", Unknown: true, Err: err}
	}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		return &task.Error{Code: task.CodeTimeout, Disposition: task.Retry,
			Message: "the API did not respond in time: " + err.Error(), Unknown: true, Err: err}
	}
	return &task.Error{Code: task.CodeNetwork, Disposition: task.Retry,
		Message: "the connection to the API broke: " + err.Error(), Unknown: true, Err: err}
}

// maxErrorBody bounds the body of an error response, in bytes.
const maxErrorBody = 64 << 10

// statusError classifies a response with a status other than 200. The API may quote the prompt and other private texts: they
// are removed.
func statusError(response *http.Response, private []string) *task.Error {
	// The body is read whole so that the connection can be reused.
	content, readErr := io.ReadAll(io.LimitReader(response.Body, maxErrorBody))
	parsed, parseErr := parseResponse(bytes.NewReader(content), io.Discard)
	e := responseError(response, parsed.apiError, private)
	e.Message += doubt(response)
	whole := readErr == nil && (parseErr == nil || len(content) == maxErrorBody)
	e.Unknown = isUnknown(response, parsed.failed && whole, e.Disposition)
	return e
}

// isUnknown reports whether an error response leaves open what became of the request. answered: it is an error object of the API, read whole.
func isUnknown(response *http.Response, answered bool, do task.Disposition) bool {
	switch status := response.StatusCode; {
	case status == http.StatusGatewayTimeout: // the API's answer did not reach the server that reports this
		return true
	case answered, status == http.StatusTooManyRequests, do == task.Pause: // it was not passed on
		return false
	default:
		// A page of something between this host and the API says nothing about what became of the request.
		return status >= 500 || status == http.StatusRequestTimeout || isWebPage(response)
	}
}

// responseError classifies an error response by its status and its error object. Private texts are removed from the API's
// text before it becomes part of our own: a short one would damage that.
func responseError(response *http.Response, e apiError, private []string) *task.Error {
	o := redirected(response, classify(response.StatusCode, e))
	out := &task.Error{Code: o.code, Disposition: o.do, Message: o.message}
	if e.Message != "" {
		message := e.Message
		for _, text := range private {
			message = redact.Prompt(message, text)
		}
		out.Message += ": " + oneLine(message)
	}
	if o.do != task.Fail {
		out.RetryAfter = retryAfter(response.Header, time.Now())
	}
	return out
}

// readError classifies a failure to read a picture from a response with status 200. network is the error of the connection,
// if there was one.
func readError(ctx context.Context, response *http.Response, network, err error) error {
	if w, ok := errors.AsType[*writeError](err); ok {
		return w.err
	}
	if network != nil {
		e := connectionError(ctx, network)
		if e.Code == task.CodeNetwork {
			e.Code, e.Message = task.CodeCutOff, "the API's response was cut off: "+network.Error()
		}
		return e
	}
	e := &task.Error{Code: task.CodeBadAnswer, Disposition: task.Retry, Unknown: true, Err: err}
	switch {
	case errors.Is(err, errTooLong):
		e.Disposition, e.Unknown = task.Fail, false
		e.Message = "the API's response is larger than any picture allowed"
	case errors.Is(err, io.ErrUnexpectedEOF):
		e.Code, e.Message = task.CodeCutOff, "the API's response is incomplete"
	case isWebPage(response):
		e.Code, e.Message = task.CodeWebPage, webPageMessage
	default:
		if !errors.Is(err, errSyntax) { // a whole answer of the API, without a picture that can be used
			e.Disposition, e.Unknown = task.Fail, false
		}
		e.Message = "the API's response can't be parsed: " + oneLine(err.Error())
	}
	return e
}

const webPageMessage = "the response is a web page: a device or page between this host and the API responded, or OPENAI_BASE_URL is wrong"

func isWebPage(response *http.Response) bool {
	contentType, _, _ := strings.Cut(response.Header.Get("Content-Type"), ";")
	return strings.EqualFold(strings.TrimSpace(contentType), "text/html")
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
