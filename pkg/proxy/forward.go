package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"imagetasks/pkg/redact"
	"imagetasks/pkg/task"
)

const (
	// askAfter is how long a response of the proxy shows that it works. After that it is asked again before a request is forwarded.
	askAfter = 10 * time.Second
	// explainTimeout bounds the question that tells a proxy's page from the API's.
	explainTimeout = 5 * time.Second
	// closedAfter is how long a tunnel must stay open to show that it leads to the API. v2ray tries to connect for about a second.
	closedAfter = 3 * time.Second
	// closedAtOnce is the same for a tunnel that is opened before each request: sing-box closes it in some milliseconds.
	closedAtOnce = 200 * time.Millisecond
)

// sendForward sends a plain request through an http proxy. A response that the proxy made itself is an *Error.
//
// The proxy responds only when the API has, which may take minutes. One that accepts connections and does nothing would not be noticed until
// then, and a request that was sent to it counts as one of unknown outcome. So a proxy that has not responded lately is first asked for a
// tunnel, which each one accepts or refuses at once.
func (up *upstream) sendForward(r *http.Request, proxy *url.URL) (*http.Response, error) {
	target := hostPort(r.URL)
	_, download := downloadOf(r.Context()) // it costs nothing and has a limit of its own
	if !download && time.Since(time.Unix(0, up.answered.Load())) > askAfter {
		if err := up.checkForward(r.Context(), proxy, target); err != nil {
			if r.Body != nil {
				_ = r.Body.Close()
			}
			return nil, err
		}
	}
	response, err := up.forward.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	up.answered.Store(time.Now().UnixNano())
	return up.inspect(r, proxy, target, response)
}

// checkForward returns an *Error if an http proxy does not respond, is no http proxy, or can't reach the target. Whether it opens tunnels does
// not matter.
func (up *upstream) checkForward(ctx context.Context, proxy *url.URL, target string) error {
	began := time.Now()
	conn, a, err := up.askCONNECT(ctx, proxy, target, up.conf.ConnectTimeout)
	switch {
	case conn != nil:
		defer conn.Close()
		if closesWithin(ctx, conn, closedAtOnce) {
			return refusal(OpForward, proxy, target, answer{status: http.StatusBadGateway})
		}
		record(ctx, OpConnect, began)
	case err == nil && (a.status == http.StatusProxyAuthRequired || a.speaksTLS()):
		return refusal(OpForward, proxy, target, a)
	case err != nil:
		failed := asError(err, OpForward, proxy, target)
		if failed.Op != OpConnect {
			return failed
		}
		// One that closes the connection may forward and open no tunnels.
		if failed.Op = OpForward; failed.Code() != task.CodeProxyFailed || !up.forwardsFree(ctx, target) {
			return failed
		}
	}
	record(ctx, OpForward, began)
	return nil
}

// forwardsFree reports whether a request that is free of charge gets a response, or none in a few seconds.
func (up *upstream) forwardsFree(ctx context.Context, target string) bool {
	limited, cancel := context.WithTimeout(ctx, explainTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(limited, http.MethodHead, "http://"+target+"/", nil)
	if err != nil {
		return false
	}
	response, err := up.forward.RoundTrip(r)
	if err != nil {
		return limited.Err() != nil && ctx.Err() == nil
	}
	_ = response.Body.Close()
	return true
}

// inspect returns the response to a forwarded request if the API made it, or if nothing tells who did. Otherwise the error is an *Error.
func (up *upstream) inspect(r *http.Request, proxy *url.URL, target string, response *http.Response) (*http.Response, error) {
	a := answer{status: response.StatusCode, reason: response.Status, header: response.Header}
	if !a.isSuspect() {
		return response, nil
	}
	page, rest := peek(response.Body)
	a.page = page
	failed := up.ownResponse(r.Context(), proxy, target, a)
	if failed != nil {
		_ = response.Body.Close()
		return nil, failed
	}
	body := &forwardedBody{Reader: rest, Closer: response.Body}
	if a.status >= 400 && !a.isOrigin() && !a.isJSON() {
		body.doubt = redact.URL(proxy)
	}
	response.Body = body
	return response, nil
}

// ownResponse returns the error for a response that the proxy made itself, or nil if it is the API's or nothing tells it.
func (up *upstream) ownResponse(ctx context.Context, proxy *url.URL, target string, a answer) *Error {
	if a.status == http.StatusProxyAuthRequired {
		return refusal(OpForward, proxy, target, a)
	}
	if own, ok := recognize(a); ok {
		return own.forwardError(proxy, target, a)
	}
	if _, download := downloadOf(ctx); download || a.isOrigin() || a.isErrorObject() {
		return nil
	}
	// Nothing in the response tells it. The proxy's response to CONNECT may: the API never sees that one.
	conn, asked, err := up.askCONNECT(ctx, proxy, target, min(explainTimeout, up.conf.ConnectTimeout))
	if err != nil {
		return nil
	}
	same := asked.status == a.status && bytes.Equal(asked.page, a.page)
	switch {
	case conn != nil:
		defer conn.Close()
		if a.isGatewayError() && closesWithin(ctx, conn, closedAfter) {
			// It may have lost the API only after it had forwarded the request.
			return forwarded(refusal(OpForward, proxy, target, a), true)
		}
		if isPage(asked) && !a.isJSON() {
			return forwarded(webServer(OpForward, proxy, target, a), a.status < 300)
		}
	case asked.isWebServer() && (same || !a.isJSON() && !a.isGatewayError()) && a.header.Get("Via") == "":
		return forwarded(webServer(OpForward, proxy, target, a), a.status < 300)
	case same, asked.status >= 500 && a.isGatewayError():
		return forwarded(refusal(OpForward, proxy, target, a), a.status >= 500)
	}
	return nil
}

// forwarded sets whether the proxy may have forwarded the request.
func forwarded(e *Error, maybe bool) *Error {
	e.Sent = maybe
	return e
}

// closesWithin reports whether a new tunnel is closed within a time, before its other end sends a byte.
func closesWithin(ctx context.Context, conn net.Conn, limit time.Duration) bool {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	_ = conn.SetReadDeadline(time.Now().Add(limit))
	_, err := conn.Read(make([]byte, 1))
	timeout, ok := errors.AsType[net.Error](err)
	return err != nil && (!ok || !timeout.Timeout())
}

// forwardedBody is the body of a response whose beginning was read.
type forwardedBody struct {
	io.Reader
	io.Closer
	doubt string
}

// maxPage is how much of a page is read to recognize it, in bytes.
const maxPage = 8 << 10

// peek reads the beginning of a body, and returns it and a reader of the whole body.
func peek(body io.Reader) (page []byte, whole io.Reader) {
	page, err := io.ReadAll(io.LimitReader(body, maxPage))
	if err != nil { // it is met again by the reader of the whole body
		return page, io.MultiReader(bytes.NewReader(page), failing{err})
	}
	return page, io.MultiReader(bytes.NewReader(page), body)
}

// failing is a reader that fails.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// Doubt returns the proxy that may have made an error response instead of the API, without its login, where nothing tells which of them
// did. It is empty if the API made it.
func Doubt(response *http.Response) string {
	if body, ok := response.Body.(*responseBody); ok {
		return body.doubt
	}
	return ""
}

// tunnelError completes the error of a TLS handshake through a proxy by what came through its tunnel.
func tunnelError(e *Error, raw net.Conn) *Error {
	t, ok := raw.(*tunnel)
	switch {
	case !ok || e.Proxy == "":
	case !t.began && tlsCode(e.Err) == task.CodeTLSReset:
		e.Op, e.code = OpConnect, task.CodeProxyTunnelClosed
		e.Err = fmt.Errorf("the proxy opened the tunnel and closed it before the API sent a byte: %w", e.Err)
	case t.page && tlsCode(e.Err) == task.CodeTLSNotSpoken:
		e.Op, e.code = OpConnect, task.CodeProxyNoProxy
		e.Err = errors.New("a web server responded to CONNECT with a page")
	}
	return e
}

// Closed returns the error of a proxy that closed the connection for a plain http request to u before a byte of the response, err, or nil without
// a proxy. Only who knows that the request needs no work can tell this from an API that broke the connection. The request may have been sent.
func (t *Transport) Closed(u *url.URL, err error) *Error {
	proxy, _ := t.upstreams()[0].route.choose(u)
	if proxy == nil {
		return nil
	}
	e := newError(OpForward, proxy, hostPort(u), fmt.Errorf("the proxy closed the connection without a response: %w", err))
	e.code, e.Sent = task.CodeProxyFailed, true
	if strings.HasPrefix(proxy.Scheme, "socks") {
		e.Op, e.code = OpConnect, task.CodeProxyTunnelClosed
		e.Err = fmt.Errorf("the proxy opened the tunnel and closed it before the API sent a byte: %w", err)
	}
	return e
}

// redirectHost returns the host that a response redirects to, or "".
func redirectHost(h http.Header) string {
	u, err := url.Parse(h.Get("Location"))
	if err != nil {
		return ""
	}
	host := u.Hostname()
	return strings.ToValidUTF8(host[:min(len(host), 100)], "?")
}
