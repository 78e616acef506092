// Package proxy connects to the API. Its Transport sends requests through the first working proxy of the settings, or
// directly if no proxy is set. A proxy that is set and doesn't work is an error that names it, never a direct connection.
package proxy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpproxy"

	"imagetasks/pkg/redact"
	"imagetasks/pkg/settings"
	"imagetasks/pkg/task"
)

// Env holds the proxy settings. Each is empty if unset.
type Env struct {
	OpenAI []string // in order of preference; if set, the others are ignored, for every host, loopback included
	HTTPS  string   // for https URLs
	HTTP   string   // for http URLs
	All    string   // used if HTTPS or HTTP is empty
	No     string   // hosts that HTTPS, HTTP and All don't apply to
}

// Parse parses a proxy URL: http, https, socks5 or socks5h, with or without a login. host:port
// without a scheme is an http proxy, as in curl. The errors don't quote the text, which may hold a password.
func Parse(text string) (*url.URL, error) {
	text = strings.TrimSpace(text)
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	if err := checkKind(text); err != nil {
		return nil, err
	}
	u, err := url.Parse(text)
	if err != nil {
		return nil, errors.New("not a URL; a proxy looks like http://user:password@host:port " +
			"(write special characters of the password as %XX)")
	}
	u.Scheme = strings.ToLower(u.Scheme)
	ports := map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}
	port, known := ports[u.Scheme]
	switch {
	case !known:
		return nil, fmt.Errorf("unknown kind of proxy %q; use http, https, socks5 or socks5h", u.Scheme)
	case u.Hostname() == "" || strings.ContainsAny(u.Hostname(), " \t/\\@,;") || !isHost(u.Hostname()):
		return nil, errors.New("it has no host; a proxy looks like http://host:port")
	case (u.Path != "" && u.Path != "/") || u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("a proxy has no path, query or fragment; it looks like http://host:port")
	}
	if u.Port() != "" {
		port = u.Port()
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return nil, errors.New("the port must be a number from 1 to 65535")
	}
	if password, _ := u.User.Password(); strings.HasPrefix(u.Scheme, "socks5") &&
		(len(u.User.Username()) > 255 || len(password) > 255) {
		return nil, errors.New("the user and password of a SOCKS proxy have at most 255 bytes each")
	}
	u.Host = net.JoinHostPort(u.Hostname(), port)
	u.Path = ""
	return u, nil
}

// isHost reports whether a host with colons is an IPv6 address.
func isHost(host string) bool {
	if !strings.Contains(host, ":") {
		return true
	}
	_, err := netip.ParseAddr(host)
	return err == nil
}

// route returns the proxy for a request to a URL; nil: none.
type route func(*url.URL) (*url.URL, error)

// configuredRoute is a route and the settings that it comes from, logins included: routes of the same settings are the same.
type configuredRoute struct {
	choose   route
	settings string
}

// newRoutes returns the routes of env in order of preference. It checks every proxy URL, so that an invalid one is refused
// at start and not at the first request that uses it. Its error holds a *settings.Error for each.
func newRoutes(env Env) ([]configuredRoute, error) {
	var errs []error
	check := func(name, text string) *url.URL {
		if strings.TrimSpace(text) == "" {
			return nil
		}
		u, err := Parse(text)
		if err != nil {
			errs = append(errs, &settings.Error{Name: name, Reason: err.Error()})
		}
		return u
	}
	var listed []configuredRoute
	known := map[string]bool{}
	for i, text := range env.OpenAI {
		name := "OPENAI_PROXY"
		if len(env.OpenAI) > 1 {
			name = fmt.Sprintf("OPENAI_PROXY (proxy %d of %d)", i+1, len(env.OpenAI))
		}
		if u := check(name, text); u != nil && !known[u.String()] {
			known[u.String()] = true
			listed = append(listed, configuredRoute{func(*url.URL) (*url.URL, error) { return u, nil }, u.String()})
		}
	}
	https, http, all := check("HTTPS_PROXY", env.HTTPS), check("HTTP_PROXY", env.HTTP), check("ALL_PROXY", env.All)
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if len(listed) > 0 {
		return listed, nil
	}
	config := httpproxy.Config{HTTPSProxy: firstOf(https, all), HTTPProxy: firstOf(http, all), NoProxy: normalizeNoProxy(env.No)}
	choose := config.ProxyFunc()
	return []configuredRoute{{func(u *url.URL) (*url.URL, error) {
		p, err := choose(withoutFinalDot(u))
		if err != nil || p == nil {
			return nil, err
		}
		return Parse(p.String())
	}, strings.Join([]string{"by scheme", config.HTTPSProxy, config.HTTPProxy, config.NoProxy}, "\n")}}, nil
}

// firstOf returns the first URL that is not nil, as text.
func firstOf(urls ...*url.URL) string {
	for _, u := range urls {
		if u != nil {
			return u.String()
		}
	}
	return ""
}

// Op is a step of making a connection.
type Op string

// The steps, in order.
const (
	OpResolve Op = "look up"  // DNS, before a socks5 proxy is given an address
	OpDial    Op = "reach"    // TCP to the proxy, or to the API without a proxy
	OpProxy   Op = "TLS with" // the TLS handshake with an https proxy
	OpConnect Op = "ask"      // CONNECT or SOCKS
	OpTLS     Op = "TLS to"   // the TLS handshake with the API
	OpForward Op = "forward"  // a plain request that the proxy forwards
)

// Error is a failure to make a connection, or a proxy's own response to a request that it was to forward. Unless Sent is set, the request
// did not reach the API.
type Error struct {
	Op     Op
	Proxy  string // its URL without the login; empty: a direct connection
	Login  bool   // whether the proxy's URL has a login
	Target string // host:port of the API
	Status int    // of the proxy's response to CONNECT or to a plain request; 0: none
	Sent   bool   // the proxy may have forwarded the request before it failed: the outcome is unknown
	Err    error

	code task.Code // if not empty, it is known without looking at Err
}

// Error returns a message with the proxy and the target, without a login.
func (e *Error) Error() string {
	via := "without a proxy"
	if e.Proxy != "" {
		via = "proxy " + e.Proxy
	}
	switch {
	case e.Op == OpTLS:
		return fmt.Sprintf("TLS handshake with %s (%s): %v", e.Target, via, e.Err)
	case e.Op == OpProxy:
		return fmt.Sprintf("TLS handshake with %s: %v", via, e.Err)
	case e.Op == OpResolve:
		return fmt.Sprintf("look up %s for %s: %v", e.Target, via, e.Err)
	case e.Proxy == "":
		return fmt.Sprintf("connect to %s without a proxy: %v", e.Target, e.Err)
	case e.Op == OpDial:
		return fmt.Sprintf("%s is unreachable: %v", via, e.Err)
	case e.Op == OpForward:
		return fmt.Sprintf("%s, request to %s: %v", via, e.Target, e.Err)
	}
	return fmt.Sprintf("%s, tunnel to %s: %v", via, e.Target, e.Err)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Timeout reports whether a time limit was exceeded.
func (e *Error) Timeout() bool {
	var timeout interface{ Timeout() bool }
	return errors.As(e.Err, &timeout) && timeout.Timeout()
}

// IsProxy reports whether the proxy itself could not be used, so that requests to every host fail. Other errors may be the
// target's: a proxy that can't reach one host may reach another.
func (e *Error) IsProxy() bool {
	switch e.Op {
	case OpDial:
		return e.Proxy != ""
	case OpProxy:
		return true
	case OpConnect, OpForward:
		switch e.Code() {
		case task.CodeProxyLoginMissing, task.CodeProxyLoginRefused, task.CodeProxyNoProxy, task.CodeProxyNeedsTLS, task.CodeProxyTLSRefused:
			return true
		}
	}
	return false
}

func newError(op Op, proxy *url.URL, target string, err error) *Error {
	return &Error{Op: op, Proxy: redact.URL(proxy), Login: proxy != nil && proxy.User != nil, Target: target, Err: err}
}
