package imageapi

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"imagetasks/pkg/proxy"
	"imagetasks/pkg/task"
)

// ownProxyResponse returns the error for a proxy's own response to a request that it may have forwarded, or nil if err is something else. The API
// may have made the picture: the outcome is unknown.
func ownProxyResponse(err error) *task.Error {
	failed, ok := errors.AsType[*proxy.Error](err)
	if !ok || !failed.Sent {
		return nil
	}
	return &task.Error{Code: failed.Code(), Disposition: task.Release, Scope: task.ScopeProxy, Message: failed.Error(), Unknown: true, Err: err}
}

// doubt returns an addition to the message about an error response that the proxy may have made instead of the API, or "".
func doubt(response *http.Response) string {
	via := proxy.Doubt(response)
	if via == "" {
		return ""
	}
	return "; nothing in the response tells whether the API made it or the proxy " + via
}

// redirected returns the outcome of a redirect, which names its target, or o if the response is none. Over https the API's own server
// redirects, so the base URL is wrong; over http anything between may do so, such as the login page of a network.
func redirected(response *http.Response, o outcome) outcome {
	if response.StatusCode < 300 || response.StatusCode >= 400 || response.Request == nil {
		return o
	}
	from := response.Request.URL
	to, err := from.Parse(response.Header.Get("Location"))
	if err != nil || to.Host == "" || response.Header.Get("Location") == "" {
		return o
	}
	target := oneLine(to.Host) // the rest of the URL may hold a secret
	switch {
	case from.Scheme == "http" && to.Scheme == "https" && to.Hostname() == from.Hostname():
		o.message = fmt.Sprintf("the address redirects to https://%s (%d); write https:// in OPENAI_BASE_URL", target, response.StatusCode)
	case from.Scheme == "http" && to.Hostname() != from.Hostname():
		o.code = task.CodeWebPage
		o.message = fmt.Sprintf("the response is a redirect to %s (%d), usually the login page of a network (captive portal) between this host and the API",
			target, response.StatusCode)
	default:
		o.message += fmt.Sprintf(": to %s (%d)", target, response.StatusCode)
	}
	return o
}

// checkedLocation is a transport that removes a Location that can't be parsed: http.Client would return an error that quotes it, instead of the
// response.
type checkedLocation struct{ http.RoundTripper }

func (t checkedLocation) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := t.RoundTripper.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if _, err := url.Parse(response.Header.Get("Location")); err != nil {
		response.Header.Del("Location")
	}
	return response, nil
}
