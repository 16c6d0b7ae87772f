// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"
	"strings"
)

// ParsePrefix reads an address or a prefix of either family. An address is the prefix of that one
// host. IPv4 written as IPv6 (::ffff:192.0.2.1) becomes IPv4. Host bits and zones are refused.
// Errors wrap ErrInvalid.
func ParsePrefix(s string) (netip.Prefix, error) {
	what := fmt.Sprintf("prefix %q", s)
	if err := refuseZone(what, s); err != nil {
		return netip.Prefix{}, err
	}
	if !strings.Contains(s, "/") {
		addr, err := netip.ParseAddr(s)
		if err != nil {
			return netip.Prefix{}, invalid(what, "write an address or a prefix, as in 192.0.2.1 or 2001:db8::/32 (names are not looked up)")
		}
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	prefix, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, invalid(what, "write an address or a prefix, as in 192.0.2.0/24 or 2001:db8::/32")
	}
	prefix = unmap(prefix)
	if masked := prefix.Masked(); masked != prefix {
		return netip.Prefix{}, invalid(what, "it has host bits set; use %s for the network or %s for the host",
			masked, prefix.Addr().Unmap())
	}
	return prefix, nil
}

// ParseAddr reads one address, under the rules of ParsePrefix.
func ParseAddr(s string) (netip.Addr, error) {
	what := fmt.Sprintf("address %q", s)
	if err := refuseZone(what, s); err != nil {
		return netip.Addr{}, err
	}
	addr, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}, invalid(what, "write one IPv4 or IPv6 address, as in 192.0.2.1 (names are not looked up)")
	}
	return addr.Unmap(), nil
}

// refuseZone returns an error if s names an interface, as in fe80::1%eth0.
func refuseZone(what, s string) error {
	_, zone, found := strings.Cut(s, "%")
	if !found {
		return nil
	}
	zone, _, _ = strings.Cut(zone, "/")
	return invalid(what, "an address is judged on every interface; leave out %%%s", zone)
}

// FormatPrefix is the shortest form that ParsePrefix reads back: a host without its length.
func FormatPrefix(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// unmap turns a prefix within ::ffff:0:0/96 into IPv4; any other stays.
func unmap(p netip.Prefix) netip.Prefix {
	const mappedBits = 96
	if !p.Addr().Is4In6() || p.Bits() < mappedBits {
		return p
	}
	return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-mappedBits)
}
