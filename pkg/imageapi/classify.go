package imageapi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"imagetasks/pkg/proxy"
	"imagetasks/pkg/task"
)

// verdict is what a failure means.
type verdict struct {
	code task.Code
	do   task.Disposition
	says string
}

// any stands for every status or code in the table.
const anyStatus, anyCode = 0, ""

// table is the one place that says what becomes of a task when the API answers with an error: the
// first line that matches. Status is the answer's; 200 is an error object in an answer that called
// itself a success. code is compared with the error object's code, and with its type.
var table = []struct {
	status int
	code   string
	verdict
}{
	{anyStatus, "moderation_blocked", verdict{task.CodeModeration, task.Fail, "the prompt was refused by moderation"}},
	{anyStatus, "content_policy_violation", verdict{task.CodeModeration, task.Fail, "the prompt was refused by moderation"}},
	{anyStatus, "insufficient_quota", verdict{task.CodeNoQuota, task.Pause, "the API account has no quota left; add credit to it"}},
	{anyStatus, "billing_hard_limit_reached", verdict{task.CodeNoQuota, task.Pause, "the API account's billing limit is reached; raise it"}},
	{anyStatus, "unsupported_country_region_territory", verdict{task.CodeWrongCountry, task.Pause, "the API doesn't serve the country that the proxy's exit is in; use another exit"}},
	{anyStatus, "invalid_api_key", verdict{task.CodeUnauthorized, task.Pause, "the API refuses the key; check OPENAI_API_KEY"}},
	{200, anyCode, verdict{task.CodeBadAnswer, task.Fail, "the API answered 200 with an error"}},
	{401, anyCode, verdict{task.CodeUnauthorized, task.Pause, "the API refuses the key (401); check OPENAI_API_KEY"}},
	{403, anyCode, verdict{task.CodeForbidden, task.Pause, "the API refuses access (403)"}},
	{404, "model_not_found", verdict{task.CodeBadRequest, task.Fail, "the API doesn't know the model"}},
	{404, anyCode, verdict{task.CodeWrongAddress, task.Pause, "there is no Images API at this address (404); check OPENAI_BASE_URL, which ends in /v1"}},
	{407, anyCode, verdict{task.CodeProxyLoginMissing, task.Pause, "the proxy wants a login (407), or refuses the one it was given"}},
	{408, anyCode, verdict{task.CodeTimeout, task.Retry, "the API gave up waiting (408)"}},
	{409, anyCode, verdict{task.CodeServer, task.Retry, "the API reports a conflict (409)"}},
	{429, anyCode, verdict{task.CodeRateLimited, task.Release, "the API's rate limit is reached (429)"}},
}

// classify looks an error answer up in the table.
func classify(status int, problem apiProblem) verdict {
	for _, line := range table {
		if (line.status == anyStatus || line.status == status) &&
			(line.code == anyCode || line.code == problem.Code || line.code == problem.Type) {
			return line.verdict
		}
	}
	switch {
	case status >= 500:
		return verdict{task.CodeServer, task.Retry, fmt.Sprintf("the API failed (%d)", status)}
	case status >= 400:
		return verdict{task.CodeBadRequest, task.Fail, fmt.Sprintf("the API refused the request (%d)", status)}
	}
	// A redirect or the like is what a captive portal or a wrong address does.
	return verdict{task.CodeWrongAddress, task.Pause, fmt.Sprintf("the API's address answers %d; check OPENAI_BASE_URL and the proxy", status)}
}

// connectionError classifies a request that got no answer. One that never left, because no
// connection could be made, says that the way is shut; one that did may have been worked (and paid
// for), and uses up its attempt.
func connectionError(ctx context.Context, err error) *task.Error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return &task.Error{Code: task.CodeShutdown, Disposition: task.Release, Message: "the attempt was broken off", Err: err}
	}
	if fault, ok := errors.AsType[*proxy.Error](err); ok {
		return &task.Error{Code: fault.Code(), Disposition: task.Pause, Message: fault.Error(), NotSent: true, Err: err}
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return &task.Error{Code: task.CodeTimeout, Disposition: task.Retry,
			Message: "the attempt took longer than TASK_TIMEOUT allows", Err: err}
	}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		return &task.Error{Code: task.CodeTimeout, Disposition: task.Retry,
			Message: "the API was too slow to answer: " + err.Error(), Err: err}
	}
	return &task.Error{Code: task.CodeNetwork, Disposition: task.Retry,
		Message: "the connection to the API broke: " + err.Error(), Err: err}
}

// maxRetryAfter bounds what the API may ask for: a day is a mistake, not a wait.
const maxRetryAfter = time.Hour

// retryAfter reads Retry-After-Ms, or Retry-After in seconds or as a date (RFC 9110, section 10.2.3).
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

// asDuration multiplies without overflow; what is no number is nothing.
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
