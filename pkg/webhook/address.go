package webhook

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"unicode"

	"golang.org/x/net/idna"

	"imagetasks/pkg/netaddr"
)

// Hosts are the hosts that a task may name in options.webhook_url.
type Hosts []allowedHost

type allowedHost struct {
	name       string // in lower case
	subdomains bool   // of name, not name itself
	port       string // empty: that of the scheme
}

// ParseHosts parses hosts separated by commas or white space: hooks.example.com, hooks.example.com:8443, or *.example.com for each subdomain.
// Without a port they stand for that of the scheme.
func ParseHosts(text string) (Hosts, error) {
	var out Hosts
	for _, word := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' || unicode.IsSpace(r) }) {
		h := allowedHost{}
		name := word
		if strings.Contains(word, "/") || strings.Contains(word, "@") {
			return nil, fmt.Errorf("%q is not a host; write hooks.example.com, without a scheme or a path", word)
		}
		if host, port, err := net.SplitHostPort(word); err == nil {
			if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
				return nil, fmt.Errorf("the port of %q must be a number from 1 to 65535", word)
			}
			name, h.port = host, port
		}
		name = strings.Trim(name, "[]")
		if rest, ok := strings.CutPrefix(name, "*."); ok {
			name, h.subdomains = rest, true
			if !strings.Contains(rest, ".") {
				return nil, fmt.Errorf("%q would allow every host of a top-level domain; write *.example.com", word)
			}
		}
		if strings.Contains(name, "*") {
			return nil, fmt.Errorf("%q has a * in the wrong place; write *.example.com for each subdomain", word)
		}
		ascii, err := asciiHost(name)
		if err != nil || ascii == "" {
			return nil, fmt.Errorf("%q is not a host", word)
		}
		h.name = ascii
		out = append(out, h)
	}
	return out, nil
}

// allow reports whether u is at one of the hosts.
func (hosts Hosts) allow(u *url.URL) bool {
	name, port := plainHost(u), portOf(u)
	for _, h := range hosts {
		wanted := h.port
		if wanted == "" {
			wanted = defaultPort(u.Scheme)
		}
		if port != wanted {
			continue
		}
		if !h.subdomains && name == h.name || h.subdomains && strings.HasSuffix(name, "."+h.name) {
			return true
		}
	}
	return false
}

func plainHost(u *url.URL) string { return strings.ToLower(strings.TrimSuffix(u.Hostname(), ".")) }

func portOf(u *url.URL) string {
	if port := u.Port(); port != "" {
		return port
	}
	return defaultPort(u.Scheme)
}

func defaultPort(scheme string) string {
	if scheme == "http" {
		return "80"
	}
	return "443"
}

// asciiHost returns a host in lower case and as it is looked up.
func asciiHost(host string) (string, error) {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if strings.ContainsFunc(host, func(r rune) bool { return r >= 0x80 }) {
		return idna.Lookup.ToASCII(host)
	}
	if strings.Contains(host, ":") {
		_, err := netip.ParseAddr(host)
		return host, err
	}
	if strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || r == 0x7f || strings.ContainsRune(`/\@?#:%`, r) }) {
		return "", errors.New("a character that no host has")
	}
	return host, nil
}

// parseURL parses the URL of a receiver. Its errors name nothing of the URL but its scheme.
func parseURL(address string) (*url.URL, error) {
	u, err := url.Parse(strings.TrimSpace(address))
	switch {
	case err != nil || u.Opaque != "":
		return nil, errors.New("the URL can't be parsed")
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, errors.New("the URL must begin with https:// or http://")
	case u.Hostname() == "":
		return nil, errors.New("the URL has no host")
	}
	ascii, err := asciiHost(u.Hostname())
	if err != nil {
		return nil, errors.New("the host of the URL can't be used")
	}
	port := u.Port()
	switch {
	case port != "":
		u.Host = net.JoinHostPort(ascii, port)
	case strings.Contains(ascii, ":"):
		u.Host = "[" + ascii + "]"
	default:
		u.Host = ascii
	}
	u.Fragment, u.RawFragment = "", ""
	return u, nil
}

// errPrivate refuses a host that is not on the public Internet.
var errPrivate = errors.New("the host is not on the public Internet; COMPLETION_WEBHOOK_ALLOW_PRIVATE=on allows that")

// checkHost returns errPrivate for a host that is not on the public Internet, unless that is allowed.
func (c *Config) checkHost(u *url.URL) error {
	if !c.AllowPrivate && netaddr.IsPrivateHost(plainHost(u)) {
		return errPrivate
	}
	return nil
}

// checkAddr refuses the addresses that a name may not be resolved to.
func checkAddr(addr netip.Addr) error {
	if netaddr.CheckResolved(addr) != nil {
		return errors.New("the name of the host was resolved to an address that is not on the public Internet; COMPLETION_WEBHOOK_ALLOW_PRIVATE=on allows that")
	}
	return nil
}
