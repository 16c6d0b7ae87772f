// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"

	"github.com/synward/synward/pkg/feed"
)

// ParsePrefix reads an address or a prefix, as feed.ParsePrefix does. Errors wrap ErrInvalid.
func ParsePrefix(s string) (netip.Prefix, error) {
	p, err := feed.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%w %w", ErrInvalid, err)
	}
	return p, nil
}

// ParseAddr reads one address, under the rules of ParsePrefix.
func ParseAddr(s string) (netip.Addr, error) {
	what := fmt.Sprintf("address %q", s)
	if err := feed.ZoneError(s); err != nil {
		return netip.Addr{}, invalid(what, "%v", err)
	}
	addr, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}, invalid(what, "write one IPv4 or IPv6 address, as in 192.0.2.1 (names are not looked up)")
	}
	return addr.Unmap(), nil
}

// FormatPrefix is the shortest form that ParsePrefix reads back: a host without its length.
func FormatPrefix(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}
