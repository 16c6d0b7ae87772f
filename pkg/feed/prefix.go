// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// ParsePrefix reads an address or a prefix of either family. An address is the prefix of that one host.
// IPv4 written as IPv6 (::ffff:192.0.2.1) becomes IPv4. Host bits and zones are refused. An error is one line:
// what was written, why it is refused, and the way out.
func ParsePrefix(s string) (netip.Prefix, error) {
	if strings.IndexByte(s, '%') >= 0 {
		return netip.Prefix{}, fmt.Errorf("prefix %q: %w", s, ZoneError(s))
	}
	if strings.IndexByte(s, '/') < 0 {
		addr, err := netip.ParseAddr(s)
		if err != nil {
			return netip.Prefix{}, fmt.Errorf("prefix %q: write an address or a prefix, as in 192.0.2.1 or 2001:db8::/32 (names are not looked up)", s)
		}
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	prefix, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("prefix %q: write an address or a prefix, as in 192.0.2.0/24 or 2001:db8::/32", s)
	}
	return whole(s, Unmap(prefix))
}

// whole refuses host bits.
func whole(s string, p netip.Prefix) (netip.Prefix, error) {
	if masked := p.Masked(); masked != p {
		return netip.Prefix{}, fmt.Errorf("prefix %q: it has host bits set; use %s for the network or %s for the host",
			s, masked, p.Addr().Unmap())
	}
	return p, nil
}

// ZoneError is why an address that names an interface, as in fe80::1%eth0, is refused; nil for any other.
func ZoneError(s string) error {
	_, zone, found := strings.Cut(s, "%")
	if !found {
		return nil
	}
	zone, _, _ = strings.Cut(zone, "/")
	quoted := strconv.Quote(zone) // what a terminal might take as a command
	return fmt.Errorf("an address is judged on every interface; leave out %%%s", quoted[1:len(quoted)-1])
}

// Unmap turns a prefix within ::ffff:0:0/96 into IPv4; any other stays.
func Unmap(p netip.Prefix) netip.Prefix {
	const mappedBits = 96
	if !p.Addr().Is4In6() || p.Bits() < mappedBits {
		return p
	}
	return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-mappedBits)
}
