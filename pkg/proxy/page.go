package proxy

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"imagetasks/pkg/task"
)

// answer is a response to CONNECT or to a plain request through a proxy.
type answer struct {
	status int
	reason string // the status line after the protocol
	header http.Header
	page   []byte // its beginning
}

// own is a response that a proxy made itself.
type own struct {
	program string    // that made it
	code    task.Code // empty: by the status
	unsent  bool      // the request was certainly not forwarded
}

// ownResponses are the marks of the responses that proxies make themselves. They don't occur in responses that they forward. Each
// was taken from the program itself; TestRecognize has the responses.
var ownResponses = []struct {
	program string
	header  string // that is present
	value   string // in it, in lower case; empty: any
	page    string // in the page or in the status line
	code    task.Code
	unsent  bool
}{
	{program: "squid", header: "X-Squid-Error", value: "err_connect_fail", code: task.CodeProxyTarget, unsent: true},
	{program: "squid", header: "X-Squid-Error", value: "err_dns_fail", code: task.CodeProxyTarget, unsent: true},
	{program: "squid", header: "X-Squid-Error", value: "err_access_denied", unsent: true},
	{program: "squid", header: "X-Squid-Error"},
	{program: "squid", header: "Server", value: "squid"},
	{program: "tinyproxy", header: "Server", value: "tinyproxy", page: "Unable to connect", code: task.CodeProxyTarget, unsent: true},
	{program: "tinyproxy", header: "Server", value: "tinyproxy", page: "401 Unauthorized", unsent: true},
	{program: "tinyproxy", header: "Server", value: "tinyproxy", page: "403 ", unsent: true},
	{program: "tinyproxy", header: "Server", value: "tinyproxy"},
	{program: "privoxy", page: "503 Connect failed", code: task.CodeProxyTarget, unsent: true},
	{program: "privoxy", page: "404 No such domain", code: task.CodeProxyTarget, unsent: true},
	{program: "privoxy", page: "Request blocked by Privoxy", code: task.CodeProxyForbids, unsent: true},
	{program: "privoxy", page: "(Privoxy@"},
	{program: "mitmproxy", header: "Server", value: "mitmproxy"},
	{header: "Proxy-Authenticate", unsent: true},
}

// OwnResponse reports whether a response has the mark of a forward proxy that made it itself, and whether that proxy may have forwarded the
// request all the same. page is the beginning of the body. Transport returns an error for such responses of its own proxies; a proxy between
// this host and the API may be none of them.
func OwnResponse(status int, header http.Header, page string) (own, forwarded bool) {
	o, own := recognize(answer{status: status, header: header, page: []byte(page)})
	return own, own && !o.unsent && !needsLogin(status)
}

// recognize returns what made a response that a proxy made itself, and false if the response has no mark of one.
func recognize(a answer) (own, bool) {
	if a.status < 400 {
		return own{}, false
	}
	for _, line := range ownResponses {
		if line.header != "" {
			values := a.header.Values(line.header)
			if len(values) == 0 || !strings.Contains(strings.ToLower(strings.Join(values, " ")), line.value) {
				continue
			}
		}
		if line.page != "" && !strings.Contains(a.reason, line.page) && !bytes.Contains(a.page, []byte(line.page)) {
			continue
		}
		return own{line.program, line.code, line.unsent}, true
	}
	// Some proxies (v2ray) add this header to what they forward, too; but what they forward has a date.
	if a.header.Get("Proxy-Connection") != "" && a.header.Get("Date") == "" && len(a.page) == 0 {
		return own{}, true
	}
	return proxyStatus(a)
}

// forwardError returns the error for a proxy's own response to a request that it was to forward.
func (o own) forwardError(proxy *url.URL, target string, a answer) *Error {
	e := refusal(OpForward, proxy, target, a)
	e.Sent = !o.unsent && !needsLogin(a.status)
	return e
}

// unsentErrors are the errors of Proxy-Status (RFC 9209) that mean that nothing was forwarded.
var unsentErrors = map[string]task.Code{
	"destination_not_found": task.CodeProxyTarget, "destination_unavailable": task.CodeProxyTarget, "destination_ip_unroutable": task.CodeProxyTarget,
	"dns_error": task.CodeProxyTarget, "dns_timeout": task.CodeProxyTarget, "connection_refused": task.CodeProxyTarget,
	"connection_timeout": task.CodeProxyTarget, "destination_ip_prohibited": task.CodeProxyForbids, "http_request_denied": task.CodeProxyForbids,
}

// proxyStatus reads the header Proxy-Status. The last of several proxies is the one next to this host.
func proxyStatus(a answer) (own, bool) {
	list := strings.Join(a.header.Values("Proxy-Status"), ",")
	if list == "" || a.isCDN() {
		return own{}, false
	}
	last := list[strings.LastIndex(list, ",")+1:]
	for _, parameter := range strings.Split(last, ";")[1:] {
		name, value, _ := strings.Cut(strings.TrimSpace(parameter), "=")
		if name == "error" {
			code, unsent := unsentErrors[value]
			return own{"", code, unsent}, true
		}
	}
	return own{}, false
}

// isSuspect reports whether a response to a forwarded request may be the proxy's own.
func (a answer) isSuspect() bool {
	switch {
	case a.status >= 400:
		return true
	case a.status >= 300, a.isHTML():
		return !a.isOrigin()
	}
	return false
}

// isOrigin reports whether a header shows that the API made a response, or a CDN before it.
func (a answer) isOrigin() bool {
	if a.isCDN() {
		return true
	}
	for _, name := range []string{"X-Request-Id", "Openai-Version", "Openai-Processing-Ms", "X-Ratelimit-Limit-Requests"} {
		if a.header.Get(name) != "" {
			return true
		}
	}
	return false
}

// isCDN reports whether a CDN before the API has sent the response.
func (a answer) isCDN() bool {
	return a.header.Get("Cf-Ray") != "" || strings.EqualFold(a.header.Get("Server"), "cloudflare") || a.header.Get("X-Amz-Cf-Id") != ""
}

func (a answer) isHTML() bool {
	return strings.Contains(strings.ToLower(a.header.Get("Content-Type")), "html")
}

func (a answer) isJSON() bool {
	return strings.Contains(strings.ToLower(a.header.Get("Content-Type")), "json") || bytes.HasPrefix(bytes.TrimSpace(a.page), []byte("{"))
}

// isErrorObject reports whether a response has the form of the API's errors.
func (a answer) isErrorObject() bool { return a.isJSON() && bytes.Contains(a.page, []byte(`"error"`)) }

// isGatewayError reports whether a status is one that a proxy has for a target that it can't reach.
func (a answer) isGatewayError() bool {
	switch a.status {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout, http.StatusInternalServerError:
		return true
	}
	return false
}

// isWebServer reports whether a response to CONNECT is that of a web server: it takes the method for a mistake, or redirects.
func (a answer) isWebServer() bool {
	if _, ok := recognize(a); ok {
		return false
	}
	switch a.status {
	case http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented, http.StatusUpgradeRequired, http.StatusMisdirectedRequest:
		return true
	}
	return a.status >= 300 && a.status < 400
}

// isPage reports whether a response to CONNECT with status 200 has a body, which that of a proxy has not.
func isPage(a answer) bool {
	length := a.header.Get("Content-Length")
	return length != "" && length != "0" || a.isHTML() || a.header.Get("Transfer-Encoding") != ""
}

// speaksTLS reports whether a response is that of an https server to a plain request.
func (a answer) speaksTLS() bool {
	return a.status == http.StatusBadRequest &&
		(bytes.Contains(a.page, []byte("HTTP request to an HTTPS server")) || bytes.Contains(a.page, []byte("HTTP request was sent to HTTPS port")) ||
			bytes.Contains(a.page, []byte("speaking plain HTTP to an SSL-enabled server port")))
}

// refusal returns the error for a proxy's response that opened no tunnel or forwarded nothing.
func refusal(op Op, proxy *url.URL, target string, a answer) *Error {
	e := newError(op, proxy, target, fmt.Errorf("the proxy responded %d %s", a.status, http.StatusText(a.status)))
	e.Status = a.status
	known, ok := recognize(a)
	if ok && known.program != "" {
		e.Err = fmt.Errorf("the proxy (%s) responded %d %s", known.program, a.status, http.StatusText(a.status))
	}
	switch {
	case needsLogin(a.status) && e.Login:
		e.Err = fmt.Errorf("the proxy refuses the login (%d)", a.status)
	case needsLogin(a.status):
		e.Err = fmt.Errorf("the proxy requires a login (%d)", a.status)
	case ok && known.code != "":
		e.code = known.code
	case a.speaksTLS():
		e.code, e.Err = task.CodeProxyNeedsTLS, errTLS
	case op == OpConnect && a.isWebServer():
		return webServer(op, proxy, target, a)
	}
	return e
}

// webServer returns the error for a web server at a proxy's address.
func webServer(op Op, proxy *url.URL, target string, a answer) *Error {
	e := newError(op, proxy, target, nil)
	e.Status, e.code = a.status, task.CodeProxyNoProxy
	if a.speaksTLS() {
		e.code, e.Err = task.CodeProxyNeedsTLS, errTLS
		return e
	}
	name := "a web server"
	if program, _, _ := strings.Cut(a.header.Get("Server"), " "); program != "" && len(program) < 40 {
		name += " (" + strings.ToValidUTF8(program, "?") + ")"
	}
	e.Err = fmt.Errorf("%s responded there with %d %s, not a proxy", name, a.status, http.StatusText(a.status))
	if host := redirectHost(a.header); host != "" && a.status < 400 {
		e.Err = fmt.Errorf("%w; it redirects to %s", e.Err, host)
	}
	return e
}

// needsLogin reports whether a status is about the proxy's login: 407, or tinyproxy's 401.
func needsLogin(status int) bool {
	return status == http.StatusProxyAuthRequired || status == http.StatusUnauthorized
}
