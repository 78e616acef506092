package netaddr_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"

	"imagetasks/pkg/netaddr"
)

func TestCheckResolved(t *testing.T) {
	for address, allowed := range map[string]bool{
		"8.8.8.8": true, "198.18.0.5": true, "198.19.255.255": true, "2606:4700::1111": true, "64:ff9b::808:808": true,
		"10.1.2.3": false, "127.0.0.1": false, "169.254.169.254": false, "100.64.0.1": false, "::1": false, "fe80::1": false, "fd00::1": false,
		"::ffff:10.0.0.1": false, "64:ff9b::a00:1": false, "0.0.0.0": false, "224.0.0.1": false, "198.20.0.1": true,
	} {
		assert.Equal(t, allowed, netaddr.CheckResolved(netip.MustParseAddr(address)) == nil, address)
	}
}
