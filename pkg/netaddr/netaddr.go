// Package netaddr tells hosts and addresses on the public Internet from those of this host and of private networks, to which no request is sent
// that somebody else chose the URL of.
package netaddr

import (
	"errors"
	"net/netip"
	"slices"
	"strings"

	"imagetasks/pkg/pattern"
)

// numericLabel is the last label of a host that resolvers may read as an IPv4 address, such as 127.1 or 0x7f000001.
var numericLabel = pattern.New(`(^|\.)([0-9]+|0x[0-9a-f]*)$`)

// privateNames are parents of names for a host itself and for private networks.
var privateNames = []string{"localhost", "local", "internal", "lan", "arpa", "localdomain", "localdomain6"}

// privateNetworks are the networks that netip.Addr has no method for, among them those that embed an IPv4 address.
var privateNetworks = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("::/96"),
	netip.MustParsePrefix("64:ff9b::/96"),
	netip.MustParsePrefix("64:ff9b:1::/48"),
	netip.MustParsePrefix("2002::/16"),
	netip.MustParsePrefix("fec0::/10"),
}

// IsPrivateHost reports whether a host, in lower case, is an address or a name that is not on the public Internet.
func IsPrivateHost(host string) bool {
	addr, err := netip.ParseAddr(host)
	if err != nil {
		dot := strings.LastIndexByte(host, '.')
		if dot < 0 {
			return true // such as ip6-localhost, or that of a container; a proxy may resolve it
		}
		last := host[dot+1:]
		return numericLabel().MatchString(host) || slices.Contains(privateNames, last)
	}
	addr = addr.Unmap().WithZone("")
	return !addr.IsGlobalUnicast() || addr.IsPrivate() ||
		slices.ContainsFunc(privateNetworks, func(network netip.Prefix) bool { return network.Contains(addr) })
}

// fakeNetwork has the addresses that Clash and its like answer DNS queries with: a connection to one goes to the host that was asked for.
var fakeNetwork = netip.MustParsePrefix("198.18.0.0/15")

// translatedNetwork has the addresses that stand for IPv4 addresses where there is only IPv6 (RFC 6052).
var translatedNetwork = netip.MustParsePrefix("64:ff9b::/96")

// CheckResolved returns an error for an address that a public name must not be resolved to.
func CheckResolved(addr netip.Addr) error {
	addr = addr.Unmap().WithZone("")
	if translatedNetwork.Contains(addr) {
		whole := addr.As16()
		addr = netip.AddrFrom4([4]byte(whole[12:]))
	}
	if !fakeNetwork.Contains(addr) && IsPrivateHost(addr.String()) {
		return errors.New("its name was resolved to an address that is not on the public Internet")
	}
	return nil
}
