package proxy

import (
	"net"
	"net/url"
	"strings"
	"unicode"
)

// normalizeNoProxy returns a list for package httpproxy that matches what curl matches: entries are separated by commas or white space, a
// leading dot matches the name itself too, a trailing dot means nothing, and an IPv6 address may be in brackets.
func normalizeNoProxy(list string) string {
	entries := strings.FieldsFunc(list, func(r rune) bool { return r == ',' || unicode.IsSpace(r) })
	out := entries[:0]
	for _, entry := range entries {
		host, port := entry, ""
		if bare, ok := strings.CutPrefix(entry, "["); ok && strings.HasSuffix(bare, "]") {
			host = strings.TrimSuffix(bare, "]") // an IPv6 address as in a URL
		}
		if h, p, err := net.SplitHostPort(entry); err == nil && !strings.HasPrefix(entry, "[") {
			host, port = h, ":"+p
		}
		if host = strings.Trim(host, "."); host != "" {
			out = append(out, host+port)
		}
	}
	return strings.Join(out, ",")
}

// withoutFinalDot returns u without the dot at the end of a host name such as "api.example.", as httpproxy compares names.
func withoutFinalDot(u *url.URL) *url.URL {
	host := u.Hostname()
	if !strings.HasSuffix(host, ".") || strings.Contains(host, ":") {
		return u
	}
	out := *u
	out.Host = strings.TrimRight(host, ".")
	if port := u.Port(); port != "" {
		out.Host = net.JoinHostPort(out.Host, port)
	}
	return &out
}
