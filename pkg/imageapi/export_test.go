package imageapi

import "net/netip"

// CheckResolved is checkResolved of an address.
func CheckResolved(address string) error { return checkResolved(netip.MustParseAddr(address)) }
