// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"net/netip"
	"testing"
)

func TestOperatorLockoutSaysTheWayOut(t *testing.T) {
	own := Operator{Peer: netip.MustParseAddrPort("192.0.2.7:50000"), Local: netip.MustParseAddrPort("198.51.100.1:2222"), Own: true, Who: "root@pts/0"}
	other := Operator{Peer: netip.MustParseAddrPort("[2001:db8::7]:50000"), Local: netip.MustParseAddrPort("[2001:db8::1]:22"), Who: "alice@notty", Netns: "blue"}
	ops := []Operator{own, other}
	prefixes := func(list ...string) (out []netip.Prefix) {
		for _, p := range list {
			out = append(out, netip.MustParsePrefix(p))
		}
		return out
	}
	for _, c := range []struct {
		prefixes []netip.Prefix
		allowed  func(netip.Addr) bool
		want     string
	}{
		{prefixes("198.51.100.0/24", "192.0.2.0/24", "::/0"), nil,
			"refused: this would lock out 192.0.2.7 (your own SSH session, to port 2222): blocked by 192.0.2.0/24; go on with --force, or first: synward allow add 192.0.2.7"},
		{prefixes("192.0.2.0/24", "::/0"), netip.Addr.Is4,
			"refused: this would lock out 2001:db8::7 (SSH session of alice@notty, to port 22 in namespace blue): blocked by ::/0; go on with --force, or first: synward allow add 2001:db8::7"},
		{prefixes("0.0.0.0/0", "::/0"), func(netip.Addr) bool { return true }, ""},
		{prefixes("192.0.2.8/32", "2001:db8::8/128"), nil, ""},
		{nil, nil, ""},
	} {
		err := GuardBlock(ops, c.prefixes, c.allowed)
		if c.want == "" {
			if err != nil {
				t.Errorf("%v: %v", c.prefixes, err)
			}
			continue
		}
		var lockout Lockout
		if err == nil || err.Error() != c.want || !errors.Is(err, ErrRefused) || !errors.As(err, &lockout) {
			t.Errorf("%v: %v, want %s", c.prefixes, err, c.want)
		}
	}
}
